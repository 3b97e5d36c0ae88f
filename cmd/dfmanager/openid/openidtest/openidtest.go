// Package openidtest gives tests an OpenID Connect provider: zitadel/oidc's, with
// users in memory, on this machine. Browsers sign in at a page of its own.
package openidtest

import (
	"context"
	"crypto/sha256"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// ClientID and Secret are the manager's at the provider; Password is everybody's.
const (
	ClientID = "dfmanager"
	Secret   = "the client's secret"
	Password = "at the provider"
)

// User is somebody whom the provider knows.
type User struct {
	Name   string // preferred_username
	Email  string
	Groups []string // claim groups
	Proven bool     // the address is verified
	Tokens bool     // groups are in the ID token, and not only at the userinfo endpoint
}

// Provider is one. Its fields may be set before it is asked.
type Provider struct {
	Issuer string
	Around func(http.Handler) http.Handler // nil: as it is

	mu    sync.Mutex // guards users
	users map[string]User
}

// New starts a provider that knows users by their subject, and sends browsers back
// to callback.
func New(t testing.TB, callback string, users map[string]User) *Provider {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	p := &Provider{Issuer: "http://localhost:" + port, users: users} // to browsers another site than 127.0.0.1
	clients := map[string]*storage.Client{ClientID: storage.WebClient(ClientID, Secret, callback)}
	s := grouped{storage.NewStorageWithClients(known{p}, clients), p}
	provider, err := op.NewProvider(&op.Config{CryptoKey: sha256.Sum256([]byte("test")), CodeMethodS256: true}, s, op.StaticIssuer(p.Issuer),
		op.WithAllowInsecure(), op.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", provider)
	mux.HandleFunc("GET /login/username", func(w http.ResponseWriter, r *http.Request) {
		_ = loginPage.Execute(w, r.FormValue("authRequestID")) // who has left does not see it
	})
	mux.HandleFunc("POST /login/username", func(w http.ResponseWriter, r *http.Request) {
		if err := s.CheckUsernamePassword(r.FormValue("username"), r.FormValue("password"), r.FormValue("id")); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		http.Redirect(w, r, "/authorize/callback?"+url.Values{"id": {r.FormValue("id")}}.Encode(), http.StatusFound)
	})
	ts := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := http.Handler(mux)
		if p.Around != nil {
			h = p.Around(h)
		}
		h.ServeHTTP(w, r)
	}))
	_ = ts.Listener.Close() // it has one of ours
	ts.Listener = ln
	ts.Start()
	t.Cleanup(ts.Close)
	return p
}

// loginPage is where people sign in at the provider.
var loginPage = template.Must(template.New("").Parse(`<!doctype html><html lang="en"><title>Provider</title><main><h1>Provider</h1>
<form method="post" action="/login/username"><input type="hidden" name="id" value="{{.}}">
<label for="username">User</label> <input id="username" name="username">
<label for="password">Password</label> <input id="password" name="password" type="password">
<button>Log in</button></form></main></html>`))

// Set changes what is known of a user.
func (p *Provider) Set(subject string, u User) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users[subject] = u
}

func (p *Provider) user(subject string) User {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.users[subject]
}

// known is what the provider's example asks of users.
type known struct{ p *Provider }

// GetUserByID returns the user with a subject.
func (k known) GetUserByID(subject string) *storage.User {
	u := k.p.user(subject)
	if u.Name == "" {
		return nil
	}
	return &storage.User{ID: subject, Username: u.Name, Password: Password, Email: u.Email, EmailVerified: u.Proven}
}

// GetUserByUsername returns the user with a name.
func (k known) GetUserByUsername(name string) *storage.User {
	k.p.mu.Lock()
	subject := ""
	for s, u := range k.p.users {
		if u.Name == name {
			subject = s
		}
	}
	k.p.mu.Unlock()
	return k.GetUserByID(subject)
}

// ExampleClientID is that of a client that nobody uses.
func (known) ExampleClientID() string { return "nobody" }

// grouped is a storage whose users have groups.
type grouped struct {
	*storage.Storage
	p *Provider
}

// SetUserinfoFromRequest says what is in an ID token.
func (g grouped) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, r op.IDTokenRequest, scopes []string) error {
	err := g.Storage.SetUserinfoFromRequest(ctx, info, r, scopes)
	if u := g.p.user(r.GetSubject()); u.Tokens {
		info.PreferredUsername = u.Name
		info.AppendClaims("groups", u.Groups)
	}
	return err
}

// SetUserinfoFromToken says what the userinfo endpoint answers.
func (g grouped) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, id, subject, origin string) error {
	info.AppendClaims("groups", g.p.user(subject).Groups)
	return g.Storage.SetUserinfoFromToken(ctx, info, id, subject, origin)
}

// Browser is one without scripts. It follows redirects until there is a page.
type Browser struct {
	t      testing.TB
	client *http.Client
}

// NewBrowser makes one that has no cookies.
func NewBrowser(t testing.TB) *Browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &Browser{t, &http.Client{Jar: jar, Transport: transport}}
}

// Stay has it follow no redirect whose path begins with this, but return that.
func (b *Browser) Stay(path string) {
	b.client.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.Path, path) {
			return http.ErrUseLastResponse
		}
		return nil
	}
}

// Page is what it shows.
type Page struct {
	URL    *url.URL
	Status int
	Text   string
	To     string // where it would go on to
}

// Open goes to a page.
func (b *Browser) Open(address string) Page {
	b.t.Helper()
	r, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Accept", "text/html")
	return b.do(r)
}

func (b *Browser) do(r *http.Request) Page {
	b.t.Helper()
	resp, err := b.client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return Page{resp.Request.URL, resp.StatusCode, string(text), resp.Header.Get("Location")}
}

var request = regexp.MustCompile(`name="id" value="([^"]+)"`)

// SignIn fills in the provider's page.
func (b *Browser) SignIn(at Page, name string) Page {
	b.t.Helper()
	id := request.FindStringSubmatch(at.Text)
	if id == nil {
		b.t.Fatalf("not the provider's page: %d at %s: %s", at.Status, at.URL, at.Text)
	}
	form := url.Values{"username": {name}, "password": {Password}, "id": {id[1]}}
	r, err := http.NewRequest(http.MethodPost, at.URL.ResolveReference(&url.URL{Path: "/login/username"}).String(), strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.do(r)
}
