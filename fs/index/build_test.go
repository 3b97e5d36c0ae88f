package index_test

import (
	"bytes"
	"crypto/sha256"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sha(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}

// build indexes blob and opens the index for the time of the test.
func build(t testing.TB, blob []byte, o index.Options) (*index.Index, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "index")
	info, err := index.Build(t.Context(), path, bytes.NewReader(blob), o)
	if err != nil {
		return nil, err
	}
	x, err := index.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	if got := x.Info(); got != info {
		t.Errorf("Open says %+v, Build said %+v", got, info)
	}
	return x, nil
}
