package origin_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

// registryName is one that exists in no network.
const registryName = "registry.test:5000"

var named = origin.Repo{Host: registryName, Path: repoPath}

func TestHostsMirrorThenServer(t *testing.T) {
	want := data(4, 5000)
	for _, tt := range []struct {
		name  string
		fault func(mirror *origintest.Registry)
		// again is how many requests the mirror gets by a second range.
		again int
	}{
		{"mirror works", func(*origintest.Registry) {}, 1},
		{"mirror lacks it", func(m *origintest.Registry) { m.Fail("", origintest.Fault{Status: 404}) }, 0},
		{"mirror fails", func(m *origintest.Registry) { m.Fail("", origintest.Fault{Status: 500}) }, 0},
		{"mirror is busy", func(m *origintest.Registry) { m.Fail("", origintest.Fault{Status: 429, RetryAfter: "1"}) }, 0},
		{"mirror refuses", func(m *origintest.Registry) { m.Fail("", origintest.Fault{Status: 403}) }, 1},
		{"mirror hangs", func(m *origintest.Registry) { m.Fail("", origintest.Fault{Hang: true}) }, 0},
		{"mirror sends another range", func(m *origintest.Registry) { m.Fail("", origintest.Fault{ContentRange: "bytes 0-9/5000"}) }, 0},
		{"mirror is gone", func(m *origintest.Registry) { m.Close() }, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mirror, server := origintest.New(t, origintest.Options{}), origintest.New(t, origintest.Options{})
			d := mirror.AddBlob(repoPath, want)
			server.AddBlob(repoPath, want)
			dir := hostsDir(t, "registry.test_5000_", fmt.Sprintf("server = %q\n[host.%q]\n", server.URL(), mirror.URL()))
			c := client(t, origin.Config{HostsDir: dir, HeaderTimeout: 200 * time.Millisecond})
			tt.fault(mirror)
			mustGet(t, c, named, d, 100, 1000, want[100:1100])
			if tt.name == "mirror works" {
				if n := server.Count("blob"); n != 0 {
					t.Errorf("the server got %d requests", n)
				}
				for _, q := range mirror.Requests() {
					if u, err := url.Parse(q.URL); err != nil || u.Query().Get("ns") != registryName {
						t.Errorf("the mirror was asked for %s, without the registry's name", q.URL)
					}
				}
			}
			mirror.Reset()
			mustGet(t, c, named, d, 100, 1000, want[100:1100])
			if n := mirror.Count("blob"); n != tt.again {
				t.Errorf("the mirror got %d requests by a second range, want %d", n, tt.again)
			}
		})
	}
}

// TestHostsErrors checks which of two hosts' answers counts.
func TestHostsErrors(t *testing.T) {
	for _, tt := range []struct {
		name           string
		mirror, server int
		check          func(error) bool
	}{
		{"absent at both", 404, 404, is(origin.ErrNotFound)},
		{"absent at the server", 500, 404, is(origin.ErrNotFound)},
		{"absent at the mirror", 404, 503, unavailable(503, 0, 0)},
		{"refused by the server, mirror down", 500, 403, unavailable(500, 0, 0)},
		{"refused by both", 403, 403, is(origin.ErrUnauthorized)},
		{"refused by the server", 404, 403, is(origin.ErrUnauthorized)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mirror, server := origintest.New(t, origintest.Options{}), origintest.New(t, origintest.Options{})
			mirror.Fail("", origintest.Fault{Status: tt.mirror})
			server.Fail("", origintest.Fault{Status: tt.server})
			dir := hostsDir(t, "_default", fmt.Sprintf("server = %q\n[host.%q]\n", server.URL(), mirror.URL()))
			c := client(t, origin.Config{HostsDir: dir})
			for range 2 { // the second time in another order
				_, err := get(c, named, mirror.AddBlob("x", nil), 0, 10)
				if err == nil || !tt.check(err) {
					t.Fatalf("got %v", err)
				}
				for _, r := range []*origintest.Registry{mirror, server} {
					if !strings.Contains(err.Error(), r.Host()) {
						t.Errorf("%q does not name %s", err, r.Host())
					}
				}
			}
		})
	}
}

