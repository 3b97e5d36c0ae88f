package snapshot_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/snapshot"
)

func walk(t testing.TB, sn snapshots.Snapshotter, filters ...string) (names []string) {
	t.Helper()
	err := sn.Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
		names = append(names, info.Name)
		return nil
	}, filters...)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

func newSnapshotter(t testing.TB) *snapshot.Snapshotter {
	t.Helper()
	return mustNew(t, snapshot.Config{Root: t.TempDir(), Layers: newFakeLayers(t), Images: &fakeImages{}})
}

// commit adds an ordinary snapshot with a chain ID.
func commit(t testing.TB, sn snapshots.Snapshotter, name, parent, ref string) {
	t.Helper()
	key := name + "-key"
	if _, err := sn.Prepare(t.Context(), key, parent); err != nil {
		t.Fatal(err)
	}
	if err := sn.Commit(t.Context(), name, key, snapshots.WithLabels(map[string]string{"containerd.io/snapshot.ref": ref})); err != nil {
		t.Fatal(err)
	}
}

func TestWalkByChainID(t *testing.T) {
	sn := newSnapshotter(t)
	const ref = `labels."containerd.io/snapshot.ref"`
	if got := walk(t, sn, ref+`==sha256:1`); got != nil {
		t.Errorf("new snapshotter has %v", got)
	}
	commit(t, sn, "a", "", "sha256:1")
	commit(t, sn, "b", "a", "sha256:2")
	commit(t, sn, "c", "", "sha256:2")
	for _, tt := range []struct {
		filters []string
		want    []string
	}{
		{nil, []string{"a", "b", "c"}},
		{[]string{ref + `==sha256:2`}, []string{"b", "c"}},
		{[]string{ref + `==sha256:2,parent=="a"`}, []string{"b"}},
		{[]string{ref + `=="sha256:2",parent==""`}, []string{"c"}},
		{[]string{ref + `==sha256:2,kind==active`}, nil},
		{[]string{ref + `==sha256:2,kind==committed,name==b`}, []string{"b"}},
		{[]string{ref + `==sha256:3`}, nil},
		{[]string{ref + `~=sha256:[12]`}, []string{"a", "b", "c"}},
		{[]string{ref + `!=sha256:1`}, []string{"b", "c"}},
		{[]string{ref}, []string{"a", "b", "c"}},
		{[]string{ref + `==sha256:1`, `name==c`}, []string{"a", "c"}},
		{[]string{`parent==a,` + ref + `==sha256:2`}, []string{"b"}},
	} {
		if diff := cmp.Diff(tt.want, walk(t, sn, tt.filters...)); diff != "" {
			t.Errorf("filters %q (-want +got):\n%s", tt.filters, diff)
		}
	}
	if err := sn.Remove(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if got := walk(t, sn, ref+`==sha256:2`); !slices.Equal(got, []string{"b"}) {
		t.Errorf("after removal: %v", got)
	}
	err := sn.Walk(t.Context(), nil, ref+`==sha256:2,,`)
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("broken filter: %v; want invalid argument", err)
	}
}

// BenchmarkWalkByChainID is the look-up that containerd does at each layer of
// each pull; "scan" is the same on containerd's own storage alone.
func BenchmarkWalkByChainID(b *testing.B) {
	sn := newSnapshotter(b)
	const n = 5000
	ref := func(i int) string { return digest.FromString(fmt.Sprint(i)).String() }
	for i := range n {
		commit(b, sn, ref(i), "", ref(i))
	}
	one := fmt.Sprintf(`labels."containerd.io/snapshot.ref"==%s,parent==""`, ref(n/2))
	for _, bm := range []struct{ name, filter string }{
		{"indexed", one},
		{"scan", "kind==committed," + one},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if got := walk(b, sn, bm.filter); len(got) != 1 {
					b.Fatal(got)
				}
			}
		})
	}
}
