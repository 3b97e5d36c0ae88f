package sched

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// The same as FuzzState with longer random sequences, and twice, because equal
// calls must give equal answers.
func TestRandomSequences(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		in := make([]byte, 10_000)
		for i := range in {
			in[i] = byte(rnd.Uint32())
		}
		var said [2]string
		for run := range said {
			d := &driver{s: New(Config{}), now: time.Unix(0, 0), in: in}
			for id := range 20 {
				id := p2p.HostID(fmt.Sprintf("h%d", id))
				d.answer(first(d.s.Handle(d.now, id, d.announce(id))))
			}
			for len(d.in) > 0 {
				d.step()
				if err := invariants(d.s); err != nil {
					t.Fatalf("seed %d, %d bytes before the end: %v", seed, len(d.in), err)
				}
				if err := bounded(d.s); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
			said[run] = fmt.Sprintln(d.sent, d.s.Swarms(), d.s.Hosts(), d.s.Bans(d.now))
		}
		if said[0] != said[1] {
			t.Fatalf("seed %d: two runs differ:\n%s\n%s", seed, said[0], said[1])
		}
	}
}
