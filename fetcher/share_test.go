package fetcher_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
)

// TestShared holds that a range is asked for once however many read it, by
// whichever handle of the blob.
func TestShared(t *testing.T) {
	data := content(2*mib, 1)
	synctest.Test(t, func(t *testing.T) {
		s := newFake(always(fault{delay: 10 * time.Millisecond}), data)
		f := newFetcher(t, s)
		var wg sync.WaitGroup
		for i := range 16 {
			b := openBlob(t, f, ref(data))
			wg.Go(func() { want(t, b, data, int64(i), mib-int64(i), fetcher.Priority(i%3)) })
			synctest.Wait()
		}
		wg.Wait()
		if s.bytesSent() != mib || len(s.seen()) != 1 {
			t.Errorf("requests %v, %d bytes", s.seen(), s.bytesSent())
		}
	})
}

// TestJoin holds when an on-demand read waits for a request under way and when
// it makes its own.
func TestJoin(t *testing.T) {
	data := content(8*mib, 1)
	tests := []struct {
		name  string
		off   int64
		delay time.Duration // of each block of 32 KiB
		own   bool
		prio  fetcher.Priority
	}{
		{"near", 600 * kib, 10 * time.Millisecond, false, fetcher.OnDemand},
		{"far on a slow line", 3 * mib, 10 * time.Millisecond, true, fetcher.OnDemand},
		{"far on a fast line", 3 * mib, time.Millisecond, false, fetcher.OnDemand},
		{"far, but it can wait", 3 * mib, 10 * time.Millisecond, false, fetcher.Prefetch},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newFake(always(fault{delay: tt.delay}), data)
				b := openBlob(t, newFetcher(t, s), ref(data))
				r, err := b.Range(t.Context(), 0, 4*mib, fetcher.Background)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				if _, err := io.ReadFull(r, make([]byte, 256*kib)); err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				want(t, b, data, tt.off, 64*kib, tt.prio)
				took := time.Since(start)
				switch n := len(s.seen()); {
				case tt.own && (n != 2 || took > 50*time.Millisecond):
					t.Errorf("%d requests, %s: the read did not ask itself", n, took)
				case !tt.own && n != 1:
					t.Errorf("requests %v: the read did not wait for the first", s.seen())
				}
			})
		})
	}
}

// TestRaise holds that an on-demand read pulls a queued background request of
// its bytes forward, and so does a background read that becomes one.
func TestRaise(t *testing.T) {
	for name, raise := range map[string]func(t *testing.T, b *fetcher.Blob, low *fetcher.Reader) error{
		"by another": func(t *testing.T, b *fetcher.Blob, _ *fetcher.Reader) error {
			high, err := b.Range(t.Context(), 0, 100, fetcher.OnDemand)
			if err == nil {
				t.Cleanup(func() { _ = high.Close() }) // it returns nil
			}
			return err
		},
		"by itself": func(_ *testing.T, _ *fetcher.Blob, low *fetcher.Reader) error {
			low.Raise(fetcher.OnDemand)
			low.Raise(fetcher.Prefetch) // too late to matter
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) { testRaise(t, raise) })
	}
}

func testRaise(t *testing.T, raise func(t *testing.T, b *fetcher.Blob, low *fetcher.Reader) error) {
	busy, data := content(12*mib, 1), content(mib, 2)
	synctest.Test(t, func(t *testing.T) {
		s := newFake(always(fault{delay: time.Second}), busy, data)
		f := open(t, fetcher.Config{Dir: tempDir(t), Sources: []fetcher.Source{s}})
		other := openBlob(t, f, ref(busy))
		for i := range int64(3) { // takes all slots that background requests get
			r, err := other.Range(t.Context(), i*4*mib, mib, fetcher.Background)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
		}
		b := openBlob(t, f, ref(data))
		low, err := b.Range(t.Context(), 0, mib, fetcher.Background)
		if err != nil {
			t.Fatal(err)
		}
		defer low.Close()
		synctest.Wait()
		if n := len(s.seen()); n != 3 {
			t.Fatalf("%d requests, want only 3 in the background", n)
		}
		if err := raise(t, b, low); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := len(s.seen()); n != 4 {
			t.Errorf("%d requests, want the raised one under way", n)
		}
	})
}

// TestUnranged holds that a source that ignores ranges is made to send a blob
// about once, whatever is read of it at the same time and afterwards.
func TestUnranged(t *testing.T) {
	data := content(24*mib, 1)
	synctest.Test(t, func(t *testing.T) {
		s := newFake(always(fault{whole: true, delay: 30 * time.Millisecond}), data)
		b := openBlob(t, newFetcher(t, s), ref(data))
		var wg sync.WaitGroup
		for i := range int64(40) {
			wg.Go(func() { want(t, b, data, mib/2*i+mib, 64*kib, fetcher.OnDemand) })
		}
		wg.Wait()
		time.Sleep(time.Minute) // nobody reads: the stream goes on all the same
		want(t, b, data, 0, 24*mib, fetcher.Prefetch)
		if got := s.bytesSent(); got > 25*mib {
			t.Errorf("the source sent %d bytes for a blob of %d", got, len(data))
		}
		if n := len(s.seen()); n > 8 { // what one blob may have under way
			t.Errorf("%d requests", n)
		}
	})
}

