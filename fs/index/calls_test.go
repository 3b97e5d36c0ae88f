package index

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestCalls: calls of one function become the same bytes, and any content comes back
// as it was, also where much looks like calls that overlap.
func TestCalls(t *testing.T) {
	code := make([]byte, 64)
	for _, at := range []int{3, 20, 50} {
		code[at] = 0xe8
		le.PutUint32(code[at+1:], uint32(10-at))
	}
	p := bytes.Clone(code)
	absolute(p, 1<<20)
	if want := []byte{0xe8, 0x10, 0, 10, 0}; !bytes.Equal(p[3:8], want) || !bytes.Equal(p[20:25], want) || !bytes.Equal(p[50:55], want) {
		t.Errorf("calls became % x", p)
	}
	r := rand.New(rand.NewPCG(1, 2))
	few := []byte{0xe8, 0xe9, 0, 0xff, 1}
	for i := range 2000 {
		p := make([]byte, r.IntN(300))
		for j := range p {
			if p[j] = few[r.IntN(len(few))]; i%2 == 0 && r.IntN(3) == 0 {
				p[j] = byte(r.Uint32())
			}
		}
		was, off := bytes.Clone(p), r.Int64N(1<<40)
		absolute(p, off)
		relative(p, off)
		if !bytes.Equal(p, was) {
			t.Fatalf("% x at %d became % x", was, off, p)
		}
	}
}
