package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/rlstore/rlstore/api"
)

// decodeInto reads a successful answer.
func decodeInto[T any](t *testing.T, r response) (v T) {
	t.Helper()
	if r.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", r.Status, r.body)
	}
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		t.Fatalf("%v in %s", err, r.body)
	}
	return v
}

func (w *world) remaining(policy, key string) int64 {
	w.t.Helper()
	r := w.post("/v1/peek", fmt.Sprintf(`{"policy":%q,"key":%q}`, policy, key))
	var p api.PeekResponse
	if err := json.Unmarshal([]byte(r.body), &p); err != nil || r.StatusCode != http.StatusOK {
		w.t.Fatalf("%s %s", r.Status, r.body)
	}
	return p.Remaining
}

func (w *world) reserveFor(body string) string {
	w.t.Helper()
	r := w.post("/v1/reservations", body)
	var res api.ReservationResponse
	if err := json.Unmarshal([]byte(r.body), &res); err != nil || !res.Allowed || res.ReservationID == "" {
		w.t.Fatalf("%s %s", r.Status, r.body)
	}
	return res.ReservationID
}

func TestAReservationIsSettledByWhatItCameTo(t *testing.T) {
	w := newWorld(t)
	for i, tc := range []struct {
		path, body string
		want       api.SettleResponse
		remaining  int64
	}{
		{"commit", `{"cost":70}`, api.SettleResponse{Committed: 70, Refunded: 30}, 130},
		{"commit", `{"cost":100}`, api.SettleResponse{Committed: 100}, 100},
		{"commit", `{"cost":0}`, api.SettleResponse{Refunded: 100}, 200},
		{"commit", `{"cost":150}`, api.SettleResponse{Committed: 150, Charged: 50}, 50},
		{"commit", `{"cost":1000}`, api.SettleResponse{Committed: 400, Charged: 300}, 0}, // one burst into debt
		{"cancel", `{}`, api.SettleResponse{Refunded: 100}, 200},
		{"cancel", ``, api.SettleResponse{Refunded: 100}, 200},
	} {
		t.Run(tc.path+tc.body, func(t *testing.T) {
			key := fmt.Sprint("k", i)
			id := w.reserveFor(fmt.Sprintf(`{"policy":"api","key":%q,"cost":100}`, key))
			got := decodeInto[api.SettleResponse](t, w.post("/v1/reservations/"+id+"/"+tc.path, tc.body))
			if got.Commit.Index == 0 {
				t.Error("the answer names no place in the log")
			}
			got.Commit = api.Commit{}
			if got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
			if left := w.remaining("api", key); left != tc.remaining {
				t.Errorf("%d tokens are left, want %d", left, tc.remaining)
			}
			again := decodeInto[api.SettleResponse](t, w.post("/v1/reservations/"+id+"/"+tc.path, tc.body))
			again.Commit = api.Commit{}
			tc.want.Duplicate = true
			if again != tc.want {
				t.Errorf("the second time: %+v, want %+v", again, tc.want)
			}
			if left := w.remaining("api", key); left != tc.remaining {
				t.Errorf("the second time changed the tokens to %d", left)
			}
		})
	}
}

func TestASettledReservationComesToNoOtherEnd(t *testing.T) {
	w := newWorld(t)
	id := w.reserveFor(`{"policy":"api","key":"k","cost":10}`)
	decodeInto[api.SettleResponse](t, w.post("/v1/reservations/"+id+"/commit", `{"cost":7}`))
	wantProblem(t, w.post("/v1/reservations/"+id+"/commit", `{"cost":8}`), api.AlreadySettled, "a cost of 7")
	wantProblem(t, w.post("/v1/reservations/"+id+"/cancel", `{}`), api.AlreadySettled, "committed")
	id = w.reserveFor(`{"policy":"api","key":"k","cost":10}`)
	decodeInto[api.SettleResponse](t, w.post("/v1/reservations/"+id+"/cancel", `{}`))
	wantProblem(t, w.post("/v1/reservations/"+id+"/commit", `{"cost":10}`), api.AlreadySettled, "cancelled")
	if left := w.remaining("api", "k"); left != 193 {
		t.Errorf("%d tokens are left, want 193", left)
	}
}

