package sched_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/sched"
)

func layerIndex(layer, content string, version int) p2p.Index {
	return p2p.Index{
		Layer: digest.FromString(layer), Version: version, ID: digest.FromString(content), DiffID: digest.FromString("tar"),
		Pack: p2p.Blob{Digest: digest.FromString("pack of " + content), Size: 10}, Head: 5,
	}
}

// told are the hosts that are sent an index of the layer, and its ID.
func told(sends []sched.Send) map[p2p.HostID]digest.Digest {
	m := map[p2p.HostID]digest.Digest{}
	for _, s := range sends {
		for _, x := range s.Message.(p2p.Indexes).Found {
			m[s.To] = x.ID
		}
	}
	return m
}

func TestIndexes(t *testing.T) {
	now := time.Unix(1, 0)
	good, other, next := layerIndex("a", "good", 1), layerIndex("a", "other", 1), layerIndex("a", "good 2", 2)
	ask := p2p.Lookup{Layers: []digest.Digest{good.Layer}, Version: 1}
	none, gets := map[p2p.HostID]digest.Digest{}, func(hosts ...p2p.HostID) map[p2p.HostID]digest.Digest {
		m := map[p2p.HostID]digest.Digest{}
		for _, h := range hosts {
			m[h] = good.ID
		}
		return m
	}
	x := sched.NewIndexes()
	check := func(what string, sends []sched.Send, want map[p2p.HostID]digest.Digest) {
		t.Helper()
		if diff := cmp.Diff(want, told(sends)); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	check("nobody has published", x.Lookup(now, "h1", ask), none)
	check("one host's word", x.Publish(now, "h2", false, p2p.Publish{Index: good}), none)
	check("the same host's again", x.Publish(now, "h2", false, p2p.Publish{Index: good}), none)
	check("another's of something else", x.Publish(now, "h3", false, p2p.Publish{Index: other}), none)
	check("another version", x.Publish(now, "s1", true, p2p.Publish{Index: next}), none)
	check("a second host's", x.Publish(now, "h4", false, p2p.Publish{Index: good}), gets("h1"))
	check("what was told is not told again", x.Publish(now, "s1", true, p2p.Publish{Index: good}), none)
	check("who asks now", x.Lookup(now, "h5", ask), gets("h5"))

	if m := x.Distrust(now, "h5", p2p.Distrust{Layer: good.Layer, ID: good.ID, Reason: "wrong"}); m == nil {
		t.Error("nobody hears of a false index")
	}
	for range 2 {
		if m := x.Distrust(now, "h6", p2p.Distrust{Layer: good.Layer, ID: good.ID, Containers: []string{"default/web"}}); m != nil {
			t.Errorf("everybody hears of it twice: %v", m)
		}
	}
	seen := []sched.FalseIndex{{Layer: good.Layer, ID: good.ID, At: now, Reason: "wrong", Accuser: "h5", Makers: []p2p.HostID{"h2", "h4"}, Containers: []string{"h6: default/web"}}}
	if diff := cmp.Diff(seen, x.False()); diff != "" {
		t.Errorf("what operators see: %s", diff)
	}
	check("a false index", x.Lookup(now, "h1", ask), none)
	check("a false index offered again", x.Publish(now, "s2", true, p2p.Publish{Index: good}), none)
	x.Leave("h1")
	check("who has left", x.Publish(now, "s1", true, p2p.Publish{Index: other}), none)
	check("the true one", x.Lookup(now, "h1", ask), map[p2p.HostID]digest.Digest{"h1": other.ID})
}

// TestIndexesBound: hosts that say or ask much do not make the scheduler grow.
func TestIndexesBound(t *testing.T) {
	x := sched.NewIndexes()
	now := time.Unix(1, 0)
	for i := range 100 {
		x.Publish(now, p2p.HostID(fmt.Sprint("liar", i)), false, p2p.Publish{Index: layerIndex("a", fmt.Sprint(i), 1)})
	}
	want := layerIndex("a", "true", 1)
	x.Publish(now, "seed", true, p2p.Publish{Index: want})
	got := told(x.Lookup(now, "h", p2p.Lookup{Layers: []digest.Digest{want.Layer}, Version: 1}))
	if got["h"] != want.ID {
		t.Errorf("a seed's index did not get in: %v", got)
	}
	for i := range 250_000 {
		x.Lookup(now.Add(time.Duration(i)), "h", p2p.Lookup{Layers: []digest.Digest{digest.NewDigestFromEncoded("sha256", fmt.Sprintf("%064x", i))}, Version: 1})
	}
	if n := x.Len(); n > 200_000 {
		t.Errorf("%d layers", n)
	}
}
