package fetcher

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	bytes    *prometheus.CounterVec   // source: store, or a Source's name
	requests *prometheus.CounterVec   // source, result
	latency  *prometheus.HistogramVec // source: who gave the last byte waited for; store: none was
	waiting  *prometheus.GaugeVec     // priority
}

func newMetrics(r prometheus.Registerer, f *Fetcher) *metrics {
	p := promauto.With(r)
	p.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dfsnapshotter_fetcher_requests_in_flight", Help: "Requests to sources under way that are not hanging.",
	}, func() float64 { return float64(f.inFlight()) })
	return &metrics{
		bytes: p.NewCounterVec(prometheus.CounterOpts{
			Name: "dfsnapshotter_fetcher_bytes_total", Help: "Bytes of blobs by where they came from; store: they were there when asked for.",
		}, []string{"source"}),
		requests: p.NewCounterVec(prometheus.CounterOpts{
			Name: "dfsnapshotter_fetcher_requests_total", Help: "Requests to sources, by how they ended.",
		}, []string{"source", "result"}),
		latency: p.NewHistogramVec(prometheus.HistogramOpts{
			Name: "dfsnapshotter_fetcher_on_demand_seconds", Help: "Time that an on-demand read waited for bytes.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
		}, []string{"source"}),
		waiting: p.NewGaugeVec(prometheus.GaugeOpts{
			Name: "dfsnapshotter_fetcher_waiting_reads", Help: "Reads that wait for bytes.",
		}, []string{"priority"}),
	}
}
