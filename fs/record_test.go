package fs

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
	"github.com/dfsnapshotter/dfsnapshotter/fs/profiles"
)

var anImage = digest.FromString("an image")

// sixFiles is a layer with files of one chunk each, in the order in which they lie.
func sixFiles() indextest.Layer {
	var entries []indextest.Entry
	for i, name := range []string{"a", "b", "c", "d", "e", "f"} {
		entries = append(entries, indextest.File(name, indextest.Random(uint64(i), 200<<10)))
	}
	entries = append(entries, indextest.File("filler", indextest.Random(9, 5<<20)))
	return indextest.EStargz(indextest.Tar(entries...), indextest.EStargzOptions{})
}

// chunks returns the runs of chunks that files are, in the order given.
func chunks(t *testing.T, l *Layer, names ...string) (runs []profiles.Run) {
	t.Helper()
	for _, name := range names {
		in, ok := l.walk(name)
		first, last, found := l.index.Find(in.Ino, 0, in.Size)
		if !ok || !found {
			t.Fatalf("no file %s", name)
		}
		runs = append(runs, profiles.Run{First: uint32(first), Count: uint32(last - first + 1)})
	}
	return runs
}

func ino(l *Layer, name string) uint32 {
	in, _ := l.walk(name)
	return in.Ino
}

// awaitProfile returns what is kept of a layer once it is there.
func (e *env) awaitProfile(layer, image digest.Digest) profiles.Profile {
	e.t.Helper()
	var p profiles.Profile
	e.eventually(func() bool {
		x, _, ok := e.fs.profiles.Find(e.t.Context(), layer, image)
		p = x
		return ok && p.Image == image
	})
	return p
}

func (e *env) eventually(done func() bool) {
	e.t.Helper()
	limit, tick := time.After(20*time.Second), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			e.t.Fatal("it does not come")
		}
	}
}

// read reads files of a layer, one after the other.
func (e *env) read(l *Layer, names ...string) {
	e.t.Helper()
	for _, name := range names {
		if _, err := os.ReadFile(filepath.Join(e.path(l, AnyForm), name)); err != nil {
			e.t.Fatal(err)
		}
	}
}

// TestRecord: what the first container reads of a layer is learned, in order; what
// was fetched unasked, read before, or read by a later one is not.
func TestRecord(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.Startup = 500 * time.Millisecond })
	w := e.want(sixFiles())
	l := e.layer(w)
	e.read(l, "a")
	if err := l.ensureChunks(t.Context(), 0, l.filled.n-1, 1); err != nil {
		t.Fatal(err)
	}
	starts := func(what string, want bool, fn func()) {
		t.Helper()
		e.fs.touched.Store(0)
		if fn(); e.fs.touched.Load() > 0 != want {
			t.Errorf("%s: what keeps layers from being filled: %v", what, !want)
		}
	}
	starts("a container is made", true, func() { e.fs.Record([]*Layer{l}, anImage) })
	starts("its first read, of what is here", true, func() { e.read(l, "d") })
	e.read(l, "b", "c")
	starts("a read of the same", false, func() { l.noteRead(ino(l, "d"), 0, 1, 0) })
	p := e.awaitProfile(w.Desc.Digest, anImage)
	want := chunks(t, l, "d", "b")
	want[1].Count += chunks(t, l, "c")[0].Count // which lies behind
	if diff := cmp.Diff(profiles.Profile{Layer: w.Desc.Digest, Image: anImage, Index: l.index.Info().ID, Runs: want}, p); diff != "" {
		t.Error(diff)
	}
	if l.record() {
		t.Error("a second container is recorded, whose reads the kernel answers")
	}
	e.close()
	e.open()
	l, _ = e.fs.Layer(l.ID())
	if l.record() {
		t.Error("a container is recorded, whose reads the kernel may have answered before the restart")
	}
	if p, from, ok := e.fs.profiles.Find(t.Context(), w.Desc.Digest, digest.FromString("another")); !ok || from != "host" || p.Image != anImage {
		t.Errorf("after a restart %+v from %q", p, from)
	}
}

// TestRecordNothing: where nothing is read no container has run; where something
// is, a layer of which nothing was is known, too.
func TestRecordNothing(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.Startup = 500 * time.Millisecond })
	w := e.want(sixFiles())
	idle, used := e.layer(w), e.layer(e.want(indextest.EStargz(indextest.Tar(
		indextest.File("one", []byte("1")), indextest.File("filler", indextest.Random(3, 5<<20)),
	), indextest.EStargzOptions{})))
	e.fs.learn([]*Layer{}, anImage)
	e.fs.Record([]*Layer{idle, used}, anImage)
	e.read(used, "one")
	if p := e.awaitProfile(used.rec.Blob, anImage); len(p.Runs) != 1 {
		t.Errorf("%+v", p)
	}
	if p := e.awaitProfile(idle.rec.Blob, anImage); len(p.Runs) != 0 {
		t.Errorf("%+v", p)
	}

	image := digest.FromString("never run")
	l := e.layer(e.want(indextest.EStargz(indextest.Tar(indextest.File("filler", indextest.Random(4, 5<<20))), indextest.EStargzOptions{})))
	if !l.record() {
		t.Fatal("a new layer is not recorded")
	}
	e.fs.learn([]*Layer{l}, image)
	if _, _, ok := e.fs.profiles.Find(t.Context(), l.rec.Blob, image); ok {
		t.Error("a container that has read nothing was learned from")
	}
}

