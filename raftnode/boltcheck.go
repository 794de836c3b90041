package raftnode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
)

// What follows reads a bbolt file as bbolt's format has it, before bbolt does.
//
// On a damaged page bbolt panics, some of the time on a goroutine of its own,
// where nobody can recover, or it reads beyond the end of its mapping, which
// ends the process with a fault and no word on the file; and bits that flipped in
// a vote or an entry it does not notice at all, since it has no checksums but of
// its first two pages. A node must say which log is damaged. What passes here, bbolt
// can read, and it is as it was written; see decision 0011.
//
// A file is pages of one size:
//
//	page     u64 its number, u16 flags, u16 count, u32 overflow: pages that
//	         continue it; then count elements, then keys and values
//	branch   element: u32 position of the key, counted from the element itself,
//	         u32 length of the key, u64 page of the child
//	leaf     element: u32 flags, u32 position, u32 lengths of key and of value
//	meta     pages 0 and 1: u32 magic, version, page size, flags; u64 root page,
//	         sequence, page of free pages, pages in use, transaction, FNV-1a
//
// A leaf's element with flag 1 is a bucket: its value is u64 root page, u64
// sequence, and if the root is 0 a whole small page. Integers are in the order
// of the machine, which is little-endian wherever rlstore is built for.
const (
	boltBranch = 1
	boltLeaf   = 2
	boltFree   = 16

	boltPageHead = 16
	boltElement  = 16
	boltBucket   = 16
	boltMetaSize = 64 // of which the last 8 bytes are the checksum
	boltMagic    = 0xED0CDAED
	boltVersion  = 2

	maxBoltPage = 16 << 20 // what bbolt looks for
)

// foundLog is what the check of a file has found of one group.
type foundLog struct {
	first, last uint64   // 0 if there are no entries
	sizes       sizeRing // of the newest entries
}

// checkBolt returns an error that says what is wrong with the log file at path,
// which nobody may write to meanwhile, or the groups that have a log in it.
func checkBolt(path string) (map[uint32]*foundLog, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	c := newBoltChecker(f, info.Size())
	return c.found, c.check()
}

func newBoltChecker(r io.ReaderAt, size int64) *boltChecker {
	return &boltChecker{r: r, size: size, seen: map[uint64]bool{}, found: map[uint32]*foundLog{}}
}

func (c *boltChecker) check() error {
	meta, err := c.meta()
	if err != nil {
		return err
	}
	if err := c.tree(binary.LittleEndian.Uint64(meta[16:]), keyRange{}, c.topLevel); err != nil {
		return err
	}
	if c.buckets == 1 { // none: it ended between the making of the file and of these
		return errors.New("it holds logs without votes, or the reverse")
	}
	if c.entry.next != 0 {
		return fmt.Errorf("group %d: entry %d has no end", c.group, c.entry.entry.Index)
	}
	return c.free(binary.LittleEndian.Uint64(meta[32:]))
}

// boltChecker walks over the pages of one file.
type boltChecker struct {
	r    io.ReaderAt
	size int64           // of the file
	page int64           // size of a page
	txid uint64          // of the last transaction; a new file has 0 and 1
	end  uint64          // pages in use
	seen map[uint64]bool // pages that belong somewhere

	buckets int
	found   map[uint32]*foundLog // by group; the votes come before the entries
	group   uint32               // that the last entry is of
	entry   reassembly           // of the last entry

	onCarrier func(key uint64, sum uint32) // hears of each that is right; nil is nobody
}

// meta returns the newer of the two meta pages. Both have to be right. bbolt
// makes do with one, for a power cut may tear the other as it is written; but a
// disk writes so little as a whole or not at all, and to go back by a transaction
// that was confirmed is to forget a vote or an entry.
func (c *boltChecker) meta() ([]byte, error) {
	le := binary.LittleEndian
	newest, err := c.metaAt(0)
	if err != nil {
		return nil, err
	}
	if newest == nil {
		return nil, errors.New("its first meta page is not right")
	}
	c.page = int64(le.Uint32(newest[8:]))
	if c.page < 1024 || c.page > maxBoltPage || c.page&(c.page-1) != 0 {
		return nil, fmt.Errorf("it has pages of %d bytes", c.page)
	}
	switch other, err := c.metaAt(c.page); {
	case err != nil:
		return nil, err
	case other == nil || le.Uint32(other[8:]) != uint32(c.page):
		return nil, errors.New("its second meta page is not right")
	case le.Uint64(other[48:]) > le.Uint64(newest[48:]):
		newest = other
	}
	c.end, c.txid = le.Uint64(newest[40:]), le.Uint64(newest[48:])
	if c.end > uint64(c.size/c.page) {
		return nil, fmt.Errorf("it has been cut to %d bytes; it uses %d pages of %d", c.size, c.end, c.page)
	}
	return newest, nil
}

