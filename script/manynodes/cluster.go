package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	namespace = "default"
	ours      = "dfsnapshotter"
	overlayfs = "overlayfs"
	stargz    = "stargz"

	minLazy = 4 << 20 // bytes of a layer that is worth mounting lazily
)

// way is one way in which hosts start the image.
type way struct {
	name        string
	snapshotter string
	form        imagetest.Form
	alone       bool // one host only
	p2p         bool
	seeds       int
	mirror      bool // containerd pulls through the mirror on its host
	wide        bool // the registry's line is as fast as those of all hosts together
}

var ways = []way{
	{"overlayfs, alone", overlayfs, imagetest.Gzip, true, false, 0, false, false},
	{"overlayfs", overlayfs, imagetest.Gzip, false, false, 0, false, false},
	{"overlayfs, no line is shared", overlayfs, imagetest.Gzip, false, false, 0, false, true},
	{"overlayfs, mirror, alone", overlayfs, imagetest.Gzip, true, false, 0, true, false},
	{"overlayfs, mirror, alone with an idle seed", overlayfs, imagetest.Gzip, true, true, 1, true, false},
	{"overlayfs, mirror, P2P, one seed", overlayfs, imagetest.Gzip, false, true, 1, true, false},
	{"overlayfs, mirror, P2P, no seed", overlayfs, imagetest.Gzip, false, true, 0, true, false},
	{"gzip, alone", ours, imagetest.Gzip, true, false, 0, false, false},
	{"gzip, alone with an idle seed", ours, imagetest.Gzip, true, true, 1, false, false},
	{"gzip, without P2P", ours, imagetest.Gzip, false, false, 0, false, false},
	{"gzip, P2P, one seed", ours, imagetest.Gzip, false, true, 1, false, false},
	{"gzip, P2P, no seed", ours, imagetest.Gzip, false, true, 0, false, false},
	{"eStargz, alone", ours, imagetest.EStargz, true, false, 0, false, false},
	{"eStargz, alone with an idle seed", ours, imagetest.EStargz, true, true, 1, false, false},
	{"eStargz, without P2P", ours, imagetest.EStargz, false, false, 0, false, false},
	{"eStargz, no line is shared", ours, imagetest.EStargz, false, false, 0, false, true},
	{"eStargz, P2P, one seed", ours, imagetest.EStargz, false, true, 1, false, false},
	{"eStargz, P2P, no seed", ours, imagetest.EStargz, false, true, 0, false, false},
}

// use prepares the cluster for a way: with nothing on its hosts' disks.
func (c *cluster) use(ctx context.Context, w way) error {
	for _, s := range c.stargz {
		if err := s.Stop(); err != nil {
			return err
		}
	}
	if w.snapshotter == stargz {
		return c.useStargz(ctx)
	}
	err := c.lab.AddHost(c.Registry.Host)
	if w.mirror {
		err = c.Registry.UseMirrors(c.Nodes[0].Daemon.Mirror) // the same on each
	}
	if err != nil {
		return err
	}
	return c.Use(ctx, w.p2p, w.seeds)
}