func TestAReservationThatExpiresFollowsItsRule(t *testing.T) {
	w := newWorld(t)
	for rule, tc := range map[string]struct {
		path, same       string
		other, otherwise string
		remaining        int64
	}{
		"commit": {"commit", `{"cost":100}`, "cancel", `{}`, 0},
		"cancel": {"cancel", `{}`, "commit", `{"cost":100}`, 100},
	} {
		key := "k-" + rule
		id := w.reserveFor(fmt.Sprintf(`{"limits":[{"rate":1,"per":"24h","burst":100}],"key":%q,"cost":100,"ttl":"30s","on_expiry":%q}`, key, rule))
		w.set(func() { w.stamp += 30_000_000_000 })
		got := decodeInto[api.SettleResponse](t, w.post("/v1/reservations/"+id+"/"+tc.path, tc.same))
		if !got.Duplicate || got.Committed+got.Refunded != 100 || got.Refunded != tc.remaining {
			t.Errorf("%s: %+v", rule, got)
		}
		wantProblem(t, w.post("/v1/reservations/"+id+"/"+tc.other, tc.otherwise), api.AlreadySettled, "expired")
	}
}

func TestADeniedReservationHasNoID(t *testing.T) {
	w := newWorld(t)
	w.post("/v1/take", `{"policy":"slow","key":"k","cost":2}`)
	r := w.post("/v1/reservations", `{"policy":"slow","key":"k"}`)
	if r.StatusCode != http.StatusOK || strings.Contains(r.body, "reservation_id") || !strings.Contains(r.body, `"allowed":false`) {
		t.Errorf("%s %s", r.Status, r.body)
	}
	r = w.post("/v1/reservations?deny_status=429", `{"policy":"slow","key":"k"}`)
	if r.StatusCode != http.StatusTooManyRequests || r.Header.Get("Retry-After") == "" {
		t.Errorf("%s %s", r.Status, r.body)
	}
}

func TestARequestIDGivesTheSameReservationAgain(t *testing.T) {
	w := newWorld(t)
	const body = `{"policy":"api","key":"k","cost":10,"request_id":"r"}`
	first := decodeInto[api.ReservationResponse](t, w.post("/v1/reservations", body))
	again := decodeInto[api.ReservationResponse](t, w.post("/v1/reservations", body))
	if first.Duplicate || !again.Duplicate || again.ReservationID != first.ReservationID || again.Commit != first.Commit {
		t.Errorf("first %+v, again %+v", first, again)
	}
	wantProblem(t, w.post("/v1/take", `{"policy":"api","key":"k","cost":10,"request_id":"r"}`), api.RequestIDReused, "")
	if left := w.remaining("api", "k"); left != 190 {
		t.Errorf("%d tokens are left, want 190", left)
	}
}

func TestTheReservationsOfADeletedPolicyAreStillSettled(t *testing.T) {
	w := newWorld(t)
	id := w.reserveFor(`{"policy":"api","key":"k","cost":100}`)
	if r := w.do("DELETE", "/v1/policies/api", ""); r.StatusCode/100 != 2 {
		t.Fatalf("%s %s", r.Status, r.body)
	}
	wantProblem(t, w.post("/v1/reservations", `{"policy":"api","key":"k"}`), api.UnknownPolicy, "api")
	got := decodeInto[api.SettleResponse](t, w.post("/v1/reservations/"+id+"/commit", `{"cost":60}`))
	if got.Committed != 60 || got.Refunded != 40 {
		t.Errorf("%+v", got)
	}
	if r := w.do("PUT", "/v1/policies/api", `{"limits":[{"name":"burst","rate":100,"per":"1s","burst":200}]}`, "Content-Type: application/json"); r.StatusCode/100 != 2 {
		t.Fatalf("%s %s", r.Status, r.body)
	}
	if left := w.remaining("api", "k"); left != 140 {
		t.Errorf("%d tokens are left, want 140", left)
	}
}

func TestAResetTakesReservationsAlong(t *testing.T) {
	w := newWorld(t)
	id := w.reserveFor(`{"policy":"api","key":"k","cost":100}`)
	w.post("/v1/reset", `{"policy":"api","key":"k"}`)
	wantProblem(t, w.post("/v1/reservations/"+id+"/commit", `{"cost":60}`), api.NotFound, id)
	if left := w.remaining("api", "k"); left != 200 {
		t.Errorf("%d tokens are left, want 200", left)
	}
}

