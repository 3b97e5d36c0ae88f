package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Daemon is a dfsnapshotter.
type Daemon struct {
	*Process
	Debug string // host:port of metrics and health

	lab    *Lab
	flags  []string
	config string
}

// SnapshotterSocket is where containerd finds the lab's dfsnapshotter.
func (l *Lab) SnapshotterSocket() string { return l.Path("df.sock") }

// SnapshotterRoot is the root folder of the lab's dfsnapshotter.
func (l *Lab) SnapshotterRoot() string { return l.Path("df") }

// Daemon starts a dfsnapshotter. more is added to its configuration, flags to
// its arguments.
func (l *Lab) Daemon(ctx context.Context, more string, flags ...string) (*Daemon, error) {
	if _, err := os.Stat(l.binary()); err != nil {
		if out, err := exec.CommandContext(ctx, filepath.Join(l.Root, "script/build"), filepath.Dir(l.binary())).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("script/build: %w: %s", err, out)
		}
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	d := &Daemon{lab: l, Debug: "127.0.0.1:" + port, flags: flags}
	d.config, err = l.write("df.toml", fmt.Sprintf(`root = %q
address = %q
[registry]
hosts_dir = %q
docker_config = ""
[debug]
listen = %q
%s
`, l.SnapshotterRoot(), l.SnapshotterSocket(), l.HostsDir(), d.Debug, more))
	if err != nil {
		return nil, err
	}
	return d, d.Start(ctx)
}

// binary is the daemon to test: the one named by DFSNAPSHOTTER, or one built
// for this lab.
func (l *Lab) binary() string {
	if b := os.Getenv("DFSNAPSHOTTER"); b != "" {
		return b
	}
	return l.Path("bin", "dfsnapshotter")
}

// Start starts the daemon again after it was stopped or killed.
func (d *Daemon) Start(ctx context.Context) error {
	var err error
	argv := append([]string{d.lab.binary(), "--config", d.config}, d.flags...)
	if d.Process, err = d.lab.Start("df", nil, argv...); err != nil {
		return err
	}
	return d.ready(ctx, 60*time.Second, func() error {
		resp, err := http.Get("http://" + d.Debug + "/readyz")
		if err != nil {
			return err
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode == http.StatusOK {
			return err
		}
		return errors.New(resp.Status)
	})
}

// Reset stops the daemon and its keeper, removes what they had on disk but the
// entries of the root named by keep, and starts anew.
func (d *Daemon) Reset(ctx context.Context, keep ...string) error {
	if err := d.Stop(); err != nil {
		return err
	}
	err := Eventually(ctx, 10*time.Second, func() error {
		keepers := d.Keepers()
		for _, pid := range keepers {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
		}
		if len(keepers) > 0 {
			return fmt.Errorf("keepers %v do not end", keepers)
		}
		return nil
	})
	root := d.lab.SnapshotterRoot()
	if err = errors.Join(err, unmount(root)); err != nil {
		return err
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.Contains(keep, e.Name()) {
			if err := os.RemoveAll(filepath.Join(root, e.Name())); err != nil {
				return err
			}
		}
	}
	return d.Start(ctx)
}

// Layer is what the daemon says of a layer.
type Layer struct {
	ID     uint32
	Blob   string
	Kind   string
	State  string
	Chunks int
	Filled int
	Reason string
}

// Layers asks the daemon what its layers do.
func (d *Daemon) Layers(ctx context.Context) ([]Layer, error) {
	out, err := d.CLI(ctx, "status", "--json")
	if err != nil {
		return nil, err
	}
	var layers []Layer
	if err := json.Unmarshal([]byte(out), &layers); err != nil {
		return nil, fmt.Errorf("status of the daemon: %w: %.200s", err, out)
	}
	return layers, nil
}

// Complete waits until all layers are ordinary directories.
func (d *Daemon) Complete(ctx context.Context, limit time.Duration) error {
	return Eventually(ctx, limit, func() error {
		layers, err := d.Layers(ctx)
		for _, l := range layers {
			if l.State != "complete" {
				return fmt.Errorf("layer %d (%s) is %s, %d of %d chunks %s", l.ID, l.Kind, l.State, l.Filled, l.Chunks, l.Reason)
			}
		}
		return err
	})
}

// Keepers returns the lab's keeper processes.
func (d *Daemon) Keepers() []int {
	var pids []int
	for _, pid := range processes(d.lab.Dir) {
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if argv := strings.Split(string(args), "\x00"); len(argv) > 1 && filepath.Base(argv[0]) == "dfsnapshotter" && argv[1] == "keeper" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// CLI runs a subcommand of dfsnapshotter against the daemon.
func (d *Daemon) CLI(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, d.lab.binary(), append(args, "--config", d.config)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("dfsnapshotter %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Cost is what a process has used.
type Cost struct {
	PeakRSS int64 // bytes
	CPU     time.Duration
}

// Cost returns what the daemon has used since it started.
func (p *Process) Cost() (Cost, error) {
	proc := filepath.Join("/proc", strconv.Itoa(p.Process.Pid))
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		return Cost{}, err
	}
	var c Cost
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return Cost{}, err
			}
			c.PeakRSS = kb << 10
		}
	}
	stat, err := os.ReadFile(proc + "/stat")
	if err != nil {
		return Cost{}, err
	}
	// The name may hold anything, so fields are counted from its end; user and
	// system time are the 14th and 15th, in ticks of 10 ms.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, f := range fields[11:13] {
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return Cost{}, err
		}
		c.CPU += time.Duration(ticks) * 10 * time.Millisecond
	}
	return c, nil
}

// hasCapability reports whether this process has a capability.
func hasCapability(n uint) bool {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "CapEff:" {
			set, err := strconv.ParseUint(f[1], 16, 64)
			return err == nil && set&(1<<n) != 0
		}
	}
	return false
}
