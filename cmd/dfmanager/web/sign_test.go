package web_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
)

func signIn(name, password string) string {
	return fmt.Sprintf(`{"name":%q,"password":%q}`, name, password)
}

func cookie(t *testing.T, r reply) *http.Cookie {
	t.Helper()
	all := (&http.Response{Header: r.header}).Cookies()
	if len(all) != 1 {
		t.Fatalf("cookies %v of %d %s", all, r.status, r.text)
	}
	return all[0]
}

func TestSignInChangePasswordSignOut(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	k := cookie(t, e.want(201, e.do("POST", "/api/v1/session", signIn("Fresh", password))))
	if !k.HttpOnly || k.SameSite != http.SameSiteStrictMode || k.Secure || k.Path != "/" {
		t.Errorf("cookie %v", k)
	}
	me := func(r *http.Request) { r.AddCookie(k) }
	if r := e.do("GET", "/api/v1/users", "", me); r.code() != "password_change_required" {
		t.Errorf("before the password is changed: %d %s", r.status, r.text)
	}
	other := e.session("fresh")
	for body, say := range map[string]string{
		`{"old":"wrong password","new":"another password"}`:       "unauthorized",
		`{"old":"` + password + `","new":"short"}`:                "at least",
		`{"old":"` + password + `","new":"` + password + `"}`:     "the old one",
		`{"old":"` + password + `","new":"another","again":true}`: "again",
	} {
		if r := e.do("PUT", "/api/v1/me/password", body, me); r.status < 400 || !strings.Contains(r.text, say) {
			t.Errorf("%s: %d %s", body, r.status, r.text)
		}
	}
	e.want(204, e.do("PUT", "/api/v1/me/password", `{"old":"`+password+`","new":"another password"}`, me))
	e.want(200, e.do("GET", "/api/v1/users", "", me))
	e.want(401, e.do("GET", "/api/v1/me", "", other))
	e.want(401, e.do("POST", "/api/v1/session", signIn("fresh", password)))
	e.want(201, e.do("POST", "/api/v1/session", signIn("fresh", "another password")))
	gone := cookie(t, e.want(204, e.do("DELETE", "/api/v1/session", "", me)))
	if gone.MaxAge >= 0 || gone.Value != "" {
		t.Errorf("cookie after signing out: %v", gone)
	}
	e.want(401, e.do("GET", "/api/v1/me", "", me))
}

func TestSessionIsNewAtEachSignIn(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	planted := func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "dfmanager", Value: "planted"}) }
	k := cookie(t, e.want(201, e.do("POST", "/api/v1/session", signIn("guest", password), planted)))
	if k.Value == "planted" {
		t.Error("the session is the one that was sent")
	}
	e.want(401, e.do("GET", "/api/v1/me", "", planted))
	first := func(r *http.Request) { r.AddCookie(k) }
	again := cookie(t, e.want(201, e.do("POST", "/api/v1/session", signIn("root", password), first)))
	e.want(401, e.do("GET", "/api/v1/me", "", first))
	e.want(200, e.do("GET", "/api/v1/me", "", func(r *http.Request) { r.AddCookie(again) }))
}

func TestCookieWhereBrowsersUseHTTPS(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(c *web.Config) { c.Secure = true })
	r := e.want(201, e.do("POST", "/api/v1/session", signIn("guest", password)))
	if k := cookie(t, r); !k.Secure || k.Name != "__Host-dfmanager" || r.header.Get("Strict-Transport-Security") == "" {
		t.Errorf("%v %v", k, r.header)
	}
}

func TestRefusedSignIns(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, body := range []string{signIn("root", "wrong password"), signIn("gone", password), signIn("nobody", password), signIn("root' OR '1'='1", password), signIn("", "")} {
		if r := e.do("POST", "/api/v1/session", body); r.status != 401 || r.header.Get("Set-Cookie") != "" || r.code() != "unauthorized" {
			t.Errorf("%s: %d %s", body, r.status, r.text)
		}
	}
}

func TestBruteForce(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for range 5 {
		e.want(401, e.do("POST", "/api/v1/session", signIn("root", "wrong password")))
	}
	for _, try := range []reply{
		e.do("POST", "/api/v1/session", signIn("root", password)), // even the right one
		e.do("GET", "/api/v1/me", "", basic("ROOT", password)),
	} {
		if try.status != 429 || try.code() != "too_many_failures" || try.header.Get("Retry-After") == "" {
			t.Errorf("%d %s", try.status, try.text)
		}
	}
	e.want(201, e.do("POST", "/api/v1/session", signIn("guest", password)))
	for i := range 20 {
		e.do("POST", "/api/v1/session", signIn(fmt.Sprintf("name%d", i), "wrong password"))
	}
	e.want(429, e.do("POST", "/api/v1/session", signIn("operator", "another wrong one")))
	e.want(200, e.do("GET", "/api/v1/me", "", bearer(e.token("operator", "read")))) // tokens cannot be guessed
}

