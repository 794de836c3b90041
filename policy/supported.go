package policy

import (
	"fmt"
	"slices"
	"strings"

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
		if !slices.Contains(f.ch, f.value) {
			return fmt.Errorf("policy %q: %s %q is not supported, only %s", p.Name, f.field, f.value, strings.Join(f.ch, ", "))
		}
	}
	if err := supportedModes(p); err != nil {
		return err
	}
	if err := api.CheckZone(p.ZoneRules); err != nil {
		return fmt.Errorf("policy %q: %w", p.Name, err)
	}
	for _, h := range p.Headers {
		if !slices.Contains(headers, h) {
			return fmt.Errorf("policy %q: headers %q is not supported, only %s", p.Name, h, strings.Join(headers, ", "))
		}
	}
	for i, l := range p.Limits {
		if !slices.Contains(algorithms, l.Algorithm) {
			return fmt.Errorf("policy %q: limits[%d]: algorithm %q is not supported, only %s", p.Name, i, l.Algorithm, strings.Join(algorithms, ", "))
		}
		ok := l.Rate > 0 && l.Per > 0
		switch l.Algorithm {
		case tokenBucket:
			ok = ok && l.Burst > 0
		case fixedWindow:
			ok = ok || l.Rate > 0 && l.Per == api.Month
		case concurrency:
			ok = l.Max > 0
		}
		if l.Name == "" || !ok {
			return fmt.Errorf("policy %q: limits[%d]: %s of %d per %s, burst %d, max %d is no limit", p.Name, i, l.Algorithm, l.Rate, l.Per, l.Burst, l.Max)
		}
	}
	return nil
}
