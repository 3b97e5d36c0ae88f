package install

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
	"github.com/tailscale/hujson"
)

// planHosts puts the mirror before the other hosts of all registries: in the
// file for those that have none of their own, and in those that there are.
func (c Config) planHosts(p *Plan) error {
	names := []string{"_default"}
	found, err := filepath.Glob(filepath.Join(c.HostsDir, "*", "hosts.toml"))
	if err != nil {
		return err
	}
	for _, f := range found {
		if name := filepath.Base(filepath.Dir(f)); name != "_default" {
			names = append(names, name)
		}
	}
	for _, name := range names {
		path := filepath.Join(c.HostsDir, name, "hosts.toml")
		old, err := read(&path)
		if err != nil {
			return err
		}
		text, err := c.hosts(old)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		p.write(path, old, text)
	}
	return nil
}

// hosts adds the mirror to a hosts.toml.
func (c Config) hosts(old []byte) ([]byte, error) {
	d := &document{slices.Clone(old)}
	if old == nil {
		d.text = []byte(made)
	}
	said, err := d.tree()
	if err != nil {
		return nil, err
	}
	if at(said, "host", c.url()) != nil {
		return old, nil
	}
	all, err := d.statements()
	if err != nil {
		return nil, err
	}
	// Those of the file's own keys, as server, must stay above all tables.
	place := len(d.text)
	for _, s := range all {
		if s.kind == unstable.KeyValue && len(s.path) > 0 && s.path[0] == "host" && place == len(d.text) {
			return nil, fmt.Errorf("hosts are not written as tables: add [host.%q] by hand", c.url())
		}
		if (s.kind == unstable.Table || s.kind == unstable.ArrayTable) && place == len(d.text) {
			place = d.before(s)
			if s.path[0] == "host" {
				break
			}
		}
	}
	text := fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", c.url())
	if place > 0 {
		text = "\n" + text
	}
	if place < len(d.text) {
		text = strings.TrimPrefix(text, "\n") + "\n"
	}
	d.insert(place, text)
	_, err = d.tree()
	return d.text, err
}

// planDocker makes Docker ask the mirror first.
func (c Config) planDocker(p *Plan) error {
	if c.Mirror == "" {
		return fmt.Errorf("there is no mirror: set mirror.listen")
	}
	path := c.DockerConfig
	old, err := read(&path)
	if err != nil {
		return err
	}
	text, err := c.daemonJSON(old)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	p.write(path, old, text)
	p.Units = []Unit{{"docker", "reload"}}
	return nil
}

func (c Config) daemonJSON(old []byte) ([]byte, error) {
	text := old
	if len(strings.TrimSpace(string(old))) == 0 {
		text = []byte("{\n}\n")
	}
	v, err := hujson.Parse(text)
	if err != nil {
		return nil, err
	}
	object, ok := v.Value.(*hujson.Object)
	if !ok {
		return nil, fmt.Errorf("is no JSON object")
	}
	ours := hujson.Value{Value: hujson.String(c.url())}
	if list := v.Find("/registry-mirrors"); list != nil {
		array, ok := list.Value.(*hujson.Array)
		if !ok {
			return nil, fmt.Errorf("registry-mirrors is no list")
		}
		for _, e := range array.Elements {
			if s, ok := e.Value.(hujson.Literal); ok && strings.TrimSuffix(s.String(), "/") == c.url() {
				return old, nil
			}
		}
		if len(array.Elements) > 0 { // as the first one was written
			ours.BeforeExtra = slices.Clone(array.Elements[0].BeforeExtra)
			if len(array.Elements[0].BeforeExtra) == 0 {
				array.Elements[0].BeforeExtra = hujson.Extra(" ")
			}
		}
		array.Elements = slices.Insert(array.Elements, 0, ours)
		return v.Pack(), nil
	}
	indent := hujson.Extra("\n  ")
	if len(object.Members) > 0 {
		indent = slices.Clone(object.Members[0].Name.BeforeExtra)
	}
	if len(object.AfterExtra) == 0 && strings.Contains(string(indent), "\n") {
		object.AfterExtra = hujson.Extra("\n")
	}
	object.Members = append(object.Members, hujson.ObjectMember{
		Name:  hujson.Value{BeforeExtra: indent, Value: hujson.String("registry-mirrors")},
		Value: hujson.Value{BeforeExtra: hujson.Extra(" "), Value: &hujson.Array{Elements: []hujson.Value{ours}}},
	})
	return v.Pack(), nil
}

