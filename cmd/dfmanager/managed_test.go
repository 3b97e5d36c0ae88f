package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/clustertest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
)

// tokens makes join tokens as `dfmanager token create` does; of a cluster, unless
// that is "".
func tokens(t *testing.T, c Config, cluster string) func(wire.Role) string {
	return func(role wire.Role) string {
		text, err := newJoinToken(t.Context(), c, cluster, store.JoinToken{Role: string(role), Expires: time.Now().Add(time.Hour), Once: true})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
}

// nodes waits until the default cluster has these nodes, by role and state.
func (c *client) nodes(want string) {
	c.t.Helper()
	var got string
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(50 * time.Millisecond) {
		status, text := c.do("GET", "/api/v1/clusters/1/nodes", nil)
		var l struct {
			Items []struct{ Role, State string }
		}
		if status != http.StatusOK || json.Unmarshal(text, &l) != nil {
			continue
		}
		got = ""
		for _, n := range l.Items {
			got += n.Role + " " + n.State + ", "
		}
		if got == want {
			return
		}
	}
	c.t.Fatalf("the nodes are %q, not %q", got, want)
}

// moved waits until the default cluster's seeds have said what they took from
// origins.
func (c *client) moved(is func(seeds int64) bool) {
	c.t.Helper()
	var sum int64
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(100 * time.Millisecond) {
		status, text := c.do("GET", "/api/v1/clusters/1/traffic?hours=2", nil)
		var l struct {
			Items []struct{ Seeds struct{ Origin int64 } }
		}
		if status != http.StatusOK || json.Unmarshal(text, &l) != nil {
			continue
		}
		sum = 0
		for _, h := range l.Items {
			sum += h.Seeds.Origin
		}
		if is(sum) {
			return
		}
	}
	c.t.Fatalf("the seeds say that they took %d bytes from origins", sum)
}

// heard waits until a seed has been told what it is to be told.
func heard(t *testing.T, seed *clustertest.Process, is func(manage.Orders) bool) {
	t.Helper()
	var o manage.Orders
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(50 * time.Millisecond) {
		text, err := os.ReadFile(filepath.Join(seed.Root, "manager", "orders.json"))
		if err == nil && json.Unmarshal(text, &o) == nil && is(o) {
			return
		}
	}
	t.Fatalf("the seed was told %+v", o)
}

// Nobody made a certificate: a scheduler and a seed join with tokens, a private
// image is preheated through them, and the same after all of them were restarted.
func TestManagedCluster(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, url string) {
		r := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: map[string]string{"robot": "secret"}})
		cfg := testConfig(url)
		m, _ := start(t, cfg, rootPassword)
		c := newClient(t, "http://"+m.ln.Addr().String())
		c.first()
		cluster := clustertest.Managed(t, m.grpcAddr, tokens(t, cfg, ""))
		s := cluster.Scheduler()
		seed := cluster.Seed(r.Host())
		c.nodes("scheduler alive, seed alive, ")
		heard(t, seed, func(o manage.Orders) bool { return len(o.Schedulers) == 1 && o.Schedulers[0] == s.Addr })
		preheat := func(tag string) {
			t.Helper()
			url, layers := image(t, r, "p/app", tag)
			j, status := c.preheat(url, map[string]string{"Authorization": "Basic cm9ib3Q6c2VjcmV0"})
			if status != http.StatusOK {
				t.Fatal(status, j)
			}
			if j = c.poll(j.ID, true); j.State != "SUCCESS" {
				t.Fatalf("%s: %+v", tag, j)
			}
			for _, d := range layers {
				if r.Sent(d) == 0 {
					t.Errorf("%s was not fetched", d)
				}
			}
		}
		preheat("v1")

		if status, text := c.do("PATCH", "/api/v1/clusters/1", map[string]any{"settings": map[string]any{"upload": 64 << 20}}); status != http.StatusOK {
			t.Fatalf("%d %s", status, text)
		}
		heard(t, seed, func(o manage.Orders) bool { return o.Limits.Upload == 64<<20 })

		s.Kill()
		c.nodes("scheduler dead, seed alive, ")
		s.Start()
		seed.Kill()
		seed.Start() // their tokens were for once, and are used up
		c.nodes("scheduler alive, seed alive, ")
		preheat("v2")

		size := 250_020 * int64(len("v2p/app"))
		c.moved(func(seeds int64) bool { return seeds >= size && seeds <= 2*size }) // what the seed said before it was killed may be lost
		var l struct{ Items []struct{ ID int64 } }
		_, text := c.do("GET", "/api/v1/clusters/1/nodes?role=seed", nil)
		if err := json.Unmarshal(text, &l); err != nil || len(l.Items) != 1 {
			t.Fatalf("%s: %v", text, err)
		}
		if status, text := c.do("POST", fmt.Sprintf("/api/v1/nodes/%d/revoke", l.Items[0].ID), nil); status != http.StatusOK {
			t.Fatalf("%d %s", status, text)
		}
		url, _ = image(t, r, "p/app", "v3")
		j, _ := c.preheat(url, map[string]string{"Authorization": "Basic cm9ib3Q6c2VjcmV0"})
		for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
			_, text := c.do("GET", fmt.Sprintf("/api/v1/jobs/%d", j.ID), nil)
			if strings.Contains(string(text), "no seed that is alive") {
				break
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("with its only seed revoked the cluster says %s", text)
			}
		}
	})
}

