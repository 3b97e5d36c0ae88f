package index_test

import (
	"archive/tar"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/klauspost/compress/gzip"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

const (
	largeLayer = 10 << 30 // bytes of files
	mostHeap   = 64 << 20
)

// BenchmarkBuildLarge makes the index of a layer of 10 GiB, and fails where that
// takes more than 64 MiB of memory, what makes the layer included.
func BenchmarkBuildLarge(b *testing.B) {
	for b.Loop() {
		r, w := io.Pipe()
		go func() { _ = w.CloseWithError(writeLarge(w)) }()
		var most uint64
		var looked int64
		o := index.Options{Progress: func(read int64) {
			if read-looked < 16<<20 {
				return
			}
			looked = read
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse+m.StackInuse)
		}}
		i, err := index.Build(b.Context(), filepath.Join(b.TempDir(), "index"), r, o)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(most)/(1<<20), "MiB-heap")
		b.ReportMetric(float64(i.BlobSize)/(1<<20), "MiB-blob")
		b.SetBytes(i.Bytes)
		if i.Bytes < largeLayer || most > mostHeap {
			b.Fatalf("%d bytes of memory for %d bytes of files, at most %d are allowed", most, i.Bytes, mostHeap)
		}
	}
}

// writeLarge writes a layer of files of 1 MiB, half of which does not compress.
func writeLarge(w io.Writer) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	const size = 1 << 20
	data := append(indextest.Random(1, size/2), indextest.Text(1, size/2)...)
	for i := range largeLayer / size {
		if err := t.WriteHeader(&tar.Header{Name: fmt.Sprintf("dir%d/file%d", i/1000, i), Mode: 0o644, Size: size}); err != nil {
			return err
		}
		data[0] = byte(i)
		if _, err := t.Write(data); err != nil {
			return err
		}
	}
	if err := t.Close(); err != nil {
		return err
	}
	return z.Close()
}
