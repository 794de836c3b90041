package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/rlstore/rlstore/client"
)

// etcdStore is etcd as a [load.Store]: a take is a transaction that replaces the
// bucket if nobody else has meanwhile. It is at its best: what it wrote it
// remembers, so a take that meets no other costs one transaction and no read, and
// one that does gets the bucket with the refusal. It speaks gRPC itself, over one
// HTTP/2 connection to the leader.
type etcdStore struct {
	url  string
	http *http.Client

	mu    sync.Mutex
	known map[string]etcdBucket
}

type etcdBucket struct {
	revision int64 // 0: there is none
	tokens   float64
	at       int64 // ms
}

func newEtcd(url string) *etcdStore {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	return &etcdStore{url: url, http: &http.Client{Transport: &http.Transport{Protocols: &p}}, known: map[string]etcdBucket{}}
}

// Close closes the connection.
func (s *etcdStore) Close() { s.http.CloseIdleConnections() }

// Take implements [load.Store].
func (s *etcdStore) Take(ctx context.Context, _, key string, cost int64, _ ...client.TakeOption) (client.Decision, error) {
	for {
		s.mu.Lock()
		was, ok := s.known[key]
		s.mu.Unlock()
		now := time.Now().UnixMilli()
		if !ok {
			was = etcdBucket{tokens: burst, at: now}
		}
		is := etcdBucket{tokens: min(burst, was.tokens+float64(now-was.at)*perMinute/60_000), at: now}
		allowed := is.tokens >= float64(cost)
		if allowed {
			is.tokens -= float64(cost)
		}
		answer, err := s.call(ctx, "/etcdserverpb.KV/Txn", swap(key, was.revision, is.bytes()))
		if err != nil {
			return client.Decision{}, fmt.Errorf("%w: %w", client.ErrOutcomeUnknown, err)
		}
		swapped, revision, found, err := parseSwap(answer)
		if err != nil {
			return client.Decision{}, err
		}
		if is.revision = revision; !swapped {
			is = found
		}
		s.mu.Lock()
		if is.revision >= s.known[key].revision {
			s.known[key] = is
		}
		s.mu.Unlock()
		if swapped {
			return client.Decision{Allowed: allowed, State: client.State{Remaining: int64(is.tokens), Limit: burst}}, nil
		}
	}
}

// TakeBatch implements [load.Store]: etcd has no use for batches, for the takes of
// one need not hang together.
func (s *etcdStore) TakeBatch(context.Context, []client.Request, ...client.BatchOption) ([]client.BatchResult, error) {
	return nil, errors.ErrUnsupported
}

func (b etcdBucket) bytes() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(b.tokens)), uint64(b.at))
}

// leads tells whether this member is the leader.
func (s *etcdStore) leads(ctx context.Context) bool {
	answer, err := s.call(ctx, "/etcdserverpb.Maintenance/Status", nil)
	if err != nil {
		return false
	}
	var member, leader uint64
	_ = fields(answer, func(n protowire.Number, number uint64, sub []byte) error {
		switch n {
		case 1: // header
			return fields(sub, func(n protowire.Number, number uint64, _ []byte) error {
				if n == 2 {
					member = number
				}
				return nil
			})
		case 4:
			leader = number
		}
		return nil
	})
	return leader != 0 && leader == member
}

// call is one unary gRPC call.
func (s *etcdStore) call(ctx context.Context, method string, message []byte) ([]byte, error) {
	frame := make([]byte, 5, 5+len(message))
	binary.BigEndian.PutUint32(frame[1:], uint32(len(message)))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+method, bytes.NewReader(append(frame, message...)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	res, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	for _, h := range []http.Header{res.Header, res.Trailer} {
		if code := h.Get("Grpc-Status"); code != "" && code != "0" {
			return nil, fmt.Errorf("etcd: status %s: %s", code, h.Get("Grpc-Message"))
		}
	}
	if len(answer) < 5 {
		return nil, fmt.Errorf("etcd: %s, %d bytes", res.Status, len(answer))
	}
	return answer[5:], nil
}

// swap is a TxnRequest: if key has this revision, put value, else get it.
func swap(key string, revision int64, value []byte) []byte {
	compare := number(nil, 2, 2) // target: its modification; the result is EQUAL, 0
	compare = text(compare, 3, []byte(key))
	compare = number(compare, 6, uint64(revision))
	put := text(text(nil, 1, []byte(key)), 2, value)
	get := text(nil, 1, []byte(key))
	txn := text(nil, 1, compare)
	txn = text(txn, 2, text(nil, 2, put))
	return text(txn, 3, text(nil, 1, get))
}

// parseSwap reads a TxnResponse: the revision after the put, or what was found.
func parseSwap(b []byte) (swapped bool, revision int64, found etcdBucket, err error) {
	kv := func(n protowire.Number, number uint64, sub []byte) error {
		switch n {
		case 3:
			found.revision = int64(number)
		case 5:
			if len(sub) != 16 {
				return fmt.Errorf("etcd: a bucket of %d bytes", len(sub))
			}
			found.tokens = float64(binary.BigEndian.Uint64(sub))
			found.at = int64(binary.BigEndian.Uint64(sub[8:]))
		}
		return nil
	}
	err = fields(b, func(n protowire.Number, number uint64, sub []byte) error {
		switch n {
		case 1: // header
			return fields(sub, func(n protowire.Number, number uint64, _ []byte) error {
				if n == 3 {
					revision = int64(number)
				}
				return nil
			})
		case 2:
			swapped = number == 1
		case 3: // response, range, kvs
			return within(sub, 1, func(sub []byte) error {
				return within(sub, 2, func(sub []byte) error { return fields(sub, kv) })
			})
		}
		return nil
	})
	return swapped, revision, found, err
}

// number and text append a field to a message.
func number(b []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
}

func text(b []byte, n protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
}

// within calls f with each message in field want.
func within(b []byte, want protowire.Number, f func([]byte) error) error {
	return fields(b, func(n protowire.Number, _ uint64, sub []byte) error {
		if n != want {
			return nil
		}
		return f(sub)
	})
}

// fields calls f with each field of a message that is a number or holds bytes.
func fields(b []byte, f func(n protowire.Number, number uint64, sub []byte) error) error {
	for len(b) > 0 {
		n, kind, used := protowire.ConsumeTag(b)
		if used < 0 {
			return protowire.ParseError(used)
		}
		b = b[used:]
		var v uint64
		var sub []byte
		switch kind {
		case protowire.VarintType:
			v, used = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			sub, used = protowire.ConsumeBytes(b)
		default:
			used = protowire.ConsumeFieldValue(n, kind, b)
		}
		if used < 0 {
			return protowire.ParseError(used)
		}
		b = b[used:]
		if err := f(n, v, sub); err != nil {
			return err
		}
	}
	return nil
}