func TestCredentialsInHeaders(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	token, expired := e.token("operator", "read"), "dfm_not-there"
	for name, c := range map[string]struct {
		with   func(*http.Request)
		status int
	}{
		"bearer":                   {bearer(token), 200},
		"custom":                   {header("X-Dfmanager-Token", token), 200},
		"basic with token":         {basic("operator", token), 200},
		"basic with password":      {basic("operator", password), 200},
		"somebody else's token":    {basic("root", token), 401},
		"no such token":            {bearer(expired), 401},
		"no such token in custom":  {header("X-Dfmanager-Token", "x"), 401},
		"password as bearer":       {bearer(password), 401},
		"wrong password":           {basic("operator", "wrong password"), 401},
		"other scheme":             {header("Authorization", "Negotiate x"), 401},
		"disabled user's password": {basic("gone", password), 401},
		"disabled user's token":    {bearer(e.token("gone", "admin")), 401},
	} {
		for range 2 { // the second time it is known
			if r := e.do("GET", "/api/v1/me", "", c.with); r.status != c.status {
				t.Errorf("%s: %d %s", name, r.status, r.text)
			}
		}
		// Whoever sends credentials is told if they are no good, wherever.
		if r := e.do("GET", "/healthz", "", c.with); r.status != c.status {
			t.Errorf("health, %s: %d %s", name, r.status, r.text)
		}
	}
}

func TestRememberedPasswordEndsWithThePassword(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.want(200, e.do("GET", "/api/v1/me", "", basic("guest", password)))
	path := fmt.Sprintf("/api/v1/users/%d", e.users["guest"].ID)
	e.want(200, e.do("PATCH", path, `{"disabled":true}`, e.session("root")))
	e.want(401, e.do("GET", "/api/v1/me", "", basic("guest", password)))
	e.want(200, e.do("PATCH", path, `{"disabled":false,"password":"another password"}`, e.session("root")))
	e.want(401, e.do("GET", "/api/v1/me", "", basic("guest", password)))
	if r := e.do("GET", "/api/v1/openapi.json", "", basic("guest", "another password")); r.code() != "password_change_required" {
		t.Errorf("with a password that was given: %d %s", r.status, r.text)
	}
}

func TestOtherSites(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	root := e.session("root")
	body := `{"name":"x","password":"long enough","role":"root"}`
	for name, with := range map[string][]func(*http.Request){
		"fetch":      {root, header("Sec-Fetch-Site", "cross-site")},
		"subdomain":  {root, header("Sec-Fetch-Site", "same-site")},
		"old":        {root, header("Origin", "https://evil.example")},
		"sandboxed":  {root, header("Origin", "null")},
		"basic auth": {basic("root", password), header("Origin", "https://evil.example")},
	} {
		if r := e.do("POST", "/api/v1/users", body, with...); r.status != 403 || r.code() != "cross_origin" {
			t.Errorf("%s: %d %s", name, r.status, r.text)
		}
	}
	if r := e.do("POST", "/api/v1/session", signIn("root", password), header("Origin", "https://evil.example")); r.status != 403 {
		t.Errorf("signing in: %d", r.status)
	}
	e.want(201, e.do("POST", "/api/v1/users", body, root, header("Origin", e.url), header("Sec-Fetch-Site", "same-origin")))
}

