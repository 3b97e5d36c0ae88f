package p2ptest_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/p2ptest"
)

var (
	big   = flag.Bool("big", false, "run TestBig: one blob of 1 GiB to many hosts")
	hosts = flag.Int("hosts", 10_000, "hosts in TestBig")
	soak  = flag.Duration("soak", 0, "run TestSoak for so long")
	seed  = flag.Uint64("seed", 1, "of what is random in all simulations")
)

// run goes through a simulation and prints what came of it, with what is
// needed to have it again. Everyone who should has the right blob at its end.
func run(t *testing.T, s *p2ptest.Sim) p2ptest.Report {
	t.Helper()
	r := s.Run()
	t.Log("\n" + r.String())
	if r.Unfinished > 0 || r.Wrong > 0 {
		t.Errorf("%d hosts have not finished, %d pieces are wrong", r.Unfinished, r.Wrong)
	}
	return r
}

func within(t *testing.T, r p2ptest.Report, ratio, blobs float64) {
	t.Helper()
	if r.Ratio() > ratio {
		t.Errorf("makespan %.3f of the bound, want at most %.2f", r.Ratio(), ratio)
	}
	if r.Blobs() > blobs {
		t.Errorf("%.3f blobs left the origin, want at most %.2f", r.Blobs(), blobs)
	}
}

// Hosts that come together wait no longer than those that come one after the other.
func TestHonest(t *testing.T) {
	t.Parallel()
	for _, join := range []time.Duration{time.Nanosecond, 100 * time.Millisecond} {
		r := run(t, p2ptest.New(p2ptest.Config{Seed: *seed, Hosts: 150, Seeds: 1, Size: 512 << 20, Join: join}))
		if within(t, r, 1.3, 1.05); r.SeedBytes > r.Size*21/20 {
			t.Errorf("they came in %v: the seed sent %d bytes of a blob of %d", join, r.SeedBytes, r.Size)
		}
	}
}

// A host that wants a blob which a seed is just fetching waits for nothing but the
// network: the first piece is on its way when the seed has it, and its sum goes by
// the scheduler, which is as far away.
func TestFirstPiece(t *testing.T) {
	t.Parallel()
	const oneWay = 100 * time.Millisecond
	for _, hosts := range []int{1, 8, 100} {
		r := run(t, p2ptest.New(p2ptest.Config{
			Seed: *seed, Hosts: hosts, Seeds: 1, Size: 64 << 20, Delay: oneWay, OriginDelay: time.Second,
		}))
		const transfer = 10 * time.Millisecond
		if waited := r.First - r.Seeded; r.Seeded == 0 || waited > 2*oneWay+transfer {
			t.Errorf("%d hosts: the first piece came %v after a seed had it at %v, want a round trip", hosts, waited, r.Seeded)
		}
	}
}

// Hosts that die, have a thin link or lie must not keep the others from it.
func TestOthersMisbehave(t *testing.T) {
	t.Parallel()
	r := run(t, p2ptest.New(p2ptest.Config{
		Seed: *seed, Hosts: 150, Seeds: 1, Size: 512 << 20, Dying: 0.05, Slow: 0.02, Lying: 0.03,
	}))
	within(t, r, 1.6, 1.3)
}

// Hosts that accuse all who serve them cost those nothing, nor the only seed its place.
func TestSlander(t *testing.T) {
	t.Parallel()
	r := run(t, p2ptest.New(p2ptest.Config{
		Seed: *seed, Hosts: 300, Seeds: 1, Size: 256 << 20, Lying: 0.1, Slandering: true,
	}))
	within(t, r, 1.6, 1.01)
}

// Those that come first get the places from which all others get their stripes. If
// their links are thin they lose them before that costs much.
func TestSlowFirst(t *testing.T) {
	t.Parallel()
	for _, seeds := range []int{1, 2} {
		r := run(t, p2ptest.New(p2ptest.Config{
			Seed: *seed, Hosts: 150, Seeds: seeds, Size: 512 << 20, Slow: 0.02, Ahead: 200 * time.Millisecond,
		}))
		within(t, r, 1.6, 1.05)
	}
}

func TestWithoutSeed(t *testing.T) {
	t.Parallel()
	r := run(t, p2ptest.New(p2ptest.Config{Seed: *seed, Hosts: 100, Size: 256 << 20}))
	within(t, r, 2.25, 1.25)
}

