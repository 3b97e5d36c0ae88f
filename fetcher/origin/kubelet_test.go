package origin_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// plugin is a credential provider plugin: it notes what it is asked and
// prints an answer.
func plugin(t *testing.T, dir, name, answer string) (asked string) {
	t.Helper()
	asked = filepath.Join(dir, name+".asked")
	script := fmt.Sprintf("#!/bin/sh\n(cat; echo \" $1 $KEY\") >>%s\ncat <<'END'\n%s\nEND\n", asked, answer)
	if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return asked
}

func answer(version, cacheKey, cacheDuration, auth string) string {
	return fmt.Sprintf(`{"apiVersion": "credentialprovider.kubelet.k8s.io/%s", "kind": "CredentialProviderResponse", "cacheKeyType": %q, %s "auth": %s}`, version, cacheKey, cacheDuration, auth)
}

// provider is one entry of a CredentialProviderConfig.
func provider(name, version, image, more string) string {
	return fmt.Sprintf(`
- name: %s
  apiVersion: credentialprovider.kubelet.k8s.io/%s
  matchImages: [%q]
  defaultCacheDuration: "5m"
%s`, name, version, image, more)
}

func kubeletConfig(t *testing.T, dir string, providers ...string) string {
	t.Helper()
	path := filepath.Join(dir, "config.yaml")
	write(t, path, "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:"+strings.Join(providers, ""))
	return path
}

func TestKubeletPlugin(t *testing.T) {
	for _, version := range []string{"v1", "v1beta1"} {
		t.Run(version, func(t *testing.T) {
			dir := t.TempDir()
			asked := plugin(t, dir, "ecr", answer(version, "Registry", "", `{
				"*.ecr.test": {"username": "any", "password": "p"},
				"eu.ecr.test/team": {"username": "team", "password": "p"},
				"us.ecr.test": {"username": "us", "password": "p"}}`))
			k := origin.NewKubeletPlugins(kubeletConfig(t, dir, provider("ecr", version, "*.ecr.test", "  args: [get]\n  env: [{name: KEY, value: val}]")), dir)
			user := func(u string) origin.Credential { return origin.Credential{Username: u, Password: "p"} }
			for _, tt := range []struct {
				host, path string
				want       []origin.Credential
			}{
				{"eu.ecr.test", "team/app", []origin.Credential{user("team"), user("any")}},
				{"eu.ecr.test", "other", []origin.Credential{user("any")}},
				{"us.ecr.test", "x", []origin.Credential{user("us"), user("any")}},
				{"a.eu.ecr.test", "x", nil},
				{"docker.io", "library/x", nil},
			} {
				if diff := cmp.Diff(tt.want, lookup(t, k, tt.host, tt.path), ignoreSource); diff != "" {
					t.Errorf("%s/%s (-want +got):\n%s", tt.host, tt.path, diff)
				}
			}
			log, err := os.ReadFile(asked)
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf(`{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/%s","image":"eu.ecr.test/team/app"} get val`, version)
			if lines := strings.Split(strings.TrimSpace(string(log)), "\n"); len(lines) != 2 || lines[0] != want {
				t.Errorf("the plugin was asked\n%s\nwant twice, once per registry, first\n%s", log, want)
			}
		})
	}
}

func TestKubeletPluginCache(t *testing.T) {
	auth := `{"a.test": {"username": "u", "password": "p"}, "b.test": {"username": "u", "password": "p"}}`
	for _, tt := range []struct {
		key, duration string
		runs          int
	}{
		{"Image", "", 3},
		{"Registry", "", 2},
		{"Global", "", 1},
		{"Global", `"cacheDuration": "0s",`, 6},
		{"Global", `"cacheDuration": "1h",`, 1},
	} {
		t.Run(tt.key+tt.duration, func(t *testing.T) {
			dir := t.TempDir()
			asked := plugin(t, dir, "p", answer("v1", tt.key, tt.duration, auth))
			k := origin.NewKubeletPlugins(kubeletConfig(t, dir, provider("p", "v1", "*.test", "")), dir)
			for range 2 {
				for _, image := range []string{"a.test x", "a.test y", "b.test x"} {
					host, path, _ := strings.Cut(image, " ")
					if got := lookup(t, k, host, path); len(got) != 1 {
						t.Errorf("%s: got %v", image, got)
					}
				}
			}
			log, err := os.ReadFile(asked)
			if n := strings.Count(string(log), "\n"); n != tt.runs || err != nil {
				t.Errorf("the plugin ran %d times, %v; want %d", n, err, tt.runs)
			}
		})
	}
}

