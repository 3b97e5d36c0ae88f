package main

import (
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
)

func TestLoad(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	counter := func(name, label string, values map[string]float64) {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name}, []string{label})
		for v, n := range values {
			c.WithLabelValues(v).Add(n)
		}
		reg.MustRegister(c)
	}
	gauge := func(name string, value float64) {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name})
		g.Set(value)
		reg.MustRegister(g)
	}
	counter("dfsnapshotter_fetcher_bytes_total", "source", map[string]float64{"origin": 1, "s3": 2, "peer": 4, "store": 8})
	counter("dfsnapshotter_peer_sent_bytes_total", "priority", map[string]float64{"on_demand": 16, "background": 32})
	counter("dfsnapshotter_other_total", "source", map[string]float64{"origin": 1 << 40})
	gauge("dfsnapshotter_store_bytes", 64)
	gauge("dfsnapshotter_peer_upload_slots_busy", 128)
	gauge("dfsnapshotter_fetcher_waiting_reads", 256)
	n := &node{reg: reg, log: slog.New(slog.DiscardHandler)}
	want := manage.Load{Moved: manage.Traffic{Origin: 3, Peers: 4, Store: 8, Sent: 48}, Kept: 64, Uploads: 128, Waiting: 256}
	if diff := cmp.Diff(want, n.load()); diff != "" {
		t.Error(diff)
	}
}