func TestHostsMirrorIsAskedAgain(t *testing.T) {
	mirror, server := origintest.New(t, origintest.Options{}), origintest.New(t, origintest.Options{})
	want := data(4, 100)
	d := mirror.AddBlob(repoPath, want)
	server.AddBlob(repoPath, want)
	mirror.Fail(d, origintest.Fault{Status: 503, Times: 1})
	dir := hostsDir(t, "registry.test_5000_", fmt.Sprintf("server = %q\n[host.%q]\n", server.URL(), mirror.URL()))
	c := client(t, origin.Config{HostsDir: dir})
	mustGet(t, c, named, d, 0, 10, want[:10])
	c.SetClock(func() time.Time { return time.Now().Add(time.Minute) })
	server.Reset()
	mustGet(t, c, named, d, 0, 10, want[:10])
	if n := server.Count("blob"); n != 0 {
		t.Errorf("the server got %d requests a minute after the mirror had failed", n)
	}
}

// TestHostsMirrorSpoilsBody checks that a mirror whose answers begin well and
// end badly is not asked for the rest.
func TestHostsMirrorSpoilsBody(t *testing.T) {
	want := data(4, 100_000)
	for _, tt := range []struct {
		name  string
		fault origintest.Fault
		spoil func(context.Context, *origin.Client, digest.Digest) error // what the reader sees
	}{
		{"cut off", origintest.Fault{CutAfter: 1000}, func(ctx context.Context, c *origin.Client, d digest.Digest) error {
			body, err := c.Blob(ctx, named, d, 0, -1)
			if err != nil {
				return err
			}
			defer body.Close()
			if _, err = io.Copy(io.Discard, body); err == nil {
				return errors.New("the body is whole")
			}
			return nil
		}},
		{"wrong bytes", origintest.Fault{Corrupt: true}, func(ctx context.Context, c *origin.Client, d digest.Digest) error {
			got, err := get(c, named, d, 0, -1)
			if err != nil || bytes.Equal(got, want) {
				return fmt.Errorf("%d bytes, %w", len(got), err)
			}
			c.Blame(named, d)
			return nil
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mirror, server := origintest.New(t, origintest.Options{}), origintest.New(t, origintest.Options{})
			d := mirror.AddBlob(repoPath, want)
			server.AddBlob(repoPath, want)
			mirror.Fail(d, tt.fault)
			dir := hostsDir(t, "_default", fmt.Sprintf("server = %q\n[host.%q]\n", server.URL(), mirror.URL()))
			c := client(t, origin.Config{HostsDir: dir})
			if err := tt.spoil(t.Context(), c, d); err != nil {
				t.Fatal(err)
			}
			mustGet(t, c, named, d, 0, -1, want)
		})
	}
}

// TestHostsMirrorStalls checks that a mirror is left when a reader gives up
// after a long silence, but not when one does so at once.
func TestHostsMirrorStalls(t *testing.T) {
	want := data(4, 100_000)
	for _, tt := range []struct {
		silence time.Duration
		end     func(*origin.Body, context.CancelFunc)
		server  int // requests to it afterwards
	}{
		{10 * time.Second, func(_ *origin.Body, cancel context.CancelFunc) { cancel() }, 1},
		{10 * time.Second, func(b *origin.Body, _ context.CancelFunc) { b.Close() }, 1},
		{0, func(_ *origin.Body, cancel context.CancelFunc) { cancel() }, 0},
		{0, func(b *origin.Body, _ context.CancelFunc) { b.Close() }, 0},
	} {
		mirror, server := origintest.New(t, origintest.Options{}), origintest.New(t, origintest.Options{})
		d := mirror.AddBlob(repoPath, want)
		server.AddBlob(repoPath, want)
		mirror.Fail(d, origintest.Fault{HangAfter: 1000, Times: 1})
		dir := hostsDir(t, "_default", fmt.Sprintf("server = %q\n[host.%q]\n", server.URL(), mirror.URL()))
		c := client(t, origin.Config{HostsDir: dir})
		var passed atomic.Int64
		var armed atomic.Bool
		begun := make(chan struct{}) // closed when the read that hangs has looked at the clock
		c.SetClock(func() time.Time {
			now := time.Now().Add(time.Duration(passed.Load()))
			if armed.CompareAndSwap(true, false) {
				close(begun)
			}
			return now
		})
		ctx, cancel := context.WithCancel(t.Context())
		body, err := c.Blob(ctx, named, d, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan error, 1)
		go func() {
			io.ReadFull(body, make([]byte, 1000))
			armed.Store(true)
			_, err := body.Read(make([]byte, 1))
			got <- err
		}()
		<-begun
		passed.Store(int64(tt.silence))
		tt.end(body, cancel)
		if err := <-got; err == nil {
			t.Error("the mirror did not hang")
		}
		cancel()
		body.Close()
		mustGet(t, c, named, d, 0, -1, want)
		if n := server.Count("blob"); n != tt.server {
			t.Errorf("silence of %s: %d requests to the server, want %d", tt.silence, n, tt.server)
		}
	}
}

