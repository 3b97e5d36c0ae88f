package sight_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight/sighttest"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
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

// A host that wants again what it had given up takes from then on, and does not wait
// for the piece that came long ago.
func TestTraceOfWhoWantsAgain(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	for rest, have := range map[string]int{sight.Keeps: 1, sight.Has: 4} {
		var trace sight.Trace
		for second := 0; second <= 20; second += 2 {
			h := sight.Holder{ID: "host", Have: have}
			if second >= 10 {
				h.Have, h.Wants, h.Parents = 1, true, []string{"seed"}
			}
			trace.Note(began.Add(time.Duration(second)*time.Second), sight.Blob{Pieces: 4, Hosts: []sight.Holder{h}})
		}
		var got []string
		for _, s := range trace.Lines[0].Spans {
			got = append(got, s.Does+" "+s.From.Sub(began).String())
		}
		if diff := cmp.Diff([]string{rest + " 0s", "takes 10s", "waits 16s"}, got); diff != "" {
			t.Error(diff)
		}
	}
}

// Whoever watches a blob has it traced, for a minute, and no more blobs are than fit.
func TestTraces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sees := map[digest.Digest]string{}
		var blobs []p2p.Blob
		for i := range 100 {
			d := digest.FromString(string(rune('a' + i)))
			sees[d], blobs = `{"Pieces":2,"Hosts":[{"ID":"a","Wants":true,"Have":1,"Parents":["b"]}]}`, append(blobs, p2p.Blob{Digest: d, Size: 2})
		}
		s := sight.New(sighttest.New(sees))
		traced := func(want int) {
			t.Helper()
			n := 0
			for _, b := range blobs {
				if lines := s.Trace(1, b.Digest).Lines; len(lines) == 1 && lines[0].Host == "a" {
					n++
				}
				if len(s.Trace(2, b.Digest).Lines) > 0 {
					t.Error("another cluster's blob is traced")
				}
			}
			if n != want {
				t.Errorf("%d blobs are traced, want %d", n, want)
			}
		}
		watch := func(blobs ...p2p.Blob) {
			t.Helper()
			for _, b := range blobs {
				if _, found, err := s.Watch(t.Context(), 1, []string{one}, b.Digest); !found || err != nil {
					t.Fatal(found, err)
				}
			}
		}
		watch(blobs[0])
		traced(1)
		if f, err := s.Find(t.Context(), 1, []string{one}, blobs); err != nil || len(f.Hosts) != 1 {
			t.Fatal(f, err)
		}
		if _, found, err := s.Blob(t.Context(), 1, []string{one}, blobs[1].Digest); !found || err != nil {
			t.Fatal(found, err)
		}
		traced(1) // who only asks where blobs are watches none
		watch(blobs...)
		traced(64)
		time.Sleep(59 * time.Second)
		watch(blobs[0])
		time.Sleep(2 * time.Second)
		traced(1)
		time.Sleep(time.Minute)
		traced(0)
	})
}
