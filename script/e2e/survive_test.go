package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
	"github.com/dfsnapshotter/dfsnapshotter/script/oracle/compare"
)

// TestKill kills the daemon twenty times under eight readers and a container
// that read a layer which is not yet filled. Nobody notices.
func TestKill(t *testing.T) {
	for name, flags := range map[string][]string{"resend": nil, "relay": {"--relay"}} {
		t.Run(name, func(t *testing.T) {
			survive(t, flags, 20, func(n *node, _ int) error {
				return errors.Join(n.d.Kill(), n.d.Start(n.ctx))
			})
		})
	}
}

// TestKillKeeper kills the keeper while the daemon lives, and then the daemon,
// which must find a new keeper to start from.
func TestKillKeeper(t *testing.T) {
	for name, flags := range map[string][]string{"resend": nil, "relay": {"--relay"}} {
		t.Run(name, func(t *testing.T) {
			survive(t, flags, 5, func(n *node, _ int) error {
				old := n.d.Keepers()
				if len(old) == 0 {
					return errors.New("no keeper")
				}
				for _, pid := range old {
					// It may be listed twice, also as a child of the daemon.
					if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
						return err
					}
				}
				return lab.Eventually(n.ctx, 20*time.Second, func() error {
					if now := n.d.Keepers(); len(now) == 0 || now[0] == old[0] {
						return fmt.Errorf("no new keeper: %v after %v", now, old)
					}
					return nil
				})
			})
		})
	}
}

// TestUpgrade restarts the daemon in the orderly way.
func TestUpgrade(t *testing.T) {
	survive(t, nil, 5, func(n *node, _ int) error {
		return errors.Join(n.d.Stop(), n.d.Start(n.ctx))
	})
}

// survive does harm several times while readers and a container read a layer
// that arrives slowly, and then checks that all of them read the right bytes and
// that the layer is filled in the end.
func survive(t *testing.T, flags []string, times int, harm func(n *node, i int) error) {
	n := start(t, options{link: "200mbit", flags: flags})
	img, tar := slow(t)
	ref := n.push(img, "survive")
	tree := extract(t, tar)
	want := goprogOutput(t, tree+"/data")
	n.must(n.reg.SetRate("20mbit"))
	n.must(n.c.Pull(n.ctx, ns, ours, ref))
	target := n.mounted(ours, ref)

	// The readers are a process of their own: one that maps a file cannot start
	// programs while a page of it is awaited, and this one must start daemons.
	var out bytes.Buffer
	readers := exec.CommandContext(n.ctx, must(os.Executable())(t))
	readers.Env = append(os.Environ(), "E2E_READERS="+tree+"/data:"+target+"/data")
	readers.Stdout, readers.Stderr = &out, &out
	n.must(readers.Start())
	container := make(chan error, 1)
	go func() {
		got, err := n.c.Run(n.ctx, ns, ours, ref, "reader")
		if err == nil && strings.TrimSpace(got) != want {
			err = fmt.Errorf("printed %q, want %q", got, want)
		}
		container <- err
	}()

	for i := range times {
		before := n.filled()
		n.must(lab.Eventually(n.ctx, time.Minute, func() error {
			if after := n.filled(); after.chunks <= before.chunks && !after.complete {
				return errors.New("nothing is filled")
			}
			return nil
		}))
		if i < times/2 && n.filled().complete {
			t.Fatalf("the layer was complete before harm was done %d times", i)
		}
		n.must(harm(n, i))
	}
	n.must(n.reg.SetRate("1gbit"))
	if err := <-container; err != nil {
		t.Errorf("container: %v", err)
	}
	n.must(n.d.Complete(n.ctx, 2*time.Minute))
	n.must(readers.Process.Signal(syscall.SIGTERM))
	if err := readers.Wait(); err != nil {
		t.Errorf("readers: %v: %s", err, out.String())
	}
	t.Logf("readers: %s", out.String())
	diff, stats, err := compare.Trees(n.ctx, tree+"/data", target+"/data", compare.Options{IgnoreDirNlink: true})
	if err != nil || len(diff) > 0 || stats.Files != 64 {
		t.Errorf("tree after all: %v, %v, %v", diff, stats, err)
	}
	n.runs(ref, "after", want)
}

// slow returns an image that takes a while to arrive, made once since that takes
// a minute as well, and the tar of its data.
func slow(t *testing.T) (*imagetest.Image, []byte) {
	t.Helper()
	slowImage.Do(func() {
		slowImage.tar = data(t, 1, "data", 64, 96<<20)
		slowImage.image = image(t, "/data", [][]byte{program(t), slowImage.tar}, imagetest.EStargz)
	})
	return slowImage.image, slowImage.tar
}

var slowImage struct {
	sync.Once
	image *imagetest.Image
	tar   []byte
}

