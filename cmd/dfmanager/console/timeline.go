package console

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
)

// timeLine shows what hosts did about a blob, and what they waited for.
type timeLine struct {
	Rows        []timeRow
	Left, Right string // the ends of its axis
	Took        time.Duration
}

// timeRow is a host's line in it.
type timeRow struct {
	Host   string
	Parts  []timePart
	Waited []string // for whom, and for how long
	About  string   // for who cannot see it: how long it did what
}

// timePart is a part of a line, in thousandths of its length.
type timePart struct {
	Class    string // a, b, c or k
	X, Width float64
	Title    string
}

const (
	timeWidth = 1000
	maxWhom   = 3 // are named
)

var timeClasses = map[string]string{sight.Takes: "a", sight.Has: "b", sight.Waits: "c", sight.Keeps: "k"}

// lineUp draws what was seen; nothing if nothing moved.
func lineUp(t sight.Trace, pieces int) (l timeLine) {
	l.Took = t.To.Sub(t.From)
	if l.Took < time.Second {
		return timeLine{}
	}
	l.Left, l.Right = seconds(t.From), seconds(t.To)
	for _, h := range t.Lines {
		r := timeRow{Host: h.Host}
		waited, did := map[string]time.Duration{}, map[string]time.Duration{}
		for _, s := range h.Spans {
			to := s.To
			if to.After(t.To) {
				to = t.To
			}
			span := to.Sub(s.From)
			if span <= 0 {
				continue
			}
			did[s.Does] += span
			if s.Does == sight.Waits {
				waited[whom(s.Whom)] += span
			}
			title := fmt.Sprintf("%s to %s: %s, %d of %d pieces", seconds(s.From), seconds(to), does(s), s.Have, pieces)
			r.Parts = append(r.Parts, timePart{timeClasses[s.Does], l.at(t, s.From), l.at(t, to) - l.at(t, s.From), title})
		}
		for _, who := range slices.Sorted(maps.Keys(waited)) {
			r.Waited = append(r.Waited, took(waited[who])+" for "+who)
		}
		r.About = fmt.Sprintf("took pieces for %s, waited for %s; has %d of %d", took(did[sight.Takes]), took(did[sight.Waits]), h.Have, pieces)
		l.Rows = append(l.Rows, r)
	}
	return l
}

// at is where a time stands.
func (l timeLine) at(t sight.Trace, when time.Time) float64 {
	return timeWidth * float64(when.Sub(t.From)) / float64(l.Took)
}

func seconds(t time.Time) string { return t.UTC().Format("15:04:05") }

// does says what a host does.
func does(s sight.Span) string {
	switch s.Does {
	case sight.Takes:
		return "takes from " + whom(s.Whom)
	case sight.Waits:
		return "waits for " + whom(s.Whom)
	case sight.Has:
		return "has all"
	}
	return "wants no more"
}

// whom names those from whom a host takes.
func whom(all []string) string {
	if len(all) == 0 {
		return "somebody who has it"
	}
	names := make([]string, min(len(all), maxWhom))
	for i := range names {
		names[i] = cmp.Or(all[i], "the origin")
	}
	if more := len(all) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}
