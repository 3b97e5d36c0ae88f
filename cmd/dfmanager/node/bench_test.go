package node_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/seal"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
)

const (
	benchNodes = 10_000
	benchFor   = 30 * time.Second
	clientsEnv = "DFMANAGER_BENCH_CLIENTS" // address and folder
)

func TestMain(m *testing.M) {
	if to := os.Getenv(clientsEnv); to != "" {
		clients(to)
		return
	}
	os.Exit(storetest.Main(m))
}

// clients are all the nodes of BenchmarkKeepAlive, in a process of their own, until
// it is told to end.
func clients(to string) {
	addr, dir, _ := strings.Cut(to, " ")
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32) // at a time, that connect
	for range benchNodes {
		slots <- struct{}{}
		wg.Go(func() {
			once := sync.OnceFunc(func() { <-slots })
			defer once()
			err := manage.Link(ctx, addr, manage.Files(dir), manage.Hello{Address: "192.0.2.1:65002"}, func(manage.Orders) { once() }, nil)
			if ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, err)
			}
		})
	}
	wg.Wait()
}

// BenchmarkKeepAlive shows what ten thousand nodes that are merely there cost the
// manager: each connection is asked every five seconds whether it lives.
func BenchmarkKeepAlive(b *testing.B) {
	e := &env{t: b, db: storetest.Open(b, storetest.SQLite(b))}
	var err error
	if e.key, err = seal.New(strings.Repeat("k", 32)); err != nil {
		b.Fatal(err)
	}
	e.cluster(cluster.Standard, store.Scope{})
	m := e.manager("m-1", "127.0.0.1:0")
	h := e.join(m.addr, e.token(store.JoinToken{Role: "host"}), "", host, manage.Place{})
	h.until(b, "at first", any)
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env, cmd.Stderr = append(os.Environ(), clientsEnv+"="+m.addr+" "+h.dir), os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	}()
	for began := time.Now(); m.Nodes() <= benchNodes; time.Sleep(100 * time.Millisecond) {
		if time.Since(began) > 5*time.Minute {
			b.Fatalf("%d nodes have come", m.Nodes())
		}
	}
	for b.Loop() {
		before := used(b)
		time.Sleep(benchFor)
		b.ReportMetric(100*float64(used(b)-before)/float64(benchFor), "%core")
		b.ReportMetric(float64(m.Nodes()-1), "nodes")
	}
}

// used is how long this process has had a processor.
func used(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkReport shows what it costs, on both ends together, that a node says how
// busy it is. Ten thousand busy nodes do so a thousand times a second.
func BenchmarkReport(b *testing.B) {
	e := &env{t: b, db: storetest.Open(b, storetest.SQLite(b))}
	var err error
	if e.key, err = seal.New(strings.Repeat("k", 32)); err != nil {
		b.Fatal(err)
	}
	e.cluster(cluster.Standard, store.Scope{})
	m := e.manager("m-1", "127.0.0.1:0")
	h := e.join(m.addr, e.token(store.JoinToken{Role: "host"}), "", host, manage.Place{})
	h.until(b, "at first", any)
	h.Close() // it says the same below
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	b.ReportAllocs()
	var before, after time.Duration
	err = manage.Link(ctx, m.addr, manage.Files(h.dir), manage.Hello{Address: "192.0.2.1:65002"}, func(manage.Orders) {}, func(ctx context.Context, say func(manage.Load) error) {
		defer cancel()
		before = used(b)
		for b.Loop() {
			if err := say(manage.Load{Span: 10 * time.Second, Moved: manage.Traffic{Peers: 1 << 20}, Kept: 1 << 30}); err != nil {
				b.Error(err)
				return
			}
		}
		after = used(b)
	})
	if ctx.Err() == nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64((after-before).Microseconds())/float64(b.N), "cpu-µs/op")
}
