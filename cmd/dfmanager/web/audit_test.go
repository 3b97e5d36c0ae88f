package web_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// Each route that changes something leaves an entry in the audit log, by who did it; no
// other does.
func TestChangesAreAudited(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c := e.withCluster()
	root := e.session("root")
	k, err := e.db.CreateJoinToken(bg, store.By{Actor: "t"}, store.JoinToken{Cluster: c.ID, Role: "seed", Hash: "h", Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	n, err := e.db.Join(bg, store.By{Actor: "t"}, k, store.Node{Cluster: c.ID, Name: "seed-1", Role: "seed", Key: "k", Until: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	const (
		image   = "http://127.0.0.1:1/v2/a/manifests/1" // a registry that is not there
		harbor  = `{"type":"preheat","args":{"type":"image","url":"` + image + `","headers":{}}}`
		pushing = `{"events":[{"action":"push","target":{"mediaType":"application/vnd.oci.image.manifest.v1+json","url":"` + image + `","repository":"a","tag":"1"}}]}`
	)
	newest := func() store.Entry {
		all, err := e.db.Entries(bg, store.Page{Limit: 1})
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		return all[0]
	}
	left := map[string]bool{}
	for path, methods := range e.documented() {
		for method := range methods {
			if method != "get" && path != "/api/v1/find" { // which asks
				left[strings.ToUpper(method)+" "+path] = true
			}
		}
	}
	for _, s := range []struct{ route, body, action string }{
		{"POST /api/v1/users", `{"name":"jane","password":"long enough","role":"guest"}`, "user.create"},
		{"PATCH /api/v1/users/{id}", `{"role":"operator"}`, "user.change"},
		{"POST /api/v1/me/tokens", `{"name":"ci","scopes":["read"]}`, "token.create"},
		{"DELETE /api/v1/me/tokens/{token}", "", "token.delete"},
		{"POST /api/v1/clusters", `{"name":"fra"}`, "cluster.create"},
		{"PATCH /api/v1/clusters/{id}", `{"settings":{"upload":1048576}}`, "cluster.change"},
		{"DELETE /api/v1/clusters/{id}", "", "cluster.delete"},
		{"POST /api/v1/join-tokens", `{"role":"seed","expires_in_minutes":60}`, "join_token.create"},
		{"DELETE /api/v1/join-tokens/{id}", "", "join_token.delete"},
		{"POST /api/v1/nodes/{id}/revoke", "", "node.revoke"},
		{"POST /api/v1/schedules", `{"image":"127.0.0.1:1/a:1","cron":"@daily"}`, "schedule.create"},
		{"DELETE /api/v1/schedules/{id}", "", "schedule.delete"},
		{"POST /api/v1/jobs", `{"image":"127.0.0.1:1/a:1"}`, "job.create"},
		{"POST /api/v1/jobs/{id}/cancel", "", "job.cancel"},
		{"POST /oapi/v1/jobs", harbor, "job.create"},
		{"POST /preheats", `{"type":"image","url":"` + image + `","headers":{},"image":"a","tag":"1"}`, "job.create"},
		{"POST /registry/notifications", pushing, "job.create"},
		{"PUT /api/v1/me/password", `{"old":"` + password + `","new":"another one, long enough"}`, "user.change"},
		{"POST /api/v1/session", signIn("operator", password), "session.create"},
		{"DELETE /api/v1/session", "", "session.delete"},
	} {
		id := map[string]int64{"/api/v1/users/{id}": e.users["gone"].ID + 1, "/api/v1/clusters/{id}": c.ID + 1, "/api/v1/join-tokens/{id}": k.ID + 1, "/api/v1/nodes/{id}/revoke": n.ID}
		method, path, _ := strings.Cut(s.route, " ")
		number := fmt.Sprint(max(id[path], 1))
		before := newest()
		as, who := root, "root"
		if s.action == "session.create" {
			as, who = func(*http.Request) {}, "operator"
		}
		r := e.do(method, strings.NewReplacer("{id}", number, "{token}", "1").Replace(path), s.body, as)
		if now := newest(); r.status >= 300 || now.ID == before.ID || now.Action != s.action || now.By.Actor != who || now.By.Remote == "" {
			t.Errorf("%s: %d %s: the newest entry is %+v", s.route, r.status, r.text, now)
		}
		if s.route == "PUT /api/v1/me/password" || s.route == "DELETE /api/v1/session" {
			root = e.session("root") // it ended others, or this one
		}
		delete(left, s.route)
	}
	if _, err := e.db.CreateToken(bg, store.By{Actor: "t"}, store.Token{UserID: e.users["guest"].ID, Name: "x", Hash: "x", Scopes: []string{"read"}}); err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct{ path, route, action string }{
		{fmt.Sprintf("/api/v1/users/%d/tokens/2", e.users["guest"].ID), "DELETE /api/v1/users/{id}/tokens/{token}", "token.delete"},
		{fmt.Sprintf("/api/v1/users/%d", e.users["guest"].ID), "DELETE /api/v1/users/{id}", "user.delete"},
	} {
		if r, now := e.do("DELETE", s.path, "", root), newest(); r.status != 204 || now.Action != s.action || now.By.Actor != "root" {
			t.Errorf("%s: %d %s: the newest entry is %+v", s.route, r.status, r.text, now)
		}
		delete(left, s.route)
	}
	for route := range left {
		t.Errorf("%s is not in this test", route)
	}
}
