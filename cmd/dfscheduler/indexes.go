package main

import (
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/sched"
)

// ofIndexes deals with a message that is about indexes. The caller holds h.mu.
func (h *hub) ofIndexes(s *session, m p2p.Message) bool {
	banned := h.bans[s.host].Banned
	switch m := m.(type) {
	case p2p.Lookup:
		h.deliver(h.indexes.Lookup(time.Now(), s.host, m))
	case p2p.Publish:
		if !banned {
			h.deliver(h.indexes.Publish(time.Now(), s.host, s.seed, m))
		}
	case p2p.Distrust:
		if !banned {
			h.distrust(s.host, m)
		}
	default:
		return false
	}
	return true
}

// distrust tells all hosts that an index is false, and the operator where
// containers run on it. The caller holds h.mu.
func (h *hub) distrust(by p2p.HostID, m p2p.Distrust) {
	if len(m.Containers) > 0 {
		h.metrics.misled.Add(float64(len(m.Containers)))
		h.log.Error("containers were given a layer by a false index", "host", by, "blob", m.Layer, "index", m.ID, "containers", m.Containers)
	}
	news := h.indexes.Distrust(time.Now(), by, m)
	if news == nil {
		return
	}
	h.metrics.distrusts.Inc()
	h.log.Error("an index is false: no container is started on it any more", "accuser", by, "blob", m.Layer, "index", m.ID, "reason", m.Reason)
	for id := range h.sessions {
		h.deliver([]sched.Send{{To: id, Message: news}})
	}
}
