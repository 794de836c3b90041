package api

import "fmt"

// SlotRange gives the slots From to To, both included, to one shard.
type SlotRange struct {
	From  uint16 `json:"from"`
	To    uint16 `json:"to"`
	Shard uint32 `json:"shard"`
}

// SlotMap says which shard owns each slot. Ranges are sorted, do not overlap,
// and cover all slots. Version grows with every change.
type SlotMap struct {
	Version uint64      `json:"version"`
	Ranges  []SlotRange `json:"ranges"`
}

// EvenSlotMap spreads all slots over shards 1 to shards, in order, as evenly
// as integers allow. It is version 1: the map that a new cluster starts with.
func EvenSlotMap(shards uint32) SlotMap {
	m := SlotMap{Version: 1}
	for s := range shards {
		m.Ranges = append(m.Ranges, SlotRange{
			From:  uint16(uint64(s) * Slots / uint64(shards)),
			To:    uint16(uint64(s+1)*Slots/uint64(shards) - 1),
			Shard: s + 1,
		})
	}
	return m
}

// Table expands the map for look-ups: the shard of each slot. It fails when
// the ranges leave a slot out, overlap, or name shard 0, the catalog.
func (m SlotMap) Table() (*[Slots]uint32, error) {
	var t [Slots]uint32
	next := 0
	for _, r := range m.Ranges {
		if int(r.From) != next || r.To < r.From || r.To >= Slots || r.Shard == 0 {
			return nil, fmt.Errorf("slot map version %d: bad range %d-%d of shard %d", m.Version, r.From, r.To, r.Shard)
		}
		for s := int(r.From); s <= int(r.To); s++ {
			t[s] = r.Shard
		}
		next = int(r.To) + 1
	}
	if next != Slots {
		return nil, fmt.Errorf("slot map version %d: covers %d of %d slots", m.Version, next, Slots)
	}
	return &t, nil
}
