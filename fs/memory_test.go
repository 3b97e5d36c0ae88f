package fs

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// TestLayerMemory: a layer of 100,000 files that is mounted and was listed takes
// less than 1 MiB of memory, what is mapped excepted.
func TestLayerMemory(t *testing.T) {
	const files, layers, most = 100_000, 2, 1 << 20
	e := newEnv(t, nil)
	form := indextest.Uncompressed(indextest.Tar(indextest.Many(files)...))
	made := e.indexOf(form)
	open := func() {
		l := e.unmade(form)
		if err := os.Link(made, filepath.Join(l.dir, "index")); err != nil {
			t.Fatal(err)
		}
		if err := l.open(); err != nil {
			t.Fatal(err)
		}
		e.serve(l)
		if names, err := os.ReadDir(filepath.Join(e.root, "n", l.name(), "many")); err != nil || len(names) != files {
			t.Fatalf("%d files: %v", len(names), err)
		}
	}
	open() // what all layers share is there then
	before := heap()
	for range layers {
		open()
	}
	if each := (heap() - before) / layers; each > most {
		t.Errorf("a mounted layer takes %d bytes, at most %d are allowed", each, most)
	} else {
		t.Logf("a mounted layer of %d files takes %d bytes", files, each)
	}
}

// heap returns the bytes in use once all garbage is gone.
func heap() int64 {
	var m runtime.MemStats
	for range 3 { // pools are emptied by the second
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
