package console_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/account"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/openid"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/openid/openidtest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// elsewhere is a manager whose users may sign in at a provider, too.
type elsewhere struct {
	*env
	at *openidtest.Provider
}

func newElsewhere(t *testing.T) *elsewhere {
	t.Helper()
	e := newEnv(t)
	at := openidtest.New(t, e.url+openid.CallbackPath, map[string]openidtest.User{
		"1": {Name: "anna", Groups: []string{"readers", "admins"}},
		"2": {Name: "Bert@Example.com", Groups: []string{"readers", "ops"}, Tokens: true},
		"3": {Name: "carl", Groups: []string{"readers"}},
		"4": {Name: "dora", Groups: []string{"others"}},
		"5": {Name: "no name", Groups: []string{"readers"}},
		"6": {Name: "operator", Groups: []string{"readers"}},
	})
	e.use(t, at.Issuer, openidtest.Secret)
	return &elsewhere{e, at}
}

// use has people sign in at an issuer.
func (e *env) use(t *testing.T, issuer, secret string) {
	e.pages.Provider = openid.New(openid.Config{
		Issuer: issuer, ClientID: openidtest.ClientID, ClientSecret: secret, Name: "Example ID", URL: e.url,
		Scopes: []string{"profile", "email"}, UserClaim: "preferred_username", RoleClaim: "groups",
		Roles: openid.Roles{Root: []string{"admins"}, Operator: []string{"ops", "more ops"}, Guest: []string{"readers"}}, Key: key(t),
	})
	t.Cleanup(e.pages.Provider.Close)
}

// signIn does what people do, and returns where that ends.
func (e *elsewhere) signIn(b *openidtest.Browser, name string) openidtest.Page {
	e.t.Helper()
	return b.SignIn(b.Open(e.url+"/sign-in/oidc?next=/about"), name)
}

func TestSignInElsewhere(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t)
	if p := openidtest.NewBrowser(t).Open(e.url + "/about"); !strings.Contains(p.Text, "Sign in with Example ID") || !strings.Contains(p.Text, `href="/sign-in/oidc?next=%2fabout"`) {
		t.Errorf("%s", p.Text)
	}
	for name, want := range map[string]store.User{
		"anna": {Name: "anna", Role: store.Root, Subject: e.at.Issuer + " 1"}, "Bert@Example.com": {Name: "bert@example.com", Role: store.Operator, Subject: e.at.Issuer + " 2"},
		"carl": {Name: "carl", Role: store.Guest, Subject: e.at.Issuer + " 3"},
	} {
		p := e.signIn(openidtest.NewBrowser(t), name)
		if p.Status != 200 || p.URL.Path != "/about" || !strings.Contains(p.Text, fmt.Sprintf(`<p>%s <span class="muted">%s</span></p>`, want.Name, want.Role)) {
			t.Errorf("%s: %d at %s: %s", name, p.Status, p.URL, p.Text)
		}
		got, err := e.db.UserByName(t.Context(), want.Name)
		got.ID, got.Created, got.Updated = 0, time.Time{}, time.Time{}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
	for name, say := range map[string]string{"dora": "gives you a role", "no name": "calls you no name", "operator": "is another user&#39;s"} {
		p := e.signIn(openidtest.NewBrowser(t), name)
		if p.Status != 403 || !strings.Contains(p.Text, say) {
			t.Errorf("%s: %d %s", name, p.Status, p.Text)
		}
	}
	for line, n := range map[string]int{"user.create anna": 1, "session.create anna": 1, "session.refuse " + e.at.Issuer + " 4": 1, "session.refuse " + e.at.Issuer + " 6": 1} {
		if got := e.audited(line); got != n {
			t.Errorf("%d rows %q", got, line)
		}
	}
	if u, err := e.db.UserByName(t.Context(), "operator"); err != nil || u.Subject != "" || u.Role != store.Operator {
		t.Errorf("a user of the same name: %+v %v", u, err)
	}
	if _, err := e.db.UserByName(t.Context(), "dora"); err == nil {
		t.Error("who has no role became a user")
	}
}

// audited counts the rows of the audit log.
func (e *env) audited(what string) (n int) {
	e.t.Helper()
	all, err := e.db.Entries(e.t.Context(), store.Page{Limit: 200})
	if err != nil {
		e.t.Fatal(err)
	}
	for _, a := range all {
		if a.Action+" "+a.Object == what {
			n++
		}
	}
	return n
}

