package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/snapshot"
)

func files(kv ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return m
}

var three = []tree{
	{files: files("a", "1", "same", "1")},
	{files: files("b", "2", "same", "2"), lazy: true},
	{files: files("d/c", "3", "same", "3"), lazy: true, implied: true},
}

var threeFiles = files("a", "1", "b", "2", "d/c", "3", "same", "3")

func TestPull(t *testing.T) {
	again := tree{files: files("again", "1")}
	for _, tt := range []struct {
		name  string
		trees []tree
		want  map[string]string
		kept  int // layers
	}{
		{"one layer", three[:1], files("a", "1", "same", "1"), 1},
		{"plain and lazy and placed", three, threeFiles, 4},
		{"a layer three times", []tree{again, three[0], again, again}, files("again", "1", "a", "1", "same", "1"), 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			i := n.image("example.org/x/app:1", tt.trees)
			n.mustPull("a", i, true)
			if diff := cmp.Diff(tt.want, n.run("a", i)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if got := n.fetchedLayers(i); got != nil {
				t.Errorf("containerd fetched layers %v", got)
			}
			usage, err := n.inner().Usage(n.ctx("a"), i.chains[0].String())
			if want := 4096 * int64(len(tt.trees[0].files)); err != nil || usage.Size != want {
				t.Errorf("usage %+v, %v; want size %d", usage, err, want)
			}
			if got := len(n.layers.List()); got != tt.kept {
				t.Errorf("%d layers are kept, want %d", got, tt.kept)
			}
			n.remove("a", i)
			if got := n.layers.List(); len(got) != 0 {
				t.Errorf("layers left behind: %v", got)
			}
			if got := n.left(); len(got) != 0 {
				t.Errorf("directories left behind: %v", got)
			}
		})
	}
}

// When an image is there, its layers are told what it runs.
func TestStart(t *testing.T) {
	config := func(_ *ocispec.Manifest, c *ocispec.Image) {
		c.Config = ocispec.ImageConfig{
			Entrypoint: []string{"tool", "-x"}, Cmd: []string{"y"}, WorkingDir: "/w", Env: []string{"A=B", "PATH=/p:/q"},
		}
	}
	n := newNode(t)
	i := n.image("example.org/x/app:1", three, config)
	n.mustPull("a", i, true)
	if got := len(n.layers.starts); got != 1 {
		t.Fatalf("%d starts, want 1", got)
	}
	s := n.layers.starts[0]
	top := i.chains[len(i.chains)-1]
	if want := (snapshot.Program{Name: "tool", Path: "/p:/q", Dir: "/w", Image: top}); s.program != want {
		t.Errorf("program %+v, want %+v", s.program, want)
	}
	var blobs []digest.Digest
	for _, id := range s.ids {
		blobs = append(blobs, n.layers.layers[id].blob)
	}
	var want []digest.Digest
	for _, l := range i.layers {
		want = append(want, l.Digest)
	}
	if diff := cmp.Diff(want, blobs); diff != "" {
		t.Errorf("layers (-want +got):\n%s", diff)
	}
}

