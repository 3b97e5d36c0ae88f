package sight

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// The ways in which a host may be about a blob.
const (
	Waits = "waits" // for who has what it lacks, or for somebody who has: no piece came for some time
	Takes = "takes" // pieces came
	Has   = "has"   // all of it
	Keeps = "keeps" // some of it, and wants no more
)

// Span is a time during which a host did the same.
type Span struct {
	From, To time.Time
	Does     string
	Whom     []string // it takes from, or waits for; "": the origin
	Have     int      // pieces, at the end
}

// Line is what a host did, the oldest first.
type Line struct {
	Host  string
	Spans []Span
	Have  int
	moved time.Time // when a piece came
}

// Trace is what the hosts of a swarm did about its blob, as far as somebody looked. A
// zero Trace has seen nothing.
type Trace struct {
	From, To time.Time
	Lines    []Line // in the order in which they came

	seen time.Time // last
}

const (
	blindFor  = 15 * time.Second // after which what happened before does not count any more
	idleFor   = 4 * time.Second  // without a piece who takes waits: some take longer than it takes to look again
	maxLines  = 50
	maxSpans  = 20
	maxTraces = 64
)

// Note adds what is seen now.
func (t *Trace) Note(now time.Time, b Blob) {
	if now.Sub(t.seen) > blindFor {
		*t = Trace{From: now}
	}
	t.seen = now
	for _, h := range b.Hosts {
		if orders(h) {
			continue
		}
		if h.ID == b.Owner && b.Wanting > 0 && h.Have < b.Pieces { // a seed does not want what it fetches
			h.Wants, h.Parents = true, []string{""}
		}
		i := slices.IndexFunc(t.Lines, func(l Line) bool { return l.Host == h.ID })
		if i < 0 {
			if len(t.Lines) == maxLines {
				continue
			}
			i = len(t.Lines)
			t.Lines = append(t.Lines, Line{Host: h.ID, Have: h.Have, moved: now})
		}
		if t.Lines[i].note(now, h, b.Pieces) || h.Wants {
			t.To = now
		}
	}
}

// orders reports whether a host is a manager: it has the blob fetched, and takes
// nothing. Such a host announces the port on which nobody answers.
func orders(h Holder) bool { return !h.Share && strings.HasSuffix(h.Addr, ":9") }

// note adds what a host does now, and reports whether that is another thing than
// before.
func (l *Line) note(now time.Time, h Holder, pieces int) (news bool) {
	if h.Have > l.Have || h.Wants && l.rests() {
		l.moved = now
	}
	l.Have = h.Have
	s := Span{From: now, To: now, Does: Keeps, Have: h.Have}
	switch {
	case h.Have == pieces:
		s.Does = Has
	case h.Wants:
		s.Does, s.Whom = Takes, h.Parents
		if len(h.Parents) == 0 || now.Sub(l.moved) > idleFor {
			s.Does = Waits
		}
	}
	if n := len(l.Spans); n > 0 {
		last := &l.Spans[n-1]
		last.To = now
		if last.Does == s.Does && slices.Equal(last.Whom, s.Whom) {
			last.Have = s.Have
			return false
		}
		if n == maxSpans {
			l.Spans = slices.Delete(l.Spans, 0, 1)
		}
	}
	l.Spans = append(l.Spans, s)
	return true
}

// rests reports whether a host wanted nothing, when last seen.
func (l *Line) rests() bool {
	n := len(l.Spans)
	return n > 0 && (l.Spans[n-1].Does == Has || l.Spans[n-1].Does == Keeps)
}

// Watch is Blob for who looks at a blob again and again: Trace then returns what its
// hosts did meanwhile.
func (s *Sight) Watch(ctx context.Context, cluster int64, schedulers []string, d digest.Digest) (b Blob, found bool, err error) {
	b, at, found, err := s.blob(ctx, cluster, schedulers, d)
	if found {
		s.trace(cluster, d, at, b)
	}
	return b, found, err
}

// Trace returns what hosts did about a blob that somebody watches.
func (s *Sight) Trace(cluster int64, d digest.Digest) Trace {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.traces[question{cluster: cluster, digest: d}]; t != nil {
		return t.clone()
	}
	return Trace{}
}

// trace notes what was seen of a blob at a time, if that is news. Of many blobs the one
// that nobody has looked at for longest is forgotten, and each some time after that.
func (s *Sight) trace(cluster int64, d digest.Digest, at time.Time, b Blob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := question{cluster: cluster, digest: d}
	t := s.traces[q]
	if t == nil {
		t = &Trace{}
		s.traces[q] = t
	}
	if at.After(t.seen) {
		t.Note(at, b)
	}
	if s.sweep == nil {
		s.sweep = time.AfterFunc(forget, s.forgetTraces)
	}
	if len(s.traces) <= maxTraces {
		return
	}
	oldest := q
	for k, t := range s.traces {
		if t.seen.Before(s.traces[oldest].seen) {
			oldest = k
		}
	}
	delete(s.traces, oldest)
}

// forgetTraces forgets those that nobody has looked at for long, and does so again
// while there are others.
func (s *Sight) forgetTraces() {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.traces, func(_ question, t *Trace) bool { return time.Since(t.seen) >= forget })
	s.sweep = nil
	if len(s.traces) > 0 {
		s.sweep = time.AfterFunc(forget, s.forgetTraces)
	}
}

// clone is a copy that nobody changes.
func (t *Trace) clone() Trace {
	c := *t
	c.Lines = slices.Clone(t.Lines)
	for i := range c.Lines {
		c.Lines[i].Spans = slices.Clone(c.Lines[i].Spans)
	}
	return c
}
