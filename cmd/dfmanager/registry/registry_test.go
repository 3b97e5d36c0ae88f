package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

const (
	ociManifest    = "application/vnd.oci.image.manifest.v1+json"
	ociIndex       = "application/vnd.oci.image.index.v1+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
)

type object = map[string]any

func descriptor(data string) object {
	return object{"mediaType": "application/octet-stream", "digest": digest.FromString(data), "size": len(data)}
}

// push adds an image with these layers and returns its digest.
func push(r *origintest.Registry, kind, config string, layers ...string) digest.Digest {
	m := object{"schemaVersion": 2, "mediaType": kind, "config": descriptor(config)}
	var list []object
	for _, l := range layers {
		list = append(list, descriptor(l))
	}
	m["layers"] = list
	return add(r, kind, m)
}

func add(r *origintest.Registry, kind string, m object) digest.Digest {
	data, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return r.AddManifest("p/app", kind, data)
}

func entry(d digest.Digest, os, arch, variant string) object {
	return object{"mediaType": ociManifest, "digest": d, "size": 100, "platform": object{"os": os, "architecture": arch, "variant": variant}}
}

func repo(t *testing.T, r *origintest.Registry, reference string, cred registry.Credential) *registry.Repo {
	t.Helper()
	ref, err := registry.ParseURL(r.URL() + "/v2/p/app/manifests/" + reference)
	if err != nil {
		t.Fatal(err)
	}
	c := registry.New(registry.Config{})
	t.Cleanup(c.Close)
	return c.Repo(ref, cred)
}

// names are the kinds and sizes of an image's blobs.
func names(i registry.Image) string {
	var all []string
	for _, b := range i.Blobs {
		all = append(all, fmt.Sprintf("%s %d", b.Kind, b.Size))
	}
	return strings.Join(all, ", ")
}

func TestResolve(t *testing.T) {
	t.Parallel()
	r := origintest.New(t, origintest.Options{})
	amd := push(r, ociManifest, "c", "layer", "layer", "another layer")
	arm := push(r, dockerManifest, "cc", "layer", "an arm layer")
	v7 := push(r, ociManifest, "ccc", "layer", "a v7 layer")
	about := push(r, ociManifest, "cccc", "attestation")
	soci := entry(about, "linux", "amd64", "")
	soci["artifactType"] = "application/vnd.amazon.soci.index.v2+json"
	index := add(r, ociIndex, object{"schemaVersion": 2, "mediaType": ociIndex, "manifests": []object{
		entry(amd, "linux", "amd64", ""), entry(arm, "linux", "arm64", "v8"), entry(v7, "linux", "arm", "v7"), entry(about, "unknown", "unknown", ""), soci,
	}})
	docker := add(r, dockerIndex, object{"schemaVersion": 2, "mediaType": dockerIndex, "manifests": []object{entry(amd, "linux", "amd64", "")}})
	for tag, d := range map[string]digest.Digest{"amd": amd, "arm": arm, "index": index, "docker": docker} {
		r.Tag("p/app", tag, d)
	}
	for name, c := range map[string]struct {
		reference string
		platforms []string
		digest    digest.Digest
		want      string
	}{
		"tag":            {"amd", nil, amd, "config 1, layer 5, layer 13"},
		"digest":         {amd.String(), []string{"linux/s390x"}, amd, "config 1, layer 5, layer 13"},
		"docker":         {"arm", nil, arm, "config 2, layer 5, layer 12"},
		"index":          {"index", nil, index, "config 1, layer 5, layer 13, config 2, layer 12, config 3, layer 10"},
		"one platform":   {"index", []string{"linux/arm64"}, index, "config 2, layer 5, layer 12"},
		"with a variant": {"index", []string{"linux/arm/v7", "linux/amd64"}, index, "config 1, layer 5, layer 13, config 3, layer 10"},
		"docker index":   {"docker", nil, docker, "config 1, layer 5, layer 13"},
	} {
		got, err := repo(t, r, c.reference, registry.Credential{}).Resolve(t.Context(), c.platforms)
		if err != nil || got.Digest != c.digest || names(got) != c.want {
			t.Errorf("%s: %s %q, %v", name, got.Digest, names(got), err)
		}
	}
	_, err := repo(t, r, "index", registry.Credential{}).Resolve(t.Context(), []string{"linux/arm/v6"})
	if !errors.Is(err, registry.ErrNotFound) || !strings.Contains(err.Error(), "linux/arm64/v8") {
		t.Errorf("a platform that is not there: %v", err)
	}
}

