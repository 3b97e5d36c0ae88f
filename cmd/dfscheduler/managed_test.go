package main

import (
	"log/slog"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/wiretest"
)

// The stream of who is blocked ends, and over the connection that stands there is
// no other one.
func TestBlockedHostIsExpelled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, err := wiretest.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := func(id p2p.HostID, role wire.Role) wire.Files {
		f, err := ca.Issue(dir, id, role, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	own := files("sched", wire.RoleScheduler)
	s := start(t, func(c *Config) { c.TLS = daemon.TLS{CA: own.CA, Cert: own.Cert, Key: own.Key} })
	id, err := wire.LoadIdentity(files("bad", wire.RoleHost), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := wire.Dial(s.addr(), id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	link := func() node {
		stream, err := conn.Link(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n := node{SchedulerStream: stream}
		n.say(t, p2p.Announce{Host: host("bad", false)})
		return n
	}
	n := link()
	settle(t, s, 1)
	blocked := []p2p.HostID{"bad", "unheard-of"}
	s.hub.identity.Block(blocked)
	s.hub.expel(blocked)
	if got := n.ends(t); got != codes.PermissionDenied {
		t.Errorf("its stream ended with %v", got)
	}
	if got := link().ends(t); got != codes.PermissionDenied {
		t.Errorf("its next stream ended with %v", got)
	}
}

// Without a certificate yet a scheduler with a manager is there, and lets nobody
// in.
func TestSchedulerAwaitsItsManager(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *Config) { c.Manager, c.Root, c.JoinToken = "127.0.0.1:1", t.TempDir(), "/no/token" })
	if s.hub.identity == nil || s.hub.identity.Name().Role != wire.RoleScheduler || !s.hub.identity.Until().IsZero() {
		t.Error("it is somebody else")
	}
	for config, want := range map[Config]string{
		{Advertise: "s:1"}: "s:1", {}: ":8002",
	} {
		if got := config.advertised("[::]:8002"); got != want {
			t.Errorf("it advertises %s, not %s", got, want)
		}
	}
}
