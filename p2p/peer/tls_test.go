package peer_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/wiretest"
)

// cluster makes identities of one cluster.
func cluster(t testing.TB) func(id p2p.HostID, role wire.Role) *wire.Identity {
	t.Helper()
	dir := t.TempDir()
	ca, err := wiretest.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	return func(id p2p.HostID, role wire.Role) *wire.Identity {
		t.Helper()
		f, err := ca.Issue(dir, id, role, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		i, err := wire.LoadIdentity(f, discard())
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	issue, foreign := cluster(t), cluster(t)
	s := newShelf()
	it := s.put(2 * mib).onDisk(t)
	h := serve(t, peer.ServerConfig{Blobs: s, Identity: issue("seed", wire.RoleSeed)})
	for name, c := range map[string]struct {
		id   *wire.Identity
		peer p2p.HostID
		ok   bool
	}{
		"host":            {issue("host", wire.RoleHost), "seed", true},
		"other peer":      {issue("host", wire.RoleHost), "host-2", false},
		"scheduler":       {issue("sched", wire.RoleScheduler), "seed", false},
		"foreign cluster": {foreign("host", wire.RoleHost), "seed", false},
		"plain text":      {nil, "seed", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := client(t, peer.ClientConfig{Identity: c.id})
			r := cl.Range(t.Context(), peer.Plan{Blob: it.blob, N: it.blob.Size, Sources: from(false, p2p.Host{ID: c.peer, Addr: h.Addr})})
			defer r.Close()
			got, err := io.ReadAll(r)
			if c.ok {
				if err != nil || !bytes.Equal(got, it.data) {
					t.Errorf("got %d bytes, %v", len(got), err)
				}
				return
			}
			var e *peer.Error
			if len(got) > 0 || !errors.As(err, &e) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			if identity := c.peer != "seed"; errors.Is(err, peer.ErrIdentity) != identity {
				t.Error(err)
			}
		})
	}
}

func BenchmarkPiecesTLS(b *testing.B) {
	issue := cluster(b)
	b.Run("4MiB", func(b *testing.B) {
		benchPieces(b, benchRun, "seed", peer.ServerConfig{Identity: issue("seed", wire.RoleSeed)}, peer.ClientConfig{Identity: issue("host", wire.RoleHost)})
	})
}

// Who is blocked is refused at once, also over a connection that stands.
func TestBlocked(t *testing.T) {
	t.Parallel()
	issue := cluster(t)
	s := newShelf()
	it := s.put(2 * mib).onDisk(t)
	server, mine := issue("seed", wire.RoleSeed), issue("host", wire.RoleHost)
	h := serve(t, peer.ServerConfig{Blobs: s, Identity: server})
	cl := client(t, peer.ClientConfig{Identity: mine})
	read := func() error {
		r := cl.Range(t.Context(), peer.Plan{Blob: it.blob, N: it.blob.Size, Sources: from(false, p2p.Host{ID: "seed", Addr: h.Addr})})
		defer r.Close()
		_, err := io.Copy(io.Discard, r)
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]func([]p2p.HostID){"by the server": server.Block, "by the client": mine.Block} {
		block([]p2p.HostID{"host", "seed"})
		if err := read(); err == nil {
			t.Errorf("blocked %s: it read", name)
		}
		block(nil)
		if err := read(); err != nil {
			t.Errorf("no longer blocked %s: %v", name, err)
		}
	}
}
