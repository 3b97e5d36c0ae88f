package indexes

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestKept: an index is kept for the layer that it is of, and takes the place of
// the one used longest ago.
func TestKept(t *testing.T) {
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	half := filepath.Join(dir, "index", ".pack.1")
	if err := errors.Join(os.Mkdir(filepath.Dir(half), 0o700), os.WriteFile(half, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	x, err := New(filepath.Join(dir, "index"), false, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half); !os.IsNotExist(err) {
		t.Errorf("what was being written is left: %v", err)
	}
	old, long := filepath.Join(dir, "index", "old"), time.Unix(1, 0)
	if err := errors.Join(os.WriteFile(old, nil, 0o600), os.Truncate(old, maxKept), os.Chtimes(old, long, long)); err != nil {
		t.Fatal(err)
	}
	l := indextest.Gzip(indextest.Tar(indextest.Nasty()...), indextest.GzipOptions{})
	made, got := filepath.Join(dir, "made"), filepath.Join(dir, "got")
	if _, err := index.Build(t.Context(), made, bytes.NewReader(l.Blob), index.Options{}); err != nil {
		t.Fatal(err)
	}
	if x.Link(l.Digest, l.Size(), l.DiffID, got) {
		t.Error("an index that nobody has made is there")
	}
	x.Keep(l.Digest, made)
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("more is kept than may be: %v", err)
	}
	if x.Link(l.Digest, l.Size(), l.Digest, got) || x.Link(l.Digest, 1, l.DiffID, got) {
		t.Error("the index of another layer was given")
	}
	if !x.Link(l.Digest, l.Size(), l.DiffID, got) {
		t.Fatal("the index was not kept")
	}
	if i, err := info(got); err != nil || i.Blob != l.Digest {
		t.Errorf("%+v: %v", i, err)
	}
	if err := os.Truncate(x.path(l.Digest), 100); err != nil {
		t.Fatal(err)
	}
	if x.Link(l.Digest, l.Size(), l.DiffID, filepath.Join(dir, "broken")) {
		t.Error("a broken index was given")
	}
}
