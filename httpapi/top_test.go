package httpapi

import (
	"testing"

	"github.com/rlstore/rlstore/api"
)

func TestTop(t *testing.T) {
	w := newWorld(t)
	for range 2 {
		w.post("/v1/take", `{"policy":"two","key":"k","cost":6}`)
	}
	w.post("/v1/take", `{"policy":"two","key":"l","cost":7}`)
	same(t, w.do("GET", "/v1/top", "").body, `{"by":"denied","window_ms":120000,"one_in":1,
		"keys":[{"policy":"two","key":"k","taken":0,"denied":1,"error_bound":0}],"nodes":["n1"],"missing":["n2"]}`)
	same(t, w.do("GET", "/v1/top?by=taken&n=1&node=local", "").body, `{"by":"taken","window_ms":120000,"one_in":1,
		"keys":[{"policy":"two","key":"l","taken":7,"denied":0,"error_bound":0}],"nodes":["n1"],"missing":[]}`)
	for _, query := range []string{"by=cost", "by=denied&by=taken", "n=0", "n=1001", "n=x", "n=1&n=2", "node=n1", "node=local&node=local"} {
		wantProblem(t, w.do("GET", "/v1/top?"+query, ""), api.InvalidRequest, "")
	}
}
