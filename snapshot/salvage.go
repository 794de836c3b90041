package snapshot

import (
	"encoding/binary"
	"fmt"
)

// Damage is a stretch of a file that holds no whole record.
type Damage struct {
	From, To int // byte offsets
	// One says that it is just one record: its length still leads to the next one.
	One bool
}

// Salvage reads what is left of a file that a [Reader] refuses. It calls record
// with each record whose own checksum is right, and damaged where something is not,
// in the order of the file; payload is part of file. It fails, with [ErrCorrupt] or
// [ErrVersion], only if the header is not right: nobody can tell then what the
// records are of.
//
// A record that is missing without a trace it does not notice: that is for those to
// count who know what the records hold.
func Salvage(file []byte, record func(typ uint8, payload []byte), damaged func(Damage)) (Header, error) {
	var r Reader
	if len(file) < headerSize {
		return r.header, corrupt(0, "the file ends too early, at byte %d", len(file))
	}
	if err := r.parseHeader([headerSize]byte(file)); err != nil {
		return r.header, err
	}
	at, cut := headerSize, true
	for at < len(file) {
		size := wholeRecord(file[at:])
		switch {
		case size == 0:
			d := stretch(file, at)
			damaged(d)
			at, cut = d.To, d.To < len(file)
			continue
		case file[at] == footerType:
			return r.header, nil
		}
		record(file[at], file[at+recordHeadSize:at+size])
		at += size
	}
	if cut { // the footer is missing, and whatever was before it
		damaged(Damage{From: at, To: at})
	}
	return r.header, nil
}

// wholeRecord returns the size of the record that b begins with, 0 if it is not whole.
func wholeRecord(b []byte) int {
	size := claimedSize(b)
	if size == 0 || size > len(b) {
		return 0
	}
	if binary.LittleEndian.Uint32(b[4:]) != recordCRC(b[:4], b[recordHeadSize:size]) {
		return 0
	}
	return size
}

// claimedSize is the size that the head of a record tells, 0 for none.
func claimedSize(b []byte) int {
	if len(b) < recordHeadSize {
		return 0
	}
	n := int(binary.LittleEndian.Uint32(b) >> 8)
	if b[0] == footerType && n != footerSize {
		return 0
	}
	return recordHeadSize + n
}

// salvageSums bounds the bytes that are summed to find the next record behind one
// whose length is wrong: every place may claim to be the head of a long one. So that
// they last for more than some hundred places, records of usual length come first.
const (
	salvageSums = 4 << 30
	usualSize   = 64 << 10
)

// stretch is the damage that begins at a place, up to the next whole record.
func stretch(file []byte, at int) Damage {
	d := Damage{From: at, To: len(file)}
	if size := claimedSize(file[at:]); size > 0 && size <= len(file)-at && wholeRecord(file[at+size:]) > 0 {
		d.To, d.One = at+size, true // by its own word, and another record begins there
	}
	summed := 0
	for _, most := range []int{usualSize, recordHeadSize + MaxRecord} {
		for next := at + 1; next < d.To && summed < salvageSums; next++ {
			size := claimedSize(file[next:])
			if size == 0 || size > min(most, d.To-next) {
				continue
			}
			summed += size
			// Its word may be wrong and reach over others. What a record holds may look like
			// one, and does not end where the record does.
			if wholeRecord(file[next:]) > 0 && (!d.One || leadsTo(file, next, d.To)) {
				d.To, d.One = next, false
			}
		}
	}
	return d
}

// leadsTo tells whether whole records follow each other from a place to an end.
func leadsTo(file []byte, at, end int) bool {
	for at < end {
		size := wholeRecord(file[at:])
		if size == 0 {
			return false
		}
		at += size
	}
	return at == end
}

// String is for people.
func (d Damage) String() string { return fmt.Sprintf("bytes %d to %d", d.From, d.To) }
