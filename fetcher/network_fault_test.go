package fetcher_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/bucket"
)

// TestNetworkSeedDelay holds that a seed does not wait for a scheduler's answer
// in each read that it makes for others.
func TestNetworkSeedDelay(t *testing.T) {
	data := content(40*mib, 20)
	registry := newFake(nil, data)
	s := startScheduler(t)
	startHost(t, "seed-1", true, s, registry)
	h := startHost(t, "host0", false, s, newFake(nil))
	known(t, s, "seed-1", "host0")
	b := openBlob(t, h.Fetcher, ref(data))
	want(t, b, data, 0, 1000, fetcher.OnDemand)
	start := time.Now()
	for i := range int64(12) {
		want(t, b, data, (i+1)*3*mib, 100*kib, fetcher.OnDemand)
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("12 reads took %s", took)
	}
}

// TestNetworkCloseReading holds that a host can be closed while it reads from a
// peer that is slow.
func TestNetworkCloseReading(t *testing.T) {
	data := content(4*mib, 21)
	registry := newFake(always(fault{delay: 300 * time.Millisecond}), data)
	s := startScheduler(t)
	startHost(t, "seed-1", true, s, registry)
	h := startHost(t, "host0", false, s, newFake(nil))
	known(t, s, "seed-1", "host0")
	b := openBlob(t, h.Fetcher, ref(data))
	r, err := b.Range(t.Context(), mib, mib, fetcher.OnDemand)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, fetcher.ErrClosed) {
		t.Errorf("read of a closed fetcher: %v", err)
	}
}

// TestNetworkFullDisk holds that a host gets a blob that its disk does not take,
// and that a seed with such a disk keeps nobody from it.
func TestNetworkFullDisk(t *testing.T) {
	for _, seed := range []bool{false, true} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			data := content(24*mib, 22)
			registry := newFake(always(fault{delay: 2 * time.Millisecond}), data)
			s := startScheduler(t)
			full := startHostWith(t, "full", s, func(c *fetcher.Config) {
				c.Dir, c.Sources, c.Network.Self.Seed = smallDisk(t, "4m"), []fetcher.Source{registry}, seed
			})
			hosts := []*host{startHost(t, "host0", false, s, registry), startHost(t, "host1", false, s, registry)}
			known(t, s, "full", "host0", "host1")
			if !seed {
				hosts = append(hosts, full)
			}
			var wg sync.WaitGroup
			for _, h := range hosts {
				b := openBlob(t, h.Fetcher, ref(data))
				wg.Go(func() { want(t, b, data, 0, int64(len(data)), fetcher.Prefetch) })
			}
			wg.Wait()
			if sent := registry.bytesSent(); sent > 4*int64(len(data)) {
				t.Errorf("%d bytes from the origin for a blob of %d", sent, len(data))
			}
		})
	}
}

// TestNetworkTinyFullDisk holds that a tiny blob, which comes with the
// scheduler's answer, is read although the disk takes no byte.
func TestNetworkTinyFullDisk(t *testing.T) {
	data := content(100, 23)
	s := startScheduler(t)
	dir := smallDisk(t, "1m")
	first := startHost(t, "host0", false, s, newFake(nil, data))
	full := startHostWith(t, "host1", s, func(c *fetcher.Config) {
		c.Dir, c.Sources = dir, []fetcher.Source{newFake(nil)}
	})
	connected(t, s, 2)
	all(t, data, first)
	fillDisk(t, dir)
	eventually(t, func() error { // until the scheduler knows the blob
		b := openBlob(t, full.Fetcher, ref(data))
		defer b.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		got, err := read(ctx, b, 0, 100, fetcher.Prefetch)
		if ctx.Err() != nil || err == nil && !bytes.Equal(got, data) {
			t.Fatalf("read %d bytes: %v", len(got), err)
		}
		return err
	})
}

// fillDisk leaves no room on the disk that holds dir.
func fillDisk(t testing.TB, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
}

