package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/clustertest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// client calls a manager as root.
type client struct {
	t    *testing.T
	base atomic.Value // string
}

const rootPassword, rootPassword2 = "given by the operator", "chosen by root itself"

// do returns the status and body; 0 where the manager could not be asked.
func (c *client) do(method, path string, body any) (int, []byte) {
	data, err := json.Marshal(body)
	if err != nil {
		c.t.Error(err)
	}
	req, err := http.NewRequest(method, c.base.Load().(string)+path, bytes.NewReader(data))
	if err != nil {
		c.t.Error(err)
		return 0, nil
	}
	req.Header.Set("Content-Type", "application/json")
	req.SetBasicAuth("root", rootPassword2)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil
	}
	return resp.StatusCode, text
}

// first does what root has to do first.
func (c *client) first() {
	c.t.Helper()
	base := c.base.Load().(string)
	body, _ := json.Marshal(map[string]string{"name": "root", "password": rootPassword})
	resp, err := http.Post(base+"/api/v1/session", "application/json", bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	resp.Body.Close()
	body, _ = json.Marshal(map[string]string{"old": rootPassword, "new": rootPassword2})
	req, err := http.NewRequest(http.MethodPut, base+"/api/v1/me/password", bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for _, k := range resp.Cookies() {
		req.AddCookie(k)
	}
	if resp, err = http.DefaultClient.Do(req); err != nil {
		c.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		c.t.Fatalf("changing the password: %d", resp.StatusCode)
	}
}

func newClient(t *testing.T, base string) *client {
	c := &client{t: t}
	c.base.Store(base)
	return c
}

// image adds an image with two layers and returns the URL of its manifest.
func image(t *testing.T, r *origintest.Registry, repo, tag string) (url string, layers []digest.Digest) {
	t.Helper()
	blob := func(n int) map[string]any {
		data := bytes.Repeat([]byte(tag+repo), n)
		d := r.AddBlob(repo, data)
		layers = append(layers, d)
		return map[string]any{"digest": d, "size": len(data), "mediaType": "application/octet-stream"}
	}
	const kind = "application/vnd.oci.image.manifest.v1+json"
	data, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": kind, "config": blob(20), "layers": []any{blob(200_000), blob(50_000)}})
	if err != nil {
		t.Fatal(err)
	}
	r.Tag(repo, tag, r.AddManifest(repo, kind, data))
	return r.URL() + "/v2/" + repo + "/manifests/" + tag, layers
}

type jobState struct {
	ID     int64  `json:"id"`
	State  string `json:"state"`
	Result struct {
		JobStates []struct {
			Error   string
			Results []struct {
				Success []struct{ Hostname string } `json:"success_tasks"`
				Cluster int64                       `json:"scheduler_cluster_id"`
			}
		} `json:"job_states"`
	}
}

func (c *client) preheat(url string, headers map[string]string) (jobState, int) {
	var j jobState
	status, data := c.do("POST", "/oapi/v1/jobs", map[string]any{"type": "preheat", "args": map[string]any{"type": "image", "url": url, "headers": headers}})
	if status == http.StatusOK {
		if err := json.Unmarshal(data, &j); err != nil {
			c.t.Error(err)
		}
	}
	return j, status
}

// poll asks until the job has ended; an answer that is not 200 fails the test
// if strict.
func (c *client) poll(id int64, strict bool) jobState {
	var j jobState
	for began := time.Now(); time.Since(began) < 2*time.Minute; time.Sleep(50 * time.Millisecond) {
		status, data := c.do("GET", fmt.Sprintf("/oapi/v1/jobs/%d", id), nil)
		if status != http.StatusOK {
			if strict {
				c.t.Errorf("poll of job %d: %d %s", id, status, data)
			}
			continue
		}
		if err := json.Unmarshal(data, &j); err != nil {
			c.t.Error(err)
		}
		if j.State != "PENDING" {
			return j
		}
	}
	c.t.Errorf("job %d does not end", id)
	return j
}

// With certificates, a private registry and its token: Harbor's job succeeds, the
// seed has the layers, and each left the registry once.
func TestPreheat(t *testing.T) {
	t.Parallel()
	cluster := clustertest.New(t, true)
	r := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: map[string]string{"robot": "secret"}})
	s := cluster.Scheduler()
	cluster.Seed(r.Host(), s.Addr)
	f := cluster.Files("manager", wire.RoleManager)
	cfg := testConfig(storetest.SQLite(t))
	cfg.Cluster.Schedulers = []string{s.Addr}
	cfg.TLS.CA, cfg.TLS.Cert, cfg.TLS.Key = f.CA, f.Cert, f.Key
	m, _ := start(t, cfg, rootPassword)
	c := newClient(t, "http://"+m.ln.Addr().String())
	c.first()
	url, layers := image(t, r, "p/app", "v1")
	for range 2 { // two tags, or Harbor asks again
		j, status := c.preheat(url, map[string]string{"Authorization": "Basic cm9ib3Q6c2VjcmV0"})
		if status != http.StatusOK || j.State != "PENDING" {
			t.Fatal(status, j)
		}
		if j = c.poll(j.ID, true); j.State != "SUCCESS" || len(j.Result.JobStates[0].Results[0].Success) != 3 || j.Result.JobStates[0].Results[0].Success[0].Hostname != "seed-2" {
			t.Errorf("%+v", j)
		}
	}
	for _, d := range layers {
		if n := r.Count("blob"); n == 0 || r.Sent(d) == 0 {
			t.Errorf("%s was not fetched", d)
		}
	}
	if sent := r.Sent(layers[1]); sent != int64(200_000*len("v1p/app")) {
		t.Errorf("the registry sent %d bytes of a layer of %d", sent, 200_000*len("v1p/app"))
	}
	if j, _ := c.preheat(url, nil); !strings.Contains(c.poll(j.ID, true).Result.JobStates[0].Error, "refuses") {
		t.Error("without credentials")
	}
}