func TestSameAgain(t *testing.T) {
	t.Parallel()
	cfg := p2ptest.Config{
		Seed: *seed, Hosts: 60, Seeds: 1, Size: 128 << 20, Join: 200 * time.Millisecond, Jitter: 1, Loss: 0.001,
		Dying: 0.05, Slow: 0.05, Lying: 0.1,
	}
	first, again := p2ptest.New(cfg).Run(), p2ptest.New(cfg).Run()
	if d := cmp.Diff(first, again, cmpopts.IgnoreFields(p2ptest.Report{}, "Spent")); d != "" {
		t.Errorf("the same seed gave something else:\n%s", d)
	}
	cfg.Seed++
	if other := p2ptest.New(cfg).Run(); cmp.Equal(first.Done, other.Done) {
		t.Error("another seed gave the same")
	}
}

func TestSchedulerRestarted(t *testing.T) {
	t.Parallel()
	s := p2ptest.New(p2ptest.Config{Seed: *seed, Hosts: 100, Seeds: 1, Size: 512 << 20})
	s.At(1500*time.Millisecond, func() { s.StopScheduler(0) })
	s.At(3*time.Second, func() { s.StartScheduler(0) })
	within(t, run(t, s), 1.4, 1.05)
}

// Without a scheduler the hosts go on with the parents they know, and share the
// reading of the origin as before.
func TestSchedulerGone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		seeds        int
		dying, lying float64
		ratio, blobs float64
	}{
		{1, 0, 0, 1.4, 1.05},
		{0, 0, 0, 1.75, 1.05},
		{1, 0.05, 0.03, 2.5, 1.5},
		{0, 0.05, 0.03, 2.5, 1.5},
	} {
		s := p2ptest.New(p2ptest.Config{Seed: *seed, Hosts: 100, Seeds: c.seeds, Size: 512 << 20, Dying: c.dying, Lying: c.lying})
		s.At(1500*time.Millisecond, func() { s.StopScheduler(0) })
		within(t, run(t, s), c.ratio, c.blobs)
	}
}

func TestPartitionHealed(t *testing.T) {
	t.Parallel()
	s := p2ptest.New(p2ptest.Config{Seed: *seed, Hosts: 100, Seeds: 1, Size: 512 << 20})
	s.At(1500*time.Millisecond, func() { s.Partition(0.3) })
	s.At(7*time.Second, func() { s.Partition(0) })
	r := run(t, s)
	if within(t, r, 3, 1.2); r.Quantile(0.65) > 7*time.Second {
		t.Error("those who were not cut off waited for the others")
	}
}

func TestSeedKilled(t *testing.T) {
	t.Parallel()
	for _, silent := range []bool{false, true} {
		s := p2ptest.New(p2ptest.Config{Seed: *seed, Hosts: 60, Seeds: 2, Size: 256 << 20})
		s.At(700*time.Millisecond, func() {
			s.Kill("seed-0", silent)
			s.Kill("seed-1", silent)
		})
		run(t, s)
	}
}

// thin is eight hosts and their registry on lines of 20 Mbit/s, and an image of
// 94 MiB in some layers.
func thin(hosts, full, seeds int, lazy float64) p2ptest.Config {
	const line = 20e6 / 8
	return p2ptest.Config{
		Seed: *seed, Hosts: hosts, Full: full, Seeds: seeds, Join: 300 * time.Millisecond, Lazy: lazy,
		Sizes: []int64{48 << 20, 29 << 20, 13 << 20, 3 << 20, 800 << 10, 3000},
		Up:    line, Down: line, Origin: line, Step: 5 * time.Millisecond,
	}
}

// Few hosts that start the same image at once take hardly longer than one alone,
// and the registry sends it once.
func TestThinLines(t *testing.T) {
	t.Parallel()
	for _, lazy := range []float64{0, 0.1} {
		alone := run(t, p2ptest.New(thin(1, 0, 0, lazy)))
		for _, c := range []struct {
			hosts, full, seeds int
			slower, egress     float64
		}{
			{1, 0, 1, 1.1, 1},
			{2, 0, 0, 1.2, 1.05}, {2, 0, 1, 1.2, 1},
			{4, 0, 0, 1.4, 1.05}, {4, 0, 1, 1.4, 1},
			{8, 0, 0, 1.3, 1.05}, {8, 0, 1, 1.3, 1},
			{8, 8, 0, 1.3, 0}, {8, 8, 1, 1.3, 0}, // a second wave
		} {
			name := fmt.Sprintf("%d hosts, %d full, %d seeds, lazy %v", c.hosts, c.full, c.seeds, lazy > 0)
			r := run(t, p2ptest.New(thin(c.hosts, c.full, c.seeds, lazy)))
			slower, egress := r.Makespan.Seconds()/alone.Makespan.Seconds(), float64(r.OriginBytes)/float64(alone.OriginBytes)
			t.Logf("%s: %.2f times what one takes alone, %.2f times its bytes from the registry", name, slower, egress)
			if slower > c.slower || egress > c.egress {
				t.Errorf("%s: want at most %.2f and %.2f", name, c.slower, c.egress)
			}
		}
	}
}

