package fetcher

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// maxLearned bounds the profiles that a scheduler is told of when it is up again.
const maxLearned = 256

// profiles is what the network knows of them; network.mu guards it.
type profiles struct {
	recalls map[profileKey]*recall
	learned []p2p.Profile // of this host, the latest last
}

// profileKey is what a profile is of.
type profileKey struct{ layer, image digest.Digest }

// recall is a question that is on its way.
type recall struct {
	done  chan struct{}
	found *p2p.Profile
}

func newProfiles() profiles { return profiles{recalls: map[profileKey]*recall{}} }

// Shares reports whether there are other hosts to share with.
func (f *Fetcher) Shares() bool { return f.network != nil }

// LearnProfile tells the cluster what a container here has read of a layer, now
// and whenever a scheduler comes up. With again it was said in an earlier life of
// this host.
func (f *Fetcher) LearnProfile(p p2p.Profile, again bool) {
	n := f.network
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.profiles.learned) >= maxLearned {
		n.profiles.learned = append(n.profiles.learned[:0], n.profiles.learned[1:]...)
	}
	n.profiles.learned = append(n.profiles.learned, p)
	for name := range n.up { // all of them: a layer may become another one's
		n.links.Send(name, p2p.Learn{Profile: p, Again: again})
	}
}

// FindProfile asks the cluster what containers of an image read first of a layer.
// It is false if that is not known, or nobody answers within half a second.
func (f *Fetcher) FindProfile(ctx context.Context, layer, image digest.Digest) (p2p.Profile, bool) {
	n := f.network
	if n == nil {
		return p2p.Profile{}, false
	}
	r := n.recall(profileKey{layer, image})
	if r == nil {
		return p2p.Profile{}, false
	}
	t := time.NewTimer(answerAfter)
	defer t.Stop()
	select {
	case <-r.done:
	case <-t.C:
		return p2p.Profile{}, false
	case <-ctx.Done():
		return p2p.Profile{}, false
	}
	if r.found == nil || r.found.Layer != layer {
		return p2p.Profile{}, false
	}
	return *r.found, true
}

// recall asks the scheduler that is responsible for the layer, if it was not
// asked already. The result is nil if there is none.
func (n *network) recall(key profileKey) *recall {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r := n.profiles.recalls[key]; r != nil {
		return r
	}
	home := n.home(key.layer)
	if home == "" {
		return nil
	}
	r := &recall{done: make(chan struct{})}
	n.profiles.recalls[key] = r
	n.links.Send(home, p2p.Recall{Layer: key.layer, Image: key.image})
	time.AfterFunc(answerAfter, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.profiles.recalls[key] == r {
			delete(n.profiles.recalls, key) // the next one asks anew
		}
	})
	return r
}

// relearn tells a scheduler that is up again what this host has learned. The
// caller holds n.mu.
func (n *network) relearn(name string) {
	for _, p := range n.profiles.learned {
		n.links.Send(name, p2p.Learn{Profile: p, Again: true})
	}
}

// ofProfiles deals with a scheduler's message that is about profiles. The caller
// holds n.mu.
func (n *network) ofProfiles(m p2p.Message) bool {
	answer, ok := m.(p2p.Recalled)
	if !ok {
		return false
	}
	key := profileKey{answer.Layer, answer.Image}
	if r := n.profiles.recalls[key]; r != nil {
		r.found = answer.Profile
		delete(n.profiles.recalls, key)
		close(r.done)
	}
	return true
}
