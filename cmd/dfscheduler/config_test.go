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
const sample = "testdata/dfscheduler.toml"

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
		t.Errorf("the sample is not what `dfscheduler config default` prints:\n%s", diff)
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
	path = filepath.Join(t.TempDir(), "dfscheduler.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	t.Parallel()
	want := DefaultConfig()
	want.Listen, want.Swarms.MaxBan, want.TLS.Insecure, want.Debug.Listen = "[::1]:9", Duration{36 * time.Hour}, true, ""
	got, err := program().Load(write(t, "listen = '[::1]:9'\n[swarms]\nmax_ban = '36h'\n[tls]\ninsecure = true\n[debug]\nlisten = ''\n"))
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
		"unknown keys":  {"listen = ':1'\nlissten = ':2'\n[swarms]\nfan = 3\n", []string{`:2: unknown key "lissten"`, `:4: unknown key "swarms.fan"`, "`dfscheduler config default`"}},
		"syntax":        {"listen =\n", []string{":1:"}},
		"type":          {"listen = 8002\n", []string{":1:10: listen must be a string"}},
		"not a number":  {"[limits]\nhosts = 'all'\n", []string{":2:9: limits.hosts must be a whole number"}},
		"time":          {"[swarms]\nban = '10 minutes'\n", []string{`"10 minutes" is not a time`}},
		"all at once":   {"listen = '8002'\n[swarms]\nfanout = 0\nban = '0s'\n[limits]\nhosts = -1\n[debug]\nlisten = 'x'\n", []string{"listen:", "swarms.fanout:", "swarms: ban", "limits.hosts:", "debug.listen:"}},
		"bans":          {"[swarms]\nban = '48h'\n", []string{"max_ban"}},
		"half of tls":   {"[tls]\nca = '/ca.pem'\n", []string{"tls.cert: is empty, but ca, cert and key go together", "tls.key:"}},
		"managed":       {"manager = 'm'\nroot = 'x'\nadvertise = ':8002'\n[tls]\ninsecure = true\n", []string{"manager:", "root:", "advertise:", "tls: the manager gives"}},
		"tls and plain": {"[tls]\nca = '/a'\ncert = '/b'\nkey = '/c'\ninsecure = true\n", []string{"tls.insecure: true contradicts"}},
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
}

func TestCommand(t *testing.T) {
	t.Parallel()
	good, bad := write(t, "listen = ':1'\n"), write(t, "lisen = ':1'\n")
	if out, err := command("config", "check", good); err != nil || out != good+": ok\n" {
		t.Errorf("check of a good file: %q, %v", out, err)
	}
	if _, err := command("config", "check", "--config", bad); err == nil {
		t.Error("check of a bad file found nothing")
	}
	if _, err := command("--config", bad); err == nil {
		t.Error("it started with a bad file")
	}
	if _, err := command("--log-level", "loud"); err == nil || !strings.Contains(err.Error(), "--log-level") {
		t.Errorf("an unknown level: %v", err)
	}
	if out, err := command("--version"); err != nil || !strings.Contains(out, version) {
		t.Errorf("--version: %q, %v", out, err)
	}
	if out, err := command("--help"); err != nil || !strings.Contains(out, "/etc/dfsnapshotter/dfscheduler.toml") {
		t.Errorf("--help: %q, %v", out, err)
	}
}
