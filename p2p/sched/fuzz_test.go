package sched

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A driver turns bytes into messages of a few hosts about a few blobs, sensible
// and senseless ones.
type driver struct {
	s    *State
	now  time.Time
	in   []byte
	sent int
}

func (d *driver) byte() int {
	if len(d.in) == 0 {
		return 0
	}
	b := d.in[0]
	d.in = d.in[1:]
	return int(b)
}

var fuzzBlobs = func() (all []p2p.Blob) {
	for _, size := range []int64{0, 4, 700 << 10, 5 << 20, 20 << 20, 94 << 20, 3 << 30} {
		all = append(all, p2p.Blob{Digest: digest.FromString(fmt.Sprint(size)), Size: size})
	}
	return all
}()

func (d *driver) blob() p2p.Blob { return fuzzBlobs[d.byte()%len(fuzzBlobs)] }

func (d *driver) id() p2p.HostID { return p2p.HostID(fmt.Sprintf("h%d", d.byte()%20)) }

// piece is one of the blob, sometimes one beside it.
func (d *driver) piece(b p2p.Blob) int { return d.byte()*5%(b.Pieces()+2) - 1 }

func (d *driver) pieces(b p2p.Blob) (all []int) {
	first, n := d.piece(b), d.byte()
	for i := first; i < first+n%64; i++ {
		all = append(all, i)
	}
	if n > 250 && len(all) > 0 {
		return all // up to the end and over it
	}
	for len(all) > 0 && (all[0] < 0 || all[len(all)-1] >= b.Pieces()) {
		if all[0] < 0 {
			all = all[1:]
		} else {
			all = all[:len(all)-1]
		}
	}
	return all
}

func (d *driver) announce(id p2p.HostID) p2p.Message {
	m := p2p.Announce{Host: p2p.Host{ID: id, Addr: "a:1", Share: true, Seed: id == "h0" || id == "h1"}}
	bits := d.byte()
	m.Host.Share = bits&7 > 0
	m.Host.IDC = []string{"", "fra", "ams", "lhr"}[bits>>3&3]
	m.Host.Slots = bits >> 5
	for range d.byte() % 4 {
		m.Inventory = append(m.Inventory, d.inventory())
	}
	return m
}

func (d *driver) inventory() p2p.Inventory {
	i := p2p.Inventory{Blob: d.blob()}
	i.Have = p2p.NewHave(i.Blob.Pieces())
	bits := d.byte()
	if i.Verified = bits&1 > 0; bits&2 > 0 {
		i.Have = p2p.FullHave(i.Blob.Pieces())
	}
	for _, n := range d.pieces(i.Blob) {
		if n >= 0 && n < i.Have.Len() {
			i.Have.Add(n)
		}
	}
	return i
}

func (d *driver) message(kind int, id p2p.HostID) p2p.Message {
	b := d.blob()
	switch kind {
	case 0:
		return d.announce(id)
	case 1, 2, 3:
		o := p2p.Origin{Registry: "hub", Repository: fmt.Sprint(d.byte() % 10)}
		return p2p.Want{Blob: b, Lazy: d.byte()&3 == 0, Origin: o}
	case 4:
		return p2p.Unwant{Digest: b.Digest}
	case 5, 6, 7:
		m := p2p.Progress{Digest: b.Digest, Got: d.pieces(b)}
		for range d.byte() % 4 {
			t := p2p.Transfer{Parent: d.id(), Bytes: int64(d.byte()) << 16, Took: time.Duration(d.byte()*d.byte()) * time.Millisecond}
			if x := d.byte(); x < 60 {
				t.Failed = p2p.Failure(x % 7)
			} else if x < 80 {
				t.Parent = ""
			}
			m.From = append(m.From, t)
		}
		return m
	case 8:
		return p2p.Wrong{Digest: b.Digest, Piece: d.piece(b), Parent: d.id()}
	case 9:
		return p2p.Checked{Digest: b.Digest, Piece: d.piece(b), Parent: d.id(), Failed: p2p.Failure(d.byte() % 7)}
	case 10:
		m := p2p.Digests{Digest: b.Digest, First: d.piece(b), Verified: d.byte()&3 == 0}
		for i := range d.byte() % 40 {
			m.Sums = append(m.Sums, sha256.Sum256([]byte{byte(m.First + i), byte(max(0, d.byte()-250))}))
		}
		return m
	case 11:
		return p2p.Verified{Digest: b.Digest}
	case 12:
		return p2p.Spoiled{Digest: b.Digest}
	case 13:
		return p2p.Content{Digest: b.Digest, Data: []byte(fmt.Sprint(b.Size))}
	case 14:
		return d.inventory()
	}
	return p2p.Gone{Host: id}
}

