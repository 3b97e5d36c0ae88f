package main

import (
	"sync"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// maxOutbox is how many messages may wait for a host that is slow to take
// them. One more, and its stream ends: the next one begins anew.
const maxOutbox = 8192

// outbox is the messages that wait to be sent to one host. Putting one in
// never waits.
type outbox struct {
	filled chan struct{} // holds a token while something is in it

	mu   sync.Mutex
	list []p2p.Message // guarded by mu
}

func newOutbox() *outbox { return &outbox{filled: make(chan struct{}, 1)} }

// put reports whether there was room.
func (o *outbox) put(m p2p.Message) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.list) >= maxOutbox {
		return false
	}
	o.list = append(o.list, m)
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
	o.list = nil
	return list
}
