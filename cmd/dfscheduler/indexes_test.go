package main

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// TestIndexes: hosts hear of a seed's index, when they ask or later, and all of
// them when it is found false.
func TestIndexes(t *testing.T) {
	s := start(t, nil)
	index := p2p.Index{
		Layer: blob.Digest, Version: 1, ID: digest.FromString("id"), DiffID: digest.FromString("tar"),
		Pack: p2p.Blob{Digest: digest.FromString("pack"), Size: 10}, Head: 5,
	}
	early, late := join(t, s, nil, host("early", false)), join(t, s, nil, host("late", false))
	lookup := p2p.Lookup{Layers: []digest.Digest{index.Layer}, Version: 1}
	hears := func(n node) []p2p.Index {
		t.Helper()
		return n.await(t, func(m p2p.Message) bool { _, ok := m.(p2p.Indexes); return ok }).(p2p.Indexes).Found
	}
	early.say(t, lookup)
	if found := hears(early); len(found) != 0 {
		t.Errorf("found %v before anybody made it", found)
	}
	late.say(t, p2p.Publish{Index: index})
	late.say(t, lookup)
	if found := hears(late); len(found) != 0 {
		t.Errorf("found %v, which nobody but one host has made", found)
	}
	seed := join(t, s, nil, host("seed", true))
	seed.say(t, p2p.Publish{Index: index})
	for _, n := range []node{early, late} {
		if found := hears(n); len(found) != 1 || found[0].ID != index.ID {
			t.Errorf("who waited was told %v", found)
		}
	}
	late.say(t, lookup)
	if found := hears(late); len(found) != 1 || found[0].ID != index.ID {
		t.Errorf("who asked then was told %v", found)
	}
	late.say(t, p2p.Distrust{Layer: index.Layer, ID: index.ID, Reason: "another tree"})
	for _, n := range []node{early, late, seed} {
		m := n.await(t, func(m p2p.Message) bool { _, ok := m.(p2p.Distrust); return ok }).(p2p.Distrust)
		if m.ID != index.ID || m.Reason != "another tree (found by late, made by [late seed])" {
			t.Errorf("%+v", m)
		}
	}
	early.say(t, lookup)
	if found := hears(early); len(found) != 0 {
		t.Errorf("a false index is still given out: %v", found)
	}
	early.say(t, p2p.Distrust{Layer: index.Layer, ID: index.ID, Reason: "another tree", Containers: []string{"default/web", "default/db"}})
	early.say(t, lookup)
	hears(early) // by then the scheduler has taken what was said before
	if !strings.Contains(get(t, s, "/metrics"), "\ndfscheduler_containers_misled_total 2\n") {
		t.Error("two containers are not counted")
	}
	if text := get(t, s, "/debug"); !strings.Contains(text, "FALSE INDEXES (1)") || !strings.Contains(text, "[early: default/web early: default/db]") {
		t.Errorf("operators do not see the false index with its containers: %s", text)
	}
}