// answer is what a witness that was asked may say.
func (d *driver) answer(sends []Send) {
	for _, send := range slices.Clone(sends) { // they are valid until the next call
		d.sent++
		m, ok := send.Message.(p2p.Check)
		if x := d.byte(); ok && x&1 > 0 {
			reply := p2p.Checked{Digest: m.Digest, Piece: m.Piece, Parent: m.Parent.ID, Failed: p2p.Failure(x >> 1 % 7)}
			more, _ := d.s.Handle(d.now, send.To, reply)
			d.sent += len(more)
		}
	}
}

func (d *driver) step() {
	kind, id := d.byte(), d.id()
	switch kind %= 20; kind {
	case 16:
		d.answer(d.s.Disconnect(d.now, id))
	case 17, 18:
		d.now = d.now.Add(time.Duration(d.byte()*d.byte()) * 10 * time.Millisecond)
		d.answer(d.s.Tick(d.now))
	default:
		sends, _ := d.s.Handle(d.now, id, d.message(kind, id))
		d.answer(sends)
	}
}

// bounded checks that nothing has grown beyond what the hosts that are there can
// account for.
func bounded(s *State) error {
	if len(s.hosts) > 20 || len(s.standing) > 20 || len(s.trials) > 20*s.cfg.MaxTrial || s.peers > 20*len(fuzzBlobs) {
		return fmt.Errorf("%+v", s.Counts())
	}
	for _, st := range s.standing {
		if len(st.failing) > maxWitnesses || len(st.slowBy) > maxWitnesses || len(st.falses) > maxWitnesses {
			return fmt.Errorf("standing %+v", st)
		}
	}
	for _, w := range s.swarms {
		u := &w.sums
		if len(u.claims) > w.blob.Pieces() || len(u.rivals) > w.blob.Pieces() || len(u.fresh) > 2*w.blob.Pieces()+maxSums ||
			len(w.places) > maxOrigins || len(w.failed) > 20 || len(u.auditors) > maxWitnesses || len(u.old) > w.blob.Pieces() {
			return fmt.Errorf("swarm of %d bytes: %d claims, %d rivals, %d fresh", w.blob.Size, len(u.claims), len(u.rivals), len(u.fresh))
		}
	}
	return nil
}

// Whatever hosts say, nobody is above itself in a graph, fan-out, memory and
// answers are bounded, all counts are right, and nothing panics.
func FuzzState(f *testing.F) {
	f.Add([]byte("\x00\x00\x07\x00\x00\x02\x07\x00\x00\x03\x07\x00\x01\x02\x05\x00\x01\x01\x03\x05\x00\x01"))
	for seed := range byte(8) {
		in := make([]byte, 0, 4096)
		for sum := sha256.Sum256([]byte{seed}); len(in) < 4000; sum = sha256.Sum256(sum[:]) {
			in = append(in, sum[:]...)
		}
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 1<<14 {
			return
		}
		d := &driver{s: New(Config{MaxTrial: 2}), now: time.Unix(0, 0), in: in}
		for id := range 20 { // most of what follows needs hosts
			id := p2p.HostID(fmt.Sprintf("h%d", id))
			d.answer(first(d.s.Handle(d.now, id, d.announce(id))))
		}
		for len(d.in) > 0 {
			d.step()
			if err := invariants(d.s); err != nil {
				t.Fatal(err)
			}
			if err := bounded(d.s); err != nil {
				t.Fatal(err)
			}
		}
		if d.sent > 400*(len(in)+20) {
			t.Errorf("%d messages out of %d bytes", d.sent, len(in))
		}
		for id := range 20 {
			d.s.Disconnect(d.now, p2p.HostID(fmt.Sprintf("h%d", id)))
			check(t, d.s)
		}
		for next := d.now; !next.IsZero() && !next.After(d.now); next = d.s.Next() {
			d.s.Tick(d.now) // what calls have left
			check(t, d.s)
		}
		d.s.Tick(d.now.Add(1000 * time.Hour))
		if got := d.s.Counts(); got != (Counts{}) || !d.s.Next().IsZero() {
			t.Errorf("all have left, and there is %+v, next tick at %v", got, d.s.Next())
		}
	})
}

func first[A, B any](a A, _ B) A { return a }