// TestHostsMirrorCredentials checks that credentials of a registry go to no
// mirror of it.
func TestHostsMirrorCredentials(t *testing.T) {
	mirror := origintest.New(t, origintest.Options{Auth: origintest.Basic, Users: users})
	want := data(4, 100)
	d := mirror.AddBlob(repoPath, want)
	dir := hostsDir(t, "registry.test_5000_", fmt.Sprintf("server = %q\n[host.%q]\n", mirror.URL()+"/none", mirror.URL()))
	learned := &origin.Learned{}
	learned.Add(named, alice, time.Time{})
	c := client(t, origin.Config{HostsDir: dir, Credentials: learned})
	if _, err := get(c, named, d, 0, 10); err == nil {
		t.Error("the mirror got the registry's credentials")
	}
	learned.Add(origin.Repo{Host: mirror.Host()}, alice, time.Time{})
	mustGet(t, c, named, d, 0, 10, want[:10])
}

func TestHostsCapabilities(t *testing.T) {
	mirror, server := origintest.New(t, origintest.Options{}), origintest.New(t, origintest.Options{})
	want := data(4, 100)
	d := mirror.AddBlob(repoPath, want)
	server.AddBlob(repoPath, want)
	dir := hostsDir(t, "registry.test_5000_", fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"push\"]\n", server.URL(), mirror.URL()))
	mustGet(t, client(t, origin.Config{HostsDir: dir}), named, d, 0, 10, want[:10])
	if n := len(mirror.Requests()); n != 0 {
		t.Errorf("a host that only takes pushes got %d requests", n)
	}
	write(t, filepath.Join(dir, "registry.test_5000_", "hosts.toml"), fmt.Sprintf("server = %q\ncapabilities = [\"push\"]\n", server.URL()))
	_, err := get(client(t, origin.Config{HostsDir: dir}), named, d, 0, 10)
	if err == nil || !strings.Contains(err.Error(), "pull") {
		t.Errorf("got %v, want an error that names the missing capability", err)
	}
}

func TestHostsOverridePathAndHeader(t *testing.T) {
	reg := origintest.New(t, origintest.Options{Root: "/api/docker", Header: map[string]string{"X-Team": "storage"}})
	want := data(4, 100)
	d := reg.AddBlob(repoPath, want)
	dir := hostsDir(t, "registry.test_5000_", fmt.Sprintf("[host.%q]\noverride_path = true\n[host.%[1]q.header]\nx-team = \"storage\"\n", reg.URL()+"/api/docker"))
	mustGet(t, client(t, origin.Config{HostsDir: dir}), named, d, 0, 10, want[:10])
}

// TestHostsHeaderStaysAtHost checks that extra headers, which may be secret,
// are not sent to a blob store.
func TestHostsHeaderStaysAtHost(t *testing.T) {
	reg := origintest.New(t, origintest.Options{Redirect: true, Header: map[string]string{"X-Key": "secret"}})
	want := data(4, 100)
	d := reg.AddBlob(repoPath, want)
	dir := hostsDir(t, "registry.test_5000_", fmt.Sprintf("[host.%q.header]\nX-Key = \"secret\"\n", reg.URL()))
	mustGet(t, client(t, origin.Config{HostsDir: dir}), named, d, 0, 10, want[:10])
	for _, q := range reg.Requests() {
		if q.Kind == "store" && q.Header.Get("X-Key") != "" {
			t.Error("the blob store got the registry's header")
		}
	}
}

func TestHostsTLS(t *testing.T) {
	cert, key, pool := clientCertificate(t)
	want := data(4, 100)
	for _, tt := range []struct {
		name  string
		pool  *x509.CertPool // of client certificates asked for
		toml  string         // in the host's table
		works bool
	}{
		{"unknown CA", nil, ``, false},
		{"CA", nil, `ca = "ca.crt"`, true},
		{"CAs", nil, `ca = ["client.cert", "ca.crt"]`, true},
		{"skip_verify", nil, `skip_verify = true`, true},
		{"client certificate missing", pool, `ca = "ca.crt"`, false},
		{"client certificate", pool, "ca = \"ca.crt\"\nclient = [[\"client.cert\", \"client.key\"]]", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reg := origintest.New(t, origintest.Options{TLS: true, ClientCAs: tt.pool})
			d := reg.AddBlob(repoPath, want)
			dir := hostsDir(t, "registry.test_5000_", fmt.Sprintf("server = %q\n%s\n", reg.URL(), tt.toml))
			for name, text := range map[string][]byte{"ca.crt": reg.CA(), "client.cert": cert, "client.key": key} {
				write(t, filepath.Join(dir, "registry.test_5000_", name), string(text))
			}
			got, err := get(client(t, origin.Config{HostsDir: dir}), named, d, 0, 10)
			if tt.works != (err == nil && string(got) == string(want[:10])) {
				t.Errorf("got %d bytes, %v; want success %v", len(got), err, tt.works)
			}
			if !tt.works && !unavailable(0, 0, 0)(err) {
				t.Errorf("got %v, want *UnavailableError", err)
			}
		})
	}
}

