package warm

import (
	"context"
	"fmt"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// Names are the schedulers of a cluster; of the standard one, if that is 0.
func (p *Pool) Names(cluster int64) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if cluster == 0 {
		cluster = p.standard
	}
	if p.fixed != nil && cluster == p.standard {
		return p.config.Schedulers
	}
	return p.members[cluster].Schedulers
}

// Order has hosts of a cluster commanded by the first scheduler of the blob that can
// be reached, and calls obeyed for each of them, from one goroutine.
func (p *Pool) Order(ctx context.Context, cluster int64, c p2p.Command, hosts []p2p.HostID, obeyed func(wire.Obeyed)) error {
	err := ErrNoScheduler
	for _, name := range p2p.Rendezvous(c.Blob.Digest.String(), p.Names(cluster)) {
		said := false
		if err = p.order(ctx, cluster, name, c, hosts, func(o wire.Obeyed) {
			said = true
			obeyed(o)
		}); err == nil || said || ctx.Err() != nil {
			break
		}
		err = fmt.Errorf("%w: %s: %w", ErrNoScheduler, name, err)
	}
	return err
}

// order does so over a connection of its own: it may last, and those over which
// schedulers are asked take few calls at a time.
func (p *Pool) order(ctx context.Context, cluster int64, scheduler string, c p2p.Command, hosts []p2p.HostID, obeyed func(wire.Obeyed)) error {
	p.mu.Lock()
	if cluster == 0 {
		cluster = p.standard
	}
	id, err := p.identity(cluster)
	p.mu.Unlock()
	if err != nil {
		return err
	}
	conn, err := wire.Dial(scheduler, id)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Order(ctx, c, hosts, obeyed)
}
