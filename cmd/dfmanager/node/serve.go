package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
)

// Join makes a node of whoever has a join token.
func (s *Server) Join(ctx context.Context, hash string, r manage.Request, p manage.Place) (manage.Certificate, error) {
	c, err := s.join(ctx, hash, r, p)
	return c, s.noted("join", r, err)
}

func (s *Server) join(ctx context.Context, hash string, r manage.Request, p manage.Place) (manage.Certificate, error) {
	k, err := s.Store.JoinTokenByHash(ctx, hash)
	if errors.Is(err, store.ErrNotFound) {
		return manage.Certificate{}, fmt.Errorf("%w: the join token is not known, or has expired", manage.ErrRefused)
	}
	if err != nil {
		return manage.Certificate{}, err
	}
	if k.Role != string(r.Name.Role) {
		return manage.Certificate{}, fmt.Errorf("%w: the join token is for a %s, and this is a %s", manage.ErrRefused, k.Role, r.Name.Role)
	}
	c, err := s.clusterFor(ctx, k, r, p)
	if err != nil {
		return manage.Certificate{}, err
	}
	key, err := keyHash(r.Key)
	if err != nil {
		return manage.Certificate{}, err
	}
	ca, err := cluster.Open(c, s.Key)
	if err != nil {
		return manage.Certificate{}, err
	}
	chain, until, err := ca.Issue(r.Key, r.Name.ID, r.Name.Role)
	if err != nil {
		return manage.Certificate{}, err
	}
	_, err = s.Store.Join(ctx, store.By{Actor: "node " + string(r.Name.ID), Remote: r.From.String()}, k, store.Node{
		Cluster: c.ID, Name: string(r.Name.ID), Role: string(r.Name.Role), Key: key, Until: until, Hostname: p.Hostname, IDC: p.IDC, Location: p.Location,
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		err = fmt.Errorf("%w: the join token was for one node, which has joined", manage.ErrRefused)
	case errors.Is(err, store.ErrState):
		err = fmt.Errorf("%w: %s was revoked", manage.ErrRefused, r.Name.ID)
	case errors.Is(err, store.ErrExists):
		err = fmt.Errorf("%w: cluster %s has a node with the name %s", manage.ErrTaken, c.Name, r.Name.ID)
	}
	if err != nil {
		return manage.Certificate{}, err
	}
	s.Log.Info("a node has joined", "node", r.Name.ID, "role", r.Name.Role, "cluster", c.Name, "address", r.From)
	return manage.Certificate{Chain: chain, CA: ca.PEM()}, nil
}

// clusterFor is the cluster that a node gets into: its token's, or the best one.
func (s *Server) clusterFor(ctx context.Context, k store.JoinToken, r manage.Request, p manage.Place) (store.Cluster, error) {
	if k.Cluster != 0 {
		return s.Store.Cluster(ctx, k.Cluster)
	}
	all, err := s.Store.AllClusters(ctx)
	if err != nil {
		return store.Cluster{}, err
	}
	return cluster.Best(all, cluster.Place{Addr: r.From, Hostname: p.Hostname, IDC: p.IDC, Location: p.Location})
}

// Renew gives a node a new certificate.
func (s *Server) Renew(ctx context.Context, r manage.Request) (manage.Certificate, error) {
	c, err := s.renew(ctx, r)
	return c, s.noted("renew", r, err)
}

func (s *Server) renew(ctx context.Context, r manage.Request) (manage.Certificate, error) {
	g, err := s.of(r.CA)
	if err != nil {
		return manage.Certificate{}, err
	}
	key, err := keyHash(r.Key)
	if err != nil {
		return manage.Certificate{}, err
	}
	chain, until, err := g.ca.Issue(r.Key, r.Name.ID, r.Name.Role)
	if err != nil {
		return manage.Certificate{}, err
	}
	err = s.Store.RenewNode(ctx, g.id, string(r.Name.ID), string(r.Name.Role), key, until)
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("%w: %s was revoked", manage.ErrRefused, r.Name.ID)
	}
	if err != nil {
		return manage.Certificate{}, err
	}
	return manage.Certificate{Chain: chain, CA: g.ca.PEM()}, nil
}

// Link has a node as long as it lives.
func (s *Server) Link(ctx context.Context, r manage.Request, h manage.Hello, send func(manage.Orders) error) error {
	return s.noted("link", r, s.link(ctx, r, h, send))
}

func (s *Server) link(ctx context.Context, r manage.Request, h manage.Hello, send func(manage.Orders) error) error {
	g, err := s.of(r.CA)
	if err != nil {
		return err
	}
	n, err := s.Store.NodeByName(ctx, g.id, string(r.Name.ID))
	if errors.Is(err, store.ErrNotFound) || err == nil && (!n.Revoked.IsZero() || n.Role != string(r.Name.Role)) {
		return fmt.Errorf("%w: %s was revoked", manage.ErrRefused, r.Name.ID)
	}
	if err != nil {
		return err
	}
	n.Address, n.Version = dialable(h.Address, r), h.Version
	n.Hostname, n.IDC, n.Location = h.Place.Hostname, h.Place.IDC, h.Place.Location
	stream := s.came(n)
	defer s.went(n, stream)
	if r.Name.Role == wire.RoleScheduler {
		s.Changed() // hosts wait for it
		if r.From.IsLoopback() && h.Address != n.Address {
			s.Log.Warn("other machines cannot reach this scheduler: set advertise there", "node", n.Name, "dial", n.Address)
		}
	}
	for {
		s.mu.Lock()
		orders, changed := g.orders, g.changed
		s.mu.Unlock()
		if slices.Contains(orders.Blocked, r.Name.ID) {
			return fmt.Errorf("%w: %s was revoked, or is blocked in its cluster", manage.ErrRefused, r.Name.ID)
		}
		if err := send(orders); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		case <-s.ctx.Done():
			return errors.New("the manager is stopping")
		}
	}
}

// dialable is the address of a node that others dial: where it says none, that
// which its stream comes from.
func dialable(addr string, r manage.Request) string {
	host, port, err := net.SplitHostPort(addr)
	if err == nil && host == "" && r.From.IsValid() {
		return net.JoinHostPort(r.From.String(), port)
	}
	return addr
}

// came notes that a node has a stream, and returns which one that is.
func (s *Server) came(n store.Node) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams++
	p := store.Presence{Node: n, Stream: s.streams, Present: true}
	s.present[s.streams] = p
	s.newest[member{n.Cluster, n.Name}] = s.streams
	s.news = append(s.news, p)
	return s.streams
}

// went notes that a stream has ended.
func (s *Server) went(n store.Node, stream int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.present, stream)
	if k := (member{n.Cluster, n.Name}); s.newest[k] == stream {
		delete(s.newest, k)
	}
	s.news = append(s.news, store.Presence{Node: n, Stream: stream})
}

// noted logs what went wrong, and returns it.
func (s *Server) noted(what string, r manage.Request, err error) error {
	switch {
	case err == nil || s.ctx.Err() != nil:
	case errors.Is(err, manage.ErrRefused) || errors.Is(err, manage.ErrTaken) || errors.Is(err, manage.ErrInvalid):
		s.Log.Info("a node is refused", "call", what, "node", r.Name.ID, "role", r.Name.Role, "address", r.From, "err", err)
	default:
		s.Log.Error("a node cannot be answered", "call", what, "node", r.Name.ID, "err", err)
	}
	return err
}
