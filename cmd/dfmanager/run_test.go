package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/clustertest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/wiretest"
)

func TestMain(m *testing.M) {
	code := storetest.Main(m)
	if err := errors.Join(os.RemoveAll(binaries), clustertest.Remove()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func testConfig(url string) Config {
	c := DefaultConfig()
	c.Listen, c.GRPCListen, c.Debug.Listen, c.Database = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", url
	return c
}

// start runs a manager until the test ends, and returns it with what it printed.
func start(t *testing.T, c Config, rootPassword string) (*server, string) {
	t.Helper()
	var out bytes.Buffer
	s, err := open(t.Context(), c, secrets{rootPassword: rootPassword, key: strings.Repeat("k", 64)}, &out, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s, out.String()
}

func signIn(t *testing.T, c *http.Client, base, password string) int {
	t.Helper()
	body, _ := json.Marshal(map[string]string{"name": "root", "password": password})
	resp, err := c.Post(base+"/api/v1/session", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func TestFirstPasswordIsShownOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, url string) {
		s, out := start(t, testConfig(url), "")
		m := regexp.MustCompile(`^dfmanager: the first user is root with the password (\S{20}), `).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("printed %q", out)
		}
		if got := signIn(t, http.DefaultClient, "http://"+s.ln.Addr().String(), m[1]); got != 201 {
			t.Errorf("signing in: %d", got)
		}
		if _, out := start(t, testConfig(url), "something else"); out != "" && url[0] == 'p' {
			t.Errorf("the second one printed %q", out)
		}
	})
}

func TestFirstPasswordIsGiven(t *testing.T) {
	t.Parallel()
	s, out := start(t, testConfig(storetest.SQLite(t)), "given by the operator")
	if out != "" {
		t.Errorf("printed %q", out)
	}
	if got := signIn(t, http.DefaultClient, "http://"+s.ln.Addr().String(), "given by the operator"); got != 201 {
		t.Errorf("signing in: %d", got)
	}
	_, err := open(t.Context(), testConfig(storetest.SQLite(t)), secrets{rootPassword: "short"}, io.Discard, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "DFMANAGER_ROOT_PASSWORD") || strings.Contains(err.Error(), "short") {
		t.Errorf("with a bad password: %v", err)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, err := wiretest.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(name p2p.HostID) wire.Files {
		f, err := ca.Issue(dir, name, wire.RoleHost, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	c := testConfig(storetest.SQLite(t))
	first := issue("first")
	c.Web.Cert, c.Web.Key = first.Cert, first.Key
	s, _ := start(t, c, "given by the operator")
	client := func() *http.Client {
		return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	}
	base := "https://" + s.ln.Addr().String()
	resp, err := client().Get(base + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 || resp.Header.Get("Strict-Transport-Security") == "" || resp.TLS.PeerCertificates[0].Subject.CommonName != "first" {
		t.Errorf("%+v", resp)
	}
	second := issue("second")
	for from, to := range map[string]string{second.Cert: first.Cert, second.Key: first.Key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		resp, err := client().Get(base + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.TLS.PeerCertificates[0].Subject.CommonName == "second" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the new certificate is not used")
		}
	}
}

func get(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestDebug(t *testing.T) {
	t.Parallel()
	s, _ := start(t, testConfig(storetest.SQLite(t)), "given by the operator")
	if code, _ := get(t, http.DefaultClient, "http://"+s.ln.Addr().String()+"/healthz"); code != 200 {
		t.Errorf("healthz: %d", code)
	}
	code, text := get(t, http.DefaultClient, "http://"+s.debug.Addr()+"/metrics")
	if code != 200 || !strings.Contains(text, `dfmanager_http_requests_total{route="/healthz",status="200"} 1`) {
		t.Errorf("metrics: %d %s", code, text)
	}
	if code, _ := get(t, http.DefaultClient, "http://"+s.ln.Addr().String()+"/metrics"); code != 404 {
		t.Errorf("metrics where everybody may look: %d", code)
	}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	taken, _ := start(t, testConfig(storetest.SQLite(t)), "given by the operator")
	dir := t.TempDir()
	ca, err := wiretest.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"listen":        func(c *Config) { c.Listen = taken.ln.Addr().String() },
		"grpc_listen":   func(c *Config) { c.GRPCListen = taken.grpcAddr },
		"debug.listen":  func(c *Config) { c.Debug.Listen = taken.debug.Addr() },
		"database":      func(c *Config) { c.Database = "sqlite://" + file + "/x.db" },
		"web.cert":      func(c *Config) { c.Web.Cert, c.Web.Key = file, file },
		"key_file":      func(c *Config) { c.KeyFile = file },
		"registries.ca": func(c *Config) { c.Registries.CA = file },
		"tls.cert": func(c *Config) {
			c.Cluster.Schedulers = []string{"127.0.0.1:1"}
			f, err := ca.Issue(dir, "seed", wire.RoleSeed, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			c.TLS.CA, c.TLS.Cert, c.TLS.Key = f.CA, f.Cert, f.Key
		},
	} {
		c := testConfig(storetest.SQLite(t))
		c.KeyFile = filepath.Join(t.TempDir(), "key")
		change(&c)
		if _, err := open(t.Context(), c, secrets{rootPassword: "given by the operator"}, io.Discard, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), name+":") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
