package sched

import (
	"cmp"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// Profiles is what a scheduler knows of what containers read first. It learns
// from hosts that have watched a start, and from what they watched earlier after
// it was restarted. It is not safe for concurrent use.
//
// Of a layer there is a profile for each image, and one for all of them, for
// images that were never seen. Each start counts for one in n until memory starts
// are known, and for one in memory from then on: so a chunk that is no longer read
// is soon not given out any more, and one that is read now is.
type Profiles struct {
	maxLayers, maxReads int
	layers              map[digest.Digest]*learned
	reads               int // of all startups
}

// learned is what is known of a layer.
type learned struct {
	images map[digest.Digest]*startup // by image; "": of all images
	used   time.Time
}

// startup is what starts have read of a layer.
type startup struct {
	index  digest.Digest
	starts int       // that it was learned from
	fresh  bool      // not only from what hosts said before
	reads  []read    // by place
	pack   p2p.Blob  // that was made last of what a start read
	last   time.Time // when it was learned from
}

// read is a chunk that starts have read.
type read struct {
	chunk  uint32
	weight float32 // part of the starts that read it, the latest counting most
	place  float32 // how many chunks they had read before
}

const (
	memory    = 8        // starts
	useFrom   = 0.25     // weight of a chunk that is worth fetching
	dropBelow = 1.0 / 32 // weight of one that is forgotten
	maxAge    = 30 * 24 * time.Hour

	maxProfiles = 100_000 // layers
	maxReads    = 4 << 20 // of all profiles
	maxImages   = 32      // of one layer
)

// NewProfiles returns what a scheduler knows that has just begun.
func NewProfiles() *Profiles {
	return &Profiles{maxLayers: maxProfiles, maxReads: maxReads, layers: map[digest.Digest]*learned{}}
}

// Len returns of how many layers there are profiles.
func (p *Profiles) Len() int { return len(p.layers) }

// Learn takes what a host has seen.
func (p *Profiles) Learn(now time.Time, m p2p.Learn) {
	l := p.layers[m.Profile.Layer]
	if l == nil {
		l = &learned{images: map[digest.Digest]*startup{}}
		p.layers[m.Profile.Layer] = l
	}
	l.used = now
	if m.Profile.Image != "" {
		p.learn(now, l, m.Profile.Image, m)
	}
	m.Profile.Pack = p2p.Blob{} // of one image, and much of it of no use to others
	p.learn(now, l, "", m)
	for len(p.layers) > p.maxLayers || p.reads > p.maxReads && len(p.layers) > 1 {
		p.evict()
	}
}

func (p *Profiles) learn(now time.Time, l *learned, image digest.Digest, m p2p.Learn) {
	s := l.images[image]
	if s == nil {
		if len(l.images) >= maxImages {
			p.evictImage(l)
		}
		s = new(startup)
		l.images[image] = s
	}
	if m.Again && s.fresh {
		return // it may be known already
	}
	s.fresh = s.fresh || !m.Again
	s.last = now
	before := len(s.reads)
	s.learn(m.Profile)
	p.reads += len(s.reads) - before
}

// Recall answers a host.
func (p *Profiles) Recall(now time.Time, host p2p.HostID, m p2p.Recall) []Send {
	answer := p2p.Recalled{Layer: m.Layer, Image: m.Image}
	if l := p.layers[m.Layer]; l != nil {
		l.used = now
		for _, image := range []digest.Digest{m.Image, ""} {
			if s := l.images[image]; s != nil && now.Sub(s.last) < maxAge {
				answer.Profile = &p2p.Profile{Layer: m.Layer, Image: image, Index: s.index, Runs: s.runs(), Pack: s.pack}
				break
			}
		}
	}
	return []Send{{host, answer}}
}

// evict drops the longest unused of a few layers, which ones is chance.
func (p *Profiles) evict() {
	var oldest digest.Digest
	few := 16
	for d, l := range p.layers {
		if oldest == "" || l.used.Before(p.layers[oldest].used) {
			oldest = d
		}
		if few--; few == 0 {
			break
		}
	}
	for _, s := range p.layers[oldest].images {
		p.reads -= len(s.reads)
	}
	delete(p.layers, oldest)
}

// evictImage drops what was learned longest ago of one image.
func (p *Profiles) evictImage(l *learned) {
	var oldest digest.Digest
	for image, s := range l.images {
		if image != "" && (oldest == "" || s.last.Before(l.images[oldest].last)) {
			oldest = image
		}
	}
	p.reads -= len(l.images[oldest].reads)
	delete(l.images, oldest)
}

// learn merges one start. Where hosts number the chunks by different indexes, the
// one stays that most of them use.
func (s *startup) learn(p p2p.Profile) {
	if s.index != p.Index {
		if s.starts = min(s.starts, memory) - 1; s.starts > 0 {
			return
		}
		s.index, s.starts, s.reads, s.pack = p.Index, 0, nil, p2p.Blob{}
	}
	if p.Pack != (p2p.Blob{}) {
		s.pack = p.Pack
	}
	share := 1 / float32(min(s.starts, memory-1)+1)
	s.starts++
	places := places(p.Runs)
	for i := range s.reads {
		r := &s.reads[i]
		r.weight *= 1 - share
		if place, ok := places[r.chunk]; ok {
			r.weight += share
			r.place += (place - r.place) * share
			delete(places, r.chunk)
		}
	}
	for chunk, place := range places {
		s.reads = append(s.reads, read{chunk, share, place})
	}
	s.reads = slices.DeleteFunc(s.reads, func(r read) bool { return r.weight < dropBelow })
	if len(s.reads) > p2p.MaxProfiled {
		slices.SortFunc(s.reads, func(a, b read) int { return cmp.Or(cmp.Compare(b.weight, a.weight), byPlace(a, b)) })
		s.reads = s.reads[:p2p.MaxProfiled]
	}
	s.reads = slices.Clip(s.reads)
	slices.SortFunc(s.reads, byPlace)
}

func byPlace(a, b read) int {
	return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.chunk, b.chunk))
}

// places returns how many chunks were read before each.
func places(runs []p2p.Run) map[uint32]float32 {
	m := map[uint32]float32{}
	for _, r := range runs {
		for i := range r.Count {
			if _, ok := m[r.First+i]; !ok {
				m[r.First+i] = float32(len(m))
			}
		}
	}
	return m
}

// runs returns what is worth fetching, in order.
func (s *startup) runs() (runs []p2p.Run) {
	for _, r := range s.reads {
		if r.weight < useFrom {
			continue
		}
		if n := len(runs) - 1; n >= 0 && r.chunk == runs[n].First+runs[n].Count {
			runs[n].Count++
		} else if len(runs) == p2p.MaxRuns {
			break
		} else {
			runs = append(runs, p2p.Run{First: r.chunk, Count: 1})
		}
	}
	return runs
}
