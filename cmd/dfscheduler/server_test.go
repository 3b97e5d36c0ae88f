package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/sched"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start starts a scheduler on loopback until the test ends.
func start(t testing.TB, change func(*Config)) *server {
	t.Helper()
	return startLogged(t, slog.New(slog.DiscardHandler), change)
}

func startLogged(t testing.TB, log *slog.Logger, change func(*Config)) *server {
	t.Helper()
	c := DefaultConfig()
	c.Listen, c.Debug.Listen = "127.0.0.1:0", "127.0.0.1:0"
	if change != nil {
		change(&c)
	}
	s, err := open(c, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// node is a host that talks to a scheduler.
type node struct {
	*wire.SchedulerStream
	host p2p.Host
	cut  func() // as if it died
}

func connect(t testing.TB, s *server, id *wire.Identity) node {
	t.Helper()
	conn, err := wire.Dial(s.addr(), id)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cut := func() {
		cancel()
		_ = conn.Close()
	}
	t.Cleanup(cut)
	stream, err := conn.Link(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return node{SchedulerStream: stream, cut: cut}
}

func join(t testing.TB, s *server, id *wire.Identity, h p2p.Host, inventory ...p2p.Inventory) node {
	t.Helper()
	n := connect(t, s, id)
	n.host = h
	n.say(t, p2p.Announce{Host: h, Inventory: inventory})
	return n
}

func (n node) say(t testing.TB, m p2p.Message) {
	t.Helper()
	if err := n.Send(m); err != nil {
		t.Fatal(err)
	}
}

// await reads until a message satisfies is.
func (n node) await(t testing.TB, is func(p2p.Message) bool) p2p.Message {
	t.Helper()
	for {
		m, err := n.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if is(m) {
			return m
		}
	}
}

// ends returns the code with which the stream ends.
func (n node) ends(t testing.TB) codes.Code {
	t.Helper()
	for {
		if _, err := n.Recv(); err != nil {
			return status.Code(err)
		}
	}
}

func host(id string, seed bool) p2p.Host {
	return p2p.Host{ID: p2p.HostID(id), Addr: ":65002", Seed: seed, Share: true}
}

var (
	blob = p2p.Blob{Digest: digest.FromString("x"), Size: 40 << 20}
	all  = p2p.Inventory{Blob: blob, Have: p2p.FullHave(40), Verified: true}
	want = p2p.Want{Blob: blob, Origin: p2p.Origin{Registry: "r", Repository: "x", Token: "s3cr3t"}, Priority: p2p.OnDemand}
)

// parents waits for parents of the blob in each stripe and returns the first.
func (n node) parents(t testing.TB) p2p.Host {
	t.Helper()
	m := n.await(t, func(m p2p.Message) bool {
		p, ok := m.(p2p.Parents)
		if !ok {
			return false
		}
		for _, s := range p.Stripes {
			if len(s) == 0 {
				return false
			}
		}
		return len(p.Stripes) > 0
	})
	return m.(p2p.Parents).Stripes[0][0]
}

func TestParents(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	join(t, s, nil, host("seed", true), all)
	child := join(t, s, nil, host("child", false))
	settle(t, s, 2)
	child.say(t, want)
	if diff := cmp.Diff(p2p.Host{ID: "seed", Addr: "127.0.0.1:65002", Seed: true, Share: true}, child.parents(t)); diff != "" {
		t.Error(diff)
	}
}

// settle waits until so many hosts are there.
func settle(t testing.TB, s *server, hosts int) {
	t.Helper()
	for s.hub.counts().Hosts != hosts {
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
			t.Fatalf("there are %+v", s.hub.counts())
		}
	}
}

// TestLeft takes a host out of all swarms when its stream ends.
func TestLeft(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	child := join(t, s, nil, host("child", false))
	settle(t, s, 1)
	parent := join(t, s, nil, host("parent", false), all)
	settle(t, s, 2)
	child.say(t, want)
	if h := child.parents(t); h.ID != "parent" {
		t.Errorf("the parent is %v", h)
	}
	parent.cut()
	settle(t, s, 1)
	child.await(t, func(m p2p.Message) bool { g, ok := m.(p2p.Gone); return ok && g.Host == "parent" })
}

// TestAgain replaces the stream of a host that is back before it was missed.
func TestAgain(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	first := join(t, s, nil, host("h", false))
	settle(t, s, 1)
	second := join(t, s, nil, host("h", false), all)
	if code := first.ends(t); code != codes.Aborted {
		t.Errorf("the first stream ended with %v", code)
	}
	child := join(t, s, nil, host("child", false))
	settle(t, s, 2)
	child.say(t, want)
	if h := child.parents(t); h.ID != second.host.ID {
		t.Errorf("the parent is %v", h)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Config)
		before func(t *testing.T, s *server)
		say    []p2p.Message
		want   codes.Code
	}{
		"no announce":     {say: []p2p.Message{want}, want: codes.FailedPrecondition},
		"two announces":   {say: []p2p.Message{p2p.Announce{Host: host("a", false)}, p2p.Announce{Host: host("a", false)}}, want: codes.FailedPrecondition},
		"odd name":        {say: []p2p.Message{p2p.Announce{Host: host("a b", false)}}, want: codes.InvalidArgument},
		"odd digest":      {say: []p2p.Message{p2p.Announce{Host: host("a", false)}, p2p.Unwant{Digest: "latest"}}, want: codes.InvalidArgument},
		"too many hosts":  {change: func(c *Config) { c.Limits.Hosts = 1 }, before: one, say: []p2p.Message{p2p.Announce{Host: host("a", false)}}, want: codes.ResourceExhausted},
		"too many here":   {change: func(c *Config) { c.Limits.HostsPerAddress = 1 }, before: one, want: codes.ResourceExhausted},
		"behind for long": {say: append([]p2p.Message{p2p.Announce{Host: host("a", false)}}, many(300, p2p.Verified{Digest: blob.Digest})...), want: codes.FailedPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, c.change)
			if c.before != nil {
				c.before(t, s)
			}
			n := connect(t, s, nil)
			for _, m := range c.say {
				if err := n.Send(m); err != nil {
					break // it has ended already
				}
			}
			if code := n.ends(t); code != c.want {
				t.Errorf("it ended with %v", code)
			}
		})
	}
}

