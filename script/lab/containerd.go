package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Containerd is a containerd with dfsnapshotter as a proxy plugin.
type Containerd struct {
	*Process
	Socket string

	at   *Host
	bin  string // folder of its programs
	argv []string
}

// ContainerdConfig says what differs between labs' containerds.
type ContainerdConfig struct {
	Old         bool   // Debian's containerd 1.6
	Snapshotter string // of CRI; "" = dfsnapshotter
	Pause       string // the image of pod sandboxes
	Install     bool   // `dfsnapshotter install` adds what makes it use dfsnapshotter
}

// Containerd starts a containerd on this machine.
func (l *Lab) Containerd(ctx context.Context, cfg ContainerdConfig) (*Containerd, error) {
	return l.machine().Containerd(ctx, cfg)
}

// Containerd starts a containerd that reaches the host's dfsnapshotter whenever
// that is up.
func (h *Host) Containerd(ctx context.Context, cfg ContainerdConfig) (*Containerd, error) {
	l, name, text := h.lab, "c", configV3
	c := &Containerd{at: h, bin: filepath.Join(l.Root, ".tools/bin")}
	if cfg.Old {
		name, text = "c16", configV2
		c.bin = filepath.Join(l.Root, ".tools/debian/usr/bin")
	}
	if cfg.Snapshotter == "" {
		cfg.Snapshotter = "dfsnapshotter"
	}
	if cfg.Pause == "" {
		cfg.Pause = "none/pause"
	}
	// CRI may not lower a container's oom_score_adj without the capability to.
	restrict := fmt.Sprint(!hasCapability(24))
	text = strings.NewReplacer(
		"DIR", h.Path(name), "SNAPSHOTTER", cfg.Snapshotter, "PAUSE", cfg.Pause, "RESTRICT", restrict,
		"HOSTS", l.HostsDir(), "SOCKET", h.SnapshotterSocket(), "STARGZ", h.StargzSocket(), "ROOT", h.SnapshotterRoot(),
	).Replace(text)
	if _, err := l.write("root", l.Root); err != nil {
		return nil, err
	}
	if cfg.Install {
		text, _, _ = strings.Cut(text, "[plugins.'io.containerd.transfer.v1.local']")
		text = strings.ReplaceAll(text, `snapshotter = "dfsnapshotter"`, "# a comment")
	}
	config, err := h.write(name+"/config.toml", text)
	if err != nil {
		return nil, err
	}
	if cfg.Install {
		if err := h.install(ctx, "containerd", "--containerd-config", config, "--containerd", filepath.Join(c.bin, "containerd")); err != nil {
			return nil, err
		}
	}
	c.Socket = h.Path(name, "containerd.sock")
	c.argv = []string{filepath.Join(c.bin, "containerd"), "--config", config}
	return c, c.Start(ctx)
}

// Start starts containerd again after it was stopped or killed.
func (c *Containerd) Start(ctx context.Context) (err error) {
	env := []string{"PATH=" + c.bin + ":" + c.at.lab.Tool("") + ":" + os.Getenv("PATH")}
	if c.Process, err = c.at.Start(filepath.Base(filepath.Dir(c.Socket)), env, c.argv...); err != nil {
		return err
	}
	return c.ready(ctx, 30*time.Second, func() error {
		_, err := c.Ctr(ctx, "--timeout", "2s", "version")
		return err
	})
}

// Reset ends all containers, stops containerd, removes what it had on disk, and
// starts it anew.
func (c *Containerd) Reset(ctx context.Context) error {
	dir := filepath.Dir(c.Socket)
	endTasks(filepath.Join(c.bin, "ctr"), dir)
	err := errors.Join(c.Stop(), unmount(dir))
	for _, d := range []string{"root", "state"} {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, d)))
	}
	if err != nil {
		return err
	}
	return c.Start(ctx)
}

// command returns ctr with args. No namespace among args means "default".
func (c *Containerd) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "ctr"), append([]string{"-a", c.Socket}, args...)...)
	cmd.Env = append(os.Environ(), "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1")
	return cmd
}

