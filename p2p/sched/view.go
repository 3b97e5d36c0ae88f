package sched

import (
	"cmp"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A SwarmView is a swarm as shown to operators.
type SwarmView struct {
	Blob          p2p.Blob
	State         string     // idle, held, owned, leased or stuck, see the package comment
	Owner         p2p.HostID // the seed that fetches it, or fetched it last; "": none
	Peers         int
	Wanting       int
	Complete      int // peers that serve all of it, seeds included
	Starving      int // peers without a parent in some stripe
	Leases        int // stripes that hosts fetch from the origin
	Sums          int // pieces whose sum is known
	Verified      bool
	SecondsPerMiB float64 // mean of its transfers, lately
}

// Swarms returns all swarms, by digest.
func (s *State) Swarms() []SwarmView {
	out := make([]SwarmView, 0, len(s.swarms))
	for _, d := range slices.SortedFunc(maps.Keys(s.swarms), cmp.Compare) {
		out = append(out, s.swarms[d].view())
	}
	return out
}

func (w *swarm) view() SwarmView {
	v := SwarmView{
		Blob: w.blob, Peers: len(w.peers), Wanting: w.wanting, Complete: w.fulls, Starving: len(w.starving),
		Sums: w.sums.known, Verified: w.sums.verified, SecondsPerMiB: w.pace.mean,
	}
	if w.owner != nil {
		v.Owner = w.owner.host.ID
	}
	for _, p := range w.sources {
		if p.have.Full() {
			v.Complete++
		}
	}
	for st := range w.origin.links {
		v.Leases += len(w.origin.links[st].kids)
	}
	switch {
	case w.wanting == 0:
		v.State = "idle"
	case v.Complete > 0:
		v.State = "held"
	case w.owner != nil:
		v.State = "owned"
	case v.Leases > 0:
		v.State = "leased"
	default:
		v.State = "stuck"
	}
	return v
}

// A HostView is a host as shown to operators.
type HostView struct {
	p2p.Host
	Blobs    int
	Wanting  int
	Children int     // first parents of others' stripes, over all swarms
	Pace     float64 // time its children's transfers took, in means of their swarms; 0 unknown
}

// Hosts returns all connected hosts, by ID.
func (s *State) Hosts() []HostView {
	out := make([]HostView, 0, len(s.hosts))
	for _, id := range slices.Sorted(maps.Keys(s.hosts)) {
		h := s.hosts[id]
		v := HostView{Host: h.Host, Blobs: len(h.peers), Pace: h.up.mean}
		for _, p := range h.peers {
			v.Children += int(p.prim)
			if p.wants {
				v.Wanting++
			}
		}
		out = append(out, v)
	}
	return out
}

// Counts are the sizes of what a State keeps.
type Counts struct {
	Hosts, Seeds, Swarms, Active, Peers, Bans, Trials int
}

// Counts returns the sizes of what s keeps. It is cheap.
func (s *State) Counts() Counts {
	return Counts{
		Hosts: len(s.hosts), Seeds: len(s.seeds), Swarms: len(s.swarms), Active: len(s.active),
		Peers: s.peers, Bans: len(s.standing), Trials: len(s.trials),
	}
}

// A PeerView is a host in a swarm as shown to operators.
type PeerView struct {
	p2p.Host
	Wants    bool         // and is not complete
	Lazy     bool         // it wants ranges as they are read
	Have     int          // pieces
	Runs     [][2]int     // of pieces that it has: first and last; the first [maxRuns] of them
	Parents  []p2p.HostID // from whom it takes first, each once; "": the origin
	Children int          // that take from it first, counted in each stripe
}

// A BlobView is a swarm with its hosts, as shown to operators.
type BlobView struct {
	SwarmView
	Pieces int
	Hosts  []PeerView // by ID
}

// maxRuns bounds what is said of a host that has pieces here and there.
const maxRuns = 4096

// Swarm returns a swarm with its hosts; false: there is none.
func (s *State) Swarm(d digest.Digest) (BlobView, bool) {
	w := s.swarms[d]
	if w == nil {
		return BlobView{}, false
	}
	v := BlobView{SwarmView: w.view(), Pieces: w.blob.Pieces(), Hosts: make([]PeerView, 0, len(w.peers))}
	for _, p := range w.peers {
		v.Hosts = append(v.Hosts, p.view())
	}
	slices.SortFunc(v.Hosts, func(a, b PeerView) int { return cmp.Compare(a.ID, b.ID) })
	return v, true
}

func (p *peer) view() PeerView {
	v := PeerView{Host: p.host.Host, Wants: p.wants, Lazy: p.lazy, Have: p.have.Count(), Children: int(p.prim)}
	for first, last := range p.have.Runs() {
		if len(v.Runs) == maxRuns {
			break
		}
		v.Runs = append(v.Runs, [2]int{first, last})
	}
	for st := range p.links {
		if first := p.links[st].parents[0]; first != nil && !slices.Contains(v.Parents, first.host.ID) {
			v.Parents = append(v.Parents, first.host.ID)
		}
	}
	return v
}