func one(t *testing.T, s *server) {
	join(t, s, nil, host("first", false))
	settle(t, s, 1)
}

func many(n int, m p2p.Message) []p2p.Message {
	l := make([]p2p.Message, n)
	for i := range l {
		l[i] = m
	}
	return l
}

// TestIdentity holds hosts to what their certificates say.
func TestIdentity(t *testing.T) {
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
	identity := func(id p2p.HostID, role wire.Role) *wire.Identity {
		i, err := wire.LoadIdentity(files(id, role), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	own := files("sched", wire.RoleScheduler)
	var text record
	s := startLogged(t, slog.New(slog.NewJSONHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug})), func(c *Config) { c.TLS = daemon.TLS{CA: own.CA, Cert: own.Cert, Key: own.Key} })
	seed := join(t, s, identity("seed", wire.RoleSeed), host("seed", true))
	settle(t, s, 1)
	child := join(t, s, identity("child", wire.RoleHost), host("child", false))
	child.say(t, want)
	m := seed.await(t, func(m p2p.Message) bool { _, ok := m.(p2p.Fetch); return ok })
	if got := m.(p2p.Fetch).Origin; got != want.Origin {
		t.Errorf("the seed is to fetch from %v with a token of %d bytes", got, len(got.Token))
	}
	odd := want
	odd.Origin.Token += "\n" // which is refused
	if code := says(t, join(t, s, identity("odd", wire.RoleHost), host("odd", false)), odd); code != codes.InvalidArgument {
		t.Errorf("an odd token got %v", code)
	}
	settle(t, s, 2)
	for name, h := range map[string]p2p.Host{"somebody else": host("child-2", false), "a seed": host("liar", true)} {
		n := join(t, s, identity("liar", wire.RoleHost), h)
		if code := n.ends(t); code != codes.PermissionDenied {
			t.Errorf("a host that says it is %s got %v", name, code)
		}
	}
	for _, path := range []string{"/debug", "/debug.json", "/metrics"} {
		if text := get(t, s, path); strings.Contains(text, want.Origin.Token) {
			t.Errorf("%s shows the token:\n%s", path, text)
		}
	}
	if text := get(t, s, "/metrics"); !strings.Contains(text, "\ndfscheduler_certificate_expiry_timestamp_seconds 1.") {
		t.Errorf("/metrics does not say how long the certificate is good:\n%s", text)
	}
	if got := text.String(); strings.Contains(got, want.Origin.Token) || !strings.Contains(got, "host is here") {
		t.Errorf("the log shows the token, or nothing:\n%s", got)
	}
}