// Hosts that are ready want the rest as well. The others start as fast as if they did not,
// and what they read leaves the registry once.
func TestReadyHostsFill(t *testing.T) {
	t.Parallel()
	for _, hosts := range []int{8, 16, 40} {
		for _, seeds := range []int{0, 1} {
			for _, join := range []time.Duration{300 * time.Millisecond, 6 * time.Second, time.Minute} {
				cfg := thin(hosts, 0, seeds, 0.1)
				cfg.Up, cfg.Down, cfg.Origin, cfg.Join = cfg.Up/4, cfg.Down/4, cfg.Origin/4, join
				before := run(t, p2ptest.New(cfg))
				cfg.Fill = true
				r := run(t, p2ptest.New(cfg))
				slower, reads := r.Makespan.Seconds()/before.Makespan.Seconds(), float64(r.ReadBytes)/float64(before.ReadBytes)
				t.Logf("%d hosts within %v, %d seeds: %.2f times as long, %.2f times as much read from the registry", hosts, join, seeds, slower, reads)
				if slower > 1.25 || reads > 1.1 {
					t.Errorf("%d hosts within %v, %d seeds: want at most 1.25 and 1.1", hosts, join, seeds)
				}
			}
		}
	}
}

// Hundreds of hosts that fill, on lines as thin as the registry's own, wait for those who
// fetch, which takes long. If each went to the registry, nothing would come through to any.
func TestManyFill(t *testing.T) {
	t.Parallel()
	cfg := thin(600, 0, 0, 0.1)
	cfg.Up, cfg.Down, cfg.Origin = cfg.Up/4, cfg.Down/4, cfg.Origin/4
	cfg.Fill, cfg.Limit = true, 100*time.Second
	if r := run(t, p2ptest.New(cfg)); r.OriginBytes > r.Size {
		t.Errorf("the registry has sent %d bytes, want at most %d", r.OriginBytes, r.Size)
	}
}

// Hundreds of hosts that read the same at the same time take some times as long as one
// alone, however many they are, and the registry sends it about once.
func TestManyReaders(t *testing.T) {
	t.Parallel()
	alone := run(t, p2ptest.New(thin(1, 0, 0, 0.1)))
	for _, hosts := range []int{100, 1000} {
		for _, seeds := range []int{0, 1} {
			r := run(t, p2ptest.New(thin(hosts, 0, seeds, 0.1)))
			slower, egress := r.Makespan.Seconds()/alone.Makespan.Seconds(), float64(r.OriginBytes)/float64(alone.OriginBytes)
			t.Logf("%d hosts, %d seeds: %.2f times what one takes alone, %.2f times its bytes from the registry", hosts, seeds, slower, egress)
			if slower > 6 || egress > 1.2 {
				t.Errorf("%d hosts, %d seeds: want at most 6 and 1.2", hosts, seeds)
			}
		}
	}
}

// Of hosts that read lazily, each passes on what it reads. One whose line up is thin
// does not do so for long.
func TestThinUpload(t *testing.T) {
	t.Parallel()
	for k := range uint64(8) {
		cfg := thin(8, 0, 1, 0.5)
		cfg.Seed, cfg.SlowBy = *seed+k, 10
		all := run(t, p2ptest.New(cfg))
		cfg.Thin = 0.126
		one := run(t, p2ptest.New(cfg))
		if slower := one.Makespan.Seconds() / all.Makespan.Seconds(); slower > 4 || one.OriginBytes > all.OriginBytes {
			t.Errorf("seed of randomness %d: with one such host the others take %.2f times as long, and the origin sends %d bytes instead of %d",
				cfg.Seed, slower, one.OriginBytes, all.OriginBytes)
		}
	}
}

