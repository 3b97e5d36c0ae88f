package swarm_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/swarm"
)

// FuzzHost does to a host whatever the bytes say, and checks what must hold
// whatever happens: an owner of a host relies on it.
func FuzzHost(f *testing.F) {
	f.Add([]byte("want, parents, have, piece"))
	for i := range 16 {
		seed := make([]byte, 400)
		for k := range seed {
			seed[k] = byte(hashOf(i, k))
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		w := newWorld(t)
		for w.in = data; len(w.in) > 0; {
			w.step()
		}
	})
}

func hashOf(i, k int) int {
	d := digest.FromString(fmt.Sprint(i, k)).Encoded()
	return int(d[0])*7 + int(d[1])*31 + int(d[2])
}

const inFlight = 8 << 20

// A world is the owner of a host: it does what it is told, and minds the rules.
type world struct {
	t     *testing.T
	in    []byte
	host  *swarm.Host
	now   time.Time
	blobs []p2p.Blob
	open  map[uint64]*asked
	held  map[string]bool // arrived, neither stored nor dropped
	have  map[string]bool
	sub   map[string]bool
	match map[digest.Digest]bool
	ups   map[string]bool
	spoke map[string]bool // announced on this stream
}

type asked struct {
	blob       p2p.Blob
	next, last int
	check      bool
	origin     bool
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		host: swarm.New(swarm.Config{Self: host("h1"), Schedulers: []string{"s", "t"}, MaxInFlight: inFlight}),
		open: map[uint64]*asked{}, held: map[string]bool{}, have: map[string]bool{}, sub: map[string]bool{},
		match: map[digest.Digest]bool{}, ups: map[string]bool{}, spoke: map[string]bool{},
	}
	for i, size := range []int64{40, 1 << 20, 5<<20 + 1, 20 << 20} {
		w.blobs = append(w.blobs, p2p.Blob{Digest: digest.FromString(fmt.Sprint(i)), Size: size})
	}
	return w
}

func (w *world) byte() int {
	if len(w.in) == 0 {
		return 0
	}
	b := w.in[0]
	w.in = w.in[1:]
	return int(b)
}

func (w *world) step() {
	w.now = w.now.Add(time.Duration(w.byte()) * 10 * time.Millisecond)
	b := w.blobs[w.byte()%len(w.blobs)]
	d, h := b.Digest, w.host
	piece := w.byte() % b.Pieces()
	switch name := [...]string{"s", "t"}[w.byte()%2]; w.byte() % 20 {
	case 0:
		w.do(h.Want(w.now, b, p2p.Origin{Registry: "r"}, w.byte()%3 == 0, p2p.Background))
	case 1:
		if w.byte()%8 == 0 {
			w.unwant(b)
		}
	case 2:
		if !w.ups[name] {
			w.ups[name], w.spoke[name] = true, false
			w.do(h.SchedulerUp(w.now, name))
		}
	case 3:
		w.ups[name] = false
		w.do(h.SchedulerDown(w.now, name))
	case 4, 5:
		m := p2p.Parents{Digest: d}
		for range b.Stripes() {
			var hosts []p2p.Host
			for range w.byte() % 4 {
				hosts = append(hosts, w.peer())
			}
			m.Stripes = append(m.Stripes, hosts)
		}
		w.do(h.FromScheduler(w.now, name, m))
	case 6, 7:
		m := p2p.Digests{Digest: d, First: piece, Verified: w.byte()%4 == 0}
		for i := piece; i < b.Pieces(); i++ {
			m.Sums = append(m.Sums, w.sum(i))
		}
		w.do(h.FromScheduler(w.now, name, m))
	case 8:
		m := p2p.Lease{Digest: d, For: time.Duration(w.byte()) * time.Second}
		for range w.byte() % 5 {
			m.Pieces = append(m.Pieces, w.byte()%b.Pieces())
		}
		w.do(h.FromScheduler(w.now, name, m))
	case 9:
		w.do(h.FromScheduler(w.now, name, [...]p2p.Message{
			p2p.Fetch{Blob: b, Whole: w.byte()%2 == 0}, p2p.Source{Digest: d, Allowed: w.byte()%2 == 0}, p2p.Ask{Digest: d},
			p2p.Gone{Host: w.peer().ID}, p2p.Check{Digest: d, Piece: piece, Parent: w.peer()}, p2p.Renew{Digest: d},
			p2p.Content{Digest: d, Data: make([]byte, b.Size%64)},
		}[w.byte()%7]))
	case 10, 11:
		p, lost := w.peer(), w.byte()%4 == 0
		have := p2p.NewHave(b.Pieces())
		for i := range b.Pieces() {
			if w.byte()%2 == 0 {
				have.Add(i)
			}
		}
		if lost {
			w.do(h.PeerLost(w.now, p.ID, d, have))
			return
		}
		w.do(h.PeerHave(w.now, p.ID, d, have))
	case 12:
		p := w.peer()
		delete(w.sub, string(p.ID)+string(d))
		w.do(h.PeerGone(w.now, p.ID, d, [...]p2p.Failure{p2p.Unreachable, p2p.Missing}[w.byte()%2]))
	case 13, 14, 15:
		w.piece()
	case 16:
		if id, r := w.some(); r != nil {
			delete(w.open, id)
			w.do(h.Failed(w.now, id, p2p.Failure(1+w.byte()%6)))
		}
	case 17:
		w.do(h.Need(w.now, d, piece, min(piece+w.byte()%4, b.Pieces()-1)))
	case 18:
		if w.match[d] {
			delete(w.match, d)
			w.do(h.Matched(w.now, d, w.byte()%2 == 0))
		}
	case 19:
		w.plan(b)
	}
	for range 3 {
		if next := h.Next(); !next.IsZero() && !next.After(w.now) {
			w.do(h.Tick(w.now))
		}
	}
}

