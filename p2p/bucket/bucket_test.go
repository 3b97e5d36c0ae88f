package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/bucket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	rate  = 16 << 20
	burst = rate / 16
)

func wait(t testing.TB, b *bucket.Bucket, n int, p p2p.Priority) {
	t.Helper()
	if err := b.Wait(t.Context(), n, p); err != nil {
		t.Error(err)
	}
}

// near holds took to want, but for the rounding of times.
func near(t testing.TB, what string, took, want time.Duration) {
	t.Helper()
	if d := took - want; d < -10*time.Microsecond || d > 10*time.Microsecond {
		t.Errorf("%s took %v, not %v", what, took, want)
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rate   int64
		step   int
		steps  int
		before time.Duration // of rest
		want   time.Duration
	}{
		"small steps":                {rate, 1 << 10, 10 * rate >> 10, 0, 10*time.Second - time.Second/16},
		"steps larger than a burst":  {rate, 4 << 20, 40, 0, 10*time.Second - time.Second/16},
		"one step of minutes":        {1 << 20, 120 << 20, 1, 0, 2*time.Minute - time.Second/16},
		"a rest is worth a burst":    {rate, burst, 17, time.Hour, time.Second},
		"a low limit, a small read":  {1 << 10, 64 << 10, 1, 0, 0},
		"a low limit, the next read": {1 << 10, 64 << 10, 2, 0, 64 * time.Second},
		"a high limit":               {10 << 30, 1 << 20, 10 << 10, 0, time.Second - time.Second/16},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := bucket.New(c.rate)
				time.Sleep(c.before)
				began := time.Now()
				for range c.steps {
					wait(t, b, c.step, p2p.Background)
				}
				took := time.Since(began)
				// Each wait is rounded up to a nanosecond, which is nothing lost.
				near(t, "all", took, c.want)
			})
		})
	}
}

func TestNoLimit(t *testing.T) {
	t.Parallel()
	for _, n := range []int64{0, -1} {
		b := bucket.New(n)
		if b != nil {
			t.Fatalf("New(%d) is a limit", n)
		}
		wait(t, b, 1<<40, p2p.Background)
		r := io.NopCloser(bytes.NewReader(nil))
		if got := b.Body(t.Context(), r, p2p.OnDemand); got != r {
			t.Error("the body is wrapped")
		}
	}
}

// TestOrder has all priorities wait for the same bucket.
func TestOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := bucket.New(rate)
		wait(t, b, burst, p2p.OnDemand)
		var mu sync.Mutex
		var got []string
		var all sync.WaitGroup
		for i, p := range []p2p.Priority{p2p.Background, p2p.Prefetch, p2p.OnDemand, p2p.Background, p2p.Prefetch, p2p.OnDemand} {
			all.Go(func() {
				wait(t, b, rate, p)
				mu.Lock()
				defer mu.Unlock()
				got = append(got, fmt.Sprint(i))
			})
			synctest.Wait()
		}
		all.Wait()
		if diff := cmp.Diff([]string{"2", "5", "1", "4", "0", "3"}, got); diff != "" {
			t.Error(diff)
		}
	})
}

// TestOnDemand comes when a crowd waits, and takes what was put by for them.
func TestOnDemand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := bucket.New(rate)
		ctx, cancel := context.WithCancel(t.Context())
		var crowd sync.WaitGroup
		for i := range 100 {
			crowd.Go(func() {
				for b.Wait(ctx, rate, p2p.Priority(1+i%2)) == nil {
				}
			})
		}
		time.Sleep(20 * time.Second)
		time.Sleep(time.Second / 2) // the next one of the crowd has half of what it wants
		began := time.Now()
		wait(t, b, rate/4, p2p.OnDemand)
		near(t, "less than there is", time.Since(began), 0)
		wait(t, b, rate/2, p2p.OnDemand)
		near(t, "more than there is", time.Since(began), time.Second/4-time.Second/16)
		cancel()
		crowd.Wait()
	})
}

// TestBackground goes on when nobody else wants anything.
func TestBackground(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := bucket.New(rate)
		done := make(chan time.Duration, 1)
		began := time.Now()
		go func() {
			wait(t, b, rate, p2p.Background)
			done <- time.Since(began)
		}()
		for range 20 {
			wait(t, b, rate/2, p2p.OnDemand) // all there is, for ten seconds
		}
		select {
		case took := <-done:
			t.Fatalf("it went before on-demand reads, after %v", took)
		default:
		}
		near(t, "background", <-done, 11*time.Second-time.Second/16)
	})
}

