package policy

import (
	"testing"

	"github.com/rlstore/rlstore/api"
)

func TestWhatParsesIsSupportedAndNothingLaterIs(t *testing.T) {
	valid := func() api.Policy {
		p, errs := Parse([]byte("name: a\nlimits: [{rate: 5, per: 1m}]"), "")
		if len(errs) > 0 {
			t.Fatal(lines(errs))
		}
		return p
	}
	if p := valid(); Supported(&p) != nil {
		t.Errorf("a parsed policy is not supported: %v", Supported(&p))
	}
	for name, change := range map[string]func(*api.Policy){
		"mode":           func(p *api.Policy) { p.Mode = "fast" },
		"no lease_ttl":   func(p *api.Policy) { p.Mode = "leased" },
		"no interval":    func(p *api.Policy) { p.Mode = "soft" },
		"lease_ttl":      func(p *api.Policy) { p.LeaseTTL = MinLeaseTTL },
		"sync_interval":  func(p *api.Policy) { p.SyncInterval = MinSyncInterval },
		"hot_keys":       func(p *api.Policy) { p.HotKeys = []string{"k"} },
		"unavailability": func(p *api.Policy) { p.OnUnavailableFor = minute },
		"open permits": func(p *api.Policy) {
			p.Limits, p.OnUnavailable = []api.Limit{{Name: "c", Algorithm: concurrency, Max: 1}}, "open"
		},
		"no mode":        func(p *api.Policy) { p.Mode = "" },
		"on_unavailable": func(p *api.Policy) { p.OnUnavailable = "fail" },
		"enforcement":    func(p *api.Policy) { p.Enforcement = "maybe" },
		"algorithm":      func(p *api.Policy) { p.Limits[0].Algorithm = "leaky" },
		"no max":         func(p *api.Policy) { p.Limits[0].Algorithm = "concurrency" },
		"month":          func(p *api.Policy) { p.Limits[0].Per = api.Month },
		"zone":           func(p *api.Policy) { p.ZoneRules = []api.ZoneShift{{1, 0}} },
		"no limits":      func(p *api.Policy) { p.Limits = nil },
		"no name":        func(p *api.Policy) { p.Name = "" },
		"no rate":        func(p *api.Policy) { p.Limits[0].Rate = 0 },
		"no per":         func(p *api.Policy) { p.Limits[0].Per = 0 },
		"no burst":       func(p *api.Policy) { p.Limits[0].Burst = 0 },
	} {
		p := valid()
		change(&p)
		if Supported(&p) == nil {
			t.Errorf("%s: %+v passes", name, p)
		}
	}
}
