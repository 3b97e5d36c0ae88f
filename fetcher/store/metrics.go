package store

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	evictions prometheus.Counter
	full      prometheus.Counter
}

func newMetrics(r prometheus.Registerer, s *Store) *metrics {
	f := promauto.With(r)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dfsnapshotter_store_bytes", Help: "Bytes of blobs kept on disk.",
	}, func() float64 { return float64(s.used.Load()) })
	return &metrics{
		evictions: f.NewCounter(prometheus.CounterOpts{
			Name: "dfsnapshotter_store_evictions_total", Help: "Blobs evicted for the quota or a full disk.",
		}),
		full: f.NewCounter(prometheus.CounterOpts{
			Name: "dfsnapshotter_store_full_total", Help: "Writes that found no space on the disk.",
		}),
	}
}
