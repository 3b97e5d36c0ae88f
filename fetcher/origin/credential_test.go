package origin_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

var ignoreSource = cmpopts.IgnoreFields(origin.Credential{}, "Source")

func lookup(t *testing.T, c origin.Credentials, host, path string) []origin.Credential {
	t.Helper()
	got, err := c.Lookup(t.Context(), origin.Repo{Host: host, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func basic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}

func TestDockerConfigAuths(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, path, fmt.Sprintf(`{"auths": {
		"https://index.docker.io/v1/": {"auth": %q},
		"quay.io": {"username": "u", "password": "p"},
		"quay.io/team": {"auth": %q},
		"quay.io/team/app": {"identitytoken": "idt"},
		"https://old.test/v2/": {"registrytoken": "rt"},
		"port.test:5000": {"auth": %q},
		"empty.test": {}
	}, "HttpHeaders": {"x": "y"}}`, basic("hub", "a:b"), basic("team", "tp"), basic("port", "pp")))
	d := origin.NewDockerConfig(path)
	user := func(u, p string) origin.Credential { return origin.Credential{Username: u, Password: p} }
	for _, tt := range []struct {
		host, path string
		want       []origin.Credential
	}{
		{"docker.io", "library/nginx", []origin.Credential{user("hub", "a:b")}},
		{"quay.io", "other/app", []origin.Credential{user("u", "p")}},
		{"quay.io", "team", []origin.Credential{user("team", "tp"), user("u", "p")}},
		{"quay.io", "teamwork/app", []origin.Credential{user("u", "p")}},
		{"quay.io", "team/app/sub", []origin.Credential{{IdentityToken: "idt"}, user("team", "tp"), user("u", "p")}},
		{"old.test", "a", []origin.Credential{{RegistryToken: "rt"}}},
		{"port.test:5000", "a", []origin.Credential{user("port", "pp")}},
		{"port.test", "a", nil},
		{"port.test:500", "a", nil},
		{"empty.test", "a", nil},
		{"quay.io.evil.test", "team", nil},
		{"none.test", "a", nil},
	} {
		if diff := cmp.Diff(tt.want, lookup(t, d, tt.host, tt.path), ignoreSource); diff != "" {
			t.Errorf("%s/%s (-want +got):\n%s", tt.host, tt.path, diff)
		}
	}
}

func TestDockerConfigChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	d := origin.NewDockerConfig(path)
	if got := lookup(t, d, "a.test", "x"); got != nil {
		t.Errorf("without a file: got %v", got)
	}
	for i, password := range []string{"p1", "p2"} {
		write(t, path, fmt.Sprintf(`{"auths": {"a.test": {"auth": %q}}}`, basic("u", password)))
		stamp := time.Now().Add(time.Duration(i) * time.Second)
		if err := os.Chtimes(path, stamp, stamp); err != nil {
			t.Fatal(err)
		}
		if got := lookup(t, d, "a.test", "x"); len(got) != 1 || got[0].Password != password {
			t.Errorf("got %#v, want the password %s", got, password)
		}
	}
	write(t, path, `{"auths": {"a.test": {"auth": "dTpw"}}, broken-s3cret`)
	if _, err := d.Lookup(t.Context(), origin.Repo{Host: "a.test", Path: "x"}); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("broken file: got %v, want an error that does not quote it", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := lookup(t, d, "a.test", "x"); got != nil {
		t.Errorf("after the file had gone: got %v", got)
	}
}

// helperPath puts a credential helper into PATH that knows some servers and
// notes what it is asked.
func helperPath(t *testing.T, name string) (asked string) {
	t.Helper()
	dir := t.TempDir()
	asked = filepath.Join(dir, "asked")
	script := `#!/bin/sh
read server
echo "$1 $server" >>` + asked + `
case "$server" in
good.test) echo '{"ServerURL":"good.test","Username":"hu","Secret":"hs"}' ;;
https://index.docker.io/v1/) echo '{"Username":"hub","Secret":"hubs"}' ;;
id.test) echo '{"Username":"<token>","Secret":"idt"}' ;;
bad.test) echo 'the keychain is locked'; exit 1 ;;
slow.test) exec sleep 60 ;;
*) echo 'credentials not found in native keychain'; exit 1 ;;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return asked
}

func TestDockerCredentialHelpers(t *testing.T) {
	asked := helperPath(t, "test")
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, path, `{"credsStore": "test", "credHelpers": {"good.test": "test", "bad.test": "test", "odd.test": "../../bin/sh"},
		"auths": {"bad.test": {"auth": "`+basic("file", "fp")+`"}}}`)
	d := origin.NewDockerConfig(path)
	for _, tt := range []struct {
		host string
		want []origin.Credential
		err  string
	}{
		{"good.test", []origin.Credential{{Username: "hu", Password: "hs"}}, ""},
		{"docker.io", []origin.Credential{{Username: "hub", Password: "hubs"}}, ""},
		{"id.test", []origin.Credential{{IdentityToken: "idt"}}, ""},
		{"bad.test", []origin.Credential{{Username: "file", Password: "fp"}}, "the keychain is locked"},
		{"odd.test", nil, "no usable name"},
		{"unknown.test", nil, ""},
	} {
		got, err := d.Lookup(t.Context(), origin.Repo{Host: tt.host, Path: "x"})
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: error %v, want %q", tt.host, err, tt.err)
		}
		if diff := cmp.Diff(tt.want, got, ignoreSource); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.host, diff)
		}
	}
	log, err := os.ReadFile(asked)
	want := "get good.test\nget https://index.docker.io/v1/\nget id.test\nget bad.test\nget bad.test\nget odd.test\nget unknown.test\n"
	if diff := cmp.Diff(want, string(log)); diff != "" || err != nil {
		t.Errorf("the helper was asked (-want +got), %v:\n%s", err, diff)
	}
}

func TestDockerCredentialHelperHangs(t *testing.T) {
	helperPath(t, "test")
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, path, `{"credHelpers": {"slow.test": "test"}}`)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := origin.NewDockerConfig(path).Lookup(ctx, origin.Repo{Host: "slow.test", Path: "x"})
	if err == nil || time.Since(start) > 30*time.Second {
		t.Errorf("got %v after %s, want an error when the time is over", err, time.Since(start))
	}
}

func TestLearned(t *testing.T) {
	var l, other origin.Learned
	repo := origin.Repo{Host: "a.test", Path: "x/y"}
	user := func(u string) origin.Credential { return origin.Credential{Username: u, Password: "p"} }
	l.Add(repo, user("old"), time.Time{})
	l.Add(repo, user("expired"), time.Now().Add(-time.Second))
	l.Add(origin.Repo{Host: "a.test"}, user("host"), time.Time{})
	l.Add(repo, origin.Credential{RegistryToken: "t"}, time.Now().Add(time.Hour))
	l.Add(repo, origin.Credential{Source: "nothing in it"}, time.Time{})
	l.Add(repo, user("old"), time.Time{}) // newest again
	want := []origin.Credential{user("old"), {RegistryToken: "t"}, user("host")}
	saved, err := l.Export()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Import(saved); err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]*origin.Learned{"learned": &l, "imported": &other} {
		if diff := cmp.Diff(want, lookup(t, l, "a.test", "x/y")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff([]origin.Credential{user("host")}, lookup(t, l, "a.test", "x")); diff != "" {
			t.Errorf("%s, another repository (-want +got):\n%s", name, diff)
		}
	}
	if err := other.Import([]byte("{")); err == nil {
		t.Error("nonsense was imported")
	}
}

// TestLearnedForGood holds that a credential that is known for good is not lost by what
// is tried with it later, and one that was only tried is.
func TestLearnedForGood(t *testing.T) {
	var l origin.Learned
	repo := origin.Repo{Host: "a.test", Path: "x"}
	good, tried := origin.Credential{Username: "good"}, origin.Credential{Username: "tried"}
	l.Forget(repo, good) // nothing is known
	l.Add(repo, good, time.Time{})
	for _, c := range []origin.Credential{good, tried} {
		l.Add(repo, c, time.Now().Add(time.Hour))
	}
	if diff := cmp.Diff([]origin.Credential{tried, good}, lookup(t, &l, "a.test", "x")); diff != "" {
		t.Errorf("while both are tried (-want +got):\n%s", diff)
	}
	l.Forget(repo, good)
	l.Forget(repo, tried)
	if diff := cmp.Diff([]origin.Credential{good}, lookup(t, &l, "a.test", "x")); diff != "" {
		t.Errorf("afterwards (-want +got):\n%s", diff)
	}
}

func TestLearnedIsBounded(t *testing.T) {
	var l origin.Learned
	for i := range 1500 {
		l.Add(origin.Repo{Host: "a.test", Path: fmt.Sprintf("r%d", i)}, origin.Credential{RegistryToken: "t"}, time.Time{})
		l.Add(origin.Repo{Host: "a.test"}, origin.Credential{RegistryToken: fmt.Sprint(i)}, time.Time{})
	}
	if got := lookup(t, &l, "a.test", "r1499"); len(got) < 2 || len(got) > 10 || got[0].RegistryToken != "t" || got[1].RegistryToken != "1499" {
		t.Errorf("got %d credentials, want the newest few", len(got))
	}
	if got := lookup(t, &l, "a.test", "r0"); len(got) == 0 || got[0].RegistryToken == "t" {
		t.Error("the oldest of 1500 repositories is still known")
	}
}

func TestChain(t *testing.T) {
	var log bytes.Buffer
	a, b := origin.Credential{Username: "a", Source: "1"}, origin.Credential{Username: "b", Source: "2"}
	sameAsA := origin.Credential{Username: "a", Source: "3"}
	c := origin.Chain(slog.New(slog.NewTextHandler(&log, nil)), known{a}, broken{}, known{b, sameAsA})
	if diff := cmp.Diff([]origin.Credential{a, b}, lookup(t, c, "a.test", "x")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !strings.Contains(log.String(), "is broken") {
		t.Errorf("the log does not tell of the broken source: %s", &log)
	}
}

type broken struct{}

func (broken) Lookup(context.Context, origin.Repo) ([]origin.Credential, error) {
	return nil, errors.New("is broken")
}

func TestCredentialShowsNoSecret(t *testing.T) {
	c := origin.Credential{Username: "u", Password: "s3cret", IdentityToken: "s3cret", RegistryToken: "s3cret", Source: "here"}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "credential", c, "list", []origin.Credential{c})
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), fmt.Sprintf("%v", []origin.Credential{c}), log.String()} {
		if strings.Contains(s, "s3cret") {
			t.Errorf("printed as %s", s)
		}
	}
}
