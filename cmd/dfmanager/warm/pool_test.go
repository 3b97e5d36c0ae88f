package warm_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/clustertest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/warm"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// Each cluster has its own CA; blobs get into the one that they are for.
func TestPool(t *testing.T) {
	t.Parallel()
	r := origintest.New(t, origintest.Options{})
	p, err := warm.OpenPool(warm.Config{Name: "manager", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() }) // the test closes it
	var members []warm.Member
	for id := int64(1); id <= 2; id++ {
		c := clustertest.New(t, true)
		s := c.Scheduler()
		c.Seed(r.Host(), s.Addr)
		identity, err := c.Files("manager", wire.RoleManager).Load(slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, warm.Member{Cluster: id, Standard: id == 1, Identity: identity, Schedulers: []string{s.Addr}})
	}
	data := content(2<<20, 1)
	r.AddBlob("p/app", data)
	o := order(r, data, &tokens{})
	warms := func(cluster int64) error {
		t.Helper()
		got, err := p.Warm(ctx(t), cluster, o, func(warm.Progress) {})
		if err == nil && got.Got != o.Blob.Size {
			t.Errorf("%+v", got)
		}
		return err
	}
	if err := warms(0); !errors.Is(err, warm.ErrNoCluster) {
		t.Errorf("before there is one: %v", err)
	}
	if err := p.Set(members); err != nil {
		t.Fatal(err)
	}
	if s := p.Schedulers(); len(s) != 1 || s[0].Name != members[0].Schedulers[0] {
		t.Errorf("those of the standard cluster: %+v", s)
	}
	if err := errors.Join(warms(0), warms(1), warms(2), warms(2)); err != nil {
		t.Error(err)
	}
	for id, m := range map[int64]warm.Member{0: members[0], 1: members[0], 2: members[1]} {
		text, err := p.See(ctx(t), id, m.Schedulers[0], o.Blob.Digest)
		if err != nil || !strings.Contains(string(text), `"Owner":"seed-`) {
			t.Errorf("what the scheduler of %d sees of the blob: %v %s", id, err, text)
		}
		if text, err := p.See(ctx(t), id, m.Schedulers[0], ""); err != nil || !strings.Contains(string(text), string(o.Blob.Digest)) {
			t.Errorf("what the scheduler of %d sees: %v %s", id, err, text)
		}
	}
	for _, d := range []digest.Digest{digest.FromString("unheard of"), "no digest"} {
		if _, err := p.See(ctx(t), 1, members[0].Schedulers[0], d); !errors.Is(err, wire.ErrNoSwarm) {
			t.Errorf("%s: %v", d, err)
		}
	}
	if _, err := p.See(ctx(t), 1, members[1].Schedulers[0], ""); err == nil {
		t.Error("another cluster's scheduler was asked")
	}
	if n := r.Sent(o.Blob.Digest); n != 2*o.Blob.Size {
		t.Errorf("for two clusters %d of %d bytes left the registry", n, o.Blob.Size)
	}
	members[0].Standard, members[1].Standard = false, true
	if err := p.Set(members); err != nil {
		t.Fatal(err)
	}
	if s := p.Schedulers(); len(s) != 1 || s[0].Name != members[1].Schedulers[0] {
		t.Errorf("of the new standard cluster: %+v", s)
	}
	if err := p.Set(members[1:]); err != nil {
		t.Fatal(err)
	}
	if err := warms(1); !errors.Is(err, warm.ErrNoCluster) {
		t.Errorf("in a cluster that is no more: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := warms(2); !errors.Is(err, warm.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// Schedulers that are configured are those of the standard cluster, whatever that is.
func TestPoolWithSchedulers(t *testing.T) {
	t.Parallel()
	p, err := warm.OpenPool(warm.Config{Schedulers: []string{"127.0.0.1:1"}, Name: "manager", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for range 2 {
		if s := p.Schedulers(); len(s) != 1 || s[0].Name != "127.0.0.1:1" {
			t.Errorf("%+v", s)
		}
		if err := p.Set([]warm.Member{{Cluster: 7, Standard: true, Schedulers: []string{"127.0.0.1:2"}}}); err != nil {
			t.Fatal(err)
		}
	}
}
