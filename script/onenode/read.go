package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// mounted is an image mounted as a container would have it.
type mounted struct {
	column, snapshotter, ref, dir string
}

func (n *node) mount(ctx context.Context, column, snapshotter, ref string) (mounted, error) {
	n.starts++
	m := mounted{column, snapshotter, ref, n.Path("mnt", fmt.Sprint(n.starts))}
	return m, n.containerd.Mount(ctx, namespace, snapshotter, ref, m.dir)
}

func (n *node) unmount(ctx context.Context, mounts ...mounted) error {
	var err error
	for _, m := range mounts {
		err = errors.Join(err, n.containerd.Unmount(ctx, namespace, m.snapshotter, m.dir))
	}
	return err
}

// lap is something that is done with a mounted image.
type lap struct {
	name, unit string
	run        func(dir string) error
	amount     float64 // of work in a run, for a rate; 0: the time is the figure
}

var treeLaps = []lap{
	{"find", "s", shell("find . -printf '' >/dev/null"), 0},
	{"stat walk", "s", shell("find . -printf '%s %m %T@ %p\\n' >/dev/null"), 0},
	{"tar", "s", shell("tar -cf - . | cat >/dev/null"), 0},
}

func shell(command string) func(dir string) error {
	return func(dir string) error {
		cmd := exec.Command("sh", "-c", command)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", command, err, strings.TrimSpace(string(out)))
		}
		return nil
	}
}

// leastRounds is how often laps are run on all mounts in turn: walks are over in a
// few hundredths of a second, and of few of them the median says little.
const leastRounds = 16

// warmFor is how long a warm lap is repeated: some take a millisecond.
const warmFor = 250 * time.Millisecond

// measure runs the lap, again and again if repeat is set, and returns its time,
// in seconds, or its rate.
func (l lap) measure(dir string, repeat bool) (float64, error) {
	start, runs := time.Now(), 0.0
	for runs == 0 || repeat && time.Since(start) < warmFor {
		if err := l.run(dir); err != nil {
			return 0, err
		}
		runs++
	}
	v := time.Since(start).Seconds() / runs
	if l.amount != 0 {
		v = l.amount / v
	}
	return v, nil
}

// laps measures each lap on each mount in turn, cold and then warm.
func (t *table) laps(laps []lap, label string, mounts ...mounted) error {
	for _, l := range laps {
		for _, m := range mounts {
			if err := dropCaches(); err != nil {
				return err
			}
			// The programs themselves are not what is measured.
			if err := shell("find /proc/self/fd -printf '' | tar -cf - /dev/null 2>&1 | cat >/dev/null")(m.dir); err != nil {
				return err
			}
			for _, heat := range []string{"cold", "warm"} {
				v, err := l.measure(m.dir, heat == "warm")
				if err != nil {
					return err
				}
				t.add(fmt.Sprintf("%s%s, %s", label, l.name, heat), l.unit, m.column, v)
			}
		}
	}
	return nil
}

