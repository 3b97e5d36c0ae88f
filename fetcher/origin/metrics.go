package origin

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
)

// Kinds of requests, as the metrics name them.
const (
	kindBlob      = "blob"
	kindManifest  = "manifest"
	kindReferrers = "referrers"
	kindUpload    = "upload"
	kindToken     = "token"
	kindPassed    = "passed" // for a client of the mirror
	kindFile      = "file"   // of a server that is no registry
)

type metrics struct {
	requests *prometheus.CounterVec // by kind and result
	received *prometheus.CounterVec // bytes of bodies, by kind
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfsnapshotter_origin_requests_total",
			Help: "HTTP requests to registries, their token servers and blob stores.",
		}, []string{"kind", "result"}),
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfsnapshotter_origin_received_bytes_total",
			Help: "Bytes of blobs and manifests that registries sent.",
		}, []string{"kind"}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.received} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("origin: register metrics: %w", err)
		}
	}
	return m, nil
}

// answered counts one HTTP request. resp is its answer if err is nil.
func (m *metrics) answered(kind string, resp *http.Response, err error) {
	m.requests.WithLabelValues(kind, result(resp, err)).Inc()
}

func result(resp *http.Response, err error) string {
	var unavailable *UnavailableError
	switch {
	case errors.As(err, &unavailable):
		return "unavailable"
	case err != nil:
		return "canceled"
	case resp.StatusCode < 300:
		return "ok"
	case resp.StatusCode < 400:
		return "redirect"
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		return "unauthorized"
	case resp.StatusCode == http.StatusNotFound:
		return "not_found"
	case resp.StatusCode == http.StatusTooManyRequests:
		return "limited"
	default:
		return "unavailable"
	}
}
