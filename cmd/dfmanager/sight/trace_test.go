package sight_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight/sighttest"
)

// A seed fetches, then hangs; a host has nobody to take from at first, takes from
// the seed, and waits for it when that gets no more.
func TestTrace(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	var trace sight.Trace
	for _, k := range []struct {
		second, seed, host int
		parents            []string
	}{{0, 0, 0, nil}, {2, 1, 0, nil}, {4, 2, 0, []string{"seed"}}, {6, 2, 2, []string{"seed"}}, {8, 2, 2, []string{"seed"}}, {10, 2, 2, []string{"seed"}}, {12, 2, 2, []string{"seed"}}, {14, 4, 4, nil}, {16, 4, 4, nil}, {18, 4, 4, nil}} {
		trace.Note(at(k.second), sight.Blob{Swarm: sight.Swarm{Owner: "seed", Wanting: 2}, Pieces: 4, Hosts: []sight.Holder{
			{ID: "manager", Addr: "192.0.2.1:9", Wants: true, Parents: []string{"seed"}},
			{ID: "seed", Addr: "192.0.2.2:65002", Seed: true, Have: k.seed},
			{ID: "host", Wants: k.host < 4, Have: k.host, Parents: k.parents},
		}})
	}
	want := map[string][]sight.Span{
		"seed": {{at(0), at(10), sight.Takes, []string{""}, 2}, {at(10), at(14), sight.Waits, []string{""}, 2}, {at(14), at(18), sight.Has, nil, 4}},
		"host": {{at(0), at(4), sight.Waits, nil, 0}, {at(4), at(12), sight.Takes, []string{"seed"}, 2}, {at(12), at(14), sight.Waits, []string{"seed"}, 2}, {at(14), at(18), sight.Has, nil, 4}},
	}
	got := map[string][]sight.Span{}
	for _, l := range trace.Lines {
		got[l.Host] = l.Spans
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !trace.From.Equal(at(0)) || !trace.To.Equal(at(14)) { // nobody has wanted it since
		t.Errorf("from %v to %v", trace.From, trace.To)
	}
	trace.Note(at(100), sight.Blob{Pieces: 4, Hosts: []sight.Holder{{ID: "other", Have: 4}}})
	if len(trace.Lines) != 1 || !trace.From.Equal(at(100)) {
		t.Errorf("nobody looked for a while, and it still shows %+v", trace)
	}
}

// Whoever looks at a blob has it traced, and no more blobs are than fit.
func TestTraces(t *testing.T) {
	t.Parallel()
	sees := map[digest.Digest]string{}
	for i := range 100 {
		sees[digest.FromString(string(rune('a'+i)))] = `{"Pieces":2,"Hosts":[{"ID":"a","Wants":true,"Have":1,"Parents":["b"]}]}`
	}
	s := sight.New(sighttest.New(sees))
	traced := func() (n int) {
		for d := range sees {
			if lines := s.Trace(1, d).Lines; len(lines) == 1 && lines[0].Host == "a" && len(lines[0].Spans) == 1 {
				n++
			}
			if len(s.Trace(2, d).Lines) > 0 {
				t.Error("another cluster's blob is traced")
			}
		}
		return n
	}
	if traced() != 0 {
		t.Error("what nobody looked at is traced")
	}
	for d := range sees {
		if _, found, err := s.Blob(t.Context(), 1, []string{one}, d); !found || err != nil {
			t.Fatal(found, err)
		}
	}
	if n := traced(); n != 64 {
		t.Errorf("%d blobs of 100 are traced, want 64", n)
	}
}
