package doctor

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfget/containerd"
)

// checkContainerd asks containerd what it is, and looks at its configuration.
func (d *Doctor) checkContainerd(ctx context.Context) {
	c, err := containerd.Open(d.Containerd, "default")
	if err == nil {
		d.version, err = c.Version(ctx)
	}
	if err != nil {
		d.found("containerd", Failed, err.Error(), "Does containerd run, and is "+d.Containerd+" its socket (--containerd)?")
		return
	}
	d.client = c
	d.found("containerd", OK, "version "+d.version, "")
	d.checkPlugin(ctx)
	if d.process, err = c.Process(ctx); err != nil {
		d.found("settings", Skipped, "containerd's process cannot be found: "+err.Error(), "")
		return
	}
	d.checkSettings(ctx)
	d.checkSocket(ctx)
}

// checkPlugin looks at the proxy plugin of the containerd that runs.
func (d *Doctor) checkPlugin(ctx context.Context) {
	p, err := d.client.Plugin(ctx, "io.containerd.snapshotter.v1", d.Snapshotter)
	switch {
	case err != nil:
		d.found("plugin", Failed, err.Error(), "")
	case p == nil:
		d.found("plugin", Failed, fmt.Sprintf("the containerd that runs knows no snapshotter %q", d.Snapshotter),
			"Write what is said of its settings, and restart containerd; or name another one (--snapshotter).")
	case p.Failed != "":
		d.found("plugin", Failed, p.Failed, "Restart containerd.")
	default:
		d.found("plugin", OK, fmt.Sprintf("containerd knows %q", d.Snapshotter), "")
	}
}

func (d *Doctor) checkSettings(ctx context.Context) {
	config, err := d.process.ReadConfig(ctx)
	if err != nil {
		d.found("settings", Skipped, err.Error(), "")
		return
	}
	s := containerd.Snapshotter{Name: d.Snapshotter}
	if d.status != nil {
		s.Address = d.status.Address
	}
	wrong := config.Wrong(d.version, s)
	for _, w := range wrong {
		state := Failed
		if w.Kubernetes && !d.Kubernetes {
			state, w.Text = Warning, w.Text+" (which is as it should be where no kubelet uses this containerd)"
		}
		d.found("settings", state, w.Text, "In "+d.process.Config+":\n"+w.Fix+"\nand restart containerd.")
	}
	if at, ok := d.process.Changed(); ok {
		d.found("settings", Warning, fmt.Sprintf("%s was changed %s, after containerd was started", d.process.Config, at.Local().Format(time.DateTime)), "Restart containerd.")
	}
	if dirs := config.HostsDirs(); d.status != nil && len(dirs) > 0 && !slices.Contains(dirs, d.status.HostsDir) {
		d.found("settings", Warning, fmt.Sprintf("containerd reads hosts.toml files below %s, and the agent below %s", strings.Join(dirs, ", "), d.status.HostsDir),
			fmt.Sprintf("In the agent's configuration:\n[registry]\nhosts_dir = %q", dirs[0]))
	}
	if len(wrong) == 0 {
		d.found("settings", OK, d.process.Config, "")
	}
}

// seen is a path as containerd sees it.
func (d *Doctor) seen(path string) string {
	return filepath.Join("/proc", strconv.Itoa(d.process.PID), "root", path)
}

// checkSocket connects to the snapshotter where containerd does.
func (d *Doctor) checkSocket(ctx context.Context) {
	if d.status == nil {
		return
	}
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", d.seen(d.status.Address))
	if err != nil {
		d.found("socket", Failed, "containerd cannot reach the snapshotter: "+err.Error(), "Does containerd see "+d.status.Address+"? It must not run in a container without that folder.")
		return
	}
	_ = conn.Close() // nothing was said
	d.found("socket", OK, d.status.Address, "")
}

// sessions are the folders below the root that are mounted.
var sessions = []string{"m", "n"}

// checkMount looks whether containerd sees the mounts of layers, and whether they
// answer.
func (d *Doctor) checkMount(ctx context.Context) {
	if d.process.PID == 0 {
		d.found("mount", Skipped, "containerd's process cannot be found", "")
		return
	}
	mounted, err := mounts(d.process.PID)
	if err != nil {
		d.found("mount", Skipped, err.Error(), "")
		return
	}
	for _, name := range sessions {
		path := filepath.Join(d.status.Root, name)
		if mounted[path] == "" {
			d.found("mount", Failed, "containerd does not see the mount at "+path,
				"They must share a mount namespace: no PrivateMounts, PrivateTmp or ProtectSystem in the agent's or containerd's unit that hides it; in containers mount propagation must be Bidirectional.")
			return
		}
		if err := within(ctx, 10*time.Second, func() error { _, err := os.Stat(d.seen(path)); return err }); err != nil {
			d.found("mount", Failed, fmt.Sprintf("%s does not answer: %v", path, err), "Start the agent; \"dfsnapshotter keeper abort\" frees what hangs.")
			return
		}
	}
	d.found("mount", OK, filepath.Join(d.status.Root, strings.Join(sessions, " and ")), "")
}

// mounts returns the file systems that a process sees, by where they are.
func mounts(pid int) (map[string]string, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/mountinfo")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	all := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if ok && len(fields) > 4 && len(kind) > 0 {
			all[fields[4]] = kind[0]
		}
	}
	return all, lines.Err()
}

// within waits for f, but not for longer; what hangs is left behind.
func within(ctx context.Context, limit time.Duration, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return fmt.Errorf("nothing for %s", limit)
	case <-ctx.Done():
		return ctx.Err()
	}
}
