package peer_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
)

// news is a Change that tests can compare.
type news struct {
	Whole          bool
	Added, Removed []int
}

func list(h *p2p.Have) []int {
	if h == nil {
		return nil
	}
	var l []int
	for i := range h.All() {
		l = append(l, i)
	}
	return l
}

// follow watches and hands over what comes.
func follow(ctx context.Context, c *peer.Client, h p2p.Host, b p2p.Blob) (<-chan news, <-chan error) {
	changes, ended := make(chan news, 100), make(chan error, 1)
	go func() {
		ended <- c.Watch(ctx, h, b, func(c peer.Change) {
			changes <- news{c.Whole, list(c.Added), list(c.Removed)}
		})
		close(changes)
	}()
	return changes, ended
}

func TestWatch(t *testing.T) {
	t.Parallel()
	s := newShelf()
	it := s.put(20 * mib)
	s.set(it, func(h *p2p.Have) { *h = *p2p.NewHave(20); h.Add(3); h.Add(4); h.Add(19) })
	h := serve(t, peer.ServerConfig{Blobs: s})
	c := client(t, peer.ClientConfig{})
	changes, ended := follow(t.Context(), c, h, it.blob)
	expect := func(want ...news) {
		t.Helper()
		for _, w := range want {
			if diff := cmp.Diff(w, <-changes); diff != "" {
				t.Error(diff)
			}
		}
	}
	expect(news{true, []int{3, 4, 19}, nil})
	s.set(it, func(h *p2p.Have) { h.Add(0) })
	expect(news{false, []int{0}, nil})
	s.set(it, func(h *p2p.Have) { h.Add(5); h.Add(6); h.Remove(3); h.Remove(19) })
	expect(news{false, nil, []int{3, 19}}, news{false, []int{5, 6}, nil})
	s.set(it, func(h *p2p.Have) {}) // says nothing
	s.set(it, func(h *p2p.Have) { h.Add(19) })
	expect(news{false, []int{19}, nil})
	s.drop(it)
	var e *peer.Error
	if err := <-ended; !errors.As(err, &e) || e.Failure != p2p.Missing {
		t.Errorf("after the blob went: %v", err)
	}
}

func TestWatchUnknown(t *testing.T) {
	t.Parallel()
	s := newShelf()
	it := s.put(mib)
	h := serve(t, peer.ServerConfig{Blobs: s})
	narrow := serve(t, peer.ServerConfig{Blobs: s, Watchers: 1})
	c := client(t, peer.ClientConfig{})
	for name, want := range map[string]struct {
		blob p2p.Blob
		want p2p.Failure
	}{
		"unknown":    {p2p.Blob{Digest: newShelf().put(5).blob.Digest, Size: 5}, p2p.Missing},
		"other size": {p2p.Blob{Digest: it.blob.Digest, Size: 5}, p2p.Missing},
	} {
		err := c.Watch(t.Context(), h, want.blob, func(peer.Change) { t.Error("news") })
		var e *peer.Error
		if !errors.As(err, &e) || e.Failure != want.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	changes, ended := follow(ctx, c, narrow, it.blob)
	<-changes
	err := c.Watch(ctx, narrow, it.blob, func(peer.Change) { t.Error("news") })
	var e *peer.Error
	if !errors.As(err, &e) || e.Failure != p2p.Busy {
		t.Errorf("the second of one watcher: %v", err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("after the watcher left: %v", err)
	}
}

// TestWatchLies reads streams that no server of ours sends.
func TestWatchLies(t *testing.T) {
	t.Parallel()
	b := p2p.Blob{Digest: newShelf().put(5).blob.Digest, Size: 20 * piece}
	for name, body := range map[string]string{
		"kind":          "\x09",
		"piece 20":      "\x01\x01\x14\x00",
		"run too long":  "\x01\x01\x00\x14",
		"runs too many": "\x01\xff\xff\xff\xff\x0f\x00\x13\x00\x00",
		"overflow":      "\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00",
		"too long":      "\x01" + strings.Repeat("\xff", 20),
		"cut":           "\x01\x02\x00\x00",
		"redirected":    "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if name == "redirected" {
					http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
					return
				}
				w.Header().Set("Df-Blob-Size", "5242880")
				_, _ = w.Write([]byte(body))
			}))
			t.Cleanup(s.Close)
			c := client(t, peer.ClientConfig{Stall: time.Second})
			err := c.Watch(t.Context(), p2p.Host{ID: "liar", Addr: s.Listener.Addr().String()}, b, func(peer.Change) { t.Error("news") })
			var e *peer.Error
			if !errors.As(err, &e) {
				t.Error(err)
			}
		})
	}
}

// TestGetLies reads answers that no server of ours sends.
func TestGetLies(t *testing.T) {
	t.Parallel()
	b := newShelf().put(1000).blob
	for name, c := range map[string]struct {
		status int
		header map[string]string
		body   string
	}{
		"whole":           {200, nil, "0123456789"},
		"no content":      {204, nil, ""},
		"other offset":    {206, map[string]string{"Content-Range": "bytes 1-10/1000"}, "0123456789"},
		"more than asked": {206, map[string]string{"Content-Range": "bytes 0-10/1000"}, "0123456789a"},
		"other size":      {206, map[string]string{"Content-Range": "bytes 0-9/999"}, "0123456789"},
		"other length":    {206, map[string]string{"Content-Range": "bytes 0-9/1000"}, "012345678"},
		"no range":        {206, nil, "0123456789"},
		"backwards":       {206, map[string]string{"Content-Range": "bytes 9-0/1000"}, "0123456789"},
		"unknown size":    {206, map[string]string{"Content-Range": "bytes 0-9/*"}, "0123456789"},
		"error":           {500, nil, "oops"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for k, v := range c.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			t.Cleanup(s.Close)
			cl := client(t, peer.ClientConfig{})
			_, err := cl.Get(t.Context(), p2p.Host{ID: "liar", Addr: s.Listener.Addr().String()}, b, 0, 10, peer.Ask{})
			var e *peer.Error
			if !errors.As(err, &e) {
				t.Error(err)
			}
		})
	}
}
