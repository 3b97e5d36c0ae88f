package e2e

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

// TestP2PLateIndex starts an image that nobody has seen on hosts whose links are
// slow beside the seed's: they begin to unpack, and mount it when the seed has
// the index. Scheduler and seed are restarted before others start it.
func TestP2PLateIndex(t *testing.T) {
	c := openCloud(t, lab.ClusterConfig{Nodes: 3, Seeds: 1, TLS: true}, imagetest.Gzip)
	err := c.SetLinks("")
	for _, n := range c.Nodes {
		err = errors.Join(err, n.SetLink(lab.Symmetric(scaled().rate)))
	}
	if err != nil {
		t.Fatal(err)
	}
	c.start(t, imagetest.Gzip, c.Nodes[:2]...).wait(t)
	if n := c.metric(t, "dfsnapshotter_late_indexes_total", `"mounted"`, c.Nodes[:2]...); n == 0 {
		t.Error("no host has mounted a layer by an index that came while it unpacked it")
	}
	c.complete(t, c.Nodes[:2]...)
	c.identical(t, c.Nodes[0])

	if err := errors.Join(c.Scheduler.Kill(), c.Seeds[0].Daemon.Kill()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Scheduler.Start(c.ctx), c.Seeds[0].Daemon.Start(c.ctx)); err != nil {
		t.Fatal(err)
	}
	c.start(t, imagetest.Gzip, c.Nodes[2]).wait(t)
	if n := c.metric(t, "dfsnapshotter_layers_resolved_total", `"cluster"`, c.Nodes[2]); n == 0 {
		t.Error("after a restart of scheduler and seed no index is known")
	}
	c.identical(t, c.Nodes[2])
	c.complete(t, c.Nodes[2])
	c.identical(t, c.Nodes[2])
}

// identical finds no difference between the image by overlayfs and by us.
func (c *cloud) identical(t *testing.T, n *lab.Node) {
	t.Helper()
	ref := c.refs[imagetest.Gzip]
	if err := n.Containerd.Pull(c.ctx, ns, overlayfs, ref); err != nil {
		t.Fatal(err)
	}
	plain, mine := c.mounted(t, n, overlayfs, ref), c.mounted(t, n, ours, ref)
	(&node{T: t, ctx: c.ctx, began: c.began}).same(n.Name, plain, mine)
}

// mounted mounts an image as a container gets it.
func (c *cloud) mounted(t *testing.T, n *lab.Node, snapshotter, ref string) string {
	t.Helper()
	target := n.Path("mnt", fmt.Sprint(time.Now().UnixNano()))
	if err := n.Containerd.Mount(c.ctx, ns, snapshotter, ref, target); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Containerd.Unmount(context.WithoutCancel(c.ctx), ns, snapshotter, target); err != nil {
			t.Error(err)
		}
	})
	return target
}

