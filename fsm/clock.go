package fsm

import (
	"encoding/binary"
	"errors"
)

// clock is the time of day that a shard agrees on: cluster time and an offset
// that is part of the state. Only windows of the calendar go by it.
//
// The leader measures the offset by its own wall clock and says so in an entry,
// but no such clock is trusted: an entry moves the offset by a hundredth of the
// cluster time since the last one at most, of which it counts no more than
// ClockInterval. So, whatever the leaders' clocks do, corrections make a window
// shorter or longer than its nominal length by no more than a hundredth of it and
// clockSlack. The price is that a large error takes its time: a minute is slewed
// away in 100 minutes.
//
// While the shard holds no such window, there is none to be cut short, and the
// offset is moved forward outright; and either way the first time.
//
// The time of day never goes back: after a correction it stands still until it
// would show more than it did, which is no more than a tenth of a second. So a
// window that is over stays so, also for a bucket that was dropped since.
type clock struct {
	set    bool
	offset int64  // wall less stamp, nanoseconds
	at     uint64 // stamp of the last correction
	peak   int64  // the most that was shown up to then
}

const (
	clockRate = 100 // one part in so many
	// ClockInterval is how often a leader tells its wall clock while windows of
	// the calendar are held, in nanoseconds.
	ClockInterval = 10 * 1_000_000_000
	clockSlack    = ClockInterval / clockRate

	maxOffset = 1<<62 - 1 // so that it and a stamp fit 64 bits
)

// wall is the time of day at a stamp, which is not before the last correction, in
// nanoseconds since 1970. A clock that was never set shows the stamp.
func (c *clock) wall(stamp uint64) int64 {
	return min(max(c.peak, int64(min(stamp, maxWall))+c.offset), maxWall)
}

// correct takes in what a leader measured at stamp. held says whether the shard
// holds windows of the calendar.
func (c *clock) correct(measured int64, stamp uint64, held bool) {
	c.peak = c.wall(stamp)
	step := measured - c.offset
	if c.set {
		most := int64(min(stamp-c.at, ClockInterval) / clockRate)
		if step = max(step, -most); held {
			step = min(step, most)
		}
	}
	c.offset += step
	c.set, c.at = true, stamp
}

// decodeClock reads the body of an entry made by [EncodeClock].
func decodeClock(body []byte) (offset int64, err error) {
	if len(body) != 8 {
		return 0, errors.New("it is no offset")
	}
	offset = int64(binary.LittleEndian.Uint64(body))
	if offset < -maxOffset || offset > maxOffset {
		return 0, errors.New("the offset is out of range")
	}
	return offset, nil
}