// Ctr runs ctr and returns what it prints.
func (c *Containerd) Ctr(ctx context.Context, args ...string) (string, error) {
	var stderr strings.Builder
	cmd := c.command(ctx, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// Pull pulls an image in namespace ns for a snapshotter, through the transfer
// service where containerd has one.
func (c *Containerd) Pull(ctx context.Context, ns, snapshotter, ref string) error {
	_, err := c.Ctr(ctx, "-n", ns, "images", "pull", "--hosts-dir", c.at.lab.HostsDir(), "--snapshotter", snapshotter, ref)
	return err
}

// Run runs an image's command, or args, in a container that is then removed,
// and returns what it printed. Its shim writes that to a file: what goes through ctr is
// lost if the container ends before a ctr on a busy machine has opened its pipes.
func (c *Containerd) Run(ctx context.Context, ns, snapshotter, ref, id string, args ...string) (string, error) {
	f, err := os.CreateTemp(c.at.Path(), "printed")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	_, err = c.Ctr(ctx, append([]string{"-n", ns, "run", "--rm", "--net-host", "--log-uri", "file://" + f.Name(), "--snapshotter", snapshotter, ref, id}, args...)...)
	out, rerr := io.ReadAll(f)
	if err != nil && len(out) > 0 {
		err = fmt.Errorf("%w: it printed %q", err, out[max(0, len(out)-500):])
	}
	return string(out), errors.Join(err, rerr, f.Close())
}

// Task is a container's task that was started.
type Task struct {
	printing
	c      *Containerd
	ns, id string
}

// StartTask starts the task of a container and returns when it has printed a
// first line or has ended. If neither happens within limit it is stopped and the
// error is ErrSilent.
func (c *Containerd) StartTask(ctx context.Context, ns, id string, limit time.Duration) (*Task, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := c.command(ctx, "-n", ns, "tasks", "start", id)
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	t := &Task{printing: newPrinting(), c: c, ns: ns, id: id}
	go t.watch(cmd, r)
	if err := t.await(limit, t.killer(ctx)); err != nil {
		return nil, err
	}
	return t, nil
}

// watch reads what the task prints until it ends.
func (t *Task) watch(cmd *exec.Cmd, out *os.File) {
	defer close(t.ended)
	t.listen(out)
	if err := errors.Join(cmd.Wait(), out.Close()); err != nil {
		t.err = fmt.Errorf("%w: %w: %s", ErrFailed, err, t.last)
	}
}

// Stop waits for the task's end, at most for grace, and then kills it. The
// error is that of a task that failed before.
func (t *Task) Stop(ctx context.Context, grace time.Duration) error {
	return t.stop(grace, t.killer(ctx))
}

func (t *Task) killer(ctx context.Context) func() error {
	return func() error {
		_, err := t.c.Ctr(ctx, "-n", t.ns, "tasks", "kill", "--signal", "SIGKILL", t.id)
		return err
	}
}

// Mount mounts an image's tree, read-only, as a container would have it.
func (c *Containerd) Mount(ctx context.Context, ns, snapshotter, ref, target string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	_, err := c.Ctr(ctx, "-n", ns, "images", "mount", "--snapshotter", snapshotter, ref, target)
	return err
}

// Unmount undoes Mount.
func (c *Containerd) Unmount(ctx context.Context, ns, snapshotter, target string) error {
	_, err := c.Ctr(ctx, "-n", ns, "images", "unmount", "--rm", "--snapshotter", snapshotter, target)
	return err
}

// Collect makes containerd forget images and collect what nobody needs.
func (c *Containerd) Collect(ctx context.Context, ns string, refs ...string) error {
	_, err := c.Ctr(ctx, append([]string{"-n", ns, "images", "rm", "--sync"}, refs...)...)
	return err
}

const configV3 = `version = 3
root = "DIR/root"
state = "DIR/state"
[grpc]
  address = "DIR/containerd.sock"
[plugins.'io.containerd.nri.v1.nri']
  disable = true # its socket is the machine's
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "SNAPSHOTTER"
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = "HOSTS"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "PAUSE"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = RESTRICT
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["DIR/cni/bin"]
    conf_dir = "DIR/cni/conf"
[plugins.'io.containerd.transfer.v1.local']
  config_path = "HOSTS"
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
  platform = "linux"
  snapshotter = "overlayfs"
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
  platform = "linux"
  snapshotter = "dfsnapshotter"
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
  platform = "linux"
  snapshotter = "stargz"
[proxy_plugins.stargz]
  type = "snapshot"
  address = "STARGZ"
  [proxy_plugins.stargz.exports]
    enable_remote_snapshot_annotations = "true"
[proxy_plugins.dfsnapshotter]
  type = "snapshot"
  address = "SOCKET"
  capabilities = ["remap-ids"]
  [proxy_plugins.dfsnapshotter.exports]
    root = "ROOT"
    enable_remote_snapshot_annotations = "true"
`

const configV2 = `version = 2
root = "DIR/root"
state = "DIR/state"
[grpc]
  address = "DIR/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "PAUSE"
  restrict_oom_score_adj = RESTRICT
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "DIR/cni/bin"
    conf_dir = "DIR/cni/conf"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "HOSTS"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "SNAPSHOTTER"
    disable_snapshot_annotations = false
    discard_unpacked_layers = false
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
[proxy_plugins.dfsnapshotter]
  type = "snapshot"
  address = "SOCKET"
`
