package wire_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// An identity whose files are yet to come connects to nobody, and is good from
// when they are there.
func TestAwait(t *testing.T) {
	t.Parallel()
	ca, dir := authority(t)
	name := wire.Name{ID: "me", Role: wire.RoleHost}
	f := wire.Files{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "me.pem"), Key: filepath.Join(dir, "me.key")}
	me, other := wire.Await(f, name, discard()), identity(t, ca, dir, "other", wire.RoleHost)
	if me.Name() != name || !me.Until().IsZero() {
		t.Errorf("%v until %v", me.Name(), me.Until())
	}
	if _, err := me.Prove([]byte("x")); !errors.Is(err, wire.ErrCertificate) {
		t.Errorf("it signs: %v", err)
	}
	proof, err := other.Prove([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := me.Prover([]byte("x"), proof); !errors.Is(err, wire.ErrCertificate) {
		t.Errorf("it believes: %v", err)
	}
	if _, err := shake(t, me.Server(wire.RoleHost), other.Client(wire.RoleHost)); err == nil {
		t.Error("it lets somebody in")
	}
	if _, err := shake(t, other.Server(wire.RoleHost), me.Client(wire.RoleHost)); err == nil {
		t.Error("it gets in")
	}
	thief := wire.Await(issue(t, ca, dir, "thief", wire.RoleHost, time.Hour), name, discard())
	if !thief.Until().IsZero() {
		t.Error("it took a certificate of another name")
	}
	late := time.After(20 * time.Second) // the files are looked at once a second
	issue(t, ca, dir, "me", wire.RoleHost, time.Hour)
	for me.Until().IsZero() {
		select {
		case <-late:
			t.Fatal("the files are not used")
		case <-time.After(50 * time.Millisecond):
		}
	}
	if who, err := shake(t, other.Server(wire.RoleHost), me.Client(wire.RoleHost)); err != nil || who != name {
		t.Errorf("%v, %v", who, err)
	}
}

func TestBlock(t *testing.T) {
	t.Parallel()
	ca, dir := authority(t)
	me, bad := identity(t, ca, dir, "me", wire.RoleHost), identity(t, ca, dir, "bad", wire.RoleHost)
	proof, err := bad.Prove([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	for _, blocked := range []bool{true, false} {
		var names []p2p.HostID
		if blocked {
			names = []p2p.HostID{"bad"}
		}
		me.Block(names)
		_, in := shake(t, me.Server(wire.RoleHost), bad.Client(wire.RoleHost))
		_, out := shake(t, bad.Server(wire.RoleHost), me.Client(wire.RoleHost))
		_, signed := me.Prover([]byte("x"), proof)
		for what, err := range map[string]error{"in": in, "out": out, "its signature": signed} {
			if (err != nil) != blocked {
				t.Errorf("blocked %v, %s: %v", blocked, what, err)
			}
		}
	}
}
