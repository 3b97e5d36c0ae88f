package sched

import (
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A host that reads slowly whoever serves it rests once, however often it says so
// meanwhile.
func TestSlowReaderRestsOnce(t *testing.T) {
	s, now := New(Config{}), time.Unix(1e9, 0)
	b := p2p.Blob{Digest: digest.FromString("layer"), Size: 64 << 20}
	say := func(id p2p.HostID, m p2p.Message) {
		t.Helper()
		if _, err := s.Handle(now, id, m); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 4 {
		id := p2p.HostID(fmt.Sprint("h", i))
		say(id, p2p.Announce{Host: p2p.Host{ID: id, Addr: string(id) + ":1", Slots: 8, Share: true}})
		say(id, p2p.Want{Blob: b, Lazy: true, Origin: p2p.Origin{Registry: "hub", Repository: "app"}})
		s.Tick(now)
	}
	p := s.hosts["h3"].peer(s.swarms[b.Digest])
	for range 100 {
		for st := range p.links {
			if q := p.links[st].parents[0]; q != nil && q.host != nil && q.host.ID != "" {
				q.reads = 1
				s.now = now
				s.read(p, q, 20)
			}
		}
		now = now.Add(100 * time.Millisecond)
		s.Tick(now)
	}
	if p.fibs != 1 {
		t.Errorf("in ten seconds it was put to rest %d times", p.fibs)
	}
}
