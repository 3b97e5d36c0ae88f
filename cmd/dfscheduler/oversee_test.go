package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/wiretest"
)

func dial(t testing.TB, s *server, id *wire.Identity) *wire.Conn {
	t.Helper()
	c, err := wire.Dial(s.addr(), id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Who may see what a scheduler sees, and have hosts commanded: managers alone.
func TestOverseersRole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, err := wiretest.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(name p2p.HostID, role wire.Role) wire.Files {
		f, err := ca.Issue(dir, name, role, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := issue("sched", wire.RoleScheduler)
	s := start(t, func(c *Config) { c.TLS.CA, c.TLS.Cert, c.TLS.Key = f.CA, f.Cert, f.Key })
	command := p2p.Command{Blob: p2p.Blob{Digest: digest.FromString("x"), Size: 9}}
	for role, may := range map[wire.Role]bool{wire.RoleManager: true, wire.RoleHost: false, wire.RoleSeed: false, wire.RoleScheduler: false} {
		id, err := issue(p2p.HostID("a-"+role), role).Load(slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		c := dial(t, s, id)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err = c.See(ctx, "")
		if (err == nil) != may {
			t.Errorf("a %s sees: %v", role, err)
		}
		if err := c.Order(ctx, command, []p2p.HostID{"h"}, func(wire.Obeyed) {}); (err == nil) != may {
			t.Errorf("a %s commands: %v", role, err)
		}
		if role == wire.RoleHost && !strings.Contains(err.Error(), "OU=manager") {
			t.Errorf("what a host is told: %v", err)
		}
	}
}

func TestOverseerSees(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	n := join(t, s, nil, p2p.Host{ID: "h-1", Addr: "127.0.0.1:7", Share: true})
	b := p2p.Blob{Digest: digest.FromString("x"), Size: 3 << 20}
	n.say(t, p2p.Want{Blob: b, Origin: p2p.Origin{Registry: "r", Repository: "p"}})
	n.await(t, func(p2p.Message) bool { return true })
	c := dial(t, s, nil)
	for d, path := range map[digest.Digest]string{"": "/debug.json", b.Digest: "/debug/blobs/" + b.Digest.String()} {
		text, err := c.See(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		if err := errors.Join(json.Unmarshal(text, &got), json.Unmarshal([]byte(get(t, s, path)), &want)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
	if _, err := c.See(t.Context(), digest.FromString("y")); !errors.Is(err, wire.ErrNoSwarm) {
		t.Errorf("a blob that nobody has: %v", err)
	}
	if _, err := c.See(t.Context(), "sha256:x"); err == nil || errors.Is(err, wire.ErrNoSwarm) {
		t.Errorf("what is no digest: %v", err)
	}
}

func TestOverseerOrders(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	nodes := map[p2p.HostID]node{}
	for _, id := range []p2p.HostID{"good", "bad", "leaves", "silent"} {
		n := join(t, s, nil, p2p.Host{ID: id, Addr: "127.0.0.1:7", Share: true})
		n.say(t, p2p.Lookup{Layers: []digest.Digest{digest.FromString("x")}})
		n.await(t, func(p2p.Message) bool { return true }) // it is there
		nodes[id] = n
	}
	c := dial(t, s, nil)
	all := []p2p.HostID{"good", "bad", "leaves", "good", "nobody"}
	want := p2p.Command{Blob: p2p.Blob{Digest: digest.FromString("x"), Size: 9}, Origin: p2p.Origin{Registry: "r", Repository: "p"}, Remove: true}
	got := map[p2p.HostID]string{}
	done := make(chan error, 1)
	go func() {
		done <- c.Order(t.Context(), want, all, func(o wire.Obeyed) { got[o.Host] = o.Failed })
	}()
	command := func(id p2p.HostID) p2p.Command {
		m := nodes[id].await(t, func(m p2p.Message) bool { _, is := m.(p2p.Command); return is }).(p2p.Command)
		want.ID, want.Stop = m.ID, m.Stop
		if diff := cmp.Diff(want, m); diff != "" {
			t.Errorf("what %s is told: %s", id, diff)
		}
		return m
	}
	good, bad := command("good"), command("bad")
	command("leaves")
	nodes["leaves"].cut()
	nodes["bad"].say(t, p2p.Done{ID: good.ID}) // another host's does not count
	nodes["good"].say(t, p2p.Done{ID: 99})
	nodes["bad"].say(t, p2p.Done{ID: bad.ID, Failed: "kein Platz: zürück" + strings.Repeat("x", 1000)})
	nodes["good"].say(t, p2p.Done{ID: good.ID})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	reason := got["bad"]
	delete(got, "bad")
	if !strings.HasPrefix(reason, "kein Platz: z??r??ckxxx") && !strings.HasPrefix(reason, "kein Platz: z?r?ckxxx") {
		t.Errorf("a reason with odd characters: %q", reason)
	}
	if diff := cmp.Diff(map[p2p.HostID]string{"good": "", "leaves": notHere, "nobody": notHere}, got); diff != "" {
		t.Error(diff)
	}

	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- c.Order(ctx, want, []p2p.HostID{"silent"}, func(wire.Obeyed) {}) }()
	m := command("silent")
	cancel()
	if err := <-done; err == nil {
		t.Error("an order that was taken back succeeded")
	}
	stop := command("silent")
	if !stop.Stop || stop.ID != m.ID {
		t.Errorf("a host that is not done is told %+v", stop)
	}
	nodes["silent"].say(t, p2p.Done{ID: m.ID})
	if err := c.Order(t.Context(), want, slices.Repeat([]p2p.HostID{"h"}, 10_001), func(wire.Obeyed) {}); err == nil {
		t.Error("an order for 10,001 hosts was taken")
	}
}
