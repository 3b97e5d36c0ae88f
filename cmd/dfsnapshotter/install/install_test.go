package install

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const tools = "../../../.tools/"

// programs are the containerds that are here.
var programs = map[string]string{
	"2.3": tools + "bin/containerd",
	"1.7": tools + "containerd-1.7/containerd",
	"1.6": tools + "debian/usr/bin/containerd",
}

// configs are what a machine may have, by name; "" is the main one.
var configs = map[string]map[string]string{
	"none": {},
	"no CRI": {"config.toml": `#   Copyright 2018-2022 Docker Inc.
disabled_plugins = ["io.containerd.grpc.v1.cri"]
version = 2

#[debug]
#  level = "info"
`},
	"settings and imports": {"config.toml": `# my config
version = 2
imports = ["other.toml"] # mine

[plugins]
  # of the site
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "x/pause:1" # keep
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "crun"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
      runtime_type = "io.containerd.runc.v2"
[proxy_plugins.other]
  type = "snapshot"
  address = "/run/other.sock"
# end`, "other.toml": "version = 2\n[debug]\n  level = \"warn\"\n"},
	"drop-ins": {
		"config.toml":        "version = 2\nimports = [\n  'conf.d/*.toml',\n]\n",
		"conf.d/99-log.toml": "version = 2\n[debug]\n  level = \"warn\"\n",
	},
	"registries": {"config.toml": `version = 2
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "/etc/elsewhere"
`},
}

// newer is for containerd 2.
var newer = map[string]map[string]string{
	"version 3": {"config.toml": `version = 3
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'native' # because
  use_local_image_pull = true
`},
	"other snapshotters": {"config.toml": `version = 3
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
  platform = "linux"
  snapshotter = "native"
`},
}

// machine is a folder that stands for one.
type machine struct {
	Config
	dir string
}

func newMachine(t *testing.T, files map[string]string) machine {
	t.Helper()
	dir := t.TempDir()
	m := machine{Config{
		Address: "/run/dfsnapshotter/dfsnapshotter.sock", Root: "/var/lib/dfsnapshotter", Mirror: "127.0.0.1:65001",
		Upstream: "https://registry-1.docker.io", HostsDir: filepath.Join(dir, "certs.d"), CRI: true,
		ContainerdConfig: filepath.Join(dir, "containerd/config.toml"), DockerConfig: filepath.Join(dir, "docker/daemon.json"),
		Registries: filepath.Join(dir, "containers/registries.conf"), State: filepath.Join(dir, "state/install"),
	}, dir}
	for name, text := range files {
		m.put(t, name, text)
	}
	return m
}

func (m machine) put(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(m.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o640)); err != nil {
		t.Fatal(err)
	}
}

