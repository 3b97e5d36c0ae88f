package main

import (
	"net"
	"net/netip"
	"sync"
)

// connsPerHost is how many connections a host may have: one, and those that
// have died and are not known to have.
const connsPerHost = 4

// gate is a listener that closes at once what is beyond the limits, before it
// costs anything.
type gate struct {
	net.Listener
	all, each int

	mu    sync.Mutex // guards what follows
	total int
	from  map[netip.Addr]int
}

func newGate(ln net.Listener, l LimitsConfig) *gate {
	return &gate{Listener: ln, all: connsPerHost * l.Hosts, each: connsPerHost * l.HostsPerAddress, from: map[netip.Addr]int{}}
}

// Accept returns the next connection that is within the limits.
func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if g.enter(addr) {
			return &counted{Conn: c, leave: func() { g.leave(addr) }}, nil
		}
		_ = c.Close()
	}
}

func (g *gate) enter(addr netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total >= g.all || g.from[addr] >= g.each {
		return false
	}
	g.total++
	g.from[addr]++
	return true
}

func (g *gate) leave(addr netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.from[addr]--; g.from[addr] == 0 {
		delete(g.from, addr)
	}
}

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.total
}

// counted is a connection that is counted until it is closed.
type counted struct {
	net.Conn
	once  sync.Once
	leave func()
}

// Close closes it.
func (c *counted) Close() error {
	c.once.Do(c.leave)
	return c.Conn.Close()
}
