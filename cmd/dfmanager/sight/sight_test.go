package sight_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight/sighttest"
)

const one, two = "192.0.2.1:8002", "192.0.2.2:8002"

func TestGather(t *testing.T) {
	t.Parallel()
	all := sighttest.New(map[digest.Digest]string{"": `{"Counts":{"Hosts":3},
		"Hosts":[{"ID":"a","Children":1},{"ID":"b","Children":5},{"ID":"s","Seed":true}],
		"Swarms":[{"Blob":{"Digest":"x","Size":1},"State":"held","Wanting":9},{"Blob":{"Digest":"y"},"State":"stuck"}],
		"Bans":[{"Host":"b","Reason":"wrong"}]}`})
	all.Away(two)
	s := sight.New(all)
	var c sight.Cluster
	for range 3 {
		c = s.Gather(t.Context(), 1, []string{one, two})
	}
	var order []string
	for _, h := range c.Hosts {
		order = append(order, h.ID)
	}
	for _, w := range c.Swarms {
		order = append(order, w.Blob.Digest)
	}
	if diff := cmp.Diff("s b a y x", strings.Join(order, " ")); diff != "" {
		t.Error(diff)
	}
	if c.Seeds != 1 || len(c.Bans) != 1 || c.Schedulers[two] != nil || c.Schedulers[one].Counts.Hosts != 3 {
		t.Errorf("%+v", c)
	}
	if diff := cmp.Diff([]sight.Blind{{Scheduler: two, Why: "connection refused"}}, c.Blind); diff != "" {
		t.Error(diff)
	}
	if n := all.Asked(); n != 2 {
		t.Errorf("who looks thrice asks two schedulers %d times", n)
	}
	if s.Gather(t.Context(), 2, []string{one}); all.Asked() != 3 {
		t.Errorf("another cluster's scheduler with that address was not asked")
	}
}

func TestBlob(t *testing.T) {
	t.Parallel()
	want := sight.Blob{Pieces: 3, Hosts: []sight.Holder{{ID: "a", Have: 2, Runs: [][2]int{{0, 1}}, Parents: []string{""}}}}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	all := sighttest.New(map[digest.Digest]string{"sha256:x": string(text), "sha256:broken": "{"})
	all.Away(two)
	s := sight.New(all)
	got, found, err := s.Blob(t.Context(), 1, []string{one, two}, "sha256:x")
	if diff := cmp.Diff(want, got); diff != "" || !found || err != nil {
		t.Errorf("%v, %v %s", found, err, diff)
	}
	if _, found, err := s.Blob(t.Context(), 1, []string{one}, "sha256:none"); found || err != nil {
		t.Errorf("a blob that nobody has: %v, %v", found, err)
	}
	for d, names := range map[digest.Digest][]string{"sha256:none": {one, two}, "sha256:broken": {one}} {
		if _, found, err := s.Blob(t.Context(), 1, names, d); found || !errors.Is(err, sight.ErrUnseen) {
			t.Errorf("%s of %v: %v, %v", d, names, found, err)
		}
	}
}