func TestKubeletPluginFaults(t *testing.T) {
	good := answer("v1", "Image", "", `{"a.test": {"username": "u", "password": "s3cret"}}`)
	for _, tt := range []struct {
		name, config, answer, want string
	}{
		{"no JSON", provider("p", "v1", "a.test", ""), `password=s3cret`, "not a CredentialProviderResponse"},
		{"another version", provider("p", "v1beta1", "a.test", ""), good, "not a CredentialProviderResponse"},
		{"unknown cache key", provider("p", "v1", "a.test", ""), answer("v1", "Pod", "", "{}"), "cacheKeyType"},
		{"fails", provider("p", "v1", "a.test", ""), "s3cret\nEND\nexit 3\ncat <<END", "exit status 3"},
		{"missing", provider("none", "v1", "a.test", ""), good, "none"},
		{"name with a path", provider("../p", "v1", "a.test", ""), good, "name"},
		{"unknown version", provider("p", "v9", "a.test", ""), good, "apiVersion"},
		{"no YAML", "\n\t:", good, "yaml"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			plugin(t, dir, "p", tt.answer)
			k := origin.NewKubeletPlugins(kubeletConfig(t, dir, tt.config), dir)
			got, err := k.Lookup(t.Context(), origin.Repo{Host: "a.test", Path: "x"})
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("got %v, %v; want an error about %s", got, err, tt.want)
			}
		})
	}
}

// TestKubeletPluginsSeveral checks that one plugin's failure does not hide
// what another says, and that one which needs a pod is left out.
func TestKubeletPluginsSeveral(t *testing.T) {
	dir := t.TempDir()
	plugin(t, dir, "good", answer("v1", "Image", "", `{"a.test": {"username": "u", "password": "p"}}`))
	needs := plugin(t, dir, "needs-pod", answer("v1", "Image", "", `{"a.test": {"username": "pod", "password": "p"}}`))
	k := origin.NewKubeletPlugins(kubeletConfig(t, dir,
		provider("missing", "v1", "a.test", ""),
		provider("needs-pod", "v1", "a.test", "  tokenAttributes: {serviceAccountTokenAudience: x, requireServiceAccount: true}"),
		provider("good", "v1", "a.test", "")), dir)
	got, err := k.Lookup(t.Context(), origin.Repo{Host: "a.test", Path: "x"})
	if diff := cmp.Diff([]origin.Credential{{Username: "u", Password: "p"}}, got, ignoreSource); diff != "" || err == nil {
		t.Errorf("error %v, (-want +got):\n%s", err, diff)
	}
	if _, err := os.Stat(needs); err == nil {
		t.Error("a plugin that needs a pod was run")
	}
}

func TestKubeletMatchImages(t *testing.T) {
	auth := `{"*": {"username": "u", "password": "p"}, "*.*": {"username": "u", "password": "p"}, "*.*.*": {"username": "u", "password": "p"}}`
	for _, tt := range []struct {
		glob, host, path string
		want             bool
	}{
		{"registry.io", "registry.io", "a", true},
		{"*.io", "registry.io", "a", true},
		{"*.io", "k8s.registry.io", "a", false},
		{"*.*", "k8s.registry.io", "a", false},
		{"*.*.io", "k8s.registry.io", "a", true},
		{"reg*.io", "registry.io", "a", true},
		{"registry.*", "registry.io", "a", true},
		{"registry.io:8080", "registry.io:8080", "a", true},
		{"registry.io:8080", "registry.io", "a", false},
		{"registry.io", "registry.io:8080", "a", true},
		{"registry.io/team", "registry.io", "team/a", true},
		{"registry.io/team", "registry.io", "other/team", false},
	} {
		dir := t.TempDir()
		asked := plugin(t, dir, "p", answer("v1", "Image", "", auth))
		k := origin.NewKubeletPlugins(kubeletConfig(t, dir, provider("p", "v1", tt.glob, "")), dir)
		got := lookup(t, k, tt.host, tt.path)
		if _, err := os.Stat(asked); tt.want != (err == nil) || tt.want != (len(got) > 0) {
			t.Errorf("%s against %s/%s: plugin run %v, credentials %v, want %v", tt.glob, tt.host, tt.path, err == nil, got, tt.want)
		}
	}
}

func TestKubeletConfigMissing(t *testing.T) {
	k := origin.NewKubeletPlugins(filepath.Join(t.TempDir(), "none"), t.TempDir())
	if got := lookup(t, k, "a.test", "x"); got != nil {
		t.Errorf("got %v", got)
	}
}
