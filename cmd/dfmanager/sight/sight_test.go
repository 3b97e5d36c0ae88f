package sight_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
)

// scheduler shows what it is told to, by path.
func scheduler(t *testing.T, shows map[string]string) (name string, port int, asked *atomic.Int64) {
	t.Helper()
	asked = &atomic.Int64{}
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		text, ok := shows[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(ts.Close)
	return ts.Listener.Addr().String(), ts.Listener.Addr().(*net.TCPAddr).Port, asked
}

func TestGather(t *testing.T) {
	t.Parallel()
	name, port, asked := scheduler(t, map[string]string{"/debug.json": `{"Counts":{"Hosts":3},
		"Hosts":[{"ID":"a","Children":1},{"ID":"b","Children":5},{"ID":"s","Seed":true}],
		"Swarms":[{"Blob":{"Digest":"x","Size":1},"State":"held","Wanting":9},{"Blob":{"Digest":"y"},"State":"stuck"}],
		"Bans":[{"Host":"b","Reason":"wrong"}]}`})
	s := sight.New(port)
	blind := "127.0.0.2:8002"
	var c sight.Cluster
	for range 3 {
		c = s.Gather(t.Context(), []string{name, blind})
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
	if c.Seeds != 1 || len(c.Bans) != 1 || len(c.Blind) != 1 || c.Blind[0] != s.URL(blind) || c.Schedulers[blind] != nil || c.Schedulers[name].Counts.Hosts != 3 {
		t.Errorf("%+v", c)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("who looks thrice asks %d times", n)
	}
}

func TestBlob(t *testing.T) {
	t.Parallel()
	want := sight.Blob{Pieces: 3, Hosts: []sight.Holder{{ID: "a", Have: 2, Runs: [][2]int{{0, 1}}, Parents: []string{""}}}}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	name, port, _ := scheduler(t, map[string]string{"/debug/blobs/sha256:x": string(text), "/debug/blobs/sha256:broken": "{"})
	s := sight.New(port)
	got, found, err := s.Blob(t.Context(), []string{name, "127.0.0.2:1"}, "sha256:x")
	if diff := cmp.Diff(want, got); diff != "" || !found || err != nil {
		t.Errorf("%v, %v %s", found, err, diff)
	}
	if _, found, err := s.Blob(t.Context(), []string{name}, "sha256:none"); found || err != nil {
		t.Errorf("a blob that nobody has: %v, %v", found, err)
	}
	for digest, names := range map[string][]string{"sha256:none": {name, "127.0.0.2:1"}, "sha256:broken": {name}} {
		if _, found, err := s.Blob(t.Context(), names, digest); found || !errors.Is(err, sight.ErrUnseen) {
			t.Errorf("%s of %v: %v, %v", digest, names, found, err)
		}
	}
}