// What the provider says counts each time, and what is said here, too.
func TestSignInElsewhereAgain(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t)
	b := openidtest.NewBrowser(t)
	e.signIn(b, "anna")
	e.at.Set("1", openidtest.User{Name: "renamed", Groups: []string{"readers"}})
	if p := e.signIn(openidtest.NewBrowser(t), "renamed"); p.Status != 200 || !strings.Contains(p.Text, `<p>anna <span class="muted">guest</span></p>`) {
		t.Errorf("with another role: %d %s", p.Status, p.Text)
	}
	if p := b.Open(e.url + "/users"); p.Status != 403 {
		t.Errorf("a session of before: %d", p.Status)
	}
	u, err := e.db.UserByName(t.Context(), "anna")
	if err != nil {
		t.Fatal(err)
	}
	root := e.session("root")
	for name, form := range map[string]url.Values{"role": {"role": {"root"}}, "password": {"password": {"long enough"}}} {
		if r := e.do(fmt.Sprintf("/users/%d", u.ID), form, root); r.status != 400 {
			t.Errorf("changing the %s: %d", name, r.status)
		}
	}
	var wrong field.Errors
	if err := e.pages.Accounts.ChangePassword(t.Context(), store.By{}, u, "", "", "long enough"); err == nil || !asFields(err, &wrong) || wrong["old"] == "" {
		t.Errorf("changing one's password: %v", err)
	}
	if _, err := e.pages.Accounts.Check(t.Context(), "192.0.2.1", "anna", ""); err == nil {
		t.Error("an empty password is good")
	}
	if p := b.Open(e.url + "/password"); p.Status != 200 || strings.Contains(p.Text, `name="old"`) {
		t.Errorf("the page for the password: %d %s", p.Status, p.Text)
	}
	if r := e.do(fmt.Sprintf("/users/%d", u.ID), nil, root); r.status != 200 || !strings.Contains(r.text, e.at.Issuer+" 1") || strings.Contains(r.text, `name="password"`) {
		t.Errorf("the user's page: %d %s", r.status, r.text)
	}
	yes := true
	if _, err := e.pages.Accounts.ChangeUser(t.Context(), store.By{Actor: "root"}, u.ID, account.UserPatch{Disabled: &yes}); err != nil {
		t.Fatal(err)
	}
	if p := e.signIn(openidtest.NewBrowser(t), "renamed"); p.Status != 403 || !strings.Contains(p.Text, "may not sign in") {
		t.Errorf("when disabled: %d %s", p.Status, p.Text)
	}
}

func asFields(err error, to *field.Errors) bool {
	f, is := err.(field.Errors) //nolint:errorlint // it is not wrapped
	*to = f
	return is
}