// files returns all that is there, with its modes.
func (m machine) files(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(m.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, ierr := e.Info()
		text, rerr := os.ReadFile(path)
		name, nerr := filepath.Rel(m.dir, path)
		all[name] = info.Mode().String() + "\n" + string(text)
		return errors.Join(ierr, rerr, nerr)
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (m machine) plan(t *testing.T, r Runtime) *Plan {
	t.Helper()
	p, err := m.Plan(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// install carries a plan out and sees that nothing is left to do then.
func (m machine) install(t *testing.T, r Runtime) {
	t.Helper()
	if err := m.Apply(t.Context(), m.plan(t, r)); err != nil {
		t.Fatal(err)
	}
	if again := m.plan(t, r); len(again.Changes) > 0 {
		diff, err := again.Changes[0].Diff()
		t.Errorf("a second time it would change %s: %v\n%s", again.Changes[0].Path, err, diff)
	}
}

func (m machine) uninstall(t *testing.T) *Plan {
	t.Helper()
	p, err := m.Undo(Runtimes)
	if err == nil {
		err = m.Revert(p)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestContainerd configures real containerds, which then say that they understand it,
// and puts everything back.
func TestContainerd(t *testing.T) {
	t.Parallel()
	for version, program := range programs {
		if _, err := os.Stat(program); err != nil {
			t.Skipf("missing: %s (script/install-deps)", program)
		}
		cases := map[string]map[string]string{}
		for name, files := range configs {
			cases[name] = files
		}
		if version >= "2" {
			for name, files := range newer {
				cases[name] = files
			}
		}
		for name, files := range cases {
			t.Run(version+"/"+name, func(t *testing.T) {
				t.Parallel()
				m := newMachine(t, nil)
				m.Containerd = must(filepath.Abs(program))(t)
				for f, text := range files {
					m.put(t, "containerd/"+f, text)
				}
				before := m.files(t)
				p := m.plan(t, Containerd)
				if diff := cmp.Diff(before, m.files(t)); diff != "" {
					t.Fatalf("a plan changed files:\n%s", diff)
				}
				m.install(t, Containerd)
				m.keeps(t, files)
				m.understood(t, version, name, p)
				m.uninstall(t)
				if diff := cmp.Diff(before, m.files(t)); diff != "" {
					t.Errorf("undone, it is not what it was (-was +is):\n%s", diff)
				}
			})
		}
	}
}

// keeps checks that every line of a file is still there, in order.
func (m machine) keeps(t *testing.T, files map[string]string) {
	t.Helper()
	for f, text := range files {
		now := must(os.ReadFile(filepath.Join(m.dir, "containerd", f)))(t)
		rest := string(now)
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "imports") {
				line = "imports = ["
			}
			if strings.Contains(line, "'native' # because") {
				line = "# because"
			}
			_, after, ok := strings.Cut(rest, line)
			if !ok {
				t.Errorf("%s has lost %q:\n%s", f, line, now)
			}
			rest = after
		}
	}
}

// understood asks containerd what it would run with.
func (m machine) understood(t *testing.T, version, name string, p *Plan) {
	t.Helper()
	dump := string(must(exec.CommandContext(t.Context(), m.Containerd, "--config", m.ContainerdConfig, "config", "dump").Output())(t))
	shown, err := (&document{[]byte(dump)}).tree()
	if err != nil {
		t.Fatal(err)
	}
	if got := at(shown, "proxy_plugins", "dfsnapshotter", "address"); got != m.Address {
		t.Errorf("the snapshotter's address is %v", got)
	}
	cri := []string{"plugins", criV3}
	if version < "2" {
		cri = []string{"plugins", criV2, "containerd"}
	}
	off := name == "no CRI"
	if got := at(shown, append(cri, "snapshotter")...); !off && got != "dfsnapshotter" {
		t.Errorf("CRI's snapshotter is %v", got)
	}
	if off != strings.Contains(strings.Join(p.Notes, "\n"), "switched off") {
		t.Errorf("notes: %q", p.Notes)
	}
	if name == "registries" != strings.Contains(strings.Join(p.Notes, "\n"), "should be the same") {
		t.Errorf("notes: %q", p.Notes)
	}
	if version >= "2" {
		var names []string
		entries, _ := at(shown, "plugins", transfer, "unpack_config").([]any)
		for _, e := range entries {
			names = append(names, e.(tree)["snapshotter"].(string))
		}
		want := []string{"overlayfs", "dfsnapshotter"}
		if name == "other snapshotters" {
			want[0] = "native"
		}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("unpack_config (-want +got):\n%s", diff)
		}
	} else if got := at(shown, append(cri, "disable_snapshot_annotations")...); !off && got != false {
		t.Errorf("disable_snapshot_annotations is %v", got)
	}
}

// TestRefused looks at what must not be touched.
func TestRefused(t *testing.T) {
	t.Parallel()
	program := must(filepath.Abs(programs["2.3"]))(t)
	if _, err := os.Stat(program); err != nil {
		t.Skipf("missing: %s (script/install-deps)", program)
	}
	for name, c := range map[string]struct{ text, want string }{
		"old version":     {"oom_score = 1\n", "config migrate"},
		"no TOML":         {"version = \n", "config.toml"},
		"missing import":  {"version = 3\nimports = ['/no/such/file.toml']\n", "/no/such/file.toml"},
		"docker's":        {"disabled_plugins = [\"cri\"]\n", "config migrate"},
		"later overrides": {"version = 3\nimports = ['conf.d/*.toml']\n", "snapshotter would be native"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, map[string]string{"containerd/config.toml": c.text})
			if name == "later overrides" {
				m.put(t, "containerd/conf.d/99-site.toml", "version = 3\n[plugins.'io.containerd.cri.v1.images']\n  snapshotter = 'native'\n")
			}
			m.Containerd = program
			before := m.files(t)
			p, err := m.Plan(t.Context(), Containerd)
			if err == nil {
				t.Fatalf("%d changes were planned", len(p.Changes))
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v does not say %q", err, c.want)
			}
			if diff := cmp.Diff(before, m.files(t)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestPutBack has the look at the result fail.
func TestPutBack(t *testing.T) {
	t.Parallel()
	m := newMachine(t, map[string]string{"docker/daemon.json": "{}"})
	before := m.files(t)
	p := m.plan(t, Docker)
	p.Changes = append(p.Changes, Change{Path: filepath.Join(m.dir, "new/file"), New: []byte("x")})
	p.verify = append(p.verify, func(context.Context) error { return errors.New("broken") })
	if err := m.Apply(t.Context(), p); err == nil || !strings.Contains(err.Error(), "put back, because afterwards broken") {
		t.Errorf("Apply: %v", err)
	}
	if diff := cmp.Diff(before, m.files(t)); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(m.State); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder for what there was is left: %v", err)
	}
	if p, err := m.Undo(Runtimes); err != nil || len(p.Changes) > 0 {
		t.Errorf("something to undo is left: %+v, %v", p, err)
	}
}

// TestChangedSince undoes when somebody else has edited a file meanwhile.
func TestChangedSince(t *testing.T) {
	t.Parallel()
	m := newMachine(t, map[string]string{"docker/daemon.json": "{}", "certs.d/a/hosts.toml": "server = 'https://a'\n"})
	m.install(t, Docker)
	m.put(t, "docker/daemon.json", `{"registry-mirrors": ["http://127.0.0.1:65001"], "debug": true}`)
	p := m.uninstall(t)
	if len(p.Changes) != 0 || len(p.Notes) != 1 || !strings.Contains(p.Notes[0], "was changed since") {
		t.Errorf("planned %+v, notes %q", p.Changes, p.Notes)
	}
	if got := m.files(t)["docker/daemon.json"]; !strings.Contains(got, `"debug": true`) {
		t.Errorf("it holds %s", got)
	}
	_, kept, _ := strings.Cut(p.Notes[0], "what it held before is in ")
	if text := must(os.ReadFile(kept))(t); string(text) != "{}" {
		t.Errorf("%s has %s", kept, text)
	}
}

// TestUndoneByOthers has everything put back by hand, also what was there between two
// changes of ours.
func TestUndoneByOthers(t *testing.T) {
	t.Parallel()
	for name, by := range map[string]string{"latest": `{"debug": true}`, "first": "{}"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, map[string]string{"docker/daemon.json": "{}"})
			m.install(t, Docker)
			if name == "latest" {
				m.uninstall(t)
			}
			m.put(t, "docker/daemon.json", `{"debug": true}`)
			m.install(t, Docker)
			m.put(t, "docker/daemon.json", by)
			if p := m.uninstall(t); len(p.Changes) != 0 || len(p.Notes) != 0 {
				t.Errorf("planned %+v, notes %q", p.Changes, p.Notes)
			}
			if _, err := os.Stat(m.State); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the folder for what there was is left: %v", err)
			}
		})
	}
}

// TestHalfUndone undoes the latest of two changes, between which somebody else has
// changed the file, and makes another: what it held first is still there.
func TestHalfUndone(t *testing.T) {
	t.Parallel()
	m := newMachine(t, map[string]string{"docker/daemon.json": "{}"})
	m.install(t, Docker)
	m.put(t, "docker/daemon.json", `{"debug": true}`)
	m.install(t, Docker)
	for range 2 {
		p := m.uninstall(t)
		if got := m.files(t)["docker/daemon.json"]; !strings.HasSuffix(got, `{"debug": true}`) || len(p.Changes) != 1 || len(p.Notes) != 1 {
			t.Errorf("planned %+v, notes %q; it holds %s", p.Changes, p.Notes, got)
		}
		m.install(t, Docker)
	}
	m.put(t, "docker/daemon.json", "{}")
	m.uninstall(t)
	if _, err := os.Stat(m.State); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder for what there was is left: %v", err)
	}
}

