package fs

import (
	"context"
	"errors"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// hurriedForm is a layer of many runs, with a table of contents.
func hurriedForm() indextest.Layer {
	return indextest.EStargz(indextest.Tar(
		indextest.File("a", indextest.Random(1, 30<<20)), indextest.File("b", indextest.Random(2, 5<<20)), indextest.File("empty", nil),
	), indextest.EStargzOptions{ChunkSize: 512 << 10})
}

// TestComplete: a layer for which somebody waits is filled and made a directory
// although the background would leave it alone, and goes on if that one leaves.
func TestComplete(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.Quiet = century })
	form := hurriedForm()
	l := e.layer(e.want(form))
	e.registry.Fail(form.Digest, origintest.Fault{Hang: true})
	gone, leave := context.WithCancel(t.Context())
	leave()
	if err := l.Complete(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("wait of one who is gone: %v", err)
	}
	e.registry.Heal()
	if err := l.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !l.filled.full() {
		t.Error("the layer is not filled")
	}
	if err := l.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := l.status(); s.State != Complete || !s.Proven {
		t.Errorf("%+v", s)
	}
	if sent := e.registry.Sent(form.Digest); sent > form.Size()*11/10 {
		t.Errorf("%d bytes came of a blob of %d", sent, form.Size())
	}
	if err := l.Complete(t.Context()); err != nil {
		t.Errorf("once more: %v", err)
	}
}

// TestUnpack: a layer that is to be unpacked is, whatever its blob could do.
func TestUnpack(t *testing.T) {
	e := newEnv(t, nil)
	form := hurriedForm()
	w := e.want(form)
	w.Unpack = true
	l := e.layer(w)
	if s := l.status(); s.State == Lazy || !s.Proven {
		t.Errorf("%+v", s)
	}
	same(t, unpacked(t, form.Tar), e.path(l, AnyForm), impliedPaths(l))
}
