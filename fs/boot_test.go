package fs

import (
	"bytes"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
	"github.com/dfsnapshotter/dfsnapshotter/fs/profiles"
)

// scattered is a gzip layer with small files far from each other.
func scattered() indextest.Layer {
	var entries []indextest.Entry
	for i, name := range []string{"a", "b", "c"} {
		entries = append(entries, indextest.File(name, indextest.Random(uint64(i), 100<<10)), indextest.File("filler-"+name, indextest.Random(uint64(10+i), 3<<20)))
	}
	return indextest.Gzip(indextest.Tar(entries...), indextest.GzipOptions{})
}

// TestBoot: what one host's container has read scattered comes to another one as a
// pack, from which everything is used that is right.
func TestBoot(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.Quiet = century }) // or a slow machine fills what is not asked for
	w := e.want(scattered())
	first := e.layer(w)
	runs := chunks(t, first, "c", "a", "b")
	write := first.packBoot(runs)
	if write == nil {
		t.Fatal("no pack of scattered files")
	}
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	keep := func(data []byte) profiles.Blob {
		p := profiles.Blob{Digest: digest.FromBytes(data), Size: int64(len(data))}
		if err := e.fetcher.Keep(p.Digest, p.Size, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good, half := keep(b.Bytes()), keep(b.Bytes()[:b.Len()*2/3])
	again := func() *Layer {
		if err := e.fs.Remove(t.Context(), first.ID()); err != nil {
			t.Fatal(err)
		}
		if first = e.layer(w); len(there(first)) > 0 {
			t.Fatal("the layer is not lazy")
		}
		return first
	}

	l := again()
	boot := newBoot(runs)
	l.boot.Store(boot)
	l.unpackBoot(boot, good)
	if got := there(l); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("of a pack came %v", got)
	}
	if l.packBoot(runs) != nil {
		t.Error("another pack is made of what came from one")
	}
	if n := len(l.requests(runs)); n != 0 {
		t.Errorf("%d requests for what came from a pack", n)
	}
	if l.packBoot([]profiles.Run{{First: 0, Count: uint32(l.filled.n)}}) != nil {
		t.Error("a pack is made of what lies together")
	}

	l = again()
	boot = newBoot(runs)
	l.boot.Store(boot)
	l.unpackBoot(boot, half)
	if got := there(l); len(got) == 0 || len(got) == 3 {
		t.Errorf("of part of a pack came %v", got)
	}
	e.read(l, "a", "b", "c") // does not wait for it any more
}

// TestBootAwait: a reader waits for what a pack brings, as long as that goes on.
func TestBootAwait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBoot([]profiles.Run{{First: 1, Count: 3}})
		waited := func(chunk int) time.Duration {
			began := time.Now()
			b.await(t.Context(), chunk)
			return time.Since(began)
		}
		if d := waited(9); d != 0 {
			t.Errorf("what is not in the pack is waited for: %v", d)
		}
		for i := range 3 {
			time.AfterFunc(time.Duration(i+1)*bootPatience*9/10, func() { b.step(func() { b.got[i+1] = true }) })
		}
		if d := waited(3); d != 3*bootPatience*9/10 {
			t.Errorf("waited %v", d)
		}
		if d := waited(1); d != 0 {
			t.Errorf("what has come is waited for: %v", d)
		}
		b.step(func() { b.chunks[4] = true })
		if d := waited(4); d != bootPatience {
			t.Errorf("waited %v for a pack that does not go on", d)
		}
		if d := waited(4); d != 0 {
			t.Errorf("waited %v for a pack that was given up", d)
		}
		b = newBoot([]profiles.Run{{First: 1, Count: 3}})
		time.AfterFunc(time.Millisecond, func() { b.step(func() { b.over = true }) })
		if d := waited(2); d != time.Millisecond {
			t.Errorf("waited %v for a pack that ended", d)
		}
	})
}

// TestBootBackground: filling does not wait for a pack.
func TestBootBackground(t *testing.T) {
	e := newEnv(t, nil)
	l := e.layer(e.want(sixFiles()))
	l.boot.Store(newBoot([]profiles.Run{{First: 0, Count: uint32(l.filled.n)}}))
	began := time.Now()
	if err := l.ensureChunks(t.Context(), 0, l.filled.n-1, fetcher.Background); err != nil || time.Since(began) > bootPatience {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

// TestBootOrder: what is packed is in the order in which it was read but for the
// blob's within 4 MiB.
func TestBootOrder(t *testing.T) {
	e := newEnv(t, nil)
	l := e.layer(e.want(scattered()))
	var read []int
	for c := l.filled.n - 1; c >= 0; c-- {
		read = append(read, c)
	}
	got := l.inSteps(read)
	for len(read) > 0 {
		n, size := 0, int64(0)
		for ; n < len(read) && size < preloadStep; n++ {
			size += l.index.Chunk(read[n]).Len
		}
		step := slices.Clone(read[:n])
		slices.Sort(step)
		if !slices.Equal(got[:n], step) {
			t.Fatalf("packed are %v, want %v", got[:n], step)
		}
		read, got = read[n:], got[n:]
	}
	if len(got) > 0 {
		t.Errorf("packed are %v in addition", got)
	}
}

// TestBootStream: the reads of what a boot pack has are no stream, those behind it are.
func TestBootStream(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.Quiet = century })
	w := e.want(indextest.Gzip(indextest.Tar(indextest.File("a", indextest.Random(1, 5<<20))), indextest.GzipOptions{}))
	if err := e.fs.Remove(t.Context(), e.layer(w).ID()); err != nil {
		t.Fatal(err)
	}
	l := e.layer(w) // lazy, by the index that was made before
	runs := chunks(t, l, "a")
	runs[0].Count /= 2
	b := newBoot(runs)
	l.boot.Store(b)
	b.step(func() { b.got[int(runs[0].First)] = true }) // the others are to come
	node, _, _ := l.at("a")
	end := l.index.Chunk(int(runs[0].First + runs[0].Count)).Off
	const n = 128 << 10
	for off := int64(0); off < end; off += n {
		l.readAhead(node, off, n)
	}
	if len(l.streams) != 0 {
		t.Errorf("of what is in the pack there are streams: %+v", l.streams)
	}
	for off := end; off < node.Size; off += n {
		l.readAhead(node, off, n)
	}
	if len(l.streams) != 1 || l.streams[0].start != end {
		t.Errorf("streams behind the pack: %+v", l.streams)
	}
}
