// Package sight reads what schedulers see of their clusters: hosts, swarms, bans,
// and who holds which pieces of a blob.
package sight

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// Scheduler is what one sees.
type Scheduler struct {
	Counts struct{ Hosts, Seeds, Swarms, Active, Bans int }
	Swarms []Swarm
	Hosts  []Host
	Bans   []Ban
	False  []FalseIndex
}

// Swarm is the hosts that have, or want, a blob.
type Swarm struct {
	Blob struct {
		Digest string
		Size   int64
	}
	State, Owner                       string
	Peers, Wanting, Complete, Starving int
	Verified                           bool
}

// Size is that of the blob in bytes.
func (s Swarm) Size() int64 { return s.Blob.Size }

// Host is one that is connected.
type Host struct {
	ID, Addr, IDC, Location  string
	Seed, Share              bool
	Blobs, Wanting, Children int
	Pace                     float64
}

// Place is where a host is, as far as it says so.
func (h Host) Place() string {
	switch {
	case h.IDC == "":
		return h.Location
	case h.Location == "":
		return h.IDC
	}
	return fmt.Sprintf("%s, %s", h.IDC, h.Location)
}

// Ban says that a host is not used, or as a last resort only.
type Ban struct {
	Host, Reason string
	Until        time.Time
	Times        int
	Banned       bool
}

// FalseIndex is an index of a layer that a host has found false.
type FalseIndex struct {
	Layer, ID, Reason, Accuser string
	At                         time.Time
	Makers                     []string
	Containers                 []string // that had been given the layer, with their hosts
}

// Blob is a swarm with its hosts.
type Blob struct {
	Swarm
	Pieces int
	Hosts  []Holder
}

// Holder is a host that has pieces of a blob, or wants it.
type Holder struct {
	ID, Addr    string
	Seed, Share bool
	Wants, Lazy bool
	Have        int      // pieces
	Runs        [][2]int // of pieces: first and last
	Parents     []string // from whom it takes; "": the origin
	Children    int
}

const (
	askWait  = 2 * time.Second
	askEvery = 2 * time.Second
)

// Source asks a scheduler of a cluster what it sees: JSON of a swarm or, where d is
// "", of all, or wire.ErrNoSwarm. warm.Pool is one.
type Source interface {
	See(ctx context.Context, cluster int64, scheduler string, d digest.Digest) ([]byte, error)
}

// Sight asks schedulers what they see, and remembers it for a moment: all who look
// share that. It may be used concurrently.
type Sight struct {
	source Source

	mu     sync.Mutex // guards what follows
	all    map[question]*answer
	traces map[question]*Trace // without a scheduler
	sweep  *time.Timer         // forgets traces; nil: there are none
	pruned time.Time
}

// question is what is asked of which scheduler.
type question struct {
	cluster   int64
	scheduler string
	digest    digest.Digest
}

// answer is what a scheduler said last.
type answer struct {
	mu   sync.Mutex // guards what follows; held while it is asked, so that nobody asks twice
	at   time.Time
	said any // pointer to what it said; nobody changes that
	err  error
}

// ErrUnseen reports that a scheduler cannot be asked what it sees.
var ErrUnseen = errors.New("the scheduler cannot be asked what it sees")

// New makes a Sight.
func New(s Source) *Sight {
	return &Sight{source: s, all: map[question]*answer{}, traces: map[question]*Trace{}}
}

// Blob returns the swarm of a blob, of whichever of the schedulers has it; false
// if there is none. ErrUnseen reports that some could not be asked, and the others
// have none.
func (s *Sight) Blob(ctx context.Context, cluster int64, schedulers []string, d digest.Digest) (b Blob, found bool, err error) {
	b, _, found, err = s.blob(ctx, cluster, schedulers, d)
	return b, found, err
}

// blob says also of which time what it returns is.
func (s *Sight) blob(ctx context.Context, cluster int64, schedulers []string, d digest.Digest) (b Blob, at time.Time, found bool, err error) {
	for _, name := range p2p.Rendezvous(string(d), schedulers) {
		got, at, e := read[Blob](ctx, s, question{cluster, name, d})
		switch {
		case e == nil:
			return *got, at, true, nil
		case !errors.Is(e, wire.ErrNoSwarm):
			err = fmt.Errorf("%w: %s: %w", ErrUnseen, name, e)
		}
	}
	return b, at, false, err
}

