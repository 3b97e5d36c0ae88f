package origin_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// askingFor starts a registry that refuses each request and names a token
// server.
func askingFor(t *testing.T, token http.HandlerFunc) (r origin.Repo, requests *atomic.Int32) {
	t.Helper()
	tokens := httptest.NewServer(token)
	t.Cleanup(tokens.Close)
	requests = &atomic.Int32{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=s", tokens.URL))
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(server.Close)
	return origin.Repo{Host: strings.TrimPrefix(server.URL, "http://"), Path: repoPath}, requests
}

// TestTokenServerRedirectsElsewhere checks that neither a password nor an
// identity token follows a redirect to another server.
func TestTokenServerRedirectsElsewhere(t *testing.T) {
	var leaked atomic.Int32
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		leaked.Add(1)
		io.WriteString(w, `{"token":"t","access_token":"t"}`)
	}))
	t.Cleanup(thief.Close)
	for _, cred := range []origin.Credential{alice, {IdentityToken: "idt"}} {
		r, _ := askingFor(t, func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, thief.URL, http.StatusTemporaryRedirect)
		})
		_, err := get(client(t, origin.Config{Credentials: known{cred}}), r, digest.FromString("x"), 0, 10)
		if !errors.Is(err, origin.ErrResponse) || leaked.Load() != 0 {
			t.Errorf("%s: got %v, and %d requests where it redirects to", cred, err, leaked.Load())
		}
	}
}

func TestTokenServerAnswers(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		status     int
		want       error
	}{
		{"token that opens nothing", `{"token":"t"}`, 200, origin.ErrUnauthorized},
		{"no token", `{"expires_in":60}`, 200, origin.ErrUnauthorized},
		{"refuses", `{"details":"incorrect username or password"}`, 401, origin.ErrUnauthorized},
		{"refuses otherwise", "no such account", 403, origin.ErrUnauthorized},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, requests := askingFor(t, func(w http.ResponseWriter, req *http.Request) {
				if got := req.FormValue("scope"); got != "repository:"+repoPath+":pull" {
					t.Errorf("asked for the scope %q", got)
				}
				w.Header().Set("Content-Type", "text/plain")
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			})
			_, err := get(client(t, origin.Config{Credentials: known{alice}}), r, digest.FromString("x"), 0, 10)
			if !errors.Is(err, tt.want) || requests.Load() > 3 {
				t.Errorf("got %v after %d requests, want %v", err, requests.Load(), tt.want)
			}
			if err != nil {
				silent(t, err)
			}
			if tt.status >= 400 && !strings.Contains(err.Error(), "no such account") && !strings.Contains(err.Error(), "incorrect") {
				t.Errorf("%q leaves out what the token server says", err)
			}
		})
	}
}

// TestTokenServerNonsense checks answers without end or sense.
func TestTokenServerNonsense(t *testing.T) {
	for name, body := range map[string]string{
		"no JSON":   "<html>",
		"very long": `{"token":"` + strings.Repeat("x", 2<<20) + `"}`,
	} {
		r, _ := askingFor(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) })
		_, err := get(client(t, origin.Config{}), r, digest.FromString("x"), 0, 10)
		if err == nil || len(err.Error()) > 2000 {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestErrorTexts checks what of a registry's words is passed on.
func TestErrorTexts(t *testing.T) {
	for _, tt := range []struct{ name, contentType, body, want, not string }{
		{"errors", "application/json", `{"errors":[{"code":"DENIED","message":"quota\nis over"}]}`, "DENIED quota is over", "\n"},
		{"plain", "text/plain", "go away\x1b[31m", "go away", "\x1b"},
		{"page", "text/html", "<html>sorry</html>", "status 400", "html"},
		{"long", "text/plain", strings.Repeat("é", 5000), "éé…", strings.Repeat("é", 200)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tt.contentType)
				w.WriteHeader(http.StatusBadRequest)
				io.WriteString(w, tt.body)
			}))
			t.Cleanup(server.Close)
			r := origin.Repo{Host: strings.TrimPrefix(server.URL, "http://"), Path: repoPath}
			_, err := get(client(t, origin.Config{}), r, digest.FromString("x"), 0, 10)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), tt.not) {
				t.Errorf("got %q, want it with %q and without %q", err, tt.want, tt.not)
			}
		})
	}
}
