package policy

import (
	"fmt"

	"github.com/rlstore/rlstore/api"
)

// Supported says what in a normalized policy this version cannot act upon, or
// returns nil. A replica asks it of a policy that comes from the log: unlike
// [Parse] it minds no bounds, so that a log stays good when these get tighter.
func Supported(p *api.Policy) error {
	if p.Name == "" || len(p.Limits) == 0 {
		return fmt.Errorf("policy %q has %d limits", p.Name, len(p.Limits))
	}
	for _, f := range []struct {
		field, value string
		ch           choice
	}{{"mode", p.Mode, modes}, {"on_unavailable", p.OnUnavailable, unavailables}, {"enforcement", p.Enforcement, enforcements}} {
		if f.value != f.ch.value {
			return fmt.Errorf("policy %q: %s %q is not supported, only %s", p.Name, f.field, f.value, f.ch.value)
		}
	}
	for i, l := range p.Limits {
		if l.Algorithm != algorithms.value {
			return fmt.Errorf("policy %q: limits[%d]: algorithm %q is not supported, only %s", p.Name, i, l.Algorithm, algorithms.value)
		}
		if l.Name == "" || l.Rate <= 0 || l.Per <= 0 || l.Burst <= 0 {
			return fmt.Errorf("policy %q: limits[%d]: %d per %s with burst %d is no limit", p.Name, i, l.Rate, l.Per, l.Burst)
		}
	}
	return nil
}
