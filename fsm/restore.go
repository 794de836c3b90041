package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/snapshot"
)

// Restore replaces the state by that of a snapshot. On an error the old state
// stays. A machine that has halted stays halted only if Restore fails.
func (m *Buckets) Restore(r io.Reader) error {
	sr, err := snapshot.NewReader(r)
	if err != nil {
		return err
	}
	h := sr.Header()
	if err := h.Check(snapshot.Header{Kind: snapshot.KindBuckets, Version: contentVersion, Shard: m.shard}); err != nil {
		return err
	}
	l := loader{shard: m.shard, state: newState()}
	l.state.index, l.state.last = h.Index, h.TimeNS
	l.state.dedup.max, l.state.sessions.max = m.dedup.max, m.sessions.max
	l.state.sessions.maxReplies, l.state.sessions.maxBytes = m.sessions.maxReplies, m.sessions.maxBytes
	l.state.holds.max, l.state.holds.maxEnds = m.holds.max, m.holds.maxEnds
	for {
		typ, payload, err := sr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := l.record(typ, payload); err != nil {
			return fmt.Errorf("fsm: the snapshot of shard %d has a bad record of type %d: %w", m.shard, typ, err)
		}
	}
	if err := l.finish(); err != nil {
		return fmt.Errorf("fsm: the snapshot of shard %d: %w", m.shard, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = l.state
	m.broken = nil
	m.publish()
	return nil
}

// loader builds a state from records.
type loader struct {
	shard uint32
	state state
	typ   uint8 // of the record before

	want struct{ sets, buckets, ids, sessions, holds, ends uint64 }
	sets []*set // by number

	// The bucket before, for the order.
	hash uint64
	set  *set
	key  []byte

	stamp   uint64 // of the request id before
	node    *sessionNode
	answers uint64 // of node that are still to come
	res     api.Result
	holdID  api.HoldID // of the hold before
	endedAt uint64     // of the settled hold before
}

func (l *loader) record(typ uint8, b []byte) error {
	switch {
	case l.typ == 0 && typ != recMeta, l.typ != 0 && typ == recMeta, typ < l.typ && (typ != recSession || l.typ != recAnswer):
		return errors.New("it is out of order")
	case l.answers > 0 && typ != recAnswer:
		return errors.New("a session lacks answers before it")
	}
	l.typ = typ
	switch typ {
	case recMeta:
		return l.meta(b)
	case recSet:
		return l.addSet(b)
	case recBuckets:
		return each(b, l.bucket)
	case recDedup:
		return each(b, l.requestID)
	case recSession:
		return l.session(b)
	case recAnswer:
		return l.answer(b)
	case recHolds:
		return each(b, l.hold)
	case recEnds:
		return each(b, l.ending)
	}
	return errors.New("the type is unknown")
}

func each(b []byte, item func([]byte) ([]byte, error)) (err error) {
	for len(b) > 0 && err == nil {
		b, err = item(b)
	}
	return err
}

func (l *loader) meta(b []byte) (err error) {
	st := &l.state
	var n uint64
	for _, v := range []*uint64{&st.cursor, &st.owned.version, &n} {
		if *v, b, err = api.CutUvarint(b); err != nil {
			return err
		}
	}
	if st.cursor >= 1<<hashBits || n > api.Slots || uint64(len(b)) < n*4 {
		return errShort
	}
	for ; n > 0; n, b = n-1, b[4:] {
		from, to := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:])
		if from > to || to >= api.Slots {
			return fmt.Errorf("slots %d to %d", from, to)
		}
		for s := from; s <= to; s++ {
			st.owned.set(s)
		}
	}
	for _, v := range []*uint64{&l.want.sets, &l.want.buckets, &l.want.ids, &l.want.sessions, &l.want.holds, &l.want.ends} {
		if *v, b, err = api.CutUvarint(b); err != nil {
			return err
		}
	}
	if len(b) > 0 {
		k := &st.clock
		n := 0
		if k.offset, n = binary.Varint(b); n <= 0 {
			return errShort
		}
		var age, peak uint64
		if age, b, err = api.CutUvarint(b[n:]); err != nil {
			return err
		}
		if peak, b, err = api.CutUvarint(b); err != nil {
			return err
		}
		if age > st.last || k.offset < -maxOffset || k.offset > maxOffset || peak > maxWall {
			return errShort
		}
		k.set, k.at, k.peak = true, st.last-age, int64(peak)
	}
	return end(b)
}

func end(b []byte) error {
	if len(b) != 0 {
		return errors.New("bytes follow its end")
	}
	return nil
}

func (l *loader) addSet(b []byte) error {
	if n := len(l.sets); n > 0 && l.sets[n-1] != nil && bytes.Compare(l.sets[n-1].encoded, b) >= 0 {
		return errors.New("sets are not sorted")
	}
	s, err := l.state.sets.intern(string(b))
	if err == nil && s.refusal.code != "" {
		err = errors.New(s.refusal.detail)
	}
	l.sets = append(l.sets, s)
	return err
}

