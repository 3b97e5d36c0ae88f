package console_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// shows reports what a page does not show.
func (e *env) shows(r reply, status int, parts ...string) {
	e.t.Helper()
	if _, main, ok := strings.Cut(r.text, "<main"); ok { // what is around it is the same everywhere
		r.text, _, _ = strings.Cut(main, "</main")
	}
	if r.status != status {
		e.t.Errorf("%d, not %d: %s", r.status, status, r.text)
	}
	for _, p := range parts {
		if !strings.Contains(r.text, p) {
			e.t.Errorf("it does not show %q: %s", p, r.text)
		}
	}
}

// joins adds a node that a manager has a stream to.
func (e *env) joins(name, role, address string) store.Node {
	e.t.Helper()
	ctx := e.t.Context()
	k, _, err := cluster.NewToken(ctx, e.db, by, store.JoinToken{Cluster: 1, Role: role, Expires: time.Now().Add(time.Hour)})
	if err != nil {
		e.t.Fatal(err)
	}
	n, err := e.db.Join(ctx, by, k, store.Node{Cluster: 1, Name: name, Role: role, Key: name, Until: time.Now().Add(time.Hour)})
	if err == nil {
		_, err = e.db.KeepManager(ctx, "m", time.Hour)
	}
	if err == nil {
		n.Address, n.Version = address, "v1"
		err = e.db.SetPresence(ctx, "m", []store.Presence{{Node: n, Stream: n.ID, Present: true}})
	}
	if err != nil {
		e.t.Fatal(err)
	}
	return n
}

var by = store.By{Actor: "test"}

const sees = `{"Counts":{"Hosts":2,"Seeds":1,"Swarms":1,"Bans":1},
	"Hosts":[{"ID":"node-1","Addr":"192.0.2.1:65002","Share":true,"Children":3,"Blobs":41},{"ID":"seed-0","Addr":"192.0.2.2:65002","Seed":true,"Share":true}],
	"Swarms":[{"Blob":{"Digest":"sha256:layer","Size":1048576},"State":"stuck","Wanting":1,"Peers":2,"Complete":1}],
	"Bans":[{"Host":"node-1","Reason":"served <wrong> bytes","Until":"2030-01-02T03:04:05Z","Times":2,"Banned":true}],
	"False":[{"Layer":"sha256:5eed","ID":"sha256:1e","At":"2029-01-02T03:04:05Z","Reason":"another <tree>","Accuser":"node-1","Makers":["seed-0"],"Containers":["node-1: default/web"]}]}`

// Of a cluster with certificates from files is known what its schedulers see.
func TestClusterThatHasNotJoined(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	guest := e.session("guest")
	e.seen.Away(scheduler)
	e.shows(e.do("/clusters/1", nil, guest), 200, "cannot be asked what it sees (connection refused)", "no such nodes")
	e.shows(e.do("/clusters/1/blobs", nil, guest), 200, "cannot be asked what it sees")
	e = newEnv(t)
	e.seen.Set("", sees)
	guest = e.session("guest")
	e.shows(e.do("/clusters/1", nil, guest), 200, "node-1", "seed-0", "have not joined", "served &lt;wrong&gt; bytes", "2030-01-02 03:04:05", "1 of 1", "sha256:5eed", "another &lt;tree&gt;", "node-1: default/web")
	if r := e.do("/clusters/99", nil, guest); r.status != 404 {
		t.Errorf("there is no cluster 99: %d", r.status)
	}
}

func TestNodes(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.seen.Set("", sees)
	n, other := e.joins("node-1", "host", "192.0.2.1:65002"), e.joins("seed-7", "seed", "192.0.2.7:65002")
	ctx, now := t.Context(), time.Now()
	loads := []store.Load{{Node: n.ID, At: now, Peers: 3 << 20, Origin: 5 << 20, Sent: 7 << 20, Kept: 11 << 30, Uploads: 13, Waiting: 17}, {Node: other.ID, At: now.Add(-time.Hour), Sent: 19 << 20, Kept: 23 << 30}}
	moved := map[store.Mover]store.Traffic{{Cluster: 1, Role: "host"}: {Origin: 1 << 30, Peers: 8 << 30, Store: 1 << 30}, {Cluster: 1, Role: "seed"}: {Origin: 2 << 30}}
	if err := e.db.AddTraffic(ctx, now, moved, loads); err != nil {
		t.Fatal(err)
	}
	guest, operator := e.session("guest"), e.session("operator")
	r := e.do("/clusters/1", nil, guest)
	e.shows(r, 200, "node-1", "3.00 MiB/s", "5.00 MiB/s", "7.00 MiB/s", "11.0 GiB", ">13<", ">17<", ">41<", "banned", "alive", "23.0 GiB", "6.00 GiB", "90.0 %", "8.00 GiB from other hosts")
	if strings.Contains(r.text, "19.0 MiB/s") {
		t.Error("a load of an hour ago is shown as if it were of now")
	}
	if r := e.do("/clusters/1?role=seed", nil, guest); strings.Contains(r.text, `id="node-1"`) || !strings.Contains(r.text, "seed-7") {
		t.Errorf("seeds: %s", r.text)
	}
	e.shows(e.do("/", nil, guest), 200, "6.00 GiB", "3.00 GiB left them", "90.0 %", "1 host is banned", "1 blob is stuck", "layer sha256:5eed was false", "1 container that had it is to be replaced", "<dd>1</dd>")
	if r := e.do("/nodes/1", nil, guest); r.status != 200 || strings.Contains(r.text, "Revoke") || !strings.Contains(r.text, "13 bodies") {
		t.Errorf("a node, to a guest: %d %s", r.status, r.text)
	}
	e.shows(e.do("/nodes/1", nil, operator), 200, "Revoke node-1", "served &lt;wrong&gt; bytes", "192.0.2.1:65002")
	if r := e.do("/nodes/1/revoke", url.Values{}, operator); r.to() != "/nodes/1" {
		t.Errorf("%d to %q", r.status, r.to())
	}
	e.shows(e.do("/nodes/1", nil, operator), 200, "revoked")
	if r := e.do("/nodes/99/revoke", url.Values{}, operator); r.status != 404 {
		t.Errorf("a node that is not there: %d", r.status)
	}
}

