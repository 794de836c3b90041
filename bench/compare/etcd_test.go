package main

import (
	"encoding/binary"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// fakeEtcd knows one transaction: put where the revision is right, else get.
func fakeEtcd(t *testing.T) *etcdStore {
	t.Helper()
	type kv struct {
		revision uint64
		value    []byte
	}
	var mu sync.Mutex
	stored, revision := map[string]kv{}, uint64(100)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path != "/etcdserverpb.KV/Txn" || r.ProtoMajor != 2 || len(body) < 5 {
			http.Error(w, "", http.StatusBadRequest)
			return
		}
		var key, put []byte
		var expected uint64
		_ = fields(body[5:], func(n protowire.Number, _ uint64, sub []byte) error {
			switch n {
			case 1: // compare
				return fields(sub, func(n protowire.Number, v uint64, sub []byte) error {
					switch n {
					case 3:
						key = sub
					case 6:
						expected = v
					}
					return nil
				})
			case 2: // success, put, value
				return within(sub, 2, func(sub []byte) error {
					return within(sub, 2, func(sub []byte) error { put = sub; return nil })
				})
			}
			return nil
		})
		mu.Lock()
		defer mu.Unlock()
		var answer []byte
		if found := stored[string(key)]; found.revision == expected {
			revision++
			stored[string(key)] = kv{revision, put}
			answer = number(text(nil, 1, number(nil, 3, revision)), 2, 1)
		} else {
			is := text(number(text(nil, 1, key), 3, found.revision), 5, found.value)
			answer = text(text(nil, 1, number(nil, 3, revision)), 3, text(nil, 1, text(nil, 2, is)))
		}
		w.Header().Set("Trailer", "Grpc-Status")
		frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(answer)))
		_, _ = w.Write(append(frame, answer...))
		w.Header().Set("Grpc-Status", "0")
	}))
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	srv.Config.Protocols = &p
	srv.Start()
	t.Cleanup(srv.Close)
	s := newEtcd(srv.URL)
	t.Cleanup(s.Close)
	return s
}

// Two clients that do not know of each other's takes: none is lost.
func TestEtcdTakesAreSwaps(t *testing.T) {
	a := fakeEtcd(t)
	b := newEtcd(a.url)
	t.Cleanup(b.Close)
	var callers sync.WaitGroup
	for _, s := range []*etcdStore{a, b, a, b} {
		callers.Go(func() {
			for range 50 {
				if d, err := s.Take(t.Context(), "bench", "k", 2); err != nil || !d.Allowed {
					t.Errorf("%+v, %v", d, err)
				}
			}
		})
	}
	callers.Wait()
	d, err := a.Take(t.Context(), "bench", "k", 2)
	if want := int64(burst - 201*2); err != nil || d.Remaining < want || d.Remaining > want+2 { // the test may take a refill's time
		t.Errorf("after 201 takes of 2, %d of %d are left, not %d: %v", d.Remaining, burst, want, err)
	}
	if d, err := a.Take(t.Context(), "bench", "k", burst); err != nil || d.Allowed {
		t.Errorf("a take of more than there is: %+v, %v", d, err)
	}
}
