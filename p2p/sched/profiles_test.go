package sched

import (
	"fmt"
	"testing"
	"time"

	godigest "github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// TestProfilesBound: hosts that say much do not make the scheduler grow, and what
// is left is what was used last.
func TestProfilesBound(t *testing.T) {
	p := NewProfiles()
	p.maxLayers, p.maxReads = 20, 3000
	now := time.Unix(0, 0)
	learn := func(layer, image string, runs ...p2p.Run) {
		now = now.Add(time.Second)
		p.Learn(now, p2p.Learn{Profile: p2p.Profile{
			Layer: godigest.FromString(layer), Image: godigest.FromString(image), Index: godigest.FromString("index"), Runs: runs,
		}})
		reads := 0
		for _, l := range p.layers {
			if len(l.images) > maxImages {
				t.Fatalf("%d images of a layer", len(l.images))
			}
			for _, s := range l.images {
				reads += len(s.reads)
			}
		}
		if reads != p.reads {
			t.Fatalf("%d reads are counted as %d", reads, p.reads)
		}
		if p.Len() > p.maxLayers || reads > p.maxReads && p.Len() > 1 {
			t.Fatalf("%d layers, %d reads", p.Len(), reads)
		}
	}
	for i := range 50 {
		learn(fmt.Sprint("small", i), "app", p2p.Run{Count: 1})
		learn("popular", fmt.Sprint("app", i), p2p.Run{First: uint32(i), Count: 1})
	}
	for i := range 50 {
		learn(fmt.Sprint("large", i), "app", p2p.Run{First: uint32(i), Count: 500})
	}
	learn("huge", "app", p2p.Run{Count: p2p.MaxProfiled})
	if p.Len() != 1 || p.layers[godigest.FromString("huge")] == nil {
		t.Errorf("%d layers, the last one not among them", p.Len())
	}
	learn("huge", "app", p2p.Run{First: p2p.MaxProfiled, Count: p2p.MaxProfiled})
	for _, s := range p.Recall(now, "h", p2p.Recall{Layer: godigest.FromString("huge"), Image: godigest.FromString("app")}) {
		if err := s.Message.(p2p.Recalled).Profile.Validate(); err != nil {
			t.Error(err)
		}
	}
}

// BenchmarkLearn merges starts of an image that reads 2,000 chunks of a layer.
func BenchmarkLearn(b *testing.B) {
	p := NewProfiles()
	m := p2p.Learn{Profile: p2p.Profile{Layer: godigest.FromString("layer"), Image: godigest.FromString("app"), Index: godigest.FromString("index")}}
	for i := range uint32(1000) {
		m.Profile.Runs = append(m.Profile.Runs, p2p.Run{First: i * 7 % 5000 * 2, Count: 2})
	}
	b.ReportAllocs()
	for b.Loop() {
		p.Learn(time.Unix(0, 0), m)
	}
}