func TestClusterPages(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	operator := e.session("operator")
	if r := e.do("/clusters", url.Values{"name": {"fra"}, "cidrs": {"10.8.0.0/16, 10.9.0.0/16"}, "idcs": {"fra1"}}, operator); r.to() != "/clusters/2" {
		t.Fatalf("%d to %q: %s", r.status, r.to(), r.text)
	}
	e.shows(e.do("/clusters", nil, operator), 200, "fra", "address 10.8.0.0/16 or 10.9.0.0/16, and idc fra1", "no other cluster")
	e.shows(e.do("/clusters", url.Values{"name": {"fra"}}, operator), 400, "is that of another cluster")
	e.shows(e.do("/clusters", url.Values{"name": {"x"}, "cidrs": {"ten"}}, operator), 400, "is not a CIDR", `value="ten"`)
	if r := e.do("/clusters", nil, e.session("guest")); strings.Contains(r.text, "New cluster") {
		t.Error("a guest is offered a change")
	}
	settings := func(more url.Values) url.Values {
		v := url.Values{"name": {"fra"}, "download": {"0"}, "upload": {"1.5"}, "origin": {"0"}, "origin_requests": {"8"}, "blocked": {"bad worse"}, "idcs": {"fra1"}}
		for name := range more {
			v[name] = more[name]
		}
		return v
	}
	if r := e.do("/clusters/2/settings", settings(nil), operator); r.to() != "/clusters/2" {
		t.Fatalf("%d to %q: %s", r.status, r.to(), r.text)
	}
	k, err := e.db.Cluster(t.Context(), 2)
	if err != nil || k.Settings.Upload != 3<<19 || k.Settings.OriginRequests != 8 || len(k.Settings.Blocked) != 2 || len(k.Scope.CIDRs) != 0 || k.Standard {
		t.Errorf("%+v, %v", k, err)
	}
	e.shows(e.do("/clusters/2/settings", nil, operator), 200, `value="1.5"`, `value="bad worse"`, `value="fra1"`)
	for want, change := range map[string]url.Values{
		"must be a number": {"upload": {"fast"}}, "for none": {"origin_requests": {"1.5"}}, "16384 bytes per second": {"upload": {"0.001"}},
		"lower-case": {"name": {"A B"}}, "is that of another cluster": {"name": {"default"}},
	} {
		e.shows(e.do("/clusters/2/settings", settings(change), operator), 400, want)
	}
	if r := e.do("/clusters/1/delete", url.Values{}, operator); r.status != 409 {
		t.Errorf("the default cluster: %d", r.status)
	}
	e.do("/clusters/2/settings", settings(url.Values{"default": {"yes"}}), operator)
	if r := e.do("/clusters/1/delete", url.Values{}, operator); r.to() != "/clusters" {
		t.Errorf("%d to %q", r.status, r.to())
	}
	e.shows(e.do("/audit", nil, e.session("root")), 200, "cluster.create", "cluster.change", "cluster.delete")
}

func TestJoinTokens(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	operator := e.session("operator")
	form := func(role, in, minutes string) url.Values {
		return url.Values{"role": {role}, "cluster_id": {in}, "expires_in_minutes": {minutes}, "once": {"yes"}}
	}
	r := e.do("/join-tokens", form("seed", "1", "30"), operator)
	e.shows(r, 201, "dfj_", "not shown again", "one seed", ":65003", "default")
	_, text, _ := strings.Cut(r.text, `id="fresh">`)
	token, _, _ := strings.Cut(text, "<")
	for want, form := range map[string]url.Values{
		"is not one of": form("king", "0", "1"), "from 1 to 525600": form("host", "0", "soon"), "no such cluster": form("host", "99", "1"),
	} {
		e.shows(e.do("/join-tokens", form, operator), 400, want)
	}
	for _, page := range []string{e.do("/join-tokens", nil, operator).text, e.do("/audit", nil, e.session("root")).text} {
		if strings.Contains(page, token) {
			t.Error("the token is shown again")
		}
	}
	if r := e.do("/join-tokens/1/delete", url.Values{}, operator); r.to() != "/join-tokens" {
		t.Errorf("%d to %q", r.status, r.to())
	}
	e.shows(e.do("/join-tokens", nil, operator), 200, "There are none")
}