// planRegistries makes CRI-O, podman, skopeo and buildah ask the mirror first for
// the one registry that requests without a name mean.
func (c Config) planRegistries(p *Plan) error {
	name := c.registry()
	if c.Mirror == "" || name == "" {
		return fmt.Errorf("these clients do not say which registry they mean: set mirror.listen and mirror.upstream")
	}
	mirror := fmt.Sprintf("[[registry.mirror]]\nlocation = %s\ninsecure = true\n", quote(c.mirror()))
	dropIn := filepath.Join(filepath.Dir(c.Registries), "registries.conf.d", "50-dfsnapshotter.conf")
	others, err := filepath.Glob(filepath.Join(filepath.Dir(dropIn), "*.conf"))
	if err != nil {
		return err
	}
	p.Units = []Unit{{"crio", "reload"}}
	p.note("CRI-O, podman, skopeo and buildah: only %s comes through the mirror (mirror.upstream)", name)
	// The last file that speaks of a registry counts alone: then the mirror goes there.
	for _, path := range slices.Backward(append([]string{c.Registries}, others...)) {
		if path == dropIn {
			continue
		}
		old, err := read(&path)
		if err != nil {
			return err
		}
		d := &document{slices.Clone(old)}
		there, err := d.addMirror(name, c.mirror(), mirror)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if there {
			if _, err := d.tree(); err != nil {
				return fmt.Errorf("%s: its mirrors are not written as tables: add %s by hand", path, c.mirror())
			}
			p.write(path, old, d.text)
			return nil
		}
	}
	old, err := os.ReadFile(dropIn)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	p.write(dropIn, old, fmt.Appendf(nil, "%s[[registry]]\nprefix = %s\nlocation = %s\n%s", made, quote(name), quote(name), mirror))
	return nil
}

// registry is what clients call the mirror's upstream.
func (c Config) registry() string {
	name := c.Upstream
	if u, err := url.Parse(name); err == nil && u.Host != "" {
		name = u.Host
	}
	if name == "registry-1.docker.io" || name == "index.docker.io" {
		return "docker.io"
	}
	return name
}

// addMirror puts a mirror before the others of a registry, and reports whether
// the file speaks of that.
func (d *document) addMirror(name, location, text string) (there bool, err error) {
	said, err := d.tree()
	if err != nil {
		return false, err
	}
	registries, _ := said["registry"].([]any)
	which := slices.IndexFunc(registries, func(r any) bool {
		m, _ := r.(tree)
		prefix, _ := m["prefix"].(string)
		if prefix == "" {
			prefix, _ = m["location"].(string)
		}
		return prefix == name
	})
	if which < 0 {
		return false, nil
	}
	mirrors, _ := at(registries[which].(tree), "mirror").([]any)
	if slices.ContainsFunc(mirrors, func(m any) bool {
		t, _ := m.(tree)
		return at(t, "location") == location
	}) {
		return true, nil
	}
	all, err := d.statements()
	if err != nil {
		return false, err
	}
	n := -1
	for _, s := range all {
		heading := s.kind == unstable.ArrayTable || s.kind == unstable.Table
		if heading && n == which {
			d.insert(d.before(s), text)
			return true, nil
		}
		if s.kind == unstable.ArrayTable && slices.Equal(s.path, []string{"registry"}) {
			n++
		}
	}
	if n < 0 {
		return false, fmt.Errorf("registries are not written as tables: add the mirror by hand")
	}
	d.insert(len(d.text), text)
	return true, nil
}
