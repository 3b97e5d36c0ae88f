package peer_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/swarm"
)

// breaking serves the blob of n bytes whose bodies end, with an error, after so
// many bytes; -1: they never begin.
func breaking(t *testing.T, n, after int) p2p.Host {
	t.Helper()
	s := newShelf()
	it := s.put(n)
	it.through = func(ctx context.Context, off, _ int64) (io.ReadCloser, error) {
		front := bytes.NewReader(it.data[off:max(min(int(off)+after, n), int(off))])
		return io.NopCloser(io.MultiReader(front, readFunc(func([]byte) (int, error) {
			if after < 0 {
				<-ctx.Done()
			}
			return 0, errors.New("broken")
		}))), nil
	}
	return serve(t, peer.ServerConfig{Blobs: s})
}

// having serves the pieces of the blob of n bytes that keep says.
func having(t *testing.T, n int, keep ...int) p2p.Host {
	t.Helper()
	s := newShelf()
	it := s.put(n)
	s.set(it, func(h *p2p.Have) {
		*h = *p2p.NewHave(h.Len())
		for _, i := range keep {
			h.Add(i)
		}
	})
	return serve(t, peer.ServerConfig{Blobs: s})
}

// nobody is an address where nothing listens.
func nobody(t *testing.T) p2p.Host {
	t.Helper()
	ln := listen(t)
	defer ln.Close()
	return p2p.Host{ID: "nobody", Addr: ln.Addr().String()}
}

