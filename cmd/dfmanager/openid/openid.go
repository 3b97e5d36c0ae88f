// Package openid has people sign in at an OpenID Connect provider, by the
// authorization code flow with PKCE.
//
// What has to be known when the browser comes back travels with it, sealed, so
// that another manager of the same database may go on, and nothing is kept for
// those who never do.
package openid

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/seal"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// CallbackPath is where the provider sends browsers back to.
const CallbackPath = "/sign-in/oidc/callback"

// Lasts is how much time people have at the provider.
const Lasts = 10 * time.Minute

const (
	purpose = "oidc" // of what is sealed
	maxNext = 1024
	patient = 10 * time.Second // with one request
)

// Config says which provider, and what its claims mean.
type Config struct {
	Issuer, ClientID, ClientSecret string // no secret: a public client
	Name                           string // of the provider, for people
	URL                            string // of this manager, as browsers reach it, without a path
	Scopes                         []string
	UserClaim, RoleClaim           string
	Roles                          Roles
	Roots                          *x509.CertPool // nil: the system's
	Key                            *seal.Key
}

// Roles are the values of the role claim that give each role; "*" is everybody.
type Roles struct{ Root, Operator, Guest []string }

// Error says to people why they could not sign in.
type Error struct {
	Message string
	Away    bool // the provider does not answer
	Err     error
}

// Error says it with what is behind it, which is for the log.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

// Unwrap returns what is behind it.
func (e *Error) Unwrap() error { return e.Err }

// Provider is where people sign in.
type Provider struct {
	Config
	client *http.Client

	mu    sync.Mutex // guards known, and is held while the provider is asked for it
	known *oidc.Provider
}

// New makes a Provider. It is asked when somebody signs in, so that it may be
// away until then.
func New(c Config) *Provider {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig.RootCAs = c.Roots
	return &Provider{Config: c, client: &http.Client{Transport: t, Timeout: patient}}
}

// Close closes what idle connections there are.
func (p *Provider) Close() { p.client.CloseIdleConnections() }

// discover returns what the provider says of itself.
func (p *Provider) discover(ctx context.Context) (*oidc.Provider, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known != nil {
		return p.known, nil
	}
	known, err := oidc.NewProvider(oidc.ClientContext(ctx, p.client), p.Issuer)
	if err != nil {
		return nil, &Error{"The provider cannot be used now. Try again later, or sign in with a password of this manager.", true, err}
	}
	p.known = known
	return known, nil
}

func (p *Provider) oauth(known *oidc.Provider) *oauth2.Config {
	at := known.Endpoint()
	var takes struct {
		Methods []string `json:"token_endpoint_auth_methods_supported"`
	}
	_ = known.Claims(&takes)                // it was read as JSON before
	at.AuthStyle = oauth2.AuthStyleInHeader // trying both, as the zero value does, would use up the code
	if p.ClientSecret == "" || slices.Contains(takes.Methods, "client_secret_post") && !slices.Contains(takes.Methods, "client_secret_basic") {
		at.AuthStyle = oauth2.AuthStyleInParams
	}
	return &oauth2.Config{
		ClientID: p.ClientID, ClientSecret: p.ClientSecret, Endpoint: at, RedirectURL: p.URL + CallbackPath,
		Scopes: append([]string{oidc.ScopeOpenID}, p.Scopes...),
	}
}

// attempt is what has to be known when a browser comes back.
type attempt struct {
	State, Nonce, Verifier string
	Next                   string // where the visitor wanted to go
	Expires                time.Time
}

