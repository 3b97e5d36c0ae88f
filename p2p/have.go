package p2p

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
	"slices"
)

// A Have is a set of pieces of one blob. Empty and full sets, which most are,
// take no memory beyond the struct. It is not safe for concurrent use.
type Have struct {
	n, count int32
	words    []uint64 // nil if the set is empty or full
}

// NewHave returns the empty set of pieces of a blob with n pieces. It panics if
// n is negative or above [MaxPieces].
func NewHave(n int) *Have {
	if n < 0 || n > MaxPieces {
		panic(fmt.Sprintf("p2p: have of %d pieces", n))
	}
	return &Have{n: int32(n)}
}

// FullHave returns the set of all pieces of a blob with n pieces.
func FullHave(n int) *Have {
	h := NewHave(n)
	h.count = h.n
	return h
}

// Len returns the number of pieces of the blob.
func (h *Have) Len() int { return int(h.n) }

// Count returns the number of pieces in the set.
func (h *Have) Count() int { return int(h.count) }

// Full reports whether all pieces are in the set, as they are of an empty blob.
func (h *Have) Full() bool { return h.count == h.n }

// Has reports whether piece i is in the set; a piece that the blob does not
// have is not.
func (h *Have) Has(i int) bool {
	if i < 0 || i >= int(h.n) {
		return false
	}
	if h.words == nil {
		return h.count > 0
	}
	return h.words[i/64]&(1<<(i%64)) != 0
}

// Add puts piece i into the set and reports whether it was not in it. It panics
// if the blob has no piece i.
func (h *Have) Add(i int) bool {
	h.check(i)
	if h.Has(i) {
		return false
	}
	h.expand()
	h.words[i/64] |= 1 << (i % 64)
	h.count++
	h.shrink()
	return true
}

// Remove takes piece i out of the set and reports whether it was in it. It
// panics if the blob has no piece i.
func (h *Have) Remove(i int) bool {
	h.check(i)
	if !h.Has(i) {
		return false
	}
	h.expand()
	h.words[i/64] &^= 1 << (i % 64)
	h.count--
	h.shrink()
	return true
}

// Or adds all pieces of o, a set of the same blob.
func (h *Have) Or(o *Have) {
	if h.n != o.n {
		panic(fmt.Sprintf("p2p: have of %d pieces or have of %d", h.n, o.n))
	}
	if h.Full() || o.count == 0 {
		return
	}
	h.expand()
	h.count = 0
	for i := range h.words {
		h.words[i] |= o.word(i)
		h.count += int32(bits.OnesCount64(h.words[i]))
	}
	h.shrink()
}

// Clone returns a copy.
func (h *Have) Clone() *Have {
	return &Have{n: h.n, count: h.count, words: slices.Clone(h.words)}
}

// Equal reports whether both are the same set of equally long blobs.
func (h *Have) Equal(o *Have) bool {
	return h.n == o.n && h.count == o.count && slices.Equal(h.words, o.words)
}

// All yields the pieces in the set, in order.
func (h *Have) All() iter.Seq[int] { return h.each(0) }

// Missing yields the pieces that are not in the set, in order.
func (h *Have) Missing() iter.Seq[int] { return h.each(^uint64(0)) }

func (h *Have) each(flip uint64) iter.Seq[int] {
	return func(yield func(int) bool) {
		for w := range h.size() {
			for word := (h.word(w) ^ flip) & h.mask(w); word != 0; word &= word - 1 {
				if !yield(w*64 + bits.TrailingZeros64(word)) {
					return
				}
			}
		}
	}
}

// Runs yields the set as runs of neighbours, first and last piece of each.
func (h *Have) Runs() iter.Seq2[int, int] {
	return func(yield func(int, int) bool) {
		first, last := -1, -1
		for i := range h.All() {
			if first >= 0 && i == last+1 {
				last = i
				continue
			}
			if first >= 0 && !yield(first, last) {
				return
			}
			first, last = i, i
		}
		if first >= 0 {
			yield(first, last)
		}
	}
}

