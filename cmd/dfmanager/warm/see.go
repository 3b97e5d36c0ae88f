package warm

import (
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// See asks a scheduler of a cluster what it sees, as JSON: of the swarm of a blob, or
// of all if that is "". wire.ErrNoSwarm says that there is none. The cluster is
// the standard one, if that is 0.
func (p *Pool) See(ctx context.Context, cluster int64, scheduler string, d digest.Digest) ([]byte, error) {
	if d != "" && p2p.ValidateDigest(d) != nil {
		return nil, wire.ErrNoSwarm
	}
	conn, err := p.conn(cluster, scheduler)
	if err != nil {
		return nil, err
	}
	return conn.See(ctx, d)
}

// conn returns the connection to a scheduler, which is made when it is first needed.
func (p *Pool) conn(cluster int64, scheduler string) (*wire.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	if cluster == 0 {
		cluster = p.standard
	}
	at := place{cluster, scheduler}
	if c := p.conns[at]; c != nil {
		return c, nil
	}
	id, err := p.identity(cluster)
	if err != nil {
		return nil, err
	}
	if !p.known(at) {
		return nil, fmt.Errorf("%s is no scheduler of the cluster by now", scheduler)
	}
	c, err := wire.Dial(scheduler, id)
	if err == nil {
		p.conns[at] = c
	}
	return c, err
}

// identity is this manager's in a cluster. The caller holds p.mu.
func (p *Pool) identity(cluster int64) (*wire.Identity, error) {
	if p.fixed != nil && cluster == p.standard {
		return p.config.Identity, nil
	}
	m, there := p.members[cluster]
	if !there {
		return nil, fmt.Errorf("%w: number %d", ErrNoCluster, cluster)
	}
	return m.Identity, nil
}

// known reports whether a cluster has a scheduler. The caller holds p.mu.
func (p *Pool) known(at place) bool {
	if p.fixed != nil && at.cluster == p.standard {
		return slices.Contains(p.config.Schedulers, at.scheduler)
	}
	return slices.Contains(p.members[at.cluster].Schedulers, at.scheduler)
}

// part closes the connections that are not to be kept. The caller holds p.mu.
func (p *Pool) part(keep func(place) bool) (errs []error) {
	for at, c := range p.conns {
		if !keep(at) {
			delete(p.conns, at)
			errs = append(errs, c.Close())
		}
	}
	return errs
}
