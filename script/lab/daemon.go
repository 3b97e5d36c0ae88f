package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	Debug   string // host:port of metrics and health, on its host
	Mirror  string // … of the registry mirror
	Program string // started from the next Start on; "": the lab's

	at      *Host
	address string
	flags   []string
	config  string
}

// SnapshotterSocket is where containerd finds this machine's dfsnapshotter.
func (l *Lab) SnapshotterSocket() string { return l.machine().SnapshotterSocket() }

// SnapshotterRoot is the root folder of this machine's dfsnapshotter.
func (l *Lab) SnapshotterRoot() string { return l.machine().SnapshotterRoot() }

// SnapshotterSocket is where containerd finds the host's dfsnapshotter.
func (h *Host) SnapshotterSocket() string { return h.Path("df.sock") }

// SnapshotterRoot is the root folder of the host's dfsnapshotter.
func (h *Host) SnapshotterRoot() string { return h.Path("df") }

// Daemon starts a dfsnapshotter on this machine. more is added to its
// configuration, flags to its arguments.
func (l *Lab) Daemon(ctx context.Context, more string, flags ...string) (*Daemon, error) {
	return l.machine().Daemon(ctx, more, flags...)
}

// Daemon starts a dfsnapshotter. more is added to its configuration, flags to
// its arguments.
func (h *Host) Daemon(ctx context.Context, more string, flags ...string) (*Daemon, error) {
	return h.daemon(ctx, h.SnapshotterSocket(), more, flags)
}

// Seed starts a dfsnapshotter that mounts nothing. more is added to its
// configuration, and must say that it is a seed.
func (h *Host) Seed(ctx context.Context, more string, flags ...string) (*Daemon, error) {
	return h.daemon(ctx, "", more, flags)
}

func (h *Host) daemon(ctx context.Context, address, more string, flags []string) (*Daemon, error) {
	debug, err := h.debugAddr("65004")
	if err != nil {
		return nil, err
	}
	d := &Daemon{at: h, Debug: debug, address: address, flags: flags}
	if d.Mirror, err = h.debugAddr("65001"); err != nil {
		return nil, err
	}
	if err := d.configure(more); err != nil {
		return nil, err
	}
	return d, d.Start(ctx)
}

// configure writes the configuration file.
func (d *Daemon) configure(more string) (err error) {
	h := d.at
	d.config, err = h.write("df.toml", fmt.Sprintf(`root = %q
address = %q
[registry]
hosts_dir = %q
docker_config = %q
[mirror]
listen = %q
upstream = %q
[debug]
listen = %q
%s
`, h.SnapshotterRoot(), d.address, h.lab.HostsDir(), h.DockerConfig(), d.Mirror, h.lab.Upstream, d.Debug, more))
	return err
}

// DockerConfig is the file in which the host's dfsnapshotter looks for
// credentials. There is none unless a test writes it.
func (h *Host) DockerConfig() string { return h.Path("docker.json") }

// debugAddr returns an address for operators that is free on the host.
func (h *Host) debugAddr(usual string) (string, error) {
	if h.ns != "" {
		return "127.0.0.1:" + usual, nil
	}
	port, err := freePort()
	return "127.0.0.1:" + port, err
}

// binary returns a program to test: the one named by DFSNAPSHOTTER, those
// beside it, or else one built for this lab.
func (l *Lab) binary(ctx context.Context, name string) (string, error) {
	if b := os.Getenv("DFSNAPSHOTTER"); b != "" {
		if name != "dfsnapshotter" {
			b = filepath.Join(filepath.Dir(b), name)
		}
		if _, err := os.Stat(b); err == nil || name == "dfsnapshotter" {
			return b, err
		}
	}
	bin := l.Path("bin", name)
	l.building.Lock()
	defer l.building.Unlock()
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	if out, err := exec.CommandContext(ctx, filepath.Join(l.Root, "script/build"), filepath.Dir(bin)).CombinedOutput(); err != nil {
		return "", fmt.Errorf("script/build: %w: %s", err, out)
	}
	return bin, nil
}

func (d *Daemon) binary(ctx context.Context) (string, error) {
	if d.Program != "" {
		return d.Program, nil
	}
	return d.at.lab.binary(ctx, "dfsnapshotter")
}

// Start starts the daemon again after it was stopped or killed.
func (d *Daemon) Start(ctx context.Context) error {
	bin, err := d.binary(ctx)
	if err != nil {
		return err
	}
	argv := append([]string{bin, "--config", d.config}, d.flags...)
	if d.Process, err = d.at.Start("df", nil, argv...); err != nil {
		return err
	}
	return d.ready(ctx, 60*time.Second, func() error { return d.at.isReady(ctx, d.Debug) })
}

// isReady asks a program of the host's at its debug address.
func (h *Host) isReady(ctx context.Context, debug string) error {
	_, err := h.get(ctx, "http://"+debug+"/readyz")
	return err
}

// get returns what a URL holds for a program of the host's.
func (h *Host) get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := h.Client().Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// Metrics returns the daemon's metrics by name and labels, as they are written.
func (d *Daemon) Metrics(ctx context.Context) (map[string]float64, error) {
	return d.at.metrics(ctx, d.Debug)
}

func (h *Host) metrics(ctx context.Context, debug string) (map[string]float64, error) {
	text, err := h.get(ctx, "http://"+debug+"/metrics")
	all := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if ok {
			name += "}"
		} else if name, value, ok = strings.Cut(strings.TrimSpace(line), " "); !ok || name == "#" {
			continue
		}
		if all[name], err = strconv.ParseFloat(value, 64); err != nil {
			return nil, fmt.Errorf("metric %s: %w", name, err)
		}
	}
	return all, err
}

// Reset stops the daemon and its keeper, removes what they had on disk but the
// entries of the root named by keep, and starts anew.
func (d *Daemon) Reset(ctx context.Context, keep ...string) error {
	if err := d.Wipe(keep...); err != nil {
		return err
	}
	return d.Start(ctx)
}

// Wipe does what Reset does before the start.
func (d *Daemon) Wipe(keep ...string) error {
	if err := d.Stop(); err != nil {
		return err
	}
	err := Eventually(context.Background(), 10*time.Second, func() error {
		keepers := d.Keepers()
		for _, pid := range keepers {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
		}
		if len(keepers) > 0 {
			return fmt.Errorf("keepers %v do not end", keepers)
		}
		return nil
	})
	root := d.at.SnapshotterRoot()
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
	return nil
}

// Layer is what the daemon says of a layer.
type Layer struct {
	ID     uint32
	Blob   string
	Size   int64 // of the blob, bytes
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

// Keepers returns the host's keeper processes.
func (d *Daemon) Keepers() []int {
	var pids []int
	for _, pid := range processes(d.at.dir) {
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if argv := strings.Split(string(args), "\x00"); len(argv) > 1 && filepath.Base(argv[0]) == "dfsnapshotter" && argv[1] == "keeper" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// CLI runs a subcommand of dfsnapshotter against the daemon.
func (d *Daemon) CLI(ctx context.Context, args ...string) (string, error) {
	bin, err := d.binary(ctx)
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, bin, append(args, "--config", d.config)...).CombinedOutput()
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
