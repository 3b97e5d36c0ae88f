// Package warm brings blobs into a cluster before anybody asks for them. To the
// schedulers it is a host that wants blobs and takes none: they have a seed
// fetch what is wanted, and what they say to the host, and the seed's have-map,
// tell when the blob is there and has matched its digest.
package warm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// Why a blob could not be warmed. All but ErrRefused and ErrPlain may pass.
var (
	// ErrNoScheduler: none is reachable.
	ErrNoScheduler = errors.New("no scheduler of the cluster can be reached")
	// ErrNoSeed: the cluster has no seed that could fetch it.
	ErrNoSeed = errors.New("the cluster has no seed that is alive: one is needed to preheat")
	// ErrStalled: a seed should fetch it, and nothing comes.
	ErrStalled = errors.New("nothing more comes")
	// ErrRefused: the registry does not let the seed read it.
	ErrRefused = errors.New("the registry refuses the seed")
	// ErrPlain: it is private, and the cluster has no certificates.
	ErrPlain = errors.New("the cluster has no certificates: only with them are signed addresses and headers passed on to a seed")
	// ErrClosed: the Client was closed.
	ErrClosed = errors.New("the manager is stopping")
)

// Patience is how long things may take.
type Patience struct {
	Scheduler time.Duration // until one is reachable
	Seed      time.Duration // until there is one
	Stall     time.Duration // between two pieces
}

// Config says how a Client takes part in the piece network.
type Config struct {
	Schedulers []string       // "host:port", written as hosts write them
	Identity   *wire.Identity // of role manager; nil: plain text
	Name       p2p.HostID     // without a certificate
	Patience   Patience       // zero values: the usual
	Log        *slog.Logger
}

// Client is connected to the schedulers. Its methods may be called concurrently.
type Client struct {
	self     p2p.Host
	names    []string
	secure   bool
	patience Patience
	log      *slog.Logger
	peers    *peer.Client
	ctx      context.Context // ends with Close
	cancel   context.CancelCauseFunc
	wg       sync.WaitGroup // of all warmups

	mu    sync.Mutex // guards what follows, and all of every warmup; nobody waits while it is held
	links *peer.Links
	up    map[string]bool
	blobs map[digest.Digest]*warmup
}

// nowhere is the address that is announced: nobody dials who shares nothing.
const nowhere = ":9"

// Open begins to connect. The Client must be closed.
func Open(c Config) (*Client, error) {
	for _, d := range []struct {
		value *time.Duration
		usual time.Duration
	}{{&c.Patience.Scheduler, 15 * time.Second}, {&c.Patience.Seed, 15 * time.Second}, {&c.Patience.Stall, time.Minute}} {
		if *d.value <= 0 {
			*d.value = d.usual
		}
	}
	k := &Client{
		self: p2p.Host{ID: c.Name, Addr: nowhere}, names: c.Schedulers, secure: c.Identity != nil, patience: c.Patience, log: c.Log,
		up: map[string]bool{}, blobs: map[digest.Digest]*warmup{},
	}
	if c.Identity != nil {
		k.self.ID = c.Identity.Name().ID
	}
	k.ctx, k.cancel = context.WithCancelCause(context.Background())
	var err error
	apart := prometheus.NewRegistry() // its figures are those of a host that moves bytes
	if k.peers, err = peer.NewClient(peer.ClientConfig{Identity: c.Identity, Registerer: apart}); err != nil {
		return nil, err
	}
	k.mu.Lock() // until links is set, what the listener hears has to wait
	defer k.mu.Unlock()
	k.links, err = peer.OpenLinks(peer.LinksConfig{Schedulers: c.Schedulers, Identity: c.Identity, Listener: listener{k}, Log: c.Log, Registerer: apart})
	return k, err
}

// Close ends all that is under way.
func (c *Client) Close() error {
	c.mu.Lock() // no warmup begins after this
	c.cancel(ErrClosed)
	c.mu.Unlock()
	err := c.links.Close() // and no scheduler says anything after this
	c.wg.Wait()
	c.peers.Close()
	return err
}

// SetSchedulers says which schedulers there are from now on.
func (c *Client) SetSchedulers(names []string) error {
	return c.links.Set(names, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.names = names
		for _, w := range c.blobs {
			w.look()
		}
	})
}

// Scheduler is one of the cluster's.
type Scheduler struct {
	Name string // "host:port"
	Up   bool   // it is reachable
}

