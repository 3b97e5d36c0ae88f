package fetcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/swarm"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// Network says how this host takes part in the piece network.
type Network struct {
	Self       p2p.Host
	Schedulers []string       // "host:port"
	Identity   *wire.Identity // nil: plain text
	Listener   net.Listener   // where pieces are given; nil: none are
	Upload     peer.Limiter   // nil: no limit
	Tokens     Tokens         // nil: this host lends none, and uses none of others
	Indexer    Indexer        // nil: nobody here cares for indexes
}

// Tokens are short-lived leaves to read private repositories.
type Tokens interface {
	// Token returns one of this host's own, "" if there is none. It asks nobody.
	Token(r origin.Repo) string
	// NewToken returns one that the registry accepts now, for a repository that
	// has d.
	NewToken(ctx context.Context, r origin.Repo, d digest.Digest) (string, error)
	// Learn takes one that another host lent.
	Learn(r origin.Repo, token string)
}

// answerAfter is how long a first read of a blob waits for the scheduler to say
// who has it, rather than ask the origin for what a neighbour is just fetching.
const answerAfter = 500 * time.Millisecond

// network runs the host's decisions: it tells a swarm.Host what happens and
// does what that says. Pieces are judged before they get into the store; ranges
// that somebody waits for go through as they come, as from any other source.
type network struct {
	f       *Fetcher
	log     *slog.Logger
	metrics *networkMetrics
	tokens  Tokens
	client  *peer.Client
	server  *peer.Server // nil: gives nothing
	pieces  net.Listener // until server has it
	kick    chan struct{}
	seed    bool

	schedulers []string
	identity   *wire.Identity

	mu      sync.Mutex // guards what follows and what shares say; nobody waits while it is held
	links   *peer.Links
	host    *swarm.Host
	armed   time.Time // when loop wakes up
	up      map[string]bool
	shares  map[digest.Digest]*share
	more    chan struct{} // closed when there is one more
	running map[uint64]context.CancelCauseFunc
	watches map[watched]context.CancelCauseFunc
	indexes indexes

	profiles profiles
	commands chan struct{}                       // holds a token for each that is being carried out
	obeying  map[command]context.CancelCauseFunc // those, and those that wait for their turn
}

// watched is a peer whose pieces of a blob this host hears of.
type watched struct {
	peer   p2p.HostID
	digest digest.Digest
}

// openNetwork sets f.network, of which the caller closes what there is if an
// error is returned.
func openNetwork(f *Fetcher, c *Network) error {
	schedulers := slices.Compact(slices.Sorted(slices.Values(c.Schedulers)))
	n := &network{
		f: f, log: f.log, pieces: c.Listener, tokens: c.Tokens, kick: make(chan struct{}, 1), seed: c.Self.Seed, more: make(chan struct{}),
		host: swarm.New(swarm.Config{Self: c.Self, Schedulers: schedulers, OriginRun: originRun}),
		up:   map[string]bool{}, shares: map[digest.Digest]*share{},
		running: map[uint64]context.CancelCauseFunc{}, watches: map[watched]context.CancelCauseFunc{},
		schedulers: schedulers, identity: c.Identity, indexes: newIndexes(c.Indexer), profiles: newProfiles(),
		commands: make(chan struct{}, commandsAt), obeying: map[command]context.CancelCauseFunc{},
	}
	f.network = n
	var err error
	if n.metrics, err = newNetworkMetrics(f.cfg.Registerer, n); err != nil {
		return err
	}
	if n.client, err = peer.NewClient(peer.ClientConfig{Identity: c.Identity, Stall: peerStall, Registerer: f.cfg.Registerer}); err != nil {
		return err
	}
	for d, size := range f.store.Kept() {
		b := p2p.Blob{Digest: d, Size: size}
		if b.Validate() != nil { // larger than the network carries
			continue
		}
		n.share(b).own()
		n.host.Present(time.Now(), b, p2p.FullHave(b.Pieces()), true) // nobody is there yet to be told
	}
	if c.Listener != nil {
		n.pieces = nil
		n.server, err = peer.Serve(c.Listener, peer.ServerConfig{
			Blobs: serving{n}, Identity: c.Identity, Slots: c.Self.Slots, Upload: c.Upload, Log: f.log, Registerer: f.cfg.Registerer,
		})
		if err != nil {
			return err
		}
	}
	f.start(n.loop)
	n.mu.Lock() // until links is set, what the listener hears has to wait
	defer n.mu.Unlock()
	n.links, err = peer.OpenLinks(peer.LinksConfig{
		Schedulers: schedulers, Identity: c.Identity, Listener: listener{n}, Log: f.log, Registerer: f.cfg.Registerer,
	})
	return err
}

