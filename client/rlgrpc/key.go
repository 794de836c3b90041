package rlgrpc

import (
	"context"
	"net/netip"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// KeyFunc tells whom a call is charged to. With "" it is charged to nobody, and
// refused with InvalidArgument. The context has the call's metadata and peer; method
// is its full name, "/package.Service/Method".
type KeyFunc func(ctx context.Context, method string) string

// ByPeer charges a call to the address that it comes from: of an IPv6 address the
// network of 64 bits, since whoever has one address there has them all. Behind a
// proxy that is the proxy's; see [ByMetadata].
func ByPeer(ctx context.Context, _ string) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	ap, err := netip.ParseAddrPort(p.Addr.String())
	if err != nil {
		return "" // such as that of a Unix socket
	}
	a := ap.Addr().Unmap().WithZone("")
	if a.Is4() {
		return a.String()
	}
	network, err := a.Prefix(64)
	if err != nil { // 64 bits are in every IPv6 address
		panic(err)
	}
	return network.String()
}

// ByMetadata charges a call to the value of a metadata key, such as an API key that
// somebody has verified. A call without it, or with several, is charged to nobody.
func ByMetadata(name string) KeyFunc {
	return func(ctx context.Context, _ string) string {
		v := metadata.ValueFromIncomingContext(ctx, name)
		if len(v) != 1 {
			return ""
		}
		return v[0]
	}
}