// silent accepts connections and says nothing.
func silent(t *testing.T) p2p.Host {
	t.Helper()
	ln := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var conns []net.Conn
		for {
			c, err := ln.Accept()
			if err != nil {
				for _, c := range conns {
					_ = c.Close()
				}
				return
			}
			conns = append(conns, c)
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return p2p.Host{ID: "silent", Addr: ln.Addr().String()}
}

func TestStream(t *testing.T) {
	t.Parallel()
	const size = 4*piece + 77
	full := p2p.FullHave(5)
	all := func() []int {
		var l []int
		for i := range full.All() {
			l = append(l, i)
		}
		return l
	}()
	type sent struct {
		Peer   int
		Off    int64
		Bytes  int64
		Failed p2p.Failure
	}
	for name, c := range map[string]struct {
		peers   []p2p.Host
		off, n  int64
		through bool
		want    []sent
		fails   bool
	}{
		"one":           {peers: []p2p.Host{having(t, size, all...)}, n: size, want: []sent{{0, 0, size, p2p.None}}},
		"part":          {peers: []p2p.Host{having(t, size, all...)}, off: piece - 5, n: 10, want: []sent{{0, piece - 5, 10, p2p.None}}},
		"first is down": {peers: []p2p.Host{nobody(t), having(t, size, all...)}, n: 10, want: []sent{{0, 0, 0, p2p.Unreachable}, {1, 0, 10, p2p.None}}},
		"first lacks it": {
			peers: []p2p.Host{having(t, size), having(t, size, all...)}, n: 10,
			want: []sent{{0, 0, 0, p2p.Missing}, {1, 0, 10, p2p.None}},
		},
		"each has a part": {
			peers: []p2p.Host{having(t, size, 0, 1), having(t, size, 2), having(t, size, 0, 3, 4)}, n: size,
			want: []sent{{0, 0, 2 * piece, p2p.None}, {1, 2 * piece, piece, p2p.None}, {2, 3 * piece, piece + 77, p2p.None}},
		},
		"breaks in mid-piece": {
			peers: []p2p.Host{breaking(t, size, 1000), breaking(t, size, 2000), having(t, size, all...)}, off: 50, n: 5000, through: true,
			want: []sent{{0, 50, 1000, p2p.Unreachable}, {1, 1050, 2000, p2p.Unreachable}, {2, 3050, 2000, p2p.None}},
		},
		"silent": {
			peers: []p2p.Host{silent(t), breaking(t, size, -1), having(t, size, all...)}, n: 100, through: true,
			want: []sent{{0, 0, 0, p2p.Stalled}, {1, 0, 0, p2p.Stalled}, {2, 0, 100, p2p.None}},
		},
		"nobody":         {n: 1, fails: true},
		"nobody is left": {peers: []p2p.Host{nobody(t), having(t, size, 1)}, n: 10, want: []sent{{0, 0, 0, p2p.Unreachable}, {1, 0, 0, p2p.Missing}}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := client(t, peer.ClientConfig{Stall: 300 * time.Millisecond})
			data := content(size)
			it := newShelf().put(size)
			s := cl.Range(t.Context(), peer.Plan{Blob: it.blob, Off: c.off, N: c.n, Sources: from(c.through, c.peers...)})
			got, err := io.ReadAll(s)
			if c.fails != (err != nil) {
				t.Errorf("error is %v", err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if !c.fails && !bytes.Equal(got, data[c.off:c.off+c.n]) {
				t.Errorf("got %d other bytes", len(got))
			}
			var parts []sent
			for _, p := range s.Parts() {
				for i, h := range c.peers {
					if h.ID == p.Parent {
						parts = append(parts, sent{i, p.Off, p.Bytes, p.Failed})
					}
				}
			}
			if diff := cmp.Diff(c.want, parts, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestHedge asks a silent peer first.
func TestHedge(t *testing.T) {
	t.Parallel()
	it := newShelf().put(500)
	slow, good := breaking(t, 500, -1), having(t, 500, 0)
	cl := client(t, peer.ClientConfig{Stall: time.Hour})
	s := cl.Range(t.Context(), peer.Plan{Blob: it.blob, N: 500, Sources: from(true, slow, good), Hedge: time.Millisecond})
	defer s.Close()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, it.data) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	parts := s.Parts()
	if len(parts) != 1 || parts[0].Parent != good.ID || parts[0].Bytes != 500 || parts[0].Failed != p2p.None {
		t.Errorf("the bytes came in parts %v", parts)
	}
}

// TestHedgeWinnerBreaks takes the slower one when the faster one breaks.
func TestHedgeWinnerBreaks(t *testing.T) {
	t.Parallel()
	s := newShelf()
	it := s.put(5000)
	release := make(chan struct{})
	var calls int
	it.through = func(ctx context.Context, off, _ int64) (io.ReadCloser, error) {
		calls++
		wait := calls == 1
		r := bytes.NewReader(it.data[off:])
		return io.NopCloser(readFunc(func(p []byte) (int, error) {
			if wait {
				select {
				case <-release:
				case <-ctx.Done():
					return 0, ctx.Err()
				}
			}
			return r.Read(p)
		})), nil
	}
	slow, weak := serve(t, peer.ServerConfig{Blobs: s}), breaking(t, 5000, 700)
	cl := client(t, peer.ClientConfig{Stall: time.Hour})
	st := cl.Range(t.Context(), peer.Plan{Blob: it.blob, N: 5000, Sources: from(true, slow, weak), Hedge: 50 * time.Millisecond})
	defer st.Close()
	got, err := io.ReadAll(st)
	close(release)
	if err != nil || !bytes.Equal(got, it.data) {
		t.Fatalf("got %d bytes, %v; %v", len(got), err, st.Parts())
	}
}

// TestOrigin takes the origin where the peers have failed, and watches it as it
// does them.
func TestOrigin(t *testing.T) {
	t.Parallel()
	it := newShelf().put(5000)
	peers := from(true, breaking(t, 5000, 1000), silent(t))
	cl := client(t, peer.ClientConfig{Stall: 200 * time.Millisecond})
	read := func(origin func(ctx context.Context, off, n int64) (io.ReadCloser, error)) ([]byte, []p2p.Failure, error) {
		s := cl.Range(t.Context(), peer.Plan{Blob: it.blob, N: 5000, Sources: append(peers, swarm.Source{}), Origin: origin})
		defer s.Close()
		got, err := io.ReadAll(s)
		var how []p2p.Failure
		for _, p := range s.Parts() {
			how = append(how, p.Failed)
			if p.Bytes > 0 && p.First <= 0 {
				t.Errorf("the first byte of %q took %v", p.Parent, p.First)
			}
		}
		return got, how, err
	}
	got, how, err := read(func(_ context.Context, off, n int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(it.data[off : off+n])), nil
	})
	if err != nil || !bytes.Equal(got, it.data) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if diff := cmp.Diff([]p2p.Failure{p2p.Unreachable, p2p.Stalled, p2p.None}, how); diff != "" {
		t.Error(diff)
	}
	got, how, err = read(func(context.Context, int64, int64) (io.ReadCloser, error) {
		return nil, &peer.Error{Failure: p2p.Refused, Err: errors.New("401")}
	})
	if len(got) != 1000 || err == nil || how[2] != p2p.Refused {
		t.Errorf("refused by the origin: %d bytes, %v, %v", len(got), how, err)
	}
	_, how, err = read(func(ctx context.Context, _, _ int64) (io.ReadCloser, error) {
		return io.NopCloser(readFunc(func([]byte) (int, error) { <-ctx.Done(); return 0, ctx.Err() })), nil
	})
	if err == nil || how[2] != p2p.Stalled {
		t.Errorf("an origin that is silent: %v, %v", how, err)
	}
	if _, _, err = read(nil); !errors.Is(err, peer.ErrNotFound) {
		t.Errorf("without the origin: %v", err)
	}
}

// TestStreamClosed ends a read that waits.
func TestStreamClosed(t *testing.T) {
	t.Parallel()
	it := newShelf().put(500)
	cl := client(t, peer.ClientConfig{Stall: time.Hour})
	reason := errors.New("not wanted any more")
	ctx, cancel := context.WithCancelCause(t.Context())
	s := cl.Range(ctx, peer.Plan{Blob: it.blob, N: 500, Sources: from(false, silent(t))})
	time.AfterFunc(20*time.Millisecond, func() { cancel(reason) })
	if _, err := s.Read(make([]byte, 10)); !errors.Is(err, reason) {
		t.Errorf("the read ended with %v", err)
	}
	if err := s.Close(); err != nil || len(s.Parts()) > 0 {
		t.Errorf("closing: %v; it blames %v", err, s.Parts())
	}
}

// TestStreamLate closes a body whose first byte came when nobody waited any more.
func TestStreamLate(t *testing.T) {
	t.Parallel()
	it := newShelf().put(500)
	cl := client(t, peer.ClientConfig{Stall: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	body := &late{}
	s := cl.Range(ctx, peer.Plan{Blob: it.blob, N: 500, Sources: []swarm.Source{{}}, Origin: func(context.Context, int64, int64) (io.ReadCloser, error) {
		cancel()
		return body, nil
	}})
	_, err := s.Read(make([]byte, 10))
	if cerr := s.Close(); cerr != nil || !body.closed {
		t.Errorf("the read ended with %v, closing with %v; the body is closed: %v", err, cerr, body.closed)
	}
}

// late is a body that takes no notice of its context's end.
type late struct{ closed bool }

func (l *late) Read(p []byte) (int, error) {
	time.Sleep(10 * time.Millisecond) // so that the reader is gone, mostly
	return len(p), nil
}

func (l *late) Close() error {
	l.closed = true
	return nil
}

func TestGetOutside(t *testing.T) {
	t.Parallel()
	it := newShelf().put(500)
	cl := client(t, peer.ClientConfig{})
	for _, r := range [][2]int64{{-1, 5}, {0, 0}, {0, 501}, {500, 1}, {1, 1 << 62}} {
		if _, err := cl.Get(t.Context(), p2p.Host{Addr: "127.0.0.1:1"}, it.blob, r[0], r[1], peer.Ask{}); err == nil {
			t.Errorf("got %d bytes at %d", r[1], r[0])
		}
	}
}
