package fetcher_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// Hosts that a manager commands have a blob, which leaves the origin once, and have it
// no more; but not while somebody has it open.
func TestCommands(t *testing.T) {
	s := startScheduler(t)
	data := content(9*mib+17, 3)
	registry := newFake(nil, data)
	seed := startHost(t, "seed", true, s, registry)
	var hosts []*host
	for i := range 3 {
		hosts = append(hosts, startHost(t, p2p.HostID(fmt.Sprint("host", i)), false, s, registry))
	}
	known(t, s, "seed", "host0", "host1", "host2")
	conn, err := wire.Dial(s.addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := ref(data)
	order := func(remove bool, names ...p2p.HostID) map[p2p.HostID]string {
		t.Helper()
		failed := map[p2p.HostID]string{}
		c := p2p.Command{Blob: p2p.Blob{Digest: r.Digest, Size: r.Size}, Origin: p2p.Origin{Registry: r.Repo.Host, Repository: r.Repo.Path}, Remove: remove}
		if err := conn.Order(t.Context(), c, names, func(o wire.Obeyed) { failed[o.Host] = o.Failed }); err != nil {
			t.Fatal(err)
		}
		return failed
	}
	all := []p2p.HostID{"seed", "host0", "host1", "host2"}
	for h, why := range order(false, all...) {
		if why != "" {
			t.Errorf("%s: %s", h, why)
		}
	}
	if sent := registry.bytesSent(); sent > int64(len(data)) {
		t.Errorf("the origin sent %d of %d bytes", sent, len(data))
	}
	for _, h := range append(hosts, seed) {
		if b := openBlob(t, h.Fetcher, r); !b.Verified() {
			t.Errorf("%s does not have it", h.id)
		} else if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	b := openBlob(t, hosts[1].Fetcher, r)
	failed := order(true, all...)
	if failed["host1"] == "" || failed["host0"]+failed["host2"]+failed["seed"] != "" {
		t.Errorf("removing it where host1 reads it: %v", failed)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if failed := order(true, "host1"); failed["host1"] != "" {
		t.Errorf("when nobody reads it: %v", failed)
	}
	eventually(t, func() error {
		_, err := conn.See(t.Context(), r.Digest)
		if !errors.Is(err, wire.ErrNoSwarm) {
			return fmt.Errorf("the swarm is there still: %w", err)
		}
		return nil
	})
	for _, h := range append(hosts, seed) {
		if h.Has(r.Digest, r.Size) {
			t.Errorf("%s has it still", h.id)
		}
	}
	if err := seed.Remove(t.Context(), digest.FromString("unheard of")); err != nil {
		t.Errorf("removing what is not there: %v", err)
	}
	want(t, openBlob(t, hosts[0].Fetcher, r), data, 0, int64(len(data)), fetcher.Prefetch) // it can be had again
	if err := hosts[0].Remove(t.Context(), r.Digest); !errors.Is(err, store.ErrInUse) {
		t.Errorf("removing what is open: %v", err)
	}
}

// A command that is taken back ends what was begun for it, on hosts and at the seed;
// not what somebody else wants.
func TestCommandsStop(t *testing.T) {
	s := startScheduler(t)
	data := content(24*mib, 4)
	registry := newFake(always(fault{block: 16 * kib, delay: 20 * time.Millisecond}), data)
	startHost(t, "seed", true, s, registry)
	one := startHost(t, "host0", false, s, registry)
	two := startHost(t, "host1", false, s, registry)
	known(t, s, "seed", "host0", "host1")
	conn, err := wire.Dial(s.addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := ref(data)
	c := p2p.Command{Blob: p2p.Blob{Digest: r.Digest, Size: r.Size}, Origin: p2p.Origin{Registry: r.Repo.Host, Repository: r.Repo.Path}}
	b := openBlob(t, two.Fetcher, r) // which is not fetched whole, but open
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() {
		over <- conn.Order(ctx, c, []p2p.HostID{"host0", "host1"}, func(o wire.Obeyed) { t.Errorf("%+v", o) })
	}()
	eventually(t, func() error {
		if missing(b) == 0 || missing(b) > r.Size-2*mib {
			return errors.New("it has not begun")
		}
		return nil
	})
	cancel()
	if err := <-over; err == nil {
		t.Error("the order was carried out")
	}
	eventually(t, func() error { return still(registry) })
	if registry.bytesSent() > r.Size*3/4 {
		t.Errorf("the registry sent %d bytes of %d", registry.bytesSent(), r.Size)
	}
	if err := errors.Join(one.Remove(t.Context(), r.Digest), func() error {
		if err := two.Remove(t.Context(), r.Digest); !errors.Is(err, store.ErrInUse) {
			return fmt.Errorf("what is open on host1 is removed: %w", err)
		}
		return nil
	}()); err != nil {
		t.Error(err)
	}
	want(t, b, data, 0, mib, fetcher.Prefetch)
}

// still returns nil when a registry has sent nothing for a while.
func still(registry *fake) error {
	before := registry.bytesSent()
	time.Sleep(500 * time.Millisecond)
	if after := registry.bytesSent(); after != before {
		return fmt.Errorf("it sent %d bytes more", after-before)
	}
	return nil
}
