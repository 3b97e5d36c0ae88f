package main

import (
	"sync"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// What may wait for a host that is slow to take it. More, and its stream ends:
// the next one begins anew.
const (
	maxOutbox     = 16384   // messages
	maxOutboxSize = 4 << 20 // bytes of memory, about
)

// outbox is the messages that wait to be sent to one host. Putting one in
// never waits.
type outbox struct {
	filled chan struct{} // holds a token while something is in it

	mu   sync.Mutex // guards what follows
	list []p2p.Message
	size int
}

func newOutbox() *outbox { return &outbox{filled: make(chan struct{}, 1)} }

// put reports whether there was room.
func (o *outbox) put(m p2p.Message) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.list) >= maxOutbox || o.size >= maxOutboxSize {
		return false
	}
	o.list = append(o.list, m)
	o.size += sizeOf(m)
	select {
	case o.filled <- struct{}{}:
	default:
	}
	return true
}

// take takes all.
func (o *outbox) take() []p2p.Message {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := o.list
	o.list, o.size = nil, 0
	return list
}

// sizeOf is about how much memory a message takes.
func sizeOf(m p2p.Message) int {
	const some, host, sum = 256, 160, len(p2p.Sum{})
	n := some
	switch m := m.(type) {
	case p2p.Parents:
		for _, s := range m.Stripes {
			n += host * len(s)
		}
	case p2p.Digests:
		n += sum * len(m.Sums)
	case p2p.Lease:
		n += 8 * len(m.Pieces)
	case p2p.Audit:
		n += 8 * len(m.Pieces)
	case p2p.Recalled:
		if m.Profile != nil {
			n += 8 * len(m.Profile.Runs)
		}
	case p2p.Command:
		n += len(m.Origin.Repository)
	case p2p.Fetch:
		n += len(m.Origin.Token)
	}
	return n
}