// TestNetworkEvicted holds that a blob that made room for another is not given
// any more, and is again once it is back.
func TestNetworkEvicted(t *testing.T) {
	data, other := content(3*mib, 24), content(3*mib, 25)
	s := startScheduler(t)
	small := startHostWith(t, "host0", s, func(c *fetcher.Config) {
		c.Max, c.Sources = 4*mib, []fetcher.Source{newFake(nil, data, other)}
	})
	hosts := []*host{startHost(t, "host1", false, s, newFake(nil)), startHost(t, "host2", false, s, newFake(nil))}
	connected(t, s, 3)
	keep := func(data []byte) {
		t.Helper()
		b := openBlob(t, small.Fetcher, ref(data))
		if err := errors.Join(b.Verify(t.Context(), fetcher.Background), b.Close()); err != nil {
			t.Fatal(err)
		}
	}
	keep(data)
	keep(other)
	eventually(t, func() error {
		b := openBlob(t, small.Fetcher, ref(data))
		defer b.Close()
		if b.Verified() {
			return errors.New("the blob was not evicted")
		}
		return nil
	})
	keep(data)
	all(t, data, hosts...)
}

// TestNetworkLeave holds that nothing goes on once the last user of a blob has
// left in the middle, and that it can be taken up again.
func TestNetworkLeave(t *testing.T) {
	data := content(30*mib, 26)
	registry := newFake(always(fault{delay: 4 * time.Millisecond}), data)
	s := startScheduler(t)
	metrics := prometheus.NewRegistry()
	h := startHostWith(t, "host0", s, func(c *fetcher.Config) { c.Sources, c.Registerer = []fetcher.Source{registry}, metrics })
	connected(t, s, 1)
	b := openBlob(t, h.Fetcher, ref(data))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := read(ctx, b, 0, int64(len(data)), fetcher.Prefetch); !errors.Is(err, context.Canceled) {
			t.Errorf("read: %v", err)
		}
	})
	eventually(t, func() error {
		if registry.bytesSent() < 2*mib {
			return errors.New("the download has not begun")
		}
		return nil
	})
	cancel()
	wg.Wait()
	b.Close()
	eventually(t, func() error {
		if open, swarms, running := registry.isOpen(), gauge(t, metrics, "dfsnapshotter_network_swarms"), gauge(t, metrics, "dfsnapshotter_network_requests_in_flight"); open != 0 || swarms != 0 || running != 0 {
			return fmt.Errorf("%d bodies open, %v swarms, %v requests", open, swarms, running)
		}
		return nil
	})
	want(t, openBlob(t, h.Fetcher, ref(data)), data, 0, int64(len(data)), fetcher.Prefetch)
}

func (s *fake) isOpen() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// gauge returns the value of a metric.
func gauge(t testing.TB, r *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// TestNetworkTaker holds that a host that gives nothing gets what others have.
func TestNetworkTaker(t *testing.T) {
	data := content(5*mib, 27)
	s := startScheduler(t)
	h := startHost(t, "host0", false, s, newFake(nil, data))
	taker := startHostWith(t, "host1", s, func(c *fetcher.Config) {
		c.Network.Listener.Close()
		c.Network.Listener, c.Network.Self.Share, c.Sources = nil, false, []fetcher.Source{newFake(nil)}
	})
	connected(t, s, 2)
	all(t, data, h)
	all(t, data, taker)
}

// TestNetworkLimits holds that what peers send counts for the limit of the host,
// and not for that of the origin.
func TestNetworkLimits(t *testing.T) {
	data := content(8*mib, 28)
	s := startScheduler(t)
	h := startHost(t, "host0", false, s, newFake(nil, data))
	slow := startHostWith(t, "host1", s, func(c *fetcher.Config) {
		c.Download, c.Sources = bucket.New(4*mib), []fetcher.Source{newFake(nil)}
	})
	spared := startHostWith(t, "host2", s, func(c *fetcher.Config) {
		c.Origin, c.Sources = bucket.New(64*kib), []fetcher.Source{newFake(nil)}
	})
	connected(t, s, 3)
	all(t, data, h)
	start := time.Now()
	all(t, data, slow)
	if took := time.Since(start); took < 1500*time.Millisecond {
		t.Errorf("8 MiB came in %s at 4 MiB per second", took)
	}
	start = time.Now()
	all(t, data, spared)
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("8 MiB of a peer took %s", took)
	}
}

