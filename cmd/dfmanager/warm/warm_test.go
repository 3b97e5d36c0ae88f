package warm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/clustertest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/warm"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

func TestMain(m *testing.M) {
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if err := errors.Join(goleak.Find(), clustertest.Remove()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// content is n bytes that do not repeat.
func content(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = r.Read(b) // never fails
	return b
}

// tokens are what a test lends.
type tokens struct {
	mu      sync.Mutex
	now     string
	next    []string // what Renew gives, one after the other
	renewed int
}

func (k *tokens) Lent() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now
}

func (k *tokens) Renew(context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.renewed++
	if len(k.next) == 0 {
		return errors.New("there is no other")
	}
	k.now, k.next = k.next[0], k.next[1:]
	return nil
}

var names atomic.Int64

func open(t *testing.T, c *clustertest.Cluster, p warm.Patience, schedulers ...string) *warm.Client {
	t.Helper()
	name := p2p.HostID(fmt.Sprint("manager-", names.Add(1)))
	id, err := c.Files(name, wire.RoleManager).Load(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	k, err := warm.Open(warm.Config{Schedulers: schedulers, Identity: id, Name: name, Patience: p, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() }) // a test may have closed it
	return k
}

func order(r *origintest.Registry, data []byte, k warm.Tokens) warm.Order {
	return warm.Order{
		Blob: p2p.Blob{Digest: digest.FromBytes(data), Size: int64(len(data))}, Registry: r.Host(), Repository: "p/app", Tokens: k,
	}
}

func ctx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// warms warms a blob and checks that it is there.
func warms(t *testing.T, k *warm.Client, o warm.Order) warm.Progress {
	t.Helper()
	var last int64
	got, err := k.Warm(ctx(t), o, func(p warm.Progress) {
		if p.Got > o.Blob.Size {
			t.Errorf("%d of %d bytes", p.Got, o.Blob.Size)
		}
		last = p.Got
	})
	if err != nil || got.Got != o.Blob.Size {
		t.Errorf("%d bytes: %+v after %d, %v", o.Blob.Size, got, last, err)
	}
	return got
}

func TestWarm(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, false)
	r := origintest.New(t, origintest.Options{})
	s := c.Scheduler()
	c.Seed(r.Host(), s.Addr)
	k, other := open(t, c, warm.Patience{}, s.Addr), open(t, c, warm.Patience{}, s.Addr)
	for i, size := range []int{0, 1, 32, 128, 129, 1000, 256 << 10, 256<<10 + 1, 3<<20 + 5, 20 << 20} {
		data := content(size, uint64(i))
		r.AddBlob("p/app", data)
		o := order(r, data, &tokens{})
		var wg sync.WaitGroup
		for j := range 4 {
			wg.Go(func() {
				if at := warms(t, []*warm.Client{k, other}[j%2], o); size > 128 && (at.Host == "" || at.Addr == "") {
					t.Errorf("%d bytes are nowhere: %+v", size, at)
				}
			})
		}
		wg.Wait()
		warms(t, k, o) // what is there is found there
		if sent := r.Sent(o.Blob.Digest); sent != int64(size) {
			t.Errorf("the registry sent %d of %d bytes", sent, size)
		}
	}
}

func TestTokensAreLent(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, true)
	r := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: map[string]string{"jane": "secret"}})
	data, late := content(1<<20, 1), content(1<<20, 2)
	r.AddBlob("p/app", data)
	r.AddBlob("p/app", late)
	s := c.Scheduler()
	c.Seed(r.Host(), s.Addr)
	k := open(t, c, warm.Patience{}, s.Addr)
	good := bearer(t, r)
	warms(t, k, order(r, data, &tokens{now: good}))
	renewing := &tokens{now: "expired", next: []string{good}}
	warms(t, k, order(r, late, renewing))
}

// bearer logs in to a registry.
func bearer(t *testing.T, r *origintest.Registry) string {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, r.URL()+"/token?service=origintest&scope=repository:p/app:pull", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("jane", "secret")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return answer.Token
}

func TestWarmFails(t *testing.T) {
	t.Parallel()
	soon := warm.Patience{Scheduler: 2 * time.Second, Seed: 2 * time.Second, Stall: 8 * time.Second}
	secure, plain := clustertest.New(t, true), clustertest.New(t, false)
	private := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: map[string]string{"jane": "secret"}})
	public := origintest.New(t, origintest.Options{})
	s, p, nobody := secure.Scheduler(), plain.Scheduler(), plain.Scheduler()
	secure.Seed(private.Host(), s.Addr)
	plain.Seed(private.Host(), p.Addr)
	for name, tt := range map[string]struct {
		k    *warm.Client
		r    *origintest.Registry
		want error
	}{
		"token refused":         {open(t, secure, soon, s.Addr), private, warm.ErrRefused},
		"no token over plain":   {open(t, plain, soon, p.Addr), private, warm.ErrRefused},
		"no seed":               {open(t, plain, soon, nobody.Addr), public, warm.ErrNoSeed},
		"no scheduler":          {open(t, plain, soon, "127.0.0.1:1"), public, warm.ErrNoScheduler},
		"registry is not there": {open(t, plain, soon, p.Addr), public, warm.ErrStalled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := content(1<<20, uint64(len(name)))
			if name == "registry is not there" {
				data = content(1<<20, 99)
			} else {
				tt.r.AddBlob("p/app", data)
			}
			_, err := tt.k.Warm(ctx(t), order(tt.r, data, &tokens{now: "x"}), func(warm.Progress) {})
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

func TestNobodyWaitsAnyMore(t *testing.T) {
	t.Parallel()
	k := open(t, clustertest.New(t, false), warm.Patience{}, "127.0.0.1:1")
	r := origintest.New(t, origintest.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := k.Warm(ctx, order(r, content(1000, 1), &tokens{}), func(warm.Progress) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if all := k.Schedulers(); len(all) != 1 || all[0].Up {
		t.Errorf("schedulers: %+v", all)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := k.Warm(t.Context(), order(r, content(1000, 2), &tokens{}), func(warm.Progress) {})
		failed <- err
	}()
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	if err := <-failed; !errors.Is(err, warm.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// What is killed while a blob is being fetched does not keep it from arriving.
func TestKilledMeanwhile(t *testing.T) {
	t.Parallel()
	for name, kill := range map[string]func(c *clustertest.Cluster, r *origintest.Registry, scheduler, seed *clustertest.Process){
		"seed": func(_ *clustertest.Cluster, _ *origintest.Registry, _, seed *clustertest.Process) {
			seed.Kill()
		},
		"scheduler": func(_ *clustertest.Cluster, _ *origintest.Registry, scheduler, _ *clustertest.Process) {
			scheduler.Kill()
			scheduler.Start()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := clustertest.New(t, false)
			r := origintest.New(t, origintest.Options{})
			data := content(8<<20, uint64(len(name)))
			d := r.AddBlob("p/app", data)
			r.Fail(d, origintest.Fault{Delay: 20 * time.Millisecond})
			s := c.Scheduler()
			seeds := map[string]*clustertest.Process{}
			for range 2 {
				p := c.Seed(r.Host(), s.Addr)
				seeds[p.Addr] = p
			}
			k := open(t, c, warm.Patience{}, s.Addr)
			var once sync.Once
			got, err := k.Warm(ctx(t), order(r, data, &tokens{}), func(p warm.Progress) {
				if p.Got > 0 {
					once.Do(func() { kill(c, r, s, seeds[p.Addr]) })
				}
			})
			if err != nil || got.Got != int64(len(data)) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}
