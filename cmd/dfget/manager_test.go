package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
)

// boss is a manager with one user, ada, whose password is "secret word"; what it
// says of its job are its steps, the last one again and again.
type boss struct {
	*httptest.Server
	mu     sync.Mutex // guards what follows
	first  bool       // the password is one that was given
	asked  map[string]any
	steps  []step
	signed bool
	away   int // how many requests it does not answer
}

type step struct {
	state, err string
	blobs      []heatedBlob
}

func newBoss(t *testing.T, steps ...step) *boss {
	b := &boss{steps: steps}
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, status int, v any) {
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	no := func(w http.ResponseWriter, status int, message string, fields map[string]string) {
		answer(w, status, map[string]any{"error": map[string]any{"code": "x", "message": message, "fields": fields}})
	}
	token := func(f http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			b.mu.Lock()
			away := b.away > 0
			if away {
				b.away--
			}
			b.mu.Unlock()
			switch {
			case away:
				no(w, http.StatusServiceUnavailable, "the database does not answer", nil)
			case r.Header.Get("Authorization") != "Bearer dfm_made":
				no(w, http.StatusUnauthorized, "sign in, or send a token", nil)
			default:
				f(w, r)
			}
		}
	}
	mux.HandleFunc("POST /api/v1/session", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Name, Password string }
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.Name != "ada" || in.Password != "secret word" {
			no(w, http.StatusUnauthorized, "wrong user or password", nil)
			return
		}
		http.SetCookie(w, &http.Cookie{Name: "dfmanager", Value: "session"})
		b.mu.Lock()
		b.signed = true
		b.mu.Unlock()
		answer(w, http.StatusCreated, map[string]any{"must_change_password": b.first})
	})
	session := func(w http.ResponseWriter, r *http.Request) bool {
		if k, err := r.Cookie("dfmanager"); err != nil || k.Value != "session" {
			no(w, http.StatusUnauthorized, "sign in", nil)
			return false
		}
		return true
	}
	mux.HandleFunc("POST /api/v1/me/tokens", func(w http.ResponseWriter, r *http.Request) {
		if session(w, r) {
			answer(w, http.StatusCreated, map[string]any{"token": "dfm_made"})
		}
	})
	mux.HandleFunc("DELETE /api/v1/session", func(w http.ResponseWriter, r *http.Request) {
		if session(w, r) {
			b.mu.Lock()
			b.signed = false
			b.mu.Unlock()
			w.WriteHeader(http.StatusNoContent)
		}
	})
	mux.HandleFunc("GET /api/v1/me", token(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]any{"name": "ada", "role": "operator", "scopes": []string{"preheat"}})
	}))
	mux.HandleFunc("GET /api/v1/clusters", token(func(w http.ResponseWriter, r *http.Request) {
		items, next := []namedCluster{{1, "default"}}, 1 // in two pages
		if r.URL.Query().Get("after") == "1" {
			items, next = []namedCluster{{2, "fra"}}, 0
		}
		answer(w, http.StatusOK, map[string]any{"items": items, "next": next})
	}))
	mux.HandleFunc("GET /api/v1/images", token(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]any{"items": []map[string]string{{"image": "r.example/team/app:v1"}, {"image": "docker.io/library/nginx:1"}}})
	}))
	mux.HandleFunc("POST /api/v1/jobs", token(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.asked = map[string]any{}
		if err := json.NewDecoder(r.Body).Decode(&b.asked); err != nil {
			t.Error(err)
		}
		if b.asked["image"] == "No Image" {
			no(w, http.StatusBadRequest, "some values are not what they should be", map[string]string{"image": "is no image's name"})
			return
		}
		answer(w, http.StatusCreated, heated{ID: 7, State: "waiting"})
	}))
	mux.HandleFunc("GET /api/v1/jobs/7", token(func(w http.ResponseWriter, _ *http.Request) {
		b.mu.Lock()
		defer b.mu.Unlock()
		answer(w, http.StatusOK, heated{ID: 7, State: b.steps[0].state, Error: b.steps[0].err})
	}))
	mux.HandleFunc("GET /api/v1/jobs/7/blobs", token(func(w http.ResponseWriter, _ *http.Request) {
		b.mu.Lock()
		defer b.mu.Unlock()
		answer(w, http.StatusOK, map[string]any{"items": b.steps[0].blobs})
		if len(b.steps) > 1 {
			b.steps = b.steps[1:]
		}
	}))
	b.Server = httptest.NewServer(mux)
	t.Cleanup(b.Close)
	return b
}