// TestNetworkThrough holds that a range comes through hosts that have nothing of
// the blob, and leaves the origin about once.
func TestNetworkThrough(t *testing.T) {
	data := content(40*mib, 29)
	registry := newFake(nil, data)
	s := startScheduler(t)
	startHost(t, "seed-1", true, s, registry)
	hosts := make([]*host, 4)
	blobs := make([]*fetcher.Blob, len(hosts))
	for i := range hosts {
		hosts[i] = startHost(t, p2p.HostID(fmt.Sprint("host", i)), false, s, registry)
	}
	connected(t, s, len(hosts))
	known(t, s, "seed-1")
	for i, h := range hosts {
		blobs[i] = openBlob(t, h.Fetcher, ref(data))
	}
	for i := range int64(8) {
		off := i * 4 * mib
		want(t, blobs[3-i%4], data, off, 300*kib, fetcher.OnDemand)
	}
	if sent := registry.bytesSent(); sent > 8*300*kib*13/10 {
		t.Errorf("%d bytes from the origin for 8 times 300 KiB", sent)
	}
}

// TestNetworkFill holds that hosts which have read parts of a blob fill it in the
// background as they need it, and that little is asked of the origin twice.
func TestNetworkFill(t *testing.T) {
	for _, seed := range []bool{true, false} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			data := content(20*mib, 30)
			registry := newFake(always(fault{delay: 2 * time.Millisecond}), data)
			hosts := clusterOf(t, 3, seed, registry)
			var wg sync.WaitGroup
			for i, h := range hosts {
				b := openBlob(t, h.Fetcher, ref(data))
				wg.Go(func() {
					for k := range int64(5) {
						want(t, b, data, k*4*mib+int64(i)*300*kib, 400*kib, fetcher.OnDemand)
					}
					for off := int64(0); off < b.Size(); off += 700 * kib {
						want(t, b, data, off, 700*kib, fetcher.Background)
					}
				})
			}
			wg.Wait()
			if sent := registry.bytesSent(); sent > int64(len(data))*12/10 {
				t.Errorf("%d bytes from the origin for a blob of %d", sent, len(data))
			}
		})
	}
}

// TestNetworkWrongSize holds that an image which says a wrong size of a blob
// keeps nobody else from it.
func TestNetworkWrongSize(t *testing.T) {
	data := content(5*mib, 31)
	registry := newFake(nil, data)
	s := startScheduler(t)
	startHost(t, "seed-1", true, s, registry)
	hosts := []*host{startHost(t, "host0", false, s, registry), startHost(t, "host1", false, s, registry)}
	connected(t, s, 2)
	wrong := ref(data)
	wrong.Size++
	b := openBlob(t, hosts[0].Fetcher, wrong)
	if _, err := read(t.Context(), b, 0, wrong.Size, fetcher.Prefetch); err == nil {
		t.Error("a blob of another size was read")
	}
	all(t, data, hosts[1])
	b.Close()
	all(t, data, hosts[0])
}

// TestNetworkKilled holds that a host which was killed in the middle of a
// download goes on with what it has.
func TestNetworkKilled(t *testing.T) {
	data := content(20*mib, 32)
	registry := newFake(always(fault{delay: 5 * time.Millisecond}), data)
	s, hosts := cluster(t, registry, registry)
	blobs := []*fetcher.Blob{openBlob(t, hosts[0].Fetcher, ref(data)), openBlob(t, hosts[1].Fetcher, ref(data))}
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = read(t.Context(), blobs[0], 0, int64(len(data)), fetcher.Prefetch) }) // it ends with its host
	wg.Go(func() { want(t, blobs[1], data, 0, int64(len(data)), fetcher.Prefetch) })
	eventually(t, func() error {
		if held := int64(len(data)) - missing(blobs[0]); held < 8*mib {
			return fmt.Errorf("%d bytes are there", held)
		}
		return nil
	})
	dir := copyDir(t, hosts[0].dir)
	if err := hosts[0].Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	again := startHostWith(t, "host0", s, func(c *fetcher.Config) { c.Dir, c.Sources = dir, []fetcher.Source{newFake(nil)} })
	connected(t, s, 2)
	all(t, data, again)
}

func missing(b *fetcher.Blob) (n int64) {
	for _, r := range b.Missing(0, b.Size()) {
		n += r.Len
	}
	return n
}
