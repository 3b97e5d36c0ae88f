// Package e2e tests dfsnapshotter under a real containerd, with a real registry.
package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	root      = "../.."
	ours      = "dfsnapshotter"
	overlayfs = "overlayfs"
	ns        = "default"
)

// bin is where the programs under test are built.
var bin string

func TestMain(m *testing.M) {
	if pair := os.Getenv("E2E_READERS"); pair != "" {
		if err := read(pair); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	stop := lab.CloseOnSignal()
	code, err := build(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	lab.CloseAll()
	stop()
	os.Exit(code)
}

func build(m *testing.M) (int, error) {
	if missing() != "" {
		return m.Run(), nil
	}
	var err error
	if bin, err = os.MkdirTemp("", "e2e"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(bin)
	if os.Getenv("DFSNAPSHOTTER") == "" {
		if out, err := exec.Command(root+"/script/build", bin).CombinedOutput(); err != nil {
			return 1, fmt.Errorf("script/build: %w: %s", err, out)
		}
		if err := os.Setenv("DFSNAPSHOTTER", filepath.Join(bin, "dfsnapshotter")); err != nil {
			return 1, err
		}
	}
	return m.Run(), nil
}

// missing says what keeps the tests from running here.
func missing() string {
	if os.Geteuid() != 0 {
		return "not root"
	}
	for _, p := range []string{".tools/bin/containerd", ".tools/bin/registry", ".tools/debian/usr/bin/containerd"} {
		if _, err := os.Stat(filepath.Join(root, p)); err != nil {
			return p + " (script/install-deps)"
		}
	}
	for _, p := range []string{"/dev/fuse", "/proc/self/ns/net"} {
		if _, err := os.Stat(p); err != nil {
			return p
		}
	}
	return ""
}

// node is a machine with a registry, a containerd and a dfsnapshotter.
type node struct {
	*lab.Lab
	*testing.T
	ctx   context.Context
	reg   *lab.Registry
	c     *lab.Containerd
	d     *lab.Daemon
	began time.Time
}

type options struct {
	link   string // of the registry
	old    bool   // containerd 1.6
	flags  []string
	config string // of the daemon, more lines
}

func start(t *testing.T, o options) *node {
	t.Helper()
	if m := missing(); m != "" {
		t.Skip("missing: " + m)
	}
	l, err := lab.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{Lab: l, T: t, ctx: t.Context(), began: time.Now()}
	t.Cleanup(func() {
		if t.Failed() {
			for name, size := range map[string]int{"df": 6000, "c": 1500, "c16": 1500} {
				if log, err := os.ReadFile(l.Path(name + ".log")); err == nil {
					t.Logf("end of %s's log:\n%s", name, log[max(0, len(log)-size):])
				}
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	n.reg = must(l.Registry(n.ctx, o.link))(t)
	pause := n.push(must(imagetest.Pause(n.ctx, root))(t), "pause")
	n.d = must(l.Daemon(n.ctx, o.config, o.flags...))(t)
	n.c = must(l.Containerd(n.ctx, lab.ContainerdConfig{Old: o.old, Pause: pause}))(t)
	return n
}

// must returns v, or ends the test.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (n *node) must(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

func (n *node) push(img *imagetest.Image, name string) string {
	n.Helper()
	return must(n.reg.Push(n.ctx, img, name, "1"))(n.T)
}

// program returns a layer that holds goprog and cprog, and what makes runc
// happy.
func program(t *testing.T) []byte {
	t.Helper()
	l := imagetest.Layer{imagetest.Dir("etc", 0o755), imagetest.Dir("proc", 0o555), imagetest.Dir("dev", 0o755), imagetest.Dir("sys", 0o555), imagetest.Dir("bin", 0o755)}
	for _, p := range []string{"goprog", "cprog"} {
		l = append(l, imagetest.Regular("bin/"+p, 0o755, must(imagetest.Program(t.Context(), root, p))(t)))
	}
	return must(l.Tar())(t)
}

// data returns a layer of files of size bytes in all, which do not compress: more
// than 4 MiB are lazy.
func data(t *testing.T, seed uint64, dir string, files, size int) []byte {
	t.Helper()
	l := imagetest.Layer{imagetest.Dir(dir, 0o755)}
	for i := range files {
		l = append(l, imagetest.Regular(fmt.Sprintf("%s/%03d", dir, i), 0o644, indextest.Random(seed<<16+uint64(i), size/files)))
	}
	return must(l.Tar())(t)
}

// extract unpacks tars over each other and returns the folder.
func extract(t *testing.T, tars ...[]byte) string {
	t.Helper()
	dir := t.TempDir()
	for _, data := range tars {
		cmd := exec.Command("tar", "-xp", "--numeric-owner", "-C", dir)
		cmd.Stdin = bytes.NewReader(data)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("tar: %v: %s", err, out)
		}
	}
	return dir
}

// image makes an image whose command reads dir with goprog.
func image(t *testing.T, dir string, tars [][]byte, forms ...imagetest.Form) *imagetest.Image {
	t.Helper()
	return must(imagetest.Make(ocispec.ImageConfig{Cmd: []string{"/bin/goprog", dir}}, tars, forms...))(t)
}

// goprogOutput is what goprog prints of a folder that is right.
func goprogOutput(t *testing.T, dir string) string {
	t.Helper()
	cmd := exec.Command("go", "run", root+"/script/imagetest/testdata/goprog/main.go", dir)
	return strings.TrimSpace(string(must(cmd.Output())(t)))
}

// runs checks that an image's command prints want under our snapshotter.
func (n *node) runs(ref, id, want string) {
	n.Helper()
	out, err := n.c.Run(n.ctx, ns, ours, ref, id)
	if err != nil || strings.TrimSpace(out) != want {
		n.Fatalf("container %s: printed %q, want %q: %v", id, out, want, err)
	}
}

// connected waits until containerd talks with a daemon that was started again: it
// tries less often the longer it has not found one, and says meanwhile what it
// found last.
func (n *node) connected() {
	n.Helper()
	ctr := func(args ...string) error {
		_, err := n.c.Ctr(n.ctx, append([]string{"-n", ns, "snapshots", "--snapshotter", ours}, args...)...)
		return err
	}
	// What is only listed is not always asked for.
	n.must(lab.Eventually(n.ctx, 30*time.Second, func() error { return ctr("prepare", "connected") }))
	n.must(ctr("rm", "connected"))
}

// states returns the number of layers in each state.
func (n *node) states() map[string]int {
	n.Helper()
	count := map[string]int{}
	for _, l := range must(n.d.Layers(n.ctx))(n.T) {
		count[l.State]++
	}
	return count
}

// mounted mounts an image until the test ends; then both are removed.
func (n *node) mounted(snapshotter, ref string) string {
	n.Helper()
	target := n.Path("mnt", fmt.Sprint(time.Now().UnixNano()))
	n.must(n.c.Mount(n.ctx, ns, snapshotter, ref, target))
	n.Cleanup(func() {
		ctx := context.WithoutCancel(n.ctx)
		// Some tests do it themselves.
		_ = n.c.Unmount(ctx, ns, snapshotter, target)
		_ = n.c.Collect(ctx, ns, ref)
	})
	return target
}

// mountLine returns the line of mountinfo for a mount point.
func mountLine(t *testing.T, target string) string {
	t.Helper()
	for line := range strings.Lines(string(must(os.ReadFile("/proc/self/mountinfo"))(t))) {
		if strings.Contains(line, " "+target+" ") {
			return line
		}
	}
	t.Fatalf("%s is not mounted", target)
	return ""
}

// throughFUSE reports whether a mount is, or has layers, in a session of the
// daemon.
func throughFUSE(line string) bool {
	if strings.Contains(line, " - fuse.") {
		return true
	}
	_, lower, _ := strings.Cut(line, "lowerdir=")
	for _, lower := range strings.FieldsFunc(lower, func(r rune) bool { return strings.ContainsRune("=:,", r) }) {
		if d := filepath.Base(filepath.Dir(lower)); d == "m" || d == "n" {
			return true
		}
	}
	return false
}