// TestLeave holds that the end of one reader's context does not end the
// request that another waits for, and that a request nobody wants ends after a
// while.
func TestLeave(t *testing.T) {
	data := content(8*mib, 1)
	synctest.Test(t, func(t *testing.T) {
		s := newFake(always(fault{delay: 50 * time.Millisecond}), data)
		b := openBlob(t, newFetcher(t, s), ref(data))
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := read(ctx, b, 0, mib, fetcher.OnDemand); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled read: %v", err)
			}
		})
		wg.Go(func() { want(t, b, data, 0, mib, fetcher.OnDemand) })
		time.Sleep(time.Second)
		cancel()
		wg.Wait()
		if n := len(s.seen()); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
		r, err := b.Range(t.Context(), 2*mib, 4*mib, fetcher.OnDemand)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		r.Close()
		time.Sleep(5 * time.Second)
		if s.mu.Lock(); s.open != 0 {
			t.Errorf("%d bodies open after all readers left", s.open)
		}
		s.mu.Unlock()
	})
}

// TestClose holds that Close ends readers that wait.
func TestClose(t *testing.T) {
	data := content(mib, 1)
	synctest.Test(t, func(t *testing.T) {
		f, err := fetcher.New(fetcher.Config{Dir: tempDir(t), Sources: []fetcher.Source{newFake(always(fault{mute: true}), data)}})
		if err != nil {
			t.Fatal(err)
		}
		b := openBlob(t, f, ref(data))
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := read(t.Context(), b, 0, 100, fetcher.OnDemand); !errors.Is(err, fetcher.ErrClosed) {
				t.Errorf("read: %v", err)
			}
		})
		synctest.Wait()
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if _, err := f.Blob(ref(data)); !errors.Is(err, fetcher.ErrClosed) {
			t.Errorf("open a blob: %v", err)
		}
	})
	b := openBlob(t, newFetcher(t, newFake(nil, data)), ref(data))
	b.Close()
	if _, err := b.Range(t.Context(), 0, 1, fetcher.OnDemand); !errors.Is(err, fetcher.ErrClosed) {
		t.Errorf("Range of a closed blob: %v", err)
	}
}

// TestFairness holds that reads of one blob are not slowed by others whose
// source hangs, although all come from one registry: neither while they hang
// nor when they are asked again, which the 40 s of reading see several times.
func TestFairness(t *testing.T) {
	data := content(16*mib, 1)
	victims := make([][]byte, 16)
	for i := range victims {
		victims[i] = content(3*mib, uint64(i+2))
	}
	measure := func(t *testing.T, hanging int) (took time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			good := newFake(always(fault{delay: 5 * time.Millisecond}), data)
			bad := newFake(always(fault{mute: true}), victims...)
			f := newFetcher(t, byBlob{digest.FromBytes(data): good, "": bad})
			for _, v := range victims[:hanging] {
				b := openBlob(t, f, ref(v))
				for i := range int64(10) {
					r, err := b.Range(t.Context(), i*300*kib, 100*kib, fetcher.Priority(i%3))
					if err != nil {
						t.Fatal(err)
					}
					defer r.Close()
				}
			}
			time.Sleep(3 * time.Second)
			b := openBlob(t, f, ref(data))
			start := time.Now()
			for i := range int64(80) {
				want(t, b, data, i*200*kib, 64*kib, fetcher.OnDemand)
				took += time.Since(start)
				time.Sleep(500 * time.Millisecond)
				start = time.Now()
			}
			want(t, b, data, 0, 16*mib, fetcher.Prefetch)
			took += time.Since(start)
		})
		return took
	}
	alone := measure(t, 0)
	for _, n := range []int{1, 4, 16} {
		if took := measure(t, n); took > alone*11/10 {
			t.Errorf("with %d blobs hanging reads took %s, alone %s", n, took, alone)
		}
	}
}

// byBlob is a source that has another one for each blob, "" for the rest.
type byBlob map[digest.Digest]fetcher.Source

func (s byBlob) Name() string { return "fake" }

func (s byBlob) Open(ctx context.Context, r fetcher.Ref, off, n int64) (*fetcher.Body, error) {
	if one := s[r.Digest]; one != nil {
		return one.Open(ctx, r, off, n)
	}
	return s[""].Open(ctx, r, off, n)
}

