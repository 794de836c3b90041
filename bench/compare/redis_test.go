package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/rlstore/rlstore/client"
)

// fakeRedis answers EVALSHA with what is left of three tokens, for each key.
func fakeRedis(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		left := map[string]int{}
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			in := &redisConn{Conn: c, in: bufio.NewReader(c)}
			for {
				n, err := in.number('*')
				if err != nil {
					break
				}
				var words []string
				for range n {
					size, err := in.number('$')
					if err != nil {
						break
					}
					text := make([]byte, size+2)
					if _, err := io.ReadFull(in.in, text); err != nil {
						break
					}
					words = append(words, string(text[:size]))
				}
				switch {
				case words[0] == "SCRIPT" && strings.Contains(words[2], "HMGET"):
					fmt.Fprint(c, "$3\r\nabc\r\n")
				case words[0] == "EVALSHA" && words[1] == "abc" && words[2] == "1":
					left[words[3]]++
					if n := 3 - left[words[3]]; n >= 0 {
						fmt.Fprintf(c, "*2\r\n:1\r\n:%d\r\n", n)
					} else {
						fmt.Fprint(c, "*2\r\n:0\r\n:0\r\n")
					}
				default:
					fmt.Fprintf(c, "-ERR what is %q\r\n", words)
				}
			}
			c.Close()
		}
	}()
	return l.Addr().String()
}

func TestRedisTakesAndPipelines(t *testing.T) {
	s, err := dialRedis(fakeRedis(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d, err := s.Take(t.Context(), "bench", "a", 1)
	if err != nil || !d.Allowed || d.Remaining != 2 {
		t.Fatalf("the first of three is %+v, %v", d, err)
	}
	var reqs []client.Request
	for _, key := range []string{"a", "b", "a", "a"} {
		reqs = append(reqs, client.Request{Key: key, Cost: 1})
	}
	res, err := s.TakeBatch(t.Context(), reqs)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		allowed bool
		left    int64
	}{{true, 1}, {true, 2}, {true, 0}, {false, 0}} {
		if res[i].Allowed != want.allowed || res[i].Remaining != want.left {
			t.Errorf("take %d of the pipeline is %+v, not %+v", i, res[i], want)
		}
	}
	if len(s.all) != 1 {
		t.Errorf("one caller after the other made %d connections", len(s.all))
	}
}

func TestRedisErrorIsAnError(t *testing.T) {
	s, err := dialRedis(fakeRedis(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.sha = "of another server"
	if _, err := s.Take(t.Context(), "bench", "a", 1); err == nil || !strings.Contains(err.Error(), "ERR what is") {
		t.Errorf("the error is %v", err)
	}
}
