package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// containerd is one whose configuration is changed.
type containerd struct {
	Config

	major, minor int    // of the program
	path         string // of its configuration
	old          []byte // what that holds, nil: it is not there
	main         *document
	format       int64 // of the configuration: 2 or 3
	before       tree  // as containerd understands it, without our drop-in
}

type tree = map[string]any

// want is a value that containerd's configuration must have.
type want struct {
	table []string
	key   string
	value any
}

const (
	criV2    = "io.containerd.grpc.v1.cri"
	criV3    = "io.containerd.cri.v1.images"
	transfer = "io.containerd.transfer.v1.local"
)

func (c Config) planContainerd(ctx context.Context, p *Plan) error {
	k := &containerd{Config: c, path: c.ContainerdConfig}
	if err := k.open(ctx); err != nil {
		return err
	}
	if c.Address != "" {
		if err := k.snapshotter(ctx, p); err != nil {
			return err
		}
	}
	if c.Mirror != "" {
		if err := c.planHosts(p); err != nil {
			return err
		}
	}
	p.Units = []Unit{{"containerd", "restart"}}
	return nil
}

// open reads what there is.
func (k *containerd) open(ctx context.Context) (err error) {
	if err := k.version(ctx); err != nil {
		return err
	}
	if k.old, err = read(&k.path); err != nil {
		return err
	}
	k.main = &document{slices.Clone(k.old)}
	if k.old == nil {
		k.main.text = fmt.Appendf(nil, "version = %d\n", min(k.major+1, 3))
	}
	said, err := k.main.tree()
	if err != nil {
		return fmt.Errorf("%s: %w", k.path, err)
	}
	k.format, _ = said["version"].(int64)
	if k.format < 2 || k.format > 3 {
		return fmt.Errorf("%s is of version %d: `containerd config migrate` prints it in a newer one", k.path, k.format)
	}
	if err := k.complete(said); err != nil {
		return err
	}
	if k.before, err = k.dump(ctx, k.main.text, nil); err != nil {
		return fmt.Errorf("containerd cannot read %s as it is: %w", k.path, err)
	}
	return nil
}

// complete reports an import that is not there: containerd leaves out everything
// then, and does not say so.
func (k *containerd) complete(said tree) error {
	files, _ := k.expand(k.imports(said))
	for _, f := range files {
		if _, err := os.Stat(f); err != nil {
			return fmt.Errorf("%s imports what is not there: %w", k.path, err)
		}
	}
	return nil
}

// version asks the program, which prints "containerd MODULE VERSION …".
func (k *containerd) version(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, k.Containerd, "--version").Output()
	if err != nil {
		return fmt.Errorf("%s --version: %w", k.Containerd, err)
	}
	f := strings.Fields(string(out))
	if len(f) < 3 {
		return fmt.Errorf("%s --version printed %q", k.Containerd, out)
	}
	part := strings.SplitN(strings.TrimPrefix(f[2], "v"), ".", 3)
	if k.major, err = strconv.Atoi(part[0]); err == nil && len(part) > 1 {
		k.minor, err = strconv.Atoi(part[1])
	}
	if err != nil || k.major < 1 || k.major == 1 && k.minor < 6 {
		return fmt.Errorf("%s is version %s; 1.6 and later are served", k.Containerd, f[2])
	}
	return nil
}

// dropIn is where our settings go.
func (k *containerd) dropIn() string {
	return filepath.Join(filepath.Dir(k.ContainerdConfig), "conf.d", "50-dfsnapshotter.toml")
}

// imports returns the patterns of files that a configuration imports, as its
// text says or, if that says nothing, as containerd does by itself.
func (k *containerd) imports(said tree) []string {
	if list, ok := said["imports"]; ok {
		return texts(list)
	}
	var def []string
	for _, pattern := range texts(k.before["imports"]) {
		if strings.ContainsAny(pattern, "*?[") { // older ones list the files that they have read
			def = append(def, pattern)
		}
	}
	return def
}

// expand lists the files that patterns stand for, but our drop-in.
func (k *containerd) expand(patterns []string) (files []string, ours bool) {
	for _, p := range patterns {
		if !filepath.IsAbs(p) {
			if k.major == 1 && k.minor == 6 && strings.Contains(p, "*") {
				continue // it looks for these in the folder that it was started in
			}
			p = filepath.Join(filepath.Dir(k.path), p)
		}
		if ok, _ := filepath.Match(p, k.dropIn()); ok {
			ours = true
		}
		found := []string{p}
		if strings.Contains(p, "*") {
			found, _ = filepath.Glob(p) // containerd has checked it
		}
		for _, f := range found {
			if f != k.dropIn() {
				files = append(files, f)
			}
		}
	}
	return files, ours
}

