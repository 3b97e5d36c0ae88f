package origin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
)

// ErrAddress means that a name leads to an address where no registry is: a
// link-local one, at which clouds answer the machine that asks, and tell it
// secrets of its own. Only who configured it can mend that.
var ErrAddress = errors.New("link-local and metadata addresses are refused")

// metadata are the addresses outside the link-local ranges at which clouds tell
// machines about themselves.
var metadata = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"),
	netip.MustParseAddr("100.100.100.200"),
	netip.MustParseAddr("168.63.129.16"),
}

// CheckAddress returns ErrAddress for one that no client may be led to.
func CheckAddress(a netip.Addr) error {
	a = a.Unmap().WithZone("")
	bad := a.IsLinkLocalUnicast() || a.IsMulticast()
	for _, m := range metadata {
		bad = bad || a == m
	}
	if bad {
		return fmt.Errorf("%s: %w", a, ErrAddress)
	}
	return nil
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// dialer refuses connections that names and redirects of others lead to, but not
// those that this host's own configuration asks for.
type dialer struct {
	mu      sync.Mutex
	trusted map[string]bool // host:port; guarded by mu
}

// trust lets a server of the configuration be anywhere.
func (d *dialer) trust(u *url.URL) {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080"}[u.Scheme]
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.trusted == nil {
		d.trusted = map[string]bool{}
	}
	d.trusted[net.JoinHostPort(u.Hostname(), port)] = true
}

func (d *dialer) trusts(addr string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.trusted[addr]
}

// proxy trusts what next chooses.
func (d *dialer) proxy(next func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	if next == nil {
		return nil
	}
	return func(r *http.Request) (*url.URL, error) {
		u, err := next(r)
		if u != nil {
			d.trust(u)
		}
		return u, err
	}
}

// guard looks where a connection has led before anything is sent.
func (d *dialer) guard(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil || d.trusts(addr) {
			return conn, err
		}
		if at, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
			if err := CheckAddress(at.AddrPort().Addr()); err != nil {
				return nil, errors.Join(err, conn.Close())
			}
		}
		return conn, nil
	}
}
