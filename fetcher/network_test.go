package fetcher_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/bucket"
)

// binary builds dfscheduler, once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "dfscheduler")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "dfscheduler")
	out, err := exec.Command("go", "build", "-o", path, "../cmd/dfscheduler").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return path, err
})

// scheduler is a dfscheduler process.
type scheduler struct {
	addr, debug string
	config      string
	more        string // that is in it
	cmd         *exec.Cmd
	silent      chan struct{} // closed when it says no more
}

func startScheduler(t testing.TB) *scheduler {
	t.Helper()
	return startSchedulerWith(t, "")
}

// startSchedulerWith starts one with more in its configuration.
func startSchedulerWith(t testing.TB, more string) *scheduler {
	t.Helper()
	s := &scheduler{config: filepath.Join(t.TempDir(), "dfscheduler.toml"), addr: "127.0.0.1:0", debug: "127.0.0.1:0", more: more}
	s.start(t)
	t.Cleanup(s.kill)
	return s
}

// start starts it, where it was before if it was anywhere.
func (s *scheduler) start(t testing.TB) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("listen = %q\n[debug]\nlisten = %q\n%s", s.addr, s.debug, s.more)
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return s.run(path) }) // its port may be in use for a moment
}

var readyLine = regexp.MustCompile(`msg=ready address=(\S+) debug=(\S+)`)

// run starts the process and learns its addresses.
func (s *scheduler) run(path string) error {
	cmd := exec.Command(path, "--config", s.config)
	out, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ready, silent := make(chan []string, 1), make(chan struct{})
	go func() {
		defer close(silent)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if testing.Verbose() {
				fmt.Fprintln(os.Stderr, lines.Text())
			}
			if m := readyLine.FindStringSubmatch(lines.Text()); m != nil {
				ready <- m
			}
		}
	}()
	select {
	case m := <-ready:
		s.cmd, s.silent, s.addr, s.debug = cmd, silent, m[1], m[2]
		return nil
	case <-silent:
		return fmt.Errorf("dfscheduler ended: %w", cmd.Wait())
	}
}

func (s *scheduler) kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.silent
	_ = s.cmd.Wait()
}

// eventually waits until f returns nil.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	var err error
	for range 400 {
		if err = f(); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal(err)
}

// host is a fetcher in a piece network.
type host struct {
	*fetcher.Fetcher
	id  p2p.HostID
	dir string
}

func startHost(t testing.TB, id p2p.HostID, seed bool, s *scheduler, sources ...fetcher.Source) *host {
	t.Helper()
	return startHostWith(t, id, s, func(c *fetcher.Config) { c.Sources, c.Network.Self.Seed = sources, seed })
}

// startHostWith starts a host that is somehow particular.
func startHostWith(t testing.TB, id p2p.HostID, s *scheduler, change func(*fetcher.Config)) *host {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("host", id)
	}
	c := fetcher.Config{Dir: tempDir(t), Log: log, Network: &fetcher.Network{
		Self:       p2p.Host{ID: id, Addr: ln.Addr().String(), Share: true},
		Schedulers: []string{s.addr}, Listener: ln,
	}}
	change(&c)
	h := &host{id: id, dir: c.Dir}
	if h.Fetcher, err = fetcher.New(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Error(err)
		}
	})
	return h
}

// TestNetworkWhole holds that hosts which want all of a blob at once get it of
// each other, with a seed and without one.
func TestNetworkWhole(t *testing.T) {
	for _, tt := range []struct {
		name string
		seed bool
		size int
		most float64 // bytes from the origin, in blobs
	}{
		{"with a seed", true, 20*mib + 1234, 1},
		{"without a seed", false, 20*mib + 1234, 1.1},
		{"of one piece", true, 700 * kib, 1},
		{"tiny", true, 100, 1},
		{"tiny without a seed", false, 100, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := content(tt.size, 7)
			registry := newFake(always(fault{delay: 2 * time.Millisecond}), data)
			hosts := clusterOf(t, 5, tt.seed, registry)
			var wg sync.WaitGroup
			for _, h := range hosts {
				b := openBlob(t, h.Fetcher, ref(data))
				wg.Go(func() { want(t, b, data, 0, int64(len(data)), fetcher.Prefetch) })
			}
			wg.Wait()
			if most := int64(tt.most * float64(len(data))); registry.bytesSent() > most {
				t.Errorf("%d bytes from the origin, want at most %d; requests %v", registry.bytesSent(), most, registry.seen())
			}
		})
	}
}