// SetSchedulers says which schedulers there are from now on. Reads that are under
// way go on. It is for a Fetcher with a network.
func (f *Fetcher) SetSchedulers(names []string) error {
	n := f.network
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	err := n.links.Set(names, func() {
		n.tell(func(h *swarm.Host, now time.Time) []swarm.Action {
			n.schedulers = names
			return h.SetSchedulers(now, names)
		})
	})
	if err != nil {
		return fmt.Errorf("fetcher: schedulers: %w", err)
	}
	return nil
}

// close ends all that calls the fetcher from outside.
func (n *network) close() error {
	var errs []error
	if n.links != nil {
		errs = append(errs, n.links.Close())
	}
	if n.server != nil {
		errs = append(errs, n.server.Close())
	}
	if n.pieces != nil {
		errs = append(errs, n.pieces.Close())
	}
	return errors.Join(errs...)
}

// loop wakes the host when it wants to be.
func (n *network) loop() {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			n.tell(func(h *swarm.Host, now time.Time) []swarm.Action { return h.Tick(now) })
		case <-n.kick:
		case <-n.f.ctx.Done():
			return
		}
		n.mu.Lock()
		n.armed = n.host.Next()
		if n.armed.IsZero() {
			t.Stop()
		} else {
			t.Reset(max(0, time.Until(n.armed)))
		}
		n.mu.Unlock()
	}
}

// tell tells the host of something that happened, and does what it decides.
func (n *network) tell(event func(h *swarm.Host, now time.Time) []swarm.Action) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.do(event(n.host, time.Now()))
}

// do carries out decisions: nothing that takes time, but its beginning. The
// caller holds n.mu.
func (n *network) do(actions []swarm.Action) {
	for _, a := range actions {
		switch a := a.(type) {
		case swarm.Send:
			n.links.Send(a.Scheduler, a.Message)
		case swarm.Request:
			n.run(a.ID, a.Blob, func(ctx context.Context, s *share) { s.fromPeer(ctx, a) })
		case swarm.Origin:
			n.run(a.ID, a.Blob, func(ctx context.Context, s *share) { s.fromOrigin(ctx, a) })
		case swarm.Cancel:
			n.end(a.ID)
		case swarm.Subscribe:
			n.subscribe(a)
		case swarm.Unsubscribe:
			n.unsubscribe(watched{a.Peer, a.Digest})
		default:
			n.judge(a)
		}
	}
	if next := n.host.Next(); !next.IsZero() && (n.armed.IsZero() || next.Before(n.armed)) {
		n.armed = next
		select {
		case n.kick <- struct{}{}:
		default:
		}
	}
}

// judge carries out what was decided about pieces and blobs here. The caller
// holds n.mu.
func (n *network) judge(a swarm.Action) {
	switch a := a.(type) {
	case swarm.Store:
		if s := n.shares[a.Digest]; s != nil {
			s.keep.Add(a.Piece)
			s.soil(a.Piece)
		}
	case swarm.Drop:
		if s := n.shares[a.Digest]; s != nil {
			s.refuse(a.Piece)
		}
	case swarm.Match:
		if s := n.shares[a.Digest]; s != nil {
			n.f.start(s.match)
		}
	case swarm.Hash:
		if s := n.shares[a.Blob.Digest]; s != nil {
			n.f.start(s.rehash)
		}
	case swarm.Data:
		if s := n.shares[a.Blob.Digest]; s != nil {
			n.f.start(func() { s.take(a.Data) })
		}
	case swarm.Renew:
		if s := n.shares[a.Digest]; s != nil {
			n.f.start(s.renew)
		}
	case swarm.Corrupt:
		n.log.Error("the origin's blob does not match its digest", "blob", a.Digest)
		if s := n.shares[a.Digest]; s != nil {
			s.trouble = fmt.Errorf("from the origin: %w", ErrDigest)
		}
	case swarm.Ignore: // whoever brought the piece has seen it
	}
}

// run starts a request. The caller holds n.mu.
func (n *network) run(id uint64, b p2p.Blob, request func(ctx context.Context, s *share)) {
	s := n.shares[b.Digest]
	if s == nil { // forgotten by one of the actions before this one
		return
	}
	ctx, cancel := context.WithCancelCause(n.f.ctx)
	n.running[id] = cancel
	started := n.f.start(func() {
		request(ctx, s)
		n.mu.Lock()
		n.end(id)
		n.mu.Unlock()
	})
	if !started {
		n.end(id)
	}
}

// end ends a request, if it has not ended. The caller holds n.mu.
func (n *network) end(id uint64) {
	if cancel := n.running[id]; cancel != nil {
		cancel(errAlone)
		delete(n.running, id)
	}
}

