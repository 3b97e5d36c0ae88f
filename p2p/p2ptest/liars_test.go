package p2ptest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/p2ptest"
)

// A host reports false sums, is banned for its bytes, and is forgotten. Those who have
// its pieces learn that, and get the right ones; the origin sends those once more. Another
// says that it has everything, and so ends leases: a sum that is on its way then counts.
func TestFalseSumsForgotten(t *testing.T) {
	t.Parallel()
	r := run(t, p2ptest.New(p2ptest.Config{
		Seed: 10866745150623901603, Hosts: 142, Size: 202438740, Join: 1328350476,
		Jitter: 0.8587694618668515, Loss: 0.0010633833217507122,
		Dying: 0.0004612790089035035, Slow: 0.021719428397732693, Lying: 0.023682480615576942, Schedulers: 2,
	}))
	within(t, r, 5, 1.5)
}

// Whatever liars agree upon, all others finish with the right bytes, and the origin
// sends the blob a few times, not once to each.
func TestLiarsAgree(t *testing.T) {
	t.Parallel()
	for _, lying := range []float64{0.01, 0.05} {
		for _, seeds := range []int{0, 1} {
			t.Run(fmt.Sprintf("%v lie, %d seeds", lying, seeds), func(t *testing.T) {
				r := run(t, p2ptest.New(p2ptest.Config{
					Seed: *seed, Hosts: 200, Seeds: seeds, Size: 64 << 20, Join: 300 * time.Millisecond, Lying: lying, Colluding: true,
				}))
				most := 1.2
				if seeds == 0 {
					most = 5
				}
				if r.Blobs() > most {
					t.Errorf("%.3f blobs left the origin, want at most %v", r.Blobs(), most)
				}
			})
		}
	}
}

// Colluders that are almost half of all come first, take all there is from the origin
// without a seed, and say that they have it, with the same false sums and bytes. A host
// that is sent to the origin shows that, so that all others finish with the right bytes,
// and hardly anybody else goes there.
func TestLiarsComeFirst(t *testing.T) {
	t.Parallel()
	const ahead = 10 * time.Second
	for _, lying := range []float64{0.01, 0.1, 0.3, 0.45} {
		t.Run(fmt.Sprintf("%v lie", lying), func(t *testing.T) {
			r := run(t, p2ptest.New(p2ptest.Config{
				Seed: *seed, Hosts: 100, Size: 64 << 20, Join: 300 * time.Millisecond, Lying: lying, Colluding: true, Ahead: ahead,
			}))
			if r.Blobs() > 6 || r.Makespan > ahead+8*time.Second {
				t.Errorf("%.3f blobs left the origin, makespan %v", r.Blobs(), r.Makespan)
			}
		})
	}
}

// Hosts that know nothing of audits, as older ones, get the right bytes together with
// those who do, soon and from few who go to the origin; and so does everybody where
// nobody knows.
func TestDeafHosts(t *testing.T) {
	t.Parallel()
	const ahead = 10 * time.Second
	for _, c := range []struct {
		deaf, blobs float64
		takes       time.Duration
	}{{0.5, 3, 8 * time.Second}, {0.8, 6, 20 * time.Second}, {1, 30, time.Minute}} {
		r := run(t, p2ptest.New(p2ptest.Config{
			Seed: 1, Hosts: 30, Size: 16 << 20, Join: 300 * time.Millisecond, Lying: 0.1, Colluding: true, Ahead: ahead, Deaf: c.deaf,
		}))
		took := r.Makespan - ahead
		t.Logf("%v deaf: %v", c.deaf, took)
		if r.Blobs() > c.blobs || took > c.takes {
			t.Errorf("%v deaf: %.3f blobs left the origin, and it took %v, want at most %v and %v", c.deaf, r.Blobs(), took, c.blobs, c.takes)
		}
	}
}

// A host says that it has everything while those who say that it has nothing are not
// believed, as much is taken back at that moment: they say it again. It had all of them
// wait for minutes.
func TestHollowOverlooked(t *testing.T) {
	t.Parallel()
	for _, seed := range []uint64{46, 187, 828} {
		r := run(t, p2ptest.New(p2ptest.Config{
			Seed: seed, Hosts: 80, Size: 24 << 20, Join: 1590243944,
			Jitter: 0.8303386961419843, Loss: 0.0008945275162992799,
			Dying: 0.08966786989336456, Slow: 0.04965971990454268, Lying: 0.1,
		}))
		if r.Makespan > 15*time.Second || r.Blobs() > 2.5 {
			t.Errorf("seed of randomness %d: makespan %v, %.3f blobs left the origin", seed, r.Makespan, r.Blobs())
		}
	}
}