// read is what the process of readers does: eight of them compare the trees named
// by pair until the process is told to end.
func read(pair string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	a, b, _ := strings.Cut(pair, ":")
	ops, diff, err := compare.Readers(ctx, a, b, compare.Load{Readers: 8, Seed: 1})
	fmt.Printf("%d operations\n", ops)
	if diff != nil {
		err = errors.Join(err, errors.New(diff.String()))
	}
	return err
}

type filled struct {
	chunks   int
	complete bool
}

// filled says how much of the image's large layer is there.
func (n *node) filled() filled {
	n.Helper()
	large := slices.MaxFunc(must(n.d.Layers(n.ctx))(n.T), func(a, b lab.Layer) int { return cmp.Compare(a.Size, b.Size) })
	return filled{chunks: large.Filled, complete: large.State == "complete" || large.State == "filled"}
}

// TestRestartContainerd restarts containerd under a running container.
func TestRestartContainerd(t *testing.T) {
	n := start(t, options{link: "50mbit"})
	tars := [][]byte{program(t), data(t, 1, "data", 20, 20<<20)}
	ref := n.push(image(t, "/data", tars, imagetest.EStargz), "restart")
	want := goprogOutput(t, extract(t, tars...)+"/data")
	n.must(n.c.Pull(n.ctx, ns, ours, ref))
	n.must(n.c.Kill())
	n.must(n.c.Start(n.ctx))
	n.runs(ref, "one", want)
	n.must(n.c.Stop())
	n.must(n.d.Kill())
	n.must(n.d.Start(n.ctx))
	n.must(n.c.Start(n.ctx))
	n.runs(ref, "two", want)
	n.must(n.c.Collect(n.ctx, ns, ref))
	n.must(lab.Eventually(n.ctx, 10*time.Second, n.empty))
}

// TestKillDuringPull kills the daemon at many moments of a pull. The pull may
// fail, the next one does not, and what it brings is right.
func TestKillDuringPull(t *testing.T) {
	n := start(t, options{link: "100mbit"})
	tars := [][]byte{program(t), data(t, 1, "data/a", 20, 6<<20), data(t, 2, "data/b", 20, 6<<20)}
	ref := n.push(image(t, "/data", tars, imagetest.Gzip, imagetest.Gzip, imagetest.EStargz), "pull")
	want := goprogOutput(t, extract(t, tars...)+"/data")
	failed := 0
	for i := range 12 {
		pulled := make(chan error, 1)
		go func() { pulled <- n.c.Pull(n.ctx, ns, ours, ref) }()
		after := time.NewTimer(time.Duration(i) * 100 * time.Millisecond)
		select {
		case <-after.C:
		case err := <-pulled:
			pulled <- err
		}
		n.must(n.d.Kill())
		n.must(n.d.Start(n.ctx))
		if err := <-pulled; err != nil {
			failed++
		}
		n.must(lab.Eventually(n.ctx, 30*time.Second, func() error {
			err := n.c.Pull(n.ctx, ns, ours, ref)
			if err != nil && !strings.Contains(err.Error(), "connection refused") {
				n.Error(err) // containerd tries to connect again ever less often; nothing else may be wrong
			}
			return err
		}))
		n.runs(ref, fmt.Sprint("c", i), want)
		n.must(n.c.Collect(n.ctx, ns, ref))
		n.must(lab.Eventually(n.ctx, 10*time.Second, n.empty))
	}
	t.Logf("%d of 12 pulls failed", failed)
}

// TestKillDuringCompletion kills the daemon at many moments after a pull, while
// the layers become directories. Containers see the right files before and after
// that is done.
func TestKillDuringCompletion(t *testing.T) {
	n := start(t, options{})
	tars := [][]byte{program(t), data(t, 1, "data", 3000, 3<<20)} // small: unpacked each time
	ref := n.push(image(t, "/data", tars, imagetest.Gzip, imagetest.Gzip), "complete")
	want := goprogOutput(t, extract(t, tars...)+"/data")
	cut := 0
	for i := range 8 {
		n.must(n.c.Pull(n.ctx, ns, ours, ref))
		<-time.After(time.Duration(i) * 60 * time.Millisecond)
		for _, l := range must(n.d.Layers(n.ctx))(t) {
			if l.State != "complete" {
				cut++
				break
			}
		}
		n.must(n.d.Kill())
		n.must(n.d.Start(n.ctx))
		n.runs(ref, fmt.Sprint("before", i), want)
		n.must(n.d.Complete(n.ctx, time.Minute))
		n.runs(ref, fmt.Sprint("after", i), want)
		n.must(n.c.Collect(n.ctx, ns, ref))
		n.must(lab.Eventually(n.ctx, 10*time.Second, n.empty))
	}
	t.Logf("%d of 8 completions were cut off", cut)
}
