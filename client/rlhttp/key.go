package rlhttp

import (
	"net/http"
	"net/netip"
	"strings"
)

// ByHeader charges a request to the value of a header field, such as an API key
// that somebody has verified. A request without it, or with several, is charged to
// nobody.
func ByHeader(name string) KeyFunc {
	return func(r *http.Request) string {
		v := r.Header.Values(name)
		if len(v) != 1 {
			return ""
		}
		return strings.TrimSpace(v[0])
	}
}

// ByIP charges a request to the address that it comes from: "192.0.2.7", or of an
// IPv6 address the network of 64 bits, "2001:db8:0:1::/64", since whoever has one
// address there has them all. An IPv4 address in IPv6 form is the IPv4 address.
//
// If the connection comes from a trusted proxy, X-Forwarded-For is read from the
// right, where each proxy adds whom it heard from: the first address that is not
// a trusted proxy's is the caller's. What stands left of it may be a lie, and is
// not looked at. If what stands there is no address, or all are trusted proxies,
// it is the last trusted one that is charged.
func ByIP(trusted ...netip.Prefix) KeyFunc {
	for _, p := range trusted {
		if !p.IsValid() {
			panic("rlhttp: a trusted prefix is not valid")
		}
	}
	isTrusted := func(a netip.Addr) bool {
		for _, p := range trusted {
			if p.Contains(a) {
				return true
			}
		}
		return false
	}
	return func(r *http.Request) string {
		ip, ok := parseAddr(r.RemoteAddr)
		if !ok {
			return "" // such as that of a Unix socket
		}
		if len(trusted) == 0 || !isTrusted(ip) {
			return network(ip)
		}
		// Several fields are one list.
		hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		for i := len(hops) - 1; i >= 0; i-- {
			from, ok := parseAddr(strings.TrimSpace(hops[i]))
			if !ok {
				break
			}
			ip = from
			if !isTrusted(ip) {
				break
			}
		}
		return network(ip)
	}
}

// parseAddr reads an address, with a port or without, in brackets or without, and
// drops the zone.
func parseAddr(s string) (netip.Addr, bool) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap().WithZone(""), true
	}
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		s = s[1 : len(s)-1]
	}
	a, err := netip.ParseAddr(s)
	return a.Unmap().WithZone(""), err == nil
}

// network is an address as a key.
func network(a netip.Addr) string {
	if a.Is4() {
		return a.String()
	}
	p, err := a.Prefix(64)
	if err != nil { // 64 bits are in every IPv6 address
		panic(err)
	}
	return p.String()
}
