package fetcher_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// library is a source of one document.
type library struct {
	text  string
	err   func(i int64) error
	delay time.Duration
	asked atomic.Int64
}

func (l *library) Document(ctx context.Context, _ origin.Repo, d digest.Digest, _ bool, limit int64) ([]byte, string, error) {
	i := l.asked.Add(1)
	select {
	case <-time.After(l.delay):
	case <-ctx.Done():
		return nil, "", ctx.Err()
	}
	if l.err != nil {
		if err := l.err(i); err != nil {
			return nil, "", err
		}
	}
	if digest.FromString(l.text) != d || limit != 4<<20 {
		return nil, "", origin.ErrNotFound
	}
	return []byte(l.text), "text/plain", nil
}

func (l *library) Referrers(_ context.Context, _ origin.Repo, subject digest.Digest, artifactType string, limit int64) ([]ocispec.Descriptor, error) {
	if l.asked.Add(1); digest.FromString(l.text) != subject || limit != 4<<20 {
		return nil, origin.ErrNotFound
	}
	return []ocispec.Descriptor{{ArtifactType: artifactType}}, nil
}

// TestReferrers: the registry is asked each time, for what it says may change.
func TestReferrers(t *testing.T) {
	l := &library{text: "hello"}
	f := open(t, fetcher.Config{Dir: tempDir(t), Documents: l})
	for range 2 {
		found, err := f.Referrers(t.Context(), origin.Repo{Host: "h"}, digest.FromString("hello"), "a/b")
		if err != nil || len(found) != 1 || found[0].ArtifactType != "a/b" {
			t.Errorf("%+v, %v", found, err)
		}
	}
	if n := l.asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
	alone := open(t, fetcher.Config{Dir: tempDir(t)})
	if found, err := alone.Referrers(t.Context(), origin.Repo{Host: "h"}, digest.FromString("hello"), "a/b"); found != nil || err != nil {
		t.Errorf("without an origin: %v, %v", found, err)
	}
}

func TestDocument(t *testing.T) {
	d := digest.FromString("hello")
	busy := &origin.UnavailableError{Status: 503, RetryAfter: 7 * time.Second, Err: errors.New("busy")}
	tests := []struct {
		name  string
		err   func(i int64) error
		want  error
		asked int64
		took  time.Duration
	}{
		{"at once", nil, nil, 1, time.Second},
		{"unavailable, then there", func(i int64) error {
			if i < 3 {
				return busy
			}
			return nil
		}, nil, 3, 17 * time.Second},
		{"not found", func(int64) error { return origin.ErrNotFound }, origin.ErrNotFound, 1, time.Second},
		{"wrong digest", func(int64) error { return origin.ErrDigest }, origin.ErrDigest, 1, time.Second},
		{"never available", func(int64) error { return busy }, fetcher.ErrUnavailable, 8, time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &library{text: "hello", err: tt.err, delay: time.Second}
				f := open(t, fetcher.Config{Dir: tempDir(t), Documents: l})
				start := time.Now()
				var wg sync.WaitGroup
				for range 5 {
					wg.Go(func() {
						data, mediaType, err := f.Document(t.Context(), repo, d, true)
						if !errors.Is(err, tt.want) || err == nil && (string(data) != "hello" || mediaType != "text/plain") {
							t.Errorf("got %q, %q, %v; want error %v", data, mediaType, err, tt.want)
						}
					})
				}
				wg.Wait()
				if took := time.Since(start); took != tt.took || l.asked.Load() != tt.asked {
					t.Errorf("%d requests in %s, want %d in %s", l.asked.Load(), took, tt.asked, tt.took)
				}
			})
		})
	}
}

// TestDocumentKept holds that a document is kept over restarts, that damage is
// noticed, and that the oldest go when there are too many.
func TestDocumentKept(t *testing.T) {
	dir := tempDir(t)
	d := digest.FromString("hello")
	run := func(l *library) error {
		f, err := fetcher.New(fetcher.Config{Dir: dir, Documents: l})
		if err != nil {
			t.Fatal(err)
		}
		data, mediaType, err := f.Document(t.Context(), repo, d, false)
		if err == nil && (string(data) != "hello" || mediaType != "text/plain") {
			t.Errorf("got %q, %q", data, mediaType)
		}
		return errors.Join(err, f.Close())
	}
	l := &library{text: "hello"}
	for range 2 {
		if err := run(l); err != nil {
			t.Fatal(err)
		}
	}
	if n := l.asked.Load(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
	path := filepath.Join(dir, "documents", "sha256-"+d.Encoded())
	if err := os.WriteFile(path, []byte("text/plain\nhell"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(l); err != nil || l.asked.Load() != 2 {
		t.Errorf("damaged: %v, %d requests", err, l.asked.Load())
	}
	old := time.Now().Add(-time.Hour)
	for i := range 1100 {
		name := filepath.Join(dir, "documents", fmt.Sprint("old", i))
		if err := errors.Join(os.WriteFile(name, []byte("x"), 0o600), os.Chtimes(name, old, old)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := run(l); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "documents"))
	if err != nil || len(left) != 1024 {
		t.Errorf("%d documents kept, want 1024 (%v)", len(left), err)
	}
	if err := run(nil); err != nil {
		t.Errorf("the newest was dropped: %v", err)
	}
}