// TestP2PFalseIndex: a seed lies about the tree of a layer, in an index that
// nothing is wrong with otherwise, and three hosts believe it. The first that fills
// the layer finds it out; all are told within seconds, long before the others
// could have found out themselves: none gives the layer to a new container, and
// the alarms name what runs on it, on each host.
func TestP2PFalseIndex(t *testing.T) {
	c := openCloud(t, lab.ClusterConfig{Nodes: 6, Seeds: 1, TLS: true}, imagetest.Gzip)
	if err := c.SetLinks(""); err != nil {
		t.Fatal(err)
	}
	c.start(t, imagetest.Gzip, c.Nodes[0]).wait(t)
	c.indexed(t, 1, nil)
	if err := c.Nodes[0].Daemon.Stop(); err != nil { // or the next would take the image from it
		t.Fatal(err)
	}
	lies := c.lie(t, func(inode []byte) { inode[0] ^= 0o22 }) // of its mode
	// The seed fetches the image again for a host, and publishes. That host must not
	// come so far that it finds out.
	second := c.Nodes[1]
	if err := second.SetLink(lab.Symmetric("2mbit")); err != nil {
		t.Fatal(err)
	}
	pull := c.start(t, imagetest.Gzip, second)
	c.indexed(t, 1, nil)
	pull.lose(second)
	if err := second.Daemon.Stop(); err != nil {
		t.Fatal(err)
	}
	pull.wait(t)
	if err := c.Nodes[0].Daemon.Start(c.ctx); err != nil { // has all of it for the first one
		t.Fatal(err)
	}

	first, slow, last := c.Nodes[2], c.Nodes[3:5], c.Nodes[5]
	believers := append([]*lab.Node{first}, slow...)
	ref := c.refs[imagetest.Gzip]
	targets := map[*lab.Node]string{}
	for _, n := range slow {
		if err := n.SetLink(lab.Symmetric("2mbit")); err != nil { // a minute for the image
			t.Fatal(err)
		}
	}
	for _, n := range slices.Backward(believers) {
		if err := c.pull(c.ctx, n, ref); err != nil {
			t.Fatal(err)
		}
		if c.metric(t, "dfsnapshotter_layers_resolved_total", `"cluster"`, n) == 0 {
			t.Fatalf("%s does not believe the false index", n.Name)
		}
		targets[n] = c.mounted(t, n, ours, ref)
	}
	began := time.Now()
	err := lab.Eventually(c.ctx, time.Minute, func() error {
		m, err := c.Scheduler.Metrics(c.ctx)
		if n := m["dfscheduler_indexes_distrusted_total"]; err == nil && int(n) < lies {
			err = fmt.Errorf("%v of %d false indexes are found", n, lies)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("found %.1f s after the last container began", time.Since(began).Seconds())
	for _, n := range believers {
		c.misled(t, n, targets[n], lies)
	}
	if got := must(c.Scheduler.Metrics(c.ctx))(t)["dfscheduler_containers_misled_total"]; int(got) < len(believers) {
		t.Errorf("the scheduler has counted %v containers on %d hosts", got, len(believers))
	}
	t.Logf("all are in quarantine %.1f s after that container began", time.Since(began).Seconds())
	for _, n := range slow {
		refused := 0
		for _, l := range must(n.Daemon.Layers(c.ctx))(t) {
			if l.State != "refused" {
				continue
			}
			if refused++; l.Filled == l.Chunks {
				t.Errorf("%s has filled layer %d, so that it may have found out by itself", n.Name, l.ID)
			}
		}
		if refused < lies {
			t.Errorf("%s refuses %d layers of %d", n.Name, refused, lies)
		}
	}
	c.start(t, imagetest.Gzip, last).wait(t)
	c.identical(t, last)
}

// misled finds the alarms of a host whose container at target was given so many
// layers by false indexes, and that it starts no other.
func (c *cloud) misled(t *testing.T, n *lab.Node, target string, layers int) {
	t.Helper()
	c.alarm(t, "scheduler/scheduler.log", "containers were given a layer by a false index", target)
	c.alarm(t, n.Name+"/df.log", "no new container gets it", target)
	err := lab.Eventually(c.ctx, 10*time.Second, func() error {
		m, err := n.Daemon.Metrics(c.ctx)
		if got := m["dfsnapshotter_containers_misled"]; err == nil && int(got) < layers {
			err = fmt.Errorf("%s has counted %v containers for %d layers", n.Name, got, layers)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := n.Containerd.Run(c.ctx, ns, ours, c.refs[imagetest.Gzip], "refused-"+n.Name); err == nil || !strings.Contains(err.Error(), "layer refused") {
		t.Errorf("%s: a new container on the false tree: %v", n.Name, err)
	}
}

// lie makes the seed begin anew with false indexes of its own make, and the
// scheduler forget the true ones.
func (c *cloud) lie(t *testing.T, change func(inode []byte)) (lies int) {
	t.Helper()
	seed := c.Seeds[0]
	if err := errors.Join(c.Scheduler.Kill(), seed.Daemon.Stop()); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(seed.SnapshotterRoot(), "index")
	for _, e := range must(os.ReadDir(dir))(t) {
		path := filepath.Join(dir, e.Name())
		if _, err := hex.DecodeString(e.Name()); err != nil {
			if err := os.Remove(path); err != nil { // that it was offered
				t.Fatal(err)
			}
			continue
		}
		file := must(os.ReadFile(path))(t)
		inodes := indextest.Table(file, indextest.Inodes)
		change(inodes[len(inodes)-inodeSize:])
		if err := os.WriteFile(path, indextest.Reseal(bytes.Clone(file)), 0o600); err != nil {
			t.Fatal(err)
		}
		lies++
	}
	if lies == 0 {
		t.Fatal("the seed has kept no index")
	}
	if err := errors.Join(c.Scheduler.Start(c.ctx), seed.Daemon.Reset(c.ctx, "index")); err != nil {
		t.Fatal(err)
	}
	return lies
}

const inodeSize = 64 // in an index

// alarm waits until a line of a log says what, and who.
func (c *cloud) alarm(t *testing.T, log, what, who string) {
	t.Helper()
	err := lab.Eventually(c.ctx, 10*time.Second, func() error {
		text, err := os.ReadFile(filepath.Join(c.lab.Dir, log))
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, what) && strings.Contains(line, who) {
				return nil
			}
		}
		return fmt.Errorf("%s does not say %q of %s", log, what, who)
	})
	if err != nil {
		t.Error(err)
	}
}
