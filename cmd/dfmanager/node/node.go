// Package node answers the nodes of all clusters: it gives them certificates,
// knows which of them live, and tells them what holds in their cluster.
//
// That a node lives is that it has a stream to a manager that lives. Streams come
// and go in memory and are written down in batches, so that ten thousand nodes
// that are there cost the database nothing, and as many that come back at once
// cost it a few transactions. What nodes are told is read again when a cluster's
// version changes, by whichever manager.
package node

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/seal"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
)

const (
	// lease is how long a manager that was killed is taken for alive, and its
	// nodes with it, if they have not found another one by then.
	lease = 15 * time.Second
	keep  = lease / 3
	// beat is how old what nodes are told may be, and how long who came or went
	// may wait to be written down.
	beat = time.Second
	// missed is for how long hosts are told of a scheduler that is dead: it may
	// come back, and where it was its swarms are found again.
	missed  = 10 * time.Minute
	note    = 5 * time.Second // how long what nodes have moved may wait to be written down
	sweep   = time.Minute
	reissue = 24 * time.Hour // of this manager's own certificates
)

// Config says what a Server needs.
type Config struct {
	Store      *store.DB
	Key        *seal.Key
	Name       string // of this manager
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Server answers nodes.
type Server struct {
	Config
	grpc   *manage.Server
	served chan error
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{} // holds a token when a cluster may have changed

	mu       sync.Mutex // guards what follows; nobody waits while it is held
	clusters map[int64]*group
	news     []store.Presence // not written down yet
	streams  int64            // counts them
	present  map[int64]store.Presence
	newest   map[member]int64 // stream of a node
	busy     busy             // not written down yet

	telling sync.Mutex // guards what follows; taken before mu
	follow  func([]Membership)
	told    []Membership // to follow
}

// group is a cluster and its nodes that have a stream to this manager.
type group struct {
	id      int64
	hash    manage.CA
	ca      *cluster.CA
	version int64
	read    time.Time        // when that was seen
	cert    *tls.Certificate // of this manager
	own     *wire.Identity   // of this manager as a host of it
	first   bool             // it is the standard cluster
	orders  manage.Orders
	changed chan struct{} // closed when orders have changed
}

// Open serves nodes on ln, which it takes over, until Close.
func Open(ctx context.Context, ln net.Listener, c Config) (*Server, error) {
	s := &Server{Config: c, served: make(chan error, 1), wake: make(chan struct{}, 1), clusters: map[int64]*group{}, present: map[int64]store.Presence{}, newest: map[member]int64{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	err := c.Registerer.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dfmanager_nodes", Help: "Nodes that have a stream to this manager.",
	}, func() float64 { return float64(s.Nodes()) }))
	if err == nil {
		_, err = c.Store.KeepManager(ctx, c.Name, lease)
	}
	if err == nil {
		err = s.refresh(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	s.grpc = manage.NewServer(s.authority, s)
	s.wg.Go(s.run)
	go func() { s.served <- s.grpc.Serve(ln) }()
	return s, nil
}

// Close ends all streams; nodes turn to another manager, or wait for this one.
func (s *Server) Close() error {
	s.cancel()
	s.grpc.Stop()
	err := <-s.served
	s.wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(err, s.writeBusy(ctx), s.Store.ForgetManager(ctx, s.Name))
}

// Changed has a change of a cluster seen at once, if it was made by this manager.
func (s *Server) Changed() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run does what has to be done again and again.
func (s *Server) run() {
	t := time.NewTicker(beat)
	defer t.Stop()
	var kept, swept, noted time.Time
	for {
		now := time.Now()
		err := s.write(s.ctx)
		if now.Sub(kept) >= keep {
			err = errors.Join(err, s.live(s.ctx))
			kept = now
		}
		if now.Sub(noted) >= note {
			err = errors.Join(err, s.writeBusy(s.ctx))
			noted = now
		}
		if now.Sub(swept) >= sweep {
			err = errors.Join(err, s.Store.Sweep(s.ctx))
			swept = now
		}
		err = errors.Join(err, s.refresh(s.ctx))
		s.tell()
		if s.ctx.Err() != nil {
			return
		}
		if err != nil {
			s.Log.Warn("what nodes do cannot be kept up with just now", "err", err)
		}
		select {
		case <-t.C:
		case <-s.wake:
		case <-s.ctx.Done():
			return
		}
	}
}

// live says that this manager is alive. If the others have taken it for dead, the
// database was away from it for long: it says again which nodes it has.
func (s *Server) live(ctx context.Context) error {
	was, err := s.Store.KeepManager(ctx, s.Name, lease)
	if err != nil || was {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.present {
		s.news = append(s.news, p)
	}
	return nil
}

// Membership is this manager as a host of a cluster.
type Membership struct {
	Cluster    int64
	Standard   bool
	Identity   *wire.Identity
	Schedulers []string
}

func (m Membership) equal(o Membership) bool {
	return m.Cluster == o.Cluster && m.Standard == o.Standard && m.Identity == o.Identity && slices.Equal(m.Schedulers, o.Schedulers)
}

// memberships are those of all clusters, by their IDs.
func (s *Server) memberships() (all []Membership) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.clusters {
		all = append(all, Membership{g.id, g.first, g.own, g.orders.Schedulers})
	}
	slices.SortFunc(all, func(a, b Membership) int { return int(a.Cluster - b.Cluster) })
	return all
}

// tell says which clusters there are, and with which schedulers.
func (s *Server) tell() {
	s.telling.Lock()
	defer s.telling.Unlock()
	if now := s.memberships(); s.follow != nil && !slices.EqualFunc(now, s.told, Membership.equal) {
		s.told = now
		s.follow(now)
	}
}

// Follow has f called with all clusters, at once and again when one of them or its
// schedulers change, until Close.
func (s *Server) Follow(f func([]Membership)) {
	s.telling.Lock()
	s.follow = f
	s.telling.Unlock()
	s.tell()
}

// write tells the database who came and went.
func (s *Server) write(ctx context.Context) error {
	s.mu.Lock()
	news := s.news
	s.news = nil
	s.mu.Unlock()
	if len(news) == 0 {
		return nil
	}
	if err := s.Store.SetPresence(ctx, s.Name, news); err != nil {
		s.mu.Lock()
		s.news = append(news, s.news...)
		s.mu.Unlock()
		return fmt.Errorf("presence of %d nodes: %w", len(news), err)
	}
	return nil
}

// refresh reads the clusters that have changed, and has their nodes told.
func (s *Server) refresh(ctx context.Context) error {
	versions, err := s.Store.Versions(ctx)
	if err != nil {
		return err
	}
	for id, version := range versions {
		s.mu.Lock()
		g := s.clusters[id]
		fresh := g != nil && g.version == version && time.Since(g.read) < sweep // who has been dead for long changes no version
		s.mu.Unlock()
		if !fresh {
			if err := s.read(ctx, id); err != nil {
				return err
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.clusters {
		if _, there := versions[id]; !there {
			delete(s.clusters, id)
		}
	}
	return nil
}

// read makes a group of what the database says of a cluster.
func (s *Server) read(ctx context.Context, id int64) error {
	c, err := s.Store.Cluster(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	orders, err := s.orders(ctx, c)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.clusters[id]
	if g == nil {
		ca, err := cluster.Open(c, s.Key)
		if err != nil {
			return err
		}
		g = &group{id: id, hash: manage.CAOf(c.CA), ca: ca, changed: make(chan struct{})}
	}
	if g.cert == nil || time.Since(g.cert.Leaf.NotBefore) > reissue {
		if g.cert, err = g.ca.Own(p2p.HostID(s.Name), wire.RoleManager); err != nil {
			return err
		}
	}
	if err := s.belong(g, orders); err != nil {
		return err
	}
	s.clusters[id] = g
	g.version, g.read, g.first = c.Version, time.Now(), c.Standard
	if !equal(g.orders, orders) {
		g.orders = orders
		close(g.changed)
		g.changed = make(chan struct{})
	}
	return nil
}

// Own is this manager as a host of what is the standard cluster now.
func (s *Server) Own() *wire.Identity {
	for _, m := range s.memberships() {
		if m.Standard {
			return m.Identity
		}
	}
	return nil
}

// belong makes this manager a host of a cluster.
func (s *Server) belong(g *group, o manage.Orders) error {
	cert, err := g.ca.Own(p2p.HostID(s.Name), wire.RoleManager)
	if err != nil {
		return err
	}
	if g.own == nil {
		g.own = wire.Held(wire.Name{ID: p2p.HostID(s.Name), Role: wire.RoleManager}, s.Log)
	}
	g.own.Set(cert, g.ca.Pool())
	g.own.Block(o.Blocked)
	return nil
}

func equal(a, b manage.Orders) bool {
	return slices.Equal(a.Schedulers, b.Schedulers) && slices.Equal(a.Blocked, b.Blocked) && a.Limits == b.Limits
}

// orders are what a cluster's nodes are told.
func (s *Server) orders(ctx context.Context, c store.Cluster) (o manage.Orders, err error) {
	if o.Schedulers, err = s.Store.Schedulers(ctx, c.ID, time.Now().Add(-missed)); err != nil {
		return o, err
	}
	revoked, err := s.Store.Revoked(ctx, c.ID)
	if err != nil {
		return o, err
	}
	names := append(revoked, c.Settings.Blocked...)
	slices.Sort(names)
	for _, n := range slices.Compact(names) {
		o.Blocked = append(o.Blocked, p2p.HostID(n))
	}
	l := c.Settings
	o.Limits = manage.Limits{Download: l.Download, Upload: l.Upload, Origin: l.Origin, OriginRequests: int(l.OriginRequests)}
	return o, nil
}

// authority finds the certificate that a node is shown.
func (s *Server) authority(serverName string) (*tls.Certificate, *x509.CertPool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var other *group
	for _, g := range s.clusters {
		if g.hash.ServerName() == serverName {
			return g.cert, g.ca.Pool(), nil
		}
		other = g
	}
	if other == nil {
		return nil, nil, errors.New("there is no cluster")
	}
	return other.cert, other.ca.Pool(), nil
}

// of returns the cluster of a CA.
func (s *Server) of(ca manage.CA) (*group, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.clusters {
		if g.hash == ca {
			return g, nil
		}
	}
	return nil, fmt.Errorf("%w: the cluster of this certificate is no more", manage.ErrRefused)
}

// Nodes returns how many nodes have a stream to this manager.
func (s *Server) Nodes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.present)
}

// keyHash tells public keys apart.
func keyHash(key any) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("%w: public key: %w", manage.ErrInvalid, err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}
