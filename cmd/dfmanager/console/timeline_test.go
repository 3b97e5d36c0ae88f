package console

import (
	"fmt"
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
	if r.Parts[1].Title != "03:04:06 to 03:04:10: waits for the origin, seed-0, 1 of 4 pieces" {
		t.Errorf("it waits as %q", r.Parts[1].Title)
	}
	if r.About != "took pieces for 6.0 s, waited for 4.0 s; has 4 of 4" {
		t.Errorf("it is said to be %q", r.About)
	}
}

// However many hosts there are, and however often what they do changes, a time line
// stays small: each who looks is sent all of it every second.
func TestTimeLineIsBounded(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	name := func(i int) string { return fmt.Sprintf("%0253d", i) }
	var trace sight.Trace
	for second := range 40 {
		b := sight.Blob{Pieces: 400}
		for host := range 60 {
			h := sight.Holder{ID: name(host), Wants: true, Have: second}
			for p := range 8 {
				h.Parents = append(h.Parents, name(second+p))
			}
			b.Hosts = append(b.Hosts, h)
		}
		trace.Note(began.Add(time.Duration(second)*time.Second), b)
	}
	l := lineUp(trace, 400)
	html, err := execute(frame{Page: "blob", Body: blobDetail{Found: true, Time: l}}, "live")
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Rows) != 50 || len(l.Rows[0].Parts) != 19 || len(html) < 50*19*3*253 || len(html) > 1<<20 { // the last has just begun
		t.Fatalf("%d hosts, %d parts, %d bytes", len(l.Rows), len(l.Rows[0].Parts), len(html))
	}
	if p := l.Rows[49].Parts[18]; !strings.HasSuffix(p.Title, fmt.Sprintf("%s, 5 more, 38 of 400 pieces", name(40))) {
		t.Errorf("the last part is %s", p.Title)
	}
}
