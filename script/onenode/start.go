package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	namespace = "default"
	ours      = "dfsnapshotter"
	overlayfs = "overlayfs"
)

// node is the machine under measurement: registry, link, containerd, daemon.
type node struct {
	*lab.Lab
	registry   *lab.Registry
	containerd *lab.Containerd
	daemon     *lab.Daemon
	warm       string // a small image that brings runc and its friends into memory
	starts     int
}

func openNode(ctx context.Context, root, link string) (_ *node, err error) {
	n := &node{}
	if n.Lab, err = lab.Open(root); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if n.registry, err = n.Registry(ctx, link); err != nil {
		return nil, err
	}
	if n.containerd, err = n.Containerd(ctx, lab.ContainerdConfig{}); err != nil {
		return nil, err
	}
	if n.daemon, err = n.Daemon(ctx, ""); err != nil {
		return nil, err
	}
	n.warm, err = n.warmImage(ctx)
	return n, err
}

func (n *node) warmImage(ctx context.Context) (string, error) {
	bin, err := imagetest.Program(ctx, n.Root, "goprog")
	if err != nil {
		return "", err
	}
	tar, err := imagetest.Layer{imagetest.Dir("etc", 0o755), imagetest.Regular("goprog", 0o755, bin)}.Tar()
	if err != nil {
		return "", err
	}
	img, err := imagetest.Make(ocispec.ImageConfig{Cmd: []string{"/goprog", "/etc"}}, [][]byte{tar}, imagetest.Gzip)
	if err != nil {
		return "", err
	}
	ref, err := n.registry.Push(ctx, img, "warm", "1")
	if err != nil {
		return "", err
	}
	return ref, n.containerd.Pull(ctx, namespace, overlayfs, ref)
}

// cold makes the kernel forget files, then brings back the programs that every
// start needs.
func (n *node) cold(ctx context.Context) error {
	if err := dropCaches(); err != nil {
		return err
	}
	n.starts++
	_, err := n.containerd.Run(ctx, namespace, overlayfs, n.warm, fmt.Sprintf("warm%d", n.starts))
	return err
}

func dropCaches() error {
	syscall.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o200)
}

// start is what one start of a container took.
type start struct {
	Pull, Create, Run, Ready float64 // seconds; Ready is their sum
	MiB                      float64 // over the registry's link until ready
	Requests                 float64 // to the registry until ready
	CPU                      float64 // seconds, of the daemon
	PeakMiB                  float64 // resident, of the daemon
	Line                     string  // that it printed
}

const (
	silence = time.Minute     // after which a container without output is given up
	grace   = 3 * time.Second // for a container to end by itself, once it is ready
)

// measure pulls an image, creates a container and starts it; it is ready when
// it prints its first line, or ends.
func (n *node) measure(ctx context.Context, snapshotter, ref string, args ...string) (s start, err error) {
	n.starts++
	id := fmt.Sprintf("start%d", n.starts)
	bytes, err := n.registry.Received()
	if err != nil {
		return s, err
	}
	requests, err := n.registry.Requests()
	if err != nil {
		return s, err
	}
	cost, err := n.daemon.Cost()
	if err != nil {
		return s, err
	}
	t := time.Now()
	lap := func() float64 {
		d := time.Since(t)
		t = t.Add(d)
		return d.Seconds()
	}
	if err := n.containerd.Pull(ctx, namespace, snapshotter, ref); err != nil {
		return s, err
	}
	s.Pull = lap()
	create := append([]string{"-n", namespace, "containers", "create", "--net-host", "--snapshotter", snapshotter, ref, id}, args...)
	if _, err := n.containerd.Ctr(ctx, create...); err != nil {
		return s, err
	}
	s.Create = lap()
	task, err := n.containerd.StartTask(ctx, namespace, id, silence)
	if err != nil {
		return s, err
	}
	s.Run = lap()
	s.Ready = s.Pull + s.Create + s.Run

	after, err := n.registry.Received()
	if err != nil {
		return s, err
	}
	s.MiB = float64(after-bytes) / (1 << 20)
	done, err := n.registry.Requests()
	if err != nil {
		return s, err
	}
	s.Requests = float64(len(done) - len(requests))
	spent, err := n.daemon.Cost()
	if err != nil {
		return s, err
	}
	s.CPU, s.PeakMiB = (spent.CPU - cost.CPU).Seconds(), float64(spent.PeakRSS)/(1<<20)
	if err := task.Stop(ctx, grace); err != nil {
		return s, err
	}
	s.Line = task.Line
	_, err = n.containerd.Ctr(ctx, "-n", namespace, "containers", "rm", id)
	return s, err
}

// mode is one way to start an image.
type mode struct {
	name        string
	snapshotter string
	form        imagetest.Form
	keep        []string // what stays below the daemon's root
}

// modes are measured in this order, so that an index is there for the last.
var modes = []mode{
	{"overlayfs", overlayfs, imagetest.Gzip, nil},
	{"eStargz", ours, imagetest.EStargz, nil},
	{"gzip, never seen", ours, imagetest.Gzip, nil},
	{"gzip, seen before", ours, imagetest.Gzip, []string{"index"}},
}

// round measures each mode once, from nothing.
func (n *node) round(ctx context.Context, refs map[imagetest.Form]string, each func(mode, start), args ...string) error {
	for _, m := range modes {
		ref, ok := refs[m.form]
		if !ok {
			continue
		}
		if err := n.daemon.Reset(ctx, m.keep...); err != nil {
			return err
		}
		if err := n.cold(ctx); err != nil {
			return err
		}
		s, err := n.measure(ctx, m.snapshotter, ref, args...)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		each(m, s)
		if m.keep == nil && m.form == imagetest.Gzip && m.snapshotter == ours {
			// The index is kept when the layers are whole.
			if err := n.daemon.Complete(ctx, 2*time.Minute); err != nil {
				return err
			}
		}
		if err := n.containerd.Collect(ctx, namespace, ref); err != nil {
			return err
		}
	}
	return nil
}

// push makes an image of Debian packages and pushes it in the forms asked.
func (n *node) push(ctx context.Context, name string, forms ...imagetest.Form) (map[imagetest.Form]string, error) {
	refs := map[imagetest.Form]string{}
	for _, f := range forms {
		img, err := imagetest.Debian(ctx, n.Root, name, f)
		if err != nil {
			return nil, err
		}
		if refs[f], err = n.registry.Push(ctx, img, name, string(f)); err != nil {
			return nil, err
		}
	}
	return refs, nil
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