func TestUsersAndTokens(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	root := e.session("root")
	var u struct {
		ID         int64
		Role       string
		MustChange bool `json:"must_change_password"`
	}
	e.want(201, e.do("POST", "/api/v1/users", `{"name":"jane@example.com","password":"long enough","role":"operator"}`, root)).into(t, &u)
	if u.Role != "operator" || !u.MustChange {
		t.Errorf("%+v", u)
	}
	path := fmt.Sprintf("/api/v1/users/%d", u.ID)
	e.want(200, e.do("PATCH", path, `{"role":"guest"}`, root)).into(t, &u)
	if u.Role != "guest" {
		t.Errorf("%+v", u)
	}
	e.want(400, e.do("PATCH", path, `{"role":"king"}`, root))
	e.want(400, e.do("PATCH", path, `{"password":"short"}`, root))

	guest := e.session("guest")
	var k struct {
		ID    int64
		Token string
	}
	e.want(201, e.do("POST", "/api/v1/me/tokens", `{"name":"ci","scopes":["read"],"expires_in_days":1}`, guest)).into(t, &k)
	e.want(200, e.do("GET", "/api/v1/me", "", bearer(k.Token)))
	for _, bad := range []string{`{"name":"","scopes":["read"]}`, `{"name":"x","scopes":[]}`, `{"name":"x","scopes":["all"]}`, `{"name":"x\u0007","scopes":["read"]}`, `{"name":"x","scopes":["read"],"expires_in_days":-1}`} {
		e.want(400, e.do("POST", "/api/v1/me/tokens", bad, guest))
	}
	if r := e.want(200, e.do("GET", "/api/v1/me/tokens", "", guest)); !strings.Contains(r.text, "last_used_at\":\"") || strings.Contains(r.text, k.Token) {
		t.Errorf("%s", r.text)
	}
	mine := fmt.Sprintf("/api/v1/me/tokens/%d", k.ID)
	e.want(404, e.do("DELETE", mine, "", e.session("operator")))
	e.want(204, e.do("DELETE", fmt.Sprintf("/api/v1/users/%d/tokens/%d", e.users["guest"].ID, k.ID), "", root))
	e.want(401, e.do("GET", "/api/v1/me", "", bearer(k.Token)))
	e.want(204, e.do("DELETE", path, "", root))
	e.want(404, e.do("GET", path, "", root))
}

// Nothing that lets somebody in is shown after it was made, nor logged, nor
// noted.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	k := cookie(t, e.want(201, e.do("POST", "/api/v1/session", signIn("root", password))))
	root := func(r *http.Request) { r.AddCookie(k) }
	var made struct{ Token string }
	e.want(201, e.do("POST", "/api/v1/me/tokens", `{"name":"x","scopes":["admin"]}`, root)).into(t, &made)
	e.do("POST", "/api/v1/session", signIn("my-secret-password!", "x")) // typed into the wrong field
	e.do("GET", "/api/v1/me", "", bearer("dfm_wrong-secret-token"))
	e.want(201, e.do("POST", "/api/v1/users", `{"name":"x","password":"secret-of-x","role":"guest"}`, root))
	for _, order := range []string{ // of servers that are not there
		`{"image":"127.0.0.1:1/a:1","registry_user":"secret-user","registry_password":"secret-of-registry"}`,
		`{"image":"127.0.0.1:1/a:1","registry_token":"secret-of-registry"}`,
		`{"kind":"file","url":"http://secret-user:secret-in-url@127.0.0.1:1/a?X-Amz-Signature=secret-signature&token=secret-param","filter":["token"],"headers":{"X-A":"secret-header"}}`,
	} {
		var j struct{ ID int64 }
		e.want(201, e.do("POST", "/api/v1/jobs", order, root)).into(t, &j)
		e.ended(j.ID)
	}
	e.want(201, e.do("POST", "/api/v1/schedules", `{"cron":"@daily","kind":"file","url":"https://h/a?X-Amz-Signature=secret-signature","headers":{"X-A":"secret-header"}}`, root))
	all := e.log.String()
	for _, path := range []string{"/api/v1/users", "/api/v1/audit?limit=200", "/api/v1/me/tokens", "/api/v1/me", "/api/v1/jobs", "/api/v1/jobs/3", "/api/v1/jobs/3/blobs", "/api/v1/schedules"} {
		all += e.want(200, e.do("GET", path, "", root)).text
	}
	for _, secret := range []string{password, k.Value, made.Token, "my-secret-password", "wrong-secret-token", "secret-of-x", "secret-of-registry", "secret-user", "secret-in-url", "secret-signature", "secret-param", "secret-header", "argon2", e.users["root"].Password} {
		if strings.Contains(all, secret) {
			t.Errorf("%q is shown or logged", secret)
		}
	}
	if !strings.Contains(all, "token.create") || !strings.Contains(all, "session.refuse") {
		t.Error("the audit log says nothing")
	}
}