func TestBlobsAndImages(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.seen.Set("", sees)
	e.seen.Set("sha256:layer", `{"Blob":{"Digest":"sha256:layer","Size":1048576},"State":"held","Owner":"seed-0","Complete":1,"Pieces":4,"Hosts":[
		{"ID":"node-1","Wants":true,"Have":3,"Runs":[[0,1],[3,3]],"Parents":["","seed-0"]},{"ID":"seed-0","Seed":true,"Have":4,"Runs":[[0,3]],"Children":2}]}`)
	guest := e.session("guest")
	e.shows(e.do("/images", nil, guest), 200, "No image has been preheated")
	j := e.job("team/app")
	if err := e.db.UpdateJobBlob(t.Context(), j, store.JobBlob{Digest: "sha256:layer", Got: 1 << 20, State: store.Succeeded}); err != nil {
		t.Fatal(err)
	}
	if err := e.db.EndJob(t.Context(), j, store.Succeeded, ""); err != nil {
		t.Fatal(err)
	}
	const image = "registry.example/team/app:v1"
	for _, q := range []string{"", "?digest=sha256:la", "?digest=lay"} {
		e.shows(e.do("/clusters/1/blobs"+q, nil, guest), 200, `href="/clusters/1/blobs/sha256:layer"`, "stuck", "1.00 MiB", image)
	}
	e.shows(e.do("/clusters/1/blobs?digest=sha256:f", nil, guest), 200, "No blob with this digest")
	e.shows(e.do("/clusters/1/blobs/sha256:layer", nil, guest), 200, image, "3 of 4", "the origin, seed-0", "768 KiB",
		`<rect x="0" y="0" width="2"`, `<rect x="3" y="0" width="1"`, `<rect x="0" y="0" width="4"`, "1 of 2 have all of it")
	e.shows(e.do("/clusters/1/blobs/sha256:none", nil, guest), 404, "No host of this cluster")
	e.shows(e.do("/images", nil, guest), 200, image, "1 copy", `href="/clusters/1/blobs/sha256:layer"`)
	blob, _ := e.events("/clusters/1/blobs/sha256:layer/events", guest)
	until(t, blob, "3 of 4")
	list, _ := e.events("/clusters/1/blobs/events?digest=la", guest)
	until(t, list, "sha256:layer")
}

func TestPreheatInACluster(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	operator := e.session("operator")
	if r := e.do("/jobs/new", nil, operator); strings.Contains(r.text, "cluster_id") {
		t.Error("with one cluster there is a choice of clusters")
	}
	e.do("/clusters", url.Values{"name": {"fra"}}, operator)
	e.shows(e.do("/jobs/new", nil, operator), 200, "default (default)", `<option value="2">fra`)
	form := func(cluster string) url.Values { return url.Values{"image": {"nginx"}, "cluster_id": {cluster}} }
	e.shows(e.do("/jobs/new", form("99"), operator), 400, "no such cluster")
	if r := e.do("/jobs/new", form("2"), operator); r.to() != "/jobs/1" {
		t.Fatalf("%d to %q: %s", r.status, r.to(), r.text)
	}
	e.shows(e.do("/jobs/1", nil, operator), 200, `<a href="/clusters/2">fra</a>`)
	e.shows(e.do("/jobs/new?from=1", nil, operator), 200, `<option value="2" selected>fra`)
}

func TestSchedules(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	operator, guest := e.session("operator"), e.session("guest")
	e.shows(e.do("/schedules", nil, guest), 200, "again and again")
	form := func(cron string) url.Values { return url.Values{"image": {"nginx"}, "cron": {cron}} }
	e.shows(e.do("/jobs/new", form("now and then"), operator), 400, "must be five fields", `value="now and then"`)
	if r := e.do("/jobs/new", form("30 4 * * 1-5"), operator); r.to() != "/schedules" {
		t.Fatalf("%d to %q: %s", r.status, r.to(), r.text)
	}
	e.shows(e.do("/schedules", nil, operator), 200, "docker.io/library/nginx:latest", "30 4 * * 1-5", "04:30:00", "none yet", "Delete schedule 1")
	if r := e.do("/schedules", nil, guest); strings.Contains(r.text, "Delete") {
		t.Error("a guest is offered a change")
	}
	if r := e.do("/schedules/1/delete", url.Values{}, operator); r.to() != "/schedules" {
		t.Errorf("%d to %q", r.status, r.to())
	}
	if r := e.do("/schedules/1/delete", url.Values{}, operator); r.status != 404 {
		t.Errorf("deleted twice: %d", r.status)
	}
}
