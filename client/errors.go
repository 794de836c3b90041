package client

import (
	"errors"
	"fmt"
	"strings"

	"github.com/rlstore/rlstore/api"
)

// The kinds of failures, for errors.Is. An error has one of them; as the store
// refused or failed to answer, errors.As with an [*api.Problem] finds its own
// words, and if a context ended, errors.Is finds [context.Canceled] or
// [context.DeadlineExceeded] as well.
var (
	// ErrUnavailable: the store did not decide in time. Nothing was applied,
	// and nothing will be.
	ErrUnavailable = errors.New("rlstore is unavailable, nothing was applied")
	// ErrOutcomeUnknown: it may have been applied, or may still be.
	ErrOutcomeUnknown = errors.New("it is unknown whether rlstore applied this")
	// ErrUnknownPolicy: the catalog has no policy of this name.
	ErrUnknownPolicy = errors.New("unknown policy")
	// ErrCostExceedsBurst: the take could never pass.
	ErrCostExceedsBurst = errors.New("the cost exceeds the burst")
	// ErrInvalidRequest: a bad key, cost, request id, or endpoint.
	ErrInvalidRequest = errors.New("invalid request")
	// ErrInvalidPolicy: the document was refused; the [*api.Problem] lists why.
	ErrInvalidPolicy = errors.New("invalid policy")
	// ErrRequestIDReused: the request id belongs to a different request.
	ErrRequestIDReused = errors.New("the request id was used for another request")
	// ErrCrossShard: the keys of an atomic batch live in more than one shard.
	ErrCrossShard = errors.New("an atomic batch must stay within one shard")
	// ErrRevisionConflict: the policy is not at the revision of [IfMatch].
	ErrRevisionConflict = errors.New("the policy has another revision")
	// ErrConflict: the cluster is in a state that does not allow a change of its
	// members or leaders; the [*api.Problem] says which.
	ErrConflict = errors.New("the present state of the cluster does not allow this")
	// ErrUnauthorized: credentials are missing, wrong, or do not suffice.
	ErrUnauthorized = errors.New("unauthorized")
	// ErrNotFound: there is nothing of this name or at this address.
	ErrNotFound = errors.New("not found")
	// ErrAlreadySettled: the reservation or permit came to another end before.
	ErrAlreadySettled = errors.New("settled otherwise before")
	// ErrPermitRequired: the policy limits concurrency; see [Client.Acquire].
	ErrPermitRequired = errors.New("the policy is used through permits only")
	// ErrClosed: the client was closed. Calls that [Client.Close] cuts off
	// carry one of ErrUnavailable and ErrOutcomeUnknown as well.
	ErrClosed = errors.New("the client is closed")
)

// failure is every error of this package: a kind, and what is known beyond it.
type failure struct {
	kind    error        // one of the sentinels
	problem *api.Problem // what the store said last, or nil
	cause   error        // such as a context's error, or nil
}

// Error tells the kind, the store's words and the cause.
func (f *failure) Error() string {
	var b strings.Builder
	b.WriteString(f.kind.Error())
	if f.problem != nil {
		b.WriteString(": ")
		b.WriteString(f.problem.Error())
	}
	if f.cause != nil {
		b.WriteString(": ")
		b.WriteString(f.cause.Error())
	}
	return b.String()
}

// Unwrap shows all parts to errors.Is and errors.As.
func (f *failure) Unwrap() []error {
	errs := []error{f.kind}
	if f.problem != nil {
		errs = append(errs, f.problem)
	}
	if f.cause != nil {
		errs = append(errs, f.cause)
	}
	return errs
}

// fail makes an error of kind out of what went wrong, which may be nil.
func fail(kind, why, cause error) error {
	f := &failure{kind: kind, cause: cause}
	if errors.As(why, &f.problem) || why == nil {
		return f
	}
	if cause == nil || errors.Is(why, cause) { // no need to say it twice
		f.cause = why
	} else {
		f.cause = fmt.Errorf("%w; %w", why, cause)
	}
	return f
}

// foreignError: what answered is not a node of the store, or not its base URL.
type foreignError struct {
	at  string
	err error
}

// Error tells who answered what.
func (e *foreignError) Error() string {
	return e.at + " does not answer as rlstore does; is the endpoint a node's base URL? " + e.err.Error()
}

// Unwrap returns what is wrong with the answer.
func (e *foreignError) Unwrap() error { return e.err }

// hopeless tells that the one who gave this error would give it again.
func hopeless(err error) bool {
	var p *api.Problem
	if errors.As(err, &p) {
		return p.Outcome == api.NotApplied && !p.Retryable
	}
	var f *foreignError
	return errors.As(err, &f)
}

// refuse is a problem as an error of its kind.
func refuse(p *api.Problem) error { return &failure{kind: kindOf(p), problem: p} }

// refuseLocally is refuse for the checks of package api.
func refuseLocally(err error) error {
	if err == nil {
		return nil
	}
	return refuse(api.AsProblem(err))
}

func kindOf(p *api.Problem) error {
	switch p.Code {
	case api.InvalidRequest, api.MethodNotAllowed, api.PayloadTooLarge, api.UnsupportedMediaType:
		return ErrInvalidRequest
	case api.Unauthorized, api.Forbidden:
		return ErrUnauthorized
	case api.UnknownPolicy:
		return ErrUnknownPolicy
	case api.NotFound:
		return ErrNotFound
	case api.RevisionConflict:
		return ErrRevisionConflict
	case api.Conflict:
		return ErrConflict
	case api.InvalidPolicy:
		return ErrInvalidPolicy
	case api.CostExceedsBurst:
		return ErrCostExceedsBurst
	case api.CrossShard:
		return ErrCrossShard
	case api.RequestIDReused:
		return ErrRequestIDReused
	case api.AlreadySettled:
		return ErrAlreadySettled
	case api.PermitRequired:
		return ErrPermitRequired
	}
	if p.Outcome == api.NotApplied {
		return ErrUnavailable
	}
	return ErrOutcomeUnknown
}
