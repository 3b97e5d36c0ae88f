package origin_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

const fileText = "0123456789"

// fileServer has files that differ in what it says of them.
func fileServer(t *testing.T) (*httptest.Server, func(name, etag, text string)) {
	t.Helper()
	etags := map[string]string{"/strong": `"1"`, "/weak": `W/"1"`}
	texts := map[string]string{}
	modified := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		text, ok := texts[r.URL.Path]
		if !ok {
			text = fileText
		}
		at := modified
		switch r.URL.Path {
		case "/absent":
			http.NotFound(w, r)
			return
		case "/unpinned":
			at = time.Time{}
		case "/private":
			if r.Header.Get("Authorization") != "Bearer x" || r.URL.Query().Get("signature") != "s" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
		}
		if etag := etags[r.URL.Path]; etag != "" {
			w.Header().Set("ETag", etag)
		}
		http.ServeContent(w, r, "", at, strings.NewReader(text))
	})
	mux.HandleFunc("/unranged", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"2"`)
		fmt.Fprint(w, fileText)
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		fmt.Fprint(w, fileText)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s, func(name, etag, text string) { etags[name], texts[name] = etag, text }
}

func address(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func readFile(t *testing.T, c *origin.Client, r origin.Repo, off, n int64) (string, error) {
	t.Helper()
	b, err := c.File(t.Context(), r, off, n)
	if err != nil {
		return "", err
	}
	defer b.Close()
	data, err := io.ReadAll(b)
	return fmt.Sprintf("%d/%d %s", b.Off, b.Size, data), err
}

func TestFindFile(t *testing.T) {
	s, change := fileServer(t)
	c := client(t, origin.Config{})
	change("/empty", `"0"`, "")
	const modified = "Fri, 02 Jan 2026 03:04:05 GMT"
	for path, want := range map[string]origin.File{
		"/strong":   {Size: 10, ETag: `"1"`, Modified: modified},
		"/weak":     {Size: 10, ETag: `W/"1"`, Modified: modified},
		"/plain":    {Size: 10, Modified: modified},
		"/unpinned": {Size: 10},
		"/unranged": {Size: 10, ETag: `"2"`},
		"/endless":  {Size: -1},
		"/empty":    {Size: 0, ETag: `"0"`, Modified: modified},
	} {
		got, err := c.FindFile(t.Context(), origin.Access{URL: address(t, s.URL+path)})
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
		if pinned := path != "/unpinned" && path != "/endless"; got.Pinned() != pinned {
			t.Errorf("%s is pinned: %v", path, got.Pinned())
		}
	}
	if _, err := c.FindFile(t.Context(), origin.Access{URL: address(t, s.URL+"/absent")}); !errors.Is(err, origin.ErrNotFound) {
		t.Errorf("/absent: %v", err)
	}
}

// TestFile reads one version of a file, until there is another.
func TestFile(t *testing.T) {
	s, change := fileServer(t)
	c := client(t, origin.Config{})
	for _, path := range []string{"/strong", "/weak", "/plain", "/unranged"} {
		u := address(t, s.URL+path+"?x=1%20&y=2")
		f, err := c.FindFile(t.Context(), origin.Access{URL: u})
		if err != nil {
			t.Fatal(err)
		}
		r := f.At(u)
		want := "3/10 3456"
		if path == "/unranged" {
			want = "0/10 " + fileText
		}
		if got, err := readFile(t, c, r, 3, 4); got != want || err != nil {
			t.Errorf("%s: read %q, %v", r, got, err)
		}
		if path == "/plain" || path == "/unranged" {
			continue
		}
		change(path, `"new"`, strings.ToUpper("abcdefghij"))
		if got, err := readFile(t, c, r, 3, 4); !errors.Is(err, origin.ErrChanged) {
			t.Errorf("%s, which has changed: read %q, %v", r, got, err)
		}
		if got, err := readFile(t, c, origin.AnyVersion(u), 3, 4); got != "3/10 DEFG" || err != nil {
			t.Errorf("any version of %s: read %q, %v", r, got, err)
		}
	}
	for _, bad := range []origin.Repo{{Host: "ftp://h", Path: "x"}, {Host: "http://", Path: "x"}, {Host: "registry", Path: "x"}} {
		if _, err := c.File(t.Context(), bad, 0, 1); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

// TestFileAccess holds that what only this host may know is sent, and is in no
// name.
func TestFileAccess(t *testing.T) {
	s, _ := fileServer(t)
	c := client(t, origin.Config{})
	a := origin.Access{URL: address(t, s.URL+"/private?signature=s"), Header: http.Header{"authorization": {"Bearer x"}}}
	f, err := c.FindFile(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	r := f.At(address(t, s.URL+"/private"))
	if _, err := readFile(t, c, r, 0, 4); !errors.Is(err, origin.ErrUnauthorized) {
		t.Errorf("without access: %v", err)
	}
	release := c.Lend(r, a)
	again := c.Lend(r, a)
	again()
	if got, err := readFile(t, c, r, 0, 4); got != "0/10 0123" || err != nil {
		t.Errorf("with access: %q, %v", got, err)
	}
	release()
	if _, err := readFile(t, c, r, 0, 4); !errors.Is(err, origin.ErrUnauthorized) {
		t.Errorf("after that: %v", err)
	}
	if text := fmt.Sprintf("%v %+v %#v", a, a, a); strings.Contains(text, "Bearer") || strings.Contains(text, "signature") {
		t.Errorf("it prints %s", text)
	}
}

// TestFileRedirect holds that another server is told no secrets, nor asked where
// clouds tell theirs.
func TestFileRedirect(t *testing.T) {
	var got http.Header
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		http.ServeContent(w, r, "", time.Now(), strings.NewReader(fileText))
	}))
	defer other.Close()
	to := other.URL
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }))
	defer s.Close()
	c := client(t, origin.Config{})
	a := origin.Access{URL: address(t, s.URL+"/?signature=s"), Header: http.Header{"X-Key": {"k"}, "Authorization": {"Bearer x"}}}
	if f, err := c.FindFile(t.Context(), a); err != nil || f.Size != 10 {
		t.Fatalf("%+v, %v", f, err)
	}
	for _, k := range []string{"X-Key", "Authorization", "Referer"} {
		if v := got.Get(k); v != "" {
			t.Errorf("the other server was told %s: %s", k, v)
		}
	}
	if got.Get("Range") == "" {
		t.Error("the other server was not told the range")
	}
	for _, to = range []string{s.URL, "http://169.254.169.254/latest"} {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		if _, err := c.FindFile(ctx, a); err == nil {
			t.Errorf("it followed to %s", to)
		}
		cancel()
	}
}
