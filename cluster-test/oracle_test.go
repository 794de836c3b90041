package clustertest

import (
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

// oracle is a second, naive implementation of a token bucket: rational
// numbers, one bucket, no thought of speed. It shares no code with the store.
type oracle struct {
	burst *big.Rat
	rate  *big.Rat // tokens each nanosecond
	level *big.Rat
	at    uint64 // cluster time of level
}

func newOracle(rate int64, per time.Duration, burst int64) *oracle {
	b := new(big.Rat).SetInt64(burst)
	return &oracle{burst: b, rate: big.NewRat(rate, int64(per)), level: new(big.Rat).Set(b)}
}

// to lets the bucket fill until now.
func (o *oracle) to(now uint64) {
	if now > o.at {
		in := new(big.Rat).Mul(o.rate, new(big.Rat).SetInt(new(big.Int).SetUint64(now-o.at)))
		o.add(in)
		o.at = now
	}
}

func (o *oracle) add(in *big.Rat) {
	if o.level.Add(o.level, in); o.level.Cmp(o.burst) > 0 {
		o.level.Set(o.burst)
	}
}

// take says whether cost tokens are there, and charges them if so.
func (o *oracle) take(cost int64) bool {
	c := new(big.Rat).SetInt64(cost)
	if o.level.Cmp(c) < 0 {
		return false
	}
	o.level.Sub(o.level, c)
	return true
}

// refund gives up to cost tokens back and returns how many whole ones were
// missing of them.
func (o *oracle) refund(cost int64) (refunded int64) {
	room := o.burst.Num().Int64() - o.remaining()
	o.add(new(big.Rat).SetInt64(cost))
	return min(cost, room)
}

func (o *oracle) reset() { o.level.Set(o.burst) }

// remaining is the whole tokens left.
func (o *oracle) remaining() int64 {
	return new(big.Int).Quo(o.level.Num(), o.level.Denom()).Int64()
}

// wait is the smallest number of nanoseconds after which cost tokens are there.
func (o *oracle) wait(cost int64) int64 {
	missing := new(big.Rat).Sub(new(big.Rat).SetInt64(cost), o.level)
	if missing.Sign() <= 0 {
		return 0
	}
	missing.Quo(missing, o.rate)
	ns, rest := new(big.Int).QuoRem(missing.Num(), missing.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		ns.Add(ns, big.NewInt(1))
	}
	return ns.Int64()
}

func TestTheOracleCountsByHand(t *testing.T) {
	o := newOracle(3, time.Second, 10)
	for i, step := range []struct {
		at   uint64 // ns
		kind api.Kind
		cost int64
		want string // allowed or refunded, remaining, wait for 4
	}{
		{0, api.Take, 8, "true 2 666666667"},
		{0, api.Take, 3, "false 2 666666667"},
		{333_333_333, api.Take, 3, "false 2 333333334"},
		{333_333_334, api.Take, 3, "true 0 1333333333"},
		{333_333_334, api.Refund, 4, "4 4 0"},
		{333_333_334, api.Refund, 20, "6 10 0"},
		{333_333_334, api.Take, 10, "true 0 1333333334"},
		{333_333_334, api.Reset, 0, "- 10 0"},
		{5_000_000_000, api.Take, 10, "true 0 1333333334"},
		{9_000_000_000, api.Take, 1, "true 9 0"},
	} {
		o.to(step.at)
		outcome := "-"
		switch step.kind {
		case api.Take:
			outcome = fmt.Sprint(o.take(step.cost))
		case api.Refund:
			outcome = fmt.Sprint(o.refund(step.cost))
		case api.Reset:
			o.reset()
		}
		if got := fmt.Sprintf("%s %d %d", outcome, o.remaining(), o.wait(4)); got != step.want {
			t.Errorf("step %d, %v %d: got %s, want %s", i, step.kind, step.cost, got, step.want)
		}
	}
}
