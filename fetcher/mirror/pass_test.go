package mirror_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

const manifestType = "application/vnd.oci.image.manifest.v1+json"

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// manifestOf puts a manifest of blobs into a repository.
func manifestOf(reg *origintest.Registry, repo string, blobs ...[]byte) digest.Digest {
	var layers []string
	for _, b := range blobs {
		layers = append(layers, fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}`, reg.AddBlob(repo, b), len(b)))
	}
	return reg.AddManifest(repo, manifestType, fmt.Appendf(nil, `{"layers":[%s]}`, strings.Join(layers, ",")))
}

// TestPassThrough looks at what the registry gets, and at what the client does.
func TestPassThrough(t *testing.T) {
	t.Parallel()
	reg := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: map[string]string{"alice": "pw"}})
	f := open(t, reg.URL(), nil)
	m := manifestOf(reg, "a/b", data(1, 10))
	reg.Tag("a/b", "latest", m)

	r := f.do("GET", "/v2/")
	if r.status != http.StatusOK && !strings.HasPrefix(r.header.Get("Www-Authenticate"), "Bearer realm=") {
		t.Errorf("status %d, Www-Authenticate %q", r.status, r.header.Get("Www-Authenticate"))
	}
	r = f.do("GET", "/v2/a/b/manifests/latest")
	challenge := r.header.Get("Www-Authenticate")
	if r.status != 401 || !strings.Contains(challenge, `realm="`+reg.URL()) || !strings.Contains(challenge, "repository:a/b:pull") {
		t.Errorf("status %d, challenge %q", r.status, challenge)
	}
	f.want(f.do("GET", "/v2/a/b/manifests/latest", "Authorization", "Bearer wrong"), 401, nil)

	token := login(t, reg, "alice", "pw", "repository:a/b:pull")
	reg.Reset()
	r = f.do("GET", "/v2/a/b/manifests/latest", "Authorization", token, "Accept", manifestType, "Accept", "x/y",
		"User-Agent", "docker/1", "X-Dragonfly-Tag", "t", "Proxy-Authorization", "Basic x", "Connection", "X-Hop", "X-Hop", "1")
	f.want(r, 200, nil)
	if r.header.Get("Content-Type") != manifestType || r.header.Get("Docker-Content-Digest") != m.String() {
		t.Errorf("headers %v", r.header)
	}
	q := reg.Requests()[0]
	for k, want := range map[string]string{
		"Authorization": token, "Accept": manifestType + ",x/y", "User-Agent": "docker/1",
		"X-Dragonfly-Tag": "", "Proxy-Authorization": "", "X-Hop": "", "Accept-Encoding": "",
	} {
		if got := strings.Join(q.Header.Values(k), ","); got != want {
			t.Errorf("the registry got %s: %q, want %q", k, got, want)
		}
	}
	if !strings.HasPrefix(q.Header.Get("Via"), "1.1 dfsnapshotter-") {
		t.Errorf("Via: %q", q.Header.Get("Via"))
	}
	f.want(f.do("HEAD", "/v2/a/b/manifests/latest", "Authorization", token), 200, nil)
	f.do("GET", "/v2/a/b/tags/list?n=5&ns="+reg.Host(), "Authorization", token)
	if all := reg.Requests(); !strings.HasSuffix(all[len(all)-1].URL, "/tags/list?n=5") {
		t.Errorf("the registry was asked for %s", all[len(all)-1].URL)
	}
}

// login gets a token of a registry's token server.
func login(t *testing.T, reg *origintest.Registry, user, password, scope string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, reg.URL()+"/token?service=origintest&scope="+scope, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth(user, password)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(body), `"token":"`)
	token, _, ok := strings.Cut(rest, `"`)
	if !ok {
		t.Fatalf("token server: %s %s", resp.Status, body)
	}
	return "Bearer " + token
}

