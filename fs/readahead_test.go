package fs

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

func TestStreams(t *testing.T) {
	const k, m = 1 << 10, 1 << 20
	var s streams
	var asked, last int64
	for off := int64(0); off < 64*m; off += 128 * k {
		from, to := s.note(7, off, 128*k, 65*m)
		next := off + 128*k
		window := min(next/2, maxWindow)
		if left := s[0].ahead - next; next > minStream && s[0].ahead < 65*m && left <= window-min(window/2, maxStep) {
			t.Fatalf("after %d bytes only %d are under way, of a window of %d", next, left, window)
		}
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

// TestJoin: one who waits for what a read-ahead is about to bring does not have it
// fetched and unpacked twice, but first.
func TestJoin(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.Quiet = century })
	form := indextest.EStargz(indextest.Tar(indextest.File("a", indextest.Random(1, 8<<20))), indextest.EStargzOptions{ChunkSize: 256 << 10})
	l := e.layer(e.want(form))
	e.registry.Fail(form.Digest, origintest.Fault{Hang: true})
	board := func(chunk int, prio fetcher.Priority) *flight {
		t.Helper()
		f, err := l.board(chunk, l.filled.n-1, prio)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	ahead := board(0, fetcher.Prefetch)
	if ahead.extent.Last < 4 {
		t.Fatalf("a read-ahead of %d chunks", ahead.extent.Last+1)
	}
	if far := board(ahead.extent.Last, fetcher.OnDemand); far == ahead {
		t.Error("one who waits for the end of a read-ahead waits for all of it")
	}
	if p := ahead.priority(); p != fetcher.Prefetch {
		t.Errorf("nobody waits for the read-ahead, but it is %v", p)
	}
	if near := board(1, fetcher.OnDemand); near != ahead {
		t.Error("one who waits for the next chunk of a read-ahead starts another flight")
	}
	if p := ahead.priority(); p != fetcher.OnDemand {
		t.Errorf("somebody waits for the read-ahead, but it is %v", p)
	}
	e.registry.Heal()
	if err := l.ensureAll(); err != nil {
		t.Fatal(err)
	}
}

// TestSequential: a large file that is read from one end to the other while it
// comes, slower than its reader, comes once.
func TestSequential(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.Quiet = century })
	data := indextest.Random(1, 32<<20)
	form := indextest.EStargz(indextest.Tar(indextest.File("a", data)), indextest.EStargzOptions{ChunkSize: 4 << 20})
	l := e.layer(e.want(form))
	path := filepath.Join(e.path(l, AnyForm), "a")
	e.registry.Fail(form.Digest, origintest.Fault{Delay: 10 * time.Millisecond})
	sent := e.registry.Sent(form.Digest)
	if out, err := exec.CommandContext(t.Context(), "cmp", path, writeTemp(t, data)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if sent = e.registry.Sent(form.Digest) - sent; sent > form.Size()*102/100 {
		t.Errorf("%d bytes were sent of a blob of %d", sent, form.Size())
	}
}

func writeTemp(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
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

func TestWalker(t *testing.T) {
	for name, tt := range map[string]struct {
		reads []uint32
		want  [][2]uint32
	}{
		"file after file":   {[]uint32{10, 11, 13, 14, 15, 16, 40}, [][2]uint32{{15, 46}, {46, 72}}},
		"here and there":    {[]uint32{10, 500, 20, 900, 30, 1000, 40, 2000}, nil},
		"backwards":         {[]uint32{16, 15, 14, 13, 12, 11, 10}, nil},
		"leaps and goes on": {[]uint32{1, 2, 3, 4, 5, 100, 101, 102, 103, 104}, [][2]uint32{{5, 36}, {105, 136}}},
	} {
		t.Run(name, func(t *testing.T) {
			var w walker
			var got [][2]uint32
			for _, ino := range tt.reads {
				if from, to := w.note(ino); from < to {
					got = append(got, [2]uint32{from, to})
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("read ahead (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWarm opens the files that are on disk, and no others.
func TestWarm(t *testing.T) {
	e := newEnv(t, nil)
	l := e.layer(e.want(indextest.EStargz(indextest.Tar(
		indextest.Dir("d"), indextest.File("d/a", indextest.Random(1, 3<<20)),
		indextest.Symlink("link", "d/a"), indextest.File("empty", nil),
		indextest.File("z", indextest.Random(2, 3<<20)),
	), indextest.EStargzOptions{})))
	ino := func(name string) uint32 {
		in, ok := l.walk(name)
		if !ok {
			t.Fatalf("no %s", name)
		}
		return in.Ino
	}
	if err := l.ensure(t.Context(), ino("d/a"), 0, 3<<20, fetcher.OnDemand); err != nil {
		t.Fatal(err)
	}
	e.fs.files.forget(0)
	l.warm(1, 1000)
	e.fs.files.mu.Lock()
	defer e.fs.files.mu.Unlock()
	if len(e.fs.files.m) != 1 || e.fs.files.m[fileKey{l.id, ino("d/a")}] == nil {
		t.Errorf("open files: %v", e.fs.files.m)
	}
}

// TestKernelAhead: the kernel reads little around a page of a mapped file.
func TestKernelAhead(t *testing.T) {
	e := newEnv(t, nil)
	for _, s := range e.fs.sessions {
		if got := readAheadOf(t, s.Dev()); got != "16\n" {
			t.Errorf("read_ahead_kb of %s is %q", s.o.Dir, got)
		}
	}
}
