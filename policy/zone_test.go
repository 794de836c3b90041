package policy

import (
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

// Rules say of every hour of their years what the time zone database says.
func TestZoneRulesAreTheDatabases(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for _, name := range []string{"Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia"} {
		loc, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		rules, err := ZoneRules(name, now)
		if err != nil || api.CheckZone(rules) != nil || len(rules) == 0 {
			t.Fatalf("%s: %v, %v", name, rules, err)
		}
		i := 0
		for at := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC); at.Year() < 2046; at = at.Add(time.Hour / 2) {
			for i+1 < len(rules) && rules[i+1].At() <= at.Unix() {
				i++
			}
			if _, offset := at.In(loc).Zone(); int64(offset) != rules[i].Offset() {
				t.Fatalf("%s at %v: %d, want %d", name, at, rules[i].Offset(), offset)
			}
		}
	}
}

func TestUTCHasNoRules(t *testing.T) {
	for _, name := range []string{"", "UTC", "Etc/UTC"} {
		if rules, err := ZoneRules(name, time.Now()); err != nil || rules != nil {
			t.Errorf("%q: %v, %v", name, rules, err)
		}
	}
	if _, err := ZoneRules("Mars/Olympus", time.Now()); api.AsProblem(err).Code != api.InvalidPolicy {
		t.Errorf("an unknown zone: %v", err)
	}
}
