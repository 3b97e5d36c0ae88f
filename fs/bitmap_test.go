package fs

import (
	"os"
	"path/filepath"
	"testing"
)

func TestBitmapBoots(t *testing.T) {
	const n = 21
	type stop struct {
		clean bool
		boot  string // of the next opening
	}
	cases := []struct {
		name    string
		stops   []stop
		has     bool // bit 3 can be used at once
		suspect bool
	}{
		{"killed, same boot", []stop{{false, "boot-1"}}, true, false},
		{"stopped, same boot", []stop{{true, "boot-1"}}, true, false},
		{"stopped, next boot", []stop{{true, "boot-2"}}, true, false},
		{"power lost", []stop{{false, "boot-2"}}, false, true},
		{"power lost, killed", []stop{{false, "boot-2"}, {false, "boot-2"}}, false, true},
		{"power lost, stopped", []stop{{false, "boot-2"}, {true, "boot-2"}}, false, true},
		{"power lost, stopped, next boot", []stop{{false, "boot-2"}, {true, "boot-3"}}, false, true},
		{"power lost twice", []stop{{false, "boot-2"}, {false, "boot-3"}}, false, true},
		{"stopped, power lost", []stop{{true, "boot-2"}, {false, "boot-3"}}, false, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "filled")
			b := mustBitmap(t, path, n, "boot-1")
			b.set(3)
			b.set(20)
			for _, s := range c.stops {
				if err := b.close(s.clean); err != nil {
					t.Fatal(err)
				}
				b = mustBitmap(t, path, n, s.boot)
			}
			defer func() { _ = b.close(false) }()
			if got := b.has(3); got != c.has {
				t.Errorf("has(3) = %v, want %v", got, c.has)
			}
			if got := b.suspect(3); got != c.suspect {
				t.Errorf("suspect(3) = %v, want %v", got, c.suspect)
			}
			if b.hasAll(3, 3) != c.has || !b.mayAll(3, 3) || b.mayAll(3, 4) {
				t.Error("wrong answer about runs")
			}
			if b.suspect(4) || b.has(4) {
				t.Error("chunk 4 was never there")
			}
		})
	}
}

// TestBitmapSuspect: one stays one until its hash was seen, however many ask
// and whatever ends the process.
func TestBitmapSuspect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "filled")
	b := mustBitmap(t, path, 21, "boot-1")
	for _, i := range []int{3, 4, 20} {
		b.set(i)
	}
	reopen := func() {
		t.Helper()
		if err := b.close(false); err != nil {
			t.Fatal(err)
		}
		b = mustBitmap(t, path, 21, "boot-2")
	}
	reopen()
	for _, who := range []string{"first", "second"} {
		if !b.suspect(3) {
			t.Errorf("who asks %s is told that the chunk is missing", who)
		}
	}
	reopen() // between the question and its answer
	if !b.suspect(3) {
		t.Error("a suspect that was asked for is lost")
	}
	b.set(3)
	b.drop(4)
	reopen()
	defer func() { _ = b.close(false) }()
	if !b.has(3) || b.suspect(3) || b.has(4) || b.suspect(4) || b.has(20) || !b.suspect(20) {
		t.Error("right, wrong and unseen chunks are mixed up")
	}
	if count, _ := b.filled(); count != 1 {
		t.Errorf("%d chunks are there, not 1", count)
	}
}

func TestBitmapNext(t *testing.T) {
	b := mustBitmap(t, filepath.Join(t.TempDir(), "filled"), 19, "b")
	defer func() { _ = b.close(true) }()
	for i := range 19 {
		if i != 9 && i != 18 {
			b.set(i)
		}
	}
	for _, c := range []struct{ from, want int }{{0, 9}, {9, 9}, {10, 18}, {18, 18}, {19, 19}} {
		if got := b.next(c.from); got != c.want {
			t.Errorf("next(%d) = %d, want %d", c.from, got, c.want)
		}
	}
	if b.hasAll(8, 10) || !b.hasAll(0, 8) || b.full() {
		t.Error("wrong answer about runs")
	}
	b.set(9)
	b.set(18)
	if count, n := b.filled(); count != 19 || n != 19 || !b.full() || b.next(0) != 19 {
		t.Errorf("full bitmap has %d of %d, next %d", count, n, b.next(0))
	}
}

func TestBitmapForeignFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "filled")
	junk := make([]byte, bitmapHeader+2*2)
	for i := range junk {
		junk[i] = 0xff
	}
	if err := os.WriteFile(path, junk, 0o600); err != nil {
		t.Fatal(err)
	}
	b := mustBitmap(t, path, 16, "b")
	if count, _ := b.filled(); count != 0 || b.mayAll(0, 0) {
		t.Errorf("%d chunks believed from a foreign file of the same size", count)
	}
	b.set(1)
	if err := b.close(true); err != nil {
		t.Fatal(err)
	}
	b = mustBitmap(t, path, 160, "b")
	defer func() { _ = b.close(true) }()
	if count, n := b.filled(); count != 0 || n != 160 {
		t.Errorf("%d of %d chunks believed from another layer's bitmap", count, n)
	}
	b = mustBitmap(t, filepath.Join(t.TempDir(), "empty"), 0, "b")
	defer func() { _ = b.close(true) }()
	if !b.full() || b.next(0) != 0 {
		t.Error("a layer without content is not full")
	}
}

func mustBitmap(t *testing.T, path string, n int, boot string) *bitmap {
	t.Helper()
	b, err := openBitmap(path, n, boot)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