func (n *network) subscribe(a swarm.Subscribe) {
	key := watched{a.Peer.ID, a.Blob.Digest}
	n.unsubscribe(key)
	ctx, cancel := context.WithCancelCause(n.f.ctx)
	n.watches[key] = cancel
	n.f.start(func() {
		err := n.client.Watch(ctx, a.Peer, a.Blob, func(c peer.Change) {
			n.tell(func(h *swarm.Host, now time.Time) []swarm.Action {
				switch {
				case ctx.Err() != nil:
					return nil
				case c.Added != nil:
					return h.PeerHave(now, key.peer, key.digest, c.Added)
				default:
					return h.PeerLost(now, key.peer, key.digest, c.Removed)
				}
			})
		})
		n.tell(func(h *swarm.Host, now time.Time) []swarm.Action {
			if ctx.Err() != nil { // nobody wants to hear it
				return nil
			}
			n.log.Debug("peer tells no more what it has", "blob", key.digest, "peer", key.peer, "err", err)
			n.unsubscribe(key)
			return h.PeerGone(now, key.peer, key.digest, failure(err))
		})
	})
}

// unsubscribe ends a subscription, if there is one. The caller holds n.mu.
func (n *network) unsubscribe(key watched) {
	if cancel := n.watches[key]; cancel != nil {
		cancel(errAlone)
		delete(n.watches, key)
	}
}

// listener hears of the schedulers.
type listener struct{ n *network }

func (l listener) SchedulerUp(name string) {
	l.n.tell(func(h *swarm.Host, now time.Time) []swarm.Action {
		l.n.up[name] = true
		actions := h.SchedulerUp(now, name)
		l.n.do(actions) // the announce goes first
		l.n.republish(name)
		l.n.relearn(name)
		l.n.askAgain()
		return nil
	})
}

func (l listener) SchedulerDown(name string) {
	l.n.tell(func(h *swarm.Host, now time.Time) []swarm.Action {
		delete(l.n.up, name)
		l.n.withdrawAll(name)
		l.n.askAgain()
		return h.SchedulerDown(now, name)
	})
}

func (l listener) SchedulerSays(name string, m p2p.Message) {
	l.n.tell(func(h *swarm.Host, now time.Time) []swarm.Action {
		if l.n.ofIndexes(m) || l.n.ofProfiles(m) {
			return nil
		}
		switch m := m.(type) {
		case p2p.Command:
			l.n.commanded(name, m)
			return nil
		case p2p.Fetch:
			if !l.n.ordered(m) {
				return nil
			}
			m.Origin.Token = "" // learned; nobody else needs it
			return h.FromScheduler(now, name, m)
		case p2p.Parents:
			l.n.answered(m.Digest)
		case p2p.Lease:
			l.n.answered(m.Digest)
		case p2p.Source:
			l.n.answered(m.Digest)
		case p2p.Content:
			l.n.answered(m.Digest)
		case p2p.Audit:
			l.n.log.Warn("the scheduler has the origin asked: sums are in doubt", "blob", m.Digest, "pieces", len(m.Pieces), "reason", m.Reason)
		}
		return h.FromScheduler(now, name, m)
	})
}

// ordered takes a scheduler's order to own a blob. It reports false if there
// can be no such blob. The caller holds n.mu.
func (n *network) ordered(m p2p.Fetch) bool {
	if m.Blob.Validate() != nil || m.Blob.Scope() == p2p.Empty {
		return false
	}
	s := n.share(m.Blob)
	if s == nil {
		n.log.Warn("the scheduler orders a blob of another size", "blob", m.Blob.Digest, "size", m.Blob.Size)
		return false
	}
	if m.Whole && !s.coming && !s.have.Full() && n.indexes.indexer != nil && !p2p.IsName(m.Blob.Digest) {
		s.coming = true
		n.indexes.indexer.Coming(Ref{Digest: m.Blob.Digest, Size: m.Blob.Size, Repo: repo(m.Origin)})
	}
	s.ordered, s.origin = true, p2p.Origin{Registry: m.Origin.Registry, Repository: m.Origin.Repository}
	n.answered(m.Blob.Digest) // nobody will name parents
	n.f.start(s.pin)
	if m.Origin.Token != "" && n.tokens != nil {
		s.learn(m.Origin.Token)
	}
	return true
}

// answered notes that the scheduler has said something of a blob, or that
// nobody should wait for that any more. The caller holds n.mu.
func (n *network) answered(d digest.Digest) {
	if s := n.shares[d]; s != nil && !s.heard {
		s.heard = true
		close(s.answer)
	}
}

// repo is where an origin is for a client of registries.
func repo(o p2p.Origin) origin.Repo { return origin.Repo{Host: o.Registry, Path: o.Repository} }
