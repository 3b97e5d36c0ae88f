package fetcher_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"sync"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// named is a file without a digest, of a server.
func named(data []byte) fetcher.Ref {
	r := fetcher.Ref{Digest: p2p.Name(sha256.Sum256([]byte("a version"))), Size: int64(len(data))}
	r.Repo = origin.Repo{Host: "https://files.test", Path: "a/file?x=1#etag=1"}
	return r
}

// TestNetworkNamed holds that hosts share a file whose digest nobody knows.
func TestNetworkNamed(t *testing.T) {
	for name, c := range map[string]struct {
		seed bool
		size int
		most float64
	}{
		"with a seed":    {true, 12*mib + 1234, 1},
		"without a seed": {false, 12*mib + 1234, 1.05},
		"a small one":    {true, 100, 1},
	} {
		t.Run(name, func(t *testing.T) {
			data := content(c.size, 21)
			r := named(data)
			server := newFake(nil)
			server.blobs[r.Digest] = data
			hosts := clusterOf(t, 4, c.seed, server)
			var wg sync.WaitGroup
			blobs := make([]*fetcher.Blob, len(hosts))
			for i, h := range hosts {
				blobs[i] = openBlob(t, h.Fetcher, r)
				wg.Go(func() { want(t, blobs[i], data, 0, r.Size, fetcher.Prefetch) })
			}
			wg.Wait()
			if most := int64(c.most * float64(r.Size)); server.bytesSent() > most {
				t.Errorf("the server sent %d bytes, want at most %d", server.bytesSent(), most)
			}
			for i, b := range blobs {
				eventually(t, func() error {
					if !b.Verified() {
						return errors.New(string(hosts[i].id) + " does not know that all is here")
					}
					return nil
				})
			}
		})
	}
}

// TestNamedKept holds that what is there of a file without a digest is used after
// a restart, and that its ranges are the server's.
func TestNamedKept(t *testing.T) {
	data := content(3*mib, 22)
	r := named(data)
	server := newFake(nil)
	server.blobs[r.Digest] = data
	dir := tempDir(t)
	f := open(t, fetcher.Config{Dir: dir, Sources: []fetcher.Source{server}})
	b := openBlob(t, f, r)
	want(t, b, data, mib, mib, fetcher.OnDemand)
	want(t, b, data, 0, r.Size, fetcher.Prefetch)
	if err := errors.Join(b.MarkVerified(), b.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if sent := server.bytesSent(); sent != r.Size {
		t.Errorf("the server sent %d bytes", sent)
	}
	s := startScheduler(t)
	h := startHostWith(t, "host0", s, func(c *fetcher.Config) { c.Dir, c.Sources = dir, []fetcher.Source{server} })
	connected(t, s, 1)
	b = openBlob(t, h.Fetcher, r)
	if !b.Verified() {
		t.Error("it is forgotten")
	}
	want(t, b, data, 0, r.Size, fetcher.Prefetch)
	other := startHost(t, "host1", false, s, newFake(nil)) // that has no server
	connected(t, s, 2)
	got, err := read(t.Context(), openBlob(t, other.Fetcher, r), 0, r.Size, fetcher.Prefetch)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("another host reads %d bytes, %v", len(got), err)
	}
	if sent := server.bytesSent(); sent != r.Size {
		t.Errorf("the server sent %d bytes", sent)
	}
}