// CountStripe returns how many pieces of a stripe are in the set.
func (h *Have) CountStripe(stripe int) int {
	n := 0
	for i := range h.size() {
		n += bits.OnesCount64(h.word(i) & h.stripe(stripe))
	}
	return n
}

// Offers returns how many pieces of a stripe are in the set and not in to, a
// set of the same blob.
func (h *Have) Offers(to *Have, stripe int) int {
	if h.count == 0 || to.Full() || h.n != to.n {
		return 0
	}
	n := 0
	for i := range h.size() {
		n += bits.OnesCount64(h.word(i) &^ to.word(i) & h.stripe(stripe))
	}
	return n
}

// The first byte of an encoded set.
const (
	haveNone = iota
	haveAll
	haveSome // a bit map follows, lowest piece in the lowest bit of the first byte
)

// Bytes returns the set's one encoding, at most 1 + Len()/8 bytes, rounded up.
func (h *Have) Bytes() []byte {
	switch {
	case h.count == 0:
		return []byte{haveNone}
	case h.Full():
		return []byte{haveAll}
	}
	b := make([]byte, 1+8*len(h.words))
	b[0] = haveSome
	for i, w := range h.words {
		binary.LittleEndian.PutUint64(b[1+8*i:], w)
	}
	return b[:1+(h.n+7)/8]
}

// HaveFrom decodes what [Have.Bytes] gave for a set of a blob with n pieces.
// It takes anything and allocates no more than len(b); errors wrap [ErrInvalid].
func HaveFrom(n int, b []byte) (*Have, error) {
	if n < 0 || n > MaxPieces || len(b) == 0 {
		return nil, fmt.Errorf("have of %d pieces in %d bytes: %w", n, len(b), ErrInvalid)
	}
	h := NewHave(n)
	switch {
	case b[0] == haveNone && len(b) == 1:
		return h, nil
	case b[0] == haveAll && len(b) == 1 && n > 0:
		h.count = h.n
		return h, nil
	case b[0] != haveSome || len(b) != 1+(n+7)/8:
		return nil, fmt.Errorf("have of %d pieces in %d bytes: %w", n, len(b), ErrInvalid)
	}
	h.words = make([]uint64, h.size())
	for i, c := range b[1:] {
		h.words[i/8] |= uint64(c) << (i % 8 * 8)
	}
	for i, w := range h.words {
		if w&^h.mask(i) != 0 {
			return nil, fmt.Errorf("have of %d pieces names others: %w", n, ErrInvalid)
		}
		h.count += int32(bits.OnesCount64(w))
	}
	if h.count == 0 || h.Full() {
		return nil, fmt.Errorf("have of %d of %d pieces as a bit map: %w", h.count, n, ErrInvalid)
	}
	return h, nil
}

func (h *Have) String() string {
	return fmt.Sprintf("%d/%d", h.count, h.n)
}

func (h *Have) check(i int) {
	if i < 0 || i >= int(h.n) {
		panic(fmt.Sprintf("p2p: piece %d of %d", i, h.n))
	}
}

// size returns the number of words.
func (h *Have) size() int { return (int(h.n) + 63) / 64 }

// mask returns the bits of word i that stand for pieces.
func (h *Have) mask(i int) uint64 {
	if r := int(h.n) - i*64; r < 64 {
		return 1<<r - 1
	}
	return ^uint64(0)
}

// stripe returns the bits of any word that stand for pieces of the stripe.
func (h *Have) stripe(s int) uint64 {
	if stripesOf(int(h.n)) == 1 {
		return ^uint64(0)
	}
	return 0x0101010101010101 << s
}

func (h *Have) word(i int) uint64 {
	switch {
	case h.words != nil:
		return h.words[i]
	case h.count > 0:
		return h.mask(i)
	}
	return 0
}

// expand makes the words, and shrink drops them, when the set is about to be,
// or has become, empty or full.
func (h *Have) expand() {
	if h.words != nil {
		return
	}
	words := make([]uint64, h.size())
	for i := range words {
		words[i] = h.word(i)
	}
	h.words = words
}

func (h *Have) shrink() {
	if h.count == 0 || h.Full() {
		h.words = nil
	}
}
