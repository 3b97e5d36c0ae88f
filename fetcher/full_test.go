package fetcher_test

import (
	"errors"
	"sync"
	"syscall"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
)

// smallDisk returns a folder on a file system of size bytes.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("fetcher-test", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("mounting a tmpfs needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestDiskFull holds that reads get their bytes although the disk takes none of
// them, that they share requests as ever, and that the background stops.
func TestDiskFull(t *testing.T) {
	data := content(24*mib, 1)
	s := newFake(nil, data)
	f, err := fetcher.New(fetcher.Config{Dir: smallDisk(t, "2m"), Sources: []fetcher.Source{s}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() // an error: the maps find no space either
	b := openBlob(t, f, ref(data))
	want(t, b, data, 0, 24*mib, fetcher.Prefetch)
	sent := s.bytesSent()
	if sent > 36*mib {
		t.Errorf("%d bytes sent for a blob of 24 MiB", sent)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		off := int64(8*mib + i%2*mib)
		wg.Go(func() { want(t, b, data, off, 300*kib, fetcher.OnDemand) })
	}
	wg.Wait()
	if more := s.bytesSent() - sent; more > 4*mib {
		t.Errorf("%d more bytes for two ranges of 300 KiB read by 8", more)
	}
	if err := b.Verify(t.Context(), fetcher.Prefetch); !errors.Is(err, fetcher.ErrFull) {
		t.Errorf("verify: %v", err)
	}
	other := content(mib, 2)
	s.blobs[ref(other).Digest] = other
	c := openBlob(t, f, ref(other))
	if _, err := read(t.Context(), c, 0, 1000, fetcher.Background); !errors.Is(err, fetcher.ErrFull) {
		t.Errorf("background read: %v", err)
	}
	want(t, c, other, 0, mib, fetcher.OnDemand)
}
