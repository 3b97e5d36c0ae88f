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

// networkMetrics are those of the piece network.
type networkMetrics struct {
	pieces *prometheus.CounterVec // result
}

func newNetworkMetrics(r prometheus.Registerer, n *network) (*networkMetrics, error) {
	m := &networkMetrics{pieces: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dfsnapshotter_network_pieces_total",
		Help: "Pieces by what became of them: kept (right as far as is known), refused (wrong), unkept (the disk took none).",
	}, []string{"result"})}
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			n.mu.Lock()
			defer n.mu.Unlock()
			return float64(value())
		})
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.pieces,
		gauge("dfsnapshotter_network_swarms", "Blobs that this host wants from others, or gives them.", func() int { return len(n.shares) }),
		gauge("dfsnapshotter_network_requests_in_flight", "Requests for pieces under way, to peers and origins.", func() int { return len(n.running) }),
		gauge("dfsnapshotter_network_watched", "Have-maps of peers that are kept up to date.", func() int { return len(n.watches) }),
	} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}