// TestPrivate has a blob of a private repository on this host, and clients that may
// and may not read it.
func TestPrivate(t *testing.T) {
	t.Parallel()
	for name, auth := range map[string]origintest.Auth{"basic": origintest.Basic, "bearer": origintest.Bearer} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := origintest.New(t, origintest.Options{
				Auth: auth, Users: map[string]string{"alice": "a-secret", "bob": "b-secret"},
				Readers: map[string][]string{"private": {"alice"}, "open": {"alice", "bob"}},
			})
			f := open(t, reg.URL(), nil)
			secret, known := data(11, 2*mib), data(12, 2*mib)
			m := manifestOf(reg, "private", secret)
			manifestOf(reg, "open", known)
			d, e := digest.FromBytes(secret), digest.FromBytes(known)
			as := func(user, repo string) string {
				if auth == origintest.Basic {
					return basic(user, user[:1]+"-secret")
				}
				return login(t, reg, user, user[:1]+"-secret", "repository:"+repo+":pull")
			}
			alice, bob, bobToo := as("alice", "private"), as("bob", "open"), as("bob", "private")
			f.want(f.do("GET", "/v2/private/manifests/"+m.String(), "Authorization", alice), 200, nil)
			reg.Reset()
			f.want(f.do("GET", blobPath("private", d), "Authorization", alice), 200, secret)
			for _, q := range reg.Requests() {
				if q.Method == http.MethodHead {
					t.Error("the registry was asked although it has given the manifest")
				}
			}
			f.want(f.do("GET", blobPath("open", e), "Authorization", bob), 200, known)
			f.want(f.do("GET", blobPath("private", d), "Authorization", alice), 200, secret)

			reg.Reset()
			for what, r := range map[string]reply{
				"nobody":                       f.do("GET", blobPath("private", d)),
				"bob":                          f.do("GET", blobPath("private", d), "Authorization", bobToo),
				"bob, with a token for open":   f.do("GET", blobPath("private", d), "Authorization", bob),
				"a wrong password":             f.do("GET", blobPath("private", d), "Authorization", basic("alice", "x")),
				"bob, a range":                 f.do("GET", blobPath("private", d), "Authorization", bobToo, "Range", "bytes=0-9"),
				"bob, as of a blob from peers": f.do("GET", blobPath("private", d), "Authorization", bobToo, "X-Dragonfly-Priority", "2"),
			} {
				if r.status != 401 || r.header.Get("Www-Authenticate") == "" || len(r.body) > 1000 {
					t.Errorf("%s: status %d with %d bytes", what, r.status, len(r.body))
				}
			}
			// Under another repository, as the registry answers: it is not there.
			f.refused(f.do("GET", blobPath("open", d), "Authorization", bob), http.StatusNotFound, "UNKNOWN")
			if n := reg.Sent(d); n != 0 {
				t.Errorf("the registry sent %d bytes of it", n)
			}
			for _, s := range []string{alice, bob, bobToo, "a-secret", "b-secret"} {
				_, s, _ = strings.Cut(s, " ")
				if s != "" && strings.Contains(f.log.String(), s) {
					t.Errorf("the log holds %q", s)
				}
			}
		})
	}
}

// TestOtherKeys has a registry that knows its clients by a header of its own.
func TestOtherKeys(t *testing.T) {
	t.Parallel()
	reg := origintest.New(t, origintest.Options{Header: map[string]string{"X-Api-Key": "secret"}})
	// This host may read it, too, but that is not for clients.
	f := open(t, "", map[string]string{"registry.test": fmt.Sprintf("server = %q\n[host.%q]\n[host.%q.header]\nX-Api-Key = \"secret\"\n", reg.URL(), reg.URL(), reg.URL())})
	want := data(14, mib)
	d := reg.AddBlob("a", want)
	path := blobPath("a", d) + "?ns=registry.test"
	f.want(f.do("GET", path, "X-Api-Key", "secret"), 200, want)
	f.want(f.do("GET", path, "X-Api-Key", "secret", "Range", "bytes=0-9", "User-Agent", "x"), 206, want[:10])
	for _, headers := range [][]string{nil, {"X-Api-Key", "wrong"}} {
		if r := f.do("GET", path, headers...); r.status != http.StatusBadRequest || len(r.body) > 1000 {
			t.Errorf("with %v: status %d, %d bytes", headers, r.status, len(r.body))
		}
	}
}

