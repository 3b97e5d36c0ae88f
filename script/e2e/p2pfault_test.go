package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

// TestP2PFaults starts an image on all hosts at once, and does harm when they
// have 30 % of it: containers that are not on a dead host see the right bytes
// all the same.
func TestP2PFaults(t *testing.T) {
	s := scaled()
	c := openCloud(t, lab.ClusterConfig{Nodes: s.nodes, Seeds: 1}, imagetest.Gzip, imagetest.EStargz)
	for _, f := range []struct {
		name  string
		full  bool // too long for every day
		form  imagetest.Form
		seeds int
		harm  func(t *testing.T, w *wave) error
	}{
		{"scheduler restarted", false, imagetest.Gzip, 1, func(_ *testing.T, w *wave) error {
			err := c.Scheduler.Kill()
			<-time.After(2 * time.Second) // they shall notice
			return errors.Join(err, c.Scheduler.Start(c.ctx))
		}},
		{"scheduler restarted, no seed, lazily", true, imagetest.EStargz, 0, func(_ *testing.T, w *wave) error {
			err := c.Scheduler.Kill()
			<-time.After(2 * time.Second)
			return errors.Join(err, c.Scheduler.Start(c.ctx))
		}},
		{"scheduler gone", true, imagetest.Gzip, 1, func(*testing.T, *wave) error { return c.Scheduler.Kill() }},
		{"scheduler gone, lazily", false, imagetest.EStargz, 1, func(*testing.T, *wave) error { return c.Scheduler.Kill() }},
		{"seed killed", false, imagetest.Gzip, 1, func(*testing.T, *wave) error { return c.Seeds[0].Daemon.Kill() }},
		{"seed killed, lazily", true, imagetest.EStargz, 1, func(*testing.T, *wave) error { return c.Seeds[0].Daemon.Kill() }},
		{"two hosts killed", true, imagetest.Gzip, 1, func(_ *testing.T, w *wave) error { return c.die(w, c.Nodes[1], c.Nodes[s.nodes-1]) }},
		{"two hosts killed, no seed, lazily", false, imagetest.EStargz, 0, func(_ *testing.T, w *wave) error { return c.die(w, c.Nodes[1], c.Nodes[s.nodes-1]) }},
		{"a host falls silent", false, imagetest.Gzip, 1, func(_ *testing.T, w *wave) error {
			w.lose(c.Nodes[0])
			return c.Nodes[0].Silence()
		}},
		{"the seed falls silent, lazily", true, imagetest.EStargz, 1, func(*testing.T, *wave) error { return c.Seeds[0].Silence() }},
		{"slow upload", true, imagetest.Gzip, 1, func(*testing.T, *wave) error { return c.Nodes[2].SetLink(lab.Link{Up: "2mbit", Down: s.rate}) }},
		{"slow upload, lazily", true, imagetest.EStargz, 1, func(*testing.T, *wave) error { return c.Nodes[2].SetLink(lab.Link{Up: "2mbit", Down: s.rate}) }},
		{"split and healed", false, imagetest.Gzip, 1, func(t *testing.T, w *wave) error { return c.split(t) }},
		{"split and healed, lazily", true, imagetest.EStargz, 1, func(t *testing.T, w *wave) error { return c.split(t) }},
	} {
		t.Run(f.name, func(t *testing.T) {
			if f.full && !full() {
				t.Skip("only with -p2p full")
			}
			c.fresh(t, f.seeds)
			w := c.start(t, f.form, c.Nodes...)
			w.reach(t, 0.3)
			if err := f.harm(t, w); err != nil {
				t.Error(err)
			}
			w.wait(t)
			if !c.Scheduler.Running() {
				if err := c.Scheduler.Start(c.ctx); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// die makes nodes die as a machine without power does.
func (c *cloud) die(w *wave, nodes ...*lab.Node) error {
	w.lose(nodes...)
	var err error
	for _, n := range nodes {
		err = errors.Join(err, n.Silence(), n.Daemon.Kill())
	}
	return err
}

// split cuts half of the nodes off from everything else for a while.
func (c *cloud) split(t *testing.T) error {
	t.Helper()
	var hosts []*lab.Host
	for _, n := range c.Nodes[len(c.Nodes)/2:] {
		hosts = append(hosts, n.Host)
	}
	err := c.Split(hosts...)
	<-time.After(5 * time.Second)
	return errors.Join(err, c.Heal(hosts...))
}

// TestP2PFlippedBits starts an image that a seed has, whose disk then turns bits:
// nobody sees them, and the seed is banned.
func TestP2PFlippedBits(t *testing.T) {
	// By TLS hosts have names that tell them apart.
	c := openCloud(t, lab.ClusterConfig{Nodes: scaled().nodes, Seeds: 1, TLS: true}, imagetest.Gzip, imagetest.EStargz)
	for _, form := range []imagetest.Form{imagetest.Gzip, imagetest.EStargz} {
		t.Run(string(form), func(t *testing.T) {
			c.fresh(t, 1)
			c.start(t, form, c.Nodes[0]).wait(t)
			c.complete(t, c.Nodes[0])
			if err := flip(c.Seeds[0]); err != nil {
				t.Fatal(err)
			}
			c.start(t, form, c.Nodes[1:]...).wait(t)
			v := must(c.Scheduler.View(c.ctx))(t)
			for _, b := range v.Bans {
				t.Logf("%s, banned %v: %s", b.Host, b.Banned, b.Reason)
				if b.Host != "seed1" {
					t.Errorf("%s is honest", b.Host)
				}
			}
			if len(v.Bans) == 0 {
				t.Errorf("nobody is banned: %s", v.Text)
			}
		})
	}
}

// TestP2PRegistryGone starts an image that the seed has when the registry is no
// more.
func TestP2PRegistryGone(t *testing.T) {
	c := openCloud(t, lab.ClusterConfig{Nodes: scaled().nodes, Seeds: 1}, imagetest.EStargz)
	form := imagetest.EStargz
	c.start(t, form, c.Nodes[0]).wait(t)
	c.complete(t, c.Nodes[0])
	for _, n := range c.Nodes[1:] {
		// containerd itself reads manifest and config from the registry.
		if err := c.pull(c.ctx, n, c.refs[form]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(c.Nodes[0].Silence(), c.Registry.Kill()); err != nil {
		t.Fatal(err)
	}
	c.launch(t, form, c.Nodes[1:], func(ctx context.Context, n *lab.Node, id string) (string, error) {
		return n.Containerd.Run(ctx, ns, ours, c.refs[form], id)
	}).wait(t)
}

// TestP2PIPv6 starts an image where there are no other addresses.
func TestP2PIPv6(t *testing.T) {
	c := openCloud(t, lab.ClusterConfig{Nodes: scaled().nodes, Seeds: 1, IPv6: true}, imagetest.Gzip)
	if egress := c.start(t, imagetest.Gzip, c.Nodes...).wait(t); egress > 1.1 {
		t.Errorf("the registry sent %.2f × the image", egress)
	}
}

// flip turns a bit in each 64 KiB of all blobs in a store.
func flip(n *lab.Node) error {
	files, err := filepath.Glob(filepath.Join(n.SnapshotterRoot(), "blobs", "*", "data"))
	if more, merr := filepath.Glob(filepath.Join(n.SnapshotterRoot(), "blobs", "*", "*", "data")); merr == nil {
		files = append(files, more...)
	}
	if err == nil && len(files) == 0 {
		err = errors.New("no blobs to flip bits in")
	}
	for _, f := range files {
		err = errors.Join(err, flipFile(f))
	}
	return err
}

func flipFile(path string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := []byte{0}
	for off := int64(1000); ; off += 64 << 10 {
		if _, err := f.ReadAt(b, off); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("flip %s: %w", path, err)
		}
		b[0] ^= 1
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
	}
}