// TestCancel gives up waiting, and leaves the rest in order.
func TestCancel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := bucket.New(rate)
		why := errors.New("no longer wanted")
		ctx, cancel := context.WithCancelCause(t.Context())
		failed := make(chan error, 1)
		go func() { failed <- b.Wait(ctx, 100*rate, p2p.OnDemand) }()
		synctest.Wait()
		done := make(chan time.Duration, 1)
		began := time.Now()
		go func() {
			wait(t, b, rate, p2p.Background)
			done <- time.Since(began)
		}()
		time.Sleep(time.Second / 4)
		cancel(why)
		if err := <-failed; !errors.Is(err, why) {
			t.Errorf("it ended with %v", err)
		}
		near(t, "the next one", <-done, time.Second-time.Second/16)
		if err := b.Wait(ctx, 1, p2p.OnDemand); !errors.Is(err, why) {
			t.Errorf("then with %v", err)
		}
		began = time.Now()
		time.Sleep(time.Hour) // what was saved for the large one is not kept
		wait(t, b, rate, p2p.OnDemand)
		near(t, "after a rest", time.Since(began), time.Hour+time.Second-time.Second/16)
	})
}

// TestCrowd has many come and go at random; nothing more and nothing less than
// the rate may pass.
func TestCrowd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := bucket.New(rate)
		began := time.Now()
		end := began.Add(time.Minute)
		var passed int64
		var mu sync.Mutex
		var crowd sync.WaitGroup
		for i := range 50 {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			crowd.Go(func() {
				for time.Now().Before(end) {
					n := 1 + random.IntN(512<<10)
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.Int64N(int64(4*time.Second))))
					if b.Wait(ctx, n, p2p.Priority(random.IntN(3))) == nil {
						mu.Lock()
						passed += int64(n)
						mu.Unlock()
					}
					cancel()
				}
			})
		}
		crowd.Wait()
		most := rate*time.Since(began).Seconds() + burst
		if got := float64(passed); got > most || got < 0.98*most {
			t.Errorf("%.0f bytes passed, of %.0f", got, most)
		}
	})
}

func TestBody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := bucket.New(rate)
		data := bytes.Repeat([]byte("0123456789abcdef"), rate/16)
		began := time.Now()
		got, err := io.ReadAll(b.Body(t.Context(), io.NopCloser(bytes.NewReader(data)), p2p.Prefetch))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		near(t, "all", time.Since(began), time.Second-time.Second/16)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n, err := io.Copy(io.Discard, b.Body(ctx, io.NopCloser(bytes.NewReader(append(data, data...))), p2p.Prefetch))
		if !errors.Is(err, context.DeadlineExceeded) || n < rate || n > rate+128<<10 {
			t.Errorf("%d bytes in a second, %v", n, err)
		}
	})
}

// BenchmarkWait is what a limit costs that is not reached.
func BenchmarkWait(b *testing.B) {
	l := bucket.New(1 << 50)
	b.ReportAllocs()
	for b.Loop() {
		wait(b, l, 256<<10, p2p.OnDemand)
	}
}

// BenchmarkLine is one step for each of a crowd that waits in line.
func BenchmarkLine(b *testing.B) {
	l := bucket.New(1 << 40)
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			wait(b, l, 4<<20, p2p.Background)
		}
	})
}

func TestSetRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b bucket.Bucket
		pass := func(n int) time.Duration {
			began := time.Now()
			if err := b.Wait(t.Context(), n, p2p.OnDemand); err != nil {
				t.Error(err)
			}
			return time.Since(began)
		}
		if took := pass(1 << 30); took != 0 {
			t.Errorf("without a limit it took %v", took)
		}
		b.SetRate(1 << 20)
		pass(64 << 10)
		if took := pass(1 << 20); took < 900*time.Millisecond || took > 1100*time.Millisecond {
			t.Errorf("a MiB at 1 MiB/s took %v", took)
		}
		waits := make(chan time.Duration, 2)
		for range cap(waits) {
			go func() { waits <- pass(10 << 20) }()
		}
		time.Sleep(time.Second)
		b.SetRate(100 << 20)
		if took := <-waits; took > 1200*time.Millisecond {
			t.Errorf("who waited did not hear of the higher limit: %v", took)
		}
		<-waits
		b.SetRate(1 << 20)
		go func() { waits <- pass(100 << 20) }()
		time.Sleep(time.Second)
		b.SetRate(0)
		if took := <-waits; took > 1001*time.Millisecond {
			t.Errorf("who waited did not hear that there is no limit: %v", took)
		}
	})
}
