package fs

import (
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
)

func TestStreams(t *testing.T) {
	const k, m = 1 << 10, 1 << 20
	var s streams
	var asked, last int64
	for off := int64(0); off < 64*m; off += 128 * k {
		from, to := s.note(7, off, 128*k, 65*m)
		if from == to {
			continue
		}
		if off+128*k < minStream {
			t.Fatalf("read ahead after %d bytes", off)
		}
		if from < last || to > 65*m {
			t.Fatalf("asked for [%d,%d) after %d", from, to, last)
		}
		if to-off > 128*k+maxWindow || to > (off+128*k)*3/2 {
			t.Fatalf("at %d it asks up to %d", off, to)
		}
		last, asked = to, asked+to-from
	}
	if last != 65*m || asked < 64*m {
		t.Errorf("read-ahead has come to %d, and asked for %d", last, asked)
	}
	for i := range int64(20) { // faults all over a file
		if from, to := s.note(9, i*7*m%(60*m), 128*k, 64*m); from != to {
			t.Errorf("a random reader is sequential at fault %d", i)
		}
	}
	if from, to := s.note(8, 50*m, 4*k, 100*m); from != to {
		t.Error("another file's first read is no stream")
	}
	for i := range uint32(100) {
		s.note(100+i, 0, 4*k, m)
	}
	if len(s) != maxStreams {
		t.Errorf("%d streams remembered", len(s))
	}
}

func TestCopyAt(t *testing.T) {
	for _, c := range []struct {
		pOff, dOff int64
		want       string
	}{
		{10, 10, "abcd"}, {12, 10, "cdef"}, {8, 10, "..ab"}, {16, 10, "...."}, {6, 10, "...."}, {15, 10, "f..."}, {7, 10, "...a"},
	} {
		p := []byte("....")
		copyAt(p, c.pOff, []byte("abcdef"), c.dOff)
		if string(p) != c.want {
			t.Errorf("copyAt(%d, %d) = %s, want %s", c.pOff, c.dOff, p, c.want)
		}
	}
}

func TestPendingKill(t *testing.T) {
	status := "Name:\tx\nSigPnd:\t0000000000000000\nShdPnd:\t%s\nSigBlk:\t0000000000000100\n"
	for mask, want := range map[string]bool{"0000000000000100": true, "0000000000400000": false, "0000000000400100": true, "zz": false} {
		b := []byte(replace(status, mask))
		if got := pendingKill(b, "ShdPnd:"); got != want {
			t.Errorf("%s: %v", mask, got)
		}
		if pendingKill(b, "SigPnd:") || pendingKill(b, "Nothing:") {
			t.Error("a kill where there is none")
		}
	}
	if killed(0) {
		t.Error("nothing is known of process 0")
	}
}

func replace(format, s string) string {
	const mark = "%s"
	for i := range format {
		if format[i:i+len(mark)] == mark {
			return format[:i] + s + format[i+len(mark):]
		}
	}
	return format
}

func TestNeighbours(t *testing.T) {
	n := neighbours{}
	small := index.Extent{Off: 10 << 20, Len: 8 << 10}
	last := int64(minGrow)
	for range 20 {
		g := n.grow(small)
		if g < last || g > maxGrow {
			t.Fatalf("grows by %d after %d", g, last)
		}
		last = g
	}
	if last != maxGrow {
		t.Errorf("20 waits make it grow by %d only", last)
	}
	if g := n.grow(index.Extent{Off: 10 << 20, Len: 1 << 20}); g != 0 {
		t.Errorf("a long run grows by %d", g)
	}
	if g := n.grow(index.Extent{Off: 50 << 20, Len: 8 << 10}); g != minGrow {
		t.Errorf("a first wait grows by %d", g)
	}
}
