package sched

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A host is connected: it has announced itself and its stream is up.
type host struct {
	p2p.Host
	peers  map[*swarm]*peer
	up     pace   // as a parent: what its children measured, 1 is the mean of their swarms
	down   pace   // as a child, likewise
	slow   []mark // parents that it found slow lately
	open   int    // its complaints that wait for a witness
	checks int    // pieces that it fetches as a witness
	left   string // why its stream ended; "": it has not
}

func (h *host) peer(w *swarm) *peer {
	if w == nil {
		return nil
	}
	return h.peers[w]
}

// inOrder returns the host's peers in the order of their digests: whatever a
// map's order could change goes through it.
func (h *host) inOrder() []*peer {
	all := make([]*peer, 0, len(h.peers))
	for _, p := range h.peers {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *peer) int {
		return cmp.Compare(a.swarm.blob.Digest, b.swarm.blob.Digest)
	})
	return all
}

// announce takes what a host says of itself on a new stream. What was known from
// an earlier stream is forgotten; what it did wrong is not.
func (s *State) announce(from p2p.HostID, m p2p.Announce) error {
	if err := m.Host.Validate(); err != nil {
		return err
	}
	if m.Host.ID != from {
		return fmt.Errorf("host %s announces %s: %w", from, m.Host.ID, ErrRole)
	}
	if len(m.Inventory) > s.cfg.MaxBlobs {
		return fmt.Errorf("inventory of %d blobs: %w", len(m.Inventory), ErrLimit)
	}
	size := map[digest.Digest]int64{}
	for _, i := range m.Inventory {
		if err := checkInventory(i); err != nil {
			return err
		}
		if n, ok := size[i.Blob.Digest]; ok && n != i.Blob.Size {
			return fmt.Errorf("blob %s has two sizes: %w", i.Blob.Digest, p2p.ErrInvalid)
		}
		size[i.Blob.Digest] = i.Blob.Size
	}
	old := s.hosts[from]
	if old == nil && len(s.hosts) >= s.cfg.MaxHosts {
		return fmt.Errorf("host %s is one too many: %w", from, ErrLimit)
	}
	if old != nil {
		s.remove(old, "announced itself anew")
	}
	s.hasten(from)
	h := &host{Host: m.Host, peers: make(map[*swarm]*peer, len(m.Inventory))}
	h.Share = h.Share || h.Seed
	s.hosts[from] = h
	if h.Seed {
		s.seeds = append(s.seeds, h)
		slices.SortFunc(s.seeds, func(a, b *host) int { return cmp.Compare(a.ID, b.ID) })
	}
	for _, i := range m.Inventory {
		// A blob that is one too many must not keep the rest out.
		if err := s.inventory(h, i); err != nil {
			continue
		}
		if p := h.peer(s.swarms[i.Blob.Digest]); p != nil && i.Verified {
			s.vouch(p)
		}
	}
	if h.Seed {
		for _, w := range slices.Clone(s.active) {
			s.own(w)
		}
	}
	return nil
}

// remove takes a host out of all swarms. From now on it gets no children; those
// it has get other parents bit by bit.
func (s *State) remove(h *host, reason string) {
	delete(s.hosts, h.ID)
	if h.Seed {
		s.seeds = without(s.seeds, h)
	}
	h.left = reason
	for _, p := range h.inOrder() {
		if p.swarm.owner == p {
			p.swarm.owner = nil
		}
		s.setRole(p, idle)
		s.leaving = append(s.leaving, p)
	}
	s.abandon(h)
	s.depart()
}