// metaAt returns the meta page at a place of the file, nil if none is right there.
func (c *boltChecker) metaAt(at int64) ([]byte, error) {
	le := binary.LittleEndian
	m := make([]byte, boltMetaSize)
	if _, err := c.r.ReadAt(m, at+boltPageHead); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	sum := fnv.New64a()
	sum.Write(m[:boltMetaSize-8])
	if le.Uint32(m) != boltMagic || le.Uint32(m[4:]) != boltVersion || le.Uint64(m[56:]) != sum.Sum64() {
		return nil, nil
	}
	return m, nil
}

// keyRange is where the keys below a page lie: from low on, and below high, if
// that is not nil.
type keyRange struct{ low, high []byte }

// visit is called for each element of a leaf.
type visit func(key []byte, bucket bool, value []byte) error

// tree walks the tree below a page.
func (c *boltChecker) tree(id uint64, in keyRange, leaf visit) error {
	p, err := c.read(id)
	if err != nil {
		return err
	}
	if c.txid > 1 && binary.LittleEndian.Uint16(p[10:]) == 0 { // an empty bucket is none of a page of its own
		return fmt.Errorf("page %d says that it is empty", id)
	}
	if err := p.walk(in, leaf, c.tree); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// read reads a page with those that continue it. No page belongs to two.
func (c *boltChecker) read(id uint64) (boltPage, error) {
	if id < 2 || id >= c.end {
		return nil, fmt.Errorf("there is no page %d", id)
	}
	var head [boltPageHead]byte
	at := int64(id) * c.page
	if _, err := c.r.ReadAt(head[:], at); err != nil {
		return nil, err
	}
	more := uint64(binary.LittleEndian.Uint32(head[12:]))
	if number := binary.LittleEndian.Uint64(head[:]); number != id || more >= c.end-id {
		return nil, fmt.Errorf("page %d says that it is page %d, and goes on for %d more", id, number, more)
	}
	for i := id; i <= id+more; i++ {
		if c.seen[i] {
			return nil, fmt.Errorf("page %d belongs to two", i)
		}
		c.seen[i] = true
	}
	p := make(boltPage, int64(more+1)*c.page)
	_, err := c.r.ReadAt(p, at)
	return p, err
}

// boltPage is the bytes of one page.
type boltPage []byte

// walk calls leaf with what the page holds, or below with each of its children;
// without below it must be a leaf.
func (p boltPage) walk(in keyRange, leaf visit, below func(uint64, keyRange, visit) error) error {
	if len(p) < boltPageHead {
		return errors.New("it is shorter than its head")
	}
	le := binary.LittleEndian
	flags, count := le.Uint16(p[8:]), int(le.Uint16(p[10:]))
	if flags != boltLeaf && (flags != boltBranch || count == 0 || below == nil) || boltPageHead+count*boltElement > len(p) {
		return fmt.Errorf("it is of kind %d, with %d elements", flags, count)
	}
	if below == nil && count == 0 && len(p) > boltPageHead {
		return errors.New("it says that it is empty, and is not")
	}
	element := func(i int) (e, key, value []byte, err error) {
		at := uint64(boltPageHead + i*boltElement)
		e = p[at : at+boltElement]
		sizes := e[4:]
		if flags == boltBranch {
			sizes = e
		}
		from := at + uint64(le.Uint32(sizes))
		mid := from + uint64(le.Uint32(sizes[4:]))
		end := mid
		if flags == boltLeaf {
			end += uint64(le.Uint32(sizes[8:]))
		}
		// What the first element names lies right behind the last element, so a
		// count that was cut short shows.
		start := uint64(boltPageHead + count*boltElement)
		if from < start || i == 0 && from != start || from == mid || end > uint64(len(p)) {
			return nil, nil, nil, fmt.Errorf("element %d lies from byte %d to %d", i, from, end)
		}
		return e, p[from:mid], p[mid:end], nil
	}
	for i := range count {
		e, key, value, err := element(i)
		if err != nil {
			return err
		}
		if bytes.Compare(in.low, key) > 0 || in.high != nil && bytes.Compare(key, in.high) >= 0 {
			return fmt.Errorf("element %d is out of order", i)
		}
		if flags == boltLeaf {
			in.low = append(key[:len(key):len(key)], 0) // the next one is greater
			err = leaf(key, le.Uint32(e)&1 != 0, value)
		} else {
			in.low = key
			child := keyRange{key, in.high}
			if i+1 < count {
				if _, child.high, _, err = element(i + 1); err != nil {
					return err
				}
				if bytes.Equal(key, child.high) {
					return fmt.Errorf("element %d is there twice", i)
				}
			}
			err = below(le.Uint64(e[8:]), child, leaf)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// free checks the page that lists the free pages, if there is one: bbolt writes
// it into a new file, and other programs may.
func (c *boltChecker) free(id uint64) error {
	if id == math.MaxUint64 {
		return nil
	}
	p, err := c.read(id)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	list, count := p[boltPageHead:], uint64(le.Uint16(p[10:]))
	if count == math.MaxUint16 { // then the first number is that of those which follow
		count, list = le.Uint64(list), list[8:]
	}
	if le.Uint16(p[8:]) != boltFree || count > uint64(len(list)/8) {
		return fmt.Errorf("page %d does not list free pages", id)
	}
	for i := range count {
		if n := le.Uint64(list[8*i:]); n < 2 || n >= c.end || c.seen[n] {
			return fmt.Errorf("page %d is listed as free", n)
		}
	}
	return nil
}

// topLevel checks what stands beside each other in the file: the two buckets.
func (c *boltChecker) topLevel(key []byte, bucket bool, value []byte) error {
	if !bucket || len(value) < boltBucket {
		return fmt.Errorf("%.20q is no bucket", key)
	}
	c.buckets++
	root := binary.LittleEndian.Uint64(value)
	walk := func(leaf visit) error {
		if root == 0 {
			return boltPage(value[boltBucket:]).walk(keyRange{}, leaf, nil)
		}
		return c.tree(root, keyRange{}, leaf)
	}
	switch string(key) {
	case string(bucketVotes):
		return walk(c.vote)
	case string(bucketLogs):
		return walk(c.carrier)
	}
	return fmt.Errorf("%.20q is not a bucket of a log", key)
}

// carrier expects the pieces of each entry one after the other, and each entry
// of a group to follow the one before it.
func (c *boltChecker) carrier(key []byte, bucket bool, value []byte) error {
	if bucket || len(key) != 8 {
		return fmt.Errorf("%x is not the key of an entry", key)
	}
	var carrier raft.Log
	if err := codec.NewDecoderBytes(value, &codec.MsgpackHandle{}).Decode(&carrier); err != nil {
		return fmt.Errorf("%x: %w", key, err)
	}
	group, index, _ := splitKey(beUint64(key))
	if group != c.group && c.entry.next != 0 {
		return fmt.Errorf("group %d: entry %d has no end", c.group, c.entry.entry.Index)
	}
	c.group = group
	done, err := c.entry.add(beUint64(key), &carrier)
	if err != nil {
		return fmt.Errorf("group %d: %w", group, err)
	}
	if c.onCarrier != nil {
		c.onCarrier(beUint64(key), binary.BigEndian.Uint32(carrier.Extensions))
	}
	if !done {
		return nil
	}
	log := c.found[group]
	switch {
	case log == nil:
		return fmt.Errorf("group %d has entries, but no log", group)
	case log.last != 0 && index != log.last+1:
		return fmt.Errorf("group %d: entry %d comes after entry %d", group, index, log.last)
	case log.first == 0:
		log.first = index
	}
	log.last = index
	log.sizes.append(index, entrySize(&c.entry.entry))
	return nil
}

// vote checks what is kept beside the logs, numbers among it.
func (c *boltChecker) vote(key []byte, bucket bool, value []byte) error {
	if bucket {
		return fmt.Errorf("%.20q is a bucket", key)
	}
	v, err := openVote(key, value)
	if err != nil {
		return err
	}
	digits, name, _ := strings.Cut(string(key), "/")
	group, err := strconv.ParseUint(digits, 10, 8)
	if err != nil {
		return fmt.Errorf("%.20q is of no group", key)
	}
	switch name {
	case keyMade:
		c.found[uint32(group)] = &foundLog{}
	case "CurrentTerm", "LastVoteTerm":
		if len(v) != 8 {
			return fmt.Errorf("%.20q has %d bytes", key, len(v))
		}
	}
	return nil
}
