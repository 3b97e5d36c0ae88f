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

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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
// images from a registry of the lab's.
func compose(t *testing.T) *composed {
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
	c.docker = must(c.host.DockerNetworks(t.Context(), mirrorAddr))(t)
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
	config := filepath.Join(c.dir, "config/client.toml")
	text := must(os.ReadFile(config))(t)
	now := bytes.Replace(text, []byte("https://registry-1.docker.io"), []byte("http://"+c.reg.Host), 1)
	if bytes.Equal(now, text) {
		t.Fatal("client.toml names no upstream")
	}
	if err := os.WriteFile(config, now, 0o644); err != nil {
		t.Fatal(err)
	}
	return c
}

// run runs docker-compose, as in the guide.
func (c *composed) run(args ...string) string {
	c.Helper()
	out, err := c.host.Run(c.Context(), []string{
		"DOCKER_HOST=" + c.docker.Host(), "CERTS_D=" + c.lab.HostsDir(), "DFMANAGER_ROOT_PASSWORD=" + firstPassword, "DOCKER_BUILDKIT=0",
	}, append([]string{"docker-compose", "--project-directory", c.dir, "-f", filepath.Join(c.dir, "docker-compose.yml")}, args...)...)
	if err != nil {
		c.Fatal(err, out)
	}
	return out
}

func (c *composed) cli(args ...string) string {
	c.Helper()
	return strings.TrimSpace(must(c.docker.CLI(c.Context(), args...))(c.T))
}

// TestCompose does what the quick start says, on a real dockerd.
func TestCompose(t *testing.T) {
	c := compose(t)
	tars, want := content(t)
	img := must(imagetest.Make(ocispec.ImageConfig{Cmd: []string{"/bin/sum", "/data"}}, tars, imagetest.Gzip))(t)
	must(c.reg.Push(t.Context(), img, "library/image", string(imagetest.Gzip)))(t)

	c.run("up", "--build", "--detach")
	c.healthy()
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

	c.run("down", "--volumes")
	for _, what := range [][]string{{"ps", "-aq"}, {"volume", "ls", "-q"}, {"network", "ls", "-q", "--filter", "type=custom"}} {
		if left := c.cli(what...); left != "" {
			t.Errorf("down left (docker %s): %s", strings.Join(what, " "), left)
		}
	}
}

// healthy waits until all services are, and the one that makes tokens has ended well.
func (c *composed) healthy() {
	c.Helper()
	want := map[string]string{
		"manager": "healthy", "scheduler": "healthy", "seed-client": "healthy", "client": "healthy", "join-tokens": "exited 0",
	}
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

// TestComposePostgres reads the file as docker-compose does with PostgreSQL, and its
// configurations as the programs do.
func TestComposePostgres(t *testing.T) {
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
