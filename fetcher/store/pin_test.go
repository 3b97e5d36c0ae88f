package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
)

// keep puts a whole blob into the store.
func keep(t *testing.T, s *store.Store, data []byte, d digest.Digest) {
	t.Helper()
	b := openBlob(t, s, d, int64(len(data)))
	write(t, b, data, 0, int64(len(data)))
	if err := b.VerifyDigest(t.Context()); err != nil {
		t.Fatal(err)
	}
	closeAll(t, b)
}

// TestPin holds that a pinned blob stays, whatever comes, across a kill and until it is
// unpinned.
func TestPin(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, store.Config{Max: 2 * mib})
	data, d := content(mib, 1)
	keep(t, s, data, d)
	if err := s.Pin(digest.FromString("unheard of")); !errors.Is(err, store.ErrMissing) {
		t.Errorf("what is not there is pinned: %v", err)
	}
	if err := s.Pin(d); err != nil {
		t.Fatal(err)
	}
	s = open(t, snapshot(t, dir), store.Config{Max: 2 * mib}) // what a killed process leaves
	if list := s.List(); len(list) != 1 || !list[0].Pinned || !list[0].Verified || list[0].Held != mib {
		t.Fatalf("after a kill: %+v", list)
	}
	for i := range 6 {
		more, d := content(mib, uint64(2+i))
		keep(t, s, more, d)
	}
	within(t, func() bool { return s.Used() <= 2*mib })
	if !s.Pinned(d) || s.Kept()[d] != mib {
		t.Error("a pinned blob is gone")
	}
	if err := s.Remove(d); !errors.Is(err, store.ErrPinned) {
		t.Errorf("a pinned blob is removed: %v", err)
	}
	if err := s.Unpin(d); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(d); err != nil || len(s.List()) != 1 {
		t.Errorf("removed after Unpin: %v; there are %d", err, len(s.List()))
	}
}

func within(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to be")
		}
	}
}
