package web_test

import (
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
)

// withCluster makes the first cluster, as a manager does when it starts.
func (e *env) withCluster() store.Cluster {
	e.t.Helper()
	c, err := cluster.New(cluster.Standard, e.key)
	if err != nil {
		e.t.Fatal(err)
	}
	if _, err := e.db.FirstCluster(bg, c); err != nil {
		e.t.Fatal(err)
	}
	if c, err = e.db.ClusterByName(bg, cluster.Standard); err != nil {
		e.t.Fatal(err)
	}
	return c
}

func TestClustersByREST(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	first := e.withCluster()
	operator := e.session("operator")
	var c struct {
		ID      int64
		Name    string
		Default bool
		Scope   struct{ CIDRs []string }
	}
	e.want(201, e.do("POST", "/api/v1/clusters", `{"name":"fra","scope":{"cidrs":["10.0.0.0/8"]}}`, operator)).into(t, &c)
	if c.Name != "fra" || c.Default || len(c.Scope.CIDRs) != 1 {
		t.Errorf("%+v", c)
	}
	path := "/api/v1/clusters/2"
	r := e.want(200, e.do("PATCH", path, `{"settings":{"upload":1048576,"blocked":["bad"]},"default":true}`, operator))
	for _, want := range []string{`"upload":1048576`, `"blocked":["bad"]`, `"cidrs":["10.0.0.0/8"]`, `"default":true`} {
		if !strings.Contains(r.text, want) {
			t.Errorf("%s is not in %s", want, r.text)
		}
	}
	if r := e.do("GET", "/api/v1/clusters", "", e.session("guest")); r.status != 200 || strings.Count(r.text, `"name"`) != 2 || strings.Contains(r.text, "sealed") {
		t.Errorf("%d %s", r.status, r.text)
	}
	for body, field := range map[string]string{
		`{"name":"A b"}`:              "name",
		`{"scope":{"cidrs":["ten"]}}`: "scope", `{"scope":{"hostnames":["[a"]}}`: "scope", `{"scope":{"idcs":[""]}}`: "scope",
		`{"settings":{"upload":1}}`: "settings", `{"settings":{"upload":-1}}`: "settings", `{"settings":{"origin_requests":-1}}`: "settings", `{"settings":{"blocked":["a b"]}}`: "settings",
	} {
		if r := e.do("PATCH", path, body, operator); r.status != 400 || !strings.Contains(r.text, `"`+field+`":`) {
			t.Errorf("%s: %d %s", body, r.status, r.text)
		}
	}
	if r := e.do("DELETE", path, "", operator); r.status != 409 {
		t.Errorf("the default cluster: %d %s", r.status, r.text)
	}
	e.want(204, e.do("DELETE", "/api/v1/clusters/1", "", operator))
	if _, err := e.db.Cluster(bg, first.ID); err == nil {
		t.Error("it is still there")
	}
}

func TestJoinTokensAndNodes(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c := e.withCluster()
	operator := e.session("operator")
	var created struct{ Token string }
	e.want(201, e.do("POST", "/api/v1/join-tokens", `{"role":"seed","once":true,"expires_in_minutes":60}`, operator)).into(t, &created)
	token, err := manage.ParseToken(created.Token)
	if err != nil {
		t.Fatal(err)
	}
	k, err := e.db.JoinTokenByHash(bg, token.Hash())
	if err != nil || k.Role != "seed" || !k.Once || k.Actor != "operator" {
		t.Errorf("%+v, %v", k, err)
	}
	for body, field := range map[string]string{
		`{"role":"manager","expires_in_minutes":60}`: "role", `{"role":"host"}`: "expires_in_minutes",
		`{"role":"host","expires_in_minutes":60,"cluster_id":99}`: "cluster_id",
	} {
		if r := e.do("POST", "/api/v1/join-tokens", body, operator); r.status != 400 || !strings.Contains(r.text, `"`+field+`":`) {
			t.Errorf("%s: %d %s", body, r.status, r.text)
		}
	}
	list := e.want(200, e.do("GET", "/api/v1/join-tokens", "", operator)).text
	entries, err := e.db.Entries(bg, store.Page{Limit: 99})
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{token.Secret, token.Hash()} {
		if strings.Contains(list, secret) || strings.Contains(e.log.String(), secret) {
			t.Error("a secret is shown")
		}
		for _, entry := range entries {
			if strings.Contains(entry.Detail+entry.Object, secret) {
				t.Error("a secret is in the audit log")
			}
		}
	}
	n, err := e.db.Join(bg, store.By{Actor: "n"}, k, store.Node{Cluster: c.ID, Name: "seed-1", Role: "seed", Key: "k", Until: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	guest := e.session("guest")
	for path, want := range map[string]string{
		"/api/v1/clusters/1/nodes": `"name":"seed-1"`, "/api/v1/clusters/1/nodes?role=seed": `"state":"dead"`, "/api/v1/clusters/1/nodes?role=host": `"items":[]`,
		"/api/v1/nodes/1": `"role":"seed"`, "/api/v1/clusters/1": `"nodes":[{"role":"seed","all":1,"alive":0,"revoked":0}]`,
	} {
		if r := e.do("GET", path, "", guest); r.status != 200 || !strings.Contains(r.text, want) {
			t.Errorf("%s: %d %s, want %s", path, r.status, r.text, want)
		}
	}
	for path, want := range map[string]int{"/api/v1/clusters/9/nodes": 404, "/api/v1/clusters/1/nodes?role=king": 400, "/api/v1/nodes/9": 404} {
		if r := e.do("GET", path, "", guest); r.status != want {
			t.Errorf("%s: %d %s", path, r.status, r.text)
		}
	}
	if r := e.want(200, e.do("POST", "/api/v1/nodes/1/revoke", "", operator)); !strings.Contains(r.text, `"state":"revoked"`) {
		t.Error(r.text)
	}
	if n, err = e.db.Node(bg, n.ID); err != nil || n.Revoked.IsZero() {
		t.Errorf("%+v, %v", n, err)
	}
	e.want(204, e.do("DELETE", "/api/v1/join-tokens/1", "", operator))
	if _, err := e.db.JoinTokenByHash(bg, token.Hash()); err == nil {
		t.Error("the token is still there")
	}
}
