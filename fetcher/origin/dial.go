package origin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
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

// Literal returns the address that a host is written as, also in the forms that other
// programs than this one read as one. It reports false for a name.
func Literal(host string) (a netip.Addr, ok bool) {
	host = strings.TrimSuffix(host, ".")
	if a, ok := numeric(host); ok {
		return a, true
	}
	a, err := netip.ParseAddr(host)
	return a, err == nil
}

// checkHost returns ErrAddress where a host is written as such an address.
func checkHost(host string) error {
	if a, ok := Literal(host); ok {
		return CheckAddress(a)
	}
	return nil
}

// numeric reads an address as inet_aton(3) does: of fewer than four numbers the last
// one is all that is left, and they may be octal or hexadecimal.
func numeric(host string) (a netip.Addr, ok bool) {
	parts := strings.Split(host, ".")
	if len(parts) > 4 {
		return a, false
	}
	var all uint64
	for i, p := range parts {
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (4 - i)
		}
		n, err := strconv.ParseUint(p, 0, bits)
		if err != nil {
			return a, false // it is a name
		}
		all = all<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(all >> 24), byte(all >> 16), byte(all >> 8), byte(all)}), true
}

// Guard has a transport, whose proxy is chosen, dial with by, but where others may not
// lead it: ErrAddress. The proxy may be anywhere. What a name leads to that is given to
// it, it alone knows.
func Guard(t *http.Transport, by net.Dialer) {
	d, free := &dialer{}, by
	by.Control = func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return CheckAddress(at.Addr())
	}
	t.Proxy = d.proxy(t.Proxy)
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if d.trusts(addr) {
			return free.DialContext(ctx, network, addr)
		}
		return by.DialContext(ctx, network, addr)
	}
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
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.trusted == nil {
		d.trusted = map[string]bool{}
	}
	d.trusted[hostPort(u)] = true
}

// hostPort is what is dialled for u.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func (d *dialer) trusts(addr string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.trusted[addr]
}

// proxy trusts what next chooses, and gives it no request to an address that others may
// not lead to.
func (d *dialer) proxy(next func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	if next == nil {
		return nil
	}
	return func(r *http.Request) (*url.URL, error) {
		u, err := next(r)
		if err != nil || u == nil {
			return u, err
		}
		if !d.trusts(hostPort(r.URL)) {
			if err := checkHost(r.URL.Hostname()); err != nil {
				return nil, err
			}
		}
		d.trust(u)
		return u, nil
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
