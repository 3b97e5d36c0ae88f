package fetcher

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	bytes    *prometheus.CounterVec   // source: store, or a Source's name
	requests *prometheus.CounterVec   // source, result
	latency  *prometheus.HistogramVec // source: who gave the last byte waited for; store: none was
	waiting  *prometheus.GaugeVec     // priority
}

// newMetrics registers the metrics of f with r, if there is one.
func newMetrics(r prometheus.Registerer, f *Fetcher) (*metrics, error) {
	m := &metrics{
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfsnapshotter_fetcher_bytes_total",
			Help: "Bytes of blobs by where they came from; store: they were there when asked for.",
		}, []string{"source"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfsnapshotter_fetcher_requests_total",
			Help: "Requests to sources, by how they ended.",
		}, []string{"source", "result"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "dfsnapshotter_fetcher_on_demand_seconds",
			Help:    "Time that an on-demand read waited for bytes.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
		}, []string{"source"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "dfsnapshotter_fetcher_waiting_reads",
			Help: "Reads that wait for bytes.",
		}, []string{"priority"}),
	}
	inFlight := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dfsnapshotter_fetcher_requests_in_flight",
		Help: "Requests to sources under way that are not hanging.",
	}, func() float64 { return float64(f.inFlight()) })
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.bytes, m.requests, m.latency, m.waiting, inFlight} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}
