package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sample is the configuration as it is documented.
const sample = "testdata/dfmanager.toml"

func command(args ...string) (string, error) {
	var out bytes.Buffer
	cmd := program().Command()
	cmd.SetOut(&out)
	cmd.SetArgs(args)
	err := cmd.Execute()
	return out.String(), err
}

func TestSample(t *testing.T) {
	t.Parallel()
	printed, err := command("config", "default")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(text), printed); diff != "" {
		t.Errorf("the sample is not what `dfmanager config default` prints:\n%s", diff)
	}
	got, err := program().Load(sample)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(DefaultConfig(), got); diff != "" {
		t.Errorf("the sample is not the defaults:\n%s", diff)
	}
}

func write(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "dfmanager.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	t.Parallel()
	want := DefaultConfig()
	want.Database, want.Auth.Session, want.Web.Proxies = "postgres://db/x", Duration{30 * time.Minute}, []string{"10.0.0.1"}
	got, err := program().Load(write(t, "database = 'postgres://db/x'\n[web]\nproxies = ['10.0.0.1']\n[auth]\nsession = '30m'\n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLoadErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want []string // parts of the message
	}{
		"unknown key": {"databse = 'x'\n", []string{`:1: unknown key "databse"`, "`dfmanager config default`"}},
		"type":        {"[web]\nproxies = '10.0.0.1'\n", []string{"web.proxies"}},
		"time":        {"[auth]\nsession = '1 day'\n", []string{`"1 day" is not a time`}},
		"all at once": {"listen = '8080'\ndatabase = 'mysql://x'\n[web]\ncert = '/x'\nproxies = ['ten']\nrate = 0\n[auth]\nsession = '1s'\n[cluster]\nschedulers = ['x']\n[jobs]\nconcurrent = 0\ntimeout = '0s'\nplatforms = ['linux']\n[registries]\nopen_to = ['all']\n[debug]\nlisten = 'x'\n",
			[]string{"listen:", "database: it must begin", "web: cert and key", "web.proxies:", "web.rate:", "cluster.schedulers:", "jobs.concurrent:", "jobs:", "jobs.platforms:", "registries.open_to:", "auth.session:", "debug.listen:"}},
		"oidc":          {"[auth.oidc]\nissuer = 'id.example'\nurl = 'https://manager.example/console'\n", []string{"auth.oidc.issuer:", "auth.oidc.url:", "client_id", "nobody could sign in"}},
		"tls and plain": {"[web]\ncert = '/a'\nkey = '/b'\ninsecure = true\n", []string{"web.insecure: true contradicts"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := write(t, c.text)
			_, err := program().Load(path)
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, part := range append(c.want, path) {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
		})
	}
	for _, text := range []string{"ca = '/none.pem'", "client_secret_file = '/none'"} {
		text = "[auth.oidc]\nissuer = 'https://id.example'\nurl = 'https://manager.example'\nclient_id = 'x'\nguest = ['*']\n" + text
		if _, err := command("config", "check", write(t, text)); err == nil || !strings.Contains(err.Error(), "auth.oidc.c") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := command("config", "check", write(t, "[web]\ncert = '/none.pem'\nkey = '/none.key'\n")); err == nil || !strings.Contains(err.Error(), "web.cert") {
		t.Errorf("a certificate that is not there: %v", err)
	}
}