// clientCertificate returns a certificate and key in PEM, and a pool that
// trusts them.
func clientCertificate(t *testing.T) (cert, key []byte, pool *x509.CertPool) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		IsCA:        true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), pool
}

// TestHostsChange checks that files are read again when they change, among
// them certificates outside of the tree, and that a configuration that cannot
// be used leaves the one before.
func TestHostsChange(t *testing.T) {
	first, second := origintest.New(t, origintest.Options{}), origintest.New(t, origintest.Options{TLS: true})
	want := data(4, 100)
	d := first.AddBlob(repoPath, want)
	second.AddBlob(repoPath, want)
	root := t.TempDir()
	toml, ca := filepath.Join(root, "registry.test_5000_", "hosts.toml"), filepath.Join(t.TempDir(), "ca.pem")
	var log bytes.Buffer
	c := client(t, origin.Config{HostsDir: root, Log: slog.New(slog.NewTextHandler(&log, nil))})
	passed := time.Duration(0)
	later := func() {
		passed += origin.RecheckHosts
		now := time.Now().Add(passed)
		c.SetClock(func() time.Time { return now })
	}
	write(t, toml, fmt.Sprintf("server = %q\n", first.URL()))
	mustGet(t, c, named, d, 0, 10, want[:10])

	write(t, toml, fmt.Sprintf("server = %q\nca = %q\n", second.URL(), ca))
	later()
	mustGet(t, c, named, d, 0, 10, want[:10])
	if n := first.Count("blob"); n != 2 || !strings.Contains(log.String(), "cannot be used") {
		t.Errorf("with a CA file that is missing: %d requests to the first server, want 2; log: %s", n, &log)
	}
	write(t, ca, string(second.CA()))
	later()
	mustGet(t, c, named, d, 0, 10, want[:10])
	if n := second.Count("blob"); n != 1 {
		t.Errorf("after the CA file had come: %d requests to the second server, want 1", n)
	}
}

func TestHostsBroken(t *testing.T) {
	reg := origintest.New(t, origintest.Options{})
	want := data(4, 100)
	d := reg.AddBlob(repoPath, want)
	var log bytes.Buffer
	dir := hostsDir(t, "_default", "server = [not toml")
	c := client(t, origin.Config{HostsDir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))})
	mustGet(t, c, repo(reg), d, 0, 10, want[:10]) // by the registry's own name
	if !strings.Contains(log.String(), "hosts.toml") {
		t.Errorf("the log does not tell: %s", &log)
	}
}

func TestDockerHubServer(t *testing.T) {
	var asked string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked = req.Method + " " + req.Host
		w.WriteHeader(http.StatusBadGateway)
	}))
	t.Cleanup(proxy.Close)
	u, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, origin.Config{Proxy: http.ProxyURL(u)})
	_, err = get(c, origin.Repo{Host: "docker.io", Path: repoPath}, digest.FromString("x"), 0, 10)
	if asked != "CONNECT registry-1.docker.io:443" || !unavailable(0, 0, 0)(err) {
		t.Errorf("the proxy was asked to %q, error %v", asked, err)
	}
}

// TestProxy checks that a proxy gets the requests to registry, token server
// and blob store.
func TestProxy(t *testing.T) {
	reg := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: users, Redirect: true})
	want := data(4, 100)
	d := reg.AddBlob(repoPath, want)
	kinds := make(chan string, 16)
	c := client(t, origin.Config{Credentials: known{alice}, Proxy: func(req *http.Request) (*url.URL, error) {
		kinds <- strings.Split(req.URL.Path, "/")[1]
		return nil, nil
	}})
	mustGet(t, c, repo(reg), d, 0, 10, want[:10])
	close(kinds)
	var got []string
	for k := range kinds {
		got = append(got, k)
	}
	if g := strings.Join(got, " "); !strings.Contains(g, "v2") || !strings.Contains(g, "token") || !strings.Contains(g, "data") {
		t.Errorf("the proxy was looked up for %s, want v2, token and data", g)
	}
}
