package httpapi

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/rlstore/rlstore/api"
)

// FuzzParseTake: what the parser by hand takes, the strict decoder takes as the
// same; nothing else gets past it.
func FuzzParseTake(f *testing.F) {
	for _, s := range jsonSeeds {
		f.Add([]byte(s))
	}
	for _, s := range []string{
		`{"policy":"api","key":"k"}`, ` { "key" : "ключ" , "cost" : 12 } `, `{"cost":01}`, `{"cost":-0}`, `{"cost":1e3}`,
		`{"cost":999999999999999999}`, `{"cost":9223372036854775807}`, `{"key":"a","key":"a"}`, `{"key":"a",}`, `{}`, `{"key":"a"}x`,
		"{\"key\":\"\xff\"}", "{\"key\":\"a\tb\"}", `{"request_id":""}`, `{"Key":"a"}`, `{"key":null}`, "{\"key\":\"\u2028\x7f\"}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var plain, slow takeRequest
		if !parseTake(body, &plain) {
			return
		}
		if err := decodeSlowly(body, &slow); err != nil || !reflect.DeepEqual(plain, slow) {
			t.Fatalf("%q is parsed as %+v, and decoded as %+v, %v", body, plain, slow, err)
		}
	})
}

func TestPlainTakesAreParsedByHand(t *testing.T) {
	for body, plain := range map[string]bool{
		`{"policy":"api","key":"user:42"}`:                              true,
		`{"policy":"api","key":"user:42","cost":1,"request_id":"9f0c"}`: true,
		"{\n  \"key\": \"ключ\",\n  \"cost\": 0\n}\n":                   true,
		`{"policy":"api","key":"a\u0062"}`:                              false,
		`{"key":"k","limits":[]}`:                                       false,
		`{"key":"k","cost":1000000000000000000}`:                        false,
		`{"policy":"api","key":"user:42","cost":1.0}`:                   false,
		`{"policy":"api","key":"user:42","policy":"api"}`:               false,
		`{"policy":"api","key":"user:42"} {}`:                           false,
		`{"policy":"api","key":"user:42","max_wait_ms":5}`:              false,
		`["policy"]`: false,
		``:           false,
	} {
		if got := parseTake([]byte(body), new(takeRequest)); got != plain {
			t.Errorf("%s: parsed by hand: %v", body, got)
		}
	}
}

// A decision is written by hand as encoding/json writes it, whatever is in it.
// A new field of [api.Decision] fails this test until it is written, too.
func TestDecisionsAreWrittenAsEncodingJSONWritesThem(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 5000 {
		var d api.Decision
		fill(rng, reflect.ValueOf(&d).Elem())
		if got, want := appendDecision(nil, &d), encode(&d); !bytes.Equal(got, want) {
			t.Fatalf("seed %d: %+v:\n got %s\nwant %s", seed, d, got, want)
		}
	}
}

// fill sets every field that v has, to any depth.
func fill(rng *rand.Rand, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(rng, v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), rng.IntN(4), 4))
		for i := range v.Len() {
			fill(rng, v.Index(i))
		}
	case reflect.Pointer:
		if rng.IntN(4) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(rng, v.Elem())
		}
	case reflect.String:
		pieces := []string{"user:42", "", `"`, `\`, "<&>", "\n", "\x00", "\x7f", "é", "\u2028", "\xff", "😀", "burst"}
		var s strings.Builder
		for range rng.IntN(4) {
			s.WriteString(pieces[rng.IntN(len(pieces))])
		}
		v.SetString(s.String())
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int64:
		v.SetInt(int64(rng.Uint64()) >> rng.IntN(64))
	case reflect.Uint32:
		v.SetUint(uint64(rng.Uint32() >> rng.IntN(32)))
	case reflect.Uint64:
		v.SetUint(rng.Uint64() >> rng.IntN(64))
	default:
		panic(fmt.Sprintf("cannot fill a %v", v.Type()))
	}
}
