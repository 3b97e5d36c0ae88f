package origin_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

func TestRedirectKept(t *testing.T) {
	reg := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: users, Redirect: true})
	want := data(3, 5000)
	d := reg.AddBlob(repoPath, want)
	c := client(t, origin.Config{Credentials: known{alice}})
	for off := int64(0); off < 5000; off += 1000 {
		mustGet(t, c, repo(reg), d, off, 1000, want[off:off+1000])
	}
	if blobs, store := reg.Count("blob"), reg.Count("store"); blobs != 2 || store != 5 {
		t.Errorf("%d requests to the registry and %d to its store, want 2 (one before the login) and 5", blobs, store)
	}
	for _, q := range reg.Requests() {
		if q.Kind == "store" && q.Header.Get("Authorization") != "" {
			t.Error("the store got the registry's Authorization")
		}
	}
	reg.ExpireLinks()
	mustGet(t, c, repo(reg), d, 0, 10, want[:10])
	if n := reg.Count("blob"); n != 3 {
		t.Errorf("%d requests to the registry after the link had expired, want one more", n)
	}
}

func TestRedirectTargetFaults(t *testing.T) {
	want := data(3, 5000)
	for _, tt := range []struct {
		name  string
		fault origintest.Fault
		check func(error) bool
	}{
		{"429", origintest.Fault{Status: 429, RetryAfter: "3"}, unavailable(429, 3*time.Second, 3*time.Second)},
		{"500", origintest.Fault{Status: 500}, unavailable(500, 0, 0)},
		{"403", origintest.Fault{Status: 403}, unavailable(403, 0, 0)},
		{"404", origintest.Fault{Status: 404}, is(origin.ErrNotFound)},
		{"another range", origintest.Fault{ContentRange: "bytes 0-9/5000"}, is(origin.ErrResponse)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reg := origintest.New(t, origintest.Options{Redirect: true})
			d := reg.AddBlob(repoPath, want)
			c := client(t, origin.Config{})
			mustGet(t, c, repo(reg), d, 0, 10, want[:10])
			reg.Fail(d, tt.fault)
			_, err := get(c, repo(reg), d, 1000, 10)
			if err == nil || !tt.check(err) {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "signature") {
				t.Errorf("%q shows a signed link", err)
			}
			reg.Heal()
			mustGet(t, c, repo(reg), d, 1000, 10, want[1000:1010])
		})
	}
}

// TestRedirectStoreGone checks that the registry is asked again when the
// place it named before does not answer.
func TestRedirectStoreGone(t *testing.T) {
	const blob = "the bytes of a blob"
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, blob) }))
	moved := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, blob) }))
	t.Cleanup(moved.Close)
	var target atomic.Value
	target.Store(store.URL)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, target.Load().(string)+"/x?signature=abc", http.StatusFound)
	}))
	t.Cleanup(front.Close)
	c := client(t, origin.Config{})
	r := origin.Repo{Host: strings.TrimPrefix(front.URL, "http://"), Path: repoPath}
	d := digest.FromString(blob)
	mustGet(t, c, r, d, 0, -1, []byte(blob))
	store.Close()
	_, err := get(c, r, d, 0, -1)
	if !unavailable(0, 0, 0)(err) || strings.Contains(err.Error(), "signature") {
		t.Errorf("got %v, want *UnavailableError without the link", err)
	}
	target.Store(moved.URL)
	mustGet(t, c, r, d, 0, -1, []byte(blob))
}

func TestRedirectEndless(t *testing.T) {
	var front *httptest.Server
	var n atomic.Int32
	front = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		n.Add(1)
		http.Redirect(w, req, front.URL+"/again", http.StatusTemporaryRedirect)
	}))
	t.Cleanup(front.Close)
	r := origin.Repo{Host: strings.TrimPrefix(front.URL, "http://"), Path: repoPath}
	_, err := get(client(t, origin.Config{}), r, digest.FromString("x"), 0, -1)
	if !is(origin.ErrResponse)(err) || n.Load() > 10 {
		t.Errorf("got %v after %d requests", err, n.Load())
	}
}

func TestRedirectElsewhere(t *testing.T) {
	for _, target := range []string{"", "file:///etc/passwd", "ftp://host/x", "http://"} {
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Location"] = []string{target}
			w.WriteHeader(http.StatusFound)
		}))
		r := origin.Repo{Host: strings.TrimPrefix(front.URL, "http://"), Path: repoPath}
		if _, err := get(client(t, origin.Config{}), r, digest.FromString("x"), 0, -1); !is(origin.ErrResponse)(err) {
			t.Errorf("Location %q: got %v, want ErrResponse", target, err)
		}
		front.Close()
	}
}
