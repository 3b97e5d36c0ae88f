package p2ptest_test

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/p2ptest"
)

var (
	big   = flag.Bool("big", false, "run TestBig: one blob of 1 GiB to many hosts")
	hosts = flag.Int("hosts", 10_000, "hosts in TestBig")
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

func TestHonest(t *testing.T) {
	t.Parallel()
	r := run(t, p2ptest.New(p2ptest.Config{Seed: *seed, Hosts: 150, Seeds: 1, Size: 512 << 20}))
	within(t, r, 1.35, 1.1)
}

// Hosts that die, have a thin link or lie must not keep the others from it.
func TestOthersMisbehave(t *testing.T) {
	t.Parallel()
	r := run(t, p2ptest.New(p2ptest.Config{
		Seed: *seed, Hosts: 150, Seeds: 1, Size: 512 << 20, Dying: 0.05, Slow: 0.02, Lying: 0.03,
	}))
	within(t, r, 1.75, 1.3)
}

func TestWithoutSeed(t *testing.T) {
	t.Parallel()
	r := run(t, p2ptest.New(p2ptest.Config{Seed: *seed, Hosts: 100, Size: 256 << 20}))
	within(t, r, 2.7, 1.25)
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
	within(t, run(t, s), 1.9, 1.1)
}

func TestSchedulerGone(t *testing.T) {
	t.Parallel()
	s := p2ptest.New(p2ptest.Config{Seed: *seed, Hosts: 100, Seeds: 1, Size: 512 << 20})
	s.At(1500*time.Millisecond, func() { s.StopScheduler(0) })
	within(t, run(t, s), 25, 6.5)
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
