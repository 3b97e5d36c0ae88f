package index_test

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// sample is a layer of folders with 100 files each, 1.6 MiB of text.
func sample(folders int) []byte {
	var e []indextest.Entry
	for i := range folders {
		e = append(e, indextest.Dir(fmt.Sprintf("dir%d", i)))
		for j := range 100 {
			e = append(e, indextest.File(fmt.Sprintf("dir%d/file%d", i, j), indextest.Text(uint64(i*100+j), 16<<10)))
		}
	}
	return indextest.Tar(e...)
}

func BenchmarkBuild(b *testing.B) {
	for _, l := range indextest.Plain(sample(40)) {
		b.Run(l.Name, func(b *testing.B) {
			b.SetBytes(int64(len(l.Tar)))
			b.ReportAllocs()
			path := filepath.Join(b.TempDir(), "index")
			for b.Loop() {
				if _, err := index.Build(b.Context(), path, bytes.NewReader(l.Blob), index.Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

var benchBlob = flag.String("blob", "", "a gzip layer for BenchmarkGunzip to measure with, instead of a made one")

// BenchmarkGunzip is what a build is measured against: inflating, and the digests
// of blob and stream. The two take turns, so that what else the machine does
// weighs on both alike; "build" is how fast a build is, gunzip being 1, and
// "build-CPU" what it gets done in a second of processor time.
func BenchmarkGunzip(b *testing.B) {
	l := indextest.Gzip(sample(40), indextest.GzipOptions{Level: gzip.DefaultCompression})
	if *benchBlob != "" {
		var err error
		if l.Blob, err = os.ReadFile(*benchBlob); err != nil {
			b.Fatal(err)
		}
	}
	path := filepath.Join(b.TempDir(), "index")
	var plain, build spent
	b.ReportAllocs()
	for b.Loop() {
		var n int64
		plain.add(func() { n = hashedGunzip(b, l.Blob) })
		b.StopTimer()
		build.add(func() {
			if _, err := index.Build(b.Context(), path, bytes.NewReader(l.Blob), index.Options{}); err != nil {
				b.Fatal(err)
			}
		})
		b.SetBytes(n)
		b.StartTimer()
	}
	b.ReportMetric(plain.time.Seconds()/build.time.Seconds(), "build")
	b.ReportMetric(plain.cpu.Seconds()/build.cpu.Seconds(), "build-CPU")
}

// hashedGunzip inflates a blob to its end, and returns how long the stream is.
func hashedGunzip(b *testing.B, data []byte) int64 {
	blob, stream := sha256.New(), sha256.New()
	r, err := gzip.NewReader(io.TeeReader(bytes.NewReader(data), blob))
	if err != nil {
		b.Fatal(err)
	}
	n, err := io.Copy(stream, r)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// spent is what some work took.
type spent struct{ time, cpu time.Duration }

func (s *spent) add(work func()) {
	var before, after syscall.Rusage
	began := time.Now()
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before) // fails only for other arguments
	work()
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	s.time += time.Since(began)
	s.cpu += time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
}

func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "index")
	if _, err := index.Build(b.Context(), path, bytes.NewReader(sample(40)), index.Options{}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		x, err := index.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		if err := x.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	x, err := build(b, indextest.Tar(indextest.Many(10_000)...), index.Options{})
	if err != nil {
		b.Fatal(err)
	}
	dir, _ := x.Lookup(index.Root, "many")
	b.Run("Lookup", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := x.Lookup(dir, "f04711"); !ok {
				b.Fatal("not found")
			}
		}
	})
	b.Run("Entry+Inode", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			_, ino := x.Entry(dir, i%10_000)
			if _, ok := x.Inode(ino); !ok {
				b.Fatal("not found")
			}
			i++
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for _, l := range indextest.Plain(sample(40))[:3] {
		b.Run(l.Name, func(b *testing.B) {
			x, err := build(b, l.Blob, index.Options{})
			if err != nil {
				b.Fatal(err)
			}
			e := x.Extent(x.Info().Chunks / 2)
			size := int64(0)
			for i := e.First; i <= e.Last; i++ {
				size += x.Chunk(i).Len
			}
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				err := x.Decode(bytes.NewReader(l.Blob[e.Off:e.Off+e.Len]), e, func(int, []byte) error { return nil })
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