// dump asks containerd how it understands a text with our drop-in in its place,
// or without one. Nothing is written where containerd would look for it.
func (k *containerd) dump(ctx context.Context, text, dropIn []byte) (tree, error) {
	dir, err := os.MkdirTemp("", "dfsnapshotter")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	staged := &document{slices.Clone(text)}
	said, err := staged.tree()
	if err != nil {
		return nil, err
	}
	files, _ := k.expand(k.imports(said))
	if dropIn != nil {
		ours := filepath.Join(dir, "50-dfsnapshotter.toml")
		if err := os.WriteFile(ours, dropIn, 0o600); err != nil {
			return nil, err
		}
		at := slices.IndexFunc(files, func(f string) bool {
			return filepath.Dir(f) == filepath.Dir(k.dropIn()) && f > k.dropIn()
		})
		if at < 0 {
			at = len(files)
		}
		files = slices.Insert(files, at, ours)
	}
	if err := staged.set(nil, "imports", list(files)); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(path, staged.text, 0o600); err != nil {
		return nil, err
	}
	return k.show(ctx, path)
}

// show returns a configuration file as containerd understands it.
func (k *containerd) show(ctx context.Context, path string) (tree, error) {
	cmd := exec.CommandContext(ctx, k.Containerd, "--config", path, "config", "dump")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s config dump: %w: %s", k.Containerd, err, strings.TrimSpace(stderr.String()))
	}
	var all tree
	return all, toml.Unmarshal(out, &all)
}

// snapshotter plans what makes containerd use the snapshotter: all in a drop-in if
// containerd merges that with what there is, else in place what it would not.
func (k *containerd) snapshotter(ctx context.Context, p *Plan) error {
	wants := k.wants(p)
	var errs []error
	for _, inPlace := range []bool{false, true} {
		main, dropIn, err := k.edit(wants, inPlace)
		if err != nil {
			return err
		}
		after, err := k.dump(ctx, main, dropIn)
		if err == nil {
			err = k.compare(after, wants)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		path := k.dropIn()
		old, err := read(&path)
		if err != nil {
			return err
		}
		p.write(path, old, dropIn)
		p.write(k.path, k.old, main)
		p.verify = append(p.verify, func(ctx context.Context) error {
			shown, err := k.show(ctx, k.path)
			if err != nil {
				return err
			}
			return k.compare(shown, wants)
		})
		return nil
	}
	return fmt.Errorf("%w\nNothing was changed. docs/containerd.md says what to write by hand", errors.Join(errs...))
}

// wants lists what the configuration must say.
func (k *containerd) wants(p *Plan) []want {
	// containerd 2 takes the newer section in older files, too; of the older one it forgets some.
	cri := []string{"plugins", criV2}
	if k.major >= 2 {
		cri = []string{"plugins", criV3}
	}
	all := k.proxy()
	if slices.ContainsFunc(texts(k.before["disabled_plugins"]), func(s string) bool { return s == "cri" || s == criV2 || s == criV3 }) {
		p.note("containerd's CRI is switched off (disabled_plugins); its settings are left alone")
		return append(all, k.unpack()...)
	}
	if k.CRI {
		all = append(all, k.images(cri)...)
	}
	if k.Mirror != "" {
		all = append(all, k.hosts(p, cri)...)
	}
	return append(all, k.unpack()...)
}

// proxy is the snapshotter.
func (k *containerd) proxy() []want {
	table := []string{"proxy_plugins", "dfsnapshotter"}
	all := []want{
		{table, "type", "snapshot"},
		{table, "address", k.Address},
	}
	if k.major < 2 { // knows neither of these
		return all
	}
	exports := append(slices.Clone(table), "exports")
	return append(all,
		want{table, "capabilities", []any{"remap-ids"}},
		want{exports, "root", k.Root},
		want{exports, "enable_remote_snapshot_annotations", "true"},
	)
}

// images makes Kubernetes' images use it.
func (k *containerd) images(cri []string) (all []want) {
	if k.major < 2 {
		cri = append(slices.Clone(cri), "containerd")
	}
	all = append(all, want{cri, "snapshotter", "dfsnapshotter"})
	local, _ := at(k.before, append(slices.Clone(cri), "use_local_image_pull")...).(bool)
	if local || !k.transfers() { // else it is an option that makes CRI pull by itself
		all = append(all, want{cri, "disable_snapshot_annotations", false})
	}
	if !k.transfers() {
		all = append(all, want{cri, "discard_unpacked_layers", false})
	}
	return all
}

// transfers reports whether CRI pulls by containerd's transfer service.
func (k *containerd) transfers() bool { return k.major > 2 || k.major == 2 && k.minor >= 1 }

// hosts makes CRI read hosts.toml files.
func (k *containerd) hosts(p *Plan, cri []string) []want {
	cri = append(slices.Clone(cri), "registry")
	registry, _ := at(k.before, cri...).(tree)
	mirrors, _ := registry["mirrors"].(tree)
	configs, _ := registry["configs"].(tree)
	path, _ := registry["config_path"].(string)
	switch {
	case len(mirrors) > 0 || len(configs) > 0:
		p.note("containerd's CRI has registry.mirrors or registry.configs, with which it reads no hosts.toml: Kubernetes' pulls do not use the mirror")
	case path == "":
		return []want{{cri, "config_path", k.HostsDir}}
	case !slices.Contains(filepath.SplitList(path), k.HostsDir):
		p.note("containerd's CRI reads hosts.toml below %s, dfsnapshotter below %s (registry.hosts_dir): they should be the same", path, k.HostsDir)
	}
	return nil
}

// unpack allows the transfer service to unpack for the snapshotter. Any entry
// replaces the defaults.
func (k *containerd) unpack() []want {
	if !k.transfers() {
		return nil
	}
	table := []string{"plugins", transfer}
	entries := k.entries()
	if len(entries) == 0 {
		entries = []any{tree{"platform": "linux", "snapshotter": "overlayfs"}}
	}
	if !slices.ContainsFunc(entries, isOurs) {
		entries = append(slices.Clone(entries), tree{"platform": "linux", "snapshotter": "dfsnapshotter"})
	}
	return []want{{table, "unpack_config", entries}}
}

// entries returns the ones that there are, as a file has them.
func (k *containerd) entries() (found []any) {
	said, _ := k.main.tree()
	files, _ := k.expand(k.imports(said))
	for _, f := range append([]string{k.path}, files...) {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // the main one may not be there; containerd has read the others
		}
		more, err := (&document{text}).tree()
		if err != nil {
			continue
		}
		list, _ := at(more, "plugins", transfer, "unpack_config").([]any)
		found = append(found, list...)
	}
	return found
}