// kept signs ada in by hand, and returns the file that says so.
func (b *boss) kept(t *testing.T) string {
	t.Helper()
	f := &accountFlag{filepath.Join(t.TempDir(), "manager.json")}
	if _, err := f.save(account{URL: b.URL, User: "ada", Token: "dfm_made"}); err != nil {
		t.Fatal(err)
	}
	return f.path
}

// runIn runs the command line with something on its standard input.
func runIn(t *testing.T, in string, args ...string) (out string, code int) {
	t.Helper()
	var text bytes.Buffer
	cmd := newCommand()
	cmd.SetIn(strings.NewReader(in))
	cmd.SetOut(&text)
	cmd.SetErr(&text)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	if err == nil {
		return text.String(), 0
	}
	var coded daemon.ExitError
	if code = 1; errors.As(err, &coded) {
		code = coded.Code
	}
	return text.String() + err.Error(), code
}

func TestLogin(t *testing.T) {
	t.Parallel()
	b := newBoss(t)
	file := filepath.Join(t.TempDir(), "new", "manager.json")
	for _, c := range []struct {
		name, in string
		args     []string
		code     int
		say      string
	}{
		{"wrong password", "wrong\n", []string{b.URL, "-u", "ada", "--password-stdin"}, exitUnauthorized, "wrong user or password"},
		{"no password", "", []string{b.URL, "-u", "ada", "--password-stdin"}, 1, "standard input is empty"},
		{"nobody to ask", "secret word\n", []string{b.URL, "-u", "ada"}, 1, "--password-stdin"},
		{"wrong token", "dfm_x\n", []string{b.URL, "--token-stdin"}, exitUnauthorized, "send a token"},
		{"by plain http", "x\n", []string{"http://manager.example", "-u", "ada", "--password-stdin"}, 1, "--plain-http"},
		{"no URL", "x\n", []string{"manager.example", "--token-stdin"}, 1, "is not like https://"},
		{"with a path", "x\n", []string{b.URL + "/api", "--token-stdin"}, 1, "is not like https://"},
		{"two inputs", "x\n", []string{b.URL, "--token-stdin", "--password-stdin"}, 1, "none of the others"},
		{"nobody there", "x\n", []string{"http://127.0.0.1:1", "--token-stdin"}, exitUnavailable, "refused"},
		{"no CA", "x\n", []string{b.URL, "--token-stdin", "--ca", file}, 1, "no such file"},
	} {
		out, code := runIn(t, c.in, append([]string{"login", "--account", file}, c.args...)...)
		if code != c.code || !strings.Contains(out, c.say) {
			t.Errorf("%s: %d %s", c.name, code, out)
		}
		if _, err := os.Stat(file); err == nil {
			t.Fatalf("%s: an account is kept", c.name)
		}
	}
	out, code := runIn(t, "secret word\n", "login", "--account", file, b.URL+"/", "-u", "ada", "--password-stdin")
	if code != 0 || !strings.Contains(out, "as ada (operator)") || strings.Contains(out, "dfm_") || strings.Contains(out, "secret") {
		t.Errorf("%d %s", code, out)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	a, err := (&accountFlag{file}).load()
	if err != nil || a != (account{URL: b.URL, User: "ada", Token: "dfm_made"}) || b.signed {
		t.Errorf("%+v, %v; the session goes on: %v", a, err, b.signed)
	}
	if text := fmt.Sprintf("%v %+v %#v", a, a, a); strings.Contains(text, "dfm_") {
		t.Errorf("it shows its token: %s", text)
	}
	b.first = true
	if out, code := runIn(t, "secret word\n", "login", "--account", file, b.URL, "-u", "ada", "--password-stdin"); code != 1 || !strings.Contains(out, b.URL+"/password") {
		t.Errorf("with a first password: %d %s", code, out)
	}
	if out, code := runIn(t, "dfm_made\n", "login", "--account", file, b.URL, "--token-stdin"); code != 0 {
		t.Errorf("with a token: %d %s", code, out)
	}
}

func TestPreheat(t *testing.T) {
	t.Parallel()
	half := []heatedBlob{{Digest: "sha256:a", Size: 2 << 20, Got: 1 << 20, Host: "seed-0", State: "running"}, {Digest: "sha256:b", Size: 1 << 20, State: "waiting"}}
	all := []heatedBlob{{Digest: "sha256:a", Size: 2 << 20, Got: 2 << 20, Host: "seed-0", State: "succeeded"}, {Digest: "sha256:b", Size: 1 << 20, Got: 1 << 20, Host: "seed-1", State: "succeeded"}}
	good := []step{{state: "waiting"}, {"running", "", half}, {"succeeded", "", all}}
	for _, c := range []struct {
		name  string
		steps []step
		args  []string
		code  int
		say   string
		asked string // of the manager
	}{
		{"all of it", good, []string{"app:v1"}, 0, "app:v1  3.0 MiB in 2 blobs, in place on seed-0, seed-1", `"image":"app:v1"`},
		{"chosen", good, []string{"app:v1", "--platform", "linux/amd64,linux/arm64", "--cluster", "fra", "--plain-http"}, 0, "in place", `"cluster_id":2,"image":"app:v1","plain_http":true,"platforms":["linux/amd64","linux/arm64"]`},
		{"a private one", good, []string{"app:v1", "--registry-user", "robot", "--registry-password-stdin"}, 0, "in place", `"registry_password":"typed","registry_user":"robot"`},
		{"everywhere", good, []string{"app:v1", "--scope", "all_peers", "--percentage", "10", "--concurrent", "5", "--timeout", "90s"}, 0, "and the hosts of scope all_peers", `"concurrent_hosts":5,"image":"app:v1","percentage":10,"scope":"all_peers","timeout_seconds":90`},
		{"some layers", good, []string{"app:v1", "--layer", "sha256:a,sha256:b"}, 0, "in place", `"image":"app:v1","layers":["sha256:a","sha256:b"]`},
		{"to some hosts", good, []string{"app:v1", "--host", "a,b"}, 0, "and the hosts of scope hosts", `"hosts":["a","b"],"image":"app:v1","scope":"hosts"`},
		{"a file", good, []string{"https://files.example/m.bin?sig=typed", "-H", "X-Password: typed", "--tag", "t", "--filter", "a,b", "--digest", "sha256:x"}, 0, "m.bin  3.0 MiB",
			`{"digest":"sha256:x","filter":["a","b"],"headers":{"X-Password":"typed"},"kind":"file","tag":"t","url":"https://files.example/m.bin?sig=typed"}`},
		{"a header twice", good, []string{"https://files.example/m.bin", "-H", "a: b", "-H", "A: c"}, 1, "given twice", ""},
		{"no header", good, []string{"https://files.example/m.bin", "-H", "typed"}, 1, "Name: value", ""},
		{"not waited for", good, []string{"app:v1", "-d"}, 0, "7\n", ""},
		{"for programs", good, []string{"app:v1", "--json"}, 0, `"state": "succeeded"`, ""},
		{"quietly", good, []string{"app:v1", "-q"}, 0, "", ""},
		{"one that fails", []step{{"failed", "the registry has no such image", nil}}, []string{"app:v1"}, 1, "job 7: failed: the registry has no such image", ""},
		{"one that is cancelled", []step{{"cancelled", "", nil}}, []string{"app:v1", "--json"}, 1, "job 7: cancelled", ""},
		{"no image", good, []string{"No Image"}, 1, "image: is no image's name", ""},
		{"no cluster", good, []string{"app:v1", "--cluster", "none"}, 1, `no cluster "none", but default, fra`, ""},
		{"half a credential", good, []string{"app:v1", "--registry-user", "robot"}, 1, "registry-password-stdin", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBoss(t, c.steps...)
			out, code := runIn(t, "typed\n", append([]string{"preheat", "--account", b.kept(t), "--pace", "1ms"}, c.args...)...)
			if code != c.code || !strings.Contains(out, c.say) || c.name == "quietly" && out != "" || strings.Contains(out, "typed") || strings.Contains(out, "dfm_") {
				t.Errorf("%d %s", code, out)
			}
			asked, err := json.Marshal(b.asked)
			if err != nil || !strings.Contains(string(asked), c.asked) {
				t.Errorf("the manager was asked for %s", asked)
			}
		})
	}
}

