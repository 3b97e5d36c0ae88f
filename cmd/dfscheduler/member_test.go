package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// TestManyStreams has a host send by many streams, one after the other: all of
// them together may send as much as one.
func TestManyStreams(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *Config) { c.Limits.Messages = 10 }).hub
	now := time.Unix(1000, 0)
	free := func(id p2p.HostID) (n int) {
		for h.member(id, now).spend(p2p.Verified{}, now) == 0 { // asks for it as a new stream does
			n++
		}
		return n
	}
	if n := free("a"); n != 10*burst {
		t.Errorf("%d messages pass at once", n)
	}
	if n := free("a"); n != 0 {
		t.Errorf("%d more pass by other streams", n)
	}
	if n := free("b"); n != 10*burst {
		t.Errorf("%d messages of another host pass", n)
	}
	now = now.Add(memberFor)
	if n := free("a"); n != 10*burst {
		t.Errorf("%d messages pass after a rest", n)
	}
	now = now.Add(memberFor)
	h.member("c", now)
	if n := len(h.members); n != 1 {
		t.Errorf("%d hosts are remembered, all but one for nothing", n)
	}
}

// TestReconnect holds a host back that ends its stream and begins another, again
// and again.
func TestReconnect(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *Config) { c.Limits.Messages = 2 })
	for range 20 * burst { // of two messages each
		n := join(t, s, nil, host("h", false), all)
		n.say(t, want)
		n.await(t, func(m p2p.Message) bool { _, is := m.(p2p.Parents); return is })
		n.cut()
		if !strings.Contains(get(t, s, "/metrics"), "dfscheduler_messages_throttled_total 0\n") {
			return
		}
	}
	t.Error("it was never held back")
}

// TestAnnounceCost has what follows a long announce wait for it.
func TestAnnounceCost(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	m := newMember(10, now)
	long := p2p.Announce{}
	for i := range 20 * burst * perMessage {
		b := p2p.Blob{Digest: digest.FromString(fmt.Sprint(i)), Size: 1}
		long.Inventory = append(long.Inventory, p2p.Inventory{Blob: b})
	}
	if wait := m.spend(long, now); wait > 0 {
		t.Errorf("the announce itself waits %v", wait)
	}
	if wait := m.spend(p2p.Verified{}, now); wait < burst*time.Second {
		t.Errorf("what follows waits %v", wait)
	}
}