// Now returns what one scheduler sees of a blob, as of now and not of a moment ago.
func (s *Sight) Now(ctx context.Context, cluster int64, scheduler string, d digest.Digest) (b Blob, err error) {
	err = s.ask(ctx, question{cluster, scheduler, d}, &b)
	if errors.Is(err, wire.ErrNoSwarm) {
		return Blob{}, nil
	}
	if err != nil {
		err = fmt.Errorf("%w: %s: %w", ErrUnseen, scheduler, err)
	}
	return b, err
}

// read reads JSON, of now or of a moment ago, and says when that was.
func read[T any](ctx context.Context, s *Sight, q question) (said *T, at time.Time, err error) {
	v := s.answer(q)
	v.mu.Lock()
	defer v.mu.Unlock()
	if time.Since(v.at) >= askEvery {
		got := new(T)
		err := s.ask(ctx, q, got)
		if err != nil && ctx.Err() != nil {
			return nil, at, ctx.Err() // who asked has left; the next one asks again
		}
		v.said, v.err, v.at = got, err, time.Now()
	}
	if v.err != nil {
		return nil, v.at, v.err
	}
	return v.said.(*T), v.at, nil
}

const forget = time.Minute

func (s *Sight) answer(q question) *answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.pruned) > forget {
		s.all, s.pruned = map[question]*answer{}, now
	}
	v := s.all[q]
	if v == nil {
		v = &answer{}
		s.all[q] = v
	}
	return v
}

func (s *Sight) ask(ctx context.Context, q question, into any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, askWait, errSilent)
	defer cancel()
	text, err := s.source.See(ctx, q.cluster, q.scheduler, q.digest)
	if err != nil {
		if errors.Is(context.Cause(ctx), errSilent) {
			err = errSilent
		}
		return err
	}
	return json.Unmarshal(text, into)
}

var errSilent = errors.New("it does not answer")

// Cluster is what the schedulers of a cluster see together.
type Cluster struct {
	Schedulers map[string]*Scheduler // nil: it could not be read
	Blind      []Blind
	Hosts      []Host  // seeds first, then who serves most
	Swarms     []Swarm // stuck ones first, then those most want
	Bans       []Ban
	False      []FalseIndex // the latest first
	Seeds      int
}

// Blind is a scheduler that could not be asked, and why.
type Blind struct{ Scheduler, Why string }

// Gather returns what all schedulers see: a host is connected to each of them, and
// a blob has one.
func (s *Sight) Gather(ctx context.Context, cluster int64, schedulers []string) Cluster {
	c := Cluster{Schedulers: map[string]*Scheduler{}}
	seen, why := make([]*Scheduler, len(schedulers)), make([]error, len(schedulers))
	var wg sync.WaitGroup
	for i, name := range schedulers {
		wg.Go(func() { seen[i], _, why[i] = read[Scheduler](ctx, s, question{cluster, name, ""}) })
	}
	wg.Wait()
	hosts := map[string]Host{}
	for i, name := range schedulers {
		c.Schedulers[name] = seen[i]
		if seen[i] == nil {
			c.Blind = append(c.Blind, Blind{name, why[i].Error()})
			continue
		}
		for _, h := range seen[i].Hosts {
			known := hosts[h.ID]
			h.Blobs, h.Wanting, h.Children = h.Blobs+known.Blobs, h.Wanting+known.Wanting, h.Children+known.Children
			h.Pace = max(h.Pace, known.Pace)
			hosts[h.ID] = h
		}
		c.Swarms = append(c.Swarms, seen[i].Swarms...)
		c.Bans = append(c.Bans, seen[i].Bans...)
		for _, f := range seen[i].False { // the same hosts tell each of them
			if !slices.ContainsFunc(c.False, func(g FalseIndex) bool { return f.ID == g.ID }) {
				c.False = append(c.False, f)
			}
		}
	}
	for _, h := range hosts {
		c.Hosts = append(c.Hosts, h)
		if h.Seed {
			c.Seeds++
		}
	}
	c.sort()
	return c
}

// sort puts first what needs to be looked at.
func (c *Cluster) sort() {
	slices.SortFunc(c.Hosts, func(a, b Host) int {
		return cmp.Or(truth(b.Seed)-truth(a.Seed), b.Children-a.Children, cmp.Compare(a.ID, b.ID))
	})
	slices.SortFunc(c.Swarms, func(a, b Swarm) int {
		return cmp.Or(truth(b.State == "stuck")-truth(a.State == "stuck"), b.Wanting-a.Wanting, b.Peers-a.Peers, cmp.Compare(a.Blob.Digest, b.Blob.Digest))
	})
	slices.SortFunc(c.False, func(a, b FalseIndex) int { return b.At.Compare(a.At) })
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}
