package sched

import (
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// Indexes is what a scheduler knows of the indexes of layers. It learns from
// hosts that publish, again after a restart, when they come back. It is not safe
// for concurrent use.
//
// An index counts if a seed made it, or two hosts made the same. One that a
// host has found false does not, until the scheduler is restarted, whoever
// offers it: at worst a layer is unpacked that need not be.
type Indexes struct {
	max     int
	layers  map[digest.Digest]*layer
	waiting map[p2p.HostID]map[digest.Digest]int // version, of what was asked for in vain
	false   []FalseIndex
}

// layer is what is known of one.
type layer struct {
	offers  []offer
	lies    []digest.Digest
	waiting map[p2p.HostID]bool
	used    time.Time
}

// offer is an index and who has made it.
type offer struct {
	index p2p.Index
	seed  bool // one of them is a seed
	by    []p2p.HostID
}

// What is kept at most.
const (
	maxLayers       = 200_000
	maxOffers       = 8 // of one layer
	maxMakers       = 2 // of one offer; more say nothing new
	maxLies         = 16
	maxWaiting      = 1024 // layers that one host waits for
	maxFalseIndexes = 64   // indexes that were found false, for operators
	maxMisled       = 256  // containers of one of them
)

// NewIndexes returns what a scheduler knows that has just begun.
func NewIndexes() *Indexes {
	return &Indexes{max: maxLayers, layers: map[digest.Digest]*layer{}, waiting: map[p2p.HostID]map[digest.Digest]int{}}
}

// Len returns of how many layers something is known.
func (x *Indexes) Len() int { return len(x.layers) }

// Publish takes an offer and returns who is to hear of it.
func (x *Indexes) Publish(now time.Time, by p2p.HostID, seed bool, m p2p.Publish) []Send {
	l := x.layer(now, m.Index.Layer)
	if slices.Contains(l.lies, m.Index.ID) {
		return nil
	}
	l.add(m.Index, by, seed)
	var sends []Send
	for host := range l.waiting {
		if found, ok := l.best(x.waiting[host][m.Index.Layer]); ok {
			x.forget(host, m.Index.Layer)
			sends = append(sends, Send{host, p2p.Indexes{Layers: []digest.Digest{m.Index.Layer}, Found: []p2p.Index{found}}})
		}
	}
	return sends
}

// Lookup answers a host, which hears later of what is not there yet.
func (x *Indexes) Lookup(now time.Time, host p2p.HostID, m p2p.Lookup) []Send {
	answer := p2p.Indexes{Layers: m.Layers}
	for _, d := range m.Layers {
		l := x.layer(now, d)
		if found, ok := l.best(m.Version); ok {
			answer.Found = append(answer.Found, found)
			continue
		}
		x.wait(host, d, m.Version)
	}
	return []Send{{host, answer}}
}

// Distrust takes a host's word that an index is false. It returns what every
// host is to hear, nil if that is known already.
func (x *Indexes) Distrust(now time.Time, by p2p.HostID, m p2p.Distrust) p2p.Message {
	l := x.layer(now, m.Layer)
	if slices.Contains(l.lies, m.ID) {
		x.misled(by, m)
		return nil
	}
	if len(l.lies) >= maxLies {
		return nil
	}
	l.lies = append(l.lies, m.ID)
	var makers []p2p.HostID
	l.offers = slices.DeleteFunc(l.offers, func(o offer) bool {
		if o.index.ID == m.ID {
			makers = append(makers, o.by...)
		}
		return o.index.ID == m.ID
	})
	makers = makers[:min(len(makers), maxMakers)]
	x.false = append([]FalseIndex{{Layer: m.Layer, ID: m.ID, At: now, Reason: fmt.Sprintf("%.200s", m.Reason), Accuser: by, Makers: makers}}, x.false...)
	x.false = x.false[:min(len(x.false), maxFalseIndexes)]
	x.misled(by, m)
	m.Containers = nil // they are of no interest to other hosts
	m.Reason = fmt.Sprintf("%.200s (found by %.64s, made by %.64s)", m.Reason, by, makers)
	return m
}

// A FalseIndex is one that a host has found false, as shown to operators.
type FalseIndex struct {
	Layer, ID  digest.Digest
	At         time.Time
	Reason     string
	Accuser    p2p.HostID
	Makers     []p2p.HostID
	Containers []string // "host: name" of those that had been given the layer, as far as hosts have said
}

// False returns the indexes that were found false, the latest first.
func (x *Indexes) False() []FalseIndex {
	out := slices.Clone(x.false)
	for i := range out {
		out[i].Containers = slices.Clone(out[i].Containers)
	}
	return out
}

// misled notes which containers of a host run on a false index.
func (x *Indexes) misled(by p2p.HostID, m p2p.Distrust) {
	i := slices.IndexFunc(x.false, func(f FalseIndex) bool { return f.Layer == m.Layer && f.ID == m.ID })
	if i < 0 {
		return
	}
	f := &x.false[i]
	for _, name := range m.Containers {
		name = fmt.Sprintf("%.64s: %s", by, name)
		if !slices.Contains(f.Containers, name) && len(f.Containers) < maxMisled {
			f.Containers = append(f.Containers, name)
		}
	}
}

// Leave forgets that a host waits.
func (x *Indexes) Leave(host p2p.HostID) {
	for d := range x.waiting[host] {
		x.forget(host, d)
	}
}

func (x *Indexes) wait(host p2p.HostID, d digest.Digest, version int) {
	mine := x.waiting[host]
	if mine == nil {
		mine = map[digest.Digest]int{}
		x.waiting[host] = mine
	}
	if len(mine) >= maxWaiting {
		return
	}
	mine[d] = version
	l := x.layers[d]
	if l.waiting == nil {
		l.waiting = map[p2p.HostID]bool{}
	}
	l.waiting[host] = true
}

func (x *Indexes) forget(host p2p.HostID, d digest.Digest) {
	delete(x.waiting[host], d)
	if len(x.waiting[host]) == 0 {
		delete(x.waiting, host)
	}
	if l := x.layers[d]; l != nil {
		delete(l.waiting, host)
	}
}

// layer returns what is known of a layer; an old one makes room for it.
func (x *Indexes) layer(now time.Time, d digest.Digest) *layer {
	l := x.layers[d]
	if l == nil {
		if len(x.layers) >= x.max {
			x.evict()
		}
		l = new(layer)
		x.layers[d] = l
	}
	l.used = now
	return l
}

// evict drops the longest unused of a few layers, which ones is chance.
func (x *Indexes) evict() {
	var oldest digest.Digest
	few := 16
	for d, l := range x.layers {
		if oldest == "" || l.used.Before(x.layers[oldest].used) {
			oldest = d
		}
		if few--; few == 0 {
			break
		}
	}
	for host := range x.layers[oldest].waiting {
		x.forget(host, oldest)
	}
	delete(x.layers, oldest)
}

// add takes a maker's word. Where there are too many different ones, those of
// seeds stay.
func (l *layer) add(index p2p.Index, by p2p.HostID, seed bool) {
	for i := range l.offers {
		o := &l.offers[i]
		if o.index.ID != index.ID || o.index.Version != index.Version {
			continue
		}
		if seed && !o.seed { // its pack and its signature count for more
			o.index, o.seed = index, true
		}
		if !slices.Contains(o.by, by) && len(o.by) < maxMakers {
			o.by = append(o.by, by)
		}
		return
	}
	if len(l.offers) >= maxOffers {
		i := slices.IndexFunc(l.offers, func(o offer) bool { return !o.seed })
		if i < 0 || !seed {
			return
		}
		l.offers = slices.Delete(l.offers, i, i+1)
	}
	l.offers = append(l.offers, offer{index, seed, []p2p.HostID{by}})
}

// best returns the index that counts most; ok is false if none does.
func (l *layer) best(version int) (found p2p.Index, ok bool) {
	for _, o := range l.offers {
		if o.index.Version != version || !o.seed && len(o.by) < 2 {
			continue
		}
		if o.seed {
			return o.index, true
		}
		found, ok = o.index, true
	}
	return found, ok
}
