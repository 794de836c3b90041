package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/snapshot"
)

// Losses is what a snapshot that was damaged no longer has.
type Losses struct {
	// Stretches of the file were damaged, each of a record or more.
	Stretches int `json:"stretches"`
	// Uncounted says that the record with the counts is among them, so the numbers
	// below are not known.
	Uncounted bool `json:"uncounted,omitempty"`

	Buckets    int `json:"buckets,omitempty"`     // start full
	RequestIDs int `json:"request_ids,omitempty"` // are new when they come again, as are the next two
	Sessions   int `json:"sessions,omitempty"`
	Answers    int `json:"answers,omitempty"` // of sessions that are there
	Holds      int `json:"holds,omitempty"`   // reservations, permits and leases that live no longer
	Settled    int `json:"settled,omitempty"` // reservations and permits whose end is forgotten

	Policies int `json:"policies,omitempty"` // damaged stretches among the catalog's policies
	Parts    int `json:"parts,omitempty"`    // overrides and changes that may have been of those, and went with them
}

// Salvage replaces the state by what is left of a snapshot that [Buckets.Restore]
// refuses, and tells what is not. Whatever lay in a record whose checksum is wrong is
// as if it had never been: a bucket is reset, a request id or a session forgotten, a
// hold dropped. All else stays as it was.
//
// slots is the slot map, for the case that the record which has the shard's own slots
// is damaged. It fails only where the header is not right, and the old state stays.
func (m *Buckets) Salvage(file []byte, slots api.SlotMap) (Losses, error) {
	s := salvager{loader: loader{shard: m.shard, state: newState()}, file: file, width: map[uint64]int{}}
	r, err := snapshot.NewReader(bytes.NewReader(file))
	if err != nil {
		return Losses{}, err
	}
	h := r.Header()
	if err := h.Check(snapshot.Header{Kind: snapshot.KindBuckets, Version: contentVersion, Shard: m.shard}); err != nil {
		return Losses{}, err
	}
	s.state.index, s.state.last = h.Index, h.TimeNS
	if _, err := snapshot.Salvage(file, s.record, s.damage); err != nil {
		return Losses{}, err
	}
	s.finish(slots)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = s.state
	m.broken = nil
	m.publish()
	return s.losses, nil
}

// salvager is a loader that goes on where something is wrong.
type salvager struct {
	loader
	file   []byte
	losses Losses

	metaRead bool
	gaps     []setGap // among the records up to the last set
	numbered bool     // the sets have their numbers
	// width is how many limits a set has that is lost, by its number, as far as
	// that was found out: a bucket's record does not tell.
	width map[uint64]int
	// mine says that an answer which comes is of the session before it: no record is
	// missing in between.
	mine bool
}

// setGap is a damaged stretch after so many sets.
type setGap struct {
	sets int
	one  bool // a single record
	meta bool // the first record of all, which is no set, is in it
}

func (s *salvager) damage(d snapshot.Damage) {
	s.losses.Stretches++
	s.mine = false
	if s.typ <= recSet {
		g := setGap{len(s.sets), d.One, !s.metaRead && len(s.sets) == 0 && len(s.gaps) == 0}
		g.one = g.one || g.meta && s.justMeta(d)
		s.gaps = append(s.gaps, g)
	}
}

// justMeta tells whether a stretch looks like the first record and nothing else, but
// for its head. It is not believed for that.
func (s *salvager) justMeta(d snapshot.Damage) bool {
	const head = 8
	if d.To-d.From < head {
		return false
	}
	scratch := loader{state: newState()}
	scratch.state.last = s.state.last
	return scratch.meta(s.file[d.From+head:d.To]) == nil
}

func (s *salvager) record(typ uint8, b []byte) {
	if typ > recSet && !s.numbered {
		s.numberSets()
	}
	if typ < s.typ && (typ != recSession || s.typ != recAnswer) {
		return // it is of something else
	}
	s.typ = typ
	switch typ {
	case recMeta:
		if !s.metaRead {
			s.metaRead = s.meta(b) == nil
		}
	case recSet:
		if n := len(s.sets); s.addSet(b) != nil { // it keeps its number
			s.sets = append(s.sets[:n], nil)
		}
	case recBuckets:
		for len(b) > 0 {
			b = s.salvageBucket(b)
		}
	case recDedup:
		s.each(b, s.requestID)
	case recSession:
		s.endSession()
		s.mine = s.session(b) == nil
		if !s.mine {
			s.answers = 0
		}
	case recAnswer:
		if s.mine && s.answers > 0 && s.answer(b) != nil {
			s.losses.Answers++
		}
	case recHolds:
		s.each(b, s.hold)
	case recEnds:
		s.each(b, s.ending)
	}
}

// endSession counts the answers that the last session lacks.
func (s *salvager) endSession() {
	s.losses.Answers += int(s.answers)
	s.answers = 0
}

// each is the loader's, past items whose set is lost. What follows an item that can't
// be read is lost with it: nobody knows where the next one begins.
func (s *salvager) each(b []byte, item func([]byte) ([]byte, error)) {
	for len(b) > 0 {
		rest, err := item(b)
		if err != nil && rest == nil {
			return
		}
		b = rest
	}
}

