package peer_test

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// heard is what a Listener heard: "up", "down" or a message.
type heard struct{ what any }

type ear struct {
	links *peer.Links // set before anything is heard
	first p2p.Message // said when a scheduler comes up
	ready chan struct{}
	heard chan heard
}

func newEar() *ear {
	return &ear{
		first: p2p.Announce{Host: p2p.Host{ID: "me", Addr: "127.0.0.1:1"}},
		ready: make(chan struct{}), heard: make(chan heard, 100),
	}
}

func (e *ear) SchedulerUp(name string) {
	<-e.ready
	e.links.Send(name, e.first)
	e.heard <- heard{"up"}
}
func (e *ear) SchedulerDown(string)                  { e.heard <- heard{"down"} }
func (e *ear) SchedulerSays(_ string, m p2p.Message) { e.heard <- heard{m} }

func (e *ear) expect(t *testing.T, want ...any) {
	t.Helper()
	for _, w := range want {
		if diff := cmp.Diff(w, (<-e.heard).what); diff != "" {
			t.Error(diff)
		}
	}
}

// openLinks opens links to schedulers until the test ends.
func openLinks(t *testing.T, e *ear, id *wire.Identity, schedulers ...string) *peer.Links {
	t.Helper()
	return openLinksTo(t, e, peer.LinksConfig{Schedulers: schedulers, Identity: id})
}

func openLinksTo(t *testing.T, e *ear, c peer.LinksConfig) *peer.Links {
	t.Helper()
	c.Listener = e
	l, err := peer.OpenLinks(c)
	if err != nil {
		t.Fatal(err)
	}
	e.links = l
	close(e.ready)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// scheduler is a server at addr that hands over what it hears and answers each
// message with a Renew.
func scheduler(t *testing.T, addr string, got chan<- p2p.Message) (string, *grpc.Server) {
	t.Helper()
	return schedulerAs(t, nil, addr, got)
}

func schedulerAs(t *testing.T, id *wire.Identity, addr string, got chan<- p2p.Message) (string, *grpc.Server) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := wire.NewServer(id)
	wire.Register(s, func(s *wire.HostStream) error {
		for {
			m, err := s.Recv()
			if err != nil {
				return err
			}
			select {
			case got <- m:
			case <-s.Context().Done():
				return nil
			}
			if err := s.Send(renew); err != nil {
				return err
			}
		}
	})
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String(), s
}

var (
	some  = digest.FromString("x")
	renew = p2p.Renew{Digest: some}
)

func TestLinks(t *testing.T) {
	t.Parallel()
	got := make(chan p2p.Message, 100)
	addr, server := scheduler(t, "127.0.0.1:0", got)
	e := newEar()
	l := openLinks(t, e, nil, addr, addr)
	e.expect(t, "up", renew)
	l.Send(addr, p2p.Verified{Digest: some})
	e.expect(t, renew)
	server.Stop()
	e.expect(t, "down")
	l.Send(addr, p2p.Spoiled{Digest: some}) // is heard by nobody
	scheduler(t, addr, got)
	e.expect(t, "up", renew)
	want := []p2p.Message{e.first, p2p.Verified{Digest: some}, e.first}
	for _, w := range want {
		if diff := cmp.Diff(w, <-got); diff != "" {
			t.Error(diff)
		}
	}
	if diff := cmp.Diff([]string{addr}, l.Names()); diff != "" {
		t.Error(diff)
	}
}

// TestLinksLate drops what is said before the Announce.
func TestLinksLate(t *testing.T) {
	t.Parallel()
	got := make(chan p2p.Message, 100)
	addr, _ := scheduler(t, "127.0.0.1:0", got)
	e := newEar()
	e.first = p2p.Verified{Digest: some}
	l := openLinks(t, e, nil, addr)
	e.expect(t, "up")
	announce := p2p.Announce{Host: p2p.Host{ID: "me", Addr: "127.0.0.1:1"}}
	l.Send(addr, announce)
	e.expect(t, renew)
	if diff := cmp.Diff(announce, <-got); diff != "" {
		t.Error(diff)
	}
}

// TestLinksSlow gives up a scheduler that does not read.
func TestLinksSlow(t *testing.T) {
	t.Parallel()
	addr, _ := scheduler(t, "127.0.0.1:0", make(chan p2p.Message))
	e := newEar()
	l := openLinks(t, e, nil, addr)
	e.expect(t, "up")
	big := p2p.Want{Blob: p2p.Blob{Digest: some, Size: 5}, Origin: p2p.Origin{Repository: strings.Repeat("x", 255)}}
	for range 20_000 { // far more than the queue and the connection hold
		l.Send(addr, big)
	}
	e.expect(t, "down")
}

// TestLinksAlone has no scheduler to talk to.
func TestLinksAlone(t *testing.T) {
	t.Parallel()
	e := newEar()
	l := openLinks(t, e, nil, nobody(t).Addr)
	l.Send(l.Names()[0], p2p.Verified{Digest: some})
}

// TestLinksSet has other schedulers while it runs.
func TestLinksSet(t *testing.T) {
	t.Parallel()
	got := make(chan p2p.Message, 100)
	one, _ := scheduler(t, "127.0.0.1:0", got)
	two, _ := scheduler(t, "127.0.0.1:0", got)
	e := newEar()
	l := openLinks(t, e, nil)
	set := func(names ...string) {
		t.Helper()
		called := false
		if err := l.Set(names, func() { called = true }); err != nil || !called {
			t.Error(err, called)
		}
		if diff := cmp.Diff(slices.Sorted(slices.Values(names)), l.Names(), cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	}
	set(one)
	e.expect(t, "up", renew)
	set(one) // nothing changes
	set(two)
	e.expect(t, "down", "up", renew)
	l.Send(one, p2p.Verified{Digest: some}) // it is dropped
	set()
	e.expect(t, "down")
	set(one)
	e.expect(t, "up", renew)
}

// TestLinksRole listens to nobody but schedulers: a host or a seed must not
// command others.
func TestLinksRole(t *testing.T) {
	t.Parallel()
	issue := cluster(t)
	got := make(chan p2p.Message, 100)
	good, _ := schedulerAs(t, issue("sched", wire.RoleScheduler), "127.0.0.1:0", got)
	reg := prometheus.NewRegistry()
	e := newEar()
	var names []string
	for _, role := range []wire.Role{wire.RoleHost, wire.RoleSeed} {
		name, _ := schedulerAs(t, issue(p2p.HostID("a-"+role), role), "127.0.0.1:0", got)
		names = append(names, name)
	}
	foreign, _ := schedulerAs(t, cluster(t)("sched", wire.RoleScheduler), "127.0.0.1:0", got)
	plain, _ := scheduler(t, "127.0.0.1:0", got)
	openLinksTo(t, e, peer.LinksConfig{Identity: issue("me", wire.RoleHost), Schedulers: append(names, foreign, plain, good), Registerer: reg})
	e.expect(t, "up", renew)
	counted(t, reg, `dfsnapshotter_peer_scheduler_streams_ended_total{result="refused"}`, 8) // each of the others was tried, some more than once
	counted(t, reg, "dfsnapshotter_peer_schedulers_reachable", 1)
	select {
	case h := <-e.heard:
		t.Errorf("it heard %v", h)
	default:
	}
}