func (l *loader) bucket(r []byte) ([]byte, error) {
	var v [3]uint64
	var err error
	for i := range v { // number of the set, age, length of the key
		if v[i], r, err = api.CutUvarint(r); err != nil {
			return nil, err
		}
	}
	if v[0] >= uint64(len(l.sets)) || v[1] > l.state.last || v[2] < 1 || v[2] > api.MaxKey || v[2] > uint64(len(r)) {
		return nil, errShort
	}
	key := r[:v[2]]
	r = r[v[2]:]
	b := bucket{set: l.sets[v[0]], at: moment{now: l.state.last - v[1]}}
	for i := range b.set.limits {
		tokens, n := binary.Varint(r)
		if n <= 0 {
			return nil, errShort
		}
		b.lim[i].tokens = tokens
		if b.lim[i].frac, r, err = api.CutUvarint(r[n:]); err != nil {
			return nil, err
		}
		if reason := b.set.limits[i].check(b.lim[i]); reason != ResetNone {
			return nil, fmt.Errorf("bucket %q: %v", key, reason)
		}
	}
	hash := b.set.bucketHash(api.Hash(string(key)))
	if l.set != nil && !l.before(hash, b.set, key) {
		return nil, fmt.Errorf("bucket %q is not in its place", key)
	}
	l.hash, l.set, l.key = hash, b.set, append(l.key[:0], key...)
	l.state.table.put(hash, at{}, string(key), &b, &l.state.sets)
	return r, nil
}

// before says whether the bucket before comes before this one.
func (l *loader) before(hash uint64, s *set, key []byte) bool {
	if l.hash != hash {
		return l.hash < hash
	}
	if l.set.policy != s.policy {
		return l.set.policy < s.policy
	}
	return bytes.Compare(l.key, key) < 0
}

func (l *loader) requestID(r []byte) ([]byte, error) {
	size := decodeRemembered(r, &l.res)
	if size == 0 {
		return nil, errShort
	}
	n, id := binary.LittleEndian.Uint32(r), r[dedupHead+1:dedupHead+1+int(r[dedupHead])]
	if uint64(n) >= uint64(len(l.sets)) || len(id) < 1 || len(id) > api.MaxRequestID {
		return nil, errShort
	}
	s, c := l.sets[n], l.res.Commit
	if s == nil {
		return r[size:], errSetLost
	}
	if len(s.limits) != len(l.res.Limits) || l.res.Binding >= len(s.limits) || l.res.Status > api.StatusRefunded && l.res.Status != api.StatusHeld {
		return nil, fmt.Errorf("the result of request id %q does not fit its limits", id)
	}
	if c.TimeNS < l.stamp || c.TimeNS > l.state.last {
		return nil, fmt.Errorf("request id %q is not in its place", id)
	}
	l.stamp = c.TimeNS
	rec := append([]byte(nil), r[:size]...)
	binary.LittleEndian.PutUint32(rec, s.id)
	s.refs++
	l.state.dedup.append(rec, api.Hash(string(id)), c.TimeNS)
	return r[size:], nil
}

func (l *loader) session(b []byte) (err error) {
	t := &l.state.sessions
	s := &session{}
	if len(b) < len(s.id) {
		return errShort
	}
	b = b[copy(s.id[:], b):]
	for _, v := range []*uint64{&s.last, &s.acked, &l.answers} {
		if *v, b, err = api.CutUvarint(b); err != nil {
			return err
		}
	}
	if s.last > l.state.last || t.new != nil && s.last < t.new.last || t.byID[s.id] != nil {
		return errors.New("the session is not in its place")
	}
	l.node = t.add(s)
	return end(b)
}

func (l *loader) answer(b []byte) error {
	if l.answers == 0 {
		return errors.New("it belongs to no session")
	}
	l.answers--
	seq, b, err := api.CutUvarint(b)
	if err != nil {
		return err
	}
	s := l.node.session
	if n := len(s.replies); seq <= s.acked || n > 0 && seq <= s.replies[n-1].seq {
		return errors.New("it is out of sequence")
	}
	if _, err := api.DecodeReply(b); err != nil {
		return err
	}
	l.state.sessions.store(s, seq, b)
	return nil
}

// finish checks that nothing is missing.
func (l *loader) finish() error {
	st := &l.state
	if l.typ == 0 || l.answers > 0 {
		return errors.New("it ends too early")
	}
	if err := l.checkLeases(); err != nil {
		return err
	}
	st.sets.collect()
	got := []int{len(st.sets.byBytes), st.table.n, st.dedup.n, len(st.sessions.byID), len(st.holds.byID), st.holds.ends.len()}
	for i, want := range []uint64{l.want.sets, l.want.buckets, l.want.ids, l.want.sessions, l.want.holds, l.want.ends} {
		if uint64(got[i]) != want {
			return fmt.Errorf("it has %d %s instead of %d", got[i],
				[]string{"sets in use", "buckets", "request ids", "sessions", "holds", "settled holds"}[i], want)
		}
	}
	return nil
}
