package peer_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
)

const (
	mib   = 1 << 20
	piece = 256 << 10 // of blobs up to 256 MiB
)

// reply is what somebody with curl sees.
type reply struct {
	Status int
	Range  string
	Body   []byte
}

func curl(t *testing.T, method, url string, header map[string]string) (reply, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode >= 300 {
		body = nil // words for people
	}
	return reply{resp.StatusCode, resp.Header.Get("Content-Range"), body}, resp.Header
}

// TestRanges asks as curl does, of a blob whose third piece of four is missing.
func TestRanges(t *testing.T) {
	t.Parallel()
	for _, place := range []string{"memory", "disk"} {
		s := newShelf()
		it := s.put(3*piece + 100)
		if place == "disk" {
			it.onDisk(t)
		}
		s.set(it, func(h *p2p.Have) { h.Remove(2) })
		all := s.put(5000)
		empty := s.put(0)
		h := serve(t, peer.ServerConfig{Blobs: s, Log: discard()})
		size := int64(len(it.data))
		part := func(off, end int64) reply {
			return reply{206, fmt.Sprintf("bytes %d-%d/%d", off, end-1, size), it.data[off:end]}
		}
		unsatisfiable := reply{416, fmt.Sprintf("bytes */%d", size), nil}
		malformed := reply{400, fmt.Sprintf("bytes */%d", size), nil}
		digest := it.blob.Digest.String()
		for name, c := range map[string]struct {
			digest, ask string
			want        reply
		}{
			"first bytes":         {digest, "bytes=0-99", part(0, 100)},
			"one byte":            {digest, "bytes=5-5", part(5, 6)},
			"inside a piece":      {digest, "bytes=262000-262100", part(262000, 262101)},
			"two pieces":          {digest, "bytes=0-524287", part(0, 2*piece)},
			"the front is here":   {digest, "bytes=250000-700000", part(250000, 2*piece)},
			"open end":            {digest, "bytes=250000-", part(250000, 2*piece)},
			"last bytes":          {digest, "bytes=-50", part(size-50, size)},
			"end cut":             {digest, "bytes=786432-99999999", part(3*piece, size)},
			"missing piece":       {digest, "bytes=524288-524296", reply{404, "", nil}},
			"whole of a part":     {digest, "", reply{404, "", nil}},
			"whole":               {all.blob.Digest.String(), "", reply{200, "", all.data}},
			"empty":               {empty.blob.Digest.String(), "", reply{200, "", []byte{}}},
			"range of empty":      {empty.blob.Digest.String(), "bytes=0-0", reply{416, "bytes */0", nil}},
			"behind the end":      {digest, fmt.Sprintf("bytes=%d-", size), unsatisfiable},
			"no last bytes":       {digest, "bytes=-0", unsatisfiable},
			"huge":                {digest, "bytes=9223372036854775807-9223372036854775807", unsatisfiable},
			"too huge":            {digest, "bytes=0-9223372036854775808", malformed},
			"negative":            {digest, "bytes=--5", malformed},
			"signed":              {digest, "bytes=+0-5", malformed},
			"backwards":           {digest, "bytes=5-4", malformed},
			"two ranges":          {digest, "bytes=0-1,3-4", malformed},
			"other unit":          {digest, "pieces=0-1", malformed},
			"nothing":             {digest, "bytes=", malformed},
			"unknown blob":        {"sha256:" + strings.Repeat("0", 64), "bytes=0-1", reply{404, "", nil}},
			"no digest":           {"latest", "bytes=0-1", reply{400, "", nil}},
			"digest of few":       {"sha256:00", "bytes=0-1", reply{400, "", nil}},
			"unknown algorithm":   {"md5:" + strings.Repeat("0", 32), "bytes=0-1", reply{400, "", nil}},
			"digest out of paths": {"..%2f..%2fetc%2fpasswd", "", reply{400, "", nil}},
		} {
			t.Run(place+"/"+name, func(t *testing.T) {
				t.Parallel()
				header := map[string]string{}
				if c.ask != "" {
					header["Range"] = c.ask
				}
				got, _ := curl(t, "GET", "http://"+h.Addr+"/blobs/"+c.digest, header)
				if diff := cmp.Diff(c.want.Status, got.Status); diff != "" || got.Range != c.want.Range || !bytes.Equal(got.Body, c.want.Body) {
					t.Errorf("got %d %q and %d bytes, want %d %q and %d bytes", got.Status, got.Range, len(got.Body), c.want.Status, c.want.Range, len(c.want.Body))
				}
			})
		}
	}
}

