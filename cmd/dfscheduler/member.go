package main

import (
	"sync"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	// complaintEvery is how often the log hears of a host's complaints.
	complaintEvery = time.Second
	// perMessage is how many blobs of an announce cost as much as a message.
	perMessage = 64
	// memberFor is how long a host without a stream is remembered: then it may
	// send as much as one that was never here.
	memberFor = 2 * burst * time.Second
)

// member is what a host has used of its limits. It holds for all of its streams,
// and for some time beyond them: who ends one and begins another gets no more.
type member struct {
	mu         sync.Mutex // guards what follows
	rate       *rate
	complained time.Time // last, as the log knows
	seen       time.Time
}

func newMember(perSecond int, now time.Time) *member {
	return &member{rate: newRate(perSecond, now), seen: now}
}

// member returns what is remembered of a host, by its certificate or, over plain
// text, by its own word.
func (h *hub) member(id p2p.HostID, now time.Time) *member {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now.Sub(h.swept) >= memberFor {
		h.swept = now
		for id, m := range h.members {
			if h.sessions[id] == nil && m.idle(now) {
				delete(h.members, id)
			}
		}
	}
	m := h.members[id]
	if m == nil {
		m = newMember(h.limits.Messages, now)
		h.members[id] = m
	}
	return m
}

func (m *member) idle(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return now.Sub(m.seen) >= memberFor
}

// spend takes what a message costs and returns how long it has to wait.
func (m *member) spend(msg p2p.Message, now time.Time) time.Duration {
	cost := 1
	if a, ok := msg.(p2p.Announce); ok {
		cost += len(a.Inventory) / perMessage
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen = now
	return m.rate.take(cost, now)
}

// complains reports whether the log is to hear of a complaint.
func (m *member) complains(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sub(m.complained) < complaintEvery {
		return false
	}
	m.complained = now
	return true
}
