package file_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/file"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

func client(t *testing.T) *origin.Client {
	t.Helper()
	c, err := origin.New(origin.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// A leave lets another host read the very file that it was made for, for a while.
func TestLeave(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/open" && (r.Header.Get("X-Password") != "sesame" || r.URL.Query().Get("token") != "1") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("ETag", `"one"`)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("bytes of "+r.URL.Path))
	}))
	defer s.Close()
	find := func(spec file.Spec) *file.File {
		t.Helper()
		f, err := file.Find(t.Context(), client(t), spec)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	if f := find(file.Spec{URL: s.URL + "/open?b=2&a=1"}); f.Leave() != "" {
		t.Error("what is open to all needs a leave")
	}
	secret := file.Spec{URL: s.URL + "/a?token=1", Header: http.Header{"X-Password": {"sesame"}}, Filter: []string{"token"}}
	f := find(secret)
	leave := f.Leave()
	if leave == "" || strings.Contains(leave, "sesame") {
		t.Errorf("a leave is %q", leave)
	}
	other := client(t)
	read := func() (string, error) {
		b, err := other.File(t.Context(), f.Repo, 0, -1)
		if err != nil {
			return "", err
		}
		defer b.Close()
		text, err := io.ReadAll(b)
		return string(text), err
	}
	if _, err := read(); err == nil {
		t.Fatal("it can be read without")
	}
	if err := file.Take(other, f.Repo, leave, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if text, err := read(); err != nil || text != "bytes of /a" {
		t.Errorf("%q, %v", text, err)
	}
	if err := file.Take(other, f.Repo, leave, time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := read(); err == nil {
		t.Error("it can be read for ever")
	}
	for what, text := range map[string]string{"no text": "?", "no JSON": "eA==", "another file's": find(file.Spec{URL: s.URL + "/b?token=1", Header: secret.Header, Filter: secret.Filter}).Leave()} {
		if err := file.Take(other, f.Repo, text, time.Now().Add(time.Hour)); err == nil || strings.Contains(err.Error(), "token=1") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestPublic(t *testing.T) {
	t.Parallel()
	for spec, want := range map[string]string{
		"https://u:p@h/a?b=1&sig=x&sv=y#z": "https://h/a?b=1",
		"https://h/a b":                    "https://h/a%20b",
		"ftp://h/a":                        "",
		"https:///a":                       "",
		"oci://h/a@sha256:1":               "",
		":":                                "",
	} {
		got, err := file.Spec{URL: spec}.Public()
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", spec, got, err)
		}
	}
}
