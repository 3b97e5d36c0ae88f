// Package clustertest runs real schedulers and seeds for tests.
package clustertest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/wiretest"
)

var built struct {
	once sync.Once
	dir  string
	err  error
}

// build makes the programs, once for all tests of a package.
func build(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "dfmanager-cluster-"); built.err != nil {
			return
		}
		const module = "github.com/dfsnapshotter/dfsnapshotter/cmd/"
		out, err := exec.Command("go", "build", "-o", built.dir+"/", module+"dfscheduler", module+"dfsnapshotter", module+"dfget").CombinedOutput()
		if err != nil {
			built.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir
}

// Program returns the path of dfscheduler, dfsnapshotter or dfget.
func Program(t testing.TB, name string) string {
	t.Helper()
	return filepath.Join(build(t), name)
}

// Remove removes the programs, when all tests of a package are over.
func Remove() error {
	if built.dir == "" {
		return nil
	}
	return os.RemoveAll(built.dir)
}

// Cluster is one with or without certificates, or one of a manager.
type Cluster struct {
	RegistryCA string // CA of the registry, for hosts and seeds: PEM file; "": it speaks plain HTTP
	FilesCA    string // CA of web servers, for hosts and seeds: PEM file; "": none besides the system's

	t       testing.TB
	ca      *wiretest.CA // nil: without
	n       int
	manager string // whose it is; "": nobody's
	token   func(wire.Role) string
}

// Managed makes a cluster of nobody whose nodes join the manager there, with the
// join tokens that token makes.
func Managed(t testing.TB, manager string, token func(wire.Role) string) *Cluster {
	return &Cluster{t: t, manager: manager, token: token}
}

