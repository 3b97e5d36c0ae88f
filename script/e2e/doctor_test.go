package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// finding is one of dfget doctor's.
type finding struct{ Check, State, Text, Fix string }

// doctor runs dfget doctor and returns what it finds, by its checks, and its exit code.
func (n *node) doctor(c string, args ...string) (map[string]finding, int) {
	n.Helper()
	out, err := n.Dfget(n.ctx, append([]string{"doctor", "--json", "--containerd", n.Path(c, "containerd.sock"), "--agent", n.StatusSocket()}, args...)...)
	var list []finding
	if e := json.Unmarshal([]byte(out), &list); e != nil {
		n.Fatalf("dfget doctor: %v: %v: %s", err, e, out)
	}
	all := map[string]finding{}
	for _, f := range list {
		n.Logf("%+v", f)
		if was, ok := all[f.Check]; !ok || was.State != "failed" {
			all[f.Check] = f
		}
	}
	if err == nil {
		return all, 0
	}
	return all, exitCode(err)
}

// finds holds what dfget doctor says of some checks.
func finds(t *testing.T, all map[string]finding, want map[string]string) {
	t.Helper()
	for check, text := range want {
		state, text, _ := strings.Cut(text, ": ")
		if f := all[check]; f.State != state || !strings.Contains(f.Text+f.Fix, text) {
			t.Errorf("of %q it says %+v, want it %s because of %q", check, f, state, text)
		}
	}
}

// TestDoctor lets dfget doctor look at hosts where all is well, and at some where it is
// not.
func TestDoctor(t *testing.T) {
	t.Run("containerd 2", func(t *testing.T) {
		n := start(t, options{})
		healthy := map[string]string{
			"agent": "ok", "containerd": "ok: 2.", "plugin": "ok", "settings": "ok", "socket": "ok", "mount": "ok",
			"pull": "ok: read", "pull by CRI": "ok: read", "cluster": "ok",
		}
		all, code := n.doctor("c", "--kubernetes")
		finds(t, all, healthy)
		if code != 0 {
			t.Errorf("the exit code is %d", code)
		}
		if out, err := n.c.Ctr(n.ctx, "-n", "k8s.io", "images", "ls"); err != nil || strings.Contains(out, "dfget/doctor") {
			t.Errorf("test images are left: %v: %s", err, out)
		}
		n.change("c", `enable_remote_snapshot_annotations = "true"`, "")
		all, code = n.doctor("c", "--kubernetes")
		finds(t, all, map[string]string{
			"settings": "failed: enable_remote_snapshot_annotations", "pull": "failed: the agent was not given",
			"pull by CRI": "failed: the agent was not given",
		})
		if code != 8 {
			t.Errorf("without labels the exit code is %d", code)
		}
		n.must(n.d.Stop())
		if all, code = n.doctor("c", "--no-pull"); code != 8 || all["agent"].State != "failed" {
			t.Errorf("without an agent the exit code is %d", code)
		}
	})
	t.Run("containerd 1.6", func(t *testing.T) {
		n := start(t, options{old: true})
		all, code := n.doctor("c16", "--kubernetes")
		finds(t, all, map[string]string{"containerd": "ok: 1.6", "settings": "ok", "pull": "skipped", "pull by CRI": "ok: read"})
		if code != 0 {
			t.Errorf("the exit code is %d", code)
		}
		n.change("c16", "disable_snapshot_annotations = false", "disable_snapshot_annotations = true")
		all, code = n.doctor("c16", "--kubernetes")
		finds(t, all, map[string]string{"settings": "failed: disable_snapshot_annotations = false", "pull by CRI": "failed: the agent was not given"})
		if code != 8 {
			t.Errorf("without labels the exit code is %d", code)
		}
	})
}

// change changes containerd's configuration and restarts it.
func (n *node) change(c, from, to string) {
	n.Helper()
	path := n.Path(c, "config.toml")
	text := string(must(os.ReadFile(path))(n.T))
	if !strings.Contains(text, from) {
		n.Fatalf("%s is not in %s", from, path)
	}
	n.must(os.WriteFile(path, []byte(strings.ReplaceAll(text, from, to)), 0o644))
	n.must(n.c.Stop())
	n.must(n.c.Start(n.ctx))
}