func (w *world) peer() p2p.Host {
	return host([...]string{"p1", "p2", "p3", "p4", "seed-0"}[w.byte()%5])
}

func (w *world) sum(piece int) p2p.Sum {
	return sum(piece, [...]string{"", "", "", "bad"}[w.byte()%4])
}

func (w *world) unwant(b p2p.Blob) {
	w.do(w.host.Unwant(w.now, b.Digest))
	delete(w.match, b.Digest)
	for i := range b.Pieces() {
		delete(w.have, key(b, i))
		delete(w.held, key(b, i))
	}
	for _, r := range w.open {
		if r.blob == b {
			w.t.Fatal("a request goes on for a blob that is not wanted")
		}
	}
}

// some returns one of the open requests.
func (w *world) some() (uint64, *asked) {
	var ids []uint64
	for id := range uint64(10_000) {
		if w.open[id] != nil {
			ids = append(ids, id)
		}
		if len(ids) == len(w.open) {
			break
		}
	}
	if len(ids) == 0 {
		return 0, nil
	}
	id := ids[w.byte()%len(ids)]
	return id, w.open[id]
}

func (w *world) piece() {
	id, r := w.some()
	if r == nil {
		return
	}
	i := r.next
	if r.next++; r.next > r.last {
		delete(w.open, id)
	}
	actions := w.host.Piece(w.now, id, i, w.sum(i), time.Millisecond)
	ignored := false
	for _, a := range actions {
		if a, ok := a.(swarm.Ignore); ok && a.ID == id {
			ignored = true
		}
	}
	if !ignored && !r.check {
		if w.have[key(r.blob, i)] {
			w.t.Fatalf("piece %d arrived again and is not ignored", i)
		}
		w.held[key(r.blob, i)] = true
	}
	w.do(actions)
}

func (w *world) plan(b p2p.Blob) {
	off := int64(w.byte()) << 17
	n := int64(w.byte()) << 15
	end := off
	for _, p := range w.host.Read(w.now, b.Digest, off, n) {
		if p.Off != end || p.N <= 0 || len(p.Sources) == 0 || !p.Sources[len(p.Sources)-1].Origin() || p.Hedge <= 0 {
			w.t.Fatalf("plan of %d+%d has %+v after %d", off, n, p, end)
		}
		end += p.N
	}
	if end != off && end != min(off+n, b.Size) {
		w.t.Fatalf("plan of %d+%d ends at %d", off, n, end)
	}
}

