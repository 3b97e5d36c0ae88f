package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// TestProfiles: a host hears what another one's container has read.
func TestProfiles(t *testing.T) {
	s := start(t, nil)
	p := p2p.Profile{Layer: blob.Digest, Image: digest.FromString("image"), Index: digest.FromString("id"), Runs: []p2p.Run{{First: 7, Count: 2}, {First: 1, Count: 1}}}
	seen, asks := join(t, s, nil, host("seen", false)), join(t, s, nil, host("asks", false))
	recall := func(n node) *p2p.Profile {
		t.Helper()
		n.say(t, p2p.Recall{Layer: p.Layer, Image: p.Image})
		return n.await(t, func(m p2p.Message) bool { _, ok := m.(p2p.Recalled); return ok }).(p2p.Recalled).Profile
	}
	if got := recall(asks); got != nil {
		t.Errorf("%+v before any start", got)
	}
	seen.say(t, p2p.Learn{Profile: p})
	recall(seen) // by then the other message has been dealt with
	if diff := cmp.Diff(&p, recall(asks)); diff != "" {
		t.Error(diff)
	}
}