// reads compares an image, ours being ref of ours, with overlayfs: on the first
// read, filled but through FUSE, and complete. A second mount of overlayfs tells how
// much of a difference is chance.
func (n *node) reads(ctx context.Context, t *table, theirs, mine string, laps []lap, rounds int) error {
	if err := n.daemon.Reset(ctx); err != nil {
		return err
	}
	if err := n.containerd.Pull(ctx, namespace, overlayfs, theirs); err != nil {
		return err
	}
	plain, err := n.mount(ctx, overlayfs, overlayfs, theirs)
	if err != nil {
		return err
	}
	var fuse mounted
	for i := range rounds {
		progress("%s: not there yet, round %d of %d", t.title, i+1, rounds)
		for _, l := range laps {
			if err := n.daemon.Reset(ctx); err != nil {
				return err
			}
			if err := n.containerd.Pull(ctx, namespace, ours, mine); err != nil {
				return err
			}
			if fuse, err = n.mount(ctx, "through FUSE", ours, mine); err != nil {
				return err
			}
			v, err := l.measure(fuse.dir, false)
			if err != nil {
				return err
			}
			t.add(l.name+", from the registry", l.unit, "through FUSE", v)
			if err := errors.Join(n.unmount(ctx, fuse), n.containerd.Collect(ctx, namespace, mine)); err != nil {
				return err
			}
		}
	}
	if err := n.daemon.Reset(ctx); err != nil {
		return err
	}
	if err := n.containerd.Pull(ctx, namespace, ours, mine); err != nil {
		return err
	}
	if fuse, err = n.mount(ctx, "through FUSE", ours, mine); err != nil {
		return err
	}
	if err := n.daemon.Complete(ctx, 2*time.Minute); err != nil {
		return err
	}
	complete, err := n.mount(ctx, "complete", ours, mine)
	if err != nil {
		return err
	}
	if err := n.plain(complete); err != nil {
		return err
	}
	again, err := n.mount(ctx, "overlayfs again", overlayfs, theirs)
	if err != nil {
		return err
	}
	mounts := []mounted{plain, fuse, complete, again}
	for i := range max(rounds, leastRounds) {
		progress("%s: filled, round %d of %d", t.title, i+1, max(rounds, leastRounds))
		// Who comes first must not count.
		turn := i % len(mounts)
		if err := t.laps(laps, "", append(slices.Clone(mounts[turn:]), mounts[:turn]...)...); err != nil {
			return err
		}
	}
	return errors.Join(n.unmount(ctx, mounts...), n.containerd.Collect(ctx, namespace, mine), n.containerd.Collect(ctx, namespace, theirs))
}

// plain fails if m has a path of the daemon's FUSE sessions among its layers.
func (n *node) plain(m mounted) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, " "+m.dir+" ") {
			for _, session := range []string{"/m/", "/n/", ":m/", ":n/", "=m/", "=n/"} {
				if strings.Contains(line, session) {
					return fmt.Errorf("a complete image is mounted through FUSE: %s", line)
				}
			}
			return nil
		}
	}
	return fmt.Errorf("%s is not mounted", m.dir)
}

var readColumns = []string{overlayfs, "through FUSE", "complete", "overlayfs again"}

func (n *node) benchTree(ctx context.Context, refs map[imagetest.Form]string, rounds int) (*table, error) {
	t := newTable("tree of the python image", readColumns...)
	return t, n.reads(ctx, t, refs[imagetest.Gzip], refs[imagetest.EStargz], treeLaps, rounds)
}

const (
	fileSize    = 64 << 20
	randomReads = 2048
)

// benchFile reads one large file, half of which compresses well.
func (n *node) benchFile(ctx context.Context, rounds int) (*table, error) {
	data := make([]byte, fileSize)
	random := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(data); i += 2 {
		data[i] = byte(random.Uint32())
	}
	tar, err := imagetest.Layer{imagetest.Regular("file", 0o644, data)}.Tar()
	if err != nil {
		return nil, err
	}
	refs := map[imagetest.Form]string{}
	for _, f := range []imagetest.Form{imagetest.Gzip, imagetest.EStargz} {
		img, err := imagetest.Make(ocispec.ImageConfig{Cmd: []string{"/none"}}, [][]byte{tar}, f)
		if err != nil {
			return nil, err
		}
		if refs[f], err = n.registry.Push(ctx, img, "file", string(f)); err != nil {
			return nil, err
		}
	}
	t := newTable(fmt.Sprintf("one file of %d MiB", fileSize>>20), readColumns...)
	return t, n.reads(ctx, t, refs[imagetest.Gzip], refs[imagetest.EStargz], []lap{
		{"sequential read", "MiB/s", func(dir string) error { return readFile(dir + "/file") }, fileSize >> 20},
		{"random reads of 4 KiB", "/s", func(dir string) error { return readRandom(dir + "/file") }, randomReads},
	}, rounds)
}

func readFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 128<<10))
	return err
}

func readRandom(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 4096)
	random := rand.New(rand.NewPCG(3, 4))
	for range randomReads {
		if _, err := f.ReadAt(buf, random.Int64N(fileSize/4096)*4096); err != nil {
			return err
		}
	}
	return nil
}
