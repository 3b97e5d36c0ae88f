package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// ofProfiles deals with a message that is about what containers read first. The
// caller holds h.mu.
func (h *hub) ofProfiles(s *session, m p2p.Message) bool {
	switch m := m.(type) {
	case p2p.Learn:
		if !h.bans[s.host].Banned {
			h.profiles.Learn(time.Now(), m)
		}
	case p2p.Recall:
		h.deliver(h.profiles.Recall(time.Now(), s.host, m))
	default:
		return false
	}
	return true
}

// newProfiles shows of how many layers h knows what is read first.
func newProfiles(h *hub) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dfscheduler_profiles", Help: "Layers of which it is known what containers read first.",
	}, func() float64 {
		h.mu.Lock()
		defer h.mu.Unlock()
		return float64(h.profiles.Len())
	})
}
