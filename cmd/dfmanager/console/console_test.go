package console_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// who may see a page or send its form: at least this role; "" is anybody.
var who = map[string]store.Role{
	"GET /assets/{name}": "", "GET /sign-in": "", "POST /sign-in": "", "GET /sign-in/oidc": "", "GET /sign-in/oidc/callback": "", "POST /theme": "",
	"POST /sign-out": "guest", "GET /password": "guest", "POST /password": "guest",
	"GET /{$}": "guest", "GET /events": "guest", "GET /jobs": "guest", "GET /jobs/events": "guest",
	"GET /jobs/{id}": "guest", "GET /jobs/{id}/events": "guest", "GET /schedules": "guest", "POST /schedules/{id}/delete": "operator", "GET /clusters": "guest", "POST /clusters": "operator",
	"GET /clusters/{id}": "guest", "GET /clusters/{id}/events": "guest", "GET /clusters/{id}/settings": "operator", "POST /clusters/{id}/settings": "operator",
	"POST /clusters/{id}/delete": "operator", "GET /clusters/{id}/blobs": "guest", "GET /clusters/{id}/blobs/events": "guest",
	"GET /clusters/{id}/blobs/{digest}": "guest", "GET /clusters/{id}/blobs/{digest}/events": "guest", "GET /nodes/{id}": "guest", "POST /nodes/{id}/revoke": "operator",
	"GET /join-tokens": "operator", "POST /join-tokens": "operator", "POST /join-tokens/{id}/delete": "operator", "GET /images": "guest", "GET /find": "operator", "POST /find": "operator",
	"GET /harbor": "guest", "GET /about": "guest", "GET /tokens": "guest", "POST /tokens": "guest", "POST /tokens/{token}/revoke": "guest",
	"GET /jobs/new": "operator", "POST /jobs/new": "operator", "POST /jobs/{id}/cancel": "operator",
	"GET /users": "root", "POST /users": "root", "GET /users/{id}": "root", "POST /users/{id}": "root",
	"POST /users/{id}/delete": "root", "POST /users/{id}/tokens/{token}/revoke": "root", "GET /audit": "root",
}

func TestEveryPageByEverybody(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	rank := map[store.Role]int{"": 0, "guest": 1, "operator": 2, "root": 3}
	seen := map[string]bool{}
	for _, p := range e.pages.Pages() {
		name := p.Method + " " + p.Path
		least, known := who[name]
		seen[name] = true
		if !known {
			t.Errorf("%s is not in this test's table", name)
		}
		path := strings.NewReplacer("{$}", "", "{id}", "99999", "{token}", "99999", "{digest}", "sha256:x", "{name}", "console.css").Replace(p.Path)
		var form url.Values
		if p.Method == http.MethodPost {
			form = url.Values{"x": {"y"}}
		}
		for _, user := range []string{"", "guest", "operator", "root", "fresh"} {
			if p.Live && user != "" && user != "fresh" {
				continue // see TestLive
			}
			as := func(*http.Request) {}
			if user != "" {
				as = e.session(user)
			}
			r := e.do(path, form, as)
			switch {
			case user == "" && least != "":
				if r.status != 303 || !strings.HasPrefix(r.to(), "/sign-in") {
					t.Errorf("%s by nobody: %d to %q", name, r.status, r.to())
				}
			case user == "fresh" && least != "" && !p.First:
				if r.status != 303 || r.to() != "/password" {
					t.Errorf("%s with a first password: %d to %q", name, r.status, r.to())
				}
			case user != "" && user != "fresh" && rank[store.Role(user)] < rank[least]:
				if r.status != 403 {
					t.Errorf("%s by %s: %d", name, user, r.status)
				}
			case r.status == 401 && name != "POST /sign-in" || r.status == 403 || r.status >= 500:
				t.Errorf("%s by %s: %d %s", name, user, r.status, r.text)
			}
		}
	}
	for name := range who {
		if !seen[name] {
			t.Errorf("there is no %s", name)
		}
	}
}

