package main

import (
	"net/http"
	"os"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
	"github.com/dfsnapshotter/dfsnapshotter/fs"
)

// about serves what `dfget status` shows.
func (n *node) about(w http.ResponseWriter, _ *http.Request) {
	c := n.cfg
	s := agent.Status{
		Version: version, PID: os.Getpid(), Time: time.Now(), Started: n.started, Config: n.configFile,
		Root: c.Root, Address: c.Address, Mirror: c.Mirror.Listen, Upstream: c.Mirror.Upstream, HostsDir: c.Registry.HostsDir, CRI: c.CRI.Listen,
		Cluster: n.cluster(), Layers: map[string]int{}, Cache: n.cache(),
	}
	for _, l := range n.layers() {
		s.Layers[string(l.State)]++
	}
	moved := n.load().Moved
	s.Moved = agent.Moved{From: agent.From{Origin: moved.Origin, Peers: moved.Peers, Cache: moved.Store}, Sent: moved.Sent}
	n.answer(w, s)
}

// cluster is this host's place among others; nil: it is alone.
func (n *node) cluster() *agent.Cluster {
	if n.member == nil {
		return nil
	}
	m := n.member
	c := &agent.Cluster{
		Host: string(n.host), Address: m.host.Addr, Seed: m.host.Seed, Schedulers: n.fetcher.Schedulers(), Manager: n.cfg.Peer.Manager,
		Linked: n.managed != nil && n.managed.Linked(), TLS: m.identity != nil,
	}
	if m.identity != nil {
		c.Expires = m.identity.Until()
	}
	return c
}

func (n *node) cache() agent.Cache {
	var c agent.Cache
	c.Used, c.Max = n.fetcher.Quota()
	c.Blobs = len(n.fetcher.Kept())
	c.Free, c.Disk, _ = fs.DiskSpace(n.cfg.Root) // doctor says so of a zero
	return c
}
