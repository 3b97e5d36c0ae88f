package main

import (
	"net"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// connsPerHost is how many connections a host may have: one, and those that
// have died and are not known to have.
const connsPerHost = 4

// gate is a listener that closes at once what is beyond the limits, before it
// costs anything, and knows how connections turned out.
type gate struct {
	net.Listener
	all, each int
	ended     *prometheus.CounterVec // result

	mu    sync.Mutex // guards what follows
	conns map[netip.AddrPort]*counted
	from  map[netip.Addr]int
}

func newGate(ln net.Listener, l LimitsConfig, ended *prometheus.CounterVec) *gate {
	return &gate{
		Listener: ln, all: connsPerHost * l.Hosts, each: connsPerHost * l.HostsPerAddress, ended: ended,
		conns: map[netip.AddrPort]*counted{}, from: map[netip.Addr]int{},
	}
}

// Accept returns the next connection that is within the limits.
func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if k := g.enter(c); k != nil {
			return k, nil
		}
		g.ended.WithLabelValues("refused").Inc()
		_ = c.Close()
	}
}

// place is the address of a connection's other end, in one form for all.
func place(addr netip.Addr, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(addr.Unmap().WithZone(""), port)
}

// enter counts a connection, or returns nil if it is one too many.
func (g *gate) enter(c net.Conn) *counted {
	far := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	k := &counted{Conn: c, gate: g, at: place(far.Addr(), far.Port())}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.conns) >= g.all || g.from[k.at.Addr()] >= g.each {
		return nil
	}
	g.conns[k.at] = k
	g.from[k.at.Addr()]++
	return k
}

// speaks notes that a host has opened a stream on its connection.
func (g *gate) speaks(c wire.Caller) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if k := g.conns[place(c.Addr, c.Port)]; k != nil {
		k.spoke = true
	}
}

func (g *gate) leave(k *counted) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, k.at)
	if g.from[k.at.Addr()]--; g.from[k.at.Addr()] == 0 {
		delete(g.from, k.at.Addr())
	}
	result := "no_stream"
	if k.spoke {
		result = "served"
	}
	g.ended.WithLabelValues(result).Inc()
}

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}

// counted is a connection that is counted until it is closed.
type counted struct {
	net.Conn
	gate  *gate
	at    netip.AddrPort
	spoke bool // guarded by gate.mu
	once  sync.Once
}

// Close closes it.
func (c *counted) Close() error {
	c.once.Do(func() { c.gate.leave(c) })
	return c.Conn.Close()
}
