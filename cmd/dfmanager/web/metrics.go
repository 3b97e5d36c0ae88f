package web

import (
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec
	took     prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfmanager_http_requests_total", Help: "Requests answered, by route and status.",
		}, []string{"route", "status"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "dfmanager_http_request_seconds", Help: "How long answers took.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}),
	}
	return m, errors.Join(r.Register(m.requests), r.Register(m.took))
}

func (m *metrics) observe(c *call, began time.Time) {
	m.requests.WithLabelValues(c.name(), strconv.Itoa(c.w.status)).Inc()
	if c.route == nil || c.route.view == nil || !c.route.view.Live {
		m.took.Observe(time.Since(began).Seconds())
	}
}
