package load

import (
	"math"
	"testing"
)

func TestKeysAreDistinctAndOfTwentyBytes(t *testing.T) {
	names := makeKeys(12_345)
	seen := map[string]bool{}
	for i := range 12_345 {
		k := names.at(i)
		if len(k) != keyBytes || seen[k] {
			t.Fatalf("key %d is %q", i, k)
		}
		seen[k] = true
	}
	if got := names.at(42); got != "bench:key:0000000042" {
		t.Errorf("key 42 is %q", got)
	}
}

// draw counts how often each of n keys is chosen in draws.
func draw(kind string, n, draws int) []int {
	s := newSpread(kind, n)
	pick := s.picker(7, 1)
	counts := make([]int, n)
	for range draws {
		counts[pick()]++
	}
	return counts
}

// within wants a count of draws with probability p to be within five standard
// deviations of what is expected.
func within(t *testing.T, what string, count, draws int, p float64) {
	t.Helper()
	want := p * float64(draws)
	if off := math.Abs(float64(count) - want); off > 5*math.Sqrt(want*(1-p)) {
		t.Errorf("%s: chosen %d times, %.0f expected", what, count, want)
	}
}

func TestUniformChoosesAllKeysAlike(t *testing.T) {
	const n, draws = 100, 1_000_000
	for i, c := range draw(Uniform, n, draws) {
		within(t, makeKeys(n).at(i), c, draws, 1.0/n)
	}
}

// The first two ranks of the generator are exact; the others are an
// approximation, so halves of the keys are compared with what they sum up to.
func TestZipfIsThatOfYCSB(t *testing.T) {
	const n, draws = 1000, 1_000_000
	var zeta, upper float64
	for i := range n {
		p := math.Pow(float64(i+1), -theta)
		zeta += p
		if i >= n/10 {
			upper += p
		}
	}
	counts := draw(Zipf, n, draws)
	within(t, "the first key", counts[0], draws, 1/zeta)
	within(t, "the second key", counts[1], draws, math.Pow(2, -theta)/zeta)
	tail := 0
	for _, c := range counts[n/10:] {
		tail += c
	}
	if got, want := float64(tail)/draws, upper/zeta; math.Abs(got-want) > 0.05*want {
		t.Errorf("the last nine tenths of the keys had %.4f of the takes, not %.4f", got, want)
	}
	if counts[n-1] == 0 {
		t.Error("the last key was never chosen")
	}
}

func TestZipfOfFewKeys(t *testing.T) {
	for n := 1; n <= 3; n++ {
		for i, c := range draw(Zipf, n, 10_000) {
			if c == 0 {
				t.Errorf("of %d keys, key %d was never chosen", n, i)
			}
		}
	}
}

func TestOneIsOneKey(t *testing.T) {
	if c := draw(One, 100, 1000); c[0] != 1000 {
		t.Errorf("key 0 was chosen %d times of 1000", c[0])
	}
}

func TestSameSeedSameKeys(t *testing.T) {
	for _, kind := range []string{Uniform, Zipf} {
		s := newSpread(kind, 1_000_000)
		a, b, other := s.picker(1, 2), s.picker(1, 2), s.picker(2, 2)
		same := 0
		for range 100 {
			x := a()
			if x != b() {
				t.Fatalf("%s: the same seed gives other keys", kind)
			}
			if x == other() {
				same++
			}
		}
		if same > 50 {
			t.Errorf("%s: another seed gives the same keys", kind)
		}
	}
}
