package containerd

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Wrong is something in a configuration that keeps images from being served.
type Wrong struct {
	Text       string // what
	Fix        string // what to write, and where
	Kubernetes bool   // it concerns kubelets only
}

// Snapshotter is what a configuration must say.
type Snapshotter struct {
	Name    string // of the proxy plugin
	Address string // of its socket; "": unknown
}

const (
	images   = "io.containerd.cri.v1.images"     // from 2.0 on
	transfer = "io.containerd.transfer.v1.local" // which pulls from 2.1 on
	cri      = "io.containerd.grpc.v1.cri"       // until 1.7
	usual    = "/run/dfsnapshotter/dfsnapshotter.sock"
	remote   = "enable_remote_snapshot_annotations"
)

// Wrong returns what a configuration of a containerd of that version lacks so that a
// snapshotter may serve images.
func (c Config) Wrong(version string, s Snapshotter) (all []Wrong) {
	major, minor := number(version)
	modern := major > 2 || major == 2 && minor >= 1
	all = c.wrongPlugin(s, modern)
	if modern {
		all = append(all, c.wrongTransfer(s)...)
	}
	return append(all, c.wrongCRI(s, major, modern)...)
}

// wrongPlugin looks at the proxy plugin.
func (c Config) wrongPlugin(s Snapshotter, modern bool) (all []Wrong) {
	table := fmt.Sprintf("[proxy_plugins.%s]", s.Name)
	written := c.text("proxy_plugins", s.Name, "address")
	if s.Address == "" {
		s.Address = cmp.Or(written, usual)
	}
	switch {
	case c.at("proxy_plugins", s.Name) == nil:
		return []Wrong{{Text: "it knows no proxy plugin " + s.Name, Fix: fmt.Sprintf("%s\n  type = \"snapshot\"\n  address = %q", table, s.Address)}}
	case written != s.Address:
		all = append(all, Wrong{Text: fmt.Sprintf("its proxy plugin %s is at %s, and the agent at %s", s.Name, written, s.Address), Fix: fmt.Sprintf("%s\n  address = %q", table, s.Address)})
	}
	if kind := c.text("proxy_plugins", s.Name, "type"); kind != "snapshot" {
		all = append(all, Wrong{Text: fmt.Sprintf("its proxy plugin %s is of type %q", s.Name, kind), Fix: table + "\n  type = \"snapshot\""})
	}
	if modern && c.text("proxy_plugins", s.Name, "exports", remote) != "true" {
		all = append(all, Wrong{
			Text: "it sends no labels with layers, without which no image can be served",
			Fix:  fmt.Sprintf("[proxy_plugins.%s.exports]\n  %s = \"true\"", s.Name, remote),
		})
	}
	if list, _ := c.at("proxy_plugins", s.Name, "capabilities").([]any); contains(list, "rebase") {
		all = append(all, Wrong{Text: "it would prepare layers without their parents", Fix: table + "\n  capabilities = [\"remap-ids\"] # and not \"rebase\""})
	}
	return all
}

func contains(list []any, text string) bool {
	for _, v := range list {
		if v == text {
			return true
		}
	}
	return false
}

// wrongTransfer looks at the transfer service.
func (c Config) wrongTransfer(s Snapshotter) []Wrong {
	list, _ := c.at("plugins", transfer, "unpack_config").([]any)
	for _, v := range list {
		if u, ok := v.(map[string]any); ok && u["snapshotter"] == s.Name {
			return nil
		}
	}
	one := func(name string) string {
		return fmt.Sprintf("[[plugins.'%s'.unpack_config]]\n  platform = \"linux\"\n  snapshotter = %q", transfer, name)
	}
	return []Wrong{{Text: "its transfer service may not unpack for " + s.Name, Fix: one("overlayfs") + "\n" + one(s.Name)}}
}

// wrongCRI looks at what kubelets use.
func (c Config) wrongCRI(s Snapshotter, major int, modern bool) (all []Wrong) {
	path, table := []string{"plugins", images}, fmt.Sprintf("[plugins.'%s']", images)
	if major < 2 {
		path, table = []string{"plugins", cri, "containerd"}, fmt.Sprintf("[plugins.%q.containerd]", cri)
	}
	wrong := func(text, setting string) {
		all = append(all, Wrong{Text: text, Fix: table + "\n  " + setting, Kubernetes: true})
	}
	of := func(key string) []string { return append(path[:len(path):len(path)], key) }
	if c.at(path...) == nil {
		return nil // CRI is off
	}
	if name := c.text(of("snapshotter")...); name != s.Name {
		wrong(fmt.Sprintf("Kubernetes' images are for the snapshotter %q", name), fmt.Sprintf("snapshotter = %q", s.Name))
	}
	if modern && !c.yes(of("use_local_image_pull")...) {
		return all
	}
	if c.yes(of("disable_snapshot_annotations")...) {
		wrong("CRI sends no labels with layers", "disable_snapshot_annotations = false")
	}
	if c.yes(of("discard_unpacked_layers")...) {
		wrong("CRI looks for layers in the content store, to discard them", "discard_unpacked_layers = false")
	}
	return all
}

// HostsDirs returns where containerd looks for hosts.toml files.
func (c Config) HostsDirs() []string {
	var all []string
	for _, path := range [][]string{{"plugins", images, "registry", "config_path"}, {"plugins", cri, "registry", "config_path"}} {
		if dir := c.text(path...); dir != "" {
			all = append(all, strings.Split(dir, ":")...)
		}
	}
	return all
}

// number reads a version such as v2.3.4; what cannot be read is taken for a new one.
func number(version string) (major, minor int) {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return 2, 1
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	if err1 != nil || err2 != nil {
		return 2, 1
	}
	return major, minor
}
