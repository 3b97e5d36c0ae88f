package fetcher_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// TestProfiles: what one host has learned is found by another one; after a restart
// of the scheduler, too.
func TestProfiles(t *testing.T) {
	s := startScheduler(t)
	one, other := startHost(t, "one", false, s, newFake(nil)), startHost(t, "other", false, s, newFake(nil))
	known(t, s, "one", "other")
	want := p2p.Profile{
		Layer: digest.FromString("layer"), Image: digest.FromString("image"), Index: digest.FromString("index"),
		Runs: []p2p.Run{{First: 7, Count: 2}, {First: 1, Count: 1}},
	}
	if p, ok := other.FindProfile(t.Context(), want.Layer, want.Image); ok {
		t.Errorf("%+v before any start", p)
	}
	one.LearnProfile(want, false)
	finds := func() error {
		if p, ok := other.FindProfile(t.Context(), want.Layer, want.Image); !ok || !cmp.Equal(p, want) {
			return errors.New("what was read is not found")
		}
		return nil
	}
	eventually(t, finds)
	s.kill()
	if p, ok := other.FindProfile(t.Context(), want.Layer, want.Image); ok {
		t.Errorf("%+v from a scheduler that is gone", p)
	}
	s.start(t)
	eventually(t, finds)
	if p, ok := other.FindProfile(t.Context(), want.Layer, digest.FromString("another image")); !ok || p.Image != "" {
		t.Errorf("an image that nobody has started has %+v", p)
	}
}
