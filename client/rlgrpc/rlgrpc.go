// Package rlgrpc limits the calls of a gRPC server by an rlstore.
//
//	limit := rlgrpc.New(c, "api", rlgrpc.WithKey(rlgrpc.ByMetadata("x-api-key")))
//	grpc.NewServer(grpc.UnaryInterceptor(limit.Unary), grpc.StreamInterceptor(limit.Stream))
//
// Each call, unary or stream, is a take of one token as it begins; messages of a
// stream are not counted. A denied one ends with ResourceExhausted, whose details
// hold a google.rpc.RetryInfo with the wait and a google.rpc.QuotaFailure with the
// policy. Every answer tells the limit that binds in its header metadata:
// ratelimit-limit, ratelimit-remaining and ratelimit-reset, in seconds.
//
// It is a package of its own so that only its importers depend on grpc.
package rlgrpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rlstore/rlstore/client"
)

// Taker decides: a [client.Client].
type Taker interface {
	Take(ctx context.Context, policy, key string, cost int64, opts ...client.TakeOption) (client.Decision, error)
}

// Interceptor limits calls. Its methods are what [grpc.UnaryInterceptor] and
// [grpc.StreamInterceptor] take.
type Interceptor struct {
	taker  Taker
	policy string
	key    KeyFunc
	cost   func(ctx context.Context, method string) int64
	open   bool
	failed func(ctx context.Context, method string, err error)
}

// Option configures an interceptor.
type Option func(*Interceptor)

// WithKey sets whom calls are charged to; the default is [ByPeer].
func WithKey(f KeyFunc) Option { return func(i *Interceptor) { i.key = f } }

// WithCost sets how many tokens a call costs; the default is 1. A call that costs
// nothing, or less, such as a health check, passes without a take.
func WithCost(f func(ctx context.Context, method string) int64) Option {
	return func(i *Interceptor) { i.cost = f }
}

// FailOpen lets calls pass that the store could not decide. The default is closed,
// as that of policies: they end with Unavailable. What cannot be right later, such
// as a policy that does not exist, is Internal in either case.
func FailOpen() Option { return func(i *Interceptor) { i.open = true } }

// OnError is told of every call that the store did not decide, such as to count
// them.
func OnError(f func(ctx context.Context, method string, err error)) Option {
	return func(i *Interceptor) { i.failed = f }
}

// New returns an interceptor that takes from policy for each call. The wait for the
// store is bounded by the call's deadline, or else by [client.WithTimeout].
func New(t Taker, policy string, opts ...Option) *Interceptor {
	i := &Interceptor{
		taker: t, policy: policy, key: ByPeer,
		cost:   func(context.Context, string) int64 { return 1 },
		failed: func(context.Context, string, error) {},
	}
	for _, o := range opts {
		o(i)
	}
	return i
}

// Unary is a [grpc.UnaryServerInterceptor].
func (i *Interceptor) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	err := i.pass(ctx, info.FullMethod, func(md metadata.MD) error { return grpc.SetHeader(ctx, md) })
	if err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// Stream is a [grpc.StreamServerInterceptor].
func (i *Interceptor) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := i.pass(ss.Context(), info.FullMethod, ss.SetHeader); err != nil {
		return err
	}
	return handler(srv, ss)
}

// pass decides a call; its error ends it.
func (i *Interceptor) pass(ctx context.Context, method string, setHeader func(metadata.MD) error) error {
	cost := i.cost(ctx, method)
	if cost <= 0 {
		return nil
	}
	key := i.key(ctx, method)
	if key == "" {
		return status.Error(codes.InvalidArgument, "the call does not say who makes it")
	}
	d, err := i.taker.Take(ctx, i.policy, key, cost)
	if err != nil {
		i.failed(ctx, method, err)
		return i.undecided(err)
	}
	// An error says that the header is sent already, which is another
	// interceptor's doing; the call itself is decided.
	_ = setHeader(header(&d))
	if d.Allowed {
		return nil
	}
	return denial(&d)
}