func TestPreheatGoesOn(t *testing.T) {
	t.Parallel()
	b := newBoss(t, step{state: "running"}, step{state: "succeeded"})
	p := &preheat{Image: "app:v1", pace: time.Millisecond, kept: accountFlag{b.kept(t)}, out: &bytes.Buffer{}, log: &bytes.Buffer{}}
	a, err := p.kept.load()
	if err != nil {
		t.Fatal(err)
	}
	m, err := openManager(a)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	b.away = 3 // it is restarted meanwhile
	if j, _, err := p.follow(t.Context(), m, heated{ID: 7}, time.Now()); err != nil || j.State != "succeeded" {
		t.Errorf("%+v, %v", j, err)
	}
	b.Close()
	if out, code := runIn(t, "", "preheat", "--account", p.kept.path, "app:v1"); code != exitUnavailable {
		t.Errorf("a manager that is not there: %d %s", code, out)
	}
	if out, code := runIn(t, "", "preheat", "--account", filepath.Join(t.TempDir(), "none"), "app:v1"); code != exitUnauthorized || !strings.Contains(out, "dfget login") {
		t.Errorf("not signed in: %d %s", code, out)
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	b := newBoss(t)
	file := b.kept(t)
	for args, want := range map[string]string{
		"preheat --account " + file + " ":               "r.example/team/app:v1\ndocker.io/library/nginx:1\n:4\n",
		"preheat --account " + file + " doc":            "docker.io/library/nginx:1\n:4\n",
		"preheat --account " + file + " app:v1 ":        ":4\n",
		"preheat --account " + file + " --cluster ":     "default\nfra\n:4\n",
		"preheat --account " + file + " --cluster f":    "fra\n:4\n",
		"preheat --scope ":                              "single_seed_peer\nall_seed_peers\nall_peers\nhosts\n:4\n",
		"preheat --platform ":                           "linux/amd64\nlinux/arm64\nlinux/arm/v7\nlinux/ppc64le\nlinux/riscv64\nlinux/s390x\n:4\n",
		"preheat --account " + file + ".not --cluster ": ":4\n",
		"login ": ":4\n",
	} {
		var out bytes.Buffer
		cmd := newCommand()
		cmd.SetOut(&out)
		cmd.SetErr(&bytes.Buffer{})
		cmd.SetArgs(append([]string{"__complete"}, strings.Split(args, " ")...))
		if err := cmd.ExecuteContext(t.Context()); err != nil || out.String() != want {
			t.Errorf("dfget %s: %q, %v", args, out.String(), err)
		}
	}
}

func TestPreheatLine(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := progress{name: "app:v1"}
	p.To = &out
	p.blobs(nil)
	p.blobs([]heatedBlob{{Size: 3 << 20, Got: 3 << 20, State: "succeeded"}, {Size: 1 << 20, State: "running"}})
	for _, want := range []string{"is being looked up", " 75 % [##################......] 3.0 MiB of 4.0 MiB", "1 of 2 blobs"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in %q", want, out.String())
		}
	}
}
