package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	mirrorAddr = "127.0.0.1:65001" // on each host
	hubImage   = "image:gzip"      // as Docker names what the registry has as library/image
)

// mirrored is a cluster whose hosts pull through their mirrors.
type mirrored struct {
	*cloud
	dockers map[*lab.Node]*lab.Docker
	layers  []ocispec.Descriptor
}

// openMirrored starts a cluster with TLS, and Docker on its hosts.
func openMirrored(t *testing.T, nodes, seeds int) *mirrored {
	t.Helper()
	c := openCloud(t, lab.ClusterConfig{Nodes: nodes, Seeds: seeds, TLS: true, Flags: []string{"--log-level", "debug"}})
	if _, err := os.Stat(c.lab.Clients()); err != nil {
		t.Skip("missing: .tools/clients (script/install-deps)")
	}
	m := &mirrored{cloud: c, dockers: map[*lab.Node]*lab.Docker{}}
	var img *imagetest.Image
	img, c.want = content(t, imagetest.Gzip)
	m.layers = must(img.Layers())(t)
	c.size[imagetest.Gzip] = must(img.Size())(t)
	c.refs[imagetest.Gzip] = must(c.Registry.Push(c.ctx, img, "library/image", string(imagetest.Gzip)))(t)
	if err := c.Registry.UseMirrors(mirrorAddr); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		m.dockers[n] = must(n.Docker(c.ctx))(t)
	}
	return m
}

// once checks that the registry has sent no layer more than once, and that the
// hosts' mirrors have told of what they gave.
func (m *mirrored) once(t *testing.T, f func(ctx context.Context, n *lab.Node, id string) (string, error)) {
	t.Helper()
	if egress := m.launch(t, imagetest.Gzip, m.Nodes, f).wait(t); egress > 1.10 {
		t.Errorf("the registry sent %.2f × the image", egress)
	}
	for _, n := range m.Nodes {
		log := string(must(os.ReadFile(n.Daemon.LogFile))(t))
		for _, l := range m.layers {
			if !strings.Contains(log, "task="+l.Digest.Encoded()) {
				t.Errorf("%s does not say that it gave %s", n.Name, l.Digest)
			}
		}
	}
}

// docker pulls and runs the image on a host.
func (m *mirrored) docker(ctx context.Context, n *lab.Node, id string) (string, error) {
	d := m.dockers[n]
	if _, err := d.CLI(ctx, "pull", hubImage); err != nil {
		return "", err
	}
	return d.CLI(ctx, "run", "--rm", "--network", "host", "--security-opt", "seccomp=unconfined", "--name", id, hubImage) // runc was built without seccomp
}

// TestMirror pulls one image by several kinds of clients on hosts of a cluster,
// through the mirrors on those hosts.
func TestMirror(t *testing.T) {
	m := openMirrored(t, 3, 1)
	t.Run("docker", func(t *testing.T) { m.once(t, m.docker) })
	t.Run("containerd", func(t *testing.T) {
		m.fresh(t, 1)
		m.once(t, func(ctx context.Context, n *lab.Node, id string) (string, error) {
			if err := n.Containerd.Pull(ctx, ns, overlayfs, m.refs[imagetest.Gzip]); err != nil {
				return "", err
			}
			return n.Containerd.Run(ctx, ns, overlayfs, m.refs[imagetest.Gzip], id)
		})
	})
	t.Run("skopeo and buildah", func(t *testing.T) {
		m.fresh(t, 0)
		n := m.Nodes[0]
		conf := n.Path("registries.conf")
		text := fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n", m.Registry.Host, mirrorAddr)
		policy := n.Path("policy.json")
		if err := errors.Join(os.WriteFile(conf, []byte(text), 0o644), os.WriteFile(policy, []byte(`{"default": [{"type": "insecureAcceptAnything"}]}`), 0o644)); err != nil {
			t.Fatal(err)
		}
		ref := m.refs[imagetest.Gzip]
		bin := filepath.Join(m.lab.Clients(), "usr/bin")
		sent := m.mirrorSent(t, n)
		to := n.Path("copy")
		must(n.Run(m.ctx, nil, bin+"/skopeo", "--registries-conf", conf, "--policy", policy, "copy", "docker://"+ref, "dir:"+to))(t)
		for _, l := range m.layers {
			if got := digest.FromBytes(must(os.ReadFile(filepath.Join(to, l.Digest.Encoded())))(t)); got != l.Digest {
				t.Errorf("skopeo wrote %s as %s", got, l.Digest)
			}
		}
		must(n.Run(m.ctx, nil, bin+"/buildah", "--registries-conf", conf, "--root", n.Path("bh/root"), "--runroot", n.Path("bh/run"), "--storage-driver", "vfs", "pull", "--signature-policy", policy, ref))(t)
		if sent = m.mirrorSent(t, n) - sent; sent < float64(2*m.size[imagetest.Gzip]) {
			t.Errorf("the mirror sent %.0f bytes of two times %d", sent, m.size[imagetest.Gzip])
		}
	})
	t.Run("lazy reader", func(t *testing.T) {
		m.fresh(t, 1)
		m.lazy(t, m.Nodes[1])
	})
}

