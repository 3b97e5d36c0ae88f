package wire_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/wiretest"
)

func authority(t *testing.T) (*wiretest.CA, string) {
	t.Helper()
	dir := t.TempDir()
	ca, err := wiretest.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	return ca, dir
}

func identity(t *testing.T, ca *wiretest.CA, dir string, id p2p.HostID, role wire.Role) *wire.Identity {
	t.Helper()
	return load(t, issue(t, ca, dir, id, role, time.Hour))
}

func issue(t *testing.T, ca *wiretest.CA, dir string, id p2p.HostID, role wire.Role, good time.Duration) wire.Files {
	t.Helper()
	f, err := ca.Issue(dir, id, role, good)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func load(t *testing.T, f wire.Files) *wire.Identity {
	t.Helper()
	i, err := wire.LoadIdentity(f, discard())
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// shake connects the two and returns how the server and the client ended, and
// whom the server saw.
func shake(t *testing.T, server, client *tls.Config) (wire.Name, error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	b, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s, c := tls.Server(a, server), tls.Client(b, client)
	done := make(chan error, 1)
	go func() {
		err := c.Handshake()
		if err == nil {
			_, err = c.Read(make([]byte, 1)) // TLS 1.3 says here that the certificate was refused
		}
		_ = b.Close()
		done <- err
	}()
	err = s.Handshake()
	var name wire.Name
	if err == nil {
		state := s.ConnectionState()
		if state.Version != tls.VersionTLS13 {
			t.Errorf("version %x", state.Version)
		}
		if name, err = wire.Who(&state); err != nil {
			t.Error(err)
		}
		_, err = s.Write([]byte("x"))
	}
	_ = a.Close()
	return name, errors.Join(err, <-done)
}

func TestRoles(t *testing.T) {
	t.Parallel()
	ca, dir := authority(t)
	other, otherDir := authority(t)
	host := identity(t, ca, dir, "node-1", wire.RoleHost)
	seed := identity(t, ca, dir, "seed-1", wire.RoleSeed)
	sched := identity(t, ca, dir, "sched-1", wire.RoleScheduler)
	stranger := identity(t, other, otherDir, "node-1", wire.RoleHost)
	peers := []wire.Role{wire.RoleHost, wire.RoleSeed}
	for name, c := range map[string]struct {
		server, client *tls.Config
		want           wire.Name
	}{
		"host to host":               {seed.Server(peers...), host.Client(peers...), wire.Name{ID: "node-1", Role: wire.RoleHost}},
		"seed to scheduler":          {sched.Server(peers...), seed.Client(wire.RoleScheduler), wire.Name{ID: "seed-1", Role: wire.RoleSeed}},
		"scheduler as a peer":        {host.Server(peers...), sched.Client(peers...), wire.Name{}},
		"host as a scheduler":        {host.Server(peers...), host.Client(wire.RoleScheduler), wire.Name{}},
		"client of another cluster":  {host.Server(peers...), stranger.Client(peers...), wire.Name{}},
		"server of another cluster":  {stranger.Server(peers...), host.Client(peers...), wire.Name{}},
		"client without certificate": {host.Server(peers...), &tls.Config{InsecureSkipVerify: true}, wire.Name{}},
		"client that is behind (1.2)": {host.Server(peers...), func() *tls.Config {
			c := host.Client(peers...)
			c.MinVersion, c.MaxVersion = 0, tls.VersionTLS12
			return c
		}(), wire.Name{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := shake(t, c.server, c.client)
			if c.want == (wire.Name{}) {
				if err == nil {
					t.Error("they talk")
				}
				return
			}
			if err != nil || got != c.want {
				t.Errorf("the server saw %v; %v", got, err)
			}
		})
	}
	if _, err := wire.LoadIdentity(issue(t, ca, dir, "x", "admin", time.Hour), discard()); !errors.Is(err, wire.ErrCertificate) {
		t.Errorf("a role of its own invention: %v", err)
	}
	if _, err := wire.LoadIdentity(issue(t, ca, dir, "a b", wire.RoleHost, time.Hour), discard()); !errors.Is(err, wire.ErrCertificate) {
		t.Errorf("an odd name: %v", err)
	}
}

// TestProof: a member's signature is known from a stranger's, and for that
// statement alone.
func TestProof(t *testing.T) {
	t.Parallel()
	ca, dir := authority(t)
	other, otherDir := authority(t)
	host := identity(t, ca, dir, "node-1", wire.RoleHost)
	seed := identity(t, ca, dir, "seed-1", wire.RoleSeed)
	stranger := identity(t, other, otherDir, "seed-1", wire.RoleSeed)
	said := []byte("the index of that layer")
	prove := func(i *wire.Identity) p2p.Proof {
		p, err := i.Prove(said)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if name, err := host.Prover(said, prove(seed)); err != nil || name != (wire.Name{ID: "seed-1", Role: wire.RoleSeed}) {
		t.Errorf("%v: %v", name, err)
	}
	swapped := prove(seed)
	swapped.Certificate = prove(host).Certificate
	for name, c := range map[string]struct {
		said  []byte
		proof p2p.Proof
	}{
		"another statement": {[]byte("another index"), prove(seed)}, "a stranger": {said, prove(stranger)},
		"another's certificate": {said, swapped}, "nothing": {said, p2p.Proof{}},
	} {
		if who, err := host.Prover(c.said, c.proof); !errors.Is(err, wire.ErrCertificate) {
			t.Errorf("%s: %v: %v", name, who, err)
		}
	}
}

// TestReload replaces certificates while the daemon runs.
func TestReload(t *testing.T) {
	t.Parallel()
	ca, dir := authority(t)
	files := issue(t, ca, dir, "node-1", wire.RoleHost, time.Hour)
	var log bytes.Buffer
	id, err := wire.LoadIdentity(files, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	until := func(what string, is func() bool) {
		t.Helper()
		for !is() {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-t.Context().Done():
				t.Fatal("it never came: ", what)
			}
		}
	}
	if err := os.WriteFile(files.Cert, []byte("half a fi"), 0o600); err != nil {
		t.Fatal(err)
	}
	until("a warning", func() bool {
		name := id.Name()
		if name.ID != "node-1" {
			t.Fatalf("a broken file made it %v", name)
		}
		return strings.Contains(log.String(), "level=WARN")
	})
	other, err := wiretest.NewCA(dir) // all of it is new
	if err != nil {
		t.Fatal(err)
	}
	replace := func(name p2p.HostID, role wire.Role) {
		from := t.TempDir()
		fresh := issue(t, other, from, name, role, time.Hour)
		for from, to := range map[string]string{fresh.Cert: files.Cert, fresh.Key: files.Key} {
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, role := range map[p2p.HostID]wire.Role{"node-2": wire.RoleHost, "node-1": wire.RoleSeed} {
		replace(name, role)
		until("a warning about "+string(name), func() bool {
			if got := id.Name(); got != (wire.Name{ID: "node-1", Role: wire.RoleHost}) {
				t.Fatalf("somebody else's file made it %v", got)
			}
			return strings.Contains(log.String(), fmt.Sprintf("is of a %s (%s) now", role, name))
		})
	}
	replace("node-1", wire.RoleHost)
	fresh := load(t, issue(t, other, t.TempDir(), "node-4", wire.RoleHost, time.Hour))
	until("the new CA", func() bool {
		_, err := shake(t, id.Server(wire.RoleHost), fresh.Client(wire.RoleHost))
		return err == nil
	})
	old := load(t, issue(t, ca, t.TempDir(), "node-3", wire.RoleHost, time.Hour))
	if _, err := shake(t, id.Server(wire.RoleHost), old.Client(wire.RoleHost)); err == nil {
		t.Error("the old CA is still trusted")
	}
}

func TestExpired(t *testing.T) {
	t.Parallel()
	ca, dir := authority(t)
	good := identity(t, ca, dir, "node-1", wire.RoleHost)
	if left := time.Until(good.Until()); left < 59*time.Minute || left > time.Hour {
		t.Errorf("a certificate for an hour is good for %v", left)
	}
	old := load(t, issue(t, ca, dir, "node-2", wire.RoleHost, -time.Minute))
	if _, err := shake(t, good.Server(wire.RoleHost), old.Client(wire.RoleHost)); err == nil {
		t.Error("an expired client is let in")
	}
	if _, err := shake(t, old.Server(wire.RoleHost), good.Client(wire.RoleHost)); err == nil {
		t.Error("an expired server is believed")
	}
}

// TestToken sends a token with and without TLS.
func TestToken(t *testing.T) {
	t.Parallel()
	ca, dir := authority(t)
	want := p2p.Want{Blob: blob, Origin: p2p.Origin{Registry: "r", Repository: "x", Token: "secret"}}
	for name, c := range map[string]struct {
		server, client *wire.Identity
		want           string
	}{
		"tls":   {identity(t, ca, dir, "s", wire.RoleScheduler), identity(t, ca, dir, "h", wire.RoleHost), "secret"},
		"plain": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			callers := make(chan wire.Caller, 1)
			s := link(t, scheduler(t, c.server, func(s *wire.HostStream) error {
				m, err := s.Recv()
				if err != nil {
					return err
				}
				callers <- s.Caller()
				w := m.(p2p.Want)
				return s.Send(p2p.Fetch{Blob: w.Blob, Origin: w.Origin})
			}), c.client)
			if err := s.Send(want); err != nil {
				t.Fatal(err)
			}
			m, err := s.Recv()
			if err != nil || m.(p2p.Fetch).Origin.Token != c.want {
				t.Errorf("%#v came back, %v", m, err)
			}
			caller := <-callers
			if !caller.Addr.IsLoopback() || (caller.Name.ID == "h") != (c.want != "") {
				t.Errorf("the caller is %v", caller)
			}
			if _, err := s.Recv(); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		})
	}
}

// TestWrongServer links to what is no scheduler.
func TestWrongServer(t *testing.T) {
	t.Parallel()
	ca, dir := authority(t)
	addr := scheduler(t, identity(t, ca, dir, "h", wire.RoleHost), func(*wire.HostStream) error { return nil })
	conn, err := wire.Dial(addr, identity(t, ca, dir, "h2", wire.RoleHost))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := conn.Link(ctx)
	if err == nil {
		_, err = s.Recv()
	}
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), wire.ErrCertificate.Error()) {
		t.Error(err)
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	ca, dir := authority(t)
	id := identity(t, ca, dir, "h", wire.RoleHost)
	for name, c := range map[string]struct {
		addr     string
		id       *wire.Identity
		insecure bool
		loopback bool
		warns    bool
	}{
		"plain":                {":0", nil, false, true, true},
		"plain, everywhere":    {"0.0.0.0:0", nil, false, true, true},
		"plain, on loopback":   {"127.0.0.1:0", nil, false, true, false},
		"plain, on loopback 6": {"[::1]:0", nil, false, true, false},
		"insecure":             {":0", nil, true, false, true},
		"tls":                  {":0", id, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			ln, err := wire.Listen(c.addr, c.id, c.insecure, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				if strings.Contains(c.addr, "::1") {
					t.Skip("no IPv6 here: ", err)
				}
				t.Fatal(err)
			}
			defer ln.Close()
			if got := ln.Addr().(*net.TCPAddr).IP.IsLoopback(); got != c.loopback {
				t.Errorf("it listens on %v", ln.Addr())
			}
			if warns := strings.Contains(log.String(), "level=WARN"); warns != c.warns {
				t.Errorf("the log says %q", log.String())
			}
		})
	}
	if _, err := (wire.Files{CA: "ca.pem"}).Load(discard()); !errors.Is(err, wire.ErrPartial) {
		t.Errorf("a CA alone: %v", err)
	}
	if id, err := (wire.Files{}).Load(discard()); id != nil || err != nil {
		t.Errorf("no files: %v, %v", id, err)
	}
}
