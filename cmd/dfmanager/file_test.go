package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/clustertest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// shelf is a web server with one file, for who has the password.
type shelf struct {
	*httptest.Server
	data     []byte
	password string // "": everybody
	sent     atomic.Int64
}

func newShelf(t *testing.T, size int, password string) *shelf {
	s := fill(size, password)
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// newSafeShelf is one that speaks TLS, with a certificate that no system knows.
func newSafeShelf(t *testing.T, size int, password string) *shelf {
	s := fill(size, password)
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of who does not know it
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func fill(size int, password string) *shelf {
	s := &shelf{data: make([]byte, size), password: password}
	_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(s.data)
	return s
}

// ServeHTTP gives the file to who has the password.
func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case s.password != "" && r.Header.Get("X-Password") != s.password:
		http.Error(w, "who are you?", http.StatusForbidden)
	case r.URL.Path != "/model.bin":
		http.NotFound(w, r)
	default:
		w.Header().Set("ETag", `"one"`)
		http.ServeContent(&counted{w, &s.sent}, r, "", time.Time{}, bytes.NewReader(s.data))
	}
}

// ca is a PEM file with the certificate of all servers that newSafeShelf makes.
func (s *shelf) ca(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

type counted struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// A file is brought to seeds and hosts under the name by which dfget asks for it, leaves
// its server once, and only who may read it there has it brought.
func TestPreheatFile(t *testing.T) {
	t.Parallel()
	members := clustertest.New(t, true)
	members.FilesCA = newSafeShelf(t, 1, "").ca(t)
	r := origintest.New(t, origintest.Options{})
	s := members.Scheduler()
	seeds := []*clustertest.Process{members.Seed(r.Host(), s.Addr), members.Seed(r.Host(), s.Addr)}
	h := members.Host(r.Host(), s.Addr)
	f := members.Files("manager", wire.RoleManager)
	cfg := testConfig(storetest.SQLite(t))
	cfg.Cluster.Schedulers, cfg.Web.Rate = []string{s.Addr}, 10_000
	cfg.TLS.CA, cfg.TLS.Cert, cfg.TLS.Key = f.CA, f.Cert, f.Key
	cfg.Registries.CA = members.FilesCA
	m, _ := start(t, cfg, rootPassword)
	c := newClient(t, "http://"+m.ln.Addr().String())
	c.first()
	eventually(t, func() bool {
		return len(m.sight.Gather(t.Context(), 0, []string{s.Addr}).Hosts) == 4 // the manager is one
	})
	const secret = "open sesame"
	for name, k := range map[string]struct {
		size           int
		password, more string // of the job
		flags          []string
		shelf          func(*testing.T, int, string) *shelf
	}{
		"open":        {9<<20 + 17, "", ``, nil, newShelf},
		"private":     {7<<20 + 3, secret, `,"headers":{"x-password":"` + secret + `"}`, []string{"-H", "X-Password: " + secret}, newShelf},
		"of a CA":     {5<<20 + 1, secret, `,"headers":{"x-password":"` + secret + `"}`, []string{"-H", "X-Password: " + secret}, newSafeShelf},
		"with a tag":  {3 << 20, "", `,"tag":"nightly","filter":["ts"]`, []string{"--tag", "nightly", "--filter", "ts"}, newShelf},
		"a tiny one":  {100, secret, `,"headers":{"X-Password":"` + secret + `"}`, []string{"-H", "X-Password: " + secret}, newShelf},
		"an empty":    {0, "", ``, nil, newShelf},
		"by its sums": {2<<20 + 5, "", `,"digest":"DIGEST"`, []string{"--digest", "DIGEST"}, newShelf},
	} {
		t.Run(name, func(t *testing.T) {
			web := k.shelf(t, k.size, k.password)
			sum := digest.FromBytes(web.data).String()
			url := web.URL + "/model.bin?ts=1&X-Amz-Signature=hush"
			j := c.order(fmt.Sprintf(`{"kind":"file","url":%q,"scope":"all_peers"%s}`, url, strings.ReplaceAll(k.more, "DIGEST", sum)))
			if j.State != "succeeded" {
				t.Fatalf("%+v", j)
			}
			if sent := web.sent.Load(); sent > int64(k.size)+10 { // it is asked for the first byte by each that asks which version there is
				t.Errorf("the server sent %d bytes of %d", sent, k.size)
			}
			if got := c.hosts(j.ID); len(got) != 3 && k.size > 0 {
				t.Errorf("it is on %v", got)
			}
			_, shown := c.do(http.MethodGet, fmt.Sprint("/api/v1/jobs/", j.ID), nil)
			if strings.Contains(string(shown), secret) || strings.Contains(string(shown), "hush") {
				t.Errorf("the job shows what is secret: %s", shown)
			}
			before := web.sent.Load()
			for i, p := range append(seeds, h) {
				out := filepath.Join(t.TempDir(), fmt.Sprint(i))
				args := []string{web.URL + "/model.bin?ts=1", "-O", out, "--agent", p.Root + "/status.sock"}
				for _, a := range k.flags {
					args = append(args, strings.ReplaceAll(a, "DIGEST", sum))
				}
				said, err := exec.Command(clustertest.Program(t, "dfget"), args...).CombinedOutput()
				if err != nil || strings.Contains(string(said), "straight") {
					t.Errorf("dfget on %s: %v %s", p.Name, err, said)
				}
				got, err := os.ReadFile(out)
				if have := sha256.Sum256(got); err != nil || "sha256:"+hex.EncodeToString(have[:]) != sum {
					t.Errorf("%s has %d other bytes, %v", p.Name, len(got), err)
				}
			}
			if sent := web.sent.Load() - before; sent > 10 {
				t.Errorf("for dfget the server sent %d bytes", sent)
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		web := newShelf(t, 1000, secret)
		gone := newShelf(t, 1, "")
		gone.Close()
		for url, want := range map[string]string{
			web.URL + "/model.bin":  "refuses the headers of the job, or wants some",
			gone.URL + "/model.bin": "the file's server does not answer",
		} {
			if j := c.order(fmt.Sprintf(`{"kind":"file","url":%q,"timeout_seconds":3}`, url)); j.State != "failed" || !strings.Contains(j.Error, want) {
				t.Errorf("%s: %+v", url, j)
			}
		}
		open := newShelf(t, 1000, "")
		if j := c.order(fmt.Sprintf(`{"kind":"file","url":%q}`, open.URL+"/other.bin")); j.State != "failed" || !strings.Contains(j.Error, "its server has none") {
			t.Errorf("a file that is not there: %+v", j)
		}
	})
	t.Run("removed", func(t *testing.T) {
		web := newShelf(t, 2<<20, "")
		j := c.order(fmt.Sprintf(`{"kind":"file","url":%q,"scope":"all_peers"}`, web.URL+"/model.bin"))
		name := c.digest(j.ID)
		if !strings.HasPrefix(string(name), "url+sha256:") || kept(t, h, name) == 0 {
			t.Fatalf("%s is on %v", name, c.hosts(j.ID))
		}
		if j := c.order(fmt.Sprintf(`{"kind":"remove","blob":%q}`, name)); j.State != "succeeded" {
			t.Errorf("%+v", j)
		}
		for _, p := range append(seeds, h) {
			if n := kept(t, p, name); n != 0 {
				t.Errorf("%s has it still, %d times", p.Name, n)
			}
		}
	})
}
