package limiter

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rlstore/rlstore/api"
)

// Observer hears what the limiter does. Its methods are called from many
// goroutines, once a batch or policy rather than once a take, and must not
// block. It never hears a key.
type Observer interface {
	// Decision counts n takes, reservations and permits asked for under a policy
	// with the same source, as decisions name it, and result: "allowed", "denied",
	// "shadowed" for what would have been denied but for the policy's enforcement,
	// or "off". Limits written into requests are the policy "inline". A decision
	// that was repeated for a retry is not counted again.
	Decision(policy, source, result string, n int)
	// Refused counts operations that got an error as their result.
	Refused(code api.Code, n int)
	// Failed counts operations whose whole batch failed.
	Failed(code api.Code, n int)
	// Forwarded counts operations sent to a peer.
	Forwarded(n int)
	// Retried counts attempts for a part after one that failed with code.
	Retried(code api.Code)
}

// nothing is the observer of nobody.
type nothing struct{}

func (nothing) Decision(string, string, string, int) {}
func (nothing) Refused(api.Code, int)                {}
func (nothing) Failed(api.Code, int)                 {}
func (nothing) Forwarded(int)                        {}
func (nothing) Retried(api.Code)                     {}

// inlinePolicy stands for all limits written into requests.
const inlinePolicy = "inline"

// The results of takes, as metrics name them.
const (
	resultDenied = iota
	resultAllowed
	resultShadowed
	resultOff
)

var resultNames = [...]string{"denied", "allowed", "shadowed", "off"}

// observe counts the results of an encoded reply.
func (l *Limiter) observe(reply []byte) {
	if _, ok := l.metrics.(nothing); ok {
		return
	}
	r, err := api.DecodeReply(reply)
	if err != nil || r.Replayed {
		return
	}
	counts := make([][len(resultNames)]int, len(r.Sets)) // of each set
	var res api.Result
	for {
		ok, err := r.Next(&res)
		if err != nil || !ok {
			break
		}
		switch {
		case res.Status == api.StatusError:
			l.metrics.Refused(res.Code, 1)
		case res.Duplicate:
		case res.Status == api.StatusDenied:
			counts[res.Set][resultDenied]++
		case res.Status != api.StatusAllowed && res.Status != api.StatusHeld:
		case res.Shadowed:
			counts[res.Set][resultShadowed]++
		case r.Sets[res.Set].Enforcement == api.Off:
			counts[res.Set][resultOff]++
		default:
			counts[res.Set][resultAllowed]++
		}
	}
	for i, c := range counts {
		name := r.Sets[i].Policy
		if strings.HasPrefix(name, inlinePolicy+":") {
			name = inlinePolicy
		}
		for result, n := range c {
			if n > 0 {
				l.metrics.Decision(name, r.Sets[i].SourceName(), resultNames[result], n)
			}
		}
	}
}

// Metrics is an [Observer] that counts for Prometheus.
type Metrics struct {
	decisions *prometheus.CounterVec
	refused   *prometheus.CounterVec
	failed    *prometheus.CounterVec
	forwarded prometheus.Counter
	retried   *prometheus.CounterVec
}

// NewMetrics registers the limiter's counters with r, which must not have them
// yet.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rlstore_decisions_total",
			Help: "Takes, reservations and permits decided for callers of this node, by policy, source and result.",
		}, []string{"policy", "source", "result"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rlstore_operations_refused_total",
			Help: "Operations that got an error instead of a decision, by problem code.",
		}, []string{"code"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rlstore_operations_failed_total",
			Help: "Operations whose whole batch failed, by problem code.",
		}, []string{"code"}),
		forwarded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rlstore_operations_forwarded_total",
			Help: "Operations sent to the peer that leads their shard.",
		}),
		retried: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rlstore_attempts_retried_total",
			Help: "Parts of batches tried again inside this node, by problem code of the failed attempt.",
		}, []string{"code"}),
	}
	r.MustRegister(m.decisions, m.refused, m.failed, m.forwarded, m.retried)
	return m
}

// Decision implements [Observer].
func (m *Metrics) Decision(policy, source, result string, n int) {
	m.decisions.WithLabelValues(policy, source, result).Add(float64(n))
}

// Refused implements [Observer].
func (m *Metrics) Refused(c api.Code, n int) { m.refused.WithLabelValues(string(c)).Add(float64(n)) }

// Failed implements [Observer].
func (m *Metrics) Failed(c api.Code, n int) { m.failed.WithLabelValues(string(c)).Add(float64(n)) }

// Forwarded implements [Observer].
func (m *Metrics) Forwarded(n int) { m.forwarded.Add(float64(n)) }

// Retried implements [Observer].
func (m *Metrics) Retried(c api.Code) { m.retried.WithLabelValues(string(c)).Inc() }
