package containerd

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const modern = `version = 4
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'dfsnapshotter'
  disable_snapshot_annotations = true
  use_local_image_pull = false
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = '/etc/containerd/certs.d:/etc/docker/certs.d'
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
  platform = 'linux'
  snapshotter = 'overlayfs'
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
  platform = 'linux'
  snapshotter = 'dfsnapshotter'
[proxy_plugins.dfsnapshotter]
  type = 'snapshot'
  address = '/df.sock'
  capabilities = ['remap-ids']
  [proxy_plugins.dfsnapshotter.exports]
    enable_remote_snapshot_annotations = 'true'
`

const old = `version = 2
[plugins."io.containerd.grpc.v1.cri".containerd]
  disable_snapshot_annotations = false
  discard_unpacked_layers = false
  snapshotter = "dfsnapshotter"
[proxy_plugins.dfsnapshotter]
  address = "/df.sock"
  type = "snapshot"
`

// TestWrong holds what is found in configurations with one fault each.
func TestWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config, version string
		from, to        string
		want            []string // parts of texts or fixes
	}{
		"modern":               {config: modern, version: "v2.3.4"},
		"2.0":                  {config: modern, version: "2.0.5", from: "annotations = true", to: "annotations = false"},
		"2.0 without labels":   {config: modern, version: "2.0.5", want: []string{"disable_snapshot_annotations = false"}},
		"old":                  {config: old, version: "1.7.28"},
		"old, no labels":       {config: old, version: "1.6.20~ds1", from: "annotations = false", to: "annotations = true", want: []string{"disable_snapshot_annotations = false"}},
		"old, discarding":      {config: old, version: "1.7.0", from: "layers = false", to: "layers = true", want: []string{"discard_unpacked_layers = false"}},
		"old, another":         {config: old, version: "1.7.0", from: `snapshotter = "dfsnapshotter"`, to: `snapshotter = "overlayfs"`, want: []string{`snapshotter = "dfsnapshotter"`}},
		"no plugin":            {config: modern, version: "2.1.0", from: "proxy_plugins", to: "proxies", want: []string{"[proxy_plugins.dfsnapshotter]"}},
		"another address":      {config: modern, version: "2.1.0", from: "/df.sock", to: "/other.sock", want: []string{"/other.sock"}},
		"no labels":            {config: modern, version: "2.2.0", from: "enable_remote", to: "x", want: []string{"enable_remote_snapshot_annotations"}},
		"rebase":               {config: modern, version: "2.2.0", from: "remap-ids", to: "rebase", want: []string{`not "rebase"`}},
		"no unpacking":         {config: modern, version: "2.2.0", from: "platform = 'linux'\n  snapshotter = 'dfsnapshotter'", to: "platform = 'linux'", want: []string{"unpack_config"}},
		"local pulls":          {config: modern, version: "2.2.0", from: "local_image_pull = false", to: "local_image_pull = true", want: []string{"disable_snapshot_annotations = false"}},
		"a version of no form": {config: modern, version: "main"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(c.config, c.from) {
				t.Fatalf("%q is not in it", c.from)
			}
			config, err := parseConfig([]byte(strings.ReplaceAll(c.config, c.from, c.to)))
			if c.from == "" {
				config, err = parseConfig([]byte(c.config))
			}
			if err != nil {
				t.Fatal(err)
			}
			all := config.Wrong(c.version, Snapshotter{"dfsnapshotter", "/df.sock"})
			if len(all) != len(c.want) {
				t.Fatalf("%d are wrong: %+v, want %v", len(all), all, c.want)
			}
			for i, w := range all {
				if !strings.Contains(w.Text+w.Fix, c.want[i]) {
					t.Errorf("%+v, want %q", w, c.want[i])
				}
			}
		})
	}
}

func TestHostsDirs(t *testing.T) {
	t.Parallel()
	c, err := parseConfig([]byte(modern))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/etc/containerd/certs.d", "/etc/docker/certs.d"}, c.HostsDirs()); diff != "" {
		t.Error(diff)
	}
}

func TestConfigOf(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"containerd":                     "usual",
		"containerd --config /a.toml":    "/a.toml",
		"containerd -l debug -c /a.toml": "/a.toml",
		"containerd --config=/a.toml":    "/a.toml",
		"containerd --config":            "usual",
	} {
		if got := configOf(strings.Fields(line), "usual"); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}
