package lease

// demand measures how many tokens are asked for in a horizon, over about the last
// one.
type demand struct {
	since  int64
	tokens int64 // asked for since then
}

// add counts tokens asked for.
func (d *demand) add(now, horizon, tokens int64) {
	if d.since == 0 {
		d.since = now
	}
	if elapsed := now - d.since; elapsed > 2*horizon {
		d.tokens = scale(d.tokens, horizon, elapsed)
		d.since = now - horizon
	}
	d.tokens += tokens
}

// expect is how many will be asked for in the next horizon if it goes on like
// this. What was measured for a short time only says little: it is multiplied
// by growth at most.
func (d *demand) expect(now, horizon int64) int64 {
	elapsed := max(1, now-d.since)
	return min(scale(d.tokens, horizon, elapsed), growth*d.tokens)
}

// growth is by how much a lease may exceed what was asked for so far: fast enough
// to follow a rising demand within a few leases, slow enough to strand little
// where a single burst came.
const growth = 4

// scale is n*by/of, with n a number of tokens.
func scale(n, by, of int64) int64 { return int64(float64(n) * (float64(by) / float64(of))) }
