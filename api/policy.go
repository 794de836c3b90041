package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Policy is one document of the catalog, with every default filled in when it
// comes from a server.
type Policy struct {
	Name          string  `json:"name"`
	Limits        []Limit `json:"limits"`
	Mode          string  `json:"mode,omitempty"`           // strict
	OnUnavailable string  `json:"on_unavailable,omitempty"` // closed
	Enforcement   string  `json:"enforcement,omitempty"`    // enforce
	Revision      uint64  `json:"revision,omitempty"`       // set by the server
}

// Limit is one rule of a policy.
type Limit struct {
	Name      string   `json:"name,omitempty"`
	Algorithm string   `json:"algorithm,omitempty"` // token_bucket
	Rate      int64    `json:"rate"`                // tokens each Per
	Per       Duration `json:"per"`
	Burst     int64    `json:"burst,omitempty"` // 0 is Rate
}

// Duration is a time span written as a Go duration string, such as "1s".
type Duration time.Duration

// String is the shortest Go duration string: "24h", not "24h0m0s".
func (d Duration) String() string {
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
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is not a duration such as \"1s\" or \"24h\"", s)
	}
	*d = Duration(v)
	return nil
}
