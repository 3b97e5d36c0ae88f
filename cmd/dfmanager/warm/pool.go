package warm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// ErrNoCluster says that there is no such cluster any more. Asking again does not
// help.
var ErrNoCluster = errors.New("the cluster is no more")

// Member is this manager as a host of a cluster.
type Member struct {
	Cluster    int64
	Standard   bool
	Identity   *wire.Identity
	Schedulers []string
}

// Pool warms blobs in whichever cluster. It has a Client in the standard one, and in
// each other one in which something was to be warmed.
type Pool struct {
	config Config
	fixed  *Client // of the standard cluster, if that is configured; nil: it is one like the others

	mu       sync.Mutex // guards what follows
	members  map[int64]Member
	standard int64
	clients  map[int64]*Client
	conns    map[place]*wire.Conn // over which schedulers are asked what they see
	closed   bool
}

// place is a scheduler of a cluster.
type place struct {
	cluster   int64
	scheduler string
}

// OpenPool makes a Pool. If c names schedulers, they are those of the standard
// cluster, whoever is a member of it.
func OpenPool(c Config) (*Pool, error) {
	p := &Pool{config: c, members: map[int64]Member{}, clients: map[int64]*Client{}, conns: map[place]*wire.Conn{}}
	if len(c.Schedulers) == 0 {
		return p, nil
	}
	var err error
	p.fixed, err = Open(c)
	return p, err
}

// Close ends all that is under way.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	all := p.clients
	p.clients = map[int64]*Client{}
	errs := p.part(func(place) bool { return false })
	p.mu.Unlock()
	if p.fixed != nil {
		errs = append(errs, p.fixed.Close())
	}
	for _, c := range all {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Set says which clusters there are from now on. What is under way in one that is
// gone ends.
func (p *Pool) Set(all []Member) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.members
	p.members, p.standard = map[int64]Member{}, 0
	var errs []error
	for _, m := range all {
		p.members[m.Cluster] = m
		if m.Standard {
			p.standard = m.Cluster
		}
		if c := p.clients[m.Cluster]; c != nil && !slices.Equal(m.Schedulers, before[m.Cluster].Schedulers) {
			errs = append(errs, c.SetSchedulers(m.Schedulers))
		}
	}
	for id, c := range p.clients {
		if _, there := p.members[id]; !there {
			delete(p.clients, id)
			errs = append(errs, c.Close())
		}
	}
	errs = append(errs, p.part(p.known)...)
	if p.standard != 0 && p.fixed == nil && !p.closed { // its schedulers are looked at before anything is warmed
		_, err := p.client(p.standard)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// client is the one in a cluster, a new one if there is none. The caller holds p.mu.
func (p *Pool) client(id int64) (*Client, error) {
	if id == 0 {
		id = p.standard
	}
	if p.fixed != nil && id == p.standard {
		return p.fixed, nil
	}
	m, there := p.members[id]
	if !there {
		return nil, fmt.Errorf("%w: number %d", ErrNoCluster, id)
	}
	if p.closed {
		return nil, ErrClosed
	}
	if c := p.clients[id]; c != nil {
		return c, nil
	}
	config := p.config
	config.Schedulers, config.Identity = m.Schedulers, m.Identity
	c, err := Open(config)
	if err == nil {
		p.clients[id] = c
	}
	return c, err
}

// Warm warms a blob in a cluster, as [Client.Warm] does; in the standard one, if
// cluster is 0.
func (p *Pool) Warm(ctx context.Context, cluster int64, o Order, report func(Progress)) (Progress, error) {
	p.mu.Lock()
	c, err := p.client(cluster)
	p.mu.Unlock()
	if err != nil {
		return Progress{}, err
	}
	return c.Warm(ctx, o, report)
}

// Schedulers returns those of the standard cluster.
func (p *Pool) Schedulers() []Scheduler {
	p.mu.Lock()
	c, err := p.client(0)
	p.mu.Unlock()
	if err != nil {
		return nil
	}
	return c.Schedulers()
}
