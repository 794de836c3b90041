package limiter

import (
	"bytes"
	"encoding/json"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// parseInline reads limits written into a request.
func parseInline(doc []byte) (*policy.Set, error) {
	var limits []api.Limit
	d := json.NewDecoder(bytes.NewReader(doc))
	d.DisallowUnknownFields()
	if err := d.Decode(&limits); err != nil {
		return nil, api.NewProblem(api.InvalidRequest, "limits: %v", err)
	}
	for i := range limits {
		l := &limits[i]
		if l.Burst == 0 {
			l.Burst = l.Rate
		}
		if l.Rate < 1 || l.Per < 1 || l.Burst < 1 {
			return nil, api.NewProblem(api.InvalidRequest, "limits[%d]: rate, per and burst must be positive", i)
		}
	}
	if len(limits) == 0 {
		return nil, api.NewProblem(api.InvalidRequest, "limits: none given")
	}
	return policy.Resolve(&api.Policy{Limits: limits}), nil
}
