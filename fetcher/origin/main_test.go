package origin_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const repoPath = "library/thing"

// client returns a client that ends with the test.
func client(t *testing.T, cfg origin.Config) *origin.Client {
	t.Helper()
	c, err := origin.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func repo(r *origintest.Registry) origin.Repo { return origin.Repo{Host: r.Host(), Path: repoPath} }

// data returns n bytes that are always the same for a seed.
func data(seed uint64, n int) []byte {
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, n)
	src.Read(b)
	return b
}

// get reads a range to its end.
func get(c *origin.Client, repo origin.Repo, d digest.Digest, off, n int64) ([]byte, error) {
	body, err := c.Blob(context.Background(), repo, d, off, n)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

// mustGet reads a range and compares it.
func mustGet(t *testing.T, c *origin.Client, repo origin.Repo, d digest.Digest, off, n int64, want []byte) {
	t.Helper()
	got, err := get(c, repo, d, off, n)
	if err != nil {
		t.Fatalf("Blob(%d, %d): %v", off, n, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("Blob(%d, %d) gave %d other bytes than the %d wanted", off, n, len(got), len(want))
	}
}

// hostsDir makes a hosts.toml tree with one directory.
func hostsDir(t *testing.T, dir, toml string) string {
	t.Helper()
	root := t.TempDir()
	write(t, filepath.Join(root, dir, "hosts.toml"), toml)
	return root
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// known is a source of credentials for tests.
type known []origin.Credential

func (k known) Lookup(context.Context, origin.Repo) ([]origin.Credential, error) { return k, nil }