func TestBadInputAboutHoldsIsRefused(t *testing.T) {
	w := newWorld(t)
	id := w.reserveFor(`{"policy":"api","key":"k","cost":10}`)
	unknown := api.NewHoldID("k", [14]byte{1})
	elsewhere := id[:len(id)-1] + map[bool]string{true: "0", false: "1"}[id[len(id)-1] != '0']
	for _, tc := range []struct {
		name, path, body string
		code             api.Code
		says             string
	}{
		{"no key", "/v1/reservations", `{"policy":"api"}`, api.InvalidRequest, "key: the field is missing"},
		{"no policy", "/v1/reservations", `{"key":"k"}`, api.InvalidRequest, "policy: the field is missing"},
		{"unknown policy", "/v1/reservations", `{"policy":"nope","key":"k"}`, api.UnknownPolicy, "nope"},
		{"a bad key", "/v1/reservations", `{"policy":"api","key":""}`, api.InvalidRequest, "0 bytes"},
		{"cost 0", "/v1/reservations", `{"policy":"api","key":"k","cost":0}`, api.InvalidRequest, "cost is 0"},
		{"cost of another type", "/v1/reservations", `{"policy":"api","key":"k","cost":"1"}`, api.InvalidRequest, "cost"},
		{"cost over the burst", "/v1/reservations", `{"policy":"api","key":"k","cost":201}`, api.CostExceedsBurst, "201"},
		{"an unknown field", "/v1/reservations", `{"policy":"api","key":"k","max_wait_ms":1}`, api.InvalidRequest, "max_wait_ms"},
		{"a field twice", "/v1/reservations", `{"policy":"api","key":"k","ttl":"1s","ttl":"2s"}`, api.InvalidRequest, "twice"},
		{"ttl 0", "/v1/reservations", `{"policy":"api","key":"k","ttl":"0s"}`, api.InvalidRequest, "ttl"},
		{"ttl below 0", "/v1/reservations", `{"policy":"api","key":"k","ttl":"-1s"}`, api.InvalidRequest, "ttl"},
		{"ttl over a day", "/v1/reservations", `{"policy":"api","key":"k","ttl":"24h1ms"}`, api.InvalidRequest, "ttl"},
		{"ttl without a unit", "/v1/reservations", `{"policy":"api","key":"k","ttl":"30"}`, api.InvalidRequest, "ttl"},
		{"ttl of another type", "/v1/reservations", `{"policy":"api","key":"k","ttl":30}`, api.InvalidRequest, "ttl: it needs to be a string"},
		{"null ttl", "/v1/reservations", `{"policy":"api","key":"k","ttl":null}`, api.InvalidRequest, "ttl: null"},
		{"on_expiry", "/v1/reservations", `{"policy":"api","key":"k","on_expiry":"refund"}`, api.InvalidRequest, "on_expiry"},
		{"empty on_expiry", "/v1/reservations", `{"policy":"api","key":"k","on_expiry":""}`, api.InvalidRequest, "on_expiry"},
		{"empty request id", "/v1/reservations", `{"policy":"api","key":"k","request_id":""}`, api.InvalidRequest, "request_id"},
		{"deny_status", "/v1/reservations?deny_status=500", `{"policy":"api","key":"k"}`, api.InvalidRequest, "deny_status"},
		{"commit without a body", "/v1/reservations/" + id + "/commit", ``, api.InvalidRequest, "cost: the field is missing"},
		{"commit without a cost", "/v1/reservations/" + id + "/commit", `{}`, api.InvalidRequest, "cost: the field is missing"},
		{"commit of less than nothing", "/v1/reservations/" + id + "/commit", `{"cost":-1}`, api.InvalidRequest, "cost is -1"},
		{"commit of too much", "/v1/reservations/" + id + "/commit", `{"cost":2147483648}`, api.InvalidRequest, "2147483648"},
		{"commit of a fraction", "/v1/reservations/" + id + "/commit", `{"cost":0.5}`, api.InvalidRequest, "cost"},
		{"commit with a request id", "/v1/reservations/" + id + "/commit", `{"cost":1,"request_id":"r"}`, api.InvalidRequest, "request_id"},
		{"cancel with a cost", "/v1/reservations/" + id + "/cancel", `{"cost":1}`, api.InvalidRequest, "cost: there is no such field here; there are none"},
		{"a malformed id", "/v1/reservations/rsv_1/commit", `{"cost":1}`, api.InvalidRequest, "rsv_1"},
		{"a permit's id", "/v1/reservations/pmt_" + id[4:] + "/commit", `{"cost":1}`, api.InvalidRequest, "pmt_"},
		{"an id of no slot", "/v1/reservations/rsv_ffff" + id[8:] + "/commit", `{"cost":1}`, api.InvalidRequest, "rsv_ffff"},
		{"an unknown id", "/v1/reservations/" + unknown.Reservation() + "/commit", `{"cost":1}`, api.NotFound, unknown.Reservation()},
		{"another's id", "/v1/reservations/" + elsewhere + "/cancel", `{}`, api.NotFound, elsewhere},
		{"a reservation's id as a permit's", "/v1/permits/pmt_" + id[4:] + "/release", `{}`, api.NotFound, "pmt_"},
		{"renew of an unknown permit", "/v1/permits/" + unknown.Permit() + "/renew", `{"ttl":"1s"}`, api.NotFound, unknown.Permit()},
		{"renew with a bad ttl", "/v1/permits/" + unknown.Permit() + "/renew", `{"ttl":"1"}`, api.InvalidRequest, "ttl"},
		{"release with a body", "/v1/permits/" + unknown.Permit() + "/release", `{"ttl":"1s"}`, api.InvalidRequest, "ttl"},
		{"release of a reservation", "/v1/permits/" + id + "/release", `{}`, api.InvalidRequest, "rsv_"},
		{"a permit without a concurrency limit", "/v1/permits", `{"policy":"api","key":"k"}`, api.InvalidRequest, "no concurrency limit"},
		{"a permit with on_expiry", "/v1/permits", `{"policy":"api","key":"k","on_expiry":"cancel"}`, api.InvalidRequest, "on_expiry: there is no such field"},
		{"a permit for no time", "/v1/permits", `{"policy":"api","key":"k","ttl":"1ns"}`, api.InvalidRequest, "ttl"},
	} {
		t.Run(tc.name, func(t *testing.T) { wantProblem(t, w.post(tc.path, tc.body), tc.code, tc.says) })
	}
	if left := w.remaining("api", "k"); left != 190 {
		t.Errorf("%d tokens are left, want 190", left)
	}
}

