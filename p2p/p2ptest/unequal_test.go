package p2ptest_test

import (
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/p2ptest"
)

// A host with a fast line that comes after others with very slow ones does not wait
// for what those send it while a seed has room for it, whether they have something,
// much or everything by then. By itself it would take a quarter of a second.
func TestUnequalLines(t *testing.T) {
	t.Parallel()
	for _, sizes := range [][]int64{{14 << 20}, {6 << 20, 5 << 20, 3 << 20}, {1500 << 10}} {
		for _, slow := range []int{1, 2, 5} {
			for _, ahead := range []time.Duration{3 * time.Second, 20 * time.Second, 100 * time.Second} {
				limit := 4 * time.Second
				r := run(t, p2ptest.New(p2ptest.Config{
					Seed: *seed, Hosts: slow + 1, Seeds: 1, Sizes: sizes, Slow: float64(slow) / float64(slow+1), SlowBy: 500,
					Ahead: ahead, Limit: ahead + 2*time.Minute,
				}))
				took := r.Makespan - ahead
				t.Logf("%d blobs of %d KiB, %v after %d slow ones: %v", len(sizes), r.Size>>10, ahead, slow, took)
				if took > limit {
					t.Errorf("want it in %v", limit)
				}
			}
		}
	}
}
