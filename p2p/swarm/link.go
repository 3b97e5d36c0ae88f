package swarm

import (
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const homeAfter = 30 * time.Second // that a scheduler has been back

// A link is the stream to a scheduler.
type link struct {
	name string
	up   bool
	at   time.Time // when it came up
}

// homes returns the links in the order in which they are responsible for a
// blob.
func (h *Host) homes(d digest.Digest) []*link {
	names := make([]string, len(h.links))
	byName := make(map[string]*link, len(h.links))
	for i, l := range h.links {
		names[i], byName[l.name] = l.name, l
	}
	homes := make([]*link, 0, len(names))
	for _, n := range p2p.Rendezvous(string(d), names) {
		homes = append(homes, byName[n])
	}
	return homes
}

func (h *Host) link(name string) *link {
	for _, l := range h.links {
		if l.name == name {
			return l
		}
	}
	return nil
}

// SchedulerUp says that the stream to a scheduler stands and carries nothing
// yet.
func (h *Host) SchedulerUp(now time.Time, name string) []Action {
	h.begin(now)
	l := h.link(name)
	if l == nil || l.up {
		return h.end()
	}
	l.up, l.at = true, now
	a := p2p.Announce{Host: h.cfg.Self}
	for _, b := range h.order {
		if b.count > 0 {
			a.Inventory = append(a.Inventory, b.inventory())
			b.told = append(b.told, l)
		}
	}
	h.do(Send{name, a})
	for _, b := range h.order {
		if b.link == nil {
			h.adopt(b, l)
		}
	}
	h.wake(now.Add(homeAfter))
	return h.end()
}

// SchedulerDown says that the stream to a scheduler broke.
func (h *Host) SchedulerDown(now time.Time, name string) []Action {
	h.begin(now)
	l := h.link(name)
	if l == nil || !l.up {
		return h.end()
	}
	h.down(l)
	return h.end()
}

// SetSchedulers says which schedulers there are from now on. Blobs of one that
// is not among them go to the others; what new ones are responsible for goes to
// them when they have been there for a while.
func (h *Host) SetSchedulers(now time.Time, names []string) []Action {
	h.begin(now)
	var links []*link
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		l := h.link(name)
		if l == nil {
			l = &link{name: name}
		}
		links = append(links, l)
	}
	gone := slices.DeleteFunc(h.links, func(l *link) bool { return slices.Contains(links, l) })
	h.links = links
	for _, b := range h.order {
		b.homes = h.homes(b.Digest)
	}
	for _, l := range gone {
		if l.up {
			h.down(l)
		}
	}
	h.wake(now.Add(beat))
	return h.end()
}

// down gives the blobs of a scheduler that is gone to others.
func (h *Host) down(l *link) {
	l.up = false
	for _, b := range h.order {
		b.told = without(b.told, l)
		if b.link == l {
			b.link = nil
			b.source.answered = false
			if h.attach(b); b.link == nil {
				h.abandoned(b)
			}
		}
	}
	h.wake(h.now.Add(beat))
}

// abandoned goes on with a blob of which nobody can be asked any more.
func (h *Host) abandoned(b *blob) {
	b.source.left = h.now
	for _, i := range slices.Sorted(maps.Keys(b.arrived)) {
		if b.held.has(i) {
			h.loosen(b, i)
		}
	}
	h.complete(b)
}

// attach gives a blob to the first scheduler that can be reached.
func (h *Host) attach(b *blob) {
	for _, l := range b.homes {
		if l.up {
			h.tellInventory(b, l)
			h.adopt(b, l)
			return
		}
	}
}

func (h *Host) tellInventory(b *blob, l *link) {
	if b.count > 0 {
		b.tell(l)
		h.do(Send{l.name, b.inventory()})
	}
}

func (b *blob) tell(l *link) {
	if !slices.Contains(b.told, l) {
		b.told = append(b.told, l)
	}
}

func without(links []*link, l *link) []*link {
	return slices.DeleteFunc(links, func(o *link) bool { return o == l })
}

// adopt makes a scheduler that knows what the host has responsible for a blob.
func (h *Host) adopt(b *blob, l *link) {
	b.link = l
	b.source.answered, b.source.since = false, h.now
	b.notes = notes{verified: b.notes.verified}
	h.sayWant(b)
	h.sendSums(b, slices.Collect(b.mine.all()))
}

func (h *Host) sayWant(b *blob) {
	if b.wanted && b.count < b.n && b.link != nil {
		b.tell(b.link)
		h.do(Send{b.link.name, p2p.Want{Blob: b.Blob, Origin: b.origin, Lazy: b.lazy, Priority: b.priority}})
	}
}

// goHome moves blobs to schedulers that are more responsible for them than the
// present ones and have been back for long enough.
func (h *Host) goHome() {
	for _, b := range h.order {
		for _, l := range b.homes {
			if l == b.link {
				break
			}
			if !l.up {
				continue
			}
			if back := l.at.Add(homeAfter); h.now.Before(back) {
				h.wake(back)
				continue
			}
			if b.link != nil {
				h.do(Send{b.link.name, p2p.Unwant{Digest: b.Digest}})
				b.told = without(b.told, b.link)
			}
			h.tellInventory(b, l)
			h.adopt(b, l)
			break
		}
	}
}

// FromScheduler takes a message of a scheduler. What concerns a swarm counts
// only from the one responsible for it.
func (h *Host) FromScheduler(now time.Time, name string, m p2p.Message) []Action {
	h.begin(now)
	l := h.link(name)
	if l == nil || !l.up {
		return h.end()
	}
	switch m := m.(type) {
	case p2p.Fetch:
		if m.Blob.Validate() == nil && m.Blob.Scope() != p2p.Empty {
			b := h.blob(m.Blob)
			if !b.wanted {
				b.link = l
			}
			b.tell(l)
			h.fetch(m)
		}
	case p2p.Gone:
		h.expel(m.Host)
	case p2p.Check:
		if b := h.find(m.Digest); b != nil {
			h.check(b, m)
		}
	default:
		d := about(m)
		if b := h.find(d); b != nil && b.link == l {
			h.told(b, m)
		}
	}
	return h.end()
}

func about(m p2p.Message) digest.Digest {
	switch m := m.(type) {
	case p2p.Parents:
		return m.Digest
	case p2p.Digests:
		return m.Digest
	case p2p.Lease:
		return m.Digest
	case p2p.Source:
		return m.Digest
	case p2p.Content:
		return m.Digest
	case p2p.Renew:
		return m.Digest
	case p2p.Ask:
		return m.Digest
	case p2p.Audit:
		return m.Digest
	}
	return ""
}

// told takes what the responsible scheduler says of a swarm.
func (h *Host) told(b *blob, m p2p.Message) {
	switch m := m.(type) {
	case p2p.Parents:
		h.setParents(b, m.Stripes)
		if len(b.parents) > 0 {
			b.source.answered = true
		}
		h.fill(b)
		h.wake(h.now.Add(beat))
	case p2p.Digests:
		h.learnSums(b, m)
	case p2p.Lease:
		b.source.answered = true
		h.leaseOf(b, m)
	case p2p.Source:
		b.source.answered, b.source.allowed = true, m.Allowed
		h.patience(b)
		h.fill(b)
	case p2p.Content:
		h.content(b, m.Data)
	case p2p.Renew:
		h.do(Renew{b.Digest})
	case p2p.Ask:
		h.sayKnown(b)
	case p2p.Audit:
		h.audit(b, m)
	}
}
