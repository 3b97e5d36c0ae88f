package web_test

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var bg = context.Background()

// who may use each route: with a session by role, and with a token of root by
// scope. Everybody else is refused.
var who = map[string]string{
	"GET /healthz":                             "anybody",
	"GET /readyz":                              "anybody",
	"POST /api/v1/session":                     "anybody",
	"DELETE /api/v1/session":                   "guest operator root fresh",
	"GET /api/v1/me":                           "guest operator root fresh read preheat admin",
	"PUT /api/v1/me/password":                  "guest operator root fresh",
	"GET /api/v1/me/tokens":                    "guest operator root",
	"POST /api/v1/me/tokens":                   "guest operator root",
	"DELETE /api/v1/me/tokens/{token}":         "guest operator root",
	"GET /api/v1/openapi.json":                 "guest operator root read preheat admin",
	"GET /healthy":                             "anybody",
	"GET /_ping":                               "anybody",
	"GET /health":                              "anybody",
	"POST /oapi/v1/jobs":                       "operator root preheat admin",
	"GET /oapi/v1/jobs/{id}":                   "guest operator root read preheat admin",
	"POST /preheats":                           "operator root preheat admin",
	"GET /preheats/{id}":                       "guest operator root read preheat admin",
	"POST /registry/notifications":             "operator root preheat admin",
	"POST /api/v1/jobs":                        "operator root preheat admin",
	"GET /api/v1/jobs":                         "guest operator root read preheat admin",
	"GET /api/v1/jobs/{id}":                    "guest operator root read preheat admin",
	"GET /api/v1/jobs/{id}/blobs":              "guest operator root read preheat admin",
	"GET /api/v1/jobs/{id}/hosts":              "guest operator root read preheat admin",
	"POST /api/v1/jobs/{id}/cancel":            "operator root preheat admin",
	"GET /api/v1/schedules":                    "guest operator root read preheat admin",
	"POST /api/v1/schedules":                   "operator root preheat admin",
	"DELETE /api/v1/schedules/{id}":            "operator root preheat admin",
	"GET /api/v1/clusters":                     "guest operator root read preheat admin",
	"POST /api/v1/clusters":                    "operator root admin",
	"GET /api/v1/clusters/{id}":                "guest operator root read preheat admin",
	"PATCH /api/v1/clusters/{id}":              "operator root admin",
	"DELETE /api/v1/clusters/{id}":             "operator root admin",
	"GET /api/v1/clusters/{id}/nodes":          "guest operator root read preheat admin",
	"GET /api/v1/clusters/{id}/traffic":        "guest operator root read preheat admin",
	"GET /api/v1/clusters/{id}/blobs":          "guest operator root read preheat admin",
	"GET /api/v1/clusters/{id}/blobs/{digest}": "guest operator root read preheat admin",
	"POST /api/v1/find":                        "operator root preheat admin",
	"GET /api/v1/images":                       "guest operator root read preheat admin",
	"GET /api/v1/nodes/{id}":                   "guest operator root read preheat admin",
	"POST /api/v1/nodes/{id}/revoke":           "operator root admin",
	"GET /api/v1/join-tokens":                  "operator root admin",
	"POST /api/v1/join-tokens":                 "operator root admin",
	"DELETE /api/v1/join-tokens/{id}":          "operator root admin",
	"GET /api/v1/audit":                        "root admin",
	"GET /api/v1/users":                        "root admin",
	"POST /api/v1/users":                       "root admin",
	"GET /api/v1/users/{id}":                   "root admin",
	"PATCH /api/v1/users/{id}":                 "root admin",
	"DELETE /api/v1/users/{id}":                "root admin",
	"GET /api/v1/users/{id}/tokens":            "root admin",
	"DELETE /api/v1/users/{id}/tokens/{token}": "root admin",
}

// everybody are all who may call, in the order of the table above.
var everybody = []string{"anonymous", "gone", "guest", "operator", "root", "fresh", "read", "preheat", "admin", "guest's admin", "fresh's admin"}

func (e *env) as(name string) func(*http.Request) {
	switch name {
	case "anonymous":
		return func(*http.Request) {}
	case "read", "preheat", "admin":
		return bearer(e.token("root", name))
	case "guest's admin":
		return bearer(e.token("guest", "admin"))
	case "fresh's admin":
		return bearer(e.token("fresh", "admin"))
	}
	return e.session(name)
}

