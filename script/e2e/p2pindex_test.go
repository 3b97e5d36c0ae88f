package e2e

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
// nothing is wrong with otherwise. The first host that fills the layer finds it
// out, all are told within seconds, and the alarm names what runs on it.
func TestP2PFalseIndex(t *testing.T) {
	c := openCloud(t, lab.ClusterConfig{Nodes: 4, Seeds: 1, TLS: true}, imagetest.Gzip)
	if err := c.SetLinks(""); err != nil {
		t.Fatal(err)
	}
	c.start(t, imagetest.Gzip, c.Nodes[0]).wait(t)
	c.indexed(t, 1, nil)
	if err := c.Nodes[0].Daemon.Stop(); err != nil { // or the next would take the image from it
		t.Fatal(err)
	}
	lies := c.lie(t, func(inode []byte) { inode[0] ^= 0o22 }) // of its mode
	c.start(t, imagetest.Gzip, c.Nodes[1]).wait(t)            // the seed fetches the image again for it, and publishes
	c.indexed(t, 1, nil)

	ref := c.refs[imagetest.Gzip]
	if err := c.pull(c.ctx, c.Nodes[2], ref); err != nil {
		t.Fatal(err)
	}
	if n := c.metric(t, "dfsnapshotter_layers_resolved_total", `"cluster"`, c.Nodes[2]); n == 0 {
		t.Fatal("nobody believes the false index")
	}
	target := c.mounted(t, c.Nodes[2], ours, ref)
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
	t.Logf("found %.1f s after the container began", time.Since(began).Seconds())
	c.alarm(t, "scheduler/scheduler.log", "containers were given a layer by a false index", target)
	c.alarm(t, "node3/df.log", "no new container gets it", target)
	if n := must(c.Scheduler.Metrics(c.ctx))(t)["dfscheduler_containers_misled_total"]; n == 0 {
		t.Error("the scheduler has counted no container")
	}
	if n := must(c.Nodes[2].Daemon.Metrics(c.ctx))(t)["dfsnapshotter_containers_misled"]; n == 0 {
		t.Error("the host has counted no container")
	}
	if _, err := c.Nodes[2].Containerd.Run(c.ctx, ns, ours, ref, "refused"); err == nil || !strings.Contains(err.Error(), "layer refused") {
		t.Errorf("a new container on the false tree: %v", err)
	}
	c.start(t, imagetest.Gzip, c.Nodes[3]).wait(t)
	c.identical(t, c.Nodes[3])
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
