package raftnode

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// strayLog is what can be read of one group's log in one place, be it whole or not.
//
// Entries are looked for everywhere in the files, past whatever would lead to them:
// each carries a checksum that covers its place, so what has a right one is an entry.
// In a bbolt file pages that are in use no more are found as well. They may hold an
// entry whose own page is damaged; and they may hold one that was cut off the log's
// end, and replaced by another leader's. So what a walk of the file as far as it is whole
// has come across is believed first, and of the rest the one of the highest term.
type strayLog struct {
	where   string // for people
	damage  error  // what is wrong there; nil is that all is as it was written
	entries map[uint64]strayEntry
	last    uint64 // the highest index
	first   uint64 // the lowest; 0 if there is none
}

// strayEntry is where an entry lies.
type strayEntry struct {
	term   uint64
	pieces []strayPiece
}

type strayPiece struct {
	file   *os.File
	offset int64
	size   int
	key    uint64 // of carrier.go
	sum    uint32
	decode func(b []byte, carrier *raft.Log) error
}

// carrier reads the piece.
func (p *strayPiece) carrier() (carrier raft.Log, err error) {
	b := make([]byte, p.size)
	if _, err := p.file.ReadAt(b, p.offset); err != nil {
		return carrier, err
	}
	err = p.decode(b, &carrier)
	carrier.Index = p.key
	return carrier, err
}

// read returns an entry that is there.
func (s *strayLog) read(index uint64) (*raft.Log, error) {
	var r reassembly
	for _, p := range s.entries[index].pieces {
		carrier, err := p.carrier()
		if err != nil {
			return nil, fmt.Errorf("%s, entry %d: %w", s.where, index, err)
		}
		if _, err := r.add(p.key, &carrier); err != nil {
			return nil, fmt.Errorf("%s: %w", s.where, err)
		}
	}
	return &r.entry, nil
}

func (s *strayLog) put(index uint64, e strayEntry) {
	s.entries[index] = e
	if s.last = max(s.last, index); s.first == 0 || index < s.first {
		s.first = index
	}
}

// drop forgets the entries from index on.
func (s *strayLog) drop(from uint64) {
	old := s.entries
	s.entries, s.first, s.last = map[uint64]strayEntry{}, 0, 0
	for index, e := range old {
		if index < from {
			s.put(index, e)
		}
	}
}

// boltStrays finds the entries in a bbolt file, by group. The file stays open for
// them.
func boltStrays(f *os.File, where string) (map[uint32]*strayLog, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	live := map[uint64]uint32{} // sums of the carriers that the walk came across, by key
	c := newBoltChecker(f, info.Size())
	c.onCarrier = func(key uint64, sum uint32) { live[key] = sum }
	damage := asDamage(c.check())
	if damage != nil && !errors.Is(damage, ErrDamaged) {
		return nil, fmt.Errorf("read %s: %w", where, damage)
	}
	page := c.page
	if page == 0 {
		page = int64(os.Getpagesize())
	}
	found, err := scanBolt(f, info.Size(), page)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", where, err)
	}
	logs := map[uint32]*strayLog{}
	of := func(group uint32) *strayLog {
		if logs[group] == nil {
			logs[group] = &strayLog{where: where, damage: damage, entries: map[uint64]strayEntry{}}
		}
		return logs[group]
	}
	for group := range c.found {
		of(group)
	}
	for key := range found {
		group, index, piece := splitKey(key)
		if piece != 0 {
			continue
		}
		if _, ok := live[key]; !ok && damage == nil {
			continue // cut off, and the file is whole
		}
		if e, ok := assemble(found, live, key); ok {
			of(group).put(index, e)
		}
	}
	return logs, nil
}

// assemble returns the entry whose first piece stands under key, if all of it is there.
func assemble(found map[uint64][]strayPiece, live map[uint64]uint32, key uint64) (e strayEntry, ok bool) {
	var r reassembly
	for piece := uint64(0); ; piece++ {
		var best *strayPiece
		var carrier raft.Log
		copies := found[key+piece]
		for i := range copies {
			p := &copies[i]
			sum, walked := live[p.key]
			if walked && sum != p.sum {
				continue
			}
			l, err := p.carrier()
			switch {
			case err != nil:
				continue
			case best == nil:
			case piece > 0:
				return e, false // nobody knows which of them belongs to the first piece
			case binary.BigEndian.Uint64(l.Extensions[4:]) <= binary.BigEndian.Uint64(carrier.Extensions[4:]):
				continue
			}
			best, carrier = p, l
		}
		if best == nil {
			return e, false
		}
		done, err := r.add(key+piece, &carrier)
		if err != nil {
			return e, false
		}
		e.pieces = append(e.pieces, *best)
		if done {
			e.term = r.entry.Term
			return e, true
		}
	}
}

// boltScanner looks for carriers wherever a file could have them.
type boltScanner struct {
	file  *os.File
	size  int64
	page  int64
	value []byte // the key, and what a piece and its header take at most
	found map[uint64][]strayPiece
}

// scanBolt looks for carriers on every page that could be a leaf. Those that are the
// same it returns once.
func scanBolt(f *os.File, size, page int64) (map[uint64][]strayPiece, error) {
	s := &boltScanner{file: f, size: size, page: page, value: make([]byte, 8+2*pieceSize), found: map[uint64][]strayPiece{}}
	for at := int64(0); at+boltPageHead <= size; at += page {
		if err := s.scan(at, true); err != nil {
			return nil, err
		}
	}
	return s.found, nil
}

