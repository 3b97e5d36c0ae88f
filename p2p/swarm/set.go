package swarm

import (
	"iter"
	"math/bits"
	"slices"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A set is a set of pieces, for the loops that choose among them; p2p.Have is
// what travels.
type set []uint64

func newSet(n int) set { return make(set, (n+63)/64) }

func (s set) has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }
func (s set) add(i int)      { s[i/64] |= 1 << (i % 64) }
func (s set) remove(i int)   { s[i/64] &^= 1 << (i % 64) }

func (s set) count() int {
	n := 0
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

func (s set) any() bool { return s.meets(^uint64(0)) }

// meets reports whether there is a piece in the set of which any word's mask has
// the bit.
func (s set) meets(mask uint64) bool {
	return slices.ContainsFunc(s, func(w uint64) bool { return w&mask != 0 })
}

// all yields the pieces in the set, in order; the set may change meanwhile.
func (s set) all() iter.Seq[int] {
	return func(yield func(int) bool) {
		for w := range s {
			for word := s[w]; word != 0; word &= word - 1 {
				if !yield(w*64 + bits.TrailingZeros64(word)) {
					return
				}
			}
		}
	}
}

func (s set) wire(n int) *p2p.Have {
	h := p2p.NewHave(n)
	for i := range s.all() {
		h.Add(i)
	}
	return h
}

// stripeMask returns the bits of any word that belong to the stripes of which
// mask has a bit.
func stripeMask(stripes int, mask uint8) uint64 {
	if stripes == 1 {
		if mask == 0 {
			return 0
		}
		return ^uint64(0)
	}
	return uint64(mask) * 0x0101010101010101
}