// With dfget an image gets into the cluster that it is asked for, which is not the
// default one.
func TestPreheatInAChosenCluster(t *testing.T) {
	t.Parallel()
	r := origintest.New(t, origintest.Options{})
	cfg := testConfig(storetest.SQLite(t))
	m, _ := start(t, cfg, rootPassword)
	c := newClient(t, "http://"+m.ln.Addr().String())
	c.first()
	if status, text := c.do("POST", "/api/v1/clusters", map[string]any{"name": "fra"}); status != http.StatusCreated {
		t.Fatalf("%d %s", status, text)
	}
	cluster := clustertest.Managed(t, m.grpcAddr, tokens(t, cfg, "fra"))
	cluster.Scheduler()
	seed := cluster.Seed(r.Host())
	heard(t, seed, func(o manage.Orders) bool { return len(o.Schedulers) == 1 })
	_, layers := image(t, r, "p/app", "v1")
	account := filepath.Join(t.TempDir(), "account.json")
	dfget := func(in string, args ...string) []byte {
		t.Helper()
		cmd := exec.Command(clustertest.Program(t, "dfget"), append(args, "--account", account)...)
		var complaints bytes.Buffer
		cmd.Stdin, cmd.Stderr = strings.NewReader(in), &complaints
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("dfget %s: %v: %s", args, err, complaints.String())
		}
		return out
	}
	dfget(rootPassword2+"\n", "login", c.base.Load().(string), "--user", "root", "--password-stdin")
	text := dfget("", "preheat", r.Host()+"/p/app:v1", "--plain-http", "--cluster", "fra", "--json")
	var j struct {
		Job   struct{ ID int64 }
		Blobs []struct{ State, Host string }
	}
	if err := json.Unmarshal(text, &j); err != nil || len(j.Blobs) != 3 || j.Blobs[0].State != "succeeded" || j.Blobs[0].Host == "" {
		t.Fatalf("%s: %v", text, err)
	}
	if got := c.poll(j.Job.ID, true); got.State != "SUCCESS" || got.Result.JobStates[0].Results[0].Cluster != 2 {
		t.Fatalf("%+v", got)
	}
	for _, d := range layers {
		if r.Sent(d) == 0 {
			t.Errorf("%s was not fetched", d)
		}
	}
}

func TestTokenCommand(t *testing.T) {
	t.Parallel()
	cfg := testConfig(storetest.SQLite(t))
	if _, err := newJoinToken(t.Context(), cfg, "", store.JoinToken{Role: "host", Expires: time.Now().Add(time.Hour)}); err == nil || !strings.Contains(err.Error(), "start dfmanager first") {
		t.Errorf("without a database: %v", err)
	}
	start(t, cfg, rootPassword)
	file := write(t, fmt.Sprintf("database = '%s'\n", cfg.Database))
	run := func(args ...string) (string, error) {
		cmd := newCommand()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(io.Discard)
		cmd.SetArgs(append([]string{"token", "create", "--config", file}, args...))
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	out, err := run("--role", "seed", "--cluster", "default", "--expires", "10m", "--once")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := manage.ParseToken(out); err != nil || !strings.HasSuffix(out, "\n") {
		t.Errorf("%q: %v", out, err)
	}
	for want, args := range map[string][]string{
		"--role":    {"--role", "king"},
		"--cluster": {"--role", "host", "--cluster", "none"},
		"--expires": {"--role", "host", "--expires", "0s"},
	} {
		if _, err := run(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", args, err)
		}
	}
}
