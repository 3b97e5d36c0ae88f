package snapshot

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Kinds of snapshots, as metrics name them.
const (
	kindRemote   = "remote"
	kindOrdinary = "ordinary"
	kindActive   = "active"
	kindView     = "view"
)

type metrics struct {
	prepares  *prometheus.CounterVec   // by kind and result
	left      *prometheus.CounterVec   // layers left to containerd, by reason
	images    *prometheus.CounterVec   // by mode
	took      *prometheus.HistogramVec // by kind
	snapshots *snapshotCounts
}

func newMetrics(reg prometheus.Registerer, count func() map[string]int) (*metrics, error) {
	m := &metrics{
		prepares: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfsnapshotter_prepares_total",
			Help: "Snapshots that containerd asked for: remote (a layer served here), ordinary (a layer that containerd unpacks), active (a container) or view.",
		}, []string{"kind", "result"}),
		left: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfsnapshotter_left_to_containerd_total",
			Help: "Layers that containerd had to download and unpack itself, by reason.",
		}, []string{"reason"}),
		images: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfsnapshotter_images_total",
			Help: "Images whose uppermost layer became ready, by mode: lazy, fill or eager.",
		}, []string{"mode"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "dfsnapshotter_mount_seconds",
			Help:    "Time from containerd's request for a snapshot to the answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}, []string{"kind"}),
		snapshots: &snapshotCounts{
			desc: prometheus.NewDesc("dfsnapshotter_snapshots", "Snapshots that exist.", []string{"kind"}, nil), count: count,
		},
	}
	for _, mode := range Modes {
		m.images.WithLabelValues(string(mode))
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range m.all() {
		if err := reg.Register(c); err != nil {
			m.unregister(reg)
			return nil, fmt.Errorf("snapshot: register metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.prepares, m.left, m.images, m.took, m.snapshots}
}

func (m *metrics) unregister(reg prometheus.Registerer) {
	if reg == nil {
		return
	}
	for _, c := range m.all() {
		reg.Unregister(c)
	}
}

// prepared counts one answer to containerd.
func (m *metrics) prepared(kind string, start time.Time, err error) {
	result := "ok"
	if err != nil && !errors.Is(err, errTargetExists) {
		result = "error"
	}
	m.prepares.WithLabelValues(kind, result).Inc()
	m.took.WithLabelValues(kind).Observe(time.Since(start).Seconds())
}

// snapshotCounts is a collector that asks the catalog when it is scraped.
type snapshotCounts struct {
	desc  *prometheus.Desc
	count func() map[string]int
}

func (c *snapshotCounts) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

func (c *snapshotCounts) Collect(ch chan<- prometheus.Metric) {
	for kind, n := range c.count() {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(n), kind)
	}
}
