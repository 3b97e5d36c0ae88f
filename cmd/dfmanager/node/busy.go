package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
)

// member is a node by what its certificate says.
type member struct {
	cluster int64
	name    string
}

// busy is what nodes have said of their work.
type busy struct {
	moved map[store.Mover]store.Traffic
	loads map[int64]store.Load // by node
}

// Report notes what a node has moved and how busy it is.
func (s *Server) Report(_ context.Context, r manage.Request, l manage.Load) error {
	g, err := s.of(r.CA)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p, there := s.present[s.newest[member{g.id, string(r.Name.ID)}]]
	if !there {
		return fmt.Errorf("%w: %s has no stream here", manage.ErrRefused, r.Name.ID)
	}
	second := func(n int64) int64 { return int64(float64(n) / l.Span.Seconds()) }
	s.busy.add(map[store.Mover]store.Traffic{{Cluster: g.id, Role: string(r.Name.Role)}: store.Traffic(l.Moved)}, map[int64]store.Load{p.Node.ID: {
		Node: p.Node.ID, At: time.Now(), Origin: second(l.Moved.Origin), Peers: second(l.Moved.Peers), Sent: second(l.Moved.Sent),
		Kept: l.Kept, Uploads: l.Uploads, Waiting: l.Waiting,
	}})
	return nil
}

// add adds what was moved, and loads that are newer.
func (b *busy) add(moved map[store.Mover]store.Traffic, loads map[int64]store.Load) {
	if b.moved == nil {
		b.moved, b.loads = map[store.Mover]store.Traffic{}, map[int64]store.Load{}
	}
	for m, t := range moved {
		sum := b.moved[m]
		sum.Add(t)
		b.moved[m] = sum
	}
	for id, l := range loads {
		if l.At.After(b.loads[id].At) {
			b.loads[id] = l
		}
	}
}

// writeBusy tells the database what nodes have said since it was told last.
func (s *Server) writeBusy(ctx context.Context) error {
	s.mu.Lock()
	b := s.busy
	s.busy = busy{}
	s.mu.Unlock()
	if len(b.moved) == 0 {
		return nil
	}
	err := s.Store.AddTraffic(ctx, time.Now(), b.moved, slices.Collect(maps.Values(b.loads)))
	if err != nil {
		s.mu.Lock()
		s.busy.add(b.moved, b.loads)
		s.mu.Unlock()
		return fmt.Errorf("traffic of %d nodes: %w", len(b.loads), err)
	}
	return nil
}