// mirrorSent returns how many bytes of blobs a host's mirror has sent.
func (m *mirrored) mirrorSent(t *testing.T, n *lab.Node) (sent float64) {
	t.Helper()
	for name, v := range must(n.Daemon.Metrics(m.ctx))(t) {
		if strings.HasPrefix(name, "dfsnapshotter_mirror_sent_bytes_total{") && !strings.Contains(name, "passed") {
			sent += v
		}
	}
	return sent
}

// lazy reads a layer as lazy snapshotters do: its end, a table before that, then
// what is needed of it, several runs at once.
func (m *mirrored) lazy(t *testing.T, n *lab.Node) {
	t.Helper()
	l := m.layers[len(m.layers)-1]
	url := fmt.Sprintf("http://%s/v2/library/image/blobs/%s", mirrorAddr, l.Digest)
	direct := must(get(n, strings.Replace(url, mirrorAddr, m.Registry.Host, 1), ""))(t)
	if digest.FromBytes(direct.body) != l.Digest {
		t.Fatal("the registry's own bytes are wrong")
	}
	before := must(m.Registry.Received())(t)
	size := int64(len(direct.body))
	for _, r := range [][2]int64{{size - 47, size - 1}, {size - 100_000, size - 48}, {0, 9999}, {2_000_000, 2_099_999}, {2_050_000, 2_149_999}} {
		a := must(get(n, url, fmt.Sprintf("bytes=%d-%d", r[0], r[1])))(t)
		if a.status != http.StatusPartialContent || !bytes.Equal(a.body, direct.body[r[0]:r[1]+1]) {
			t.Errorf("bytes %v: status %d, %d bytes", r, a.status, len(a.body))
		}
	}
	a := must(get(n, url, "bytes=1000-1999,3000000-3009999,-10"))(t)
	_, params, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	parts := multipart.NewReader(bytes.NewReader(a.body), params["boundary"])
	for _, r := range [][2]int64{{1000, 2000}, {3_000_000, 3_010_000}, {size - 10, size}} {
		p := must(parts.NextPart())(t)
		if body := must(io.ReadAll(p))(t); !bytes.Equal(body, direct.body[r[0]:r[1]]) {
			t.Errorf("part %v: %d bytes", r, len(body))
		}
	}
	if sent := must(m.Registry.Received())(t) - before; sent > 1<<20 {
		t.Errorf("the registry sent %d bytes for 320,000", sent)
	}
}

type fetched struct {
	status int
	header http.Header
	body   []byte
}

