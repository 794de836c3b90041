package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rlstore/rlstore/api"
)

// decodeJSON reads body into v, a pointer to a struct, and refuses what
// encoding/json would pass over in silence: unknown fields, also those that
// differ in case only, fields given twice, null, text that is not UTF-8, and
// anything behind the value. Its errors name the field.
//
// What it decodes may alias body.
func decodeJSON(body []byte, v any) error {
	if t, ok := v.(*takeRequest); ok {
		if parseTake(body, t) {
			return nil
		}
		*t = takeRequest{}
	}
	return decodeSlowly(body, v)
}

// decodeSlowly is decodeJSON for every type and every body.
func decodeSlowly(body []byte, v any) error {
	if strings.TrimLeft(string(body[:min(len(body), 64)]), " \t\r\n") == "" && len(body) <= 64 {
		return api.NewProblem(api.InvalidRequest, "the body is empty; it needs a JSON object")
	}
	if !utf8.Valid(body) {
		return api.NewProblem(api.InvalidRequest, "the body is not UTF-8")
	}
	// The syntax first: the walk below relies on it.
	var syntax *json.SyntaxError
	if err := json.Unmarshal(body, new(json.RawMessage)); errors.As(err, &syntax) {
		return api.NewProblem(api.InvalidRequest, "the body is not valid JSON: %v, at byte %d", syntax, syntax.Offset)
	} else if err != nil {
		return api.NewProblem(api.InvalidRequest, "the body is not valid JSON: %v", err)
	}
	w := walker{b: body}
	if err := w.value(reflect.TypeOf(v).Elem(), ""); err != nil {
		return api.NewProblem(api.InvalidRequest, "%v", err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return api.NewProblem(api.InvalidRequest, "%v", err)
	}
	return nil
}

// walker compares valid JSON with the Go type it is meant for.
type walker struct {
	b []byte
	i int
}

var rawMessage = reflect.TypeFor[json.RawMessage]()

// value walks over one value at path, meant for t; a nil t takes any value.
func (w *walker) value(t reflect.Type, path string) error {
	w.space()
	if t == rawMessage {
		if w.b[w.i] == 'n' {
			return fmt.Errorf("%s: null is not a value here; leave the field out", name(path))
		}
		t = nil // whoever reads it is strict on its own
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	start := w.i
	switch c := w.b[w.i]; c {
	case '{':
		if t != nil && t.Kind() != reflect.Struct {
			return mismatch(t, path, "an object")
		}
		return w.object(t, path)
	case '[':
		var elem reflect.Type
		if t != nil {
			if t.Kind() != reflect.Slice {
				return mismatch(t, path, "an array")
			}
			elem = t.Elem()
		}
		return w.array(elem, path)
	case '"':
		if t != nil && t.Kind() != reflect.String {
			return mismatch(t, path, "a string")
		}
		_, err := w.text(path)
		return err
	case 't', 'f':
		if t != nil && t.Kind() != reflect.Bool {
			return mismatch(t, path, "a boolean")
		}
		w.scalar()
	case 'n':
		if t != nil {
			return fmt.Errorf("%s: null is not a value here; leave the field out", name(path))
		}
		w.scalar()
	default:
		w.scalar()
		if t == nil {
			return nil
		}
		num := w.b[start:w.i]
		if t.Kind() != reflect.Int64 {
			return mismatch(t, path, "a number")
		}
		if _, err := strconv.ParseInt(string(num), 10, 64); err != nil {
			if errors.Is(err, strconv.ErrRange) {
				return fmt.Errorf("%s: %.40s is out of range", name(path), num)
			}
			return fmt.Errorf("%s: %.40s is not a whole number", name(path), num)
		}
	}
	return nil
}

func (w *walker) object(t reflect.Type, path string) error {
	w.i++ // {
	var seen uint64
	for {
		if w.space(); w.b[w.i] == '}' {
			w.i++
			return nil
		}
		if w.b[w.i] == ',' {
			w.i++
			w.space()
		}
		key, err := w.text(path)
		if err != nil {
			return err
		}
		w.space()
		w.i++ // :
		var ft reflect.Type
		if t != nil {
			n, ok := fieldOf(t, key)
			if !ok {
				there := "there are none"
				if names := fieldNames(t); len(names) > 0 {
					there = "there are " + strings.Join(names, ", ")
				}
				return fmt.Errorf("%s: there is no such field here; %s", name(join(path, key)), there)
			}
			if seen&(1<<n) != 0 {
				return fmt.Errorf("%s: the field is given twice", name(join(path, key)))
			}
			seen |= 1 << n
			ft = t.Field(n).Type
			path := join(path, key)
			if err := w.value(ft, path); err != nil {
				return err
			}
			continue
		}
		if err := w.value(nil, path); err != nil {
			return err
		}
	}
}

func (w *walker) array(elem reflect.Type, path string) error {
	w.i++ // [
	for n := 0; ; n++ {
		if w.space(); w.b[w.i] == ']' {
			w.i++
			return nil
		}
		if w.b[w.i] == ',' {
			w.i++
		}
		at := path
		if elem != nil {
			at = path + "[" + strconv.Itoa(n) + "]"
		}
		if err := w.value(elem, at); err != nil {
			return err
		}
	}
}

// text walks over a string and returns it. A surrogate without its other half
// is refused: decoded, it would become another character, and different keys
// the same.
func (w *walker) text(path string) (string, error) {
	start := w.i
	escaped := false
	for w.i++; w.b[w.i] != '"'; w.i++ {
		if w.b[w.i] != '\\' {
			continue
		}
		escaped = true
		w.i++
		if w.b[w.i] != 'u' {
			continue
		}
		r := w.hex()
		if r < 0xd800 || r > 0xdfff {
			continue
		}
		paired := false
		if r < 0xdc00 && w.b[w.i+1] == '\\' && w.b[w.i+2] == 'u' {
			w.i += 2
			low := w.hex()
			paired = low >= 0xdc00 && low <= 0xdfff
		}
		if !paired {
			return "", fmt.Errorf("%s: the text has half of a surrogate pair, which is not a character", name(path))
		}
	}
	w.i++
	raw := w.b[start:w.i]
	if !escaped {
		return string(raw[1 : len(raw)-1]), nil
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err
}

// hex reads the four digits behind the u at w.i, and stands on the last.
func (w *walker) hex() uint64 {
	v, _ := strconv.ParseUint(string(w.b[w.i+1:w.i+5]), 16, 32)
	w.i += 4
	return v
}

func (w *walker) scalar() {
	for w.i < len(w.b) && !strings.ContainsRune(" \t\r\n,]}", rune(w.b[w.i])) {
		w.i++
	}
}

func (w *walker) space() {
	for w.i < len(w.b) && (w.b[w.i] == ' ' || w.b[w.i] == '\t' || w.b[w.i] == '\r' || w.b[w.i] == '\n') {
		w.i++
	}
}

func fieldOf(t reflect.Type, key string) (int, bool) {
	for n := range t.NumField() {
		if fieldName(t.Field(n)) == key {
			return n, true
		}
	}
	return 0, false
}

func fieldName(f reflect.StructField) string {
	n, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return n
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for n := range t.NumField() {
		names = append(names, fieldName(t.Field(n)))
	}
	return names
}

func mismatch(t reflect.Type, path, got string) error {
	want := map[reflect.Kind]string{
		reflect.Struct: "an object", reflect.Slice: "an array", reflect.String: "a string",
		reflect.Bool: "true or false", reflect.Int64: "a whole number",
	}[t.Kind()]
	return fmt.Errorf("%s: it needs to be %s, not %s", name(path), want, got)
}

func join(path, key string) string {
	if len(key) > 80 {
		key = key[:80] + "…"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func name(path string) string {
	if path == "" {
		return "the body"
	}
	return path
}

// checkQuery refuses parameters that a route does not know: a slip of the pen must not
// be taken for its default. What is no route has none.
func checkQuery(route string, r *http.Request) error {
	if r.URL.RawQuery == "" || route == noRoute {
		return nil
	}
	given, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return api.NewProblem(api.InvalidRequest, "query: it can't be read: %v", err)
	}
	known := api.Queries[route]
	for _, name := range slices.Sorted(maps.Keys(given)) {
		switch {
		case slices.Contains(known, name):
		case len(known) == 0:
			return api.NewProblem(api.InvalidRequest, "query: there is no parameter %.40q, and this route has none", name)
		default:
			return api.NewProblem(api.InvalidRequest, "query: there is no parameter %.40q; this route has %s", name, strings.Join(known, ", "))
		}
	}
	return nil
}
