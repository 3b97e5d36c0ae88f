package fetcher

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
)

// content is what all who have one blob open share.
type content struct {
	f      *Fetcher
	digest digest.Digest
	size   int64
	stored *store.Blob
	silent atomic.Bool // a request got no bytes for a while, and none did since

	mu       sync.Mutex // guards what follows, and the fields of fetches that say so
	refs     int        // handles, readers and fetches
	handles  int
	repos    []origin.Repo // the one that answered last first
	readers  map[*Reader]struct{}
	waiters  map[*waiter]struct{}
	fetches  []*fetch
	stream   *fetch // brings the whole blob, of a source that ignores ranges
	pace     pace   // of the last request that brought all of its bytes
	unranged bool   // the source ignores ranges
	given    []*stretch
	bad      map[place]int // how often bytes of it were discarded
	stats    Stats
}

// place is somewhere a blob may be had.
type place struct {
	source int // in Config.Sources
	repo   origin.Repo
}

func (f *Fetcher) source(p place) Source { return f.cfg.Sources[p.source] }

// peers is the place that the network is; where there is none, no place equals
// it.
func (f *Fetcher) peers() place {
	if f.network == nil {
		return place{source: -1}
	}
	return place{source: len(f.cfg.Sources) - 1}
}

// stretch remembers who gave the bytes from off to end.
type stretch struct {
	off, end int64
	place    place
}

// waiter is a reader that waits for the byte at pos.
type waiter struct {
	pos   int64
	peers bool          // its read may not ask the origin
	done  chan struct{} // closed after what follows is set
	err   error         // nil: look again
	data  []byte        // the bytes from pos on, if they are not in the store
	from  string        // name of the source that gave them
}

// Stats says where the bytes of a blob came from since it was opened.
type Stats struct {
	Stored   int64            `json:"stored"`   // bytes that were in the store when asked for
	Fetched  map[string]int64 `json:"fetched"`  // bytes by name of the source
	Requests int64            `json:"requests"` // to sources
}

func newContent(f *Fetcher, ref Ref, stored *store.Blob) *content {
	var repos []origin.Repo
	if ref.Repo != (origin.Repo{}) {
		repos = append(repos, ref.Repo)
	}
	return &content{
		f: f, digest: ref.Digest, size: ref.Size, stored: stored,
		refs: 1, handles: 1, repos: repos,
		readers: map[*Reader]struct{}{}, waiters: map[*waiter]struct{}{}, bad: map[place]int{},
		stats: Stats{Fetched: map[string]int64{}},
	}
}

// join adds a handle; false: c is on its way out.
func (c *content) join(ref Ref) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.refs == 0:
		return false, nil
	case c.size != ref.Size:
		return false, fmt.Errorf("%w: %d, not %d", store.ErrSize, c.size, ref.Size)
	}
	c.refs++
	c.handles++
	if ref.Repo != (origin.Repo{}) && !slices.Contains(c.repos, ref.Repo) {
		c.repos = append(c.repos, ref.Repo)
	}
	return true, nil
}

// leave gives a handle back.
func (c *content) leave() {
	c.mu.Lock()
	c.handles--
	c.giveUpUnwanted()
	c.release()
}

// release gives a reference back and unlocks c.mu, which the caller holds.
func (c *content) release() {
	c.refs--
	last := c.refs == 0
	c.mu.Unlock()
	if last {
		c.f.forget(c)
	}
}

// places returns where the blob may be had outside the network, the best first:
// by source, then by repository, but those that gave bad bytes last.
func (c *content) places() []place {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []place
	for i, s := range c.f.cfg.Sources {
		if _, ok := s.(peers); ok {
			continue
		}
		for _, r := range c.repos {
			all = append(all, place{i, r})
		}
	}
	slices.SortStableFunc(all, func(a, b place) int { return cmp.Compare(c.bad[a], c.bad[b]) })
	return all
}

// arriving notes who gives the next bytes of fetch f, at most n, before anyone
// can read them. It returns where they go, how many count, and f's priority.
func (c *content) arriving(f *fetch, n int) (pos, count int64, p Priority) {
	c.mu.Lock()
	defer c.mu.Unlock()
	count = min(int64(n), f.end-f.pos)
	if f.stretch == nil {
		f.stretch = &stretch{off: f.pos, place: f.place}
		c.remember(f.stretch)
	}
	f.stretch.end = f.pos + count
	c.stats.Fetched[c.f.source(f.place).Name()] += count
	return f.pos, count, f.prio
}

// arrived takes in that bytes of fetch f have come; data is nil if they are in
// the store. Whoever waits for them goes on at once, and not when f next waits
// for its source, which on a fast line may be some megabytes later.
func (c *content) arrived(f *fetch, n int64, data []byte) {
	if c.takeIn(f, n, data) {
		runtime.Gosched()
	}
}

