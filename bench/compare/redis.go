package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"

	"github.com/rlstore/rlstore/client"
)

// bucketScript is the token bucket that people run in Redis: its clock, its
// arithmetic in floats, one hash a key. ARGV is tokens a millisecond, burst, cost.
const bucketScript = `
local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local rate, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local tokens = tonumber(bucket[1]) or burst
tokens = math.min(burst, tokens + (now - (tonumber(bucket[2]) or now)) * rate)
if tokens < cost then
  return {0, math.floor(tokens)}
end
redis.call('HSET', KEYS[1], 'tokens', tokens - cost, 'at', now)
redis.call('PEXPIRE', KEYS[1], math.ceil(burst / rate))
return {1, math.floor(tokens - cost)}
`

// The bucket of every peer is that of the policy of rlstore bench.
const (
	burst     = 2_000_000_000
	perMinute = 1
)

// redisStore is Redis as a [load.Store]: a take is one EVALSHA, a batch is a
// pipeline of them. Each caller has a connection while it waits.
type redisStore struct {
	addr string
	sha  string

	mu   sync.Mutex
	idle []*redisConn
	all  []*redisConn
}

func dialRedis(addr string) (*redisStore, error) {
	s := &redisStore{addr: addr}
	c, err := s.conn()
	if err != nil {
		return nil, err
	}
	defer s.free(c)
	c.command("SCRIPT", "LOAD", bucketScript)
	s.sha, err = c.flush().bulk()
	return s, err
}

// Close closes all connections. No call may be under way.
func (s *redisStore) Close() {
	for _, c := range s.all {
		c.Close()
	}
}

func (s *redisStore) conn() (*redisConn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.idle); n > 0 {
		c := s.idle[n-1]
		s.idle = s.idle[:n-1]
		return c, nil
	}
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		return nil, err
	}
	c := &redisConn{Conn: nc, in: bufio.NewReaderSize(nc, 64<<10)}
	s.all = append(s.all, c)
	return c, nil
}

func (s *redisStore) free(c *redisConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = append(s.idle, c)
}

func (s *redisStore) evaluate(c *redisConn, key string, cost int64) {
	const rate = perMinute / 60_000.0
	c.command("EVALSHA", s.sha, "1", key, strconv.FormatFloat(rate, 'g', -1, 64), strconv.Itoa(burst), strconv.FormatInt(cost, 10))
}

// Take implements [load.Store].
func (s *redisStore) Take(_ context.Context, _, key string, cost int64, _ ...client.TakeOption) (client.Decision, error) {
	c, err := s.conn()
	if err != nil {
		return client.Decision{}, fmt.Errorf("%w: %w", client.ErrUnavailable, err)
	}
	s.evaluate(c, key, cost)
	d, err := c.flush().decision()
	if err == nil {
		s.free(c) // one that failed is out of step
	}
	return d, err
}

// TakeBatch implements [load.Store].
func (s *redisStore) TakeBatch(_ context.Context, requests []client.Request, _ ...client.BatchOption) ([]client.BatchResult, error) {
	c, err := s.conn()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", client.ErrUnavailable, err)
	}
	for i := range requests {
		s.evaluate(c, requests[i].Key, requests[i].Cost)
	}
	c.flush()
	out := make([]client.BatchResult, len(requests))
	for i := range out {
		if out[i].Decision, err = c.decision(); err != nil {
			return nil, err
		}
	}
	s.free(c)
	return out, nil
}

// redisConn speaks RESP2, as far as this program needs it.
type redisConn struct {
	net.Conn
	in  *bufio.Reader
	out []byte
	err error // sticky
}

// command appends a command to what flush sends.
func (c *redisConn) command(words ...string) {
	c.out = strconv.AppendInt(append(c.out, '*'), int64(len(words)), 10)
	for _, w := range words {
		c.out = strconv.AppendInt(append(c.out, "\r\n$"...), int64(len(w)), 10)
		c.out = append(append(c.out, "\r\n"...), w...)
	}
	c.out = append(c.out, "\r\n"...)
}

// flush sends the commands. Its error is that of the first answer.
func (c *redisConn) flush() *redisConn {
	if c.err == nil {
		_, c.err = c.Write(c.out)
	}
	c.out = c.out[:0]
	return c
}

// line reads one line and returns its first byte and the rest, valid until the
// next read.
func (c *redisConn) line() (kind byte, rest []byte, err error) {
	if c.err != nil {
		return 0, nil, c.err
	}
	text, err := c.in.ReadSlice('\n')
	text = bytes.TrimRight(text, "\r\n")
	switch {
	case err != nil:
	case len(text) == 0:
		err = errors.New("redis: an empty line")
	case text[0] == '-':
		err = fmt.Errorf("redis: %s", text[1:])
	default:
		return text[0], text[1:], nil
	}
	c.err = err
	return 0, nil, err
}

// number reads a number, or the length of an array or a string.
func (c *redisConn) number(want byte) (int, error) {
	kind, rest, err := c.line()
	if err == nil && kind != want {
		err = fmt.Errorf("redis: %q where a %q was due", kind, want)
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(rest))
}

// bulk reads a string.
func (c *redisConn) bulk() (string, error) {
	if _, err := c.number('$'); err != nil {
		return "", err
	}
	text, err := c.in.ReadString('\n')
	return string(bytes.TrimRight([]byte(text), "\r\n")), err
}

// decision reads the script's answer.
func (c *redisConn) decision() (client.Decision, error) {
	var d client.Decision
	n, err := c.number('*')
	if err == nil && n != 2 {
		err = fmt.Errorf("redis: an answer of %d parts", n)
	}
	if err != nil {
		return d, err
	}
	allowed, err := c.number(':')
	if err != nil {
		return d, err
	}
	remaining, err := c.number(':')
	d.Allowed, d.Remaining, d.Limit = allowed == 1, int64(remaining), burst
	return d, err
}