// get fetches a URL as a program on a host; headers are pairs after the range.
func get(n *lab.Node, url, ranges string, headers ...string) (f fetched, err error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return f, err
	}
	if ranges != "" {
		req.Header.Set("Range", ranges)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := n.Client().Do(req)
	if err != nil {
		return f, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return fetched{resp.StatusCode, resp.Header, body}, err
}

// TestMirrorPrivate pulls an image that needs a login with Docker, through the
// mirrors of hosts that have no credentials of their own.
func TestMirrorPrivate(t *testing.T) {
	m := openMirrored(t, 2, 1)
	at := must(m.Host("tokens", lab.Link{}))(t)
	server := openTokens(t, at, at.Addr("5001"), 5*time.Minute)
	keys := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(keys, server.keys(t), 0o644); err != nil {
		t.Fatal(err)
	}
	open := must(imagetest.Make(ocispec.ImageConfig{Cmd: []string{"/x"}}, [][]byte{data(t, 9, "data", 2, 1<<20)}, imagetest.Gzip))(t)
	must(m.Registry.Push(m.ctx, open, "library/open", "1"))(t)
	if err := m.Registry.Restart(m.ctx, server.config(at.Addr("5001"), keys)); err != nil {
		t.Fatal(err)
	}
	const guest, guestSecret = "guest", "0nly-f0r-0pen"
	server.set(guest, account{guestSecret, []string{"library/open"}})
	first := m.dockers[m.Nodes[0]]
	fails := func(what, as string) {
		t.Helper()
		if err := first.Login(as); err != nil {
			t.Fatal(err)
		}
		if out, err := first.CLI(m.ctx, "pull", hubImage); err == nil {
			t.Errorf("%s: docker pulls: %s", what, out)
		}
	}
	fails("without a login", "")
	fails("with a wrong password", user+":wrong")
	for _, n := range m.Nodes {
		if err := m.dockers[n].Login(user + ":" + secret); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("right password", func(t *testing.T) { m.once(t, m.docker) })
	must(first.CLI(m.ctx, "rmi", "--force", hubImage))(t)
	fails("with another's login", guest+":"+guestSecret)
	m.refused(t, at.Addr("5001"), guest, guestSecret)
	server.set(user, account{})
	fails("with a password that was revoked", user+":"+secret)

	secrets := []string{secret, guestSecret, base64.StdEncoding.EncodeToString([]byte(user + ":" + secret))}
	for _, token := range server.all() {
		secrets = append(secrets, token[strings.LastIndex(token, ".")+1:])
	}
	if where := must(m.Secrets(m.ctx, secrets...))(t); len(where) > 0 {
		t.Errorf("secrets are in %v", where)
	}
}

// refused asks a mirror that has all of an image for its layers, as one who may
// read another repository only. It must answer as the registry does.
func (m *mirrored) refused(t *testing.T, tokens, name, password string) {
	t.Helper()
	n := m.Nodes[0]
	for _, repo := range []string{"library/open", "library/image"} {
		basic := base64.StdEncoding.EncodeToString([]byte(name + ":" + password))
		answer := must(get(n, fmt.Sprintf("http://%s/token?service=lab&scope=repository:%s:pull", tokens, repo), "", "Authorization", "Basic "+basic))(t)
		var token struct{ Token string }
		if err := json.Unmarshal(answer.body, &token); err != nil {
			t.Fatalf("%v: %s", err, answer.body)
		}
		for _, l := range m.layers {
			path := fmt.Sprintf("/v2/%s/blobs/%s", repo, l.Digest)
			ours := must(get(n, "http://"+mirrorAddr+path, "", "Authorization", "Bearer "+token.Token))(t)
			theirs := must(get(n, "http://"+m.Registry.Host+path, "", "Authorization", "Bearer "+token.Token))(t)
			if ours.status != theirs.status || !bytes.Equal(ours.body, theirs.body) || ours.status < 400 {
				t.Errorf("%s: status %d: %.200s; the registry's own answer is %d: %.200s", path, ours.status, ours.body, theirs.status, theirs.body)
			}
			if got, want := ours.header.Get("Www-Authenticate"), theirs.header.Get("Www-Authenticate"); got != want {
				t.Errorf("%s: challenge %q, the registry's is %q", path, got, want)
			}
		}
	}
}
