package snapshot

import "sync"

// holds counts who needs a layer: remote snapshots, and images that are being
// pulled, or were when the daemon ended. A layer that nobody needs any more waits for
// a sweep to remove it.
type holds struct {
	mu      sync.Mutex // guards all fields
	n       map[uint32]int
	orphans map[uint32]struct{}      // counted in n, although no snapshot had them at the start
	idle    map[uint32]struct{}      // needed by nobody, to be removed
	going   map[uint32]chan struct{} // being removed; closed when that is over
}

func newHolds() *holds {
	return &holds{n: map[uint32]int{}, orphans: map[uint32]struct{}{}, idle: map[uint32]struct{}{}, going: map[uint32]chan struct{}{}}
}

// take holds a layer. A layer that is being removed cannot be held: then take
// returns a channel that is closed when the removal is over, after which the
// layer must be looked for again.
func (h *holds) take(id uint32) (gone <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if gone, ok := h.going[id]; ok {
		return gone
	}
	delete(h.idle, id)
	h.n[id]++
	return nil
}

// orphan holds a layer that no snapshot has at the start: it is of an image whose
// pull was interrupted, and is perhaps tried again.
func (h *holds) orphan(id uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n[id]++
	h.orphans[id] = struct{}{}
}

// adopt ends that: a snapshot holds the layer now.
func (h *holds) adopt(id uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leave(id)
}

// leaveOrphans ends it for all layers, and reports whether there are any.
func (h *holds) leaveOrphans() (any bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.orphans {
		h.leave(id)
		any = true
	}
	return any
}

// leave ends it for one layer, if it is one. The caller holds h.mu.
func (h *holds) leave(id uint32) {
	if _, ok := h.orphans[id]; ok {
		delete(h.orphans, id)
		h.drop(id)
	}
}

func (h *holds) release(id uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop(id)
}

// drop ends one hold. The caller holds h.mu.
func (h *holds) drop(id uint32) {
	h.n[id]--
	switch n := h.n[id]; {
	case n == 0:
		delete(h.n, id)
		h.idle[id] = struct{}{}
	case n < 0:
		panic("snapshot: layer released more often than held")
	}
}

// sweep returns the layers that nobody needs. The caller removes each and
// says so with swept.
func (h *holds) sweep() []uint32 {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := make([]uint32, 0, len(h.idle))
	for id := range h.idle {
		ids = append(ids, id)
		h.going[id] = make(chan struct{})
	}
	clear(h.idle)
	return ids
}

// swept ends the removal of a layer. One that could not be removed is swept
// again next time.
func (h *holds) swept(id uint32, removed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.going[id])
	delete(h.going, id)
	if !removed {
		h.idle[id] = struct{}{}
	}
}