func random() string {
	b := make([]byte, 24)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// Begin returns where to send a browser, and what it has to keep until it comes
// back: a cookie for [Lasts].
func (p *Provider) Begin(ctx context.Context, next string) (to, cookie string, err error) {
	known, err := p.discover(ctx)
	if err != nil {
		return "", "", err
	}
	if len(next) > maxNext {
		next = "/"
	}
	a := attempt{random(), random(), oauth2.GenerateVerifier(), next, time.Now().Add(Lasts)}
	text, err := json.Marshal(a)
	if err != nil {
		return "", "", err
	}
	to = p.oauth(known).AuthCodeURL(a.State, oidc.Nonce(a.Nonce), oauth2.S256ChallengeOption(a.Verifier))
	return to, base64.RawURLEncoding.EncodeToString(p.Key.Seal(text, purpose)), nil
}

// open returns the attempt that a browser has kept, if q belongs to it.
func (p *Provider) open(cookie string, q url.Values) (a attempt, err error) {
	sealed, err := base64.RawURLEncoding.DecodeString(cookie)
	if err == nil {
		var text []byte
		if text, err = p.Key.Open(sealed, purpose); err == nil {
			err = json.Unmarshal(text, &a)
		}
	}
	if err == nil && subtle.ConstantTimeCompare([]byte(a.State), []byte(q.Get("state"))) != 1 {
		err = errors.New("another state")
	}
	if err == nil && time.Now().After(a.Expires) {
		err = errors.New("it has expired")
	}
	if err != nil {
		return a, &Error{"This sign-in was begun in another browser, or too long ago. Try again.", false, err}
	}
	return a, nil
}

// Finish takes what a browser comes back with, and what it has kept, and returns
// who it is: Subject, Name and Role of a user. All that is wrong with that is an
// [Error]; ours says that the browser has kept what belongs to q.
func (p *Provider) Finish(ctx context.Context, cookie string, q url.Values) (u store.User, next string, ours bool, err error) {
	a, err := p.open(cookie, q)
	if err != nil {
		return u, "", false, err
	}
	if iss := q.Get("iss"); iss != "" && iss != p.Issuer {
		return u, "", true, &Error{Message: "The answer comes from another provider."}
	}
	if code := q.Get("error"); code != "" {
		why := code
		if said := q.Get("error_description"); said != "" && field.Printable(said) {
			why = fmt.Sprintf("%s (%.200s)", code, said)
		}
		return u, "", true, &Error{Message: "The provider refuses: " + why + "."}
	}
	known, err := p.discover(ctx)
	if err != nil {
		return u, "", true, err
	}
	claims, err := p.claims(ctx, known, a, q.Get("code"))
	if err != nil {
		return u, "", true, err
	}
	u, err = p.user(claims)
	return u, a.Next, true, err
}

// claims gets what the provider says of who has signed in.
func (p *Provider) claims(ctx context.Context, known *oidc.Provider, a attempt, code string) (map[string]any, error) {
	ctx = oidc.ClientContext(ctx, p.client)
	oauth := p.oauth(known)
	token, err := oauth.Exchange(ctx, code, oauth2.VerifierOption(a.Verifier))
	if err != nil {
		var refused *oauth2.RetrieveError
		if errors.As(err, &refused) && refused.Response.StatusCode/100 == 4 {
			return nil, &Error{"The provider does not take what it gave. Try again; if that does not help, the client's ID or secret is wrong.", false, err}
		}
		return nil, &Error{"The provider does not answer. Try again later.", true, err}
	}
	raw, _ := token.Extra("id_token").(string)
	id, err := known.VerifierContext(ctx, &oidc.Config{ClientID: p.ClientID}).Verify(ctx, raw)
	if err == nil && subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(a.Nonce)) != 1 {
		err = errors.New("another nonce")
	}
	if err == nil && id.AccessTokenHash != "" {
		err = id.VerifyAccessToken(token.AccessToken)
	}
	claims := map[string]any{}
	if err == nil {
		err = id.Claims(&claims)
	}
	if by, there := claims["azp"]; err == nil && there && by != p.ClientID {
		err = fmt.Errorf("it was given to %v", by)
	}
	if err != nil {
		return nil, &Error{"The provider's ID token is not good.", false, err}
	}
	if claim(claims, p.UserClaim) != nil && claim(claims, p.RoleClaim) != nil || known.UserInfoEndpoint() == "" {
		return claims, nil
	}
	return claims, p.more(ctx, known, oauth.TokenSource(ctx, token), claims)
}

// more adds to claims what only the provider's userinfo endpoint says.
func (p *Provider) more(ctx context.Context, known *oidc.Provider, token oauth2.TokenSource, claims map[string]any) error {
	more := map[string]any{}
	info, err := known.UserInfo(ctx, token)
	if err == nil {
		err = info.Claims(&more)
	}
	if err == nil && info.Subject != claims["sub"] {
		err = errors.New("it is about somebody else")
	}
	if err != nil {
		return &Error{"The provider does not say who you are.", false, fmt.Errorf("userinfo: %w", err)}
	}
	for name, value := range more {
		if _, there := claims[name]; !there {
			claims[name] = value
		}
	}
	return nil
}

// Host is the provider's name for people, or else where it is.
func (p *Provider) Host() string {
	if p.Name != "" {
		return p.Name
	}
	_, host, _ := strings.Cut(p.Issuer, "://")
	host, _, _ = strings.Cut(host, "/")
	return host
}
