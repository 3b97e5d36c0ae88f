package fetcher_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// TestNetworkStress has hosts read several blobs in all ways, and open and close
// them, while one of them has an origin that lies: no caller that checks what it
// gets, and says what was wrong, goes without the right bytes.
func TestNetworkStress(t *testing.T) {
	blobs := [][]byte{content(9*mib, 40), content(3*mib, 41), content(200*kib, 42), content(100, 43)}
	registry := newFake(always(fault{delay: time.Millisecond}), blobs...)
	s := startScheduler(t)
	startHost(t, "seed-1", true, s, registry)
	liar := startHost(t, "host0", false, s, newFake(always(fault{lie: true}), blobs...))
	hosts := make([]*host, 5)
	for i := range hosts {
		hosts[i] = startHostWith(t, p2p.HostID(fmt.Sprint("host", i+1)), s, func(c *fetcher.Config) {
			c.Sources = []fetcher.Source{registry}
			if i == 0 {
				c.Max = 10 * mib
			}
		})
	}
	connected(t, s, 6)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i, h := range append(hosts, liar) {
		for k := range 3 {
			rnd := rand.New(rand.NewPCG(uint64(i), uint64(k)))
			wg.Go(func() {
				for ctx.Err() == nil {
					if err := readAnything(ctx, h, blobs[rnd.IntN(len(blobs))], rnd, h != liar); err != nil && ctx.Err() == nil {
						t.Errorf("%s: %v", h.id, err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	for _, data := range blobs {
		readRight(t, data, hosts...)
	}
}

// readAnything opens a blob and reads a few ranges of it, some of which it leaves
// before their end.
func readAnything(ctx context.Context, h *host, data []byte, rnd *rand.Rand, check bool) error {
	b, err := h.Blob(ref(data))
	if err != nil {
		return err
	}
	defer b.Close()
	for range 1 + rnd.IntN(3) {
		off := rnd.Int64N(b.Size())
		n := 1 + rnd.Int64N(b.Size()-off)
		if rnd.IntN(4) == 0 {
			off, n = 0, b.Size()
		}
		ctx, cancel := ctx, context.CancelFunc(func() {})
		if rnd.IntN(5) == 0 {
			ctx, cancel = context.WithTimeout(ctx, time.Duration(rnd.IntN(50))*time.Millisecond)
		}
		err := readChecked(ctx, b, data, off, n, fetcher.Priority(rnd.IntN(3)), check)
		left := ctx.Err() != nil
		cancel()
		if err != nil && !left {
			return err
		}
	}
	return nil
}

// readChecked reads a range until it is right.
func readChecked(ctx context.Context, b *fetcher.Blob, data []byte, off, n int64, p fetcher.Priority, check bool) error {
	const tries = 6
	for range tries {
		got, err := read(ctx, b, off, n, p)
		switch {
		case err != nil:
			return fmt.Errorf("read %d bytes at %d: %w", n, off, err)
		case !check, bytes.Equal(got, data[off:off+n]):
			return nil
		}
		if err := b.Discard(off, n); err != nil {
			return err
		}
	}
	return errors.New("wrong bytes, again and again")
}