// TestForeign has a manifest that names a blob of another repository, which
// registries let pass if it is said to be elsewhere.
func TestForeign(t *testing.T) {
	t.Parallel()
	reg := origintest.New(t, origintest.Options{})
	f := open(t, reg.URL(), nil)
	secret := data(13, 1000)
	d := reg.AddBlob("private", secret)
	f.want(f.do("GET", blobPath("private", d)), 200, secret)
	for _, more := range []string{`"urls":["http://x"]`, `"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"`} {
		m := reg.AddManifest("open", manifestType, fmt.Appendf(nil, `{"layers":[{"digest":%q,"size":1000,%s}]}`, d, more))
		f.want(f.do("GET", "/v2/open/manifests/"+m.String()), 200, nil)
		f.refused(f.do("GET", blobPath("open", d)), http.StatusNotFound, "UNKNOWN")
	}
}

// TestUpload passes a write and its answer's way back.
func TestUpload(t *testing.T) {
	t.Parallel()
	var server *httptest.Server
	bodies := make(chan string, 1)
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, _ := io.ReadAll(r.Body) // fails the test below
		bodies <- string(got)
		w.Header().Set("Location", map[string]string{"absolute": server.URL + "/v2/a/blobs/uploads/1?s=2", "elsewhere": "https://elsewhere.example/v2/x"}[r.URL.Query().Get("as")])
		if r.URL.Query().Get("as") == "relative" {
			w.Header().Set("Location", "/v2/a/blobs/uploads/1?s=2")
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	f := open(t, server.URL, nil)
	for query, want := range map[string]string{
		"as=absolute":            "/v2/a/blobs/uploads/1?s=2",
		"as=relative":            "/v2/a/blobs/uploads/1?s=2",
		"as=absolute&ns=" + host: "/v2/a/blobs/uploads/1?ns=" + strings.ReplaceAll(host, ":", "%3A") + "&s=2",
		"as=elsewhere":           "https://elsewhere.example/v2/x",
	} {
		resp, err := f.client.Post(f.url+"/v2/a/blobs/uploads/?"+query, "text/plain", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if at := resp.Header.Get("Location"); resp.StatusCode != http.StatusAccepted || at != want {
			t.Errorf("%s: status %d, Location %q", query, resp.StatusCode, at)
		}
		if got := <-bodies; got != "body" {
			t.Errorf("%s: the registry got %q", query, got)
		}
	}
}

// TestBadRequests are refused in the registry's form.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	reg := origintest.New(t, origintest.Options{})
	f := open(t, "", nil)
	d := digest.FromString("x")
	for path, want := range map[string]struct {
		status int
		code   string
	}{
		"/":                                         {404, "UNSUPPORTED"},
		"/metrics":                                  {404, "UNSUPPORTED"},
		"/v2/a/%2e%2e/b/blobs/" + d.String():        {400, "NAME_INVALID"},
		"/v2/UPPER/blobs/" + d.String():             {400, "NAME_INVALID"},
		"/v2/a/blobs/sha256:1":                      {400, "DIGEST_INVALID"},
		blobPath("a", d):                            {400, "NAME_INVALID"}, // no registry is named
		blobPath("a", d) + "?ns=a%2fb":              {400, "NAME_INVALID"},
		blobPath("a", d) + "?ns=user@x":             {400, "NAME_INVALID"},
		blobPath("a", d) + "?ns=169.254.169.254":    {403, "DENIED"},
		blobPath("a", d) + "?ns=[fe80::1]:5000":     {403, "DENIED"},
		blobPath("a", d) + "?ns=100.100.100.200":    {403, "DENIED"},
		blobPath("a", d) + "?ns=[fd00:ec2::254]":    {403, "DENIED"},
		"/v2/" + strings.Repeat("a/", 3000) + "x/y": {414, "UNSUPPORTED"},
	} {
		f.refused(f.do("GET", path), want.status, want.code)
	}
	f.refused(f.do("GET", blobPath("a", d), "X-Dragonfly-Registry", "http://169.254.1.1/"), 403, "DENIED")
	f.refused(f.do("GET", blobPath("a", d)+"?ns="+reg.Host(), "X-Long", strings.Repeat("x", 100<<10)), 431, "UNSUPPORTED")
}
