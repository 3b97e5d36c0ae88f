package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
)

// on runs a subcommand that asks the agent of a host.
func (h *host) on(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return run(t, append(args, "--agent", h.socket)...)
}

func (h *host) kept(t *testing.T, args ...string) (list []agent.Kept) {
	t.Helper()
	out, err := h.on(t, append([]string{"cache", "ls", "--json"}, args...)...)
	if err != nil || json.Unmarshal([]byte(out), &list) != nil {
		t.Fatalf("cache ls: %v: %s", err, out)
	}
	return list
}

// TestCache brings blobs into a host's cache, and takes them from there.
func TestCache(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds and runs programs")
	}
	hosts := cluster(t, 2)
	h, dir := hosts[0], t.TempDir()
	data := random(9*mib+5, 31)
	sum := digest.FromBytes(data)
	name := filepath.Join(dir, "f")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := h.on(t, "cache", "import", "--pin", name); err != nil || !strings.Contains(out, sum.String()) {
		t.Fatalf("import: %v: %s", err, out)
	}
	if list := h.kept(t, sum.Encoded()[:10]); len(list) != 1 || !list[0].Whole || !list[0].Pinned || list[0].Held != int64(len(data)) {
		t.Fatalf("it is not there: %+v", list)
	}
	t.Run("others get it", func(t *testing.T) {
		s := serve(t, []byte("not this"))
		s.change(data, `"1"`)
		r, says, err := hosts[1].get(t.Context(), t, s.URL+"/f", "-O", filepath.Join(dir, "g"), "--digest", sum.String())
		if err != nil || r.From.Peers != int64(len(data)) || s.sent.Load() > 16 {
			t.Errorf("%+v, %v: %s; the server sent %d bytes", r, err, says, s.sent.Load())
		}
	})
	t.Run("it stays", func(t *testing.T) {
		if _, err := h.on(t, "cache", "rm", string(sum)); err == nil || !strings.Contains(err.Error(), "pinned") {
			t.Errorf("rm: %v", err)
		}
		if err := h.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = h.cmd.Wait() // it was killed
	})
	h.start(t)
	if list := h.kept(t, "--pinned"); len(list) != 1 || list[0].Digest != sum || !list[0].Whole {
		t.Errorf("after a restart: %+v", list)
	}
	t.Run("export", func(t *testing.T) {
		to := filepath.Join(dir, "out")
		if out, err := h.on(t, "cache", "export", sum.Encoded()[:8], "-O", to); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		checkFile(t, to, data)
	})
	t.Run("unpinned and removed", func(t *testing.T) {
		for _, args := range [][]string{{"cache", "unpin", string(sum)}, {"cache", "rm", string(sum)}} {
			if out, err := h.on(t, args...); err != nil {
				t.Errorf("%v: %v: %s", args, err, out)
			}
		}
		if list := h.kept(t); len(list) != 0 {
			t.Errorf("there is %+v", list)
		}
		if _, err := h.on(t, "cache", "export", string(sum), "-O", "-"); code(err) != exitNotFound {
			t.Errorf("export: %v", err)
		}
	})
	t.Run("archive", func(t *testing.T) { archive(t, h, dir) })
	t.Run("status", func(t *testing.T) { statusSays(t, hosts[1]) })
}

// archive imports the blobs of an image's archive, and refuses what is none.
func archive(t *testing.T, h *host, dir string) {
	blobs := [][]byte{random(3*mib, 32), []byte(`{"schemaVersion": 2}`)}
	write := func(name string, wrong bool) string {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, b := range blobs {
			d := digest.FromBytes(b)
			if wrong {
				d = digest.FromString("x")
			}
			if err := w.WriteHeader(&tar.Header{Name: "blobs/sha256/" + d.Encoded(), Mode: 0o644, Size: int64(len(b))}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, name)
		if err := os.WriteFile(to, buf.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return to
	}
	if out, err := h.on(t, "cache", "import", "--image", write("good.tar", false)); err != nil || strings.Count(out, "sha256:") != 2 {
		t.Errorf("%v: %s", err, out)
	}
	for _, b := range blobs {
		if list := h.kept(t, string(digest.FromBytes(b))); len(list) != 1 || !list[0].Whole {
			t.Errorf("%s: %+v", digest.FromBytes(b), list)
		}
	}
	if out, err := h.on(t, "cache", "import", "--image", write("wrong.tar", true)); code(err) != exitDigest {
		t.Errorf("a wrong digest: %v: %s", err, out)
	}
	if list := h.kept(t, string(digest.FromString("x"))); len(list) != 0 {
		t.Errorf("a wrong digest: %+v", list)
	}
	none := filepath.Join(dir, "none.tar")
	if err := os.WriteFile(none, make([]byte, 1024), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.on(t, "cache", "import", "--image", none); err == nil || !strings.Contains(err.Error(), "no archive of an image") {
		t.Errorf("no image: %v", err)
	}
}

// statusSays holds what an agent says of itself.
func statusSays(t *testing.T, h *host) {
	out, err := h.on(t, "status", "--json")
	var s agent.Status
	if err != nil || json.Unmarshal([]byte(out), &s) != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if s.Cluster == nil || len(s.Cluster.Schedulers) != 1 || s.PID != h.cmd.Process.Pid || s.Cache.Blobs != 1 || s.Moved.Peers < 9*mib || s.Address != "" {
		t.Errorf("it says %s", out)
	}
	for name, up := range s.Cluster.Schedulers {
		text, err := h.on(t, "status")
		if !up || err != nil || !strings.Contains(text, name+", reachable") {
			t.Errorf("of its scheduler it says %t, %v: %s", up, err, text)
		}
	}
	_, err = run(t, "status", "--agent", filepath.Join(t.TempDir(), "none"))
	if code(err) != exitUnavailable || !strings.Contains(fmt.Sprint(err), "Does dfsnapshotter run") {
		t.Errorf("without an agent: %v", err)
	}
}