// connected waits until the scheduler knows n hosts that are no seeds.
func connected(t testing.TB, s *scheduler, n int) {
	t.Helper()
	var hosts []p2p.HostID
	for i := range n {
		hosts = append(hosts, p2p.HostID(fmt.Sprint("host", i)))
	}
	known(t, s, hosts...)
}

// known waits until the scheduler knows hosts.
func known(t testing.TB, s *scheduler, hosts ...p2p.HostID) {
	t.Helper()
	eventually(t, func() error {
		resp, err := http.Get("http://" + s.debug + "/debug.json")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var now struct{ Hosts []p2p.Host }
		if err := json.NewDecoder(resp.Body).Decode(&now); err != nil {
			return err
		}
		for _, id := range hosts {
			if !slices.ContainsFunc(now.Hosts, func(h p2p.Host) bool { return h.ID == id }) {
				return fmt.Errorf("%s is not known: %v", id, now.Hosts)
			}
		}
		return nil
	})
}

// TestNetworkLazy holds that ranges which several hosts read leave the origin
// about once.
func TestNetworkLazy(t *testing.T) {
	for _, seed := range []bool{true, false} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			data := content(40*mib, 8)
			registry := newFake(always(fault{delay: 5 * time.Millisecond}), data)
			hosts := clusterOf(t, 5, seed, registry)
			var wg sync.WaitGroup
			for _, h := range hosts {
				b := openBlob(t, h.Fetcher, ref(data))
				wg.Go(func() {
					for off := int64(39 * mib); off >= 0; off -= 3*mib + 100*kib {
						want(t, b, data, off, 200*kib, fetcher.OnDemand)
					}
				})
			}
			wg.Wait()
			one := int64(13 * 200 * kib)
			if registry.bytesSent() > one*13/10 {
				t.Errorf("%d bytes from the origin, one host alone reads %d; requests %v", registry.bytesSent(), one, registry.seen())
			}
		})
	}
}

// cluster starts a scheduler, and hosts that read from a source each.
func cluster(t testing.TB, sources ...fetcher.Source) (*scheduler, []*host) {
	t.Helper()
	s := startScheduler(t)
	return s, startHosts(t, s, sources...)
}

// clusterOf starts n hosts that read from one registry, and a seed if one is
// wished.
func clusterOf(t testing.TB, n int, seed bool, registry fetcher.Source) []*host {
	t.Helper()
	s := startScheduler(t)
	if seed {
		startHost(t, "seed-1", true, s, registry)
	}
	return startHosts(t, s, slices.Repeat([]fetcher.Source{registry}, n)...)
}

func startHosts(t testing.TB, s *scheduler, sources ...fetcher.Source) []*host {
	t.Helper()
	hosts := make([]*host, len(sources))
	for i, source := range sources {
		hosts[i] = startHost(t, p2p.HostID(fmt.Sprint("host", i)), false, s, source)
	}
	connected(t, s, len(hosts))
	return hosts
}

// all has hosts read a whole blob at once.
func all(t testing.TB, data []byte, hosts ...*host) {
	t.Helper()
	var wg sync.WaitGroup
	for _, h := range hosts {
		b := openBlob(t, h.Fetcher, ref(data))
		wg.Go(func() {
			want(t, b, data, 0, int64(len(data)), fetcher.Prefetch)
			if err := b.Verify(t.Context(), fetcher.Background); err != nil {
				t.Errorf("%s: %v", h.id, err)
			}
		})
	}
	wg.Wait()
}

