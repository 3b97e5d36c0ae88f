package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// Commander has hosts of clusters commanded, as warm.Pool does.
type Commander interface {
	Names(cluster int64) []string // of its schedulers
	Order(ctx context.Context, cluster int64, c p2p.Command, hosts []p2p.HostID, obeyed func(wire.Obeyed)) error
}

// errHosts says that some hosts have not done what they should. It may pass.
var errHosts = errors.New("not everywhere")

// target is a host that a job is about.
type target struct{ id, addr string }

// targets are the hosts of a job's scope; those that are listed and not connected
// come with it, and fail.
func (r *Runner) targets(ctx context.Context, j store.Job) (all []target, err error) {
	s := ScopeOf(j.Scope)
	if s.single() {
		return nil, nil
	}
	seen := r.Sight.Gather(ctx, j.Cluster, r.Commander.Names(j.Cluster))
	if len(seen.Schedulers) == len(seen.Blind) {
		why := "there is none"
		if len(seen.Blind) > 0 {
			why = seen.Blind[0].Scheduler + ": " + seen.Blind[0].Why
		}
		return nil, fmt.Errorf("%w: no scheduler can be asked which hosts there are: %s", errHosts, why)
	}
	meant, missing := s.of(seen.Hosts, strconv.FormatInt(j.ID, 10))
	for _, h := range meant {
		all = append(all, target{h.ID, h.Addr})
	}
	for _, name := range missing {
		all = append(all, target{id: name})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: the cluster has no host of scope %s", errHosts, s.Kind)
	}
	return all, nil
}

// spread has hosts do something about a blob, some at a time, and notes how that
// goes. What they have done in an earlier try is not done again.
func (r *Runner) spread(ctx context.Context, j store.Job, c p2p.Command, all []target) error {
	done, err := r.Store.DoneHosts(ctx, j.ID, string(c.Blob.Digest))
	if err != nil {
		return err
	}
	rest := slices.DeleteFunc(slices.Clone(all), func(t target) bool { return done[t.id] })
	rows := make([]store.JobHost, len(rest))
	for i, t := range rest {
		rows[i] = store.JobHost{Digest: string(c.Blob.Digest), Host: t.id, Address: t.addr, State: store.Waiting}
	}
	if err := r.Store.SetJobHosts(ctx, j, rows); err != nil {
		return err
	}
	var failed []string
	for part := range slices.Chunk(rows, ScopeOf(j.Scope).concurrent()) {
		if err := r.batch(ctx, j, c, part); err != nil {
			return err
		}
		for _, h := range part {
			if h.State != store.Succeeded {
				failed = append(failed, h.Host+": "+h.Error)
			}
		}
	}
	if len(failed) == 0 {
		return nil
	}
	const shown = 3
	more := ""
	if len(failed) > shown {
		more = "; …"
	}
	return fmt.Errorf("%w: %d of %d hosts: %s%s", errHosts, len(failed), len(all), strings.Join(failed[:min(shown, len(failed))], "; "), more)
}

// batch is some hosts that do the same at the same time.
type batch struct {
	rows []store.JobHost
	open map[p2p.HostID]*store.JobHost // that have not answered
	news []store.JobHost               // not stored yet
}

func newBatch(rows []store.JobHost) (b *batch, hosts []p2p.HostID) {
	b = &batch{rows: rows, open: map[p2p.HostID]*store.JobHost{}}
	for i := range rows {
		h := &rows[i]
		h.State, h.Error = store.Running, ""
		id := p2p.HostID(h.Host)
		if id.Validate() != nil {
			h.State, h.Error = store.Failed, "there is no such host"
		} else {
			b.open[id] = h
			hosts = append(hosts, id)
		}
		b.news = append(b.news, *h)
	}
	return b, hosts
}

// end notes how it ended at a host; why is empty if it was done.
func (b *batch) end(id p2p.HostID, why string) {
	h := b.open[id]
	if h == nil {
		return
	}
	delete(b.open, id)
	h.State, h.Error = store.Succeeded, why
	if why != "" {
		h.State = store.Failed
	}
	b.news = append(b.news, *h)
}

// rest ends it at all that have not answered.
func (b *batch) rest(why string) {
	for id := range b.open {
		b.end(id, why)
	}
}

// batch has some hosts do it. How it ended there is in rows then; an error says that
// it is no use to go on.
func (r *Runner) batch(ctx context.Context, j store.Job, c p2p.Command, rows []store.JobHost) error {
	b, hosts := newBatch(rows)
	ctx, cancel := context.WithCancel(ctx)
	said := make(chan wire.Obeyed, len(hosts)) // so that nobody waits who puts something in
	ended := make(chan error, 1)
	go func() { ended <- r.Commander.Order(ctx, j.Cluster, c, hosts, func(o wire.Obeyed) { said <- o }) }()
	var over bool
	defer func() {
		cancel()
		if over {
			return
		}
		if err := <-ended; err != nil {
			r.Log.Debug("an order was taken back", "job", j.ID, "blob", c.Blob.Digest, "err", err)
		}
	}()
	watch := &stall{r: r, j: j, blob: c.Blob, moved: time.Now()}
	tick := time.NewTicker(r.Pace.Poll)
	defer tick.Stop()
	for {
		if err := r.Store.SetJobHosts(ctx, j, b.news); err != nil || len(b.open) == 0 {
			return err
		}
		b.news = nil
		select {
		case o := <-said:
			b.end(o.Host, o.Failed)
			watch.moved = time.Now()
		case err := <-ended:
			over = true
			for len(said) > 0 {
				o := <-said
				b.end(o.Host, o.Failed)
			}
			if err == nil {
				err = errHosts
			}
			b.rest(err.Error())
		case <-tick.C:
			if why := watch.look(ctx, b.open); why != "" {
				b.rest(why)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// stall notices that hosts which have not answered get nothing any more.
type stall struct {
	r      *Runner
	j      store.Job
	blob   p2p.Blob
	moved  time.Time
	pieces int
}

// look returns why it is no use to wait; "": it is.
func (s *stall) look(ctx context.Context, open map[p2p.HostID]*store.JobHost) string {
	b, found, err := s.r.Sight.Blob(ctx, s.j.Cluster, s.r.Commander.Names(s.j.Cluster), s.blob.Digest)
	if err == nil && found {
		n := 0
		for _, h := range b.Hosts {
			if open[p2p.HostID(h.ID)] != nil {
				n += h.Have
			}
		}
		if n != s.pieces {
			s.pieces, s.moved = n, time.Now()
		}
	}
	if time.Since(s.moved) < s.r.Pace.Stall {
		return ""
	}
	return fmt.Sprintf("it has not answered, and got nothing for %v", s.r.Pace.Stall)
}
