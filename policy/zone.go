package policy

import (
	"sort"
	"time"
	_ "time/tzdata" // so that every binary knows every zone

	"go.yaml.in/yaml/v3"

	"github.com/rlstore/rlstore/api"
)

// zoneYears is for how many years from its write a policy knows the shifts of
// its time zone. After that the last offset stays, until it is written again.
const zoneYears = 20

// timeZone reads the name of a time zone.
func (c *checker) timeZone(n *yaml.Node, path string, limits []api.Limit) string {
	name, ok := c.text(n, path)
	if !ok {
		return ""
	}
	if _, err := location(name); err != nil {
		c.add(n, path, "%s is not a time zone; write a name of the IANA database, such as UTC or Europe/Berlin", quote(name))
		return ""
	}
	for _, l := range limits {
		if l.Algorithm == fixedWindow {
			return name
		}
	}
	if len(c.errs) == 0 {
		c.add(n, path, "time_zone is for fixed_window limits, and this policy has none; remove it")
	}
	return ""
}

// location is time.LoadLocation without the names that mean another zone on
// another machine.
func location(name string) (*time.Location, error) {
	if name == "" || name == "Local" {
		return nil, errNoZone
	}
	return time.LoadLocation(name)
}

var errNoZone = api.NewProblem(api.InvalidPolicy, "it names no time zone")

// ZoneRules returns what the time zone of this name, as this binary knows it, is
// from the year before now on for some twenty years. It is nil for UTC, "".
//
// Binaries know zones differently. So the rules are found once, where a policy
// is written, and stored with it: see [api.Policy.ZoneRules]. They change only
// from year to year, so that writing an equal policy again changes nothing.
func ZoneRules(name string, now time.Time) ([]api.ZoneShift, error) {
	if name == "" {
		return nil, nil
	}
	loc, err := location(name)
	if err != nil {
		return nil, api.NewProblem(api.InvalidPolicy, "time_zone: %q is not a time zone", name)
	}
	at := func(unix int64) int64 {
		_, offset := time.Unix(unix, 0).In(loc).Zone()
		return int64(offset)
	}
	first := time.Date(now.UTC().Year()-1, 1, 1, 0, 0, 0, 0, time.UTC)
	offset := at(first.Unix())
	rules := []api.ZoneShift{{0, offset}}
	// Time.ZoneBounds would tell the shifts, but not those of every zone. None
	// shifts twice in six hours.
	const step = 6 * 3600
	for t, end := first.Unix(), first.AddDate(zoneYears+1, 0, 0).Unix(); t < end && len(rules) < api.MaxZoneShifts; t += step {
		if at(t+step) == offset {
			continue
		}
		shift := t + 1 + int64(sort.Search(step-1, func(i int) bool { return at(t+1+int64(i)) != offset }))
		offset = at(shift)
		rules = append(rules, api.ZoneShift{shift, offset})
	}
	if len(rules) == 1 && offset == 0 {
		return nil, nil
	}
	return rules, nil
}