func TestHead(t *testing.T) {
	t.Parallel()
	s := newShelf()
	it := s.put(3 * piece)
	s.set(it, func(h *p2p.Have) { h.Remove(1) })
	h := serve(t, peer.ServerConfig{Blobs: s})
	got, header := curl(t, "HEAD", "http://"+h.Addr+"/blobs/"+it.blob.Digest.String(), map[string]string{"Range": "bytes=10-", "Df-Fetch": "through"})
	want := reply{206, "bytes 10-262143/786432", []byte{}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n := header.Get("Content-Length"); n != "262134" {
		t.Errorf("Content-Length is %s", n)
	}
	if got, _ := curl(t, "DELETE", "http://"+h.Addr+"/blobs/"+it.blob.Digest.String(), nil); got.Status != 405 {
		t.Errorf("DELETE got %d", got.Status)
	}
}

func TestHeadersRefused(t *testing.T) {
	t.Parallel()
	s := newShelf()
	it := s.put(100)
	h := serve(t, peer.ServerConfig{Blobs: s})
	for name, c := range map[string]struct {
		header, value string
		want          int
	}{
		"fetch":    {"Df-Fetch", "now", 400},
		"hops":     {"Df-Hops", "-1", 400},
		"circle":   {"Df-Hops", "33", 508},
		"priority": {"Df-Priority", "urgent", 400},
		"good":     {"Df-Priority", "prefetch", 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, _ := curl(t, "GET", "http://"+h.Addr+"/blobs/"+it.blob.Digest.String(), map[string]string{c.header: c.value})
			if got.Status != c.want {
				t.Errorf("got %d, want %d", got.Status, c.want)
			}
		})
	}
}

// TestSlots fills the slots with readers that do not read.
func TestSlots(t *testing.T) {
	t.Parallel()
	s := newShelf()
	it := s.put(100)
	release := make(chan struct{})
	it.through = func(ctx context.Context, _, n int64) (io.ReadCloser, error) {
		return io.NopCloser(readFunc(func(p []byte) (int, error) {
			select {
			case <-release:
				return copy(p, it.data), nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		})), nil
	}
	reg := prometheus.NewRegistry()
	h := serve(t, peer.ServerConfig{Blobs: s, Slots: 4, Registerer: reg})
	c := client(t, peer.ClientConfig{})
	ask := peer.Ask{Priority: p2p.Background, Through: true}
	var bodies []*peer.Body
	begin := func(a peer.Ask) error {
		b, err := c.Get(t.Context(), h, it.blob, 0, 100, a)
		if err == nil {
			bodies = append(bodies, b)
		}
		return err
	}
	busy := func(err error) bool {
		var e *peer.Error
		return errors.As(err, &e) && e.Failure == p2p.Busy && e.RetryAfter == time.Second
	}
	// The header of a body that has no byte yet is not sent, so these wait.
	results := make(chan error, 3)
	for range 3 {
		go func() {
			b, err := c.Get(t.Context(), h, it.blob, 0, 100, ask)
			if err == nil {
				_, err = io.Copy(io.Discard, b)
				err = errors.Join(err, b.Close())
			}
			results <- err
		}()
	}
	wait(t, reg, "dfsnapshotter_peer_upload_slots_busy", 3)
	if err := begin(ask); !busy(err) {
		t.Errorf("the fourth of 3 background slots: %v", err)
	}
	other := &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+h.Addr+"/blobs/"+it.blob.Digest.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Df-Priority", p2p.Background.String())
	if resp, err := other.RoundTrip(req); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the last slot, for a host that has none: %v, %v", resp, err)
	} else if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	close(release)
	for range 3 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	wait(t, reg, "dfsnapshotter_peer_upload_slots_busy", 0)
	if err := begin(peer.Ask{Priority: p2p.OnDemand}); err != nil {
		t.Error(err)
	}
	for _, b := range bodies {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// wait waits until a gauge has a value.
func wait(t *testing.T, reg *prometheus.Registry, name string, want float64) {
	t.Helper()
	text := fmt.Sprintf("%s %v\n", name, want)
	for ctx := t.Context(); ; {
		if testutil.GatherAndCompare(reg, strings.NewReader(help(t, reg, name)+text), name) == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s does not become %v", name, want)
		case <-time.After(time.Millisecond):
		}
	}
}

func help(t *testing.T, reg *prometheus.Registry, name string) string {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			return fmt.Sprintf("# HELP %s %s\n# TYPE %s gauge\n", name, f.GetHelp(), name)
		}
	}
	t.Fatalf("no metric %s", name)
	return ""
}

