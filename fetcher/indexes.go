package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// Indexer is who makes use of the indexes of layers that hosts share. Its
// methods must return soon and not call the Fetcher.
type Indexer interface {
	// Coming says that this seed was ordered to fetch all of a blob, which can be
	// followed as it comes.
	Coming(r Ref)
	// Whole says that this seed has all of a blob that it was ordered to fetch.
	Whole(r Ref)
	// Distrusted says that the cluster no longer uses an index.
	Distrusted(m p2p.Distrust)
}

// indexes is what the network knows of them; network.mu guards it.
type indexes struct {
	indexer   Indexer // nil: nobody cares
	lookups   map[digest.Digest]*lookup
	awaited   map[*awaited]bool
	published map[digest.Digest]p2p.Index // by layer
}

// lookup is a question that is on its way.
type lookup struct {
	done  chan struct{}
	found *p2p.Index
}

// awaited is a layer whose index somebody here waits for, however long that takes.
type awaited struct {
	layer   digest.Digest
	version int
	found   chan p2p.Index
}

func newIndexes(x Indexer) indexes {
	return indexes{indexer: x, lookups: map[digest.Digest]*lookup{}, awaited: map[*awaited]bool{}, published: map[digest.Digest]p2p.Index{}}
}

// FindIndex asks the cluster for the index of a layer. It is false if there is
// none, or nobody answers within half a second.
func (f *Fetcher) FindIndex(ctx context.Context, layer digest.Digest, version int) (p2p.Index, bool) {
	n := f.network
	if n == nil {
		return p2p.Index{}, false
	}
	l := n.lookup(layer, version)
	if l == nil {
		return p2p.Index{}, false
	}
	t := time.NewTimer(answerAfter)
	defer t.Stop()
	select {
	case <-l.done:
	case <-t.C:
		return p2p.Index{}, false
	case <-ctx.Done():
		return p2p.Index{}, false
	}
	if l.found == nil || l.found.Version != version || !n.believe(*l.found) {
		return p2p.Index{}, false
	}
	return *l.found, true
}

// AwaitIndex returns the index of a layer as soon as the cluster has one. It is
// false if ctx ends before.
func (f *Fetcher) AwaitIndex(ctx context.Context, layer digest.Digest, version int) (p2p.Index, bool) {
	n := f.network
	if n == nil {
		return p2p.Index{}, false
	}
	a := n.expect(layer, version)
	defer n.unexpect(a)
	for {
		select {
		case x := <-a.found:
			if n.believe(x) {
				return x, true
			}
		case <-ctx.Done():
			return p2p.Index{}, false
		}
	}
}

// expect asks for an index, so that the scheduler tells when there is one.
func (n *network) expect(layer digest.Digest, version int) *awaited {
	a := &awaited{layer, version, make(chan p2p.Index, 1)}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.indexes.awaited[a] = true
	n.sendLookup(n.home(layer), layer, version)
	return a
}

func (n *network) unexpect(a *awaited) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.indexes.awaited, a)
}

// askAgain asks who is responsible now, as schedulers come and go, for what is
// awaited. The caller holds n.mu.
func (n *network) askAgain() {
	for a := range n.indexes.awaited {
		n.sendLookup(n.home(a.layer), a.layer, a.version)
	}
}

// sendLookup asks a scheduler for an index, unless there is none. The caller holds n.mu.
func (n *network) sendLookup(scheduler string, layer digest.Digest, version int) {
	if scheduler != "" {
		n.links.Send(scheduler, p2p.Lookup{Layers: []digest.Digest{layer}, Version: version})
	}
}

// lookup asks the scheduler that is responsible for the layer, if it was not
// asked already. The result is nil if there is none.
func (n *network) lookup(layer digest.Digest, version int) *lookup {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.indexes.lookups[layer]; l != nil {
		return l
	}
	home := n.home(layer)
	if home == "" {
		return nil
	}
	l := &lookup{done: make(chan struct{})}
	n.indexes.lookups[layer] = l
	n.sendLookup(home, layer, version)
	time.AfterFunc(answerAfter, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.indexes.lookups[layer] == l {
			delete(n.indexes.lookups, layer)
		}
	})
	return l
}

// home is the scheduler that is responsible for a layer, of those that can be
// reached. The caller holds n.mu.
func (n *network) home(layer digest.Digest) string {
	for _, name := range p2p.Rendezvous(string(layer), n.schedulers) {
		if n.up[name] {
			return name
		}
	}
	return ""
}

