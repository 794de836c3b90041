package policy

import (
	"slices"
	"strings"
	"testing"
)

func TestHeadersAreAListOfKnownNames(t *testing.T) {
	const limits = "name: p\nlimits: [{rate: 1, per: 1s}]\n"
	for _, tc := range []struct{ field, want string }{
		{"headers: []", ""},
		{"headers: [x-ratelimit]", ""},
		{"headers: x-ratelimit", "it needs a list"},
		{"headers: [x-ratelimit, x-ratelimit]", "is in the list already"},
		{"headers: [retry-after]", "headers[0]"},
	} {
		p, errs := Parse([]byte(limits+tc.field), "")
		if tc.want == "" {
			if errs != nil || strings.Contains(tc.field, "x-") != slices.Contains(p.Headers, XRateLimit) {
				t.Errorf("%s: %q, %v", tc.field, p.Headers, errs)
			}
			continue
		}
		if len(errs) != 1 || errs[0].Line != 3 || !strings.Contains(errs[0].Path+": "+errs[0].Message, tc.want) {
			t.Errorf("%s: %+v, want %q", tc.field, errs, tc.want)
		}
	}
}