// A private registry with a certificate of its own, as Harbor has where nobody bought one:
// with its CA in the manager's and the seed's configuration it is read, and not without.
func TestPreheatSelfSigned(t *testing.T) {
	t.Parallel()
	cluster := clustertest.New(t, true)
	r := origintest.New(t, origintest.Options{TLS: true, Auth: origintest.Bearer, Users: map[string]string{"robot": "secret"}})
	cluster.RegistryCA = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(cluster.RegistryCA, r.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	s := cluster.Scheduler()
	cluster.Seed(r.Host(), s.Addr)
	url, layers := image(t, r, "p/app", "v1")
	for name, ca := range map[string]string{"without": "", "with": cluster.RegistryCA} {
		f := cluster.Files(p2p.HostID("manager-"+name), wire.RoleManager)
		cfg := testConfig(storetest.SQLite(t))
		cfg.Cluster.Schedulers, cfg.Registries.CA = []string{s.Addr}, ca
		cfg.TLS.CA, cfg.TLS.Cert, cfg.TLS.Key = f.CA, f.Cert, f.Key
		m, _ := start(t, cfg, rootPassword)
		c := newClient(t, "http://"+m.ln.Addr().String())
		c.first()
		j, status := c.preheat(url, map[string]string{"Authorization": "Basic cm9ib3Q6c2VjcmV0"})
		if status != http.StatusOK {
			t.Fatal(status, j)
		}
		j = c.poll(j.ID, true)
		if ca == "" && (j.State != "FAILURE" || !strings.Contains(j.Result.JobStates[0].Error, "unknown authority")) {
			t.Errorf("without the CA: %+v", j)
		} else if ca != "" && (j.State != "SUCCESS" || r.Sent(layers[1]) != int64(200_000*len("v1p/app"))) {
			t.Errorf("with it: %+v; the registry sent %d bytes of a layer", j, r.Sent(layers[1]))
		}
	}
}

var binaries string // folder of what was built; TestMain removes it

var built = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "dfmanager-binary-"); err != nil {
		return "", err
	}
	binaries = dir
	out, err := exec.Command("go", "build", "-o", dir+"/dfmanager", ".").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return dir, err
})

