package fetcher_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
)

// TestPeersOnly reads where there are no peers, beside a read that may ask the
// origin.
func TestPeersOnly(t *testing.T) {
	t.Parallel()
	want := content(3*mib, 1)
	s := newFake(nil, want)
	f := newFetcher(t, s)
	b := openBlob(t, f, ref(want))
	read := func(from fetcher.From) ([]byte, error) {
		r, err := b.RangeFrom(t.Context(), 0, int64(len(want)), fetcher.Prefetch, from)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return io.ReadAll(r)
	}
	if got, err := read(fetcher.PeersOnly); err == nil || errors.Is(err, fetcher.ErrUnavailable) {
		t.Errorf("%d bytes without asking the origin, %v", len(got), err)
	}
	if n := len(s.seen()); n != 0 {
		t.Errorf("the origin was asked %d times", n)
	}
	got, err := read(fetcher.Anywhere)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err = read(fetcher.PeersOnly); err != nil || !bytes.Equal(got, want) {
		t.Errorf("of what is here: %d bytes, %v", len(got), err)
	}
}
