package index

import (
	"path/filepath"
	"slices"
	"testing"
)

// TestMost: chunks are small as long as there are few of them, so that the index of
// a large layer is not made of digests.
func TestMost(t *testing.T) {
	for _, c := range []struct {
		have int
		want []uint32
	}{
		{0, []uint32{6 << 10, 16 << 10, 16 << 10, 16 << 10, 16 << 10, 10 << 10}},
		{manySmall - 2, []uint32{6 << 10, 16 << 10, 32 << 10, 26 << 10}},
		{2 * manySmall, []uint32{54 << 10, 26 << 10}},
		{100 * manySmall, []uint32{80 << 10}},
	} {
		w, err := newWriter(filepath.Join(t.TempDir(), "index"), Limits{}.withDefaults())
		if err != nil {
			t.Fatal(err)
		}
		w.chunks = make([]chunk, c.have)
		k := &chunker{w: w}
		const off, size = 10 << 10, 80 << 10
		for at := 0; at < size; at += 1000 {
			n := min(1000, size-at)
			if err := k.put(1, int64(off+at), run{0, n, int64(at), nil}, make([]byte, n)); err != nil {
				t.Fatal(err)
			}
		}
		if err := k.flush(); err != nil {
			t.Fatal(err)
		}
		var got []uint32
		for _, ch := range w.chunks[c.have:] {
			got = append(got, ch.size)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("after %d chunks come some of %d bytes, want %d", c.have, got, c.want)
		}
		w.abort()
	}
}

// TestStep: checkpoints of a large layer lie farther from each other.
func TestStep(t *testing.T) {
	for total, want := range map[int64]int64{0: 100, 1<<30 - 1: 100, 1 << 30: 200, 2 << 30: 400, 1 << 40: 400} {
		if got := (&gunzip{spacing: 100, total: total}).step(); got != want {
			t.Errorf("after %d bytes the next checkpoint is %d behind, want %d", total, got, want)
		}
	}
}