func TestHoldsInTheBinaryForm(t *testing.T) {
	w := newWorld(t)
	id := newHoldID("k")
	var b api.Batch
	b.Add(api.Op{Kind: api.Reserve, Policy: b.Ref("api"), Key: "k", Cost: 100, Hold: &api.Hold{ID: id, TTL: 1000}})
	binary := func(path string, b *api.Batch) response {
		t.Helper()
		return w.do("POST", path, string(api.AppendBatch(nil, b)), "Content-Type: "+api.MediaBatch)
	}
	one := func(r response) api.Result {
		t.Helper()
		rep, err := api.DecodeReply([]byte(r.body))
		if err != nil {
			t.Fatalf("%v: %s %s", err, r.Status, r.body)
		}
		var res api.Result
		if ok, err := rep.Next(&res); !ok {
			t.Fatal(err)
		}
		return res
	}
	if res := one(binary("/v1/reservations", &b)); res.Status != api.StatusHeld || res.Hold.ID != id || res.Limits[0].Remaining != 100 {
		t.Fatalf("%+v", res)
	}
	var commit api.Batch
	commit.Add(api.Op{Kind: api.Settle, Cost: 40, Hold: &api.Hold{ID: id}})
	wantProblem(t, binary("/v1/reservations/"+newHoldID("k").Reservation()+"/commit", &commit), api.InvalidRequest, "the id in the path")
	wantProblem(t, binary("/v1/reservations/"+id.Reservation()+"/cancel", &commit), api.InvalidRequest, "no other kind than cancel")
	if res := one(binary("/v1/reservations/"+id.Reservation()+"/commit", &commit)); res.Status != api.StatusSettled || res.Hold.Refunded != 60 {
		t.Fatalf("%+v", res)
	}
	// Of all kinds, and of several shards.
	var mixed api.Batch
	other := newHoldID("another")
	mixed.Add(api.Op{Kind: api.Reserve, Policy: mixed.Ref("api"), Key: "another", Cost: 5, Hold: &api.Hold{ID: other, TTL: 1000}})
	mixed.Add(api.Op{Kind: api.Settle, Cost: 40, Hold: &api.Hold{ID: id}})
	mixed.Add(api.Op{Kind: api.Take, Policy: mixed.Ref("two"), Key: "k", Cost: 5})
	mixed.Add(api.Op{Kind: api.Cancel, Hold: &api.Hold{ID: other}})
	r := binary("/v1/take/batch", &mixed)
	rep, err := api.DecodeReply([]byte(r.body))
	if err != nil {
		t.Fatalf("%v: %s %s", err, r.Status, r.body)
	}
	for i, want := range []api.Status{api.StatusHeld, api.StatusSettled, api.StatusAllowed, api.StatusSettled} {
		var res api.Result
		if ok, err := rep.Next(&res); !ok || res.Status != want {
			t.Errorf("result %d: %+v, %v; want %v", i, res, err, want)
		}
	}
}