// A token or password in a header shows no page, so that what a browser
// remembers of them changes nothing.
func TestOnlySessionsCount(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	if r := e.do("/users", nil, func(r *http.Request) { r.SetBasicAuth("root", password) }); r.status != 403 {
		t.Errorf("with a password in a header: %d", r.status)
	}
}

func TestFormsOfOtherSites(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	root := e.session("root")
	user := url.Values{"name": {"eve"}, "password": {"long enough"}, "role": {"root"}}
	for name, with := range map[string][]func(*http.Request){
		"another site":    {header("Sec-Fetch-Site", "cross-site")},
		"a sibling":       {header("Sec-Fetch-Site", "same-site")},
		"an old browser":  {header("Sec-Fetch-Site", ""), header("Origin", "https://evil.example")},
		"no origin given": {header("Sec-Fetch-Site", ""), header("Origin", "null")},
	} {
		for path, form := range map[string]url.Values{"/users": user, "/sign-in": {"name": {"root"}, "password": {password}}, "/jobs/new": {"image": {"nginx"}}, "/sign-out": {}} {
			if r := e.do(path, form, append(with, root)...); r.status != 403 || r.header.Get("Set-Cookie") != "" {
				t.Errorf("%s from %s: %d", path, name, r.status)
			}
		}
	}
	if _, err := e.db.UserByName(t.Context(), "eve"); err == nil {
		t.Error("another site has made a user")
	}
	if r := e.do("/users", user, root, header("Sec-Fetch-Site", ""), header("Origin", e.url)); r.status != 303 {
		t.Errorf("an old browser on this site: %d", r.status)
	}
	if r := e.do("/about", nil, header("Sec-Fetch-Site", "cross-site")); r.status != 200 || !strings.Contains(r.text, `http-equiv="refresh"`) {
		t.Errorf("a link from another site: %d %s", r.status, r.text)
	}
}

func TestSignIn(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	planted := func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "dfmanager", Value: "planted"}) }
	sign := func(user, secret, next string, with ...func(*http.Request)) reply {
		return e.do("/sign-in", url.Values{"name": {user}, "password": {secret}, "next": {next}}, with...)
	}
	session := func(r reply) func(*http.Request) {
		t.Helper()
		all := (&http.Response{Header: r.header}).Cookies()
		if r.status != 303 || len(all) != 1 || !all[0].HttpOnly || all[0].SameSite != http.SameSiteStrictMode || all[0].Value == "planted" {
			t.Fatalf("signing in: %d %v", r.status, r.header)
		}
		return func(r *http.Request) { r.AddCookie(all[0]) }
	}
	first := session(sign("guest", password, "/", planted))
	if r := e.do("/", nil, planted); r.status != 303 {
		t.Errorf("a session that was planted: %d", r.status)
	}
	second := session(sign("root", password, "/", first))
	if r := e.do("/", nil, first); r.status != 303 {
		t.Errorf("the session before the last: %d", r.status)
	}
	if r := e.do("/users", nil, second); r.status != 200 {
		t.Errorf("the last session: %d", r.status)
	}
	for next, want := range map[string]string{
		"/jobs?state=failed": "/jobs?state=failed", "//evil.example": "/", "https://evil.example/": "/", "/\\evil.example": "/", "javascript:alert(1)": "/", "": "/",
	} {
		if r := sign("guest", password, next); r.to() != want {
			t.Errorf("next %q leads to %q", next, r.to())
		}
	}
	if r := sign("fresh", password, "/jobs"); r.to() != "/password" {
		t.Errorf("a first password leads to %q", r.to())
	}
	if r := e.do("/jobs?state=failed", nil); r.to() != "/sign-in?next=%2Fjobs%3Fstate%3Dfailed" {
		t.Errorf("a page by nobody leads to %q", r.to())
	}
}

