package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Cluster is a network with a registry, a scheduler, seeds and nodes.
type Cluster struct {
	*Network
	Registry  *Registry
	Scheduler *Scheduler // nil without P2P
	Seeds     []*Node    // they have no containerd
	Nodes     []*Node

	cfg   ClusterConfig
	certs string // folder, "" without TLS
}

// Node is a host with a containerd and a dfsnapshotter.
type Node struct {
	*Host
	Containerd *Containerd // nil of a seed
	Daemon     *Daemon

	seed bool
}

// ClusterConfig says what a cluster is made of.
type ClusterConfig struct {
	Nodes, Seeds int
	P2P          bool // dfsnapshotters know the scheduler
	TLS          bool
	IPv6         bool
	Config       string   // lines for each dfsnapshotter
	Flags        []string // of dfsnapshotters and scheduler
}

// Cluster starts a cluster. Its links have no limits yet.
func (l *Lab) Cluster(ctx context.Context, cfg ClusterConfig) (*Cluster, error) {
	n, err := l.Network(cfg.IPv6)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Network: n, cfg: cfg}
	at, err := n.Host("registry", Link{})
	if err != nil {
		return nil, err
	}
	if c.Registry, err = at.Registry(ctx); err != nil {
		return nil, err
	}
	l.Upstream = "http://" + c.Registry.Host
	if err := c.hosts(); err != nil {
		return nil, err
	}
	if cfg.TLS {
		if err := c.issue(ctx); err != nil {
			return nil, err
		}
	}
	if cfg.P2P {
		if at, err = n.Host("scheduler", Link{}); err != nil {
			return nil, err
		}
		if c.Scheduler, err = at.Scheduler(ctx, c.tls("scheduler"), cfg.Flags...); err != nil {
			return nil, err
		}
	}
	return c, c.start(ctx)
}

// hosts makes the hosts of seeds and nodes.
func (c *Cluster) hosts() error {
	for i := range c.cfg.Seeds {
		h, err := c.Host(fmt.Sprint("seed", i+1), Link{})
		if err != nil {
			return err
		}
		c.Seeds = append(c.Seeds, &Node{Host: h, seed: true})
	}
	for i := range c.cfg.Nodes {
		h, err := c.Host(fmt.Sprint("node", i+1), Link{})
		if err != nil {
			return err
		}
		c.Nodes = append(c.Nodes, &Node{Host: h})
	}
	return nil
}

// start starts what runs on seeds and nodes.
func (c *Cluster) start(ctx context.Context) error {
	return each(c.all(), func(n *Node) (err error) {
		more := c.config(n, c.cfg.P2P)
		if n.seed {
			n.Daemon, err = n.Seed(ctx, more, c.cfg.Flags...)
			return err
		}
		if n.Daemon, err = n.Host.Daemon(ctx, more, c.cfg.Flags...); err != nil {
			return err
		}
		n.Containerd, err = n.Host.Containerd(ctx, ContainerdConfig{})
		return err
	})
}

func (c *Cluster) all() []*Node { return append(append([]*Node{}, c.Seeds...), c.Nodes...) }

// each calls f for a few nodes at a time.
func each(nodes []*Node, f func(n *Node) error) error {
	var g errgroup.Group
	g.SetLimit(4)
	for _, n := range nodes {
		g.Go(func() error {
			if err := f(n); err != nil {
				return fmt.Errorf("%s: %w", n.Name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// config is what is added to a dfsnapshotter's configuration.
func (c *Cluster) config(n *Node, p2p bool) string {
	if !p2p {
		return c.cfg.Config
	}
	return fmt.Sprintf("[peer]\nschedulers = [%q]\nseed = %t\n%s%s", c.Scheduler.Addr, n.seed, c.tls(n.Name), c.cfg.Config)
}

// tls is the section of a configuration file.
func (c *Cluster) tls(name string) string {
	if c.certs == "" {
		return "[tls]\ninsecure = true\n"
	}
	return fmt.Sprintf("[tls]\nca = \"%[1]s/ca.pem\"\ncert = \"%[1]s/%[2]s.pem\"\nkey = \"%[1]s/%[2]s.key\"\n", c.certs, name)
}

// issue makes certificates for all hosts.
func (c *Cluster) issue(ctx context.Context) error {
	c.certs = c.lab.Path("certs")
	args := []string{"run", "./script/ca", c.certs, "scheduler=scheduler"}
	for _, n := range c.Seeds {
		args = append(args, "seed="+n.Name)
	}
	for _, n := range c.Nodes {
		args = append(args, "host="+n.Name)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = c.lab.Root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("script/ca: %w: %s", err, out)
	}
	return nil
}

// SetLinks makes the links of registry, seeds and nodes equally fast.
func (c *Cluster) SetLinks(rate string) error {
	err := c.Registry.at.SetLink(Symmetric(rate))
	for _, n := range c.all() {
		err = errors.Join(err, n.SetLink(Symmetric(rate)))
	}
	return err
}

// Collect removes images from nodes.
func (c *Cluster) Collect(ctx context.Context, nodes []*Node, refs ...string) error {
	return each(nodes, func(n *Node) error { return n.Containerd.Collect(ctx, "default", refs...) })
}

// Use sets whether dfsnapshotters know the scheduler, and how many seeds there
// are, and starts them and the scheduler anew with nothing on their disks. There
// must have been as many seeds and a scheduler at the beginning.
func (c *Cluster) Use(ctx context.Context, p2p bool, seeds int) error {
	if c.Scheduler != nil {
		if err := c.Scheduler.Stop(); err != nil {
			return err
		}
	}
	err := each(c.all(), func(n *Node) error {
		return errors.Join(n.Daemon.Wipe(), n.Daemon.configure(c.config(n, p2p)))
	})
	if err != nil {
		return err
	}
	if p2p {
		if err := c.Scheduler.Start(ctx); err != nil {
			return err
		}
	}
	nodes := c.Nodes
	if p2p {
		nodes = append(append([]*Node{}, c.Seeds[:seeds]...), nodes...)
	}
	return each(nodes, func(n *Node) error { return n.Daemon.Start(ctx) })
}

// Secrets looks for texts in the logs, metrics and views of all daemons, and says
// where there is one.
func (c *Cluster) Secrets(ctx context.Context, secrets ...string) (found []string, err error) {
	for where, show := range c.shown() {
		text, serr := show(ctx)
		err = errors.Join(err, serr)
		for _, s := range secrets {
			if strings.Contains(string(text), s) {
				found = append(found, where)
				break
			}
		}
	}
	return found, err
}

// shown is all that operators get to see.
func (c *Cluster) shown() map[string]func(context.Context) ([]byte, error) {
	all := map[string]func(context.Context) ([]byte, error){}
	add := func(h *Host, log, debug string, pages ...string) {
		all[h.Name+"/"+log] = func(context.Context) ([]byte, error) { return os.ReadFile(h.Path(log)) }
		for _, p := range pages {
			all[h.Name+p] = func(ctx context.Context) ([]byte, error) { return h.get(ctx, "http://"+debug+p) }
		}
	}
	for _, n := range c.all() {
		add(n.Host, "df.log", n.Daemon.Debug, "/metrics")
	}
	add(c.Scheduler.at, "scheduler.log", c.Scheduler.Debug, "/metrics", "/debug", "/debug.json")
	return all
}
