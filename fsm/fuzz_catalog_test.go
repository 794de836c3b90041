package fsm

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/rlstore/rlstore/snapshot"
)

// FuzzCatalogEntry: no entry, however made, panics; one that halts the machine
// has no effect; and what one makes of the catalog survives a snapshot.
func FuzzCatalogEntry(f *testing.F) {
	c, log := testLog(f)
	for _, e := range log {
		f.Add(e[1], e[entryHeaderSize:])
	}
	base, index := c.View(), uint64(len(log))
	var in fileReader
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		if _, err := NewCatalog().Apply(1, body); err == nil && binary.LittleEndian.Uint32(body[4:]) != entryCRC(body) {
			t.Fatal("a bad checksum is applied")
		}
		c, two := catalogAt(base, index), catalogAt(base, index)
		e := sealed(entryVersion, kind, string(body))
		res, err := c.Apply(index+1, e)
		if _, err2 := two.Apply(index+1, e); (err == nil) != (err2 == nil) {
			t.Fatalf("one machine says %v, the other %v", err, err2)
		}
		switch {
		case err != nil:
			if _, err := c.Apply(index+2, log[1]); err == nil {
				t.Fatal("it applied another entry after that")
			}
		case res.Err != nil || res.Unchanged:
		case c.View().Index != index+1:
			t.Fatalf("%+v, but the last change is of index %d", res, c.View().Index)
		default:
			after := catalogBytes(t, c)
			if !bytes.Equal(catalogBytes(t, two), after) {
				t.Fatal("the machines differ")
			}
			again := NewCatalog()
			if err := again.Restore(in.of(after)); err != nil || !bytes.Equal(catalogBytes(t, again), after) {
				t.Fatalf("the state does not survive a snapshot: %v", err)
			}
			return
		}
		if c.View() != base {
			t.Fatal("the catalog has changed")
		}
	})
}

// catalogAt is a machine that has come to v, which it shares but never changes.
func catalogAt(v *CatalogView, index uint64) *Catalog {
	c := NewCatalog()
	c.view.Store(v)
	c.index = index
	return c
}

// FuzzRestoreCatalog is [FuzzRestore] for the catalog.
func FuzzRestoreCatalog(f *testing.F) {
	c, log := testLog(f)
	records := packFile(f, catalogBytes(f, c))
	f.Add(records)
	f.Add(packFile(f, catalogBytes(f, NewCatalog())))
	var in fileReader
	f.Fuzz(func(t *testing.T, packed []byte) {
		c := NewCatalog()
		file := unpackFile(t, snapshot.Header{Kind: snapshot.KindCatalog, Version: catalogVersion, Index: fuzzIndex}, packed)
		if c.Restore(in.of(file)) != nil {
			if _, index := c.Last(); index != 0 || len(c.View().Policies) != 0 {
				t.Fatal("a snapshot that was refused has changed the catalog")
			}
			return
		}
		once := catalogBytes(t, c)
		again := NewCatalog()
		if err := again.Restore(in.of(once)); err != nil {
			t.Fatalf("what was written can't be restored: %v", err)
		}
		if !bytes.Equal(catalogBytes(t, again), once) {
			t.Fatal("a restored catalog is written otherwise")
		}
		for _, p := range c.View().List() {
			if _, ok := c.View().Policy(p.Name); !ok {
				t.Fatalf("there is no policy %q, which is listed", p.Name)
			}
		}
		if _, err := c.Apply(fuzzIndex+1, log[1]); err != nil {
			t.Fatalf("an entry after the restore: %v", err)
		}
	})
}

// packFile writes a snapshot's records in a row: type, u32 length, bytes.
func packFile(t failer, file []byte) []byte {
	r, err := snapshot.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for {
		typ, payload, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, typ)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(payload)))
		out = append(out, payload...)
	}
}

// unpackFile makes a file with right checksums of whatever records packed spells.
func unpackFile(t failer, h snapshot.Header, packed []byte) []byte {
	var file bytes.Buffer
	w, err := snapshot.NewWriter(&file, h)
	if err != nil {
		t.Fatal(err)
	}
	for len(packed) >= 5 {
		typ, n := packed[0], int(min(binary.LittleEndian.Uint32(packed[1:]), uint32(len(packed)-5)))
		if typ == 0 {
			typ = 1 // 0 is the file's own
		}
		if err := w.Record(typ, packed[5:5+n]); err != nil {
			t.Fatal(err)
		}
		packed = packed[5+n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}