// Whoever would sign somebody in as somebody else.
func TestSignInElsewhereAttacked(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t)
	victim, attacker := openidtest.NewBrowser(t), openidtest.NewBrowser(t)
	attacker.Stay(openid.CallbackPath)
	stolen := e.signIn(attacker, "anna").To // the attacker's code and state
	refused := func(name string, p openidtest.Page, say string) {
		t.Helper()
		if p.Status < 400 || !strings.Contains(p.Text, say) {
			t.Errorf("%s: %d at %s: %s", name, p.Status, p.URL, p.Text)
		}
	}
	victim.Stay("/login")
	victim.Open(e.url + "/sign-in/oidc")
	refused("another browser's answer", victim.Open(stolen), "begun in another browser")
	refused("no attempt", openidtest.NewBrowser(t).Open(stolen), "begun in another browser")
	refused("no state", attacker.Open(e.url+openid.CallbackPath+"?code=x"), "begun in another browser")
	refused("another provider's", attacker.Open(stolen+"&iss=https://evil.example"), "another provider")
	if p := attacker.Open(stolen); p.Status != 403 || !strings.Contains(p.Text, "another browser") {
		t.Errorf("an attempt counts once: %d %s", p.Status, p.Text)
	}
	if n := e.audited("session.create anna"); n != 0 {
		t.Errorf("%d sessions", n)
	}

	again := openidtest.NewBrowser(t)
	again.Stay(openid.CallbackPath)
	to := e.signIn(again, "anna").To
	cookie := func(a map[string]any) func(*http.Request) {
		text, _ := json.Marshal(a)
		return func(r *http.Request) {
			r.AddCookie(&http.Cookie{Name: "dfmanager-oidc", Value: base64.RawURLEncoding.EncodeToString(key(t).Seal(text, "oidc"))})
		}
	}
	path := strings.TrimPrefix(to, e.url)
	state := mustURL(t, to).Query().Get("state")
	for name, a := range map[string]map[string]any{
		"begun behind another browser": {"State": state, "Nonce": "n", "Verifier": strings.Repeat("v", 43), "Next": "/", "Expires": time.Now().Add(time.Minute)},
		"too old":                      {"State": state, "Nonce": "n", "Verifier": strings.Repeat("v", 43), "Next": "/", "Expires": time.Now().Add(-time.Second)},
	} {
		if r := e.do(path, nil, cookie(a)); r.status != 403 || strings.Contains(r.header.Get("Set-Cookie"), "dfmanager=") {
			t.Errorf("%s: %d %s", name, r.status, r.text)
		}
	}
	for _, next := range []string{"https://evil.example/", "//evil.example", "/" + strings.Repeat("x", 5000)} {
		b := openidtest.NewBrowser(t)
		b.Stay("/about")
		p := b.SignIn(b.Open(e.url+"/sign-in/oidc?next="+url.QueryEscape(next)), "carl")
		if p.URL.String() != e.url+"/" || p.Status != 200 {
			t.Errorf("next %.30s: %d at %s", next, p.Status, p.URL)
		}
	}
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// A provider that is away, refuses, or says what it must not.
func TestSignInElsewhereGoesWrong(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t)
	change := func(path string, f func(body []byte) []byte) {
		e.at.Around = func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != path {
					h.ServeHTTP(w, r)
					return
				}
				rec := httptest.NewRecorder()
				h.ServeHTTP(rec, r)
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(rec.Code)
				_, _ = w.Write(f(rec.Body.Bytes()))
			})
		}
	}
	claims := func(f func(map[string]any)) func([]byte) []byte {
		return func(body []byte) []byte {
			var all, payload map[string]any
			_ = json.Unmarshal(body, &all)
			parts := strings.Split(all["id_token"].(string), ".")
			text, _ := base64.RawURLEncoding.DecodeString(parts[1])
			_ = json.Unmarshal(text, &payload)
			f(payload)
			text, _ = json.Marshal(payload)
			all["id_token"] = parts[0] + "." + base64.RawURLEncoding.EncodeToString(text) + "." + parts[2]
			text, _ = json.Marshal(all)
			return text
		}
	}
	for name, c := range map[string]struct {
		path   string
		change func([]byte) []byte
		say    string
	}{
		"a changed token":          {"/oauth/token", claims(func(m map[string]any) { m["sub"] = "1" }), "not good"},
		"no token":                 {"/oauth/token", func([]byte) []byte { return []byte(`{"access_token":"x","token_type":"Bearer"}`) }, "not good"},
		"no JSON":                  {"/oauth/token", func([]byte) []byte { return []byte("<html>") }, "does not answer"},
		"somebody else's userinfo": {"/userinfo", func([]byte) []byte { return []byte(`{"sub":"1","groups":["admins"],"preferred_username":"anna"}`) }, "does not say who you are"},
		"no userinfo":              {"/userinfo", func([]byte) []byte { return []byte(`{`) }, "does not say who you are"},
	} {
		change(c.path, c.change)
		if p := e.signIn(openidtest.NewBrowser(t), "carl"); p.Status < 400 || !strings.Contains(p.Text, c.say) {
			t.Errorf("%s: %d %s", name, p.Status, p.Text)
		}
	}
	e.at.Around = nil
	b := openidtest.NewBrowser(t)
	b.Stay("/login")
	state := mustURL(t, b.Open(e.url+"/sign-in/oidc").URL.String()).Query().Get("state")
	if p := b.Open(e.url + openid.CallbackPath + "?error=access_denied&error_description=ask+%3Cb%3Eher&state=" + state); p.Status != 403 || !strings.Contains(p.Text, "refuses: access_denied (ask &lt;b&gt;her)") {
		t.Errorf("refused: %d %s", p.Status, p.Text)
	}
	e.use(t, e.at.Issuer, "wrong")
	if p := e.signIn(openidtest.NewBrowser(t), "carl"); p.Status != 403 || !strings.Contains(p.Text, "ID or secret is wrong") {
		t.Errorf("with a wrong secret: %d %s", p.Status, p.Text)
	}
	e.use(t, "http://127.0.0.1:9", "")
	if p := openidtest.NewBrowser(t).Open(e.url + "/sign-in/oidc"); p.Status != 502 || !strings.Contains(p.Text, "cannot be used now") {
		t.Errorf("without a provider: %d %s", p.Status, p.Text)
	}
	e.pages.Provider = nil
	for _, path := range []string{"/sign-in/oidc", openid.CallbackPath} {
		if p := openidtest.NewBrowser(t).Open(e.url + path); p.Status != 404 {
			t.Errorf("%s where none is configured: %d", path, p.Status)
		}
	}
}

// A provider that forgets PKCE: the nonce still ties the token to the browser.
func TestSignInElsewhereWithoutPKCE(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t)
	e.at.Around = func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			q := r.URL.Query()
			q.Del("code_challenge")
			q.Del("code_challenge_method")
			r.URL.RawQuery = q.Encode()
			if r.URL.Path == "/oauth/token" {
				text, _ := io.ReadAll(r.Body)
				form, _ := url.ParseQuery(string(text))
				form.Del("code_verifier")
				r.Body, r.ContentLength = io.NopCloser(strings.NewReader(form.Encode())), int64(len(form.Encode()))
			}
			h.ServeHTTP(w, r)
		})
	}
	victim, attacker := openidtest.NewBrowser(t), openidtest.NewBrowser(t)
	attacker.Stay(openid.CallbackPath)
	code := mustURL(t, e.signIn(attacker, "anna").To).Query().Get("code")
	victim.Stay(openid.CallbackPath)
	own := mustURL(t, e.signIn(victim, "carl").To)
	q := own.Query()
	q.Set("code", code) // with the victim's own state
	own.RawQuery = q.Encode()
	if p := victim.Open(own.String()); p.Status != 403 || !strings.Contains(p.Text, "not good") {
		t.Errorf("another's code: %d %s", p.Status, p.Text)
	}
	if p := e.signIn(openidtest.NewBrowser(t), "anna"); p.Status != 200 {
		t.Errorf("such a provider: %d %s", p.Status, p.Text)
	}
}
