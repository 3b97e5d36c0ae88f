package peer

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

func register(r prometheus.Registerer, all ...prometheus.Collector) error {
	if r == nil {
		return nil
	}
	for _, c := range all {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

type serverMetrics struct {
	bytes    *prometheus.CounterVec // priority
	requests *prometheus.CounterVec // result
	conns    *prometheus.CounterVec // result
}

func newServerMetrics(r prometheus.Registerer, s *Server) (*serverMetrics, error) {
	m := &serverMetrics{
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfsnapshotter_peer_sent_bytes_total",
			Help: "Bytes of blobs sent to other hosts.",
		}, []string{"priority"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfsnapshotter_peer_served_total",
			Help: "Requests of other hosts, by how they ended.",
		}, []string{"result"}),
		conns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfsnapshotter_peer_connections_ended_total",
			Help: "Connections of other hosts that ended: served; without a request (garbage, or no good certificate); refused, being too many.",
		}, []string{"result"}),
	}
	busy := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dfsnapshotter_peer_upload_slots_busy",
		Help: "Bodies that are being sent to other hosts.",
	}, func() float64 { return float64(s.slots.taken()) })
	watchers := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dfsnapshotter_peer_watchers",
		Help: "Have-maps that other hosts follow.",
	}, func() float64 { return float64(s.watchers.taken()) })
	return m, register(r, m.bytes, m.requests, m.conns, busy, watchers)
}

type clientMetrics struct {
	bytes    prometheus.Counter
	requests *prometheus.CounterVec // result
	hedges   *prometheus.CounterVec // won
}

func newClientMetrics(r prometheus.Registerer) (*clientMetrics, error) {
	m := &clientMetrics{
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "dfsnapshotter_peer_received_bytes_total",
			Help: "Bytes of blobs received from other hosts.",
		}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfsnapshotter_peer_requests_total",
			Help: "Requests to other hosts, by how they began.",
		}, []string{"result"}),
		hedges: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfsnapshotter_peer_hedges_total",
			Help: "Second requests for bytes that were late, by whether they came first.",
		}, []string{"won"}),
	}
	return m, register(r, m.bytes, m.requests, m.hedges)
}

// asked is the value of the label "result" for a request that failed with err.
func asked(err error) string {
	var e *Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &e):
		return e.Failure.String()
	default:
		return "given_up"
	}
}

type linkMetrics struct {
	ended *prometheus.CounterVec // result
}

func newLinkMetrics(r prometheus.Registerer, l *Links) (*linkMetrics, error) {
	m := &linkMetrics{ended: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dfsnapshotter_peer_scheduler_streams_ended_total",
		Help: "Streams to schedulers that ended: lost, or refused at once.",
	}, []string{"result"})}
	up := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dfsnapshotter_peer_schedulers_reachable",
		Help: "Schedulers that this host has a stream to.",
	}, func() float64 { return float64(l.up()) })
	return m, register(r, m.ended, up)
}
