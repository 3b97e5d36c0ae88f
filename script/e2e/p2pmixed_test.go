package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

// TestP2PMixed has hosts of two releases in one cluster, whose indexes are of
// different formats. Each mounts by indexes of its own format and by no others,
// hosts that kept an index use it beside those that have none, and no pull fails
// while seed and scheduler are restarted and the seed is upgraded.
func TestP2PMixed(t *testing.T) {
	c := openCloud(t, lab.ClusterConfig{Nodes: 5, Seeds: 1, TLS: true}, imagetest.Gzip)
	if err := c.SetLinks(""); err != nil {
		t.Fatal(err)
	}
	older, newer := c.Nodes[:2], c.Nodes[2:]
	next := nextFormat(t)
	for _, n := range newer {
		n.Daemon.Program = next
		if err := n.Daemon.Reset(c.ctx); err != nil {
			t.Fatal(err)
		}
	}
	// by says how many layers the hosts mounted by an index of the cluster.
	by := func(nodes ...*lab.Node) float64 {
		return c.metric(t, "dfsnapshotter_layers_resolved_total", `"cluster"`, nodes...)
	}

	// The seed's index is of no use to the newer host, which unpacks.
	c.start(t, imagetest.Gzip, older[0], newer[0]).wait(t)
	c.indexed(t, 1, nil)
	if by(newer[0]) > 0 {
		t.Error("a host has mounted by an index of a format that it does not know")
	}
	c.start(t, imagetest.Gzip, older[1], newer[1]).wait(t)
	if by(older[1]) == 0 {
		t.Error("a host of the seed's release has not mounted by its index")
	}
	if by(newer[1]) > 0 {
		t.Error("one host's word was enough for an index")
	}
	// Now two newer hosts have made the same.
	c.indexed(t, 0, newer[:2])
	c.start(t, imagetest.Gzip, newer[2]).wait(t)
	if by(newer[2]) == 0 {
		t.Error("a newer host has not mounted by the index of the two others")
	}

	// The scheduler knows nothing any more and learns it from the hosts. The seed
	// comes back as a newer one, with what the older has kept.
	seed := c.Seeds[0]
	if err := errors.Join(c.Scheduler.Kill(), seed.Daemon.Kill()); err != nil {
		t.Fatal(err)
	}
	seed.Daemon.Program = next
	if err := errors.Join(c.Scheduler.Start(c.ctx), seed.Daemon.Start(c.ctx)); err != nil {
		t.Fatal(err)
	}
	again := []*lab.Node{older[1], newer[2]}
	for _, n := range again {
		if err := errors.Join(n.Containerd.Reset(c.ctx), n.Daemon.Reset(c.ctx)); err != nil {
			t.Fatal(err)
		}
	}
	c.start(t, imagetest.Gzip, again...).wait(t)
	if by(again[0]) == 0 || by(again[1]) == 0 {
		t.Errorf("after the restarts %v and %v layers were mounted by the cluster's indexes", by(again[0]), by(again[1]))
	}
	// One that has kept its own index needs nobody's.
	if err := errors.Join(newer[0].Containerd.Reset(c.ctx), newer[0].Daemon.Reset(c.ctx, "index"), c.Scheduler.Kill()); err != nil {
		t.Fatal(err)
	}
	c.start(t, imagetest.Gzip, newer[0]).wait(t)
	if n := c.metric(t, "dfsnapshotter_layers_resolved_total", `"index"`, newer[0]); n == 0 {
		t.Error("a host has not used the index that it kept")
	}
	c.complete(t, c.Nodes...)
	c.identical(t, older[1])
	c.identical(t, newer[2])
}

// nextFormat builds a dfsnapshotter of a release whose indexes have the next
// format, and returns its path.
func nextFormat(t *testing.T) string {
	t.Helper()
	source := must(filepath.Abs(root + "/fs/index/format.go"))(t)
	version := regexp.MustCompile(`(?m)^const Version = ` + strconv.Itoa(index.Version) + `$`)
	text := must(os.ReadFile(source))(t)
	if !version.Match(text) {
		t.Fatalf("%s does not say what the format is", source)
	}
	dir := t.TempDir()
	changed := filepath.Join(dir, "format.go")
	overlay := filepath.Join(dir, "overlay.json")
	err := errors.Join(
		os.WriteFile(changed, version.ReplaceAll(text, []byte("const Version = "+strconv.Itoa(index.Version+1))), 0o600),
		os.WriteFile(overlay, must(json.Marshal(map[string]any{"Replace": map[string]string{source: changed}}))(t), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "dfsnapshotter")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-overlay", overlay, "-o", to, "./cmd/dfsnapshotter")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	return to
}