func TestResolveFails(t *testing.T) {
	t.Parallel()
	r := origintest.New(t, origintest.Options{})
	good := push(r, ociManifest, "c", "l")
	liar := push(r, ociManifest, "c", "liar")
	down, busy := push(r, ociManifest, "c", "down"), push(r, ociManifest, "c", "busy")
	nested := add(r, ociIndex, object{"schemaVersion": 2, "mediaType": ociIndex, "manifests": []object{entry("sha256:bad", "linux", "amd64", "")}})
	huge := add(r, ociManifest, object{"schemaVersion": 2, "mediaType": ociManifest, "config": object{"digest": good, "size": int64(1) << 60}})
	r.Fail(liar, origintest.Fault{Corrupt: true})
	r.Fail(down, origintest.Fault{Status: 502})
	r.Fail(busy, origintest.Fault{Status: 429})
	for reference, want := range map[string]error{
		"none":          registry.ErrNotFound,
		liar.String():   registry.ErrInvalid,
		down.String():   registry.ErrUnavailable,
		busy.String():   registry.ErrUnavailable,
		nested.String(): registry.ErrInvalid,
		huge.String():   registry.ErrInvalid,
		add(r, "application/vnd.docker.distribution.manifest.v1+json", object{"schemaVersion": 1}).String(): registry.ErrInvalid,
		add(r, "text/html", object{"schemaVersion": 2}).String():                                            registry.ErrInvalid,
		r.AddManifest("p/app", ociManifest, []byte("<html>")).String():                                      registry.ErrInvalid,
		add(r, ociManifest, object{"schemaVersion": 2, "mediaType": ociManifest}).String():                  registry.ErrInvalid,
	} {
		if _, err := repo(t, r, reference, registry.Credential{}).Resolve(t.Context(), nil); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", reference, err, want)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	ref, err := registry.ParseURL("http://" + ln.Addr().String() + "/v2/a/manifests/1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := registry.New(registry.Config{}).Repo(ref, registry.Credential{}).Resolve(t.Context(), nil); !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("nobody listens: %v", err)
	}
}

