package origin_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

// pass makes a read of a registry and returns the answer's status, 0 if there is
// none.
func pass(t *testing.T, c *origin.Client, path string, header http.Header) (int, error) {
	t.Helper()
	resp, err := c.Pass(t.Context(), registryName, origin.Request{Method: http.MethodGet, Path: path, Header: header})
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// TestPassHosts asks mirrors first, and takes the server's word for what is not
// there.
func TestPassHosts(t *testing.T) {
	path := repoPath + "/manifests/latest"
	for name, tt := range map[string]struct {
		near, far func(*origintest.Registry) // what becomes of mirror and server
		status    int                        // 0: an error
		asked     bool                       // the server was
	}{
		"mirror has it":                {nil, nil, 200, false},
		"mirror lacks it":              {fails(404), nil, 200, true},
		"mirror refuses":               {fails(401), nil, 200, true},
		"mirror fails":                 {fails(500), nil, 200, true},
		"mirror is gone":               {(*origintest.Registry).Close, nil, 200, true},
		"nobody has it":                {fails(404), fails(404), 404, true},
		"the server's word counts":     {fails(403), fails(404), 404, true},
		"mirror lacks it, server gone": {fails(404), (*origintest.Registry).Close, 0, false},
		"mirror fails, server is busy": {fails(500), fails(429), 429, true},
		"both are gone":                {(*origintest.Registry).Close, (*origintest.Registry).Close, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := origintest.New(t, origintest.Options{}), origintest.New(t, origintest.Options{})
			for _, r := range []*origintest.Registry{near, far} {
				r.Tag(repoPath, "latest", r.AddManifest(repoPath, "x/y", []byte("{}")))
			}
			c := client(t, origin.Config{HostsDir: hostsDir(t, "registry.test_5000_", fmt.Sprintf("server = %q\n[host.%q]\n", far.URL(), near.URL()))})
			for r, f := range map[*origintest.Registry]func(*origintest.Registry){near: tt.near, far: tt.far} {
				if f != nil {
					f(r)
				}
			}
			status, err := pass(t, c, path, nil)
			if status != tt.status || (err == nil) != (tt.status != 0) {
				t.Errorf("status %d, %v; want %d", status, err, tt.status)
			}
			if asked := far.Count("manifest") > 0; asked != tt.asked {
				t.Errorf("the server was asked: %v", asked)
			}
		})
	}
}

func fails(status int) func(*origintest.Registry) {
	return func(r *origintest.Registry) { r.Fail("", origintest.Fault{Status: status}) }
}

// TestManyRegistries has clients name one registry after the other.
func TestManyRegistries(t *testing.T) {
	c := client(t, origin.Config{})
	for i := range 3 * origin.MaxRegistries {
		if _, err := c.Server(fmt.Sprintf("r%d.test", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := c.Registries(); n != origin.MaxRegistries {
		t.Errorf("%d registries are remembered", n)
	}
}

// TestPassCredentials sends what the client has, and nothing of this host's.
func TestPassCredentials(t *testing.T) {
	reg := origintest.New(t, origintest.Options{Redirect: true})
	d := reg.AddBlob(repoPath, data(1, 100))
	dir := hostsDir(t, "registry.test_5000_", fmt.Sprintf("server = %q\n[host.%q]\n[host.%q.header]\nAuthorization = \"Basic ours\"\nX-Ours = \"1\"\n", reg.URL(), reg.URL(), reg.URL()))
	c := client(t, origin.Config{HostsDir: dir, Via: "me"})
	for _, h := range []http.Header{{"Authorization": {"Bearer theirs"}, "Via": {"1.1 them"}}, {}} {
		reg.Reset()
		// The blob store refuses requests with Authorization.
		if status, err := pass(t, c, repoPath+"/blobs/"+d.String(), h); err != nil || status != 200 {
			t.Fatalf("status %d, %v", status, err)
		}
		q := reg.Requests()[0].Header
		via := strings.TrimPrefix(strings.Join(append(h.Values("Via"), "1.1 me"), ", "), ", ")
		if q.Get("Authorization") != h.Get("Authorization") || q.Get("X-Ours") != "" || q.Get("Via") != via {
			t.Errorf("with %v the registry got %v", h, q)
		}
	}
}

func TestOwnMirrorIsNotAsked(t *testing.T) {
	own, reg := origintest.New(t, origintest.Options{}), origintest.New(t, origintest.Options{})
	want := data(1, 100)
	d := reg.AddBlob(repoPath, want)
	dir := hostsDir(t, "registry.test_5000_", fmt.Sprintf("server = %q\n[host.%q]\n", reg.URL(), own.URL()))
	c := client(t, origin.Config{HostsDir: dir, Own: func(hostport string) bool { return hostport == own.Host() }})
	mustGet(t, c, named, d, 0, 100, want)
	if n := len(own.Requests()); n != 0 {
		t.Errorf("it got %d requests", n)
	}
}

func TestPlain(t *testing.T) {
	c := client(t, origin.Config{Plain: []string{"plain.test"}})
	for name, want := range map[string]string{"plain.test": "http://plain.test/v2", "other.test": "https://other.test/v2", "docker.io": "https://registry-1.docker.io/v2"} {
		if u, err := c.Server(name); err != nil || u.String() != want {
			t.Errorf("%s is at %v, %v; want %s", name, u, err, want)
		}
	}
}

func TestCheckAddress(t *testing.T) {
	for addr, bad := range map[string]bool{
		"169.254.169.254": true, "169.254.0.1": true, "::ffff:169.254.169.254": true, "fe80::1": true, "fe80::1%eth0": true,
		"fd00:ec2::254": true, "100.100.100.200": true, "168.63.129.16": true, "224.0.0.1": true, "ff02::1": true,
		"127.0.0.1": false, "10.0.0.1": false, "192.0.2.1": false, "fd00::1": false, "100.100.100.201": false,
	} {
		if err := origin.CheckAddress(netip.MustParseAddr(addr)); errors.Is(err, origin.ErrAddress) != bad {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// conn is a connection that has led somewhere.
type conn struct {
	net.Conn
	to     net.Addr
	closed bool
}

func (c *conn) RemoteAddr() net.Addr { return c.to }
func (c *conn) Close() error         { c.closed = true; return nil }

// TestGuard has names lead where nothing of theirs is.
func TestGuard(t *testing.T) {
	trusted := &url.URL{Scheme: "http", Host: "proxy.test"}
	for _, tt := range []struct {
		addr, to string
		refused  bool
	}{
		{"registry.test:443", "192.0.2.1:443", false},
		{"registry.test:443", "169.254.169.254:443", true},
		{"registry.test:443", "[fe80::1]:443", true},
		{"proxy.test:80", "169.254.1.1:80", false},
		{"proxy.test:8080", "169.254.1.1:8080", true},
	} {
		c := &conn{to: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(tt.to))}
		_, err := origin.Guarded(trusted, func(context.Context, string, string) (net.Conn, error) { return c, nil })(t.Context(), "tcp", tt.addr)
		if errors.Is(err, origin.ErrAddress) != tt.refused || c.closed != tt.refused {
			t.Errorf("%s at %s: %v, closed: %v", tt.addr, tt.to, err, c.closed)
		}
	}
}
