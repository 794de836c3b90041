package api

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Code names a kind of failure. The set is closed: [Codes] lists it.
type Code string

// The problem codes. [Codes] holds the status and the retry advice of each.
const (
	InvalidRequest       Code = "invalid-request"
	Unauthorized         Code = "unauthorized"
	Forbidden            Code = "forbidden"
	UnknownPolicy        Code = "unknown-policy"
	NotFound             Code = "not-found"
	MethodNotAllowed     Code = "method-not-allowed"
	RevisionConflict     Code = "revision-conflict"
	PayloadTooLarge      Code = "payload-too-large"
	UnsupportedMediaType Code = "unsupported-media-type"
	InvalidPolicy        Code = "invalid-policy"
	CostExceedsBurst     Code = "cost-exceeds-burst"
	CrossShard           Code = "cross-shard"
	RequestIDReused      Code = "request-id-reused"
	TooManyRequests      Code = "too-many-requests"
	QuotaExceeded        Code = "quota-exceeded"
	NotLeader            Code = "not-leader"
	NoLeader             Code = "no-leader"
	Overloaded           Code = "overloaded"
	Draining             Code = "draining"
	OutcomeUnknown       Code = "outcome-unknown"
	Internal             Code = "internal"
	SessionStale         Code = "session-stale"
	Conflict             Code = "conflict"
	AlreadySettled       Code = "already-settled"
	PermitRequired       Code = "permit-required"
)

// Outcome says what a failed request did to the state.
type Outcome string

const (
	// NotApplied: nothing changed, and nothing will.
	NotApplied Outcome = "not_applied"
	// Unknown: the change may have happened, or may still happen.
	Unknown Outcome = "unknown"
)

// CodeInfo is the fixed part of a problem.
type CodeInfo struct {
	Number    uint8 // in binary replies; never reused
	Code      Code
	Status    int
	Title     string
	Retryable bool // the same request may succeed later, unchanged
	Outcome   Outcome
}

// Codes is the one table of problem codes: status, title, retry advice and
// outcome. The server, the client, the command line and the documentation
// read it.
var Codes = []CodeInfo{
	{1, InvalidRequest, http.StatusBadRequest, "The request is not valid", false, NotApplied},
	{2, Unauthorized, http.StatusUnauthorized, "Credentials are missing or wrong", false, NotApplied},
	{3, Forbidden, http.StatusForbidden, "The credentials do not allow this", false, NotApplied},
	{4, UnknownPolicy, http.StatusNotFound, "There is no such policy", false, NotApplied},
	{5, NotFound, http.StatusNotFound, "There is nothing at this address", false, NotApplied},
	{6, MethodNotAllowed, http.StatusMethodNotAllowed, "The method is not allowed here", false, NotApplied},
	{7, RevisionConflict, http.StatusPreconditionFailed, "The revision is not the expected one", false, NotApplied},
	{8, PayloadTooLarge, http.StatusRequestEntityTooLarge, "The body is too large", false, NotApplied},
	{9, UnsupportedMediaType, http.StatusUnsupportedMediaType, "The content type is not supported", false, NotApplied},
	{10, InvalidPolicy, http.StatusUnprocessableEntity, "The policy is not valid", false, NotApplied},
	{11, CostExceedsBurst, http.StatusUnprocessableEntity, "The cost is above the burst and could never pass", false, NotApplied},
	{12, CrossShard, http.StatusUnprocessableEntity, "An atomic batch must stay within one shard", false, NotApplied},
	{13, RequestIDReused, http.StatusUnprocessableEntity, "The request id was used for another request", false, NotApplied},
	{14, TooManyRequests, http.StatusTooManyRequests, "This caller sends too many requests", true, NotApplied},
	{15, QuotaExceeded, http.StatusTooManyRequests, "The quota is exceeded", true, NotApplied},
	{16, NotLeader, http.StatusMisdirectedRequest, "This node does not lead the shard", true, NotApplied},
	{17, NoLeader, http.StatusServiceUnavailable, "The shard has no leader now", true, NotApplied},
	{18, Overloaded, http.StatusServiceUnavailable, "The node has more work than it can queue", true, NotApplied},
	{19, Draining, http.StatusServiceUnavailable, "The node is shutting down", true, NotApplied},
	{20, OutcomeUnknown, http.StatusGatewayTimeout, "It is not known whether this was applied", true, Unknown},
	{21, Internal, http.StatusInternalServerError, "The server failed", false, Unknown},
	{22, SessionStale, http.StatusUnprocessableEntity, "The session has acknowledged the answer to this batch already", false, NotApplied},
	{23, Conflict, http.StatusConflict, "The present state of the cluster does not allow this", false, NotApplied},
	{24, AlreadySettled, http.StatusConflict, "The reservation or permit has come to another end already", false, NotApplied},
	{25, PermitRequired, http.StatusUnprocessableEntity, "The policy limits concurrency, and is used through permits only", false, NotApplied},
}

