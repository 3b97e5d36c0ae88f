package profiles

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, dir string) *Profiles {
	t.Helper()
	f, err := fetcher.New(fetcher.Config{Dir: t.TempDir(), Max: 1 << 20, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	p, err := Open(dir, f, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func of(layer, image string, runs ...Run) Profile {
	return Profile{Layer: digest.FromString(layer), Image: digest.FromString(image), Index: digest.FromString("index"), Runs: runs}
}

// TestKept: a profile is kept, for its image before all others, until there are too
// many.
func TestKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "profiles")
	p := open(t, dir)
	one, two := of("layer", "one", Run{First: 1, Count: 2}, Run{First: 0, Count: 1}), of("layer", "two")
	if _, _, ok := p.Find(t.Context(), one.Layer, one.Image); ok {
		t.Error("found before it was learned")
	}
	p.Learn(one)
	p.Learn(two)
	p.Learn(Profile{Layer: one.Layer, Image: one.Image, Index: "x"}) // which cannot be
	old := time.Unix(1, 0)
	if err := os.Chtimes(p.path(two.Layer, two.Image), old, old); err != nil {
		t.Fatal(err)
	}
	p = open(t, dir)
	for _, want := range []Profile{one, two} {
		got, from, ok := p.Find(t.Context(), want.Layer, want.Image)
		if diff := cmp.Diff(want, got); diff != "" || from != "host" || !ok {
			t.Errorf("%s, from %q, %v", diff, from, ok)
		}
	}
	if got, _, ok := p.Find(t.Context(), one.Layer, digest.FromString("three")); !ok || got.Image != two.Image {
		t.Errorf("an image that was never seen has %+v, not what was used last", got)
	}
	for i := range maxKept + 10 {
		p.Learn(of(fmt.Sprint(i), "image"))
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) > maxKept || len(files) < maxAfter {
		t.Errorf("%d files: %v", len(files), err)
	}
}

// TestBroken: a file that is no profile is removed.
func TestBroken(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	x := of("layer", "image", Run{First: 1, Count: 2})
	p.Learn(x)
	name := p.path(x.Layer, x.Image)
	for _, b := range [][]byte{nil, []byte("{}"), bytes.Repeat([]byte("["), 1000)} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, ok := p.Find(t.Context(), x.Layer, x.Image); ok {
			t.Errorf("%.10q is taken", b)
		}
		if _, err := os.Stat(name); !os.IsNotExist(err) {
			t.Errorf("%.10q is left: %v", b, err)
		}
	}
}

// FuzzParse: what is taken from a file can be.
func FuzzParse(f *testing.F) {
	b, err := json.Marshal(kept{digest.FromString("a"), digest.FromString("b"), digest.FromString("c"), []byte{2, 1}, Blob{}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"runs":"AAA="}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := parse(b); err == nil && x.Validate() != nil {
			t.Errorf("%+v", x)
		}
	})
}