// TestAddress holds that nobody has the manager ask where clouds tell machines their
// secrets: not by an image's name, nor by a redirect or challenge of a registry.
func TestAddress(t *testing.T) {
	t.Parallel()
	const metadata = "http://169.254.169.254/latest/meta-data"
	redirects := httptest.NewServer(http.RedirectHandler(metadata, http.StatusFound))
	t.Cleanup(redirects.Close)
	challenges := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+metadata+`"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(challenges.Close)
	proxied := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Host {
		case strings.TrimPrefix(redirects.URL, "http://"):
			redirects.Config.Handler.ServeHTTP(w, r)
		case strings.TrimPrefix(challenges.URL, "http://"):
			challenges.Config.Handler.ServeHTTP(w, r)
		default:
			t.Errorf("the proxy is asked for %s", r.URL)
		}
	}))
	t.Cleanup(proxied.Close)
	proxy, err := url.Parse(proxied.URL)
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]string{
		"by name": "http://169.254.169.254", "in another form": "http://[::ffff:169.254.169.254]", "in IPv6": "http://[fe80::1]",
		"by a redirect": redirects.URL, "by a challenge": challenges.URL,
	} {
		for way, c := range map[string]registry.Config{"": {}, " through a proxy": {Proxy: http.ProxyURL(proxy)}} {
			t.Run(name+way, func(t *testing.T) {
				if ln, err := net.Listen("tcp", "[::1]:0"); err == nil {
					ln.Close()
				} else if name == "in IPv6" && way == "" {
					t.Skip("this machine has no IPv6: ", err)
				}
				ref, err := registry.ParseURL(at + "/v2/a/manifests/1")
				if err != nil {
					t.Fatal(err)
				}
				c := registry.New(c)
				defer c.Close()
				_, err = c.Repo(ref, registry.Credential{}).Resolve(t.Context(), nil)
				if !errors.Is(err, origin.ErrAddress) || !errors.Is(err, registry.ErrInvalid) {
					t.Error(err)
				}
			})
		}
	}
}

func TestLogin(t *testing.T) {
	t.Parallel()
	users := map[string]string{"jane": "secret"}
	private := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: users})
	open := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Readers: map[string][]string{"p/app": {"", "jane"}}})
	basic := origintest.New(t, origintest.Options{Auth: origintest.Basic, Users: users})
	for name, c := range map[string]struct {
		r    *origintest.Registry
		cred registry.Credential
		want error
		lent bool
	}{
		"anonymous":             {open, registry.Credential{}, nil, true},
		"not for everybody":     {private, registry.Credential{}, registry.ErrRefused, false},
		"user":                  {private, registry.Credential{User: "jane", Password: "secret"}, nil, true},
		"wrong password":        {private, registry.Credential{User: "jane", Password: "wrong"}, registry.ErrRefused, false},
		"user in Authorization": {private, registry.Credential{Authorization: "Basic amFuZTpzZWNyZXQ="}, nil, true},
		"wrong token":           {private, registry.Credential{Authorization: "Bearer x"}, registry.ErrRefused, true},
		"basic":                 {basic, registry.Credential{User: "jane", Password: "secret"}, nil, false},
		"basic, wrong":          {basic, registry.Credential{User: "jane", Password: "wrong"}, registry.ErrRefused, false},
		"basic, nobody":         {basic, registry.Credential{}, registry.ErrRefused, false},
	} {
		d := push(c.r, ociManifest, "c", "l")
		repo := repo(t, c.r, d.String(), c.cred)
		_, err := repo.Resolve(t.Context(), nil)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || err == nil && (repo.Lent() != "") != c.lent {
			t.Errorf("%s: %v, lent %q", name, err, repo.Lent())
		}
		if s := fmt.Sprintf("%v %+v %#v", c.cred, c.cred, c.cred); err != nil && strings.Contains(err.Error(), "secret") || strings.Contains(s, "secret") {
			t.Errorf("%s shows: %v %s", name, err, s)
		}
	}
}

func TestRenew(t *testing.T) {
	t.Parallel()
	r := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: map[string]string{"jane": "secret"}})
	d := push(r, ociManifest, "c", "l")
	jane := repo(t, r, d.String(), registry.Credential{User: "jane", Password: "secret"})
	if _, err := jane.Resolve(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	old := jane.Lent()
	fixed := repo(t, r, d.String(), registry.Credential{Authorization: "Bearer " + old})
	if _, err := fixed.Resolve(t.Context(), nil); err != nil || fixed.Lent() != old {
		t.Errorf("with a token that was lent: %v", err)
	}
	r.ExpireTokens()
	if err := jane.Renew(t.Context()); err != nil || jane.Lent() == old {
		t.Errorf("renewed: %v", err)
	}
	if _, err := jane.Resolve(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if err := fixed.Renew(t.Context()); !errors.Is(err, registry.ErrRefused) {
		t.Errorf("a token that was given: %v", err)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	d := digest.FromString("x").String()
	for raw, want := range map[string]registry.Ref{
		"https://h.example/v2/p/r/manifests/v1":       {Scheme: "https", Host: "h.example", Repository: "p/r", Reference: "v1"},
		"http://h:80/v2/p/manifests/r/manifests/" + d: {Scheme: "http", Host: "h:80", Repository: "p/manifests/r", Reference: d},
	} {
		if got, err := registry.ParseURL(raw); err != nil || got != want || got.URL() != raw {
			t.Errorf("%s: %+v, %v", raw, got, err)
		}
	}
	for _, raw := range []string{
		"", "h/v2/p/manifests/v1", "ftp://h/v2/p/manifests/v1", "https:///v2/p/manifests/v1", "https://u:p@h/v2/p/manifests/v1", "https://h/v2/p/manifests/v1?x=y",
		"https://h/v2/p/blobs/v1", "https://h/v2/manifests/v1", "https://h/v2/../manifests/v1", "https://h/v2/P/manifests/v1", "https://h/v2/p/manifests/", "https://h/v2/p/manifests/a/b",
		"https://h/v2/p/manifests/sha256:abc", "https://h/v2/p%0a/manifests/v1", "file:///etc/passwd", "https://h/v2/p/manifests/..",
	} {
		if got, err := registry.ParseURL(raw); err == nil {
			t.Errorf("%q: %+v", raw, got)
		}
	}
	for name, want := range map[string]string{
		"nginx": "https://registry-1.docker.io/v2/library/nginx/manifests/latest", "h:5000/a/b:1": "https://h:5000/v2/a/b/manifests/1",
		"h.example/a@" + d: "https://h.example/v2/a/manifests/" + d, "h.example/a:1@" + d: "https://h.example/v2/a/manifests/" + d,
	} {
		if got, err := registry.ParseName(name, false); err != nil || got.URL() != want {
			t.Errorf("%s: %s, %v", name, got.URL(), err)
		}
	}
	if got, err := registry.ParseName("nginx:1", true); err != nil || got.Registry() != "docker.io" || got.Scheme != "http" || got.String() != "docker.io/library/nginx:1" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := registry.ParseName("A B", false); err == nil {
		t.Error("a name with a space")
	}
	if diff := cmp.Diff("h/a@"+d, registry.Ref{Host: "h", Repository: "a", Reference: d}.String()); diff != "" {
		t.Error(diff)
	}
}
