package store

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	evictions prometheus.Counter
	full      prometheus.Counter
}

// newMetrics registers the metrics of s with r, if there is one.
func newMetrics(r prometheus.Registerer, s *Store) (*metrics, error) {
	m := &metrics{
		evictions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "dfsnapshotter_store_evictions_total", Help: "Blobs evicted for the quota or a full disk.",
		}),
		full: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "dfsnapshotter_store_full_total", Help: "Writes that found no space on the disk.",
		}),
	}
	used := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dfsnapshotter_store_bytes", Help: "Bytes of blobs kept on disk.",
	}, func() float64 { return float64(s.used.Load()) })
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.evictions, m.full, used} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}
