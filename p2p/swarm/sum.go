package swarm

import (
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// Sum returns the sum of a piece, if it is known: by the scheduler's word or of
// the origin's bytes.
func (h *Host) Sum(d digest.Digest, piece int) (p2p.Sum, bool) {
	b := h.find(d)
	if b == nil || piece < 0 || piece >= b.n || !b.known.has(piece) {
		return p2p.Sum{}, false
	}
	return b.sums[piece], true
}