// numberSets puts a nil in the place of each set that is lost. Buckets name sets by
// number: where that can't be told any more, no set is known.
func (s *salvager) numberSets() {
	s.numbered = true
	missing := 0
	if s.metaRead {
		missing = int(s.want.sets) - len(s.sets)
	}
	var of []setGap // that sets may have been in
	for _, g := range s.gaps {
		if !g.meta || !g.one {
			of = append(of, g)
		}
	}
	switch {
	case missing == 0 && (s.metaRead || len(of) == 0):
		return
	case s.metaRead && missing > 0 && len(of) == 1:
		s.insertSets(of[0].sets, missing)
	case s.metaRead && missing == len(of):
		for i, g := range of {
			s.insertSets(g.sets+i, 1)
		}
	default:
		s.sets = nil
	}
}

// insertSets makes room for n sets that are lost, if that is no more than a snapshot
// could have.
func (s *salvager) insertSets(at, n int) {
	const most = 1 << 20
	if n > most {
		s.sets = nil
		return
	}
	s.sets = append(s.sets[:at:at], append(make([]*set, n), s.sets[at:]...)...)
}

// lost says whether b begins with the number of a set that is lost.
func (s *salvager) lost(number uint64) bool {
	return number < uint64(len(s.sets)) && s.sets[number] == nil
}

// salvageBucket reads one bucket, or passes it over if its set is lost, and returns
// what follows; nil if that can't be told.
func (s *salvager) salvageBucket(b []byte) []byte {
	number, _, err := api.CutUvarint(b)
	if err != nil {
		return nil
	}
	if s.lost(number) {
		return s.skipBucket(b)
	}
	rest, err := s.bucket(b)
	if err != nil {
		return nil
	}
	return rest
}

// skipBucket passes over a bucket of a set that is lost. How many limits that had
// shows by what follows.
func (s *salvager) skipBucket(b []byte) []byte {
	number, levels, ok := s.cutBucket(b)
	if !ok {
		return nil
	}
	if n := s.width[number]; n > 0 {
		rest, _ := cutLevels(levels, n)
		return rest
	}
	for n := 1; n <= maxLimits; n++ {
		rest, ok := cutLevels(levels, n)
		if !ok {
			return nil
		}
		s.width[number] = n
		if s.plausible(rest) {
			return rest
		}
	}
	delete(s.width, number)
	return nil
}

// plausible tells whether b is buckets to its end, as far as their sets are known.
func (s *salvager) plausible(b []byte) bool {
	for len(b) > 0 {
		number, levels, ok := s.cutBucket(b)
		if !ok {
			return false
		}
		n := s.width[number]
		if set := s.sets[number]; set != nil {
			n = len(set.limits)
		} else if n == 0 {
			return true // another one that is lost
		}
		if b, ok = cutLevels(levels, n); !ok {
			return false
		}
	}
	return true
}

// cutBucket reads a bucket up to its levels.
func (s *salvager) cutBucket(b []byte) (number uint64, levels []byte, ok bool) {
	var v [3]uint64 // number of the set, age, length of the key
	var err error
	for i := range v {
		if v[i], b, err = api.CutUvarint(b); err != nil {
			return 0, nil, false
		}
	}
	if v[0] >= uint64(len(s.sets)) || v[1] > s.state.last || v[2] < 1 || v[2] > api.MaxKey || v[2] > uint64(len(b)) {
		return 0, nil, false
	}
	return v[0], b[v[2]:], true
}

// cutLevels passes over n levels.
func cutLevels(b []byte, n int) ([]byte, bool) {
	for range n {
		_, k := binary.Varint(b)
		if k <= 0 {
			return nil, false
		}
		var err error
		if _, b, err = api.CutUvarint(b[k:]); err != nil {
			return nil, false
		}
	}
	return b, true
}

// finish makes a whole state of what was read, and counts what was not.
func (s *salvager) finish(slots api.SlotMap) {
	s.endSession()
	st := &s.state
	if !s.metaRead {
		s.losses.Uncounted = true
		st.owned = ownership{version: slots.Version}
		for _, r := range slots.Ranges {
			for slot := r.From; r.Shard == s.shard && slot <= r.To; slot++ {
				st.owned.set(slot)
			}
		}
	}
	st.sets.collect()
	if s.losses.Uncounted {
		return
	}
	for _, c := range []struct {
		lost *int
		want uint64
		got  int
	}{
		{&s.losses.Buckets, s.want.buckets, st.table.n},
		{&s.losses.RequestIDs, s.want.ids, st.dedup.n},
		{&s.losses.Sessions, s.want.sessions, len(st.sessions.byID)},
		{&s.losses.Holds, s.want.holds, len(st.holds.byID)},
		{&s.losses.Settled, s.want.ends, st.holds.ends.len()},
	} {
		*c.lost = max(0, int(c.want)-c.got)
	}
}

// Any says whether something is lost.
func (l Losses) Any() bool { return l != Losses{} }

// errSetLost is of an item whose set is, and which was passed over.
var errSetLost = errors.New("its set of limits is lost")