// TestLive reads bytes of a through request before the source has the rest.
func TestLive(t *testing.T) {
	t.Parallel()
	s := newShelf()
	it := s.put(1000)
	pr, pw := io.Pipe()
	it.through = func(context.Context, int64, int64) (io.ReadCloser, error) { return pr, nil }
	h := serve(t, peer.ServerConfig{Blobs: s})
	c := client(t, peer.ClientConfig{})
	go func() { _, _ = pw.Write(it.data[:10]) }()
	b, err := c.Get(t.Context(), h, it.blob, 0, 1000, peer.Ask{Through: true, Hops: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got := make([]byte, 10)
	if _, err := io.ReadFull(b, got); err != nil || !bytes.Equal(got, it.data[:10]) {
		t.Fatalf("the first bytes are %x, %v", got, err)
	}
	go func() {
		_, _ = pw.Write(it.data[10:])
		_ = pw.Close()
	}()
	rest, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(rest, it.data[10:]) {
		t.Errorf("the rest is %d bytes, %v", len(rest), err)
	}
	want := []peer.Ask{{Priority: p2p.OnDemand, Through: true, Hops: 3}}
	if diff := cmp.Diff(want, s.asks); diff != "" {
		t.Error(diff)
	}
}

// TestWait has requests for what is not here yet: each is answered as soon as it
// is, and takes no upload slot until then.
func TestWait(t *testing.T) {
	t.Parallel()
	s := newShelf()
	it, gone := s.put(1<<20), s.put(1<<19)
	for _, it := range []*item{it, gone} {
		s.set(it, func(h *p2p.Have) { h.Remove(0); h.Remove(1) })
	}
	reg := prometheus.NewRegistry()
	h := serve(t, peer.ServerConfig{Blobs: s, Slots: 1, Watchers: 2, Registerer: reg})
	c := client(t, peer.ClientConfig{})
	type result struct {
		data []byte
		err  error
	}
	get := func(it *item, off, n int64) result {
		b, err := c.Get(t.Context(), h, it.blob, off, n, peer.Ask{Wait: true})
		if err != nil {
			return result{err: err}
		}
		data, err := io.ReadAll(b)
		return result{data, errors.Join(err, b.Close())}
	}
	size := p2p.PieceSize(it.blob.Size)
	comes, goes := make(chan result, 1), make(chan result, 1)
	go func() { comes <- get(it, size+7, 100) }()
	go func() { goes <- get(gone, 0, 100) }()
	wait(t, reg, "dfsnapshotter_peer_watchers", 2)
	var e *peer.Error
	if r := get(it, 0, 1); !errors.As(r.err, &e) || e.Failure != p2p.Busy || e.RetryAfter != time.Second {
		t.Errorf("one more who waits: %v", r.err)
	}
	b, err := c.Get(t.Context(), h, it.blob, 2*size, 10, peer.Ask{})
	if err != nil {
		t.Fatalf("they take slots: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	wait(t, reg, "dfsnapshotter_peer_upload_slots_busy", 0)
	s.set(it, func(h *p2p.Have) { h.Add(0) }) // not what it waits for
	s.set(it, func(h *p2p.Have) { h.Add(1) })
	if r := <-comes; r.err != nil || !bytes.Equal(r.data, it.data[size+7:size+107]) {
		t.Errorf("got %d bytes, %v", len(r.data), r.err)
	}
	s.drop(gone)
	if r := <-goes; !errors.As(r.err, &e) || e.Failure != p2p.Missing {
		t.Errorf("of a blob that went: %v", r.err)
	}
}

// TestWaitInVain has a request for what never comes. It is answered, and the client
// does not take the silence before that for a stall.
func TestWaitInVain(t *testing.T) {
	t.Parallel()
	s := newShelf()
	it := s.put(1000)
	s.set(it, func(h *p2p.Have) { h.Remove(0) })
	h := serve(t, peer.ServerConfig{Blobs: s, Wait: 200 * time.Millisecond})
	c := client(t, peer.ClientConfig{Stall: 50 * time.Millisecond})
	var e *peer.Error
	if _, err := c.Get(t.Context(), h, it.blob, 0, 10, peer.Ask{Wait: true}); !errors.As(err, &e) || e.Failure != p2p.Missing {
		t.Errorf("it ended with %v", err)
	}
}

// TestWaitOld asks a host of an older build, which knows nothing of requests that
// wait, for what it will have: it has nothing, and is neither out of order nor slow.
func TestWaitOld(t *testing.T) {
	t.Parallel()
	s := newShelf()
	it := s.put(1000)
	asked := 0
	old := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if f := r.Header.Get("Df-Fetch"); f != "" && f != "through" || r.Header.Get("Df-Priority") == "" {
			http.Error(w, "header not understood", http.StatusBadRequest)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(it.data))
	}))
	t.Cleanup(old.Close)
	h := p2p.Host{ID: "old", Addr: old.Listener.Addr().String()}
	c := client(t, peer.ClientConfig{})
	var e *peer.Error
	if _, err := c.Get(t.Context(), h, it.blob, 0, 1000, peer.Ask{Wait: true}); !errors.As(err, &e) || e.Failure != p2p.Missing {
		t.Errorf("a request that waits: %v", err)
	}
	if asked != 1 {
		t.Errorf("it took %d requests to find out", asked)
	}
	b, err := c.Get(t.Context(), h, it.blob, 0, 1000, peer.Ask{})
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(b); err != nil || !bytes.Equal(data, it.data) {
		t.Errorf("another one: %d bytes, %v", len(data), err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// TestSourceBreaks sends less than was promised.
func TestSourceBreaks(t *testing.T) {
	t.Parallel()
	s := newShelf()
	it := s.put(1000)
	it.through = func(context.Context, int64, int64) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(it.data[:600]), readFunc(func([]byte) (int, error) { return 0, errors.New("no more") }))), nil
	}
	h := serve(t, peer.ServerConfig{Blobs: s})
	c := client(t, peer.ClientConfig{})
	b, err := c.Get(t.Context(), h, it.blob, 0, 1000, peer.Ask{Through: true})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got, err := io.ReadAll(b)
	var e *peer.Error
	if len(got) != 600 || !errors.As(err, &e) || e.Failure != p2p.Unreachable {
		t.Errorf("got %d bytes, then %v", len(got), err)
	}
}

// TestGarbage sends what is not HTTP, or half of it.
func TestGarbage(t *testing.T) {
	t.Parallel()
	s := newShelf()
	it := s.put(100)
	reg := prometheus.NewRegistry()
	h := serve(t, peer.ServerConfig{Blobs: s, Registerer: reg})
	texts := map[string]string{
		"noise":      string(content(5000)),
		"tls":        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"http2":      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"long line":  "GET /" + strings.Repeat("x", 20000) + " HTTP/1.1\r\n\r\n",
		"headers":    "GET / HTTP/1.1\r\n" + strings.Repeat("A: b\r\n", 5000) + "\r\n",
		"smuggling":  "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"no version": "GET /\r\n\r\n",
	}
	for name, text := range texts {
		conn, err := net.Dial("tcp", h.Addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, text) // the server may have hung up by then
		_ = conn.(*net.TCPConn).CloseWrite()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err == nil && resp.StatusCode < 400 {
			t.Errorf("%s got %s", name, resp.Status)
		}
		_ = conn.Close()
	}
	if got, _ := curl(t, "GET", "http://"+h.Addr+"/blobs/"+it.blob.Digest.String(), nil); got.Status != 200 {
		t.Errorf("afterwards a good request got %d", got.Status)
	}
	counted(t, reg, `dfsnapshotter_peer_connections_ended_total{result="no_request"}`, 7)
}

// counted waits until a metric has that value, or more.
func counted(t *testing.T, reg *prometheus.Registry, series string, least int) {
	t.Helper()
	for {
		w := httptest.NewRecorder()
		promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		_, after, _ := strings.Cut(w.Body.String(), "\n"+series+" ")
		if n, err := strconv.Atoi(strings.SplitN(after, "\n", 2)[0]); err == nil && n >= least {
			return
		}
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
			t.Fatalf("%s is not %d in\n%s", series, least, w.Body)
		}
	}
}