// PublishIndex offers an index whose pack this host has, now and whenever a
// scheduler comes up.
func (f *Fetcher) PublishIndex(x p2p.Index) error {
	n := f.network
	if n == nil {
		return nil
	}
	if n.identity != nil {
		var err error
		if x.Proof, err = n.identity.Prove(x.Statement()); err != nil {
			return fmt.Errorf("publish index: %w", err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.indexes.published[x.Layer] = x
	for name := range n.up {
		n.links.Send(name, p2p.Publish{Index: x})
	}
	return nil
}

// DistrustIndex tells the cluster that an index is not that of its layer, all
// of which this host has seen.
func (f *Fetcher) DistrustIndex(m p2p.Distrust) {
	n := f.network
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for name := range n.up {
		n.links.Send(name, m)
	}
}

// Keep puts a blob that this host has made into the store, to be given to
// others: size bytes of r, whose digest is d.
func (f *Fetcher) Keep(d digest.Digest, size int64, r io.Reader) error {
	b, err := f.open(Ref{Digest: d, Size: size})
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }() // it returns nil
	if !b.Verified() {
		if err := b.c.keep(r); err != nil {
			return fmt.Errorf("keep %s: %w", d, err)
		}
	}
	f.tellPresent(b.c)
	return nil
}

// tellPresent tells the cluster that all of a blob is here and right, whoever uses it
// or fetches it.
func (f *Fetcher) tellPresent(c *content) {
	if f.network == nil {
		return
	}
	f.network.mu.Lock()
	defer f.network.mu.Unlock()
	if s := f.network.share(p2p.Blob{Digest: c.digest, Size: c.size}); s != nil {
		s.present()
	}
}

// Follow gives read all of a blob that this seed was ordered to fetch, as it
// comes: nothing is asked for that would not be without it. That read returns no
// error says that the blob has matched its digest.
func (f *Fetcher) Follow(ctx context.Context, r Ref, read func(io.Reader) error) error {
	b, err := f.open(r)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }() // it returns nil
	body, err := b.reader(ctx, 0, r.Size, Background, only{follows: true})
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	if err := read(body); err != nil {
		return err
	}
	return b.MarkVerified()
}

// Has reports whether all of a blob is in the store and has matched its digest.
func (f *Fetcher) Has(d digest.Digest, size int64) bool {
	b, err := f.open(Ref{Digest: d, Size: size})
	if err != nil {
		return false
	}
	defer func() { _ = b.Close() }() // it returns nil
	return b.Verified()
}

// keep stores the blob, which r has and is right, also in place of what is there of it.
func (c *content) keep(r io.Reader) error {
	buf := getBuffer(usualPiece)
	defer putBuffer(buf)
	for off := int64(0); off < c.size; {
		n, err := io.ReadFull(r, buf[:min(c.size-off, usualPiece)])
		if err != nil {
			return err
		}
		if err := c.adopt(off, buf[:n]); err != nil {
			return err
		}
		c.wakeAt(off, int64(n))
		off += int64(n)
	}
	return c.stored.MarkVerified()
}

// republish offers a scheduler that is up again what was published. The caller
// holds n.mu.
func (n *network) republish(name string) {
	for x := range maps.Values(n.indexes.published) {
		n.links.Send(name, p2p.Publish{Index: x})
	}
}

// ofIndexes deals with a scheduler's message that is about indexes. The caller
// holds n.mu.
func (n *network) ofIndexes(m p2p.Message) bool {
	switch m := m.(type) {
	case p2p.Indexes:
		n.found(m)
	case p2p.Distrust:
		if x := n.indexes.published[m.Layer]; x.ID == m.ID {
			delete(n.indexes.published, m.Layer)
		}
		if n.indexes.indexer != nil {
			n.indexes.indexer.Distrusted(m)
		}
	default:
		return false
	}
	return true
}

// found gives an answer to those who wait for it. The caller holds n.mu.
func (n *network) found(m p2p.Indexes) {
	for _, x := range m.Found {
		if l := n.indexes.lookups[x.Layer]; l != nil {
			l.found = &x
		}
		for a := range n.indexes.awaited {
			if a.layer == x.Layer && a.version == x.Version {
				select {
				case a.found <- x:
				default: // it has not looked at the one before
				}
			}
		}
	}
	for _, d := range m.Layers {
		if l := n.indexes.lookups[d]; l != nil {
			delete(n.indexes.lookups, d)
			close(l.done)
		}
	}
}

// believe reports whether a member of the cluster has made an index.
func (n *network) believe(x p2p.Index) bool {
	err := n.proven(x)
	if err != nil {
		n.log.Warn("an index was offered that nobody of this cluster has made", "blob", x.Layer, "index", x.ID, "err", err)
	}
	return err == nil
}

var errNotMaker = errors.New("its maker is neither host nor seed")

// proven checks who made an index, where hosts have certificates.
func (n *network) proven(x p2p.Index) error {
	if n.identity == nil {
		return nil
	}
	name, err := n.identity.Prover(x.Statement(), x.Proof)
	if err == nil && name.Role != wire.RoleSeed && name.Role != wire.RoleHost {
		err = errNotMaker
	}
	return err
}

// indexed tells who makes indexes that a seed has all of an ordered blob.
func (s *share) indexed() {
	s.n.mu.Lock()
	ordered, where := s.ordered, s.origin
	s.n.mu.Unlock()
	if ordered && s.n.indexes.indexer != nil && !p2p.IsName(s.blob.Digest) {
		s.n.indexes.indexer.Whole(Ref{Digest: s.blob.Digest, Size: s.blob.Size, Repo: repo(where)})
	}
}