// manager starts a manager process and waits until it is ready.
func manager(t *testing.T, database, listen string, schedulers ...string) *exec.Cmd {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	config := write(t, fmt.Sprintf("listen = '%s'\ngrpc_listen = '127.0.0.1:0'\ndatabase = '%s'\n[web]\nrate = 100000\n[cluster]\nschedulers = ['%s']\n[debug]\nlisten = ''\n", listen, database, strings.Join(schedulers, "', '")))
	for range 50 {
		cmd := exec.Command(filepath.Join(dir, "dfmanager"), "--config", config)
		cmd.Env = []string{"DFMANAGER_ROOT_PASSWORD=" + rootPassword, "DFMANAGER_SECRET_KEY=" + strings.Repeat("k", 64)}
		if testing.Verbose() {
			cmd.Stderr = os.Stderr
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			_ = cmd.Wait() // it is killed
			close(ended)
		}()
		t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
		for {
			if resp, err := http.Get("http://" + listen + "/readyz"); err == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					return cmd
				}
			}
			select {
			case <-ended:
			case <-time.After(20 * time.Millisecond):
				continue
			}
			break // its port may be in use for a moment
		}
	}
	t.Fatal("the manager does not start")
	return nil
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// Managers are killed over and over while there are jobs. Each ends, once, and
// well; on PostgreSQL another manager answers meanwhile.
func TestKilledManagers(t *testing.T) {
	t.Parallel()
	cluster := clustertest.New(t, false)
	r := origintest.New(t, origintest.Options{})
	s := cluster.Scheduler()
	cluster.Seed(r.Host(), s.Addr)
	storetest.Each(t, func(t *testing.T, url string) {
		const jobs, kills = 100, 4
		replicas := 1
		if strings.HasPrefix(url, "postgres") {
			replicas = 2
		}
		var at []string
		var running []*exec.Cmd
		for range replicas {
			at = append(at, freeAddr(t))
			running = append(running, manager(t, url, at[len(at)-1], s.Addr))
		}
		c := newClient(t, "http://"+at[0])
		c.first()
		var ids []int64
		for i := range jobs {
			manifest, _ := image(t, r, fmt.Sprintf("p/%s%d", strings.ToLower(url[:3]), i%7), "v1")
			j, status := c.preheat(manifest, nil)
			if status != http.StatusOK {
				t.Fatal(status)
			}
			ids = append(ids, j.ID)
		}
		for i := range kills {
			victim := i % replicas
			c.base.Store("http://" + at[(victim+1)%replicas]) // the one that lives, if there is one
			if err := running[victim].Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if replicas > 1 {
				for _, id := range ids[:3] { // the other one answers
					if status, _ := c.do("GET", fmt.Sprintf("/oapi/v1/jobs/%d", id), nil); status != http.StatusOK {
						t.Errorf("poll while one is dead: %d", status)
					}
				}
			}
			running[victim] = manager(t, url, at[victim], s.Addr)
		}
		db := storetest.Open(t, url)
		for _, id := range ids {
			if j := c.poll(id, true); j.State != "SUCCESS" {
				t.Errorf("%+v", j)
			}
			blobs, err := db.JobBlobs(t.Context(), id)
			if err != nil || len(blobs) != 3 {
				t.Errorf("job %d has %d blobs, %v", id, len(blobs), err)
			}
		}
		if waiting, running, err := db.JobCounts(t.Context()); waiting+running != 0 || err != nil {
			t.Errorf("%d wait and %d run, %v", waiting, running, err)
		}
	})
}

// While PostgreSQL is restarted polls wait and succeed, and no job is lost.
func TestRestartedDatabase(t *testing.T) {
	t.Parallel()
	cluster := clustertest.New(t, false)
	r := origintest.New(t, origintest.Options{})
	s := cluster.Scheduler()
	cluster.Seed(r.Host(), s.Addr)
	server := storetest.NewPostgres(t)
	cfg := testConfig(server.Database(t))
	cfg.Cluster.Schedulers, cfg.Web.Rate = []string{s.Addr}, 100_000
	m, _ := start(t, cfg, rootPassword)
	c := newClient(t, "http://"+m.ln.Addr().String())
	c.first()
	var mu sync.Mutex
	var ids []int64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var refused atomic.Int64
	for i := range 4 {
		wg.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				manifest, _ := image(t, r, fmt.Sprintf("p/pg%d", (i+k)%5), "v1")
				j, status := c.preheat(manifest, nil)
				switch status {
				case http.StatusOK:
					mu.Lock()
					ids = append(ids, j.ID)
					mu.Unlock()
					if status, data := c.do("GET", fmt.Sprintf("/oapi/v1/jobs/%d", j.ID), nil); status != http.StatusOK {
						t.Errorf("poll: %d %s", status, data)
					}
				case http.StatusServiceUnavailable:
					refused.Add(1)
				default:
					t.Errorf("create: %d", status)
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	for _, end := range []func() error{server.Stop, server.Kill, server.Stop} {
		time.Sleep(time.Second) // under load
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	if len(ids) == 0 {
		t.Fatal("no job was created")
	}
	for _, id := range ids {
		if j := c.poll(id, true); j.State != "SUCCESS" {
			t.Errorf("%+v", j)
		}
	}
	t.Logf("%d jobs, %d times refused", len(ids), refused.Load())
}
