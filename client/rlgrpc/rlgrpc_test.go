package rlgrpc_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/client/rlgrpc"
	"github.com/rlstore/rlstore/client/rltest"
)

const policies = `
name: api
limits: [{name: burst, rate: 1, per: 90s}]
`

// serve returns a client of a health service behind the interceptor.
func serve(t *testing.T, i *rlgrpc.Interceptor) healthpb.HealthClient {
	t.Helper()
	s := grpc.NewServer(grpc.UnaryInterceptor(i.Unary), grpc.StreamInterceptor(i.Stream))
	healthpb.RegisterHealthServer(s, health.NewServer())
	l := bufconn.Listen(1 << 16)
	go s.Serve(l) // until Stop
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient("passthrough:///buf", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return healthpb.NewHealthClient(conn)
}

func as(t *testing.T, key string) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, "x-api-key", key)
}

var byKey = rlgrpc.WithKey(rlgrpc.ByMetadata("x-api-key"))

func expectDenied(t *testing.T, err error) {
	t.Helper()
	s := status.Convert(err)
	if s.Code() != codes.ResourceExhausted {
		t.Fatalf("%v", err)
	}
	var wait time.Duration
	var subject string
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.RetryInfo:
			wait = d.RetryDelay.AsDuration()
		case *errdetails.QuotaFailure:
			subject = d.Violations[0].Subject
		}
	}
	if wait != 90*time.Second || subject != "api" {
		t.Errorf("wait %v by %q", wait, subject)
	}
}

func expectHeader(t *testing.T, header metadata.MD, limit, remaining, reset string) {
	t.Helper()
	for name, want := range map[string]string{"limit": limit, "remaining": remaining, "reset": reset} {
		if got := header.Get("ratelimit-" + name); len(got) != 1 || got[0] != want {
			t.Errorf("ratelimit-%s: %q, want %s", name, got, want)
		}
	}
}

func TestADeniedUnaryCall(t *testing.T) {
	s := rltest.New(t, policies)
	c := serve(t, rlgrpc.New(s.Client(), "api", byKey))
	var header metadata.MD
	if _, err := c.Check(as(t, "a"), &healthpb.HealthCheckRequest{}, grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	expectHeader(t, header, "1", "0", "90")
	header = nil
	_, err := c.Check(as(t, "a"), &healthpb.HealthCheckRequest{}, grpc.Header(&header))
	expectDenied(t, err)
	expectHeader(t, header, "1", "0", "90")
	if _, err := c.Check(as(t, "b"), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("another key: %v", err)
	}
	s.Advance(90 * time.Second)
	if _, err := c.Check(as(t, "a"), &healthpb.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
}

func TestADeniedStream(t *testing.T) {
	c := serve(t, rlgrpc.New(rltest.New(t, policies).Client(), "api", byKey))
	watch, err := c.Watch(as(t, "a"), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	header, err := watch.Header()
	if err != nil {
		t.Fatal(err)
	}
	expectHeader(t, header, "1", "0", "90")
	if watch, err = c.Watch(as(t, "a"), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	_, err = watch.Recv()
	expectDenied(t, err)
}

func TestWhatTheStoreCannotDecide(t *testing.T) {
	for _, tc := range []struct {
		name   string
		outage rltest.Outage
		policy string
		key    string
		open   bool
		want   codes.Code
		told   error
	}{
		{"closed", rltest.NoLeader, "api", "k", false, codes.Unavailable, client.ErrUnavailable},
		{"closed, unknown", rltest.NoAnswer, "api", "k", false, codes.Unavailable, client.ErrUnavailable}, // it finds no shard
		{"open", rltest.NoLeader, "api", "k", true, codes.OK, client.ErrUnavailable},
		{"no policy", rltest.Healthy, "nope", "k", true, codes.Internal, client.ErrUnknownPolicy},
		{"bad key", rltest.Healthy, "api", "\t", true, codes.InvalidArgument, client.ErrInvalidRequest},
		{"no key", rltest.Healthy, "api", "", true, codes.InvalidArgument, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := rltest.New(t, policies)
			s.SetOutage(tc.outage)
			var told error
			opts := []rlgrpc.Option{
				rlgrpc.WithKey(func(context.Context, string) string { return tc.key }),
				rlgrpc.OnError(func(_ context.Context, _ string, err error) { told = err }),
			}
			if tc.open {
				opts = append(opts, rlgrpc.FailOpen())
			}
			patience := time.Minute
			if tc.outage != rltest.Healthy {
				patience = 20 * time.Millisecond // it is of no use
			}
			c := serve(t, rlgrpc.New(s.Client(client.WithTimeout(patience)), tc.policy, opts...))
			// Without a deadline, which would be the store's too.
			_, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{})
			if status.Code(err) != tc.want || !errors.Is(told, tc.told) {
				t.Errorf("%v, told of %v", err, told)
			}
		})
	}
}

func TestACallThatCostsNothingPasses(t *testing.T) {
	c := serve(t, rlgrpc.New(rltest.New(t, "").Client(), "nope",
		rlgrpc.WithCost(func(_ context.Context, method string) int64 {
			if method == healthpb.Health_Check_FullMethodName {
				return 0
			}
			return 1
		})))
	if _, err := c.Check(as(t, "k"), &healthpb.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
}

func TestKeysByPeer(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.7:80": "192.0.2.7", "[::ffff:192.0.2.7]:80": "192.0.2.7", "[2001:db8:1:2:3::4]:80": "2001:db8:1:2::/64",
	} {
		a, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := rlgrpc.ByPeer(peer.NewContext(t.Context(), &peer.Peer{Addr: a}), ""); got != want {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
	unix := &net.UnixAddr{Name: "/run/x", Net: "unix"}
	if got := rlgrpc.ByPeer(peer.NewContext(t.Context(), &peer.Peer{Addr: unix}), ""); got != "" {
		t.Errorf("a Unix socket is %q", got)
	}
}

// TestThePolicysRuleComesFirst: what its on_unavailable lets pass passes, without a
// limit that nobody counted.
func TestThePolicysRuleComesFirst(t *testing.T) {
	s := rltest.New(t, "name: public\nlimits: [{rate: 2, per: 1s}]\non_unavailable: open\n")
	c := serve(t, rlgrpc.New(s.Client(client.WithTimeout(100*time.Millisecond)), "public", byKey))
	var header metadata.MD
	if _, err := c.Check(as(t, "a"), &healthpb.HealthCheckRequest{}, grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	expectHeader(t, header, "2", "1", "1")
	s.SetOutage(rltest.NoLeader)
	for range 5 {
		header = nil
		if _, err := c.Check(as(t, "a"), &healthpb.HealthCheckRequest{}, grpc.Header(&header)); err != nil {
			t.Error(err)
		}
		if len(header.Get("ratelimit-limit")) != 0 {
			t.Errorf("%v", header)
		}
	}
}