// says says m and returns how the stream ends.
func says(t *testing.T, n node, m p2p.Message) codes.Code {
	t.Helper()
	n.say(t, m)
	return n.ends(t)
}

// record is a log in memory.
type record struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// await waits until the log says part.
func (r *record) await(t *testing.T, part string) {
	t.Helper()
	for !strings.Contains(r.String(), part) {
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
			t.Fatalf("the log says %q", r.String())
		}
	}
}

// TestLoopback warns of a host that nobody else can dial.
func TestLoopback(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		listen, addr string
		warns        bool
	}{
		"seen over loopback":      {"0.0.0.0:0", ":65002", true},
		"says so itself":          {"0.0.0.0:0", "localhost:65002", true},
		"has another address":     {"0.0.0.0:0", "10.0.0.1:65002", false},
		"all are on this machine": {"127.0.0.1:0", ":65002", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var text record
			log := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))
			s := startLogged(t, log, func(cfg *Config) { cfg.Listen, cfg.TLS.Insecure = c.listen, true })
			h := host("h", false)
			h.Addr = c.addr
			join(t, s, nil, h)
			text.await(t, "host is here") // said after the warning
			if warns := strings.Contains(text.String(), "peer.advertise"); warns != c.warns {
				t.Errorf("the log says %q", text.String())
			}
		})
	}
}

func get(t *testing.T, s *server, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.debug.Addr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", path, resp.Status, err)
	}
	return string(text)
}

func TestDebug(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	join(t, s, nil, host("seed", true), all)
	eventually(t, s, "dfscheduler_messages_total{result=\"ok\"} 1\n") // the last thing that becomes true
	for path, parts := range map[string][]string{
		"/healthz": {"ok"},
		"/readyz":  {"ok"},
		"/metrics": {"dfscheduler_hosts 1\n", "dfscheduler_seeds 1\n", "go_goroutines"},
		"/debug":   {"1 hosts, 1 of them seeds", string(blob.Digest), "127.0.0.1:65002"},
	} {
		text := get(t, s, path)
		for _, p := range parts {
			if !strings.Contains(text, p) {
				t.Errorf("%s does not say %q:\n%s", path, p, text)
			}
		}
	}
	var v view
	if err := json.Unmarshal([]byte(get(t, s, "/debug.json")), &v); err != nil || len(v.Hosts) != 1 || len(v.Swarms) != 1 {
		t.Errorf("/debug.json: %+v, %v", v, err)
	}
	var one sched.BlobView
	if err := json.Unmarshal([]byte(get(t, s, "/debug/blobs/"+string(blob.Digest))), &one); err != nil || len(one.Hosts) != 1 || one.Hosts[0].ID != "seed" || one.Hosts[0].Have != one.Pieces {
		t.Errorf("the blob: %+v, %v", one, err)
	}
}

