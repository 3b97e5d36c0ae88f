package mirror_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/mirror"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

var someDigest = digest.FromString("some")

func TestParsePath(t *testing.T) {
	t.Parallel()
	d := someDigest.String()
	for path, want := range map[string]mirror.Path{
		"/v2":                              {Kind: "other"},
		"/v2/":                             {Kind: "other"},
		"/v2/_catalog":                     {Kind: "other", Rest: "_catalog"},
		"/v2/a/blobs/" + d:                 {Kind: "blob", Repo: "a", Digest: d, Rest: "a/blobs/" + d},
		"/v2/a/blobs/c/blobs/" + d:         {Kind: "blob", Repo: "a/blobs/c", Digest: d, Rest: "a/blobs/c/blobs/" + d},
		"/v2/a/b/manifests/latest":         {Kind: "manifest", Repo: "a/b", Ref: "latest", Rest: "a/b/manifests/latest"},
		"/v2/a/b/tags/list":                {Kind: "other", Repo: "a/b", Rest: "a/b/tags/list"},
		"/v2/a/referrers/" + d:             {Kind: "other", Repo: "a", Rest: "a/referrers/" + d},
		"/v2/a/blobs/uploads/":             {Kind: "other", Repo: "a", Rest: "a/blobs/uploads/"},
		"/v2/a/blobs/uploads":              {Kind: "other", Repo: "a", Rest: "a/blobs/uploads"},
		"/v2/a/b/blobs/uploads/0-1?x":      {Kind: "other", Repo: "a/b", Rest: "a/b/blobs/uploads/0-1?x"},
		"/v2/manifests/blobs/" + d:         {Kind: "blob", Repo: "manifests", Digest: d, Rest: "manifests/blobs/" + d},
		"/v2/blobs/uploads/manifests/v1.0": {Kind: "manifest", Repo: "blobs/uploads", Ref: "v1.0", Rest: "blobs/uploads/manifests/v1.0"},
	} {
		got, err := mirror.ParsePath(path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	for path, want := range map[string]int{
		"":                                       http.StatusNotFound,
		"/":                                      http.StatusNotFound,
		"/v1/a":                                  http.StatusNotFound,
		"/v2x/a/blobs/" + d:                      http.StatusNotFound,
		"/v2/a/frogs/" + d:                       http.StatusNotFound,
		"/v2/../etc/passwd":                      http.StatusBadRequest,
		"/v2/a/../b/blobs/" + d:                  http.StatusBadRequest,
		"/v2/a/./blobs/" + d:                     http.StatusBadRequest,
		"/v2//blobs/" + d:                        http.StatusBadRequest,
		"/v2/a//blobs/" + d:                      http.StatusBadRequest,
		"/v2/A/blobs/" + d:                       http.StatusBadRequest,
		"/v2/a b/blobs/" + d:                     http.StatusBadRequest,
		"/v2/a\x00/blobs/" + d:                   http.StatusBadRequest,
		"/v2/a\\b/blobs/" + d:                    http.StatusBadRequest,
		"/v2/a/blobs/sha256:abc":                 http.StatusBadRequest,
		"/v2/a/blobs/md5:d41d8cd98f00b204e98009": http.StatusBadRequest,
		"/v2/a/blobs/" + d + "/..":               http.StatusBadRequest,
		"/v2/" + strings.Repeat("a", 300) + "/tags/list": http.StatusBadRequest,
		"/v2/" + strings.Repeat("a/", 4000) + "tags/x":   http.StatusRequestURITooLong,
	} {
		if got, err := mirror.ParsePath(path); err == nil || mirror.Status(err) != want {
			t.Errorf("%.60q was read as %+v, %v; want status %d", path, got, err, want)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	f.Add("/v2/a/b/blobs/" + someDigest.String())
	f.Add("/v2/a/manifests/latest")
	f.Add("/v2/a/blobs/uploads/../x")
	f.Fuzz(func(t *testing.T, path string) {
		got, err := mirror.ParsePath(path)
		if err != nil {
			if s := mirror.Status(err); s < 400 || s > 499 {
				t.Errorf("%q: status %d", path, s)
			}
			return
		}
		for _, bad := range []string{"/../", "/./", "//", "\\", "\x00", " "} {
			if strings.Contains("/"+got.Rest+"/x", bad) {
				t.Errorf("%q is passed on as %q", path, got.Rest)
			}
		}
		if got.Kind == "blob" && digest.Digest(got.Digest).Validate() != nil {
			t.Errorf("%q: digest %q", path, got.Digest)
		}
	})
}

func TestParseRange(t *testing.T) {
	t.Parallel()
	type s = mirror.Span
	for header, want := range map[string][]s{
		"":                                      nil,
		"bytes=0-9":                             {{0, 10}},
		"bytes=90-":                             {{90, 10}},
		"bytes=90-1000":                         {{90, 10}},
		"bytes=-10":                             {{90, 10}},
		"bytes=-1000":                           {{0, 100}},
		"Bytes = 1-1":                           {{1, 1}},
		"bytes=0-0, 5-6 ,-1":                    {{0, 1}, {5, 2}, {99, 1}},
		"bytes=0-0,200-300":                     {{0, 1}},
		"bytes=0-99,0-0":                        nil, // more than there is
		"bytes=9-0":                             nil,
		"bytes=-":                               nil,
		"bytes=":                                nil,
		"bytes":                                 nil,
		"lines=0-1":                             nil,
		"bytes=+1-2":                            nil,
		"bytes=a-b":                             nil,
		"bytes=0-1-2":                           nil,
		"bytes=0-9999999999999999":              {{0, 100}},
		"bytes=0-99999999999999999999999":       nil,
		"bytes=" + strings.Repeat("0-0,", 256):  nil,
		"bytes=" + strings.Repeat("0-0,", 2000): nil,
	} {
		got, err := mirror.ParseRange(header, 100)
		if err != nil {
			t.Errorf("%.40q: %v", header, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%.40q (-want +got):\n%s", header, diff)
		}
	}
	for _, header := range []string{"bytes=100-", "bytes=200-300", "bytes=-0", "bytes=100-,-0"} {
		if got, err := mirror.ParseRange(header, 100); err == nil || mirror.Status(err) != http.StatusRequestedRangeNotSatisfiable {
			t.Errorf("%q: %v, %v", header, got, err)
		}
	}
}

// FuzzParseRange compares with what net/http makes of the same header.
func FuzzParseRange(f *testing.F) {
	for _, h := range []string{"bytes=0-9", "bytes=-5", "bytes=5-", "bytes=0-0,-1", "bytes=100-", "bytes=,,1-2"} {
		f.Add(h, int64(100))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 1 || size > 1<<20 || !strings.HasPrefix(header, "bytes=") || len(header) > 200 {
			return
		}
		got, err := mirror.ParseRange(header, size)
		if err == nil {
			var sum int64
			for _, s := range got {
				if s.Off < 0 || s.N < 1 || s.Off+s.N > size {
					t.Fatalf("%q of %d bytes: %+v", header, size, got)
				}
				sum += s.N
			}
			if sum > size {
				t.Fatalf("%q: %d of %d bytes", header, sum, size)
			}
		}
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Range", header)
		http.ServeContent(w, r, "x", time.Time{}, io.NewSectionReader(zeros{}, 0, size))
		if err == nil && len(got) == 1 && w.Code == http.StatusPartialContent && w.Header().Get("Content-Range") != "" {
			want := fmt.Sprintf("bytes %d-%d/%d", got[0].Off, got[0].Off+got[0].N-1, size)
			if h := w.Header().Get("Content-Range"); h != want {
				t.Errorf("%q of %d bytes: %s, net/http says %s", header, size, want, h)
			}
		}
	})
}

type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }

func TestParseRegistry(t *testing.T) {
	t.Parallel()
	type result struct {
		Name  string
		Plain bool
		OK    bool
	}
	want := map[string]result{
		"ghcr.io":                      {"ghcr.io", false, true},
		"GHCR.io":                      {"ghcr.io", false, true},
		"https://ghcr.io/":             {"ghcr.io", false, true},
		"http://registry:5000":         {"registry:5000", true, true},
		"https://registry-1.docker.io": {"docker.io", false, true},
		"index.docker.io":              {"docker.io", false, true},
		"[fd00::1]:5000":               {"[fd00::1]:5000", false, true},
		"127.0.0.1:5000":               {"127.0.0.1:5000", false, true},
		"":                             {},
		"ftp://x":                      {},
		"https://":                     {},
		"https://user:pw@ghcr.io":      {},
		"ghcr.io/path":                 {},
		"ghcr.io:":                     {},
		"ghcr.io?x=1":                  {},
		"a b":                          {},
		"..":                           {},
		"ghcr.io\r\nX: y":              {},
		strings.Repeat("a", 300):       {},
	}
	got := map[string]result{}
	for s := range want {
		name, plain, err := mirror.ParseRegistry(s)
		got[s] = result{name, plain, err == nil}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestGrants(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := mirror.NewGrants()
		a, b := origin.Repo{Host: "r", Path: "a"}, origin.Repo{Host: "r", Path: "b"}
		g.Add("Bearer x", a, someDigest, 7)
		if size, ok := g.Size("Bearer x", a, someDigest); !ok || size != 7 {
			t.Errorf("%d, %v", size, ok)
		}
		for name, ok := range map[string]bool{
			"another repository": second(g.Size("Bearer x", b, someDigest)),
			"another client":     second(g.Size("Bearer y", a, someDigest)),
			"nobody":             second(g.Size("", a, someDigest)),
			"another blob":       second(g.Size("Bearer x", a, digest.FromString("other"))),
			"another host":       second(g.Size("Bearer x", origin.Repo{Host: "s", Path: "a"}, someDigest)),
		} {
			if ok {
				t.Errorf("%s has leave", name)
			}
		}
		time.Sleep(mirror.GrantLife + time.Second)
		if second(g.Size("Bearer x", a, someDigest)) {
			t.Error("it is remembered for ever")
		}
		for i := range 3 * mirror.MaxGrants {
			g.Add(fmt.Sprint(i), a, someDigest, 1)
		}
		held := 0
		for i := range 3 * mirror.MaxGrants {
			if second(g.Size(fmt.Sprint(i), a, someDigest)) {
				held++
			}
		}
		if held > 2*mirror.MaxGrants || held < mirror.MaxGrants {
			t.Errorf("%d are remembered", held)
		}
	})
}

func second(_ int64, ok bool) bool { return ok }

func TestOwn(t *testing.T) {
	t.Parallel()
	type at struct{ listen, host string }
	want := map[at]bool{
		{"127.0.0.1:65001", "127.0.0.1:65001"}:           true,
		{"127.0.0.1:65001", "localhost:65001"}:           true,
		{"127.0.0.1:65001", "[::1]:65001"}:               true,
		{"127.0.0.1:65001", "127.0.0.1:5000"}:            false,
		{"127.0.0.1:65001", "registry:65001"}:            false,
		{"127.0.0.1:65001", "192.0.2.1:65001"}:           false,
		{":65001", "127.0.0.1:65001"}:                    true,
		{":65001", "192.0.2.1:65001"}:                    false,
		{"mirror.example:65001", "127.0.0.1:65001"}:      true,
		{"mirror.example:65001", "mirror.example:65001"}: true,
		{"", "127.0.0.1:65001"}:                          false,
	}
	got := map[at]bool{}
	for k := range want {
		got[k] = mirror.Own(k.listen)(k.host)
	}
	if diff := cmp.Diff(fmt.Sprint(want), fmt.Sprint(got)); diff != "" {
		t.Error(diff)
	}
}