var (
	codeByName   = map[Code]CodeInfo{}
	codeByNumber [256]CodeInfo
)

func init() {
	for _, c := range Codes {
		codeByName[c.Code] = c
		codeByNumber[c.Number] = c
	}
}

// Info returns the table's row of c; a code that is not in the table, such as
// one of a newer server, gets the row of [Internal] under its own name.
func (c Code) Info() CodeInfo {
	if i, ok := codeByName[c]; ok {
		return i
	}
	i := codeByName[Internal]
	i.Code = c
	return i
}

// CodeNumber returns the code with this number in binary replies, or
// [Internal] for a number that is not in the table.
func CodeNumber(n uint8) Code {
	if c := codeByNumber[n].Code; c != "" {
		return c
	}
	return Internal
}

// Problem is an RFC 9457 problem document and, as an error, what every layer
// of rlstore returns for a request that got no decision.
type Problem struct {
	Type      string  `json:"type"`
	Title     string  `json:"title"`
	Status    int     `json:"status"`
	Detail    string  `json:"detail,omitempty"`
	Instance  string  `json:"instance,omitempty"`
	Code      Code    `json:"code"`
	Retryable bool    `json:"retryable"`
	Outcome   Outcome `json:"outcome"`
	RequestID string  `json:"request_id,omitempty"`

	// Of invalid-policy: every error of the document.
	Errors []FieldError `json:"errors,omitempty"`

	// Of not-leader: where to go instead. Leader is the HTTP address of the
	// shard's leader, empty while it is not known.
	Leader         string  `json:"leader,omitempty"`
	Shard          *uint32 `json:"shard,omitempty"` // 0 is the catalog; nil of other problems
	SlotMapVersion uint64  `json:"slot_map_version,omitempty"`

	// Policies tells a client of binary batches with sessions, which decides by itself
	// while its shard does not answer, how its batch's policies want that: see
	// [Problem.PolicySets].
	Policies []byte `json:"policies,omitempty"`

	// RetryAfter is advice, in the Retry-After header (whole seconds,
	// rounded up) of the response; 0 is none.
	RetryAfter time.Duration `json:"-"`
}

// PolicySets decodes Policies, which are one after the other as [AppendSetInfo] wrote
// them, up to the first that is malformed. The sets alias Policies.
func (p *Problem) PolicySets() (sets []SetInfo) {
	for rest := p.Policies; len(rest) > 0; {
		set, after, err := CutSetInfo(rest)
		if err != nil {
			break
		}
		sets, rest = append(sets, set), after
	}
	return sets
}

// FieldError is one error of a document, with its place.
type FieldError struct {
	Line    int    `json:"line"` // from 1; 0 where the document has no lines
	Path    string `json:"path"` // such as limits[0].rate
	Message string `json:"message"`
}

// ProblemType is the prefix of the URNs in [Problem.Type].
const ProblemType = "urn:rlstore:problem:"

// NewProblem returns a problem of this code with the table's status, title,
// advice and outcome, and a detail made from format and args.
func NewProblem(c Code, format string, args ...any) *Problem {
	i := c.Info()
	return &Problem{
		Type: ProblemType + string(c), Title: i.Title, Status: i.Status,
		Detail: fmt.Sprintf(format, args...),
		Code:   c, Retryable: i.Retryable, Outcome: i.Outcome,
	}
}

// Error returns the code and the detail.
func (p *Problem) Error() string {
	if p.Detail == "" {
		return string(p.Code) + ": " + p.Title
	}
	return string(p.Code) + ": " + p.Detail
}

// Is makes errors.Is compare problems by their code.
func (p *Problem) Is(target error) bool {
	t, ok := target.(*Problem)
	return ok && t.Code == p.Code
}

// AsProblem returns the problem in err's chain, or err as an [Internal]
// problem, whose outcome is [Unknown].
func AsProblem(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	return NewProblem(Internal, "%v", err)
}
