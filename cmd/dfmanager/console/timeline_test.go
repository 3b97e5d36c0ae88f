package console

import (
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
)

func TestTimeLine(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	var trace sight.Trace
	for second := 0; second <= 10; second += 2 {
		b := sight.Blob{Pieces: 4, Hosts: []sight.Holder{{ID: "node-1", Wants: second < 10, Have: map[bool]int{false: 1, true: 4}[second == 10], Parents: []string{"", "seed-0"}}}}
		trace.Note(began.Add(time.Duration(second)*time.Second), b)
		if second == 0 {
			if l := lineUp(trace, 4); len(l.Rows) != 0 {
				t.Errorf("at once it shows %+v", l)
			}
		}
	}
	l := lineUp(trace, 4)
	if len(l.Rows) != 1 || l.Left != "03:04:00" || l.Right != "03:04:10" {
		t.Fatalf("%+v", l)
	}
	r := l.Rows[0]
	if len(r.Parts) != 2 || r.Parts[0].Class != "a" || r.Parts[0].X != 0 || r.Parts[0].Width != 600 || r.Parts[1].Class != "c" || r.Parts[1].X != 600 || r.Parts[1].Width != 400 {
		t.Errorf("%+v", r.Parts)
	}
	if got := strings.Join(r.Waited, "; "); got != "4.0 s for the origin, seed-0" {
		t.Errorf("it waited %s", got)
	}
	if !strings.Contains(r.About, "03:04:06 to 03:04:10: waits for the origin, seed-0, 1 of 4 pieces") {
		t.Errorf("it is said to be %q", r.About)
	}
}