// Schedulers returns all that there are.
func (c *Client) Schedulers() []Scheduler {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]Scheduler, len(c.names))
	for i, name := range c.names {
		all[i] = Scheduler{name, c.up[name]}
	}
	return all
}

// Tokens is where a seed's leave to read the blob comes from.
type Tokens interface {
	// Lent returns a bearer token for the blob's repository, "" if there is none.
	Lent() string
	// Renew gets another one, for the registry refuses the last.
	Renew(ctx context.Context) error
}

// Order says what to warm.
type Order struct {
	Blob                 p2p.Blob
	Registry, Repository string // as in an image's name, or a file's server and path
	Tokens               Tokens
	Private              bool // it is no use to ask without a token
}

// Progress is how far it has come.
type Progress struct {
	Host p2p.HostID // who has most of it; "": nobody yet
	Addr string
	Got  int64 // bytes that are in place there
}

// Warm returns when a seed, or a host that gives what it has, holds all of the
// blob and it has matched its digest. Until then report is called with what is
// new, from the goroutine that called Warm. Whoever warms the same blob at the
// same time shares the work.
func (c *Client) Warm(ctx context.Context, o Order, report func(Progress)) (Progress, error) {
	if o.Blob.Scope() == p2p.Empty {
		return Progress{}, nil
	}
	if o.Private && !c.secure {
		return Progress{}, ErrPlain
	}
	w, err := c.join(o)
	if err != nil {
		return Progress{}, err
	}
	defer c.leave(w)
	var last Progress
	for {
		c.mu.Lock()
		news, now := w.news, w.progress()
		c.mu.Unlock()
		if now != last {
			report(now)
			last = now
		}
		select {
		case <-w.done:
			return w.result, w.err
		case <-news:
		case <-ctx.Done():
			return last, context.Cause(ctx)
		}
	}
}

// join returns the warmup of a blob, a new one if there is none.
func (c *Client) join(o Order) (*warmup, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := context.Cause(c.ctx); err != nil {
		return nil, err
	}
	w := c.blobs[o.Blob.Digest]
	if w != nil && w.order.Blob.Size != o.Blob.Size {
		return nil, fmt.Errorf("blob %s has %d bytes in one manifest and %d in another", o.Blob.Digest, w.order.Blob.Size, o.Blob.Size)
	}
	if w == nil {
		w = newWarmup(c, o)
		c.blobs[o.Blob.Digest] = w
		c.wg.Go(w.run)
	}
	w.waiting++
	return w, nil
}

// leave ends a warmup that nobody waits for any more.
func (c *Client) leave(w *warmup) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.waiting--; w.waiting == 0 {
		w.cancel(context.Canceled)
		c.forget(w)
	}
}

// forget has the next order of the blob begin anew. The caller holds c.mu.
func (c *Client) forget(w *warmup) {
	if c.blobs[w.order.Blob.Digest] == w {
		delete(c.blobs, w.order.Blob.Digest)
	}
}

// listener hears the schedulers.
type listener struct{ c *Client }

// SchedulerUp announces this host, and all that it wants there.
func (l listener) SchedulerUp(name string) {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up[name] = true
	c.links.Send(name, p2p.Announce{Host: c.self})
	for _, w := range c.blobs {
		w.look()
	}
}

// SchedulerDown has others asked for what this one was.
func (l listener) SchedulerDown(name string) {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up[name] = false
	for _, w := range c.blobs {
		if w.scheduler == name {
			w.scheduler = ""
		}
		w.look()
	}
}

// SchedulerSays passes on what is about a blob.
func (l listener) SchedulerSays(name string, m p2p.Message) {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if check, is := m.(p2p.Check); is { // it takes no pieces, so it can be no witness
		c.links.Send(name, p2p.Checked{Digest: check.Digest, Piece: check.Piece, Parent: check.Parent.ID, Failed: p2p.Unreachable})
		return
	}
	for _, w := range c.blobs {
		if w.scheduler == name {
			w.hear(m)
		}
	}
}

// home is the scheduler of a blob: the first it hashes to that is reachable.
// The caller holds c.mu.
func (c *Client) home(d digest.Digest) string {
	for _, name := range p2p.Rendezvous(string(d), c.names) {
		if c.up[name] {
			return name
		}
	}
	return ""
}
