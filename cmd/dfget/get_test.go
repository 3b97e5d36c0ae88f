package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/file"
)

const mib = 1 << 20

func random(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // it never fails
	return b
}

// server has one file, whose bytes it counts.
type server struct {
	*httptest.Server
	sent atomic.Int64
	most atomic.Int64 // bytes of one answer, before it breaks off; 0: all
	pace atomic.Int64 // bytes per second of one answer; 0: as they go

	mu   sync.Mutex // guards what follows
	data []byte
	etag string
}

func serve(t *testing.T, data []byte) *server {
	t.Helper()
	s := &server{data: data, etag: `"1"`}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) change(data []byte, etag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data, s.etag = data, etag
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	data, etag := s.data, s.etag
	s.mu.Unlock()
	switch r.URL.Path {
	case "/absent":
		http.NotFound(w, r)
		return
	case "/private":
		if r.Header.Get("Authorization") != "Bearer x" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("ETag", etag)
	case "/unpinned":
	default:
		w.Header().Set("ETag", etag)
	}
	http.ServeContent(&counting{w, s, 0}, r, "", time.Time{}, bytes.NewReader(data))
}

// counting counts what an answer sends, and may break it off.
type counting struct {
	http.ResponseWriter
	s *server
	n int64
}

func (c *counting) Write(p []byte) (int, error) {
	if most := c.s.most.Load(); most > 0 && c.n+int64(len(p)) > most {
		n, _ := c.ResponseWriter.Write(p[:most-c.n])
		c.s.sent.Add(int64(n))
		panic(http.ErrAbortHandler)
	}
	if pace := c.s.pace.Load(); pace > 0 {
		time.Sleep(time.Duration(len(p)) * time.Second / time.Duration(pace))
	}
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	c.s.sent.Add(int64(n))
	return n, err
}

func code(err error) int {
	var e daemon.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.Code
	}
	return 1
}

// TestDirect downloads without an agent.
func TestDirect(t *testing.T) {
	data := random(3*mib, 1)
	s := serve(t, data)
	sum := digest.FromBytes(data)
	absent := filepath.Join(t.TempDir(), "no.sock")
	for name, c := range map[string]struct {
		path string
		args []string
		want []byte // nil: data
		code int
		says string
	}{
		"whole":               {path: "/f", says: "straight from the server, since no agent answers"},
		"digest":              {path: "/f", args: []string{"--digest", sum.String()}},
		"another algorithm":   {path: "/f", args: []string{"--digest", digest.SHA512.FromBytes(data).String()}},
		"wrong digest":        {path: "/f", args: []string{"--digest", digest.FromString("x").String()}, code: exitDigest, says: sum.String()},
		"no digest":           {path: "/f", args: []string{"--digest", "sha256:abc"}, code: 1, says: "is no digest"},
		"absent":              {path: "/absent", code: exitNotFound, says: "not found"},
		"private":             {path: "/private", code: exitUnauthorized, says: "not authorized"},
		"header":              {path: "/private", args: []string{"-H", "Authorization: Bearer x"}},
		"no header":           {path: "/f", args: []string{"-H", "Bearer x"}, code: 1, says: "--header must be"},
		"first bytes":         {path: "/f", args: []string{"--range", "0-9"}, want: data[:10]},
		"some bytes":          {path: "/f", args: []string{"--range", "1000-1048599"}, want: data[1000:1048600]},
		"more than there are": {path: "/f", args: []string{"--range", "3145700-9999999"}, want: data[3145700:]},
		"last bytes":          {path: "/f", args: []string{"--range", "-5"}, want: data[len(data)-5:]},
		"from":                {path: "/f", args: []string{"--range", "3145720-"}, want: data[3145720:]},
		"behind the end":      {path: "/f", args: []string{"--range", "3145728-"}, code: 1, says: "there is none"},
		"no range":            {path: "/f", args: []string{"--range", "5-3"}, code: 1, says: "--range"},
		"unpinned":            {path: "/unpinned"},
		"fast enough":         {path: "/f", args: []string{"--rate-limit", "1GiB"}},
		"no rate":             {path: "/f", args: []string{"--rate-limit", "fast"}, code: 1, says: "--rate-limit"},
		"no URL":              {path: "", args: nil, code: exitOutput, says: "a folder"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := filepath.Join(t.TempDir(), "file")
			if c.path == "" {
				to = filepath.Dir(to)
			}
			out, err := run(t, append([]string{s.URL + c.path, "-O", to, "--agent", absent}, c.args...)...)
			if code(err) != c.code {
				t.Fatalf("exit code %d, want %d: %v", code(err), c.code, err)
			}
			if text := out + fmt.Sprint(err); !strings.Contains(text, c.says) {
				t.Errorf("it says %q, want %q", text, c.says)
			}
			want := c.want
			if want == nil {
				want = data
			}
			got, err := os.ReadFile(to)
			if c.code == 0 && (err != nil || !bytes.Equal(got, want)) {
				t.Errorf("it wrote %d bytes, want %d, %v", len(got), len(want), err)
			}
			if c.code != 0 && c.path != "" && err == nil {
				t.Error("there is a file")
			}
			if rest, _ := filepath.Glob(filepath.Join(filepath.Dir(to), ".*")); len(rest) > 0 && c.path != "" {
				t.Errorf("it leaves %v", rest)
			}
		})
	}
}

