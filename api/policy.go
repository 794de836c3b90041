package api

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"
)

// Policy is one document of the catalog, with every default filled in when it
// comes from a server.
type Policy struct {
	Name          string  `json:"name"`
	Limits        []Limit `json:"limits"`
	Mode          string  `json:"mode,omitempty"`           // strict, leased, soft or auto
	OnUnavailable string  `json:"on_unavailable,omitempty"` // closed, open or local
	Enforcement   string  `json:"enforcement,omitempty"`    // enforce, shadow or off
	TimeZone      string  `json:"time_zone,omitempty"`      // of fixed windows: "Europe/Berlin"; "" is UTC
	Revision      uint64  `json:"revision,omitempty"`       // set by the server

	LeaseTTL     Duration `json:"lease_ttl,omitempty"`     // how long a holder may keep tokens; of leased and auto
	SyncInterval Duration `json:"sync_interval,omitempty"` // how often what was spent locally is charged; of soft
	HotKeys      []string `json:"hot_keys,omitempty"`      // of auto: keys that are leased from the first take on

	// OnUnavailableFor is how long after it was last heard of the store may be
	// absent before open and local become closed; 0 is for as long as it lasts.
	OnUnavailableFor Duration `json:"on_unavailable_for,omitempty"`

	// Headers names what the answers to JSON takes tell beside the draft's fields:
	// "x-ratelimit" is the triple X-RateLimit-Limit, -Remaining and -Reset.
	Headers []string `json:"headers,omitempty"`

	// ZoneRules is what the zone is by, for some twenty years from when the
	// policy was written; set by the server, so that every node goes by the same.
	ZoneRules []ZoneShift `json:"time_zone_rules,omitempty"`
}

// Limit is one rule of a policy.
type Limit struct {
	Name      string   `json:"name,omitempty"`
	Algorithm string   `json:"algorithm,omitempty"` // token_bucket, fixed_window, sliding_window or concurrency
	Rate      int64    `json:"rate,omitempty"`      // tokens each Per; 0 of a concurrency limit
	Per       Duration `json:"per,omitempty"`       // 0 of a concurrency limit
	Burst     int64    `json:"burst,omitempty"`     // of a token bucket; 0 is Rate
	Max       int64    `json:"max,omitempty"`       // of a concurrency limit: permits at a time
}

// Duration is a time span written as a Go duration string, such as "1s", or the
// span "month".
type Duration time.Duration

// Month is the [Limit.Per] of a fixed window that lasts a month of the calendar.
const Month Duration = math.MinInt64

// String is the shortest Go duration string: "24h", not "24h0m0s".
func (d Duration) String() string {
	if d == Month {
		return "month"
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalJSON writes the string form.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads the string form, and nothing else.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("a duration is a string such as \"1s\", not %s", b)
	}
	if s == "month" {
		*d = Month
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil || Duration(v) == Month {
		return fmt.Errorf("%q is not a duration such as \"1s\" or \"24h\"", s)
	}
	*d = Duration(v)
	return nil
}