// TestSlots holds how many requests one registry gets at a time.
func TestSlots(t *testing.T) {
	blobs := make([][]byte, 8)
	for i := range blobs {
		blobs[i] = content(8*mib, uint64(i))
	}
	for _, tt := range []struct {
		blobs int
		prio  fetcher.Priority
		most  int
	}{
		{8, fetcher.OnDemand, 16},
		{8, fetcher.Prefetch, 12},
		{8, fetcher.Background, 3},
		{1, fetcher.OnDemand, 8},
		{1, fetcher.Prefetch, 6},
	} {
		t.Run(fmt.Sprint(tt.blobs, tt.prio), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newFake(always(fault{delay: 100 * time.Millisecond}), blobs...)
				f := newFetcher(t, s)
				var wg sync.WaitGroup
				for _, data := range blobs[:tt.blobs] {
					b := openBlob(t, f, ref(data))
					for off := int64(0); off < 8*mib; off += mib / 2 {
						wg.Go(func() { want(t, b, data, off, 100*kib, tt.prio) })
					}
				}
				wg.Wait()
				if s.most != tt.most {
					t.Errorf("%d requests at a time, want %d", s.most, tt.most)
				}
			})
		})
	}
}

// TestDiscard holds that bytes found to be wrong are asked for again, of
// another repository if there is one.
func TestDiscard(t *testing.T) {
	data := content(mib, 1)
	mirror := origin.Repo{Host: "mirror.test", Path: "a/b"}
	s := newFake(func(_ int, r request) fault { return fault{lie: r.Repo == repo} }, data)
	f := newFetcher(t, s)
	b := openBlob(t, f, ref(data))
	other := ref(data)
	other.Repo = mirror
	openBlob(t, f, other)
	got, err := read(t.Context(), b, 0, 1000, fetcher.OnDemand)
	if err != nil || bytes.Equal(got, data[:1000]) {
		t.Fatalf("the fake did not lie: %v", err)
	}
	if err := b.Discard(0, 1000); err != nil {
		t.Fatal(err)
	}
	want(t, b, data, 0, 1000, fetcher.OnDemand)
	want(t, b, data, 5000, 1000, fetcher.OnDemand)
	if n := len(s.seen()); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

// TestVerify holds what becomes of right and of wrong content.
func TestVerify(t *testing.T) {
	data := content(9*mib, 1)
	synctest.Test(t, func(t *testing.T) {
		s := newFake(first(3, fault{lie: true}), data)
		b := openBlob(t, newFetcher(t, s), ref(data))
		if err := b.Verify(t.Context(), fetcher.Background); !errors.Is(err, fetcher.ErrDigest) {
			t.Fatalf("wrong content: %v", err)
		}
		if m := b.Missing(0, 9*mib); len(m) != 1 || m[0] != (store.Range{Len: 9 * mib}) {
			t.Errorf("missing after wrong content: %v", m)
		}
		if err := b.Verify(t.Context(), fetcher.Background); err != nil || !b.Verified() {
			t.Errorf("right content: %v, verified %v", err, b.Verified())
		}
		want(t, b, data, 0, 9*mib, fetcher.OnDemand)
		if n := len(s.seen()); n != 6 {
			t.Errorf("%d requests, want 6", n)
		}
	})
}

// TestQuiet holds that background work can wait for on-demand reads, and that
// a background request stands back while one waits.
func TestQuiet(t *testing.T) {
	data, fill := content(mib, 1), content(8*mib, 2)
	synctest.Test(t, func(t *testing.T) {
		slow := newFake(always(fault{delay: 2 * time.Second, block: 64 * kib}), data)
		fast := newFake(always(fault{delay: time.Millisecond}), fill)
		f := newFetcher(t, byBlob{digest.FromBytes(data): slow, "": fast})
		start := time.Now()
		if err := f.WaitQuiet(t.Context(), time.Hour); err != nil || time.Since(start) > 0 {
			t.Errorf("nothing was read, and it waited %s: %v", time.Since(start), err)
		}
		b, c := openBlob(t, f, ref(data)), openBlob(t, f, ref(fill))
		var wg sync.WaitGroup
		wg.Go(func() { want(t, b, data, 0, 128*kib, fetcher.OnDemand) }) // takes 4 s
		synctest.Wait()
		wg.Go(func() { want(t, c, fill, 0, 4*mib, fetcher.Background) })
		time.Sleep(3 * time.Second)
		if sent := fast.bytesSent(); sent > mib {
			t.Errorf("the background got %d bytes while a read waited", sent)
		}
		if err := f.WaitQuiet(t.Context(), 2*time.Second); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took < 6*time.Second || took > 7*time.Second {
			t.Errorf("quiet after %s, want 6 s", took)
		}
		if took := f.LastOnDemand().Sub(start); took != 4*time.Second {
			t.Errorf("last on-demand wait ended after %s", took)
		}
		wg.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.WaitQuiet(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("WaitQuiet: %v", err)
		}
	})
}