func isOurs(entry any) bool {
	m, _ := entry.(tree)
	return m["snapshotter"] == "dfsnapshotter"
}

// edit returns the configuration with what is wanted, and the drop-in. In place
// are, if wished, the settings of plugins that the file has a section for.
func (k *containerd) edit(wants []want, inPlace bool) (main, dropIn []byte, err error) {
	m := &document{slices.Clone(k.main.text)}
	d := &document{fmt.Appendf(nil, "%sversion = %d\n", made, k.format)}
	said, err := m.tree()
	if err != nil {
		return nil, nil, err
	}
	for _, w := range wants {
		to := d
		if inPlace && w.table[0] == "plugins" && at(said, w.table[:2]...) != nil {
			to = m
		}
		value, err := literal(w.value)
		if err == nil {
			err = to.set(w.table, w.key, value)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", k.path, err)
		}
	}
	if _, covered := k.expand(k.imports(said)); !covered {
		if err := m.add("imports", k.dropIn(), k.imports(said)); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", k.path, err)
		}
	}
	return m.text, d.text, nil
}

// compare reports what is wanted and not there, and what has changed that should
// not.
func (k *containerd) compare(after tree, wants []want) error {
	was, is := plain(k.before).(tree), plain(after).(tree)
	var errs []error
	for _, w := range wants {
		path := append(slices.Clone(w.table), w.key)
		if got := at(is, path...); !holds(got, w.value) {
			errs = append(errs, fmt.Errorf("%s would be %v, not %v", dotted(path), got, w.value))
		}
		remove(was, path)
		remove(is, path)
	}
	for _, t := range []tree{was, is} {
		delete(t, "imports")
		remove(t, []string{"proxy_plugins", "dfsnapshotter"})
		if m, ok := t["proxy_plugins"].(tree); ok && len(m) == 0 {
			delete(t, "proxy_plugins")
		}
	}
	if path, ok := differ(was, is, nil); ok {
		errs = append(errs, fmt.Errorf("%s would become %v, and is %v", dotted(path), at(is, path...), at(was, path...)))
	}
	return errors.Join(errs...)
}

// plain copies a tree.
func plain(v any) any {
	switch v := v.(type) {
	case tree:
		m := tree{}
		for key, value := range v {
			m[key] = plain(value)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i := range v {
			l[i] = plain(v[i])
		}
		return l
	}
	return v
}

// holds reports whether got is what is wanted; entries of lists may have more keys.
func holds(got, want any) bool {
	switch want := want.(type) {
	case []any:
		list, ok := got.([]any)
		return ok && len(list) == len(want) && !slices.ContainsFunc(want, func(w any) bool {
			return !slices.ContainsFunc(list, func(g any) bool { return holds(g, w) })
		})
	case tree:
		m, ok := got.(tree)
		for key, w := range want {
			ok = ok && holds(m[key], w)
		}
		return ok
	}
	return reflect.DeepEqual(got, want)
}

func remove(t tree, path []string) {
	if m, ok := at(t, path[:len(path)-1]...).(tree); ok {
		delete(m, path[len(path)-1])
	}
}

// differ finds a place where two trees are not the same.
func differ(a, b any, path []string) (where []string, found bool) {
	x, isX := a.(tree)
	y, isY := b.(tree)
	if !isX || !isY {
		return path, !reflect.DeepEqual(a, b)
	}
	keys := sorted(x)
	for key := range y {
		if _, ok := x[key]; !ok {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		if where, found := differ(x[key], y[key], append(slices.Clone(path), key)); found {
			return where, true
		}
	}
	return nil, false
}