// guestToo is whether a guest's token with every scope may use a route: if the
// guest and a reader both may.
func guestToo(allowed string) bool {
	return has(allowed, "guest") && has(allowed, "read")
}

func has(words, word string) bool {
	for _, w := range strings.Fields(words) {
		if w == word {
			return true
		}
	}
	return false
}

// documented are the routes of the OpenAPI document.
func (e *env) documented() map[string]map[string]map[string]any {
	var doc struct {
		Paths map[string]map[string]map[string]any
	}
	e.want(200, e.do("GET", "/api/v1/openapi.json", "", e.session("guest"))).into(e.t, &doc)
	return doc.Paths
}

func TestEveryRouteByEverybody(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	who := maps.Clone(who)
	for path, methods := range e.documented() {
		for method := range methods {
			name := strings.ToUpper(method) + " " + path
			allowed, known := who[name]
			if !known {
				t.Errorf("%s is not in this test's table", name)
				continue
			}
			delete(who, name)
			for _, caller := range everybody {
				want := has(allowed, caller) || allowed == "anybody" || caller == "guest's admin" && guestToo(allowed) ||
					caller == "fresh's admin" && has(allowed, "fresh") && has(allowed, "read")
				url := strings.NewReplacer("{id}", "99999", "{token}", "99999", "{digest}", "x").Replace(path)
				r := e.do(strings.ToUpper(method), url, "", e.as(caller))
				refused := r.status == 401 || r.status == 403
				if refused == want {
					t.Errorf("%s by %s: %d %s", name, caller, r.status, r.text)
				}
				if caller == "anonymous" && !want && r.status != 401 {
					t.Errorf("%s by nobody: %d, want 401", name, r.status)
				}
				if r.status >= 500 || r.status >= 300 && r.status < 400 {
					t.Errorf("%s by %s: %d", name, caller, r.status)
				}
			}
		}
	}
	for name := range who {
		t.Errorf("there is no %s", name)
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, path := range []string{"/nothing", "/api", "/api/v1/", "/api/v1/users/", "//healthz", "/api/v1/../../healthz", "/healthz/", "/api/v1/me%2Ftokens", "/api/v1/users/1/2/3", "/%00"} {
		r := e.do("GET", path, "", e.session("root"))
		if r.status != 404 || r.code() != "not_found" || r.header.Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("%s: %d %s %s", path, r.status, r.header, r.text)
		}
	}
	r := e.do("PUT", "/api/v1/users", "{}", e.session("root"))
	if r.status != 405 || r.header.Get("Allow") != "GET, POST" || r.code() != "method_not_allowed" {
		t.Errorf("PUT: %d %q %s", r.status, r.header.Get("Allow"), r.text)
	}
	for _, id := range []string{"0", "-1", "x", "99999999999999999999", "1e3", "1;DROP TABLE users", "1' OR '1'='1"} {
		if r := e.do("GET", "/api/v1/users/"+strings.ReplaceAll(strings.ReplaceAll(id, " ", "%20"), "'", "%27"), "", e.session("root")); r.status != 404 {
			t.Errorf("user %q: %d %s", id, r.status, r.text)
		}
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, r := range []reply{e.do("GET", "/healthz", ""), e.do("GET", "/nothing", ""), e.do("GET", "/api/v1/me", "")} {
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "X-Content-Type-Options": "nosniff",
			"X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "Server": "",
		} {
			if got := r.header.Get(name); got != want {
				t.Errorf("%d: %s: %q, want %q", r.status, name, got, want)
			}
		}
	}
}

func TestDocumentIsWhatIsAnswered(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for path, methods := range e.documented() {
		op, ok := methods["get"]
		if !ok || strings.Contains(path, "{") || path == "/api/v1/openapi.json" {
			continue
		}
		schema := dig(op, "responses", "200", "content", "application/json", "schema")
		var got any
		e.want(200, e.do("GET", path, "", e.session("root"))).into(t, &got)
		if why := mismatch(schema, got); why != "" {
			t.Errorf("%s: %s", path, why)
		}
	}
}

