package p2ptest

import (
	"encoding/binary"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A nature is how a host behaves.
type nature uint8

const (
	honest  nature = iota
	slow           // honest, with a thin link
	doomed         // honest, until it dies
	forger         // serves wrong pieces
	hollow         // says it has everything, and has nothing to give
	falsary        // reports false sums, of pieces it was to fetch and of others
	slander        // accuses those who served it well
	natures
)

func (k nature) String() string {
	return [...]string{"honest", "slow", "dying", "forging", "hollow", "misreporting", "slandering"}[k]
}

func (k nature) lies() bool { return k >= forger }

// truth is the sum of a right piece, in place of hashing one.
func truth(piece int) p2p.Sum {
	var s p2p.Sum
	binary.BigEndian.PutUint64(s[:], uint64(piece)+1)
	return s
}

// lie is the sum of a piece that a host has spoiled; those that collude agree on it.
func lie(n *node, piece int) p2p.Sum {
	s := truth(piece)
	binary.BigEndian.PutUint32(s[28:], uint32(n.machine)+1)
	if n.sim.cfg.Colluding {
		binary.BigEndian.PutUint32(s[28:], ^uint32(0))
	}
	return s
}

// serve returns the sum of what a host sends for a piece.
func (k nature) serve(n *node, b p2p.Blob, piece int) p2p.Sum {
	switch c := n.blob(b); {
	case k == forger || k == falsary:
		return lie(n, piece)
	case c.state[piece] == wrong:
		return c.spoiled[piece]
	}
	return truth(piece)
}

// show returns what a host says it has when somebody subscribes.
func (k nature) show(c *content) *p2p.Have {
	if k == hollow {
		return p2p.FullHave(len(c.state))
	}
	return c.have()
}

// say turns what the host's decisions would tell the scheduler into what the
// host tells it.
func (k nature) say(n *node, m p2p.Message) []p2p.Message {
	switch m := m.(type) {
	case p2p.Digests:
		if k == falsary {
			sums := make([]p2p.Sum, len(m.Sums))
			for i := range sums {
				sums[i] = lie(n, m.First+i)
			}
			m.Sums = sums
			return []p2p.Message{m}
		}
	case p2p.Spoiled:
		if k == falsary {
			return []p2p.Message{p2p.Verified(m)}
		}
	case p2p.Progress:
		return k.progress(n, m)
	}
	return []p2p.Message{m}
}

func (k nature) progress(n *node, m p2p.Progress) []p2p.Message {
	ms := []p2p.Message{m}
	switch k {
	case falsary:
		for _, i := range m.Got {
			ms = append(ms, p2p.Digests{Digest: m.Digest, First: i, Sums: []p2p.Sum{lie(n, i)}})
		}
	case slander:
		for _, t := range m.From {
			if t.Parent != "" && len(m.Got) > 0 {
				ms = append(ms, p2p.Wrong{Digest: m.Digest, Piece: m.Got[0], Parent: t.Parent, Got: lie(n, m.Got[0])})
			}
		}
	case hollow:
		got := p2p.FullHave(n.content[m.Digest].blob.Pieces())
		ms = append(ms, p2p.Inventory{Blob: n.content[m.Digest].blob, Have: got, Verified: true})
	}
	return ms
}

// assign gives shares of the hosts their natures, those for whom time is over a
// time to die.
func (s *Sim) assign(hosts []*node) {
	order := s.rand.Perm(len(hosts))
	take := func(share float64) []*node {
		k := int(share*float64(len(hosts)) + 0.5)
		var taken []*node
		for _, i := range order[:k] {
			taken = append(taken, hosts[i])
		}
		order = order[k:]
		return taken
	}
	for _, n := range order[len(hosts)-int(s.cfg.Deaf*float64(len(hosts))+0.5):] {
		hosts[n].deaf = true
	}
	for i, n := range take(s.cfg.Lying) {
		n.nature = forger + nature(i%int(natures-forger))
		if s.cfg.Colluding {
			n.nature = falsary
		}
		if s.cfg.Slandering {
			n.nature = slander
		}
	}
	for _, n := range take(s.cfg.Slow) {
		n.nature = slow
		s.links.up[n.machine] /= s.cfg.SlowBy
		s.links.down[n.machine] /= s.cfg.SlowBy
	}
	for _, n := range take(s.cfg.Thin) {
		n.nature = slow
		s.links.up[n.machine] /= s.cfg.SlowBy
	}
	for i, n := range take(s.cfg.Dying) {
		n.nature = doomed
		at := time.Duration(s.rand.Float64() * float64(s.bound))
		s.clock.after(at, func() { s.Kill(n.host.ID, i%2 == 0) })
	}
}
