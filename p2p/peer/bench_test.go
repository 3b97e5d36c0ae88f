package peer_test

import (
	"crypto/sha256"
	"io"
	"os"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
)

const (
	benchSize = 64 * mib
	benchRun  = 4 * mib // what a host asks for in one request
)

// BenchmarkPieces moves a blob from one host to another over loopback and
// hashes it there, as a download does.
func BenchmarkPieces(b *testing.B) {
	for name, run := range map[string]int64{"4MiB": benchRun, "64MiB": benchSize} {
		b.Run(name, func(b *testing.B) { benchPieces(b, run, "", peer.ServerConfig{}, peer.ClientConfig{}) })
	}
}

func benchPieces(b *testing.B, run int64, id p2p.HostID, sc peer.ServerConfig, cc peer.ClientConfig) {
	s := newShelf()
	it := s.put(benchSize).onDisk(b)
	sc.Blobs = s
	h := serve(b, sc)
	if id != "" {
		h.ID = id
	}
	c := client(b, cc)
	buf := make([]byte, 256<<10)
	b.SetBytes(benchSize)
	b.ReportAllocs()
	for b.Loop() {
		sum := sha256.New()
		for off := int64(0); off < benchSize; off += run {
			r := c.Range(b.Context(), peer.Plan{Blob: it.blob, Off: off, N: run, Sources: from(false, h)})
			if _, err := io.CopyBuffer(sum, onlyReader{r}, buf); err != nil {
				b.Fatal(err)
			}
			if err := r.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkCopy is the bound: the same bytes from the file, hashed.
func BenchmarkCopy(b *testing.B) {
	it := newShelf().put(benchSize).onDisk(b)
	f, err := os.Open(it.file)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 256<<10)
	b.SetBytes(benchSize)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyBuffer(sha256.New(), onlyReader{f}, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRead is a small on-demand read.
func BenchmarkRead(b *testing.B) {
	s := newShelf()
	it := s.put(benchSize).onDisk(b)
	h := serve(b, peer.ServerConfig{Blobs: s})
	c := client(b, peer.ClientConfig{})
	buf := make([]byte, 64<<10)
	b.ReportAllocs()
	for b.Loop() {
		r := c.Range(b.Context(), peer.Plan{Blob: it.blob, Off: 5*mib + 77, N: int64(len(buf)), Sources: from(false, h)})
		if _, err := io.ReadFull(r, buf); err != nil {
			b.Fatal(err)
		}
		_ = r.Close()
	}
}

type onlyReader struct{ io.Reader }