// TestRecorder: its size has a bound, and no read allocates.
func TestRecorder(t *testing.T) {
	r := newRecorder(1 << 20)
	for i := range 3 * profiles.MaxRuns {
		r.note(2*i, 2*i)
	}
	if n := len(r.taken()); n != profiles.MaxRuns {
		t.Errorf("%d runs", n)
	}
	r = newRecorder(1 << 20)
	r.note(5, 6)
	r.note(4, 7)
	r.note(100, 1<<20-1)
	want := []profiles.Run{{First: 5, Count: 2}, {First: 4, Count: 1}, {First: 7, Count: 1}, {First: 100, Count: profiles.MaxChunks - 4}}
	if diff := cmp.Diff(want, r.taken()); diff != "" {
		t.Error(diff)
	}
	r, i := newRecorder(1<<20), 0
	if n := testing.AllocsPerRun(1000, func() { i += 100; r.note(i, i+10) }); n != 0 {
		t.Errorf("%v allocations for each read", n)
	}
}

// TestPreload: what an earlier start has read is fetched, and nothing else, not even
// the image's program.
func TestPreload(t *testing.T) {
	e := newEnv(t, nil)
	w := e.want(sixFiles())
	w.Image = anImage
	probe := e.layer(e.want(sixFiles())) // to know the numbers of its chunks
	p := profiles.Profile{Layer: w.Desc.Digest, Image: anImage, Index: probe.index.Info().ID, Runs: chunks(t, probe, "e", "b")}
	p.Runs = append(p.Runs, profiles.Run{First: 1 << 20, Count: 9}) // of a layer that has more
	e.fs.profiles.Learn(p)
	if err := e.fs.Remove(t.Context(), probe.ID()); err != nil {
		t.Fatal(err)
	}

	l := e.layer(w)
	e.fs.Start([]*Layer{l}, Program{Name: "/a", Image: anImage})
	e.eventually(func() bool { return slices.Equal(there(l), []string{"b", "e"}) })
	other := w
	other.Image = digest.FromString("never seen")
	if _, err := e.fs.Resolve(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if known([]*Layer{l}, other.Image) {
		t.Error("an image that was never seen is known")
	}
}

// TestPreloadOther: a profile by another index is no use.
func TestPreloadOther(t *testing.T) {
	e := newEnv(t, nil)
	w := e.want(sixFiles())
	w.Image = anImage
	e.fs.profiles.Learn(profiles.Profile{Layer: w.Desc.Digest, Image: anImage, Index: digest.FromString("another"), Runs: []profiles.Run{{First: 0, Count: 5}}})
	l := e.layer(w)
	if known([]*Layer{l}, anImage) || len(there(l)) > 0 {
		t.Errorf("chunks of another index were fetched: %v", there(l))
	}
}

// TestRequests: few, in the order of the profile as far as that matters, and never
// more than the bound.
func TestRequests(t *testing.T) {
	e := newEnv(t, nil)
	l := e.layer(e.want(sixFiles()))
	runs := chunks(t, l, "f", "a", "b", "c", "d")
	var got []int
	for _, r := range l.requests(runs) {
		got = append(got, r.First, r.Last)
	}
	all := chunks(t, l, "a", "b", "c", "d", "e", "f")
	want := []int{int(all[0].First), int(all[3].First), int(all[5].First), int(all[5].First)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("chunks of requests, first and last (-want +got):\n%s", diff)
	}
}

// TestRecordDirectory: what became a directory before the container was mounted was
// not watched, and nothing is learned of it.
func TestRecordDirectory(t *testing.T) {
	e := newEnv(t, nil)
	l := e.layer(e.want(sixFiles()))
	if !l.record() {
		t.Fatal("a new layer is not recorded")
	}
	e.read(l, "a")
	if err := l.hurry(); err != nil {
		t.Fatal(err)
	}
	e.fs.Record([]*Layer{l}, anImage) // the container is mounted
	e.fs.learn([]*Layer{l}, anImage)
	if p, _, ok := e.fs.profiles.Find(t.Context(), l.rec.Blob, anImage); ok {
		t.Errorf("%+v", p)
	}
}