func key(b p2p.Blob, piece int) string { return fmt.Sprint(b.Size, "/", piece) }

func (w *world) byDigest(d digest.Digest) p2p.Blob {
	for _, b := range w.blobs {
		if b.Digest == d {
			return b
		}
	}
	w.t.Fatalf("action for blob %s", d)
	return p2p.Blob{}
}

// do carries out actions and checks each.
func (w *world) do(actions []swarm.Action) {
	for _, a := range actions {
		switch a := a.(type) {
		case swarm.Send:
			w.sent(a)
		case swarm.Request:
			w.ask(a.ID, &asked{blob: a.Blob, next: a.First, last: a.Last, check: w.checking(a)})
			if a.Peer.ID == "h1" {
				w.t.Fatal("a request to itself")
			}
		case swarm.Origin:
			w.ask(a.ID, &asked{blob: a.Blob, next: a.First, last: a.Last, origin: true})
		case swarm.Cancel:
			if w.open[a.ID] == nil {
				w.t.Fatalf("cancel of request %d, which has ended", a.ID)
			}
			delete(w.open, a.ID)
		case swarm.Subscribe:
			k := string(a.Peer.ID) + string(a.Blob.Digest)
			if w.sub[k] {
				w.t.Fatalf("second subscription to %s", a.Peer.ID)
			}
			w.sub[k] = true
		case swarm.Unsubscribe:
			delete(w.sub, string(a.Peer)+string(a.Digest))
		case swarm.Store:
			k := key(w.byDigest(a.Digest), a.Piece)
			if !w.held[k] || w.have[k] {
				w.t.Fatalf("store of %s, which is held: %v, stored: %v", k, w.held[k], w.have[k])
			}
			delete(w.held, k)
			w.have[k] = true
		case swarm.Drop:
			k := key(w.byDigest(a.Digest), a.Piece)
			delete(w.held, k)
			delete(w.have, k)
		case swarm.Match:
			w.matching(a.Digest)
		case swarm.Data:
			w.have[key(a.Blob, 0)] = true
		}
	}
	w.bounded()
}

func (w *world) checking(r swarm.Request) bool {
	return r.First == r.Last && w.have[key(r.Blob, r.First)]
}

func (w *world) ask(id uint64, r *asked) {
	if w.open[id] != nil || r.next < 0 || r.last < r.next || r.last >= r.blob.Pieces() {
		w.t.Fatalf("request %d for pieces %d to %d", id, r.next, r.last)
	}
	w.open[id] = r
}

// sent checks that a stream begins with Announce, and nothing goes to one that
// is down.
func (w *world) sent(a swarm.Send) {
	if !w.ups[a.Scheduler] {
		w.t.Fatalf("%T to %s, which is down", a.Message, a.Scheduler)
	}
	if _, ok := a.Message.(p2p.Announce); ok == w.spoke[a.Scheduler] {
		w.t.Fatalf("%T to %s, which has the announcement: %v", a.Message, a.Scheduler, w.spoke[a.Scheduler])
	}
	w.spoke[a.Scheduler] = true
}

func (w *world) matching(d digest.Digest) {
	b := w.byDigest(d)
	for i := range b.Pieces() {
		if !w.held[key(b, i)] && !w.have[key(b, i)] {
			w.t.Fatalf("asked for the hash of %d pieces without piece %d", b.Pieces(), i)
		}
	}
	w.match[d] = true
}

// bounded checks what is under way: not too much, and no piece more than twice
// of peers.
func (w *world) bounded() {
	times := map[string]int{}
	var bytes int64
	for _, r := range w.open {
		for i := r.next; i <= r.last && !r.check; i++ {
			_, n := r.blob.Piece(i)
			if !r.origin {
				bytes += n
			}
			times[key(r.blob, i)]++
		}
	}
	for k, n := range times {
		if n > 3 {
			w.t.Fatalf("piece %s is asked for %d times", k, n)
		}
	}
	// Needed pieces and late ones may exceed it, each by a bounded number of
	// requests.
	if bytes > inFlight+5*4*4<<20 {
		w.t.Fatalf("%d bytes are under way", bytes)
	}
}