// TestNetworkSpoiledDisk holds that a host whose disk has changed what it keeps
// spoils no other host's bytes.
func TestNetworkSpoiledDisk(t *testing.T) {
	data := content(20*mib, 9)
	registry := newFake(nil, data)
	_, hosts := cluster(t, registry, registry, registry)
	all(t, data, hosts[:2]...)
	spoil(t, hosts[0], data)
	all(t, data, hosts[2])
}

// spoil changes a byte of each piece that a host keeps.
func spoil(t testing.TB, h *host, data []byte) {
	t.Helper()
	d := ref(data).Digest
	f, err := os.OpenFile(filepath.Join(h.dir, "blobs", d.Algorithm().String(), d.Encoded(), "data"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off := int64(1000); off < int64(len(data)); off += mib {
		if _, err := f.WriteAt([]byte{data[off] ^ 1}, off); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNetworkLyingMirror holds that hosts get right bytes though one of them
// has wrong ones of its origin, and tells their sums.
func TestNetworkLyingMirror(t *testing.T) {
	data := content(20*mib, 10)
	registry := newFake(nil, data)
	_, hosts := cluster(t, newFake(func(i int, _ request) fault { return fault{lie: i < 8} }, data), registry, registry)
	readRight(t, data, hosts...)
}

// readRight has hosts read a blob as a caller does that knows its digest.
func readRight(t testing.TB, data []byte, hosts ...*host) {
	t.Helper()
	var wg sync.WaitGroup
	for _, h := range hosts {
		b := openBlob(t, h.Fetcher, ref(data))
		wg.Go(func() {
			for try := 0; ; try++ {
				got, err := read(t.Context(), b, 0, int64(len(data)), fetcher.Prefetch)
				if err == nil && bytes.Equal(got, data) {
					return
				}
				if try == 3 {
					t.Errorf("%s: wrong bytes after %d tries: %v", h.id, try, err)
					return
				}
				if err := b.Discard(0, int64(len(data))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestNetworkWithoutScheduler holds that hosts finish when the scheduler goes
// while they download, and that it knows everything again when it is back.
func TestNetworkWithoutScheduler(t *testing.T) {
	data := content(30*mib, 11)
	registry := newFake(always(fault{delay: 2 * time.Millisecond}), data)
	s, hosts := cluster(t, registry, registry, registry, registry)
	blobs := make([]*fetcher.Blob, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts[:3] {
		blobs[i] = openBlob(t, h.Fetcher, ref(data))
		wg.Go(func() { want(t, blobs[i], data, 0, int64(len(data)), fetcher.Prefetch) })
	}
	eventually(t, func() error {
		if registry.bytesSent() < 5*mib {
			return errors.New("the download has not begun")
		}
		return nil
	})
	s.kill()
	wg.Wait()
	s.start(t)
	connected(t, s, 4)
	sent := registry.bytesSent()
	all(t, data, hosts[3])
	if more := registry.bytesSent() - sent; more > 0 {
		t.Errorf("%d bytes from the origin though three hosts have the blob", more)
	}
}

// TestNetworkSilentParent holds that a parent that takes requests and answers
// none delays nobody for long.
func TestNetworkSilentParent(t *testing.T) {
	data := content(20*mib, 12)
	registry := newFake(nil, data)
	s, hosts := cluster(t, registry, registry)
	all(t, data, hosts[0])
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	liar := &host{id: "mute", dir: hosts[0].dir}
	copyOf := copyDir(t, hosts[0].dir)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	liar.Fetcher = open(t, fetcher.Config{Dir: copyOf, Network: &fetcher.Network{
		Self:       p2p.Host{ID: "mute", Addr: mute.Addr().String(), Share: true},
		Schedulers: []string{s.addr}, Listener: ln,
	}})
	known(t, s, "mute")
	all(t, data, hosts[1])
}

// copyDir copies the folder of a fetcher that goes on writing there: files may
// vanish meanwhile.
func copyDir(t testing.TB, from string) string {
	t.Helper()
	var dir string
	eventually(t, func() error {
		dir = tempDir(t)
		return os.CopyFS(dir, os.DirFS(from))
	})
	return dir
}

// TestNetworkKept holds that what is on disk is given to others after a
// restart, and no more once it is evicted.
func TestNetworkKept(t *testing.T) {
	data := content(3*mib, 13)
	registry := newFake(nil, data)
	s, hosts := cluster(t, registry, newFake(nil))
	b := openBlob(t, hosts[0].Fetcher, ref(data))
	if err := b.Verify(t.Context(), fetcher.Background); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Close(), hosts[0].Close()); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open(t, fetcher.Config{Dir: hosts[0].dir, Network: &fetcher.Network{
		Self:       p2p.Host{ID: "host0", Addr: ln.Addr().String(), Share: true},
		Schedulers: []string{s.addr}, Listener: ln,
	}})
	connected(t, s, 2)
	all(t, data, hosts[1]) // its origin has nothing
}

// TestNetworkRestarted holds that a blob which nobody has sums of, since host and
// scheduler were restarted, is passed on, and that what the disk has spoiled
// meanwhile is not.
func TestNetworkRestarted(t *testing.T) {
	data := content(24*mib, 14)
	for _, spoiled := range []bool{false, true} {
		t.Run(fmt.Sprint("spoiled ", spoiled), func(t *testing.T) {
			registry := newFake(nil, data)
			dir := tempDir(t)
			first := open(t, fetcher.Config{Dir: dir, Sources: []fetcher.Source{registry}})
			b := openBlob(t, first, ref(data))
			if err := errors.Join(b.Verify(t.Context(), fetcher.Background), b.Close(), first.Close()); err != nil {
				t.Fatal(err)
			}
			if spoiled {
				spoil(t, &host{dir: dir}, data)
			}
			s := startScheduler(t)
			startHostWith(t, "host0", s, func(c *fetcher.Config) { c.Dir = dir })
			hosts := make([]*host, 3)
			for i := range hosts {
				hosts[i] = startHost(t, p2p.HostID(fmt.Sprint("host", i+1)), false, s, registry)
			}
			connected(t, s, 4)
			sent := registry.bytesSent()
			readRight(t, data, hosts...)
			if more := registry.bytesSent() - sent; !spoiled && more > 0 {
				t.Errorf("%d bytes from the origin though a host has the blob", more)
			}
		})
	}
}

// TestNetworkRaised holds that who begins to wait for bytes that a host has which brings
// all of a blob when nobody waits gets them, and not when their turn comes.
func TestNetworkRaised(t *testing.T) {
	data := content(24*mib, 15)
	s := startScheduler(t)
	all(t, data, startHost(t, "host0", false, s, newFake(nil, data)))
	slow := startHostWith(t, "host1", s, func(c *fetcher.Config) { c.Download = bucket.New(2 * mib) })
	connected(t, s, 2)
	b := openBlob(t, slow.Fetcher, ref(data))
	first, err := b.Range(t.Context(), 0, int64(len(data)), fetcher.Prefetch) // in order
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := io.ReadFull(first, make([]byte, 1)); err != nil { // all of it is on its way
		t.Fatal(err)
	}
	off := int64(len(data)) - 300*kib
	last, err := b.Range(t.Context(), off, 300*kib, fetcher.Background)
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	here := func() int64 {
		n := int64(len(data))
		for _, gap := range b.Missing(0, n) {
			n -= gap.Len
		}
		return n
	}
	var before int64
	raised := make(chan struct{})
	time.AfterFunc(100*time.Millisecond, func() {
		defer close(raised)
		before = here()
		last.Raise(fetcher.OnDemand)
	})
	got, err := io.ReadAll(last)
	if err != nil || !bytes.Equal(got, data[off:]) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	<-raised
	if came := here() - before; before == 0 || came > 4*mib { // without, all that was left
		t.Errorf("%d bytes were here, and %d came until they did", before, came)
	}
}
