package origin_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

const manifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`

func TestDocument(t *testing.T) {
	reg := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: users, Redirect: true})
	config := data(5, 2000)
	md, cd := reg.AddManifest(repoPath, ocispec.MediaTypeImageManifest, []byte(manifest)), reg.AddBlob(repoPath, config)
	c := client(t, origin.Config{Credentials: known{alice}})
	got, mediaType, err := c.Document(t.Context(), repo(reg), md, true, 4<<20)
	if string(got) != manifest || mediaType != ocispec.MediaTypeImageManifest || err != nil {
		t.Errorf("manifest: got %q, %q, %v", got, mediaType, err)
	}
	got, _, err = c.Document(t.Context(), repo(reg), cd, false, 2000)
	if string(got) != string(config) || err != nil {
		t.Errorf("config: got %d bytes, %v", len(got), err)
	}
	for _, q := range reg.Requests() {
		accept := strings.Join(q.Header.Values("Accept"), ",")
		for _, want := range []string{"oci.image.manifest.v1+json", "oci.image.index.v1+json", "docker.distribution.manifest.v2+json", "docker.distribution.manifest.list.v2+json"} {
			if q.Kind == "manifest" && !strings.Contains(accept, want) {
				t.Errorf("Accept %q lacks %s", accept, want)
			}
		}
	}
	if n := reg.Count("token"); n != 1 {
		t.Errorf("%d token requests, want one for both", n)
	}
}

func TestDocumentMediaType(t *testing.T) {
	for _, tt := range []struct{ header, body, want string }{
		{"application/vnd.oci.image.index.v1+json; charset=utf-8", "{}", ocispec.MediaTypeImageIndex},
		{"application/json", manifest, ocispec.MediaTypeImageManifest},
		{"", manifest, ocispec.MediaTypeImageManifest},
		{"text/plain; charset=utf-8", "{}", "text/plain"},
		{";;;", "{}", ""},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = []string{tt.header}
			fmt.Fprint(w, tt.body)
		}))
		r := origin.Repo{Host: strings.TrimPrefix(server.URL, "http://"), Path: repoPath}
		_, got, err := client(t, origin.Config{}).Document(t.Context(), r, digest.FromString(tt.body), true, 1000)
		if got != tt.want || err != nil {
			t.Errorf("Content-Type %q, body %q: got %q, %v; want %q", tt.header, tt.body, got, err, tt.want)
		}
		server.Close()
	}
}

func TestDocumentFaults(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault origintest.Fault
		limit int64
		check func(error) bool
	}{
		{"wrong bytes", origintest.Fault{Corrupt: true}, 5000, is(origin.ErrDigest)},
		{"too large", origintest.Fault{}, 1999, is(origin.ErrResponse)},
		{"cut off", origintest.Fault{CutAfter: 100}, 5000, unavailable(0, 0, 0)},
		{"hangs", origintest.Fault{HangAfter: 100}, 5000, unavailable(0, 0, 0)},
		{"missing", origintest.Fault{Status: 404}, 5000, is(origin.ErrNotFound)},
		{"500", origintest.Fault{Status: 500}, 5000, unavailable(500, 0, 0)},
		{"429", origintest.Fault{Status: 429, RetryAfter: "3"}, 5000, unavailable(429, 3*time.Second, 3*time.Second)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reg := origintest.New(t, origintest.Options{})
			d := reg.AddManifest(repoPath, ocispec.MediaTypeImageManifest, data(5, 2000))
			reg.Fail(d, tt.fault)
			_, _, err := client(t, origin.Config{HeaderTimeout: 200 * time.Millisecond}).Document(t.Context(), repo(reg), d, true, tt.limit)
			if err == nil || !tt.check(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestDocumentTooLargeUnannounced checks the limit where no length is sent.
func TestDocumentTooLargeUnannounced(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 10 {
			w.Write(make([]byte, 1000))
			w.(http.Flusher).Flush()
		}
	}))
	t.Cleanup(server.Close)
	r := origin.Repo{Host: strings.TrimPrefix(server.URL, "http://"), Path: repoPath}
	_, _, err := client(t, origin.Config{}).Document(t.Context(), r, digest.FromBytes(make([]byte, 10000)), false, 9999)
	if !errors.Is(err, origin.ErrResponse) {
		t.Errorf("got %v, want ErrResponse", err)
	}
}

// TestDocumentFromNextHost checks that a mirror with wrong bytes does not
// keep the right ones of the server away.
func TestDocumentFromNextHost(t *testing.T) {
	mirror, server := origintest.New(t, origintest.Options{}), origintest.New(t, origintest.Options{})
	want := data(5, 2000)
	d := mirror.AddBlob(repoPath, want)
	server.AddBlob(repoPath, want)
	mirror.Fail(d, origintest.Fault{Corrupt: true})
	dir := hostsDir(t, "_default", fmt.Sprintf("server = %q\n[host.%q]\n", server.URL(), mirror.URL()))
	got, _, err := client(t, origin.Config{HostsDir: dir}).Document(t.Context(), named, d, false, 5000)
	if string(got) != string(want) || err != nil {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

// TestContentEncoding checks that bytes are handed out as they came, also
// where a registry says that they are compressed.
func TestContentEncoding(t *testing.T) {
	want := append([]byte{0x1f, 0x8b, 8, 0}, data(5, 500)...)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(want)
	}))
	t.Cleanup(server.Close)
	r := origin.Repo{Host: strings.TrimPrefix(server.URL, "http://"), Path: repoPath}
	mustGet(t, client(t, origin.Config{}), r, digest.FromBytes(want), 0, -1, want)
}

// TestLengthMismatch checks bodies that are not as long as was said.
func TestLengthMismatch(t *testing.T) {
	for _, tt := range []struct {
		name, contentRange, contentLength string
		body                              int
		check                             func(error) bool
	}{
		{"length against range", "bytes 0-99/1000", "50", 50, is(origin.ErrResponse)},
		{"shorter than the range", "bytes 0-99/1000", "", 50, unavailable(0, 0, 0)},
		{"range longer than asked", "bytes 0-149/1000", "150", 150, is(origin.ErrResponse)},
		{"longer than the range", "bytes 0-99/1000", "", 150, func(err error) bool { return err == nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Range", tt.contentRange)
				if tt.contentLength != "" {
					w.Header().Set("Content-Length", tt.contentLength)
				}
				w.WriteHeader(http.StatusPartialContent)
				w.(http.Flusher).Flush()
				w.Write(data(5, tt.body))
			}))
			t.Cleanup(server.Close)
			r := origin.Repo{Host: strings.TrimPrefix(server.URL, "http://"), Path: repoPath}
			got, err := get(client(t, origin.Config{}), r, digest.FromString("x"), 0, 100)
			if !tt.check(err) {
				t.Errorf("got %v", err)
			}
			if err == nil && !slices.Equal(got, data(5, 100)) {
				t.Errorf("got %d bytes, want 100", len(got))
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	reg := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: users, Redirect: true})
	want := data(5, 2000)
	d := reg.AddBlob(repoPath, want)
	registry := prometheus.NewPedanticRegistry()
	c := client(t, origin.Config{Credentials: known{alice}, Registerer: registry})
	mustGet(t, c, repo(reg), d, 0, 1500, want[:1500])
	err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP dfsnapshotter_origin_received_bytes_total Bytes of blobs and manifests that registries sent.
# TYPE dfsnapshotter_origin_received_bytes_total counter
dfsnapshotter_origin_received_bytes_total{kind="blob"} 1500
# HELP dfsnapshotter_origin_requests_total HTTP requests to registries, their token servers and blob stores.
# TYPE dfsnapshotter_origin_requests_total counter
dfsnapshotter_origin_requests_total{kind="blob",result="ok"} 1
dfsnapshotter_origin_requests_total{kind="blob",result="redirect"} 1
dfsnapshotter_origin_requests_total{kind="blob",result="unauthorized"} 1
dfsnapshotter_origin_requests_total{kind="token",result="ok"} 1
`))
	if err != nil {
		t.Error(err)
	}
	if _, err := origin.New(origin.Config{Registerer: registry}); err == nil {
		t.Error("a second client registered the same metrics")
	}
}
