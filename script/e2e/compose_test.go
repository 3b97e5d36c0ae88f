package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

// composed is deploy/compose on a dockerd with networks.
type composed struct {
	*testing.T
	lab    *lab.Lab
	host   *lab.Host
	docker *lab.Docker
	reg    *lab.Registry
	dir    string // of docker-compose.yml
}

const firstPassword = "first-password-of-root"

// compose copies what the images are built of, and has the peer take Docker Hub's
// images from a registry of the lab's. Docker takes them from the peer, or straight from
// that registry.
func compose(t *testing.T, straight bool) *composed {
	t.Helper()
	if m := missing(); m != "" {
		t.Skip("missing: " + m)
	}
	for _, p := range []string{"docker-compose", "iptables"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("missing: %s (script/install-deps)", p)
		}
	}
	l := must(lab.Open(root))(t)
	c := &composed{T: t, lab: l}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	net := must(l.Network(false))(t)
	c.reg = must(must(net.Host("reg", lab.Link{}))(t).Registry(t.Context()))(t)
	c.host = must(net.Host("box", lab.Link{}))(t)
	mirror := mirrorAddr
	if straight {
		mirror = c.reg.Host
	}
	c.docker = must(c.host.DockerNetworks(t.Context(), mirror))(t)
	src := c.host.Path("src")
	c.dir = filepath.Join(src, "deploy/compose")
	programs := filepath.Dir(os.Getenv("DFSNAPSHOTTER"))
	if err := errors.Join(
		os.CopyFS(filepath.Join(src, "deploy"), os.DirFS(filepath.Join(root, "deploy"))),
		os.CopyFS(filepath.Join(src, "bin"), os.DirFS(programs)),
		os.WriteFile(filepath.Join(src, ".dockerignore"), must(os.ReadFile(filepath.Join(root, ".dockerignore")))(t), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	c.edit("config/client.toml", "https://registry-1.docker.io", "http://"+c.reg.Host)
	return c
}

// edit replaces a text that must be in a file of deploy/compose.
func (c *composed) edit(name, from, to string) {
	c.Helper()
	path := filepath.Join(c.dir, name)
	text := must(os.ReadFile(path))(c.T)
	if !bytes.Contains(text, []byte(from)) {
		c.Fatalf("%s has no %q", name, from)
	}
	if err := os.WriteFile(path, bytes.Replace(text, []byte(from), []byte(to), 1), 0o644); err != nil {
		c.Fatal(err)
	}
}

// try runs docker-compose, as in the guide.
func (c *composed) try(args ...string) (string, error) {
	return c.host.Run(c.Context(), []string{
		"DOCKER_HOST=" + c.docker.Host(), "CERTS_D=" + c.lab.HostsDir(), "DFMANAGER_ROOT_PASSWORD=" + firstPassword, "DOCKER_BUILDKIT=0",
	}, append([]string{"docker-compose", "--project-directory", c.dir, "-f", filepath.Join(c.dir, "docker-compose.yml")}, args...)...)
}

func (c *composed) run(args ...string) string {
	c.Helper()
	out, err := c.try(args...)
	if err != nil {
		logs, _ := c.try("logs", "--tail", "20")
		c.Fatal(err, out, logs)
	}
	return out
}

func (c *composed) cli(args ...string) string {
	c.Helper()
	return strings.TrimSpace(must(c.docker.CLI(c.Context(), args...))(c.T))
}

// TestCompose does what the quick start says, on a real dockerd.
func TestCompose(t *testing.T) {
	c := compose(t, false)
	img, want := content(t, imagetest.Gzip)
	must(c.reg.Push(t.Context(), img, "library/image", string(imagetest.Gzip)))(t)

	c.run("up", "--build", "--detach")
	c.healthy(nil)
	c.signIn()

	c.cli("pull", hubImage)
	if got := c.cli("run", "--rm", hubImage); got != strings.TrimSpace(want) {
		t.Errorf("the image printed %q, not %q", got, want)
	}
	log := c.run("logs", "--no-color", "client")
	for _, l := range must(img.Layers())(t) {
		if !strings.Contains(log, "task="+l.Digest.Encoded()) {
			t.Errorf("the peer does not say that it gave %s", l.Digest)
		}
	}
	if !strings.Contains(log, `msg="peer task done"`) {
		t.Errorf("the peer's log lacks its lines:\n%.2000s", log)
	}
	if seeds := c.run("logs", "--no-color", "seed-client"); !strings.Contains(seeds, "part of a cluster") {
		t.Errorf("the seed is in no cluster:\n%.2000s", seeds)
	}
	if users := c.cli("inspect", "--format", "{{.Config.User}}", "dfsnapshotter_client_1", "dfsnapshotter_manager_1"); users != "65532:65532\n65532:65532" {
		t.Errorf("they run as %q", users)
	}

	c.down()
}

// postgresEntry does what the entry of Docker Hub's postgres image does with its settings.
const postgresEntry = `cd /var/lib/postgresql
[ -e data/PG_VERSION ] || {
	echo "$POSTGRES_PASSWORD" >/tmp/password
	initdb -D data -U "$POSTGRES_USER" --pwfile /tmp/password --auth-local trust --auth-host scram-sha-256
	echo "host all all all scram-sha-256" >>data/pg_hba.conf
	echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -D data postgres
}
exec postgres -D data -c listen_addresses='*'`

// postgres makes an image of Debian's PostgreSQL that stands for Docker Hub's, which is
// not asked, and has the services use it.
func (c *composed) postgres() {
	c.Helper()
	img := must(imagetest.Debian(c.Context(), root, "postgres", imagetest.Gzip))(c.T)
	must(c.reg.Push(c.Context(), img, "library/postgres", "debian"))(c.T)
	c.cli("pull", "postgres:debian")
	entry := must(json.Marshal([]string{"sh", "-ec", postgresEntry}))(c.T)
	path := c.host.Path("postgres/Dockerfile")
	if err := errors.Join(
		os.MkdirAll(filepath.Dir(path), 0o755),
		os.WriteFile(path, fmt.Appendf(nil, "FROM postgres:debian\nUSER root\nRUN mkdir -p -m 777 /var/run/postgresql\nUSER postgres\nENTRYPOINT %s\nCMD []\n", entry), 0o644),
	); err != nil {
		c.Fatal(err)
	}
	c.cli("build", "--tag", "postgres:16-alpine", filepath.Dir(path))
	c.edit(".env", "# COMPOSE_PROFILES=postgres\n# MANAGER_CONFIG", "COMPOSE_PROFILES=postgres\nMANAGER_CONFIG")
}

// TestComposePostgres does what the quick start says about PostgreSQL.
func TestComposePostgres(t *testing.T) {
	c := compose(t, true)
	c.postgres()
	c.run("up", "--build", "--detach")
	c.healthy(map[string]string{"postgres": "healthy"})
	c.signIn()
	const query = "select count(*) from pg_tables where schemaname = 'public'"
	if n := c.run("exec", "-T", "postgres", "psql", "-U", "dfmanager", "-Atc", query); strings.TrimSpace(n) == "0" {
		t.Error("the manager has no tables there")
	}
	c.run("restart", "postgres", "manager")
	c.healthy(map[string]string{"postgres": "healthy"})
	c.down()
}

// down ends everything, and sees that nothing is left.
func (c *composed) down() {
	c.Helper()
	c.run("down", "--volumes")
	for _, what := range [][]string{{"ps", "-aq"}, {"volume", "ls", "-q"}, {"network", "ls", "-q", "--filter", "type=custom"}} {
		if left := c.cli(what...); left != "" {
			c.Errorf("down left (docker %s): %s", strings.Join(what, " "), left)
		}
	}
}

// healthy waits until all services are, more ones included, and the one that makes tokens
// has ended well.
func (c *composed) healthy(more map[string]string) {
	c.Helper()
	want := map[string]string{
		"manager": "healthy", "scheduler": "healthy", "seed-client": "healthy", "client": "healthy", "join-tokens": "exited 0",
	}
	maps.Copy(want, more)
	var got map[string]string
	err := lab.Eventually(c.Context(), 2*time.Minute, func() error {
		got = map[string]string{}
		const format = `{{index .Config.Labels "com.docker.compose.service"}}={{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}} {{.State.ExitCode}}{{end}}`
		for line := range strings.Lines(c.cli(append([]string{"inspect", "--format", format}, strings.Fields(c.cli("ps", "-aq"))...)...)) {
			name, state, _ := strings.Cut(strings.TrimSpace(line), "=")
			got[name] = state
		}
		if !maps.Equal(got, want) {
			return errors.New(cmp.Diff(want, got))
		}
		return nil
	})
	if err != nil {
		c.Fatal(err, c.run("logs", "--no-color"))
	}
}

// signIn signs in as the first user, who then has to choose a password.
func (c *composed) signIn() {
	c.Helper()
	client := c.host.Client()
	client.Jar = must(cookiejar.New(nil))(c.T)
	call := func(method, path, body string, want int) string {
		c.Helper()
		req := must(http.NewRequestWithContext(c.Context(), method, "http://127.0.0.1:8080"+path, strings.NewReader(body)))(c.T)
		req.Header.Set("Content-Type", "application/json")
		resp := must(client.Do(req))(c.T)
		defer resp.Body.Close()
		text := must(io.ReadAll(resp.Body))(c.T)
		if resp.StatusCode != want {
			c.Fatalf("%s %s: %s: %s", method, path, resp.Status, text)
		}
		return string(text)
	}
	call("POST", "/api/v1/session", `{"name":"root","password":"wrong"}`, http.StatusUnauthorized)
	call("POST", "/api/v1/session", fmt.Sprintf(`{"name":"root","password":%q}`, firstPassword), http.StatusCreated)
	call("PUT", "/api/v1/me/password", fmt.Sprintf(`{"old":%q,"new":"another-password-of-root"}`, firstPassword), http.StatusNoContent)
	if page := call("GET", "/", "", http.StatusOK); !strings.Contains(page, "Overview") {
		c.Errorf("the console's first page is %.500s", page)
	}
	var nodes struct {
		Items []struct{ Role, State string }
	}
	if err := json.Unmarshal([]byte(call("GET", "/api/v1/clusters/1/nodes", "", http.StatusOK)), &nodes); err != nil {
		c.Fatal(err)
	}
	var roles []string
	for _, n := range nodes.Items {
		roles = append(roles, n.Role+" "+n.State)
	}
	slices.Sort(roles)
	if diff := cmp.Diff([]string{"host alive", "scheduler alive", "seed alive"}, roles); diff != "" {
		c.Errorf("nodes (-want +got):\n%s", diff)
	}
}

// TestComposeBesideHarbor compares names and ports with those of Harbor's compose
// file (2.1 to 2.15).
func TestComposeBesideHarbor(t *testing.T) {
	var file struct {
		Services map[string]struct {
			ContainerName string `json:"container_name"`
			Ports         []string
			Networks      any
		}
		Networks any
	}
	if err := yaml.Unmarshal(must(os.ReadFile(filepath.Join(root, "deploy/compose/docker-compose.yml")))(t), &file); err != nil {
		t.Fatal(err)
	}
	harbor := []string{
		"log", "registry", "registryctl", "postgresql", "core", "portal", "jobservice", "redis", "proxy", "trivy-adapter", "exporter",
		"chartmuseum", "notary-server", "notary-signer", "clair", "clair-adapter", "nginx",
	}
	for name, s := range file.Services {
		if slices.Contains(harbor, name) || s.ContainerName != "" || s.Networks != nil {
			t.Errorf("service %s may have a name of Harbor's", name)
		}
		for _, p := range s.Ports {
			published := p[:strings.LastIndexByte(p, ':')]
			published = published[strings.LastIndexByte(published, ':')+1:]
			if slices.Contains([]string{"80", "443", "4443", "1514", "9090", "5000", "5001"}, published) {
				t.Errorf("service %s has port %s of Harbor's", name, published)
			}
		}
	}
	if len(file.Services) != 6 || file.Networks != nil {
		t.Errorf("%d services, networks %v", len(file.Services), file.Networks)
	}
}

// TestComposeConfig reads the file as docker-compose does with PostgreSQL, and its
// configurations as the programs do.
func TestComposeConfig(t *testing.T) {
	if m := missing(); m != "" {
		t.Skip("missing: " + m)
	}
	dir := must(filepath.Abs(filepath.Join(root, "deploy/compose")))(t)
	programs := filepath.Dir(os.Getenv("DFSNAPSHOTTER"))
	for name, program := range map[string]string{
		"manager": "dfmanager", "manager-postgres": "dfmanager", "scheduler": "dfscheduler", "client": "dfsnapshotter", "seed-client": "dfsnapshotter",
	} {
		if out, err := exec.Command(filepath.Join(programs, program), "config", "check", filepath.Join(dir, "config", name+".toml")).CombinedOutput(); err != nil {
			t.Errorf("%s.toml: %v: %s", name, err, out)
		}
	}
	if _, err := exec.LookPath("docker-compose"); err != nil {
		t.Skip("missing: docker-compose (script/install-deps)")
	}
	cmd := exec.Command("docker-compose", "--profile", "postgres", "config", "--services")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "MANAGER_CONFIG=manager-postgres")
	out := must(cmd.Output())(t)
	services := strings.Fields(string(out))
	slices.Sort(services)
	if diff := cmp.Diff([]string{"client", "join-tokens", "manager", "postgres", "scheduler", "seed-client"}, services); diff != "" {
		t.Error(diff)
	}
}