// useStargz starts a stargz-snapshotter on each node.
func (c *cluster) useStargz(ctx context.Context) error {
	for _, n := range c.Nodes {
		if c.stargz[n] == nil {
			s, err := n.Stargz(c.program, c.Registry)
			if err != nil {
				return err
			}
			c.stargz[n] = s
		}
		if err := c.stargz[n].Start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// cluster is what is measured.
type cluster struct {
	*lab.Cluster
	lab    *lab.Lab
	ways   []way
	images map[imagetest.Form]image
	image  string
	count  int // nodes in a wave
	waves  int // so far
	rows   []row

	program string // a containerd-stargz-grpc
	stargz  map[*lab.Node]*lab.Stargz
	clients map[*lab.Node]*lab.Client
}

type image struct {
	ref    string
	size   int64           // of its layers
	layers map[string]bool // their digests
	lazy   int             // of them, those that are mounted lazily
}

// openCluster starts as many nodes as all waves have, and what the ways that are wanted
// need.
func openCluster(ctx context.Context, o options, wanted func(way) bool) (*cluster, error) {
	c := &cluster{image: o.image, count: o.nodes, images: map[imagetest.Form]image{}, program: o.stargz, stargz: map[*lab.Node]*lab.Stargz{}, clients: map[*lab.Node]*lab.Client{}}
	cfg := lab.ClusterConfig{}
	if o.debug {
		cfg.Flags = []string{"--log-level", "debug"}
	}
	for _, w := range ways {
		if !wanted(w) {
			continue
		}
		c.ways = append(c.ways, w)
		cfg.P2P = cfg.P2P || w.p2p
		cfg.Seeds = max(cfg.Seeds, w.seeds)
		switch {
		case w.p2p && !w.alone:
			cfg.Nodes = max(2, o.waves) * o.nodes
		case !w.alone:
			cfg.Nodes = max(cfg.Nodes, o.nodes)
		default:
			cfg.Nodes = max(cfg.Nodes, 1)
		}
	}
	root, err := projectRoot()
	if err != nil {
		return nil, err
	}
	if c.lab, err = lab.Open(root); err != nil {
		return nil, err
	}
	if err := c.lab.OwnDisk(); err != nil {
		return c, err
	}
	progress("starting %d hosts", cfg.Nodes)
	if c.Cluster, err = c.lab.Cluster(ctx, cfg); err != nil {
		return c, err
	}
	for _, n := range c.Nodes {
		if c.clients[n], err = n.Containerd.Client(namespace); err != nil {
			return c, err
		}
	}
	if err := c.push(ctx); err != nil {
		return c, err
	}
	return c, c.warm(ctx)
}

// push puts the images that are needed into the registry.
func (c *cluster) push(ctx context.Context) error {
	for _, w := range c.ways {
		if _, ok := c.images[w.form]; ok {
			continue
		}
		img, err := imagetest.Debian(ctx, c.lab.Root, c.image, w.form)
		if err != nil {
			return err
		}
		layers, err := img.Layers()
		if err != nil {
			return err
		}
		i := image{layers: map[string]bool{}}
		for _, l := range layers {
			i.layers[l.Digest.String()] = true
			if l.Size >= minLazy {
				i.lazy++
			}
		}
		if i.size, err = img.Size(); err != nil {
			return err
		}
		if i.ref, err = c.Registry.Push(ctx, img, c.image, string(w.form)); err != nil {
			return err
		}
		c.images[w.form] = i
	}
	return nil
}

// warm runs a small container on each host, so that runc and its friends are in
// memory.
func (c *cluster) warm(ctx context.Context) error {
	bin, err := imagetest.Program(ctx, c.lab.Root, "goprog")
	if err != nil {
		return err
	}
	tar, err := imagetest.Layer{imagetest.Dir("etc", 0o755), imagetest.Regular("goprog", 0o755, bin)}.Tar()
	if err != nil {
		return err
	}
	img, err := imagetest.Make(ocispec.ImageConfig{Cmd: []string{"/goprog", "/etc"}}, [][]byte{tar}, imagetest.Gzip)
	if err != nil {
		return err
	}
	ref, err := c.Registry.Push(ctx, img, "warm", "1")
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(2)
	for _, n := range c.Nodes {
		g.Go(func() error {
			if err := n.Containerd.Pull(ctx, namespace, overlayfs, ref); err != nil {
				return fmt.Errorf("%s: %w", n.Name, err)
			}
			_, err := n.Containerd.Run(ctx, namespace, overlayfs, ref, "warm-"+n.Name)
			return err
		})
	}
	return g.Wait()
}

func projectRoot() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, serr := os.Stat(filepath.Join(dir, "go.mod")); serr == nil {
			return dir, nil
		} else if dir == "/" {
			return "", serr
		}
	}
	return "", err
}