func TestAPermitTakesASlotUntilItEnds(t *testing.T) {
	w := newWorld(t)
	if r := w.do("PUT", "/v1/policies/jobs", `{"limits":[{"name":"jobs","algorithm":"concurrency","max":2},{"name":"starts","rate":10,"per":"1h"}]}`, "Content-Type: application/json"); r.StatusCode/100 != 2 {
		t.Fatalf("%s %s", r.Status, r.body)
	}
	acquire := func(ttl string) api.PermitResponse {
		t.Helper()
		return decodeInto[api.PermitResponse](t, w.post("/v1/permits", fmt.Sprintf(`{"policy":"jobs","key":"k","ttl":%q}`, ttl)))
	}
	first, second := acquire("10s"), acquire("20s")
	if !first.Allowed || !second.Allowed || first.PermitID == second.PermitID || second.Limits[0].Remaining != 0 || second.Limits[1].Remaining != 8 {
		t.Fatalf("%+v, %+v", first, second)
	}
	denied := acquire("1s")
	if denied.Allowed || denied.PermitID != "" || denied.RetryAfterMS != 10_000 || denied.ResetAfterMS != 20_000 || denied.Limit != 2 {
		t.Errorf("%+v", denied)
	}
	if r := w.post("/v1/permits?deny_status=429", `{"policy":"jobs","key":"k"}`); !strings.Contains(r.body, "has 0 of 2 permits left; the same request passes in 10000 ms at the latest, if nobody renews") {
		t.Errorf("%s %s", r.Status, r.body)
	}
	wantProblem(t, w.post("/v1/take", `{"policy":"jobs","key":"k"}`), api.PermitRequired, "jobs")
	wantProblem(t, w.post("/v1/take/batch", `{"atomic":true,"requests":[{"policy":"jobs","key":"k"}]}`), api.PermitRequired, "jobs")
	wantProblem(t, w.post("/v1/reservations", `{"policy":"jobs","key":"k"}`), api.PermitRequired, "jobs")

	if r := decodeInto[api.RenewResponse](t, w.post("/v1/permits/"+first.PermitID+"/renew", `{"ttl":"30s"}`)); !r.Renewed || r.TTLMS != 30_000 {
		t.Errorf("%+v", r)
	}
	if denied := acquire("1s"); denied.Allowed || denied.RetryAfterMS != 20_000 {
		t.Errorf("after a renewal: %+v", denied)
	}
	if r := decodeInto[api.ReleaseResponse](t, w.post("/v1/permits/"+first.PermitID+"/release", ``)); !r.Released || r.Duplicate {
		t.Errorf("%+v", r)
	}
	if r := decodeInto[api.ReleaseResponse](t, w.post("/v1/permits/"+first.PermitID+"/release", `{}`)); !r.Released || !r.Duplicate {
		t.Errorf("the second time: %+v", r)
	}
	wantProblem(t, w.post("/v1/permits/"+first.PermitID+"/renew", `{}`), api.AlreadySettled, "released")
	if third := acquire("1s"); !third.Allowed {
		t.Errorf("%+v", third)
	}
	w.set(func() { w.stamp += 20_000_000_000 })
	wantProblem(t, w.post("/v1/permits/"+second.PermitID+"/renew", `{}`), api.AlreadySettled, "expired")
	if r := decodeInto[api.ReleaseResponse](t, w.post("/v1/permits/"+second.PermitID+"/release", `{}`)); !r.Duplicate {
		t.Errorf("a release after the expiry: %+v", r)
	}
	if fourth := acquire("1s"); !fourth.Allowed || fourth.Limits[0].Remaining != 1 {
		t.Errorf("%+v", fourth)
	}
	// Deleting the policy leaves its permits to their holders.
	held := acquire("1h")
	if r := w.do("DELETE", "/v1/policies/jobs", ""); r.StatusCode/100 != 2 {
		t.Fatalf("%s %s", r.Status, r.body)
	}
	decodeInto[api.RenewResponse](t, w.post("/v1/permits/"+held.PermitID+"/renew", `{}`))
	decodeInto[api.ReleaseResponse](t, w.post("/v1/permits/"+held.PermitID+"/release", `{}`))
}