// ended waits for a job's end.
func (e *env) ended(id int64) {
	e.t.Helper()
	for range 1000 {
		if j, err := e.db.Job(bg, id); err != nil {
			e.t.Fatal(err)
		} else if j.State.Done() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	e.t.Fatalf("job %d does not end", id)
}

// Whatever is typed is a value, and no part of a statement.
func TestInjection(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	root := e.session("root")
	tables := func() string {
		text := ""
		for _, path := range []string{"/api/v1/users?limit=200", "/api/v1/clusters", "/api/v1/me/tokens"} {
			text += e.want(200, e.do("GET", path, "", root)).text
		}
		return text
	}
	before := tables()
	for _, p := range []string{`' OR '1'='1`, `'; DROP TABLE users; --`, `"; DELETE FROM sessions; --`, `root' --`, `\'; UPDATE users SET role='root' --`, `$1`, `%' UNION SELECT password FROM users --`, "a\x00b"} {
		typed, _ := json.Marshal(p)
		q := url.QueryEscape(p)
		for _, r := range []reply{
			e.do("POST", "/api/v1/session", fmt.Sprintf(`{"name":%s,"password":%s}`, typed, typed)),
			e.do("GET", "/api/v1/me", "", basic(p, p)),
			e.do("GET", "/api/v1/me", "", bearer(strings.ReplaceAll(p, "\x00", ""))),
			e.do("POST", "/api/v1/users", fmt.Sprintf(`{"name":%s,"password":"long enough","role":%s}`, typed, typed), root),
			e.do("POST", "/api/v1/clusters", fmt.Sprintf(`{"name":%s}`, typed), root),
			e.do("POST", "/api/v1/jobs", fmt.Sprintf(`{"image":%s}`, typed), root),
			e.do("POST", "/api/v1/jobs", fmt.Sprintf(`{"kind":"file","url":%s}`, typed), root),
			e.do("POST", "/api/v1/jobs", fmt.Sprintf(`{"kind":"remove","blob":%s}`, typed), root),
			e.do("POST", "/api/v1/schedules", fmt.Sprintf(`{"image":"a","cron":%s}`, typed), root),
			e.do("POST", "/api/v1/join-tokens", fmt.Sprintf(`{"role":%s}`, typed), root),
			e.do("GET", "/api/v1/jobs?state="+q, "", root),
			e.do("GET", "/api/v1/users?limit="+q, "", root),
			e.do("GET", "/api/v1/users?after="+q, "", root),
			e.do("GET", "/api/v1/clusters/1/blobs/"+url.PathEscape(p), "", root),
		} {
			if r.status < 400 || r.status >= 500 {
				t.Errorf("%q: %d %s", p, r.status, r.text)
			}
		}
		// These are values like others.
		r := e.do("POST", "/api/v1/jobs", fmt.Sprintf(`{"kind":"file","url":"https://127.0.0.1:1/a","tag":%s,"filter":[%s]}`, typed, typed), root)
		if printable := !strings.Contains(p, "\x00"); (r.status == 201) != printable {
			t.Errorf("a tag %q: %d %s", p, r.status, r.text)
		}
	}
	if diff := cmp.Diff(before, tables()); diff != "" {
		t.Error(diff)
	}
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(c *web.Config) {
		c.Rate = 1
		c.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	})
	for range 10 {
		e.want(200, e.do("GET", "/healthz", ""))
	}
	if r := e.do("GET", "/healthz", ""); r.status != 429 || r.header.Get("Retry-After") != "1" {
		t.Errorf("%d %v", r.status, r.header)
	}
	// Others are not concerned; who they are is what the proxy says last.
	e.want(200, e.do("GET", "/healthz", "", header("X-Forwarded-For", "192.0.2.1")))
	for range 9 {
		e.want(200, e.do("GET", "/healthz", "", header("X-Forwarded-For", "198.51.100.9, 192.0.2.1, 10.0.0.1")))
	}
	e.want(429, e.do("GET", "/healthz", "", header("X-Forwarded-For", "203.0.113.77, 192.0.2.1")))
}

func TestDatabaseIsAway(t *testing.T) {
	t.Parallel()
	server := storetest.NewPostgres(t)
	db := storetest.Open(t, server.Database(t))
	e := newEnv(t, func(c *web.Config) { c.Store = db })
	e.want(200, e.do("GET", "/readyz", ""))
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	r := e.do("GET", "/readyz", "")
	if r.status != 503 || r.code() != "unavailable" || r.header.Get("Retry-After") == "" || strings.Contains(r.text, "dial") {
		t.Errorf("%d %s", r.status, r.text)
	}
	e.want(200, e.do("GET", "/healthz", ""))
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	e.want(200, e.do("GET", "/readyz", ""))
}
