package fetcher_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// TestStress has many readers come and go on two blobs of a source with random
// faults: no read gets a wrong byte, none fails for good, and nothing stays
// open.
func TestStress(t *testing.T) {
	blobs := [][]byte{content(9*mib, 1), content(3*mib, 2)}
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				rnd := rand.New(rand.NewPCG(seed, 0))
				random := func(n int64) int64 {
					mu.Lock()
					defer mu.Unlock()
					return rnd.Int64N(n)
				}
				s := newFake(func(int, request) fault {
					f := fault{delay: time.Duration(random(20)) * time.Millisecond}
					switch random(30) {
					case 0, 1, 2:
						f.err = &origin.UnavailableError{Err: errors.New("down")}
					case 3:
						f.mute = true
					case 4, 5:
						f.hang = 1 + random(mib)
					case 6, 7, 8, 9, 10:
						f.cut = 1 + random(mib)
					case 11, 12:
						f.whole = seed%2 == 1
					}
					return f
				}, blobs...)
				f := newFetcher(t, s)
				var wg sync.WaitGroup
				for range 16 {
					wg.Go(func() {
						for range 8 {
							stressRead(t, f, blobs[random(2)], random)
							time.Sleep(time.Duration(random(2000)) * time.Millisecond)
						}
					})
				}
				wg.Wait()
				time.Sleep(time.Minute)
				if s.mu.Lock(); s.open != 0 {
					t.Errorf("%d bodies left open", s.open)
				}
				s.mu.Unlock()
			})
		})
	}
}

func stressRead(t *testing.T, f *fetcher.Fetcher, data []byte, random func(int64) int64) {
	b, err := f.Blob(ref(data))
	if err != nil {
		t.Error(err)
		return
	}
	defer b.Close()
	size := int64(len(data))
	off := random(size)
	n := min(1+random(size-off), 1+random(size))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	left := random(6) == 0
	if left {
		time.AfterFunc(time.Duration(random(3000))*time.Millisecond, cancel)
	}
	if random(20) == 0 {
		if err := b.Discard(off, n); err != nil {
			t.Error(err)
		}
	}
	got, err := read(ctx, b, off, n, fetcher.Priority(random(3)))
	switch {
	case left && errors.Is(err, context.Canceled):
	case err != nil:
		t.Errorf("read %d bytes at %d: %v", n, off, err)
	case !bytes.Equal(got, data[off:off+n]):
		t.Errorf("read %d bytes at %d: wrong bytes", n, off)
	}
}