// TestConns opens more connections than the server takes.
func TestConns(t *testing.T) {
	t.Parallel()
	s := newShelf()
	it := s.put(100)
	reg := prometheus.NewRegistry()
	h := serve(t, peer.ServerConfig{Blobs: s, Conns: 1, Registerer: reg})
	cl := client(t, peer.ClientConfig{})
	get := func(c *peer.Client) error {
		b, err := c.Get(t.Context(), h, it.blob, 0, 100, peer.Ask{})
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, b)
		return errors.Join(err, b.Close())
	}
	if err := get(cl); err != nil {
		t.Fatal(err)
	}
	other := client(t, peer.ClientConfig{})
	var e *peer.Error
	if err := get(other); !errors.As(err, &e) || e.Failure != p2p.Unreachable {
		t.Errorf("the second of one connection: %v", err)
	}
	if err := get(cl); err != nil {
		t.Errorf("the first one afterwards: %v", err)
	}
	counted(t, reg, `dfsnapshotter_peer_connections_ended_total{result="refused"}`, 1)
	cl.Close()
	counted(t, reg, `dfsnapshotter_peer_connections_ended_total{result="served"}`, 1)
}

// TestStress has many clients read ranges from peers of which some are bad.
func TestStress(t *testing.T) {
	t.Parallel()
	const size = 8*mib + 13
	good := newShelf()
	it := good.put(size).onDisk(t)
	peers := []p2p.Host{
		serve(t, peer.ServerConfig{Blobs: good}), serve(t, peer.ServerConfig{Blobs: good, Slots: 2}),
		breaking(t, size, 100_000), having(t, size, 1, 2, 3), nobody(t),
	}
	cl := client(t, peer.ClientConfig{Stall: 5 * time.Second})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for range 15 {
				off := r.Int64N(size)
				n := 1 + r.Int64N(min(size-off, 2*mib))
				mine := slices.Clone(peers)
				r.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
				mine = append(mine, peers[0]) // who is good twice, once at the end
				s := cl.Range(t.Context(), peer.Plan{
					Blob: it.blob, Off: off, N: n, Sources: from(i%2 == 0, mine...),
					Hedge: time.Duration(r.IntN(3)) * time.Millisecond,
				})
				got, err := io.ReadAll(s)
				if err != nil || !bytes.Equal(got, it.data[off:off+n]) {
					t.Errorf("%d bytes at %d: got %d, %v", n, off, len(got), err)
				}
				_ = s.Close()
			}
		})
	}
	wg.Wait()
}

// TestClose ends have-map streams at once and bodies soon.
func TestClose(t *testing.T) {
	t.Parallel()
	s := newShelf()
	it := s.put(100)
	began := make(chan struct{})
	it.through = func(ctx context.Context, _, _ int64) (io.ReadCloser, error) {
		close(began)
		return io.NopCloser(readFunc(func([]byte) (int, error) {
			<-ctx.Done()
			return 0, context.Cause(ctx)
		})), nil
	}
	ln := listen(t)
	server, err := peer.Serve(ln, peer.ServerConfig{Blobs: s})
	if err != nil {
		t.Fatal(err)
	}
	h := p2p.Host{ID: "h", Addr: ln.Addr().String()}
	c := client(t, peer.ClientConfig{})
	ended := make(chan error, 2)
	first := make(chan struct{})
	go func() { ended <- c.Watch(t.Context(), h, it.blob, func(peer.Change) { close(first) }) }()
	<-first
	go func() {
		_, err := c.Get(t.Context(), h, it.blob, 0, 100, peer.Ask{Through: true})
		ended <- err
	}()
	<-began
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-ended; err == nil {
			t.Error("a request ended well")
		}
	}
}
