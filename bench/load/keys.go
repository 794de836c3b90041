package load

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
)

// How takes spread over the keys.
const (
	Uniform = "uniform" // each key is as likely as any other
	Zipf    = "zipf"    // the n-th key is n^0.99 times less likely than the first, as in YCSB
	One     = "one"     // a single hot key
)

const (
	keyBytes = 20
	maxKeys  = 100_000_000 // 2 GB of names
)

// keys are the names of all keys, one behind the other in one string: no
// allocation a take, and one object for the garbage collector.
type keys string

func makeKeys(n int) keys {
	var b strings.Builder
	b.Grow(n * keyBytes)
	for i := range n {
		fmt.Fprintf(&b, "bench:key:%010d", i)
	}
	return keys(b.String())
}

// at is the i-th key.
func (k keys) at(i int) string { return string(k[i*keyBytes : (i+1)*keyBytes]) }

// spread is a distribution over n keys, shared by all callers.
type spread struct {
	kind string
	n    int
	zipf zipf
}

func newSpread(kind string, n int) spread {
	s := spread{kind: kind, n: n}
	if kind == Zipf {
		s.zipf = newZipf(n)
	}
	return s
}

// picker returns a caller's own sequence of keys. The same seed and stream give
// the same sequence.
func (s *spread) picker(seed, stream uint64) func() int {
	r := rand.New(rand.NewPCG(seed, stream))
	switch s.kind {
	case One:
		return func() int { return 0 }
	case Zipf:
		return func() int { return s.zipf.rank(r.Float64()) }
	}
	return func() int { return r.IntN(s.n) }
}

// theta is the exponent that YCSB made the custom: with 100,000 keys one take in
// thirteen is for the first key.
const theta = 0.99

// zipf turns uniform numbers into ranks, in constant time: Gray et al., "Quickly
// generating billion-record synthetic databases", 1994.
type zipf struct {
	n                 float64
	zetaN, alpha, eta float64
}

func newZipf(n int) zipf {
	zeta := 0.0
	for i := range n {
		zeta += math.Pow(float64(i+1), -theta)
	}
	z := zipf{n: float64(n), zetaN: zeta, alpha: 1 / (1 - theta)}
	z.eta = (1 - math.Pow(2/z.n, 1-theta)) / (1 - (1+math.Pow(0.5, theta))/zeta)
	return z
}

// rank is the key of u, 0 <= u < 1; 0 is the likeliest.
func (z *zipf) rank(u float64) int {
	uz := u * z.zetaN
	switch {
	case uz < 1:
		return 0
	case uz < 1+math.Pow(0.5, theta):
		return 1
	}
	return min(int(z.n*math.Pow(z.eta*u-z.eta+1, z.alpha)), int(z.n)-1)
}
