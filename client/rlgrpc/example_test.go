package rlgrpc_test

import (
	"context"
	"fmt"
	"log"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rlstore/rlstore/client/rlgrpc"
	"github.com/rlstore/rlstore/client/rltest"
)

func Example() {
	store, err := rltest.Open("name: api\nlimits: [{rate: 1, per: 1m}]")
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	c := store.Client() // in production: client.New(endpoints)

	limit := rlgrpc.New(c, "api", rlgrpc.WithKey(rlgrpc.ByMetadata("x-api-key")))
	server := grpc.NewServer(grpc.UnaryInterceptor(limit.Unary), grpc.StreamInterceptor(limit.Stream))
	defer server.Stop()

	// What the server does for each call:
	ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs("x-api-key", "k1"))
	for range 2 {
		_, err := limit.Unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/shop.Cart/Add"},
			func(context.Context, any) (any, error) { return nil, nil })
		fmt.Println(status.Code(err))
	}
	// Output:
	// OK
	// ResourceExhausted
}