// When a container is made, its layers are told of which image it is; of a view, or
// what others have unpacked, they are told nothing.
func TestRecord(t *testing.T) {
	n := newNode(t)
	i := n.image("example.org/x/app:1", three)
	n.mustPull("a", i, true)
	if got := len(n.layers.records); got != 0 {
		t.Errorf("%d records before there is a container", got)
	}
	top := i.chains[len(i.chains)-1]
	if _, err := n.inner().View(n.ctx("a"), "look", top.String()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.inner().Prepare(n.ctx("a"), "container", top.String()); err != nil {
		t.Fatal(err)
	}
	if got := len(n.layers.records); got != 1 || n.layers.records[0].program.Image != top || len(n.layers.records[0].ids) != len(i.layers) {
		t.Errorf("records %+v", n.layers.records)
	}
	if _, err := n.inner().Mounts(n.ctx("a"), "container"); err != nil || len(n.layers.records) != 2 {
		t.Errorf("%d records of a container that is mounted: %v", len(n.layers.records), err)
	}
	n.mustPull("a", n.image("example.org/x/other:1", []tree{{files: files("o", "1")}}), false)
	if got := len(n.layers.records); got != 2 {
		t.Errorf("%d records after containerd has unpacked an image", got)
	}
}

// Two images with a common base in two namespaces, removed one by one.
func TestSharedLayers(t *testing.T) {
	n := newNode(t)
	one := n.image("example.org/one:1", three)
	two := n.image("example.org/two:1", append(three[:2:2], tree{files: files("e", "5")}))
	n.mustPull("a", one, true)
	n.mustPull("b", one, true)
	n.mustPull("b", two, true)
	if got := n.metric("dfsnapshotter_snapshots", "remote"); got != 4 {
		t.Errorf("%v remote snapshots, want 4", got)
	}
	if got := n.layers.calls(one.layers[2].Digest); got != 1 {
		t.Errorf("a shared layer was resolved %d times", got)
	}
	n.remove("a", one)
	n.remove("b", two)
	if diff := cmp.Diff(threeFiles, n.run("b", one)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	n.remove("b", one)
	if got := n.layers.List(); len(got) != 0 {
		t.Errorf("layers left behind: %v", got)
	}
}

// The containers that have a layer are known by name.
func TestContainers(t *testing.T) {
	n := newNode(t)
	i := n.image("example.org/one:1", three)
	n.mustPull("a", i, true)
	if _, err := n.inner().Prepare(n.ctx("a"), "web/1", i.top()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.inner().View(n.ctx("a"), "look", i.chains[1].String()); err != nil {
		t.Fatal(err)
	}
	got := map[int][]string{}
	for _, id := range n.layers.List() {
		if names := n.sn.Containers(id); len(names) > 0 { // one has another in its place in this chain
			got[len(names)] = append(got[len(names)], strings.Join(names, " "))
		}
	}
	if diff := cmp.Diff(map[int][]string{1: {"a/web/1"}, 2: {"a/look a/web/1", "a/look a/web/1"}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// An image that cannot be served here is left to containerd, from the lowest
// layer that cannot.
func TestLeftToContainerd(t *testing.T) {
	unauthorized := fmt.Errorf("status 401: %w", origin.ErrUnauthorized)
	unavailable := &origin.UnavailableError{Err: errors.New("connection refused")}
	for _, tt := range []struct {
		name    string
		noLabel bool
		opts    []imgOption
		fault   func(*node, img)
		reason  string
		from    int // layers from this one are fetched by containerd
	}{
		{"no labels", true, nil, nil, "labels", 0},
		{"manifest not readable", false, nil, func(n *node, _ img) { n.images.fault = unauthorized }, "unreadable", 0},
		{"registry gone", false, nil, func(n *node, _ img) { n.images.fault = unavailable }, "unavailable", 0},
		{"first layer not readable", false, nil, func(n *node, i img) { n.layers.faults[i.layers[0].Digest] = unauthorized }, "unreadable", 0},
		{"upper layer not readable", false, nil, func(n *node, i img) { n.layers.faults[i.layers[1].Digest] = unauthorized }, "unreadable", 1},
		{"whiteouts in the first layer", false, nil, func(n *node, i img) { n.layers.hides[i.layers[0].Digest] = true }, "whiteout", 0},
		{"layer type", false, []imgOption{func(m *ocispec.Manifest, _ *ocispec.Image) {
			m.Layers[2].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
		}}, nil, "foreign", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			i := n.image("example.org/x/app:1", three, tt.opts...)
			if tt.fault != nil {
				tt.fault(n, i)
			}
			n.mustPull("a", i, !tt.noLabel)
			want := []int{0, 1, 2}[tt.from:]
			if diff := cmp.Diff(want, n.fetchedLayers(i)); diff != "" {
				t.Errorf("layers that containerd fetched (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(threeFiles, n.run("a", i)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if got := n.metric("dfsnapshotter_left_to_containerd_total", tt.reason); got == 0 {
				t.Errorf("no layer counted as left for reason %q", tt.reason)
			}
			if got := n.log.count("image is left to containerd"); got != 1 {
				t.Errorf("%d log lines about it", got)
			}
			n.images.fault = nil
			n.layers.set(func() { clear(n.layers.faults) })
			n.mustPull("b", i, !tt.noLabel)
			n.remove("a", i)
			if diff := cmp.Diff(threeFiles, n.run("b", i)); diff != "" {
				t.Errorf("files in another namespace (-want +got):\n%s", diff)
			}
			n.remove("b", i)
			if got := n.left(); len(got) != 0 {
				t.Errorf("directories left behind: %v", got)
			}
		})
	}
}

// What is wrong with the content itself, or may be better later, fails the pull.
func TestPullFails(t *testing.T) {
	for _, tt := range []struct {
		name  string
		layer int
		fault error
		is    error
	}{
		{"wrong digest", 0, fmt.Errorf("blob is not what it claims: %w", origin.ErrDigest), errdefs.ErrDataLoss},
		{"corrupt", 1, errors.New("gzip: corrupt block"), nil},
		{"registry gone in the middle", 1, fmt.Errorf("%w: connection reset", fetcher.ErrUnavailable), errdefs.ErrUnavailable},
		{"disk full", 0, fmt.Errorf("write backing file: %w", unix.ENOSPC), errdefs.ErrResourceExhausted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			i := n.image("example.org/x/app:1", three)
			d := i.layers[tt.layer].Digest
			n.layers.faults[d] = tt.fault
			err := n.pull("a", i, true)
			if err == nil || !strings.Contains(err.Error(), d.String()) || !strings.Contains(err.Error(), tt.fault.Error()) {
				t.Fatalf("pull: %v; want it to name %s and %q", err, d, tt.fault)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("pull: %v is not %v", err, tt.is)
			}
			if got := n.fetchedLayers(i); got != nil {
				t.Errorf("containerd fetched layers %v", got)
			}
			n.layers.set(func() { clear(n.layers.faults) })
			n.mustPull("a", i, true)
			if diff := cmp.Diff(threeFiles, n.run("a", i)); diff != "" {
				t.Errorf("files after another try (-want +got):\n%s", diff)
			}
		})
	}
}

// What does not fit together must not bring a layer under a chain ID that
// other images share.
func TestMismatch(t *testing.T) {
	for _, tt := range []struct {
		name   string
		layer  int
		parent func(img) string
		change func(labels map[string]string, other img)
	}{
		{"manifest of another image", 0, nil, func(labels map[string]string, other img) {
			labels[snapshotters.TargetManifestDigestLabel] = other.manifest.Digest.String()
			labels[snapshotters.TargetLayerDigestLabel] = other.layers[0].Digest.String()
		}},
		{"another layer of the image", 0, nil, func(labels map[string]string, other img) {
			labels[snapshotters.TargetLayerDigestLabel] = other.layers[0].Digest.String()
		}},
		{"upper layer without a parent", 1, nil, nil},
		{"another parent", 2, func(i img) string { return i.chains[0].String() }, nil},
		{"lowest layer with a parent", 0, func(i img) string { return i.chains[1].String() }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			i := n.image("example.org/x/app:1", three)
			other := n.image("example.org/x/other:1", []tree{{files: files("evil", "1")}})
			base := n.image("example.org/x/base:1", three[:2])
			n.mustPull("a", base, true)
			labels, parent := prepareLabels(i, tt.layer), ""
			if tt.change != nil {
				tt.change(labels, other)
			}
			if tt.parent != nil {
				parent = tt.parent(i)
			}
			labels["containerd.io/snapshot.ref"] = i.chains[tt.layer].String()
			if tt.layer == 0 && parent == "" { // the chain ID is there already
				n.remove("a", base)
			}
			if _, err := n.sn.Prepare(t.Context(), "k", parent, snapshots.WithLabels(labels)); err != nil {
				t.Fatalf("Prepare: %v; want mounts", err)
			}
			if got := n.metric("dfsnapshotter_left_to_containerd_total", "mismatch"); got != 1 {
				t.Errorf("%v layers counted as left, want 1", got)
			}
		})
	}
}

// An image on a base that containerd has unpacked before is served from where
// it differs.
func TestUnpackedBase(t *testing.T) {
	n := newNode(t)
	base := n.image("example.org/base:1", three[:1])
	app := n.image("example.org/app:1", three)
	n.mustPull("a", base, false)
	n.mustPull("a", app, true)
	if diff := cmp.Diff([]int{0}, n.fetchedLayers(app)); diff != "" {
		t.Errorf("layers that containerd fetched (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(threeFiles, n.run("a", app)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if got := n.layers.calls(app.layers[0].Digest); got != 0 {
		t.Errorf("the unpacked base was resolved %d times", got)
	}
}

// The same chain above a parent of another name is another snapshot.
func TestSameChainAboveAnotherParent(t *testing.T) {
	n := newNode(t)
	i := n.image("example.org/app:1", three)
	if _, err := n.sn.Prepare(t.Context(), "x", ""); err != nil {
		t.Fatal(err)
	}
	if err := n.sn.Commit(t.Context(), "own-base", "x"); err != nil {
		t.Fatal(err)
	}
	n.mustPull("a", i, true)
	for _, parent := range []string{"own-base", i.chains[0].String()} {
		_, err := n.sn.Prepare(t.Context(), "k"+parent, parent, snapshots.WithLabels(prepareLabels(i, 1)))
		if !errdefs.IsAlreadyExists(err) {
			t.Fatalf("Prepare above %s: %v; want already exists", parent, err)
		}
		var names []string
		filter := fmt.Sprintf(`labels."containerd.io/snapshot.ref"==%s,parent==%q`, i.chains[1], parent)
		err = n.sn.Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
			names = append(names, info.Name)
			return nil
		}, filter)
		if err != nil || len(names) != 1 {
			t.Errorf("snapshots of the chain above %s: %v, %v; want one", parent, names, err)
		}
	}
}

func prepareLabels(i img, layer int) map[string]string {
	return map[string]string{
		"containerd.io/snapshot.ref":           i.chains[layer].String(),
		snapshotters.TargetRefLabel:            i.ref,
		snapshotters.TargetManifestDigestLabel: i.manifest.Digest.String(),
		snapshotters.TargetLayerDigestLabel:    i.layers[layer].Digest.String(),
	}
}

// All layers are resolved from the first Prepare on, whether or not the client
// waits for it, and each only once however many ask.
func TestResolvedTogetherAndOnce(t *testing.T) {
	n := newNode(t)
	i := n.image("example.org/app:1", three)
	gate := make(chan struct{})
	n.layers.set(func() {
		n.layers.started = make(chan digest.Digest, 2*len(i.layers))
		for _, l := range i.layers {
			n.layers.gates[l.Digest] = gate
		}
	})
	prepare := func(ctx context.Context, key string, layer int) error {
		parent := ""
		if layer > 0 {
			parent = i.chains[layer-1].String()
		}
		_, err := n.sn.Prepare(ctx, key, parent, snapshots.WithLabels(prepareLabels(i, layer)))
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() { gone <- prepare(ctx, "abandoned", 0) }()
	var started []digest.Digest
	for range i.layers {
		started = append(started, <-n.layers.started)
	}
	want := []digest.Digest{i.layers[0].Digest, i.layers[1].Digest, i.layers[2].Digest}
	if diff := cmp.Diff(want, started, cmpopts.SortSlices(func(a, b digest.Digest) bool { return a < b })); diff != "" {
		t.Errorf("layers started (-want +got):\n%s", diff)
	}
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("abandoned Prepare: %v", err)
	}
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for j := range errs {
		wg.Go(func() { errs[j] = prepare(t.Context(), fmt.Sprint("key", j), 0) })
	}
	close(gate)
	wg.Wait()
	for layer := 1; layer < len(i.layers); layer++ {
		errs = append(errs, prepare(t.Context(), fmt.Sprint("layer", layer), layer))
	}
	for _, err := range errs {
		if !errdefs.IsAlreadyExists(err) {
			t.Errorf("Prepare: %v; want already exists", err)
		}
	}
	for _, l := range i.layers {
		if got := n.layers.calls(l.Digest); got != 1 {
			t.Errorf("layer %s was resolved %d times", l.Digest, got)
		}
	}
	if got := n.metric("dfsnapshotter_snapshots", "remote"); got != 3 {
		t.Errorf("%v remote snapshots, want 3", got)
	}
	if got := n.images.reads; got != 2 {
		t.Errorf("%d documents read, want manifest and config", got)
	}
}

// A layer that fails in the background is reported by its own Prepare, and
// tried again by the next one.
func TestLayerIsTriedAgain(t *testing.T) {
	n := newNode(t)
	i := n.image("example.org/app:1", three[:2])
	d := i.layers[1].Digest
	n.layers.faults[d] = errors.New("corrupt block")
	n.layers.started = make(chan digest.Digest, 8)
	prepare := func(key, parent string, layer int) error {
		_, err := n.sn.Prepare(t.Context(), key, parent, snapshots.WithLabels(prepareLabels(i, layer)))
		return err
	}
	if err := prepare("0", "", 0); !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	parent := i.chains[0].String()
	if err := prepare("1", parent, 1); err == nil || !strings.Contains(err.Error(), "corrupt block") {
		t.Fatalf("Prepare: %v; want the layer's fault", err)
	}
	if got := n.layers.calls(d); got != 1 {
		t.Errorf("resolved %d times before the fault was reported", got)
	}
	n.layers.set(func() { delete(n.layers.faults, d) })
	if err := prepare("2", parent, 1); !errdefs.IsAlreadyExists(err) {
		t.Errorf("Prepare: %v; want already exists", err)
	}
}