// TestGarbage sends what is no gRPC.
func TestGarbage(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for name, text := range map[string]string{
		"noise":   strings.Repeat("\x00\xffgarbage", 1000),
		"http1":   "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\xff", 1000),
		"tls":     "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
	} {
		conn, err := net.Dial("tcp", s.addr())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, text) // it may have been cut off by then
		_ = conn.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Log(name, err)
		}
		_ = conn.Close()
	}
	eventually(t, s, "dfscheduler_connections_ended_total{result=\"no_stream\"} 4\n")
	n := join(t, s, nil, host("h", false))
	settle(t, s, 1)
	n.cut()
	eventually(t, s, "dfscheduler_connections_ended_total{result=\"served\"} 1\n")
}

// TestConnections opens more connections than there are hosts.
func TestConnections(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *Config) { c.Limits.HostsPerAddress = 1 })
	var conns []net.Conn
	for range connsPerHost {
		conn, err := net.Dial("tcp", s.addr())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 9)); err != nil { // the first frame of HTTP/2
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	conn, err := net.Dial("tcp", s.addr())
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := io.Copy(io.Discard, conn); n > 0 {
		t.Error("one more is served")
	}
	eventually(t, s, "dfscheduler_connections_ended_total{result=\"refused\"} 1\n")
	for _, c := range append(conns, conn) {
		_ = c.Close()
	}
	settleConns(t, s, 0)
	join(t, s, nil, host("h", false))
	settle(t, s, 1)
}

func settleConns(t *testing.T, s *server, n int) {
	t.Helper()
	for s.gate.count() != n {
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("connections stay")
		}
	}
}

// TestFlood sends far more than a host may.
func TestFlood(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *Config) { c.Limits.Messages = 1 })
	n := join(t, s, nil, host("h", false), all)
	for range 5 * burst {
		n.say(t, p2p.Verified{Digest: blob.Digest})
	}
	for !strings.Contains(get(t, s, "/metrics"), "dfscheduler_messages_throttled_total 1\n") {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("it is not held back")
		}
	}
}

// TestStop tells hosts that it stops, and starts again with what they say.
func TestStop(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	n := join(t, s, nil, host("h", false), all)
	settle(t, s, 1)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	c := DefaultConfig()
	c.Listen, c.Debug.Listen = "127.0.0.1:0", ""
	go func() { ended <- run(ctx, c, slog.New(slog.DiscardHandler)) }()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	s.hub.stop()
	if code := n.ends(t); code != codes.Unavailable {
		t.Errorf("the stream ended with %v", code)
	}
	again := connect(t, s, nil)
	if code := again.ends(t); code != codes.Unavailable {
		t.Errorf("a new stream ended with %v", code)
	}
}

func TestListenError(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	c := DefaultConfig()
	c.Listen, c.Debug.Listen = "127.0.0.1:0", s.debug.Addr()
	if err := run(t.Context(), c, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("it runs without its debug address")
	}
	c.Listen = s.addr()
	if err := run(t.Context(), c, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("it runs without its address")
	}
	c.TLS = daemon.TLS{CA: "/nowhere", Cert: "/nowhere", Key: "/nowhere"}
	if err := run(t.Context(), c, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("it runs without its certificate")
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	r := newRate(10, now)
	for i := range 10 * burst {
		if wait := r.take(1, now); wait > 0 {
			t.Fatalf("message %d of a burst waits %v", i, wait)
		}
	}
	for range 1000 { // then each waits for its turn
		wait := r.take(1, now)
		if wait != 100*time.Millisecond {
			t.Fatalf("the next one waits %v", wait)
		}
		now = now.Add(wait)
	}
	now = now.Add(time.Hour)
	for i := range 10 * burst {
		if wait := r.take(1, now); wait > 0 {
			t.Fatalf("message %d of a burst after a rest waits %v", i, wait)
		}
	}
}

// BenchmarkDecision is a want and its answer, over loopback.
func BenchmarkDecision(b *testing.B) {
	s := start(b, func(c *Config) { c.Limits.Messages = 1_000_000 })
	join(b, s, nil, host("seed", true), all)
	child := join(b, s, nil, host("child", false))
	settle(b, s, 2)
	b.ReportAllocs()
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		child.say(b, want)
		child.parents(b)
		took = append(took, time.Since(began))
		child.say(b, p2p.Unwant{Digest: blob.Digest})
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
}
