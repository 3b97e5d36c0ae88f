package store

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRanges compares the set with a bitmap under random additions and
// removals.
func TestRanges(t *testing.T) {
	const size = 200
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var s ranges
		var bits [size]bool
		for range 300 {
			off := rnd.Int64N(size)
			end := off + rnd.Int64N(size-off+1)/(1+rnd.Int64N(8))
			set := rnd.IntN(5) > 1
			var changed, got int64
			for i := off; i < end; i++ {
				if bits[i] != set {
					bits[i], changed = set, changed+1
				}
			}
			if set {
				got = s.add(off, end)
			} else {
				got = s.remove(off, end)
			}
			if got != changed {
				t.Fatalf("seed %d: [%d,%d) set=%v changed %d bytes, want %d", seed, off, end, set, got, changed)
			}
			checkRanges(t, s, bits[:], off, end)
		}
	}
}

func checkRanges(t *testing.T, s ranges, bits []bool, off, end int64) {
	t.Helper()
	var want ranges
	var missing []Range
	for i, set := range bits {
		i := int64(i)
		if set {
			want = appendByte(want, i)
		} else if i >= off && i < end {
			missing = appendByte(missing, i)
		}
	}
	if diff := cmp.Diff(want, append(ranges(nil), s...)); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff(missing, s.missing(off, end)); diff != "" {
		t.Fatalf("missing in [%d,%d): %s", off, end, diff)
	}
	var run int64
	for i := off; i < end && bits[i]; i++ {
		run++
	}
	if got := s.present(off, end); got != run {
		t.Fatalf("present from %d before %d: %d, want %d", off, end, got, run)
	}
}

func appendByte(r []Range, i int64) []Range {
	if n := len(r); n > 0 && r[n-1].End() == i {
		r[n-1].Len++
		return r
	}
	return append(r, Range{i, 1})
}
