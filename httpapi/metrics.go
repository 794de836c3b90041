package httpapi

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts requests, and what goes over streams. Labels are names of routes and
// statuses only.
type metrics struct {
	requests      *prometheus.CounterVec
	seconds       *prometheus.HistogramVec
	streams       prometheus.Gauge
	droppedEvents prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rlstore_http_requests_total",
			Help: "HTTP requests answered, by route and status.",
		}, []string{"route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rlstore_http_request_duration_seconds",
			Help: "Time from the end of a request's header to its answer, by route.",
			// From a stale answer out of memory to the default request timeout.
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"route"}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rlstore_event_streams",
			Help: "Streams of events that are open.",
		}),
		droppedEvents: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rlstore_events_dropped_total",
			Help: "Events that an open stream did not get, because its reader was slow or had gone.",
		}),
	}
	if r != nil {
		r.MustRegister(m.requests, m.seconds, m.streams, m.droppedEvents)
	}
	return m
}

// routeMetrics is one route's part, looked up once.
type routeMetrics struct {
	requests *prometheus.CounterVec // by status
	ok       prometheus.Counter     // of status 200, the usual one
	seconds  prometheus.Observer
}

func (m *metrics) route(name string) routeMetrics {
	requests := m.requests.MustCurryWith(prometheus.Labels{"route": name})
	return routeMetrics{requests: requests, ok: requests.WithLabelValues("200"), seconds: m.seconds.WithLabelValues(name)}
}

func (m routeMetrics) done(status int, took time.Duration) {
	if status == 200 {
		m.ok.Inc()
	} else {
		m.requests.WithLabelValues(strconv.Itoa(status)).Inc()
	}
	m.seconds.Observe(took.Seconds())
}