// joins is what a node's configuration says of its manager.
func (c *Cluster) joins(role wire.Role) string {
	c.t.Helper()
	file := filepath.Join(c.t.TempDir(), "join-token")
	if err := os.WriteFile(file, []byte(c.token(role)), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return fmt.Sprintf("manager = '%s'\njoin_token = '%s'\n", c.manager, file)
}

// New makes a cluster of nobody.
func New(t testing.TB, secure bool) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	if secure {
		var err error
		if c.ca, err = wiretest.NewCA(t.TempDir()); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// Files issues a certificate; none where there are none.
func (c *Cluster) Files(name p2p.HostID, role wire.Role) wire.Files {
	c.t.Helper()
	if c.ca == nil {
		return wire.Files{}
	}
	f, err := c.ca.Issue(c.t.TempDir(), name, role, time.Hour)
	if err != nil {
		c.t.Fatal(err)
	}
	return f
}

// Process is a daemon.
type Process struct {
	Addr  string     // where others reach it
	Debug string     // where it shows what it sees; "": nowhere
	Root  string     // of a seed or host
	Name  p2p.HostID // of a seed or host, where it has a certificate from a file
	t     testing.TB
	name  string
	text  string // configuration
	dir   string
	cmd   *exec.Cmd
	over  chan struct{} // closed when it says no more
}

var ready = regexp.MustCompile(`msg=ready (?:address=(\S*:\d+))?(?: debug=(\S*:\d+))?`)

// Scheduler starts a scheduler.
func (c *Cluster) Scheduler() *Process {
	c.t.Helper()
	c.n++
	text := "listen = 'ADDR'\n"
	if c.manager != "" {
		text += fmt.Sprintf("root = '%s'\n", c.t.TempDir()) + c.joins(wire.RoleScheduler)
	}
	p := c.process("dfscheduler", text+"[debug]\nlisten = '127.0.0.1:0'\n"+c.tls(p2p.HostID(fmt.Sprint("scheduler-", c.n)), wire.RoleScheduler))
	p.Start()
	return p
}

// Seed starts a seed that knows how to speak to a registry. A managed one hears
// of schedulers from its manager.
func (c *Cluster) Seed(registry string, schedulers ...string) *Process {
	c.t.Helper()
	return c.member(wire.RoleSeed, registry, schedulers)
}

// Host starts a host as [Cluster.Seed] does a seed. It mounts nothing.
func (c *Cluster) Host(registry string, schedulers ...string) *Process {
	c.t.Helper()
	return c.member(wire.RoleHost, registry, schedulers)
}

func (c *Cluster) member(role wire.Role, registry string, schedulers []string) *Process {
	c.t.Helper()
	c.n++
	name := p2p.HostID(fmt.Sprint(role, "-", c.n))
	dir := c.t.TempDir()
	hosts := filepath.Join(dir, "certs.d", registry)
	url, ca := "http://"+registry, ""
	if c.RegistryCA != "" {
		url, ca = "https://"+registry, fmt.Sprintf("ca = '%s'\n", c.RegistryCA)
	}
	text := fmt.Sprintf("server = '%[1]s'\n[host.'%[1]s']\ncapabilities = ['pull', 'resolve']\n%[2]s", url, ca)
	if err := os.MkdirAll(hosts, 0o700); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(hosts+"/hosts.toml", []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	mirror := ""
	if role == wire.RoleHost {
		mirror = "127.0.0.1:0" // it would do nothing at all
	}
	told := "schedulers = ['" + strings.Join(schedulers, "', '") + "']\n"
	if c.manager != "" {
		told = c.joins(role)
	}
	p := c.process("dfsnapshotter", fmt.Sprintf(`root = '%s/root'
address = ''
[peer]
listen = 'ADDR'
seed = %t
%s[registry]
hosts_dir = '%s/certs.d'
docker_config = '%s/none'
files_ca = '%s'
[mirror]
listen = '%s'
[debug]
listen = ''
%s`, dir, role == wire.RoleSeed, told, dir, dir, c.FilesCA, mirror, c.tls(name, role)))
	p.Name = name
	p.Root = dir + "/root"
	ln, err := net.Listen("tcp", p.Addr) // it does not say where it listens
	if err != nil {
		c.t.Fatal(err)
	}
	p.Addr = ln.Addr().String()
	if err := ln.Close(); err != nil {
		c.t.Fatal(err)
	}
	p.Start()
	return p
}

func (c *Cluster) tls(name p2p.HostID, role wire.Role) string {
	f := c.Files(name, role)
	if f == (wire.Files{}) {
		return ""
	}
	return fmt.Sprintf("[tls]\nca = '%s'\ncert = '%s'\nkey = '%s'\n", f.CA, f.Cert, f.Key)
}

func (c *Cluster) process(name, text string) *Process {
	p := &Process{Addr: "127.0.0.1:0", t: c.t, name: name, text: text, dir: c.t.TempDir()}
	c.t.Cleanup(p.Kill)
	return p
}

// Start starts it, where it was before if it was anywhere.
func (p *Process) Start() {
	p.t.Helper()
	config := filepath.Join(p.dir, "config.toml")
	if err := os.WriteFile(config, []byte(strings.ReplaceAll(p.text, "ADDR", p.Addr)), 0o600); err != nil {
		p.t.Fatal(err)
	}
	var err error
	for range 50 { // its port may be in use for a moment
		if err = p.run(Program(p.t, p.name), config); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	p.t.Fatal(err)
}

func (p *Process) run(path, config string) error {
	cmd := exec.Command(path, "--config", config)
	out, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	addr, over := make(chan []string, 1), make(chan struct{})
	var last strings.Builder
	go func() {
		defer close(over)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if m := ready.FindStringSubmatch(lines.Text()); m != nil {
				addr <- m
			}
			last.WriteString(lines.Text() + "\n")
		}
	}()
	select {
	case at := <-addr:
		if at[1] != "" {
			p.Addr = at[1]
		}
		p.Debug = at[2]
		p.cmd, p.over = cmd, over
		return nil
	case <-over:
		return fmt.Errorf("%s ended: %w: %s", p.name, cmd.Wait(), last.String())
	}
}

// Kill ends it without warning.
func (p *Process) Kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.over
	_ = p.cmd.Wait()
	p.cmd = nil
}