// takeIn reports whether somebody had waited for the bytes.
func (c *content) takeIn(f *fetch, n int64, data []byte) (awaited bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	from := f.pos
	f.pos += n
	f.got += n
	f.trouble = time.Time{}
	c.outpace(f)
	source := c.f.source(f.place).Name()
	for w := range c.waiters {
		if from <= w.pos && w.pos < f.pos {
			if data != nil {
				w.data = data[w.pos-from:]
			}
			w.from = source
			c.wake(w)
			awaited = true
		}
	}
	if c.f.network != nil && data == nil {
		c.f.network.inspect(c, from, f.pos)
	}
	return awaited
}

// came takes in n bytes at off that the network brought; data is nil if they
// are in the store.
func (c *content) came(off, n int64, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remember(&stretch{off: off, end: off + n, place: c.f.peers()})
	for w := range c.waiters {
		if off <= w.pos && w.pos < off+n {
			if data != nil {
				w.data = data[w.pos-off:]
			}
			w.from = "peer"
			c.wake(w)
		}
	}
}

// wakeAt wakes those who wait for one of n bytes at off.
func (c *content) wakeAt(off, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.waiters {
		if off <= w.pos && w.pos < off+n {
			c.wake(w)
		}
	}
}

// foreign returns which of the n bytes at off an origin may not have given.
func (c *content) foreign(off, n int64) []store.Range {
	c.mu.Lock()
	defer c.mu.Unlock()
	var own []store.Range
	for _, s := range c.given {
		if s.place != c.f.peers() && s.off < off+n && off < s.end {
			own = append(own, store.Range{Off: s.off, Len: s.end - s.off})
		}
	}
	for _, s := range c.given {
		if s.place == c.f.peers() {
			own = without(own, s.off, s.end)
		}
	}
	foreign := []store.Range{{Off: off, Len: n}}
	for _, o := range own {
		foreign = without(foreign, o.Off, o.End())
	}
	return foreign
}

func (c *content) wake(w *waiter) {
	delete(c.waiters, w)
	close(w.done)
}

// wakeAll has all who wait look again who brings their bytes. The caller holds c.mu.
func (c *content) wakeAll() {
	for w := range c.waiters {
		c.wake(w)
	}
}

// remember keeps a bounded memory of who gave what. The caller holds c.mu.
func (c *content) remember(s *stretch) {
	const most = 4096
	if len(c.given) >= most {
		c.given = slices.Delete(c.given, 0, most/2)
	}
	c.given = append(c.given, s)
}

// discard forgets bytes that a caller found to be wrong, and thinks less of
// who gave them. Requests for more of them are ended first: what they still
// bring is as wrong.
func (c *content) discard(off, n int64) error {
	c.mu.Lock()
	blamed := map[place]bool{}
	for _, s := range c.given {
		if s.off < off+n && off < s.end {
			blamed[s.place] = true
		}
	}
	for p := range blamed {
		if p != c.f.peers() { // it tells peers apart itself
			c.bad[p]++
		}
	}
	c.mu.Unlock()
	err := c.erase(off, n)
	for p := range blamed {
		if b, ok := c.f.source(p).(blamer); ok {
			b.Blame(Ref{Digest: c.digest, Size: c.size, Repo: p.repo})
		}
	}
	if c.f.network != nil {
		c.f.network.blame(c, off, n)
		c.f.network.lost(c, off, n)
	}
	return err
}

// erase forgets bytes, and who gave them.
func (c *content) erase(off, n int64) error {
	c.mu.Lock()
	var ended []*fetch
	for _, f := range c.fetches {
		if f.pos < off+n && off < f.end {
			f.cancel(errShared) // its readers ask again
			ended = append(ended, f)
		}
	}
	c.mu.Unlock()
	for _, f := range ended {
		<-f.done
	}
	c.forget(off, off+n)
	c.f.memory.drop(c, off, off+n)
	return c.stored.Discard(off, n)
}

// forget takes out of the memory who gave the bytes from off to end.
func (c *content) forget(off, end int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var rest []*stretch
	for _, s := range c.given {
		if s.end <= off || end <= s.off {
			rest = append(rest, s)
			continue
		}
		if s.off < off {
			rest = append(rest, &stretch{s.off, off, s.place})
		}
		if end < s.end {
			rest = append(rest, &stretch{end, s.end, s.place})
		}
	}
	c.given = rest
}

// answered notes that a repository has the blob, to be asked first.
func (c *content) answered(r origin.Repo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.repos, r); i > 0 {
		c.repos = slices.Insert(slices.Delete(c.repos, i, i+1), 0, r)
	}
}