func TestBruteForce(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	sign := func(user, secret string) reply {
		return e.do("/sign-in", url.Values{"name": {user}, "password": {secret}})
	}
	for range 5 {
		if r := sign("operator", "wrong password"); r.status != 401 || !strings.Contains(r.text, "no such user") || strings.Contains(r.text, "wrong password") {
			t.Errorf("a wrong password: %d %s", r.status, r.text)
		}
	}
	if r := sign("operator", password); r.status != 429 || r.header.Get("Retry-After") == "" || !strings.Contains(r.text, "Try again in") {
		t.Errorf("after five of them: %d %s", r.status, r.text)
	}
}

func TestPassword(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	fresh := e.session("fresh")
	for say, form := range map[string]url.Values{
		"is not the same":      {"old": {password}, "new": {"another one"}, "again": {"yet another"}},
		"is not your password": {"old": {"wrong password"}, "new": {"another one"}, "again": {"another one"}},
		"at least 10":          {"old": {password}, "new": {"short"}, "again": {"short"}},
		"must not be the old":  {"old": {password}, "new": {password}, "again": {password}},
	} {
		if r := e.do("/password", form, fresh); r.status != 400 || !strings.Contains(r.text, say) || !strings.Contains(r.text, `aria-invalid="true"`) {
			t.Errorf("%s: %d %s", say, r.status, r.text)
		}
	}
	if r := e.do("/password", url.Values{"old": {password}, "new": {"another one"}, "again": {"another one"}}, fresh); r.to() != "/" {
		t.Errorf("changed: %d to %q", r.status, r.to())
	}
	if r := e.do("/users", nil, fresh); r.status != 200 {
		t.Errorf("afterwards: %d", r.status)
	}
	if r := e.do("/sign-out", url.Values{}, fresh); r.to() != "/sign-in" || !strings.Contains(r.header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("signing out: %d %v", r.status, r.header)
	}
	if r := e.do("/", nil, fresh); r.status != 303 {
		t.Errorf("after signing out: %d", r.status)
	}
}

func TestUnknownPaths(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	guest := e.session("guest")
	for _, path := range []string{"/nothing", "/jobs/0", "/jobs/99", "/jobs/x", "/assets/nothing", "/users/1/2/3", "/jobs/1/"} {
		if r := e.do(path, nil, guest); r.status != 404 || !strings.Contains(r.header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: %d %s", path, r.status, r.header.Get("Content-Type"))
		}
	}
	for _, path := range []string{"/api/v1/nothing", "/oapi/v1/nothing"} {
		if r := e.do(path, nil, guest); r.status != 404 || !strings.Contains(r.header.Get("Content-Type"), "json") {
			t.Errorf("%s: %d %s", path, r.status, r.header.Get("Content-Type"))
		}
	}
	// A registry's program takes any answer that is not an error for success.
	for _, path := range []string{"/nothing", "/v2/_ping"} {
		if r := e.do(path, nil, header("Accept", "*/*")); r.status != 404 || !strings.Contains(r.header.Get("Content-Type"), "json") {
			t.Errorf("%s by a program: %d %s", path, r.status, r.header.Get("Content-Type"))
		}
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, path := range []string{"/sign-in", "/", "/jobs", "/nothing"} {
		r := e.do(path, nil, e.session("root"))
		csp := r.header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self';", "style-src 'self';", "form-action 'self'", "frame-ancestors 'none'"} {
			if r.status != 303 && !strings.Contains(csp, want) {
				t.Errorf("%s: policy %q has no %s", path, csp, want)
			}
		}
		if strings.Contains(r.text, " style=") || strings.Contains(r.text, "<style") || strings.Contains(r.text, " onclick=") || strings.Contains(r.text, "<script>") {
			t.Errorf("%s has styles or scripts that its policy forbids", path)
		}
	}
}

