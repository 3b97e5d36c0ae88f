package main

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/sched"
)

type metrics struct {
	messages  *prometheus.CounterVec // result
	streams   *prometheus.CounterVec // code
	conns     *prometheus.CounterVec // result
	bans      *prometheus.CounterVec // what
	audits    *prometheus.CounterVec // reason
	throttled prometheus.Counter
	distrusts prometheus.Counter
	misled    prometheus.Counter
	decisions prometheus.Histogram
	ticks     prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	buckets := prometheus.ExponentialBuckets(1e-6, 4, 10)
	m := &metrics{
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfscheduler_messages_total", Help: "Messages of hosts, by how they were taken.",
		}, []string{"result"}),
		streams: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfscheduler_streams_ended_total", Help: "Streams of hosts that ended, by gRPC code.",
		}, []string{"code"}),
		conns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfscheduler_connections_ended_total",
			Help: "Connections that ended: served; without a stream (garbage, or no good certificate); refused for limits.hosts or hosts_per_address.",
		}, []string{"result"}),
		bans: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfscheduler_bans_total", Help: "Hosts that were banned or demoted; the log and /debug say why.",
		}, []string{"what"}),
		audits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfscheduler_audits_total", Help: "Hosts that were sent to the origin because sums are in doubt; the log names them.",
		}, []string{"reason"}),
		throttled: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "dfscheduler_messages_throttled_total", Help: "Messages that waited because their host sent too many.",
		}),
		distrusts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "dfscheduler_indexes_distrusted_total", Help: "Indexes that a host has found false; the log names them.",
		}),
		misled: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "dfscheduler_containers_misled_total", Help: "Containers that were given a layer by a false index; the log names them and their hosts.",
		}),
		decisions: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "dfscheduler_decision_seconds", Help: "Time it took to decide about one message.", Buckets: buckets,
		}),
		ticks: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "dfscheduler_tick_seconds", Help: "Time it took to do what had become due.", Buckets: buckets,
		}),
	}
	for _, c := range []prometheus.Collector{m.messages, m.streams, m.conns, m.bans, m.audits, m.throttled, m.distrusts, m.misled, m.decisions, m.ticks} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

// counts shows the sizes of what a scheduler keeps.
type counts struct {
	read  func() sched.Counts
	descs map[string]*prometheus.Desc
}

func newCounts(read func() sched.Counts) *counts {
	c := &counts{read: read, descs: map[string]*prometheus.Desc{}}
	for name, help := range map[string]string{
		"hosts":         "Hosts that are connected, seeds included.",
		"seeds":         "Seeds that are connected.",
		"swarms":        "Blobs that somebody has or wants.",
		"swarms_active": "Blobs that somebody wants.",
		"peers":         "Pairs of host and blob.",
		"bans":          "Hosts that are, or were lately, banned or demoted.",
		"trials":        "Complaints that wait for a witness.",
	} {
		c.descs[name] = prometheus.NewDesc("dfscheduler_"+name, help, nil, nil)
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *counts) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *counts) Collect(ch chan<- prometheus.Metric) {
	n := c.read()
	for name, v := range map[string]int{
		"hosts": n.Hosts, "seeds": n.Seeds, "swarms": n.Swarms, "swarms_active": n.Active, "peers": n.Peers, "bans": n.Bans, "trials": n.Trials,
	} {
		ch <- prometheus.MustNewConstMetric(c.descs[name], prometheus.GaugeValue, float64(v))
	}
}
