package web_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

// scheduler is one of the first cluster that is alive, and shows what e.seen says.
func (e *env) scheduler() store.Node {
	e.t.Helper()
	k, _, err := cluster.NewToken(bg, e.db, store.By{}, store.JoinToken{Cluster: 1, Role: "scheduler", Expires: time.Now().Add(time.Hour)})
	if err != nil {
		e.t.Fatal(err)
	}
	n, err := e.db.Join(bg, store.By{}, k, store.Node{Cluster: 1, Name: "s", Role: "scheduler", Key: "k", Until: time.Now().Add(time.Hour)})
	if err == nil {
		_, err = e.db.KeepManager(bg, "m", time.Hour)
	}
	if err == nil {
		n.Address = "127.0.0.1:8002"
		err = e.db.SetPresence(bg, "m", []store.Presence{{Node: n, Stream: 1, Present: true}})
	}
	if err != nil {
		e.t.Fatal(err)
	}
	return n
}

func TestBlobsByREST(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.withCluster()
	guest := e.session("guest")
	const path = "/api/v1/clusters/1/blobs"
	if r := e.want(200, e.do("GET", path, "", guest)); !strings.Contains(r.text, `"items":[],"unseen":[]`) {
		t.Errorf("without schedulers: %s", r.text)
	}
	e.scheduler()
	e.seen.Set("", `{"Swarms":[{"Blob":{"Digest":"sha256:a","Size":9},"State":"held","Complete":2},{"Blob":{"Digest":"sha256:b"},"State":"stuck"}]}`)
	e.seen.Set("sha256:a", `{"Blob":{"Digest":"sha256:a","Size":9},"Pieces":3,"Hosts":[{"ID":"h","Addr":"192.0.2.1:65002","Have":2,"Runs":[[0,1]],"Parents":[""]},{"ID":"s","Seed":true}]}`)
	if r := e.want(200, e.do("GET", path, "", guest)); strings.Index(r.text, "sha256:b") > strings.Index(r.text, "sha256:a") {
		t.Errorf("what is stuck is not first: %s", r.text)
	}
	if r := e.want(200, e.do("GET", path+"?digest=sha256:a", "", guest)); strings.Contains(r.text, "sha256:b") || !strings.Contains(r.text, `"complete":2`) {
		t.Errorf("%s", r.text)
	}
	r := e.want(200, e.do("GET", path+"/sha256:a", "", guest))
	for _, want := range []string{`"pieces":3`, `"host":"h"`, `"runs":[[0,1]]`, `"parents":[""]`, `"runs":[],"parents":[]`} {
		if !strings.Contains(r.text, want) {
			t.Errorf("%s is not in %s", want, r.text)
		}
	}
	e.want(404, e.do("GET", path+"/sha256:b", "", guest))
	e.want(404, e.do("GET", "/api/v1/clusters/9/blobs", "", guest))
	e.want(404, e.do("GET", "/api/v1/clusters/9/blobs/sha256:a", "", guest))
	e.seen.Set("sha256:c", "no JSON")
	if r := e.do("GET", path+"/sha256:c", "", guest); r.status != 503 || r.code() != "unseen" {
		t.Errorf("%d %s", r.status, r.text)
	}
}

func TestTrafficByREST(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.withCluster()
	n := e.scheduler()
	guest := e.session("guest")
	err := e.db.AddTraffic(bg, time.Now(), map[store.Mover]store.Traffic{{Cluster: 1, Role: "host"}: {Origin: 1, Peers: 2, Store: 3, Sent: 4}, {Cluster: 1, Role: "seed"}: {Origin: 5}},
		[]store.Load{{Node: n.ID, At: time.Now(), Peers: 6, Kept: 7, Waiting: 8}})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Items []struct {
			Hosts, Seeds struct{ Origin, Peers, Store, Sent int64 }
		}
	}
	e.want(200, e.do("GET", "/api/v1/clusters/1/traffic?hours=2", "", guest)).into(t, &got)
	if len(got.Items) != 2 || got.Items[1].Hosts.Store+got.Items[0].Hosts.Store != 3 || got.Items[1].Seeds.Origin+got.Items[0].Seeds.Origin != 5 {
		t.Errorf("%+v", got)
	}
	for _, hours := range []string{"0", "x", "841"} {
		e.want(400, e.do("GET", "/api/v1/clusters/1/traffic?hours="+hours, "", guest))
	}
	e.want(404, e.do("GET", "/api/v1/clusters/9/traffic", "", guest))
	for _, path := range []string{"/api/v1/nodes/1", "/api/v1/clusters/1/nodes"} {
		if r := e.want(200, e.do("GET", path, "", guest)); !strings.Contains(r.text, `"peers":6`) || !strings.Contains(r.text, `"kept":7`) || !strings.Contains(r.text, `"waiting_reads":8`) {
			t.Errorf("%s: %s", path, r.text)
		}
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	r := origintest.New(t, origintest.Options{})
	push(t, r, "v1")
	config, layer := digest.FromString("config"), digest.FromString("layer of v1")
	find := func(e *env, order string) reply {
		return e.do("POST", "/api/v1/find", order, e.session("operator"))
	}
	order := fmt.Sprintf(`{"image":%q,"plain_http":true}`, r.Host()+"/p/app:v1")
	cluster := func(of map[digest.Digest]string) *env {
		e := newEnv(t)
		e.withCluster()
		e.scheduler()
		for d, text := range of {
			e.seen.Set(d, text)
		}
		return e
	}
	if rep := find(cluster(nil), order); !strings.Contains(rep.text, `"hosts":[],"unseen":false`) || strings.Count(rep.text, `"copies":0`) != 2 {
		t.Errorf("nobody has it: %s", rep.text)
	}
	held := map[digest.Digest]string{
		config: `{"Pieces":1,"Hosts":[{"ID":"h","Have":1},{"ID":"s","Seed":true,"Have":1}]}`,
		layer:  `{"Pieces":1,"Hosts":[{"ID":"h","Have":0,"Wants":true},{"ID":"s","Seed":true,"Have":1,"Addr":"192.0.2.1:65002"},{"ID":"x","Have":0}]}`,
	}
	var v struct {
		Blobs []struct {
			Digest string
			Copies int
		}
		Hosts []struct {
			Host  string
			Bytes int64
			Whole int `json:"whole_blobs"`
		}
	}
	e := cluster(held)
	e.want(200, find(e, order)).into(t, &v)
	if got, want := fmt.Sprint(v), fmt.Sprintf("{[{%s 2} {%s 1}] [{s 17 2} {h 6 1}]}", config, layer); got != want {
		t.Errorf("%s, not %s", got, want)
	}
	for body, status := range map[string]int{
		`{"image":"A B"}`: 400, fmt.Sprintf(`{"image":%q,"plain_http":true}`, r.Host()+"/p/app:none"): 404, `{"image":"127.0.0.1:1/a:b","plain_http":true}`: 502,
		`{"image":"a","cluster_id":9}`: 404,
	} {
		e.want(status, find(e, body))
	}
	held[layer] = "no JSON"
	if rep := find(cluster(held), order); !strings.Contains(rep.text, `"unseen":true`) {
		t.Errorf("a scheduler that cannot be asked: %s", rep.text)
	}
}