// Queues before lines that are full make all ways long. What a host waits for then
// is under way meanwhile, even if there is but one that it can ask.
func TestQueues(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		hosts, full, seeds int
		slower             float64
	}{
		{1, 0, 1, 1.1}, {2, 0, 1, 1.2}, {8, 0, 1, 1.25}, {8, 0, 0, 1.4}, {8, 8, 1, 1.15},
	} {
		name := fmt.Sprintf("%d hosts, %d full, %d seeds", c.hosts, c.full, c.seeds)
		cfg := thin(c.hosts, c.full, c.seeds, 0)
		cfg.Delay = 100 * time.Millisecond
		r := run(t, p2ptest.New(cfg))
		t.Logf("%s: %.2f times the bound", name, r.Ratio())
		if r.Ratio() > c.slower {
			t.Errorf("%s: want at most %.2f", name, c.slower)
		}
	}
}

// An image so large that some of its layers wait for others for longer than a host
// waits for its peers: nobody goes to the registry for those.
func TestTurns(t *testing.T) {
	t.Parallel()
	for _, delay := range []time.Duration{time.Millisecond, 100 * time.Millisecond} {
		for _, seeds := range []int{0, 1} {
			cfg := thin(8, 0, seeds, 0)
			cfg.Sizes = []int64{100 << 20, 50 << 20, 50 << 20, 50 << 20, 10 << 20}
			cfg.Delay = delay
			r := run(t, p2ptest.New(cfg))
			t.Logf("%d seeds, delay %v: %.4f images from the registry", seeds, delay, r.Blobs())
			if r.Blobs() > 1.001 {
				t.Errorf("%d seeds, delay %v: want it once", seeds, delay)
			}
		}
	}
}

// TestBig prints the figures of a large cluster: go test ./p2p/p2ptest -run
// TestBig -big -v -timeout 1h.
func TestBig(t *testing.T) {
	if !*big {
		t.Skip("takes minutes: -big runs it")
	}
	for name, c := range map[string]struct {
		cfg   p2ptest.Config
		ratio float64
	}{
		"honest":      {p2ptest.Config{}, 1.3},
		"at once":     {p2ptest.Config{Join: time.Nanosecond}, 1.3},
		"misbehaving": {p2ptest.Config{Dying: 0.05, Slow: 0.02, Lying: 0.01}, 1.6},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.Seed, c.cfg.Hosts, c.cfg.Seeds = *seed, *hosts, 1
			start := time.Now()
			r := run(t, p2ptest.New(c.cfg))
			t.Logf("took %v", time.Since(start))
			within(t, r, c.ratio, 1.1)
		})
	}
}

// TestSoak goes through simulations of all kinds for as long as -soak says: all
// end well, and neither goroutines nor memory become more.
func TestSoak(t *testing.T) {
	if *soak == 0 {
		t.Skip("takes as long as -soak says")
	}
	rnd := rand.New(rand.NewPCG(*seed, 9))
	var heap uint64
	goroutines, runs := runtime.NumGoroutine(), 0
	for start := time.Now(); time.Since(start) < *soak; runs++ {
		cfg := p2ptest.Config{
			Seed: rnd.Uint64(), Hosts: 1 + rnd.IntN(200), Seeds: rnd.IntN(3), Size: 1 + rnd.Int64N(256<<20),
			Join: time.Duration(rnd.Int64N(int64(3 * time.Second))), Jitter: 2 * rnd.Float64(), Loss: 0.002 * rnd.Float64(),
			Dying: 0.1 * rnd.Float64(), Slow: 0.05 * rnd.Float64(), Lying: 0.05 * rnd.Float64(), Schedulers: 1 + rnd.IntN(2),
		}
		if runs%2 == 1 {
			cfg.Lazy, cfg.Fill = 0.3*rnd.Float64(), rnd.IntN(2) == 1
		}
		if r := p2ptest.New(cfg).Run(); r.Unfinished > 0 || r.Wrong > 0 {
			t.Errorf("%+v:\n%s", cfg, r)
		}
		if runs%20 == 19 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			t.Logf("%v: %d runs, heap %d KiB, %d goroutines", time.Since(start).Round(time.Second), runs+1, m.HeapAlloc>>10, runtime.NumGoroutine())
			if heap == 0 {
				heap = max(m.HeapAlloc, 4<<20)
			}
			if m.HeapAlloc > 2*heap || runtime.NumGoroutine() > goroutines {
				t.Fatal("it grows")
			}
		}
	}
}