// What stands in assets is what was published; see asset.go.
func TestAssets(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for name, want := range map[string]string{
		"htmx.min.js":   "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130",
		"hx-sse.min.js": "18ef2761356ec1fe0bb6d92612315b37517a7c1e9856b661c5ae81fef239d103",
		"htmx.LICENSE":  "d3d2456f76414f2456104660ebd65aff1c04cd7966b942bdabd63f3cdb316a38",
	} {
		data, err := os.ReadFile("assets/" + name)
		sum := sha256.Sum256(data)
		if err != nil || hex.EncodeToString(sum[:]) != want {
			t.Errorf("%s is not the file that was published: %v", name, err)
		}
		r := e.do("/assets/"+name, nil)
		if r.status != 200 || r.text != string(data) || r.header.Get("ETag") == "" || r.header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %d %v", name, r.status, r.header)
		}
	}
	_, path, _ := strings.Cut(e.do("/sign-in", nil).text, `<script src="`)
	path, _, _ = strings.Cut(path, `"`)
	if r := e.do(path, nil); r.status != 200 || !strings.Contains(r.header.Get("Cache-Control"), "immutable") || !strings.HasPrefix(r.header.Get("Content-Type"), "text/javascript") {
		t.Errorf("%s: %d %v", path, r.status, r.header)
	}
}

