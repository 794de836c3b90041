package clustertest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Ports of nodes come from below the range that systems hand out to outgoing
// connections. A port out of that range could be taken by anybody while its
// node is down, and the node could not come back.
const (
	portMin = 12_000
	portMax = 32_000
)

// freeAddr returns a loopback address that nothing listens on. For the rest of
// the run it is nobody else's: the UDP port of the same number, which no node
// needs, stays bound as the reservation that other runs of this package see.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", portMin+rand.IntN(portMax-portMin))
		reservation, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			reservation.Close()
			continue
		}
		l.Close()
		reservations = append(reservations, reservation)
		return addr
	}
	t.Fatal("no free port found")
	return ""
}

// reservations live as long as the process does.
var reservations []net.PacketConn