// scan looks at the elements of the page that begins at a place, and at those of small
// buckets, which are a page within one.
func (s *boltScanner) scan(at int64, buckets bool) error {
	head := make([]byte, min(s.page, s.size-at))
	if _, err := s.file.ReadAt(head, at); err != nil {
		return err
	}
	le := binary.LittleEndian
	for e := boltPageHead; e+boltElement <= len(head); e += boltElement {
		flags, keySize, length := le.Uint32(head[e:]), le.Uint32(head[e+8:]), int64(le.Uint32(head[e+12:]))
		key := at + int64(e) + int64(le.Uint32(head[e+4:]))
		switch {
		case key+int64(keySize)+length > s.size || length == 0: // nothing at all
		case keySize == 8 && 8+length <= int64(len(s.value)):
			if err := s.carrier(key, length); err != nil {
				return err
			}
		case buckets && flags&1 != 0 && keySize == uint32(len(bucketLogs)) && length > boltBucket+boltPageHead:
			if err := s.scan(key+int64(keySize)+boltBucket, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// carrier looks at a key with its value.
func (s *boltScanner) carrier(at, length int64) error {
	b := s.value[:8+length]
	if _, err := s.file.ReadAt(b, at); err != nil {
		return err
	}
	p := strayPiece{file: s.file, offset: at + 8, size: int(length), key: beUint64(b[:8]), decode: decodeBoltLog}
	var carrier raft.Log
	if decodeBoltLog(b[8:], &carrier) != nil || !carrierWhole(p.key, &carrier) {
		return nil
	}
	p.sum = binary.BigEndian.Uint32(carrier.Extensions)
	if !slices.ContainsFunc(s.found[p.key], func(o strayPiece) bool { return o.sum == p.sum }) {
		s.found[p.key] = append(s.found[p.key], p)
	}
	return nil
}

func decodeBoltLog(b []byte, l *raft.Log) error {
	return codec.NewDecoderBytes(b, &codec.MsgpackHandle{}).Decode(l)
}

// carrierWhole tells whether what was found is the carrier of that key.
func carrierWhole(key uint64, c *raft.Log) bool {
	x := c.Extensions
	_, index, piece := splitKey(key)
	return c.Index == key && index > 0 && len(x) >= 4 && (piece > 0 || len(x) >= firstHeader) &&
		carrierSum(key, x[4:], c.Data) == binary.BigEndian.Uint32(x)
}

// walStrays finds the entries of a group in a folder of segments, which stay open for
// them; opened hears of each.
func walStrays(dir, where string, group uint32, opened func(*os.File)) (*strayLog, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil {
		return nil, err
	}
	type segment struct {
		path     string
		base, id uint64
	}
	var segments []segment
	for _, path := range paths {
		s := segment{path: path}
		if n, _ := fmt.Sscanf(filepath.Base(path), "%d-%x.wal", &s.base, &s.id); n == 2 {
			segments = append(segments, s)
		}
	}
	slices.SortFunc(segments, func(a, b segment) int { return cmp.Compare(a.id, b.id) })
	log := &strayLog{where: where, entries: map[uint64]strayEntry{}}
	for _, s := range segments {
		log.drop(s.base) // the end that was cut off before this one was begun
		f, err := os.Open(s.path)
		if err != nil {
			return nil, err
		}
		opened(f)
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		b := make([]byte, info.Size())
		if _, err := io.ReadFull(f, b); err != nil {
			return nil, err
		}
		scanSegment(b, f, group, log)
	}
	for i := log.first; i < log.last; i++ {
		if _, ok := log.entries[i+1]; !ok {
			log.damage = asDamage(fmt.Errorf("entry %d is damaged", i+1))
			break
		}
	}
	if len(segments) > 0 && log.first == 0 {
		log.damage = asDamage(errors.New("no entry can be read"))
	}
	return log, nil
}

// scanSegment looks for entries at every place where a segment can have one: a frame
// is u8 kind (1 is an entry), three bytes 0, u32 length, and what it holds, and begins
// at a multiple of 8.
func scanSegment(b []byte, f *os.File, group uint32, log *strayLog) {
	const head, entry = 8, 1
	for at := 32; at+head <= len(b); {
		size := int(binary.LittleEndian.Uint32(b[at+4:]))
		next := at + head
		if binary.LittleEndian.Uint32(b[at:]) == entry && size <= len(b)-next {
			var carrier raft.Log
			if decodeWALLog(b[next:next+size], &carrier) == nil && carrier.Index > 0 && carrier.Index <= maxIndex {
				index := carrier.Index
				key := carrierKey(group, index, 0)
				carrier.Index = key
				if carrierWhole(key, &carrier) {
					log.put(index, strayEntry{
						term:   binary.BigEndian.Uint64(carrier.Extensions[4:]),
						pieces: []strayPiece{{file: f, offset: int64(next), size: size, key: key, decode: decodeWALLog}},
					})
					next += (size + head - 1) / head * head
				}
			}
		}
		at = next
	}
}

// decodeWALLog reads what raft-wal wrote. Its decoder takes for granted that somebody
// has looked at the sums before.
func decodeWALLog(b []byte, l *raft.Log) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	return new(wal.BinaryCodec).Decode(b, l)
}