func TestJobs(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	operator, guest := e.session("operator"), e.session("guest")
	layer := "sha256:" + strings.Repeat("0a", 32)
	r := e.do("/jobs/new", url.Values{"image": {"<b>no image"}, "registry_password": {"top secret"}, "registry_user": {"robot"}, "platforms": {"linux/amd64, x"}, "layers": {"sha256:short"}}, operator)
	if r.status != 400 || strings.Contains(r.text, "<b>no") || strings.Contains(r.text, "top secret") || !strings.Contains(r.text, "must be like linux/amd64") || !strings.Contains(r.text, "must be digests") {
		t.Errorf("a form with mistakes: %d %s", r.status, r.text)
	}
	r = e.do("/jobs/new", url.Values{"image": {"registry.example/team/app:v7"}, "registry_password": {"top secret"}, "registry_user": {"robot"}, "platforms": {"linux/amd64 linux/arm64"}, "layers": {layer}}, operator)
	if r.status != 303 || r.to() != "/jobs/1" {
		t.Fatalf("created: %d to %q", r.status, r.to())
	}
	for path, want := range map[string][]string{
		"/jobs":                {"registry.example/team/app:v7", "waiting"},
		"/jobs?state=waiting":  {"registry.example/team/app:v7"},
		"/jobs?state=failed":   {"no such jobs"},
		"/jobs/1":              {"/v2/team/app/manifests/v7", "linux/amd64, linux/arm64", "operator"},
		"/jobs?after=nonsense": {"registry.example/team/app:v7"},
	} {
		r := e.do(path, nil, guest)
		for _, w := range want {
			if !strings.Contains(r.text, w) {
				t.Errorf("%s does not show %s: %d %s", path, w, r.status, r.text)
			}
		}
		if strings.Contains(r.text, "top secret") || strings.Contains(r.text, "/cancel") || strings.Contains(r.text, "/jobs/new") {
			t.Errorf("%s shows a guest too much: %s", path, r.text)
		}
	}
	if r := e.do("/jobs/new?from=1", nil, operator); !strings.Contains(r.text, `value="registry.example/team/app:v7"`) || !strings.Contains(r.text, "linux/amd64 linux/arm64") || !strings.Contains(r.text, `value="`+layer+`"`) {
		t.Errorf("repeated: %d %s", r.status, r.text)
	}
	for range 2 { // the second time it has ended
		if r := e.do("/jobs/1/cancel", url.Values{}, operator); r.to() != "/jobs/1" {
			t.Errorf("cancelled: %d %s", r.status, r.text)
		}
	}
	if j, err := e.db.Job(t.Context(), 1); err != nil || j.State != store.Cancelled || j.Secret != nil {
		t.Errorf("%+v, %v", j, err)
	}
	for range 120 {
		if _, err := e.db.CreateJob(t.Context(), store.By{Actor: "test"}, store.Job{Kind: "image", URL: "https://r/v2/a/manifests/1", Deadline: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	seen := 0
	for path := "/jobs"; path != ""; {
		r := e.do(path, nil, guest)
		seen += strings.Count(r.text, `<tr id="job-`)
		_, rest, more := strings.Cut(r.text, `<a class="button small" href="/jobs?after=`)
		if path = ""; more {
			after, _, _ := strings.Cut(rest, `"`)
			path = "/jobs?after=" + after
		}
	}
	if seen != 121 {
		t.Errorf("the list has %d jobs", seen)
	}
}

func TestTokensAndUsers(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	guest, root := e.session("guest"), e.session("root")
	if r := e.do("/tokens", url.Values{"name": {"x"}, "scope": {"all"}, "expires_in_days": {"many"}}, guest); r.status != 400 || !strings.Contains(r.text, "not one of") || !strings.Contains(r.text, "from 0") {
		t.Errorf("a bad token: %d %s", r.status, r.text)
	}
	r := e.do("/tokens", url.Values{"name": {"ci"}, "scope": {"read"}, "expires_in_days": {"30"}}, guest)
	_, token, ok := strings.Cut(r.text, `<code id="fresh">`)
	token, _, _ = strings.Cut(token, "<")
	if r.status != 201 || !ok {
		t.Fatalf("a token: %d %s", r.status, r.text)
	}
	if r := e.do("/api/v1/me", nil, header("Authorization", "Bearer "+token)); r.status != 200 {
		t.Errorf("the token is no good: %d", r.status)
	}
	if r := e.do("/tokens", nil, guest); strings.Contains(r.text, token) || !strings.Contains(r.text, "ci") {
		t.Errorf("the token is shown again: %s", r.text)
	}
	if r := e.do("/tokens/1/revoke", url.Values{}, root); r.status != 404 {
		t.Errorf("somebody else's token revoked as one's own: %d", r.status)
	}
	if r := e.do("/users/3/tokens/1/revoke", url.Values{}, root); r.to() != "/users/3" {
		t.Errorf("revoked: %d %s", r.status, r.text)
	}
	if r := e.do("/users", url.Values{"name": {"Not Good"}, "password": {"x"}, "role": {"king"}}, root); r.status != 400 || strings.Count(r.text, `class="error"`) != 3 {
		t.Errorf("a bad user: %d %s", r.status, r.text)
	}
	if r := e.do("/users", url.Values{"name": {"guest"}, "password": {"long enough"}, "role": {"guest"}}, root); r.status != 409 {
		t.Errorf("a name twice: %d", r.status)
	}
	if r := e.do("/users", url.Values{"name": {"ada"}, "password": {"long enough"}, "role": {"guest"}}, root); r.to() != "/users/5" {
		t.Fatalf("a user: %d %s", r.status, r.text)
	}
	for _, form := range []url.Values{{"role": {"operator"}}, {"disabled": {"yes"}}, {"password": {"another long one"}}} {
		if r := e.do("/users/5", form, root); r.to() != "/users/5" {
			t.Errorf("%v: %d %s", form, r.status, r.text)
		}
	}
	if u, err := e.db.User(t.Context(), 5); err != nil || u.Role != store.Operator || !u.Disabled || !u.MustChange {
		t.Errorf("%+v, %v", u, err)
	}
	if r := e.do("/users/5/delete", url.Values{}, root); r.to() != "/users" {
		t.Errorf("deleted: %d", r.status)
	}
	if r := e.do("/users/4/delete", url.Values{}, root); r.to() != "/users" {
		t.Errorf("the other root deleted: %d", r.status)
	}
	if r := e.do("/users/1", url.Values{"role": {"guest"}}, root); r.status != 409 || !strings.Contains(r.text, "last user with role root") {
		t.Errorf("the last root: %d %s", r.status, r.text)
	}
	log := e.do("/audit", nil, root).text
	for _, want := range []string{"token.create", "token.delete", "user.create", "user.change", "user.delete"} {
		if !strings.Contains(log, want) {
			t.Errorf("the audit log has no %s", want)
		}
	}
	if strings.Contains(log, token) || strings.Contains(log, "long enough") {
		t.Error("the audit log has a secret")
	}
}

func TestHarbor(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	r := e.do("/harbor", nil, e.session("operator"), func(r *http.Request) { r.Host = "manager.example:8080" })
	if !strings.Contains(r.text, `<code id="endpoint">http://manager.example:8080</code>`) || !strings.Contains(r.text, "without TLS") {
		t.Errorf("%d %s", r.status, r.text)
	}
}

func TestTheme(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	r := e.do("/theme", url.Values{"theme": {"dark"}, "back": {"//evil.example"}})
	if r.to() != "/" || !strings.HasPrefix(r.header.Get("Set-Cookie"), "theme=dark;") {
		t.Errorf("%d %v", r.status, r.header)
	}
	if r := e.do("/sign-in", nil, header("Cookie", "theme=dark")); !strings.Contains(r.text, `data-theme="dark"`) {
		t.Error("what was chosen does not count")
	}
	if r := e.do("/sign-in", nil, header("Cookie", "theme=%22onload")); strings.Contains(r.text, "data-theme") {
		t.Error("what cannot be chosen counts")
	}
}

// events reads what a live page is sent, until it ends.
func (e *env) events(path string, with ...func(*http.Request)) (lines *bufio.Scanner, stop func()) {
	e.t.Helper()
	ctx, cancel := context.WithCancel(e.t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url+path, nil)
	if err != nil {
		e.t.Fatal(err)
	}
	req.Header.Set("HX-Request", "true")
	for _, f := range with {
		f(req)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		e.t.Fatal(err)
	}
	stop = func() { resp.Body.Close(); cancel() }
	e.t.Cleanup(stop)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		e.t.Fatalf("%s: %d %v", path, resp.StatusCode, resp.Header)
	}
	return bufio.NewScanner(resp.Body), stop
}

// until reads to a line with a text.
func until(t *testing.T, lines *bufio.Scanner, text string) {
	t.Helper()
	var all []string
	for lines.Scan() {
		if all = append(all, lines.Text()); strings.Contains(lines.Text(), text) {
			return
		}
	}
	t.Fatalf("there is no %q in\n%s", text, strings.Join(slices.Compact(all), "\n"))
}

func TestLive(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	ctx := t.Context()
	j := e.job("team/app")
	guest := e.session("guest")
	one, _ := e.events("/jobs/1/events", guest)
	until(t, one, "0 of 1 blobs")
	list, stopList := e.events("/jobs/events?state=running", guest)
	until(t, list, "team/app")
	overview, _ := e.events("/events", guest)
	until(t, overview, "Jobs running")
	cluster, _ := e.events("/clusters/1/events", e.session("root"))
	until(t, cluster, "Schedulers")
	if err := e.db.UpdateJobBlob(ctx, j, store.JobBlob{Digest: "sha256:layer", Got: 1 << 20, Host: "seed-0", State: store.Succeeded}); err != nil {
		t.Fatal(err)
	}
	until(t, one, "1 of 1 blobs")
	if err := e.db.EndJob(ctx, j, store.Succeeded, ""); err != nil {
		t.Fatal(err)
	}
	until(t, one, "succeeded")
	until(t, one, "event: end")
	until(t, list, "no such jobs")
	stopList()
	// Who is signed out sees no more.
	if r := e.do("/sign-out", url.Values{}, guest); r.status != 303 {
		t.Fatal(r.status)
	}
	until(t, overview, "event: end")
	// And when the manager stops, nobody keeps it.
	done := make(chan error, 1)
	srv := e.handler.HTTP() // what is live is told by any server of it
	go func() { done <- srv.Shutdown(context.Background()) }()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for cluster.Scan() { // it ends
	}
	if r := e.do("/jobs/1/events", nil, header("HX-Request", "true")); r.status != 401 || r.to() != "" {
		t.Errorf("events for nobody: %d to %q", r.status, r.to())
	}
}
