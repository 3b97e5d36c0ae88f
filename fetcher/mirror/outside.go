package mirror

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

const dialTime = 10 * time.Second

// outside reaches servers that clients of the proxy name, but none that they may
// not be led to.
type outside struct {
	proxy  func(*http.Request) (*url.URL, error)
	via    string
	local  *http.Transport // for programs on this machine
	remote *http.Transport // for others: connections that are kept must not be shared with them

	mu      sync.Mutex // guards proxies
	proxies map[string]bool
}

func newOutside(proxy func(*http.Request) (*url.URL, error), via string) *outside {
	o := &outside{via: via, proxies: map[string]bool{}}
	if proxy != nil {
		o.proxy = func(r *http.Request) (*url.URL, error) {
			u, err := proxy(r)
			if u != nil {
				o.mu.Lock()
				o.proxies[address(u)] = true
				o.mu.Unlock()
			}
			return u, err
		}
	}
	o.local, o.remote = o.transport(true), o.transport(false)
	return o
}

func (o *outside) transport(local bool) *http.Transport {
	return &http.Transport{
		Proxy: o.proxy, DisableCompression: true, ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 8,
		TLSHandshakeTimeout: dialTime,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return o.dial(ctx, network, addr, local)
		},
	}
}

func (o *outside) close() {
	o.local.CloseIdleConnections()
	o.remote.CloseIdleConnections()
}

// dial connects, and looks where that has led before anything is sent.
func (o *outside) dial(ctx context.Context, network, addr string, local bool) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, &origin.UnavailableError{Err: err}
	}
	o.mu.Lock()
	configured := o.proxies[addr]
	o.mu.Unlock()
	if at, ok := conn.RemoteAddr().(*net.TCPAddr); ok && !configured {
		if err := checkAddr(at.AddrPort().Addr(), local); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return conn, nil
}

// address returns host:port of a URL.
func address(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443"}[u.Scheme]
	}
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// proxy answers a request for an absolute URL: as a mirror if that is a
// registry's own, else by passing it on.
func (m *Mirror) proxy(a *answer, r *http.Request) error {
	a.kind = proxied
	u := r.URL
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return refuse(http.StatusBadRequest, codeUnsupported, "a proxy takes URLs that begin with http:// or https://")
	}
	local := isLocal(r)
	if err := checkHost(u.Hostname(), local); err != nil {
		return err
	}
	if t, ok := m.ofRegistry(u); ok {
		return m.registry(a, r, t)
	}
	req := r.Clone(r.Context())
	req.RequestURI, req.Header, req.Close = "", cleaned(r.Header), false
	req.Header.Add("Via", "1.1 "+m.cfg.Via)
	if r.ContentLength == 0 {
		req.Body = http.NoBody
	}
	transport := m.outside.remote
	if local {
		transport = m.outside.local
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return outsideError(u.Host, err)
	}
	defer resp.Body.Close()
	return relay(a, resp, resp.Body)
}

// ofRegistry reports whether a URL is one of the API of a registry which speaks
// at that very address: where hosts.toml says otherwise, or that it speaks HTTPS,
// a client that speaks HTTP to it means something else.
func (m *Mirror) ofRegistry(u *url.URL) (t target, ok bool) {
	t, err := parsePath(u.Path)
	if err != nil || t.kind == other {
		return t, false
	}
	if t.registry, _, err = ParseRegistry(u.Host); err != nil {
		return t, false
	}
	server, err := m.cfg.Registries.Server(t.registry)
	if err != nil || server.Scheme != u.Scheme || address(server) != address(u) || server.Path != "/v2" {
		return t, false
	}
	t.query = u.Query()
	return t, true
}

func outsideError(host string, err error) error {
	var known *refusal
	if errors.As(err, &known) || errors.Is(err, origin.ErrAddress) {
		return err
	}
	return &origin.UnavailableError{Err: fmt.Errorf("proxy to %s: %w", host, err)}
}

// tunnel answers CONNECT.
func (m *Mirror) tunnel(a *answer, r *http.Request) error {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil || host == "" {
		return refuse(http.StatusBadRequest, codeUnsupported, "CONNECT wants host:port, not %.100q", r.Host)
	}
	local := isLocal(r)
	if err := checkHost(host, local); err != nil {
		return err
	}
	there, err := m.outside.connect(r.Context(), r.Host, local)
	if err != nil {
		return outsideError(r.Host, err)
	}
	defer there.Close()
	conn, buffered, err := a.control.Hijack()
	if err != nil {
		return fmt.Errorf("tunnel: %w", err)
	}
	defer conn.Close()
	a.status = http.StatusOK
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return nil // nobody is left to be told
	}
	stop := context.AfterFunc(m.ctx, func() { conn.Close(); there.Close() })
	defer stop()
	a.sent = join(conn, buffered.Reader, there)
	return nil
}

// join copies both ways until both have ended, and returns how much came back.
func join(client net.Conn, sent io.Reader, there net.Conn) (back int64) {
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(there, sent) // how it ends, the other side sees
		closeWrite(there)
	})
	back, _ = io.Copy(client, there) // the same
	closeWrite(client)
	wg.Wait()
	return back
}

// closeWrite tells the other side that no more comes.
func closeWrite(c net.Conn) {
	if c, ok := c.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite() // it may be gone
		return
	}
	_ = c.Close() // the same
}

// connect opens a connection to host:port, through the configured proxy if there
// is one.
func (o *outside) connect(ctx context.Context, hostport string, local bool) (net.Conn, error) {
	var via *url.URL
	if o.proxy != nil {
		var err error
		if via, err = o.proxy(&http.Request{URL: &url.URL{Scheme: "https", Host: hostport}}); err != nil {
			return nil, err
		}
	}
	if via == nil {
		return o.dial(ctx, "tcp", hostport, local)
	}
	if via.Scheme != "http" {
		return nil, fmt.Errorf("tunnels through a %s proxy are not supported", via.Scheme)
	}
	conn, err := o.dial(ctx, "tcp", address(via), local)
	if err != nil {
		return nil, err
	}
	if conn, err = o.ask(conn, via, hostport); err != nil {
		return nil, fmt.Errorf("proxy %s: %w", via.Host, err)
	}
	return conn, nil
}

// ask asks a proxy for a tunnel. It closes conn if there is none.
func (o *outside) ask(conn net.Conn, via *url.URL, hostport string) (net.Conn, error) {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: hostport}, Host: hostport, Header: http.Header{"Via": {"1.1 " + o.via}}}
	if u := via.User; u != nil {
		password, _ := u.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	_ = conn.SetDeadline(time.Now().Add(2 * dialTime)) // TCP connections have deadlines
	if err := req.Write(conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, req)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	defer resp.Body.Close() // an answer to CONNECT has none
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("CONNECT: %s", resp.Status), conn.Close())
	}
	_ = conn.SetDeadline(time.Time{}) // the same
	return &bufferedConn{conn, in}, nil
}

// bufferedConn is a connection of which some was read ahead.
type bufferedConn struct {
	net.Conn
	in *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.in.Read(p) }
