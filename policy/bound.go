package policy

import (
	"math"
	"math/bits"
	"time"

	"github.com/rlstore/rlstore/api"
)

// SoftBound is by how many tokens a limit of mode soft can be exceeded, over any
// interval, with so many instances that spend: for each but one, what it can spend
// before it hears of the others, within two syncs. A window lends no more than its
// rate to each. The result saturates at the largest int64.
func SoftBound(l *api.LimitInfo, syncInterval time.Duration, instances int) int64 {
	each := uint64(l.Burst)
	if l.Algorithm == api.TokenBucket {
		each += mulDivUp(uint64(l.Rate), 2*uint64(syncInterval), uint64(l.Per))
	}
	high, low := bits.Mul64(each, uint64(max(0, instances-1)))
	if high != 0 || low > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(low)
}

// mulDivUp is a × b / c, rounded up; at most the largest int64.
func mulDivUp(a, b, c uint64) uint64 {
	high, low := bits.Mul64(a, b)
	if high >= c {
		return math.MaxInt64
	}
	quotient, rest := bits.Div64(high, low, c)
	if rest > 0 {
		quotient++
	}
	return min(quotient, math.MaxInt64-math.MaxInt32)
}