func dig(v any, keys ...string) any {
	for _, k := range keys {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

// mismatch says where a value is not what a schema says, as far as the schemas
// of this API go.
func mismatch(schema, v any) string {
	s, _ := schema.(map[string]any)
	switch s["type"] {
	case "object":
		return mismatchObject(s, v)
	case "array":
		list, ok := v.([]any)
		if !ok {
			return "not an array"
		}
		for _, item := range list {
			if why := mismatch(s["items"], item); why != "" {
				return why
			}
		}
	case "string":
		if _, ok := v.(string); !ok {
			return "not a string"
		}
	case "integer", "number":
		if _, ok := v.(float64); !ok {
			return "not a number"
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			return "not a boolean"
		}
	case nil:
		if any, ok := s["anyOf"].([]any); ok && v != nil {
			return mismatch(any[0], v)
		}
	}
	return ""
}

func mismatchObject(s map[string]any, v any) string {
	m, ok := v.(map[string]any)
	if !ok {
		return "not an object"
	}
	properties, _ := s["properties"].(map[string]any)
	var names []string
	for k := range m {
		if why := mismatch(properties[k], m[k]); why != "" {
			return k + ": " + why
		}
		if _, known := properties[k]; !known && s["additionalProperties"] == nil {
			names = append(names, k)
		}
	}
	if diff := cmp.Diff([]string(nil), names); diff != "" {
		return "properties that are not documented: " + diff
	}
	required, _ := s["required"].([]any)
	for _, k := range required {
		if _, there := m[k.(string)]; !there {
			return "there is no " + k.(string)
		}
	}
	return ""
}

func TestBodies(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	root := e.session("root")
	for name, c := range map[string]struct {
		body   string
		with   []func(*http.Request)
		status int
		code   string
		say    string
	}{
		"empty":       {"", []func(*http.Request){header("Content-Type", "application/json")}, 400, "invalid", "empty"},
		"no JSON":     {"{", nil, 400, "invalid", ""},
		"two values":  {`{"name":"a"}{"name":"b"}`, nil, 400, "invalid", "more behind"},
		"unknown key": {`{"namme":"a"}`, nil, 400, "invalid", "namme"},
		"wrong type":  {`{"name":7}`, nil, 400, "invalid", "name"},
		"array":       {`[]`, nil, 400, "invalid", ""},
		"large":       {`{"name":"` + strings.Repeat("x", 2<<20) + `"}`, nil, 413, "too_large", ""},
		"form":        {"name=a", []func(*http.Request){header("Content-Type", "application/x-www-form-urlencoded")}, 415, "unsupported_media_type", ""},
		"all wrong":   {`{"name":"A B","password":"x","role":"king"}`, nil, 400, "invalid", "guest operator root"},
		"taken":       {`{"name":"root","password":"long enough","role":"guest"}`, nil, 409, "exists", ""},
	} {
		r := e.do("POST", "/api/v1/users", c.body, append([]func(*http.Request){root}, c.with...)...)
		if r.status != c.status || r.code() != c.code || !strings.Contains(r.text, c.say) {
			t.Errorf("%s: %d %s", name, r.status, r.text)
		}
	}
	var v struct {
		Error struct{ Fields map[string]string }
	}
	r := e.do("POST", "/api/v1/users", `{"name":"A B","password":"x","role":"king"}`, root)
	if err := json.Unmarshal([]byte(r.text), &v); err != nil || len(v.Error.Fields) != 3 {
		t.Errorf("%s", r.text)
	}
	for _, q := range []string{"limit=0", "limit=201", "limit=x", "after=-1", "after=x"} {
		if r := e.do("GET", "/api/v1/users?"+q, "", root); r.status != 400 || !strings.Contains(r.text, strings.Split(q, "=")[0]) {
			t.Errorf("%s: %d %s", q, r.status, r.text)
		}
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	var names []string
	path := "/api/v1/users?limit=2"
	for range 10 {
		var l struct {
			Items []struct{ Name string }
			Next  int64
		}
		e.want(200, e.do("GET", path, "", e.session("root"))).into(t, &l)
		for _, u := range l.Items {
			names = append(names, u.Name)
		}
		if l.Next == 0 {
			break
		}
		next, _ := json.Marshal(l.Next)
		path = "/api/v1/users?limit=2&after=" + string(next)
	}
	if diff := cmp.Diff([]string{"root", "operator", "guest", "fresh", "gone"}, names); diff != "" {
		t.Error(diff)
	}
}
