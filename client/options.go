package client

import (
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/rlstore/rlstore/api"
)

const (
	defaultTimeout = 5 * time.Second
	// Two large batches of a shard on their way keep its leader busy while one
	// answer travels back, and one that meets trouble does not hold up the
	// shard; more only make batches smaller.
	defaultInFlight = 2
)

// config is what options fill in.
type config struct {
	timeout     time.Duration
	http        *http.Client
	tls         *tls.Config
	token       string
	logger      *slog.Logger
	maxInFlight int
	clock       Clock
	unseen      Rule
}

// Option configures a [Client].
type Option func(*config)

// WithTimeout bounds every call whose context has no deadline; the default is
// 5 seconds. A call that runs out of it fails as if its context had ended, with
// [context.DeadlineExceeded] in its error.
func WithTimeout(d time.Duration) Option { return func(c *config) { c.timeout = d } }

// WithHTTPClient makes all requests go through h, whose connections then
// belong to its owner: [Client.Close] leaves them open. Its transport should
// keep a few idle connections a node. It excludes [WithTLS].
func WithHTTPClient(h *http.Client) Option { return func(c *config) { c.http = h } }

// WithTLS sets how https endpoints are verified, and who the client is.
func WithTLS(t *tls.Config) Option { return func(c *config) { c.tls = t } }

// WithToken sends "Authorization: Bearer token" with every request, to the
// endpoints given and to the nodes that they name.
func WithToken(token string) Option { return func(c *config) { c.token = token } }

// WithLogger tells about trouble and its end; the default is silence.
func WithLogger(l *slog.Logger) Option { return func(c *config) { c.logger = l } }

// WithMaxInFlight sets how many batches of one shard may be on their way at
// once; the default is 2. All but the first are for large batches, and for
// those behind a batch that has met trouble.
func WithMaxInFlight(n int) Option { return func(c *config) { c.maxInFlight = n } }

// newTransport keeps enough idle connections for a lane's every batch in
// flight, of every shard, to one node.
func newTransport(t *tls.Config) *http.Transport {
	d := &net.Dialer{Timeout: attemptTimeout, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         d.DialContext,
		TLSClientConfig:     t,
		TLSHandshakeTimeout: attemptTimeout,
		MaxIdleConnsPerHost: 128,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
		WriteBufferSize:     64 << 10,
		ReadBufferSize:      64 << 10,
	}
}

// TakeOption is an option of one operation.
type TakeOption func(*item)

// RequestID makes the operation exactly-once across processes: within the
// store's window, the same id gives the first answer again. Retries of the
// client itself need none.
func RequestID(id string) TakeOption { return func(it *item) { it.requestID = id } }

// MaxWait lets a take borrow from the future: if it would be denied now, but pass
// within d, it is charged now, and the decision says how long to wait before
// acting. So a thousand callers that wait take turns, and ask once each. It is
// counted in whole milliseconds, and at most a day.
func MaxWait(d time.Duration) TakeOption {
	return func(it *item) { it.maxWait = wholeMillis(d) }
}

// wholeMillis rounds down, for a caller who can wait no longer than d.
func wholeMillis(d time.Duration) int64 { return max(0, int64(d/time.Millisecond)) }

// Inline replaces the policy, which must be empty, by limits in the request,
// where the server allows it.
func Inline(limits ...api.Limit) TakeOption {
	return func(it *item) { it.setInline(limits) }
}

// BatchOption is an option of [Client.TakeBatch].
type BatchOption func(*batchConfig)

type batchConfig struct{ atomic bool }

// Atomic charges all requests of the batch or none. Their keys must live in one
// shard: a shared {tag} inside the keys puts them together.
func Atomic() BatchOption { return func(c *batchConfig) { c.atomic = true } }

// PolicyOption is an option of a change to a policy.
type PolicyOption func(*policyConfig)

type policyConfig struct {
	ifMatch        uint64
	author, reason string
}

// IfMatch makes the change only if the policy is at this revision, else it
// fails with [ErrRevisionConflict].
func IfMatch(revision uint64) PolicyOption {
	return func(c *policyConfig) { c.ifMatch = revision }
}

// Author tells the policy's history who makes the change.
func Author(name string) PolicyOption { return func(c *policyConfig) { c.author = name } }

// Reason tells the policy's history why the change is made. An override has a
// reason of its own.
func Reason(text string) PolicyOption { return func(c *policyConfig) { c.reason = text } }

// query is the reason as a part of the address.
func (c *policyConfig) query() url.Values {
	if c.reason == "" {
		return nil
	}
	return url.Values{"reason": {c.reason}}
}

// setInline makes limits the item's, in place of a policy of the catalog.
func (it *item) setInline(limits []api.Limit) {
	if limits == nil {
		limits = []api.Limit{}
	}
	doc, err := json.Marshal(limits)
	if err != nil { // limits are numbers and strings
		panic(err)
	}
	if it.policy != "" {
		it.both = true
	}
	it.policy, it.inline = string(doc), true
}
