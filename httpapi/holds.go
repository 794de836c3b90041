package httpapi

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"time"

	"github.com/gorilla/mux"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/limiter"
)

type reservationRequest struct {
	Policy    *string         `json:"policy"`
	Limits    json.RawMessage `json:"limits"`
	Key       *string         `json:"key"`
	Cost      *int64          `json:"cost"`
	TTL       *string         `json:"ttl"`
	OnExpiry  *string         `json:"on_expiry"`
	RequestID *string         `json:"request_id"`
}

type permitRequest struct {
	Policy    *string         `json:"policy"`
	Limits    json.RawMessage `json:"limits"`
	Key       *string         `json:"key"`
	Cost      *int64          `json:"cost"`
	TTL       *string         `json:"ttl"`
	RequestID *string         `json:"request_id"`
}

type settleRequest struct {
	Cost *int64 `json:"cost"`
}

type renewRequest struct {
	TTL *string `json:"ttl"`
}

// emptyRequest is the body of an operation that needs nothing but its id. It may
// be left out.
type emptyRequest struct{}

func (e *edge) reserve(w http.ResponseWriter, r *http.Request) error {
	var req reservationRequest
	return e.makeHold(w, r, api.Reserve, &req, func(h *api.Hold) (t *takeRequest, err error) {
		if h.TTL, err = ttl(req.TTL); err != nil {
			return nil, err
		}
		if req.OnExpiry != nil {
			if h.CancelOnExpiry, err = parseOnExpiry(*req.OnExpiry); err != nil {
				return nil, err
			}
		}
		return &takeRequest{Policy: req.Policy, Limits: req.Limits, Key: req.Key, Cost: req.Cost, RequestID: req.RequestID}, nil
	})
}

func (e *edge) acquire(w http.ResponseWriter, r *http.Request) error {
	var req permitRequest
	return e.makeHold(w, r, api.Acquire, &req, func(h *api.Hold) (t *takeRequest, err error) {
		if h.TTL, err = ttl(req.TTL); err != nil {
			return nil, err
		}
		return &takeRequest{Policy: req.Policy, Limits: req.Limits, Key: req.Key, Cost: req.Cost, RequestID: req.RequestID}, nil
	})
}

// makeHold serves what makes a hold: it reads the request into req, and then has
// take fill in the hold and tell what is to be taken for it.
func (e *edge) makeHold(w http.ResponseWriter, r *http.Request, kind api.Kind, req any, take func(*api.Hold) (*takeRequest, error)) error {
	return e.decision(w, r, kind, req, func(opts limiter.Options) (*answer, error) {
		hold := &api.Hold{}
		t, err := take(hold)
		if err != nil {
			return nil, err
		}
		a, err := e.hold(r.Context(), kind, t, hold, opts)
		if err != nil {
			return nil, err
		}
		a.kind = kind
		return a, nil
	})
}

// withHold is a decision as the route of its kind answers it.
func (a *answer) withHold(d api.Decision) any {
	switch a.kind {
	case api.Reserve:
		res := api.ReservationResponse{Decision: d}
		if a.res.Hold != nil {
			res.ReservationID = a.res.Hold.ID.Reservation()
		}
		return res
	case api.Acquire:
		res := api.PermitResponse{Decision: d}
		if a.res.Hold != nil {
			res.PermitID = a.res.Hold.ID.Permit()
		}
		return res
	}
	return d
}

func (e *edge) reservationCommit(w http.ResponseWriter, r *http.Request) error {
	var req settleRequest
	a, err := e.onHold(w, r, api.Settle, &req, func(op *api.Op) error {
		if req.Cost == nil {
			return api.NewProblem(api.InvalidRequest, "cost: the field is missing")
		}
		op.Cost = *req.Cost
		return nil
	})
	return respondSettled(w, a, err)
}

func (e *edge) reservationCancel(w http.ResponseWriter, r *http.Request) error {
	a, err := e.onHold(w, r, api.Cancel, &emptyRequest{}, nil)
	return respondSettled(w, a, err)
}

func respondSettled(w http.ResponseWriter, a *answer, err error) error {
	if a == nil {
		return err
	}
	respond(w, http.StatusOK, api.MediaJSON, api.SettleResponse{
		Committed: a.res.Hold.Committed, Refunded: a.res.Hold.Refunded, Charged: a.res.Hold.Charged,
		Duplicate: a.res.Duplicate, Commit: a.res.Commit,
	})
	return nil
}

