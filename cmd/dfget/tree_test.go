package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// model is a folder as such files are published.
func model(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"config.json", "a.bin", "b.bin", "sub/c.bin", "sub/deep/d.txt", "tmp/e.bin", "odd name ü%20.bin"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("this is "+name), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// downloaded returns the files below a folder; each must be right.
func downloaded(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if string(text) != "this is "+rel {
			t.Errorf("%s holds %q", rel, text)
		}
		names = append(names, rel)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return names
}

var trees = map[string]struct {
	args []string
	want []string
}{
	"all":             {nil, []string{"a.bin", "b.bin", "config.json", "odd name ü%20.bin", "sub/c.bin", "sub/deep/d.txt", "tmp/e.bin"}},
	"some":            {[]string{"--accept", "*.bin,config.json", "--reject", "b.*,tmp"}, []string{"a.bin", "config.json", "odd name ü%20.bin", "sub/c.bin"}},
	"by path":         {[]string{"--accept", "sub/*"}, []string{"sub/c.bin"}},
	"no folders":      {[]string{"--level", "0"}, []string{"a.bin", "b.bin", "config.json", "odd name ü%20.bin"}},
	"one folder deep": {[]string{"--level", "1", "--reject", "*.bin"}, []string{"config.json"}},
}

// TestTree downloads folders that a web server lists.
func TestTree(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.StripPrefix("/m", http.FileServer(http.Dir(model(t)))))
	t.Cleanup(s.Close)
	for name, c := range trees {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := filepath.Join(t.TempDir(), "to")
			out, err := run(t, append([]string{s.URL + "/m", "-r", "-O", to, "--no-agent", "-q"}, c.args...)...)
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if diff := cmp.Diff(c.want, downloaded(t, to)); diff != "" {
				t.Error(diff)
			}
		})
	}
	for name, c := range map[string]struct {
		args string
		code int
		says string
	}{
		"nothing like it": {"-r --accept *.none", exitNotFound, "no such files"},
		"one file's":      {"-r --digest sha256:x", 1, "do not go with --recursive"},
		"no pattern":      {"-r --accept [", 1, "is no pattern"},
		"not recursive":   {"--accept x", 1, "go with --recursive"},
		"standard output": {"-r -O -", 1, "name a folder"},
	} {
		_, err := run(t, append(strings.Fields(c.args), s.URL+"/m/", "--no-agent", "-q")...)
		if code(err) != c.code || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: %d, %v; want %d, %q", name, code(err), err, c.code, c.says)
		}
	}
}

// TestTreeEndless has a server show a folder in each folder, one with too many files, and
// one whose page is too long.
func TestTreeEndless(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/many/":
			for i := range maxFiles + 1 {
				_, _ = fmt.Fprintf(w, `<a href="%d">x</a>`, i)
			}
		case "/long/", "/longest/": // the link ends where a page may
			const link = `<a href="x">x</a>`
			_, _ = fmt.Fprint(w, strings.Repeat(" ", maxPage-len(link)), link)
			if r.URL.Path == "/long/" {
				_, _ = fmt.Fprint(w, " ")
			}
		default:
			_, _ = fmt.Fprintf(w, `<a href="%s/">x</a>`, strings.Repeat("x", 50))
		}
	}))
	t.Cleanup(s.Close)
	if out, err := run(t, s.URL+"/", "-r", "--list", "--no-agent"); !errors.Is(err, origin.ErrNotFound) {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := run(t, s.URL+"/many/", "-r", "--list", "--no-agent"); !errors.Is(err, errTooMany) {
		t.Errorf("too many files: %v", err)
	}
	if _, err := run(t, s.URL+"/long/", "-r", "--list", "--no-agent"); !errors.Is(err, errLong) {
		t.Errorf("too long a page: %v", err)
	}
	if out, err := run(t, s.URL+"/longest/", "-r", "--list", "--no-agent"); err != nil || out != "x\n" {
		t.Errorf("the longest page: %v: %s", err, out)
	}
}

// TestTreeHostile holds that links lead nowhere but below the folder, on the same server.
func TestTreeHostile(t *testing.T) {
	t.Parallel()
	const page = `<html><a href="good.bin">x</a><a href="?C=N&O=D">sort</a><a href="../up.bin">x</a><a href="/etc/passwd">x</a>
<a href="..%2f..%2fescaped">x</a><a href="%2e%2e/%2e%2e/dots">x</a><a href="a%2f..%2f..%2fb">x</a><a href="a%5c..%5cb">x</a>
<a href="http://elsewhere.invalid/m/file">x</a><a href="javascript:alert(1)">x</a><a href="good.bin#again">x</a><a href="./">x</a>
<a href="nul%00">x</a><a href="//elsewhere.invalid/m/x">x</a><a href="loop/">x</a>`
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		switch r.URL.Path {
		case "/m/", "/m/loop/":
			_, _ = fmt.Fprint(w, page)
		case "/m/good.bin":
			_, _ = fmt.Fprint(w, "this is good.bin")
		default:
			t.Errorf("it asks for %s", r.URL)
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	out, err := run(t, s.URL+"/m/", "-r", "--list", "--json", "--no-agent", "--reject", "loop")
	var list []found
	if err != nil || json.Unmarshal([]byte(out), &list) != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(list) != 1 || list[0].Path != "good.bin" {
		t.Errorf("it lists %+v", list)
	}
	to := t.TempDir()
	if out, err := run(t, s.URL+"/m/", "-r", "-O", to, "--no-agent", "-q", "--reject", "loop"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if diff := cmp.Diff([]string{"good.bin"}, downloaded(t, to)); diff != "" {
		t.Error(diff)
	}
	// A file that is missing does not keep the others from coming.
	s2 := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			_, _ = fmt.Fprint(w, `<a href="a">a</a><a href="b">b</a>`)
		case "/b":
			_, _ = fmt.Fprint(w, "this is b")
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s2.Close)
	to = t.TempDir()
	_, err = run(t, s2.URL, "-r", "-O", to, "--no-agent", "-q")
	if code(err) != exitNotFound || !strings.Contains(fmt.Sprint(err), "1 of 2 files") {
		t.Errorf("one is missing: %d, %v", code(err), err)
	}
	if got := downloaded(t, to); !slices.Equal(got, []string{"b"}) {
		t.Errorf("there is %v", got)
	}
}
