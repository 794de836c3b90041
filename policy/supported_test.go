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
		"mode":           func(p *api.Policy) { p.Mode = "leased" },
		"no mode":        func(p *api.Policy) { p.Mode = "" },
		"on_unavailable": func(p *api.Policy) { p.OnUnavailable = "open" },
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