func TestDaemonJSON(t *testing.T) {
	t.Parallel()
	const mirror = `"http://127.0.0.1:65001"`
	for name, c := range map[string]struct{ old, want string }{
		"none":    {"", "{\n  \"registry-mirrors\": [" + mirror + "]\n}\n"},
		"empty":   {"{}", "{\n  \"registry-mirrors\": [" + mirror + "]\n}"},
		"one key": {"{\n    \"debug\": true\n}\n", "{\n    \"debug\": true,\n    \"registry-mirrors\": [" + mirror + "]\n}\n"},
		"another": {"{\"registry-mirrors\": [\"https://m\"], \"debug\":true}", "{\"registry-mirrors\": [" + mirror + ", \"https://m\"], \"debug\":true}"},
		"lines":   {"{\n\t\"registry-mirrors\": [\n\t\t\"https://m\"\n\t]\n}", "{\n\t\"registry-mirrors\": [\n\t\t" + mirror + ",\n\t\t\"https://m\"\n\t]\n}"},
		"ours":    {"{\"registry-mirrors\": [\"http://127.0.0.1:65001/\"]}", "{\"registry-mirrors\": [\"http://127.0.0.1:65001/\"]}"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Config{Mirror: "0.0.0.0:65001"}.daemonJSON([]byte(c.old))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, bad := range []string{"[]", "{", `{"registry-mirrors": "x"}`} {
		if got, err := (Config{}).daemonJSON([]byte(bad)); err == nil {
			t.Errorf("%s became %s", bad, got)
		}
	}
}

func TestHosts(t *testing.T) {
	t.Parallel()
	const ours = "[host.\"http://127.0.0.1:65001\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
	for name, c := range map[string]struct{ old, want string }{
		"server only": {"server = 'https://a' # x\n", "server = 'https://a' # x\n\n" + ours},
		"no newline":  {"server = 'https://a'", "server = 'https://a'\n\n" + ours},
		"another": {
			"server = 'https://a'\n\n# the cache\n[host.'https://b']\n  ca = 'x'\n",
			"server = 'https://a'\n\n" + ours + "\n# the cache\n[host.'https://b']\n  ca = 'x'\n",
		},
		"header first": {"[host.'https://b'.header]\n  a = 'x'\n", ours + "\n[host.'https://b'.header]\n  a = 'x'\n"},
		"there":        {"[host.'http://127.0.0.1:65001']\n", "[host.'http://127.0.0.1:65001']\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Config{Mirror: ":65001"}.hosts([]byte(c.old))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRegistries(t *testing.T) {
	t.Parallel()
	const ours = "[[registry.mirror]]\nlocation = '127.0.0.1:65001'\ninsecure = true\n"
	for name, c := range map[string]struct{ old, drop, want, wantDrop string }{
		"nothing": {"", "", "", made + "[[registry]]\nprefix = 'docker.io'\nlocation = 'docker.io'\n" + ours},
		"others": {
			"unqualified-search-registries = ['docker.io']\n[[registry]]\nlocation = 'quay.io'\n", "",
			"unqualified-search-registries = ['docker.io']\n[[registry]]\nlocation = 'quay.io'\n",
			made + "[[registry]]\nprefix = 'docker.io'\nlocation = 'docker.io'\n" + ours,
		},
		"there": {
			"[[registry]]\nlocation = 'quay.io'\n[[registry]]\nlocation = 'docker.io'\n# second\n[[registry.mirror]]\nlocation = 'm'\n", "",
			"[[registry]]\nlocation = 'quay.io'\n[[registry]]\nlocation = 'docker.io'\n" + ours + "# second\n[[registry.mirror]]\nlocation = 'm'\n", "",
		},
		"in a drop-in": {
			"[[registry]]\nlocation = 'docker.io'\n", "[[registry]]\nprefix = 'docker.io'\nlocation = 'm/x'",
			"[[registry]]\nlocation = 'docker.io'\n", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, nil)
			const site = "containers/registries.conf.d/10-site.conf"
			if c.old != "" {
				m.put(t, "containers/registries.conf", c.old)
			}
			if c.drop != "" {
				m.put(t, site, c.drop)
			}
			before := m.files(t)
			m.install(t, CRIO)
			got := m.files(t)
			text := func(name string) string { _, text, _ := strings.Cut(got[name], "\n"); return text }
			if diff := cmp.Diff([]string{c.want, c.wantDrop}, []string{text("containers/registries.conf"), text("containers/registries.conf.d/50-dfsnapshotter.conf")}); diff != "" {
				t.Error(diff)
			}
			if c.drop != "" && text(site) != c.drop+"\n"+ours {
				t.Errorf("the drop-in became %q", text(site))
			}
			m.uninstall(t)
			if diff := cmp.Diff(before, m.files(t)); diff != "" {
				t.Errorf("undone, it is not what it was (-was +is):\n%s", diff)
			}
		})
	}
}

// TestRegistriesInline has mirrors that are no tables, beside which none can be put.
func TestRegistriesInline(t *testing.T) {
	t.Parallel()
	for _, mirrors := range []string{"['a text']", "[{location = 'm'}]"} {
		m := newMachine(t, map[string]string{"containers/registries.conf": "[[registry]]\nlocation = 'docker.io'\nmirror = " + mirrors + "\n"})
		if p, err := m.Plan(t.Context(), CRIO); err == nil || !strings.Contains(err.Error(), "by hand") {
			t.Errorf("%s: %v, %+v", mirrors, err, p)
		}
	}
}

// TestLink keeps a link, a mode and an owner.
func TestLink(t *testing.T) {
	t.Parallel()
	m := newMachine(t, map[string]string{"real.json": "{}"})
	if err := errors.Join(os.MkdirAll(filepath.Dir(m.DockerConfig), 0o755), os.Symlink("../real.json", m.DockerConfig)); err != nil {
		t.Fatal(err)
	}
	m.install(t, Docker)
	if to, err := os.Readlink(m.DockerConfig); err != nil || to != "../real.json" {
		t.Errorf("the link is %q, %v", to, err)
	}
	if got := m.files(t)["real.json"]; !strings.HasPrefix(got, "-rw-r-----\n") || !bytes.Contains([]byte(got), []byte("65001")) {
		t.Errorf("it is %s", got)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
