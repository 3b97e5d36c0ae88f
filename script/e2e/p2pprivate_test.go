package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

const (
	user   = "puller"
	secret = "d0-n0t-te11-anyb0dy"
)

// tokens is a server of tokens, as registries ask for: the user's name and
// password for leave to pull.
type tokens struct {
	key  *ecdsa.PrivateKey
	life time.Duration

	mu     sync.Mutex // guards the rest
	issued []string
	users  map[string]account
}

// account is somebody to whom tokens are issued.
type account struct {
	password string
	repos    []string // that may be pulled; nil: all
}

// openTokens serves tokens at addr of a host. Registries let them pass for life.
func openTokens(t *testing.T, h *lab.Host, addr string, life time.Duration) *tokens {
	t.Helper()
	s := &tokens{key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t), life: life, users: map[string]account{user: {password: secret}}}
	ln := must(h.Listen(addr))(t)
	server := &http.Server{Handler: s, ReadHeaderTimeout: time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Close(), <-done); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return s
}

// keys is the public key as registries read it.
func (s *tokens) keys(t *testing.T) []byte {
	t.Helper()
	point := must(s.key.PublicKey.Bytes())(t) // 4, x, y
	return must(json.Marshal(map[string]any{"keys": []any{map[string]string{
		"kty": "EC", "crv": "P-256", "kid": "lab", "alg": "ES256", "use": "sig", "x": encode(point[1:33]), "y": encode(point[33:]),
	}}}))(t)
}

// ServeHTTP implements http.Handler.
func (s *tokens) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, password, ok := r.BasicAuth()
	if !ok {
		name, password = r.FormValue("username"), r.FormValue("password")
	}
	s.mu.Lock()
	known := s.users[name]
	s.mu.Unlock()
	if known.password == "" || password != known.password {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	token, err := s.sign(strings.Fields(strings.Join(r.Form["scope"], " ")), known.repos)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.mu.Lock()
	s.issued = append(s.issued, token)
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	// The least that clients must be told; they learn that it was less.
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": 60})
}

// config makes a registry want tokens of the server at addr. keys is a file that
// holds its public key.
func (s *tokens) config(addr, keys string) string {
	return fmt.Sprintf("auth: {token: {realm: \"http://%s/token\", service: lab, issuer: lab, jwks: %s}}\n", addr, keys)
}

// set changes who gets tokens.
func (s *tokens) set(name string, a account) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[name] = a
}

// sign makes a token that allows to pull from the repositories of scopes, which
// look like "repository:NAME:pull", as far as they are among repos.
func (s *tokens) sign(scopes, repos []string) (string, error) {
	var access []any
	for _, scope := range scopes {
		if p := strings.Split(scope, ":"); len(p) == 3 && (repos == nil || slices.Contains(repos, p[1])) {
			access = append(access, map[string]any{"type": p[0], "name": p[1], "actions": []string{"pull"}})
		}
	}
	now := time.Now()
	const leeway = time.Minute // that the registry gives tokens
	claims, err := json.Marshal(map[string]any{
		"iss": "lab", "aud": "lab", "sub": user, "access": access, "jti": fmt.Sprint(now.UnixNano()),
		"iat": now.Unix(), "nbf": now.Add(-time.Hour).Unix(), "exp": now.Add(s.life - leeway).Unix(),
	})
	if err != nil {
		return "", err
	}
	text := encode([]byte(`{"typ":"JWT","alg":"ES256","kid":"lab"}`)) + "." + encode(claims)
	sum := sha256.Sum256([]byte(text))
	a, b, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		return "", err
	}
	signature := make([]byte, 64)
	a.FillBytes(signature[:32])
	b.FillBytes(signature[32:])
	return text + "." + encode(signature), nil
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// all returns the tokens so far.
func (s *tokens) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.issued...)
}

// TestP2PPrivate starts an image that only its owner may pull, with tokens that
// expire under way, on hosts that have the owner's password and through a seed
// that has none.
func TestP2PPrivate(t *testing.T) {
	s := scaled()
	c := openCloud(t, lab.ClusterConfig{Nodes: s.nodes, Seeds: 1, TLS: true, Flags: []string{"--log-level", "debug"}}, imagetest.Gzip, imagetest.EStargz)
	at := must(c.Host("tokens", lab.Link{}))(t)
	life := 2 * time.Second // 30 % of what the image takes
	if full() {
		life = 12 * time.Second
	}
	server := openTokens(t, at, at.Addr("5001"), life)
	keys := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(keys, server.keys(t), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Registry.Restart(c.ctx, server.config(at.Addr("5001"), keys)); err != nil {
		t.Fatal(err)
	}
	c.user = user + ":" + secret
	auth := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, c.Registry.Host, base64.StdEncoding.EncodeToString([]byte(c.user)))
	for _, n := range c.Nodes {
		if err := os.WriteFile(n.DockerConfig(), []byte(auth), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.pullAnonymously(); err == nil {
		t.Error("the image can be pulled without a password")
	}
	for _, form := range []imagetest.Form{imagetest.Gzip, imagetest.EStargz} {
		t.Run(string(form), func(t *testing.T) {
			c.fresh(t, 1)
			if egress := c.start(t, form, c.Nodes...).wait(t); egress > 1.10 {
				t.Errorf("the registry sent %.2f × the image", egress)
			}
		})
	}
	issued := server.all()
	t.Logf("%d tokens were issued", len(issued))
	if len(issued) < 2*s.nodes {
		t.Error("hosts asked for too few tokens for that any has expired")
	}
	secrets := []string{secret, base64.StdEncoding.EncodeToString([]byte(c.user))}
	for _, token := range issued {
		parts := strings.Split(token, ".")
		secrets = append(secrets, parts[1], parts[2])
	}
	if where := must(c.Secrets(c.ctx, secrets...))(t); len(where) > 0 {
		t.Errorf("secrets are in %v", where)
	}
}

// pullAnonymously pulls without a password, into nothing.
func (c *cloud) pullAnonymously() error {
	_, err := c.Nodes[0].Containerd.Ctr(c.ctx, "-n", "none", "images", "pull", "--hosts-dir", c.lab.HostsDir(), "--snapshotter", overlayfs, c.refs[imagetest.Gzip])
	return err
}
