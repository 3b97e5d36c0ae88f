// Package install changes the configuration of what runs containers on this
// machine, so that it uses dfsnapshotter, and undoes that.
package install

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Config says where things are, and what is wanted.
type Config struct {
	// Of the daemon's configuration.
	Address  string // socket of the snapshotter; "" if nothing is mounted
	Root     string
	Mirror   string // host:port of the registry mirror; "" if there is none
	Upstream string // the registry of requests to it that name none
	HostsDir string // hosts.toml files

	Containerd       string // program
	ContainerdConfig string
	CRI              bool // Kubernetes' images use the snapshotter
	DockerConfig     string
	Registries       string // registries.conf of CRI-O, podman, skopeo and buildah
	State            string // folder of backups
}

// Runtime is what pulls images.
type Runtime string

// The runtimes whose configuration can be changed.
const (
	Containerd Runtime = "containerd"
	Docker     Runtime = "docker"
	CRIO       Runtime = "cri-o" // and what shares its files: podman, skopeo, buildah
)

// Runtimes are all of them.
var Runtimes = []Runtime{Containerd, Docker, CRIO}

// Plan is what is to be changed.
type Plan struct {
	Changes []Change
	Notes   []string // what an operator should know
	Units   []Unit   // that read these files, and have to take notice of changes
	verify  []func(context.Context) error
	undone  []record // that Revert forgets
}

// Unit is a service, and what makes it read its configuration again.
type Unit struct{ Name, Verb string }

// Here reports whether the service is one of this machine: podman's and buildah's files
// are CRI-O's, but they have no service.
func (u Unit) Here() bool { return u.Name != "crio" || exists("crio") }

// Change is a file and what it is to hold.
type Change struct {
	Path     string
	Old, New []byte // nil: there is no such file
}

func (p *Plan) note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

// write adds a file's new content, unless it has that already.
func (p *Plan) write(path string, old, text []byte) {
	if text == nil || old == nil || string(old) != string(text) {
		p.Changes = append(p.Changes, Change{path, old, text})
	}
}

// Found returns the runtimes that are on this machine.
func (c Config) Found() (all []Runtime) {
	there := map[Runtime][]string{
		Containerd: {c.Containerd, c.ContainerdConfig}, Docker: {"dockerd", c.DockerConfig}, CRIO: {"crio", "podman", c.Registries},
	}
	for _, r := range Runtimes {
		if slices.ContainsFunc(there[r], exists) {
			all = append(all, r)
		}
	}
	return all
}

func exists(name string) bool {
	if filepath.IsAbs(name) {
		_, err := os.Stat(name)
		return err == nil
	}
	_, err := exec.LookPath(name)
	return err == nil
}

// Plan says what has to be changed for a runtime. Nothing is.
func (c Config) Plan(ctx context.Context, r Runtime) (*Plan, error) {
	p := &Plan{}
	var err error
	switch r {
	case Containerd:
		err = c.planContainerd(ctx, p)
	case Docker:
		err = c.planDocker(p)
	case CRIO:
		err = c.planRegistries(p)
	default:
		err = fmt.Errorf("%q is none of containerd, docker and cri-o", r)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	return p, nil
}

// read returns a file's content, nil if there is none. A link is followed, and
// stays: path becomes what it leads to.
func read(path *string) ([]byte, error) {
	real, err := filepath.EvalSymlinks(*path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	*path = real
	text, err := os.ReadFile(real)
	if err == nil && text == nil {
		text = []byte{}
	}
	return text, err
}

// url is the mirror as clients write it.
func (c Config) url() string { return "http://" + c.mirror() }

// mirror is where clients on this machine reach the mirror.
func (c Config) mirror() string {
	host, port, _ := strings.Cut(c.Mirror, ":")
	if i := strings.LastIndexByte(c.Mirror, ':'); i >= 0 {
		host, port = c.Mirror[:i], c.Mirror[i+1:]
	}
	if host == "" || host == "0.0.0.0" || host == "[::]" {
		host = "127.0.0.1"
	}
	return host + ":" + port
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

const made = "# Made by `dfsnapshotter install`, which also takes it away (--undo).\n"
