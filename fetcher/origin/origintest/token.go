package origintest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	tokenPath = "/token"
	service   = "origintest"
)

// token is one that the token server has given.
type token struct {
	user    string // "" for anonymous
	scope   string
	expires time.Time
}

// ExpireTokens makes the registry refuse the tokens given so far.
func (r *Registry) ExpireTokens() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, t := range r.tokens {
		t.expires = time.Time{}
		r.tokens[k] = t
	}
}

// SetUsers changes who may log in.
func (r *Registry) SetUsers(users map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opts.Users = users
}

// allowed tells whether a request may read a repository, and answers it if
// not.
func (r *Registry) allowed(w http.ResponseWriter, req *http.Request, q *Request, repo string) bool {
	switch r.opts.Auth {
	case Basic:
		name, password, _ := req.BasicAuth()
		if r.knows(name, password) && r.mayRead(name, repo) {
			return true
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="origintest"`)
	case Bearer:
		r.mu.Lock()
		t, ok := r.tokens[strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")]
		r.mu.Unlock()
		expired := ok && time.Now().After(t.expires)
		scope := "repository:" + repo + ":pull"
		if req.Method == http.MethodPost || req.Method == http.MethodPut {
			scope += ",push"
		}
		if ok && !expired && strings.Contains(t.scope, scope) && r.mayRead(t.user, repo) {
			return true
		}
		if expired && r.opts.ExpiredStatus != http.StatusUnauthorized {
			r.reply(w, q, r.opts.ExpiredStatus, "DENIED")
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s%s",service="%s",scope="%s"`, r.main.URL, tokenPath, service, scope))
	default:
		return true
	}
	r.reply(w, q, http.StatusUnauthorized, "UNAUTHORIZED")
	return false
}

func (r *Registry) knows(name, password string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	want, ok := r.opts.Users[name]
	return ok && want == password
}

func (r *Registry) mayRead(user, repo string) bool {
	readers, listed := r.opts.Readers[repo]
	if !listed {
		return user != ""
	}
	return slices.Contains(readers, user)
}

// serveToken gives tokens, also ones that open nothing, as registries do.
func (r *Registry) serveToken(w http.ResponseWriter, req *http.Request, q *Request) {
	if req.Method == http.MethodGet && r.opts.PostOnly {
		r.reply(w, q, http.StatusMethodNotAllowed, "UNSUPPORTED")
		return
	}
	f, healed := r.fault(TokenServer)
	if f.Hang {
		hang(req, healed)
	}
	if f.Status != 0 {
		w.Header().Set("Retry-After", f.RetryAfter)
		r.reply(w, q, f.Status, "FAULT")
		return
	}
	user, ok := r.login(req)
	if !ok || req.FormValue("service") != service {
		r.reply(w, q, http.StatusUnauthorized, "UNAUTHORIZED")
		return
	}
	r.mu.Lock()
	r.serial++
	key := fmt.Sprintf("token-%d", r.serial)
	r.tokens[key] = token{user: user, scope: strings.Join(req.Form["scope"], " "), expires: time.Now().Add(r.opts.TokenLife)}
	q.Status = http.StatusOK
	r.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{ //nolint:errcheck // the client is gone
		"token": key, "access_token": key, "expires_in": int(r.opts.TokenLife / time.Second),
	})
}

// login returns who asks for a token.
func (r *Registry) login(req *http.Request) (user string, ok bool) {
	switch req.FormValue("grant_type") {
	case "refresh_token":
		user = req.FormValue("refresh_token")
		return user, slices.Contains(r.opts.IdentityTokens, user)
	case "password":
		user = req.FormValue("username")
		return user, r.knows(user, req.FormValue("password"))
	}
	user, password, given := req.BasicAuth()
	if !given {
		return "", true
	}
	return user, r.knows(user, password)
}