func (e *edge) permitRenew(w http.ResponseWriter, r *http.Request) error {
	var req renewRequest
	var ms int64
	a, err := e.onHold(w, r, api.Renew, &req, func(op *api.Op) (err error) {
		ms, err = ttl(req.TTL)
		op.Hold.TTL = ms
		return err
	})
	if a == nil {
		return err
	}
	respond(w, http.StatusOK, api.MediaJSON, api.RenewResponse{Renewed: true, TTLMS: ms, Commit: a.res.Commit})
	return nil
}

func (e *edge) permitRelease(w http.ResponseWriter, r *http.Request) error {
	a, err := e.onHold(w, r, api.Release, &emptyRequest{}, nil)
	if a == nil {
		return err
	}
	respond(w, http.StatusOK, api.MediaJSON, api.ReleaseResponse{Released: true, Duplicate: a.res.Duplicate, Commit: a.res.Commit})
	return nil
}

// onHold applies an operation to the hold that the path names: it reads the
// request into req, and then has fill put what it says into the operation. The
// answer is nil if there was an error, or if the request was binary and has its
// answer already.
func (e *edge) onHold(w http.ResponseWriter, r *http.Request, kind api.Kind, req any, fill func(*api.Op) error) (*answer, error) {
	parse := api.ParseReservation
	if kind == api.Renew || kind == api.Release {
		parse = api.ParsePermit
	}
	id, err := parse(mux.Vars(r)["id"])
	if err != nil {
		return nil, err
	}
	body, opts, err := e.openOnHold(r, req)
	if err != nil {
		return nil, err
	}
	if body != nil {
		if err := onlyHold(body, id); err != nil {
			return nil, err
		}
		return nil, e.binary(w, r, body, opts, kind)
	}
	op := api.Op{Kind: kind, Hold: &api.Hold{ID: id}}
	if fill != nil {
		if err := fill(&op); err != nil {
			return nil, err
		}
	}
	if err := op.Check(); err != nil {
		return nil, err
	}
	var b api.Batch
	b.Add(op)
	reply, err := e.Limiter.Do(r.Context(), &b, opts)
	if err != nil {
		return nil, err
	}
	return onlyAnswer(reply, "")
}

// openOnHold is open, but for a body that may be left out.
func (e *edge) openOnHold(r *http.Request, req any) (binary []byte, o limiter.Options, err error) {
	if r.ContentLength != 0 {
		return e.open(r, req)
	}
	o.NoForward, err = noForward(r)
	return nil, o, err
}

// onlyHold refuses a binary batch that is about another hold than the path.
func onlyHold(body []byte, id api.HoldID) error {
	b, err := api.DecodeBatch(body)
	if err != nil {
		return err
	}
	for i, rest := 0, b.Ops; i < b.N; i++ {
		var op api.Op
		if op, rest, err = api.DecodeOp(rest); err != nil {
			return api.NewProblem(api.InvalidRequest, "operation %d is malformed: %v", i, err)
		}
		if op.Hold == nil || op.Hold.ID != id {
			return api.NewProblem(api.InvalidRequest, "operation %d is not about the id in the path", i)
		}
	}
	return nil
}

// ttl reads a time to live, in milliseconds, rounded up.
func ttl(s *string) (ms int64, err error) {
	if s == nil {
		return api.DefaultTTL, nil
	}
	d, err := time.ParseDuration(*s)
	if err != nil || d < time.Millisecond || d > api.MaxTTL*time.Millisecond {
		return 0, api.NewProblem(api.InvalidRequest, "ttl: it is %.80q; it needs to be a duration from 1ms to 24h, such as \"30s\"", *s)
	}
	return api.Millis(d), nil
}

func parseOnExpiry(s string) (cancel bool, err error) {
	switch s {
	case api.ExpiryCommits:
		return false, nil
	case api.ExpiryCancels:
		return true, nil
	}
	return false, api.NewProblem(api.InvalidRequest, "on_expiry: it is %.80q; it takes %s, which is the default, or %s", s, api.ExpiryCommits, api.ExpiryCancels)
}

// newHoldID makes an id that nobody can guess: whoever has it can settle.
func newHoldID(key string) api.HoldID {
	var random [14]byte
	rand.Read(random[:]) // never fails
	return api.NewHoldID(key, random)
}
