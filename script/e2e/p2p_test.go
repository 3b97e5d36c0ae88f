package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var p2pScale = flag.String("p2p", "small", "how to test the piece network: none, small, or full (8 hosts, 20 Mbit/s and 96 MiB)")

// scale is how large the tests of the piece network are.
type scale struct {
	nodes  int
	rate   string
	layers []int // MiB
}

func scaled() scale {
	if full() {
		return scale{nodes: 8, rate: "20mbit", layers: []int{16, 48, 32}}
	}
	return scale{nodes: 4, rate: "40mbit", layers: []int{5, 8}}
}

func full() bool { return *p2pScale == "full" }

// cloud is a cluster with an image whose container prints the digest of all that
// is in it.
type cloud struct {
	*lab.Cluster
	*testing.T
	ctx   context.Context
	lab   *lab.Lab
	began time.Time
	user  string // "name:password" for containerd's pulls
	runs  int
	lost  map[*lab.Node]bool // their containerds were left in the middle of something

	images map[imagetest.Form]*imagetest.Image
	refs   map[imagetest.Form]string
	size   map[imagetest.Form]int64 // of the layers
	want   string
}

// openCloud starts a cluster whose links have the rate of the tests.
func openCloud(t *testing.T, cfg lab.ClusterConfig, forms ...imagetest.Form) *cloud {
	t.Helper()
	if m := missing(); m != "" {
		t.Skip("missing: " + m)
	}
	if *p2pScale == "none" {
		t.Skip("-p2p none")
	}
	t.Parallel() // most of the time they wait for the network
	l := must(lab.Open(root))(t)
	c := &cloud{T: t, ctx: t.Context(), lab: l, began: time.Now(), lost: map[*lab.Node]bool{}, images: map[imagetest.Form]*imagetest.Image{}, refs: map[imagetest.Form]string{}, size: map[imagetest.Form]int64{}}
	t.Cleanup(func() {
		if t.Failed() || os.Getenv("E2E_LOGS") != "" {
			to := filepath.Join(root, "out", "logs", strings.ReplaceAll(t.Name(), "/", "-"))
			t.Logf("logs are in %s: %v", to, l.SaveLogs(to))
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg.P2P = true
	c.Cluster = must(l.Cluster(c.ctx, cfg))(t)
	for _, f := range forms {
		var img *imagetest.Image
		img, c.want = content(t, f)
		c.images[f], c.size[f] = img, must(img.Size())(t)
		c.refs[f] = must(c.Registry.Push(c.ctx, img, "image", string(f)))(t)
	}
	if err := c.SetLinks(scaled().rate); err != nil {
		t.Fatal(err)
	}
	return c
}

// contents is the image of all these tests. Packing takes so long, with the race
// detector, that it is done once for each form.
var contents struct {
	mu     sync.Mutex // guards what follows
	tars   [][]byte
	want   string
	images map[imagetest.Form]*imagetest.Image
}

// content returns the tests' image, which nobody may change, and what its command prints.
func content(t *testing.T, f imagetest.Form) (img *imagetest.Image, want string) {
	t.Helper()
	s := &contents
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tars == nil {
		s.tars, s.want = layers(t)
		s.images = map[imagetest.Form]*imagetest.Image{}
	}
	if s.images[f] == nil {
		s.images[f] = must(imagetest.Make(ocispec.ImageConfig{Cmd: []string{"/bin/sum", "/data"}}, s.tars, f))(t)
	}
	return s.images[f], s.want
}

// layers makes the layers of that image.
func layers(t *testing.T) (tars [][]byte, want string) {
	t.Helper()
	sum := must(imagetest.Program(t.Context(), root, "sum"))(t)
	tars = append(tars, must(imagetest.Layer{
		imagetest.Dir("etc", 0o755), imagetest.Dir("proc", 0o555), imagetest.Dir("dev", 0o755), imagetest.Dir("sys", 0o555),
		imagetest.Dir("bin", 0o755), imagetest.Regular("bin/sum", 0o755, sum),
	}.Tar())(t))
	all := sha256.New()
	for i, mib := range scaled().layers {
		dir := fmt.Sprintf("data/%d", i)
		l := imagetest.Layer{imagetest.Dir("data", 0o755), imagetest.Dir(dir, 0o755)}
		for k := range mib {
			file := indextest.Random(uint64(i)<<16+uint64(k), 1<<20)
			all.Write(file)
			l = append(l, imagetest.Regular(fmt.Sprintf("%s/%03d", dir, k), 0o644, file))
		}
		tars = append(tars, must(l.Tar())(t))
	}
	return tars, fmt.Sprintf("%x", all.Sum(nil))
}

// fresh starts scheduler, seeds and nodes anew with nothing on their disks.
func (c *cloud) fresh(t *testing.T, seeds int) {
	t.Helper()
	for _, ref := range c.refs {
		for _, n := range c.Nodes {
			// Not all nodes have all images.
			_ = n.Containerd.Collect(c.ctx, ns, ref)
		}
	}
	if err := errors.Join(c.Heal(c.hosts()...), c.SetLinks(scaled().rate), c.Use(c.ctx, true, seeds)); err != nil {
		t.Fatal(err)
	}
	for n := range c.lost {
		delete(c.lost, n)
		if err := n.Containerd.Reset(c.ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *cloud) hosts() (all []*lab.Host) {
	for _, n := range append(append([]*lab.Node{}, c.Seeds...), c.Nodes...) {
		all = append(all, n.Host)
	}
	return all
}

// wave is a container of one image on each of some nodes.
type wave struct {
	c     *cloud
	nodes []*lab.Node
	began time.Time
	size  int64
	group sync.WaitGroup

	// as they were before
	egress   int64
	requests int     // to the registry
	start    []int64 // received by each node

	mu   sync.Mutex // guards the rest
	end  map[*lab.Node]context.CancelFunc
	errs []error
	took []time.Duration
}

// pull pulls an image on a node.
func (c *cloud) pull(ctx context.Context, n *lab.Node, ref string) error {
	args := []string{"-n", ns, "images", "pull", "--hosts-dir", c.lab.HostsDir(), "--snapshotter", ours}
	if c.user != "" {
		args = append(args, "--user", c.user)
	}
	_, err := n.Containerd.Ctr(ctx, append(args, ref)...)
	return err
}

// start pulls and runs an image on nodes at once.
func (c *cloud) start(t *testing.T, form imagetest.Form, nodes ...*lab.Node) *wave {
	t.Helper()
	return c.launch(t, form, nodes, func(ctx context.Context, n *lab.Node, id string) (string, error) {
		if err := c.pull(ctx, n, c.refs[form]); err != nil {
			return "", err
		}
		return n.Containerd.Run(ctx, ns, ours, c.refs[form], id)
	})
}

// launch calls f, which returns what a container has printed, for all nodes at
// once.
func (c *cloud) launch(t *testing.T, form imagetest.Form, nodes []*lab.Node, f func(ctx context.Context, n *lab.Node, id string) (string, error)) *wave {
	t.Helper()
	c.runs++
	w := &wave{
		c: c, nodes: nodes, began: time.Now(), size: c.size[form], end: map[*lab.Node]context.CancelFunc{},
		egress: must(c.Registry.Received())(t), requests: len(must(c.Registry.Requests())(t)),
	}
	for _, n := range nodes {
		w.start = append(w.start, must(n.Traffic())(t).Received)
	}
	for _, n := range nodes {
		ctx, cancel := context.WithCancel(c.ctx)
		w.end[n] = cancel
		id := fmt.Sprintf("%s-%d-%s", filepath.Base(c.lab.Dir), c.runs, n.Name) // cgroups are named by it
		w.group.Go(func() {
			out, err := f(ctx, n, id)
			took := time.Since(w.began)
			if got := strings.TrimSpace(out); err == nil && got != c.want {
				err = fmt.Errorf("the container printed %q, want %q", got, c.want)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			switch {
			case ctx.Err() != nil:
			case err != nil:
				w.errs = append(w.errs, fmt.Errorf("%s: %w", n.Name, err))
			default:
				w.took = append(w.took, took)
			}
		})
	}
	return w
}

// lose makes the wave not care for what becomes of nodes.
func (w *wave) lose(nodes ...*lab.Node) {
	for _, n := range nodes {
		w.c.lost[n] = true
		w.end[n]()
	}
}

// reach waits until the nodes have received a part of the image, on the average.
func (w *wave) reach(t *testing.T, part float64) {
	t.Helper()
	err := lab.Eventually(w.c.ctx, 5*time.Minute, func() error {
		w.mu.Lock()
		done := len(w.errs) + len(w.took)
		w.mu.Unlock()
		if done == len(w.nodes) {
			return nil
		}
		var got int64
		for i, n := range w.nodes {
			r, err := n.Traffic()
			if err != nil {
				return err
			}
			got += r.Received - w.start[i]
		}
		if all := w.size * int64(len(w.nodes)); float64(got) < part*float64(all) {
			return fmt.Errorf("%d of %d bytes", got, all)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// wait waits for the ends of all containers, and returns how many times the
// image the registry has sent.
func (w *wave) wait(t *testing.T) (egress float64) {
	t.Helper()
	w.group.Wait()
	for _, cancel := range w.end {
		cancel()
	}
	if err := errors.Join(w.errs...); err != nil {
		t.Error(err)
	}
	egress = float64(must(w.c.Registry.Received())(t)-w.egress) / float64(w.size)
	var slowest time.Duration
	for _, d := range w.took {
		slowest = max(slowest, d)
	}
	t.Logf("%d of %d hosts, the slowest after %.1f s; the registry sent %.2f × the image: %s",
		len(w.took), len(w.nodes), slowest.Seconds(), egress, w.c.sources(t, w.requests))
	return egress
}

// sources says to whom the registry has sent layers, according to its log after
// so many requests.
func (c *cloud) sources(t *testing.T, skip int) string {
	t.Helper()
	names, sum := map[string]string{}, map[string]int64{}
	for _, h := range c.hosts() {
		names[h.IP] = h.Name
	}
	for _, q := range must(c.Registry.Requests())(t)[skip:] {
		if strings.Contains(q.Path, "/blobs/") {
			sum[names[q.From]] += q.Bytes >> 10
		}
	}
	return fmt.Sprintf("%v KiB", sum)
}

// layerBytes returns what the registry's log says that it has sent of blobs.
func (c *cloud) layerBytes(t *testing.T) (n int64) {
	t.Helper()
	for _, q := range must(c.Registry.Requests())(t) {
		if strings.Contains(q.Path, "/blobs/") && q.Bytes > 64<<10 { // no config is as long
			n += q.Bytes
		}
	}
	return n
}

// complete waits until all layers of nodes are ordinary directories.
func (c *cloud) complete(t *testing.T, nodes ...*lab.Node) {
	t.Helper()
	for _, n := range nodes {
		if err := n.Daemon.Complete(c.ctx, 5*time.Minute); err != nil {
			t.Fatalf("%s: %v", n.Name, err)
		}
	}
}

// metric adds up a metric over nodes; labels is a part of its labels.
func (c *cloud) metric(t *testing.T, name, labels string, nodes ...*lab.Node) (sum float64) {
	t.Helper()
	for _, n := range nodes {
		for k, v := range must(n.Daemon.Metrics(c.ctx))(t) {
			if strings.HasPrefix(k, name+"{") && strings.Contains(k, labels) {
				sum += v
			}
		}
	}
	return sum
}

// indexed waits until the layers that are worth an index have one that counts:
// the seed's, or, without one, those of two hosts.
func (c *cloud) indexed(t *testing.T, seeds int, nodes []*lab.Node) {
	t.Helper()
	want := 2.0
	if seeds > 0 {
		nodes, want = c.Seeds[:seeds], 1
	}
	layers := 0.0
	for _, mib := range scaled().layers {
		if mib >= 5 {
			layers++
		}
	}
	err := lab.Eventually(c.ctx, time.Minute, func() error {
		offered := 0.0
		for _, n := range nodes {
			m, err := n.Daemon.Metrics(c.ctx)
			if err != nil {
				return err
			}
			offered += m["dfsnapshotter_indexes_offered_total"]
		}
		if offered < want*layers {
			return fmt.Errorf("%v indexes are offered, of %v layers", offered, layers)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestP2P starts an image on all hosts at once, and then on others: the registry
// sends it about once.
func TestP2P(t *testing.T) {
	s := scaled()
	c := openCloud(t, lab.ClusterConfig{Nodes: s.nodes + 2, Seeds: 1, TLS: true}, imagetest.Gzip, imagetest.EStargz)
	for _, x := range []struct {
		form  imagetest.Form
		seeds int
		most  float64
	}{
		{imagetest.Gzip, 1, 1.10},
		{imagetest.Gzip, 0, 1.25},
		{imagetest.EStargz, 1, 1.10},
		{imagetest.EStargz, 0, 1.25},
	} {
		t.Run(fmt.Sprintf("%s, %d seeds", x.form, x.seeds), func(t *testing.T) {
			c.fresh(t, x.seeds)
			first, second := c.Nodes[:s.nodes], c.Nodes[s.nodes:]
			egress := c.start(t, x.form, first...).wait(t)
			if egress > x.most {
				t.Errorf("the registry sent %.2f × the image, %.2f are allowed", egress, x.most)
			}
			if c.metric(t, "dfsnapshotter_fetcher_bytes_total", `source="peer"`, first...) == 0 {
				t.Error("no host says that it took a byte from another one")
			}
			c.complete(t, first...)
			before := c.layerBytes(t)
			if x.form == imagetest.Gzip {
				c.indexed(t, x.seeds, first)
			}
			c.start(t, x.form, second...).wait(t)
			if n := c.metric(t, "dfsnapshotter_layers_resolved_total", `"cluster"`, second...); x.form == imagetest.Gzip && n == 0 {
				t.Error("no layer that the cluster knows was mounted by its index")
			}
			c.complete(t, second...)
			if n := c.layerBytes(t) - before; n > 0 {
				t.Errorf("in the second wave the registry sent %d bytes of layers", n)
			}
		})
	}
}
