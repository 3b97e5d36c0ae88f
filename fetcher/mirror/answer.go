package mirror

import (
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Kinds of requests besides those of registries, for metrics.
const (
	proxied kind = "proxy"  // an absolute URL
	tunnel  kind = "tunnel" // CONNECT
)

// Where the bytes of an answer came from.
const (
	fromStore  = "store"  // this host's disk
	fromPeer   = "peer"   // other hosts
	fromOrigin = "origin" // the registry, through the fetcher
	fromPassed = "passed" // a server, past the fetcher
)

// maxLogged is how much of a path the log shows.
const maxLogged = 512

// answer is a response, and what is told of it when it has ended.
type answer struct {
	http.ResponseWriter
	control *http.ResponseController
	began   time.Time
	target  target
	kind    kind

	status int // 0: it has not begun
	sent   int64
	from   map[string]int64 // of what was sent; nil: passed
	quiet  bool             // not worth a line for people
	cut    bool             // it broke off
	err    error            // why it was refused
}

func (a *answer) WriteHeader(status int) {
	if status >= 200 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write gives a client that takes nothing a while, and no more.
func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	_ = a.control.SetWriteDeadline(time.Now().Add(writeTime)) // best effort: test recorders have none
	n, err := a.ResponseWriter.Write(p)
	a.sent += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// ended writes the access log's line, and counts.
func (m *Mirror) ended(a *answer, r *http.Request) {
	took := time.Since(a.began)
	code := strconv.Itoa(a.status)
	if a.cut {
		code = "cut"
	}
	m.metrics.requests.WithLabelValues(string(a.kind), code).Inc()
	if a.from == nil {
		m.metrics.bytes.WithLabelValues(fromPassed).Add(float64(a.sent))
	}
	for source, n := range a.from {
		m.metrics.bytes.WithLabelValues(source).Add(float64(n))
	}
	level := slog.LevelInfo
	if a.quiet {
		level = slog.LevelDebug
	}
	attrs := []any{"client", r.RemoteAddr, "method", r.Method, "path", r.URL.Path[:min(len(r.URL.Path), maxLogged)], "status", code, "bytes", a.sent, "took", took}
	if a.target.registry != "" {
		attrs = append(attrs, "registry", a.target.registry)
	}
	if a.kind == proxied || a.kind == tunnel {
		attrs = append(attrs, "host", r.Host)
	}
	if a.err != nil {
		attrs = append(attrs, "err", a.err)
	}
	m.log.Log(r.Context(), level, "mirror request", attrs...)
}

type metrics struct {
	requests  *prometheus.CounterVec // by kind and code
	bytes     *prometheus.CounterVec // by source
	firstByte *prometheus.HistogramVec
	corrupt   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfsnapshotter_mirror_requests_total",
			Help: "Requests to the registry mirror, by HTTP status; cut: the connection was broken off.",
		}, []string{"kind", "code"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfsnapshotter_mirror_sent_bytes_total",
			Help: "Bytes that the registry mirror sent, by where they came from.",
		}, []string{"source"}),
		firstByte: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "dfsnapshotter_mirror_first_byte_seconds", Help: "Time from a request for a blob to its first byte.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}, []string{"source"}),
		corrupt: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "dfsnapshotter_mirror_corrupt_total", Help: "Blobs whose answer was broken off because they did not match their digest.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.requests, m.bytes, m.firstByte, m.corrupt} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}
