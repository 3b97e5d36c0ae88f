package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// openStore runs a real object store that has the files of a folder in its bucket "bucket",
// and returns its address. Only who has the keys that it sets may read.
func openStore(t *testing.T, dir string) string {
	t.Helper()
	program, err := filepath.Abs("../../.tools/bin/versitygw")
	if err == nil {
		_, err = os.Stat(program)
	}
	if err != nil {
		t.Skipf("missing: %v (script/install-deps)", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := os.CopyFS(filepath.Join(root, "bucket"), os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--port", addr, "--access", "key", "--secret", "a secret of the store", "--quiet", "posix", "--nometa", root)
	if testing.Verbose() {
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	url := "http://" + addr
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get(url)
		if err == nil {
			_ = resp.Body.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the store does not answer: %v", err)
		}
	}
	t.Setenv("AWS_ENDPOINT_URL_S3", url)
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "a secret of the store")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(root, "none"))
	t.Setenv("AWS_REGION", "us-east-1")
	return url
}

// TestS3 downloads objects of a store, straight from there.
func TestS3(t *testing.T) {
	openStore(t, model(t))
	to := filepath.Join(t.TempDir(), "f")
	for name, want := range map[string]string{"a.bin": "this is a.bin", "odd name ü%20.bin": "this is odd name ü%20.bin"} {
		if out, err := run(t, "s3://bucket/"+name, "-O", to, "--no-agent", "--digest", digest.FromString(want).String()); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		checkFile(t, to, []byte(want))
	}
	for name, c := range trees {
		to := filepath.Join(t.TempDir(), "to")
		if out, err := run(t, append([]string{"s3://bucket", "-r", "-O", to, "--no-agent", "-q"}, c.args...)...); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if diff := cmp.Diff(c.want, downloaded(t, to)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if _, err := run(t, "s3://bucket/none", "-O", to, "--no-agent"); code(err) != exitNotFound {
		t.Errorf("an object that is not there: %v", err)
	}
	if _, err := run(t, "s3://bucket", "-O", to, "--no-agent"); err == nil || !strings.Contains(fmt.Sprint(err), "s3://BUCKET/KEY") {
		t.Errorf("no object: %v", err)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "another one")
	if _, err := run(t, "s3://bucket/a.bin", "-O", to, "--no-agent"); code(err) != exitUnauthorized {
		t.Errorf("a wrong secret: %v", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	if _, err := run(t, "s3://bucket/a.bin", "-O", to, "--no-agent"); code(err) != exitUnauthorized {
		t.Errorf("no secret: %v", err)
	}
}

// TestS3Agents downloads an object through two agents, which have no keys.
func TestS3Agents(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds and runs programs")
	}
	dir := t.TempDir()
	data := random(9*mib, 41)
	if err := os.WriteFile(filepath.Join(dir, "f"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	openStore(t, dir)
	hosts := cluster(t, 2)
	for i, h := range hosts { // the second one comes before the scheduler has heard all that the first one has
		to := filepath.Join(t.TempDir(), "f")
		r, says, err := h.get(t.Context(), t, "s3://bucket/f", "-O", to)
		if err != nil || r.Direct != "" || r.URL != "s3://bucket/f" || i > 0 && float64(r.From.Peers) < 0.98*float64(len(data)) {
			t.Errorf("host %d: %+v, %v: %s", i, r, err, says)
		}
		checkFile(t, to, data)
	}
}