// TestDirectCA downloads from a server whose certificate only --ca vouches for.
func TestDirectCA(t *testing.T) {
	t.Parallel()
	s := &server{data: random(1*mib, 2), etag: `"1"`}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of who does not know it
	s.StartTLS()
	defer s.Close()
	dir := t.TempDir()
	ca, to := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "file")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, s.URL+"/f", "-O", to, "--no-agent"); code(err) != exitUnavailable || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("without --ca: %v", err)
	}
	if _, err := run(t, s.URL+"/f", "-O", to, "--no-agent", "--ca", to+".none"); code(err) != 1 || !strings.Contains(err.Error(), "--ca: ") {
		t.Errorf("with a file that is not there: %v", err)
	}
	if _, err := run(t, s.URL+"/f", "-O", to, "--no-agent", "--ca", ca); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, s.data) {
		t.Errorf("it wrote %d bytes of %d, %v", len(got), len(s.data), err)
	}
}

// TestDirectOutput holds what goes to the standard output, and what --json says.
func TestDirectOutput(t *testing.T) {
	data := random(mib, 2)
	s := serve(t, data)
	out, err := run(t, s.URL+"/f", "-O", "-", "--no-agent", "--quiet", "--digest", digest.FromBytes(data).String())
	if err != nil || out != string(data) {
		t.Errorf("it prints %d bytes, %v", len(out), err)
	}
	if _, err := run(t, s.URL+"/f", "-O", "-", "--no-agent", "--quiet", "--digest", digest.FromString("x").String()); code(err) != exitDigest && code(err) != exitOutput {
		t.Errorf("a wrong digest: %v", err)
	}
	to := filepath.Join(t.TempDir(), "f")
	out, err = run(t, strings.Replace(s.URL, "//", "//user:secret@", 1)+"/f?token=secret", "-O", to, "--no-agent", "--quiet", "--json")
	var r result
	if err != nil || json.Unmarshal([]byte(out), &r) != nil {
		t.Fatalf("%q, %v", out, err)
	}
	if r.Size != mib || r.Digest != digest.FromBytes(data) || r.From.Origin != mib || r.File != to || strings.Contains(out, "secret") {
		t.Errorf("it says %s", out)
	}
}

// TestDirectResumed breaks a download off, and goes on with it.
func TestDirectResumed(t *testing.T) {
	data := random(4*mib, 3)
	for name, c := range map[string]struct {
		meanwhile func(s *server, part string)
		args      []string
		most      int64 // bytes more that the server sends; -1: any
	}{
		"the same version": {meanwhile: func(*server, string) {}, most: 2*mib + 2},
		"a new version":    {meanwhile: func(s *server, _ string) { s.change(random(4*mib, 4), `"2"`) }, most: 4*mib + 2},
		"a spoiled part": {
			meanwhile: func(_ *server, part string) {
				f, err := os.OpenFile(part, os.O_WRONLY, 0)
				if err == nil {
					_, err = f.WriteAt([]byte("spoiled"), mib)
					err = errors.Join(err, f.Close())
				}
				if err != nil {
					t.Error(err)
				}
			},
			args: []string{"--digest", digest.FromBytes(data).String()}, most: 6*mib + 10,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, data)
			s.most.Store(mib)
			dir := t.TempDir()
			to := filepath.Join(dir, "f")
			args := append([]string{s.URL + "/f", "-O", to, "--no-agent", "--quiet"}, c.args...)
			part := filepath.Join(dir, ".f.dfget")
			// An interrupted dfget leaves a part of 2 MiB.
			d := download{Spec: spec(s.URL + "/f"), output: to, out: os.Stderr, log: os.Stderr, direct: "for a test"}
			p, err := openPart(to, nil, "")
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := d.fromOrigin(t.Context(), p); err == nil {
					t.Fatal("it was not broken off")
				}
			}
			if err := p.close(); err != nil {
				t.Fatal(err)
			}
			if fi, err := os.Stat(part); err != nil || fi.Size() != 2*mib {
				t.Fatalf("the part: %v, %v", fi, err)
			}
			s.most.Store(0)
			c.meanwhile(s, part)
			before := s.sent.Load()
			if out, err := run(t, args...); err != nil {
				t.Fatal(out, err)
			}
			if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, s.data) {
				t.Errorf("it wrote %d bytes, %v", len(got), err)
			}
			if more := s.sent.Load() - before; more > c.most {
				t.Errorf("the server sent %d bytes more", more)
			}
		})
	}
}

// TestLocked holds that two calls do not write to one file.
func TestLocked(t *testing.T) {
	s := serve(t, random(100, 5))
	to := filepath.Join(t.TempDir(), "f")
	p, err := openPart(to, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, s.URL+"/f", "-O", to, "--no-agent"); code(err) != exitOutput || !strings.Contains(err.Error(), "another dfget") {
		t.Errorf("a second one: %v", err)
	}
	if err := p.close(); err != nil {
		t.Error(err)
	}
}

// TestForeignPart holds that what somebody else may have put there is no part: they
// could write to it still.
func TestForeignPart(t *testing.T) {
	s := serve(t, random(100, 5))
	dir := t.TempDir()
	to, part := filepath.Join(dir, "f"), filepath.Join(dir, ".f.dfget")
	if err := errors.Join(os.WriteFile(part, []byte("x"), 0o600), os.Link(part, filepath.Join(dir, "theirs"))); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, s.URL+"/f", "-O", to, "--no-agent"); code(err) != exitOutput || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("a file with another name: %v", err)
	}
	if text, err := os.ReadFile(part); string(text) != "x" || err != nil {
		t.Errorf("it was changed: %q, %v", text, err)
	}
	if err := errors.Join(os.Remove(filepath.Join(dir, "theirs")), os.Chown(part, 65534, -1)); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, s.URL+"/f", "-O", to, "--no-agent"); code(err) != exitOutput {
		t.Errorf("another user's file: %v", err)
	}
}

func spec(url string) file.Spec { return file.Spec{URL: url} }
