package seal_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/seal"
)

func TestSealAndOpen(t *testing.T) {
	t.Parallel()
	k, err := seal.New(strings.Repeat("k", 32))
	if err != nil {
		t.Fatal(err)
	}
	other, err := seal.New(strings.Repeat("o", 32))
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte("Bearer x")
	sealed := k.Seal(secret, "job")
	if bytes.Contains(sealed, secret) || bytes.Equal(sealed, k.Seal(secret, "job")) {
		t.Errorf("sealed: %x", sealed)
	}
	if got, err := k.Open(sealed, "job"); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("%q, %v", got, err)
	}
	changed := bytes.Clone(sealed)
	changed[len(changed)-1] ^= 1
	for name, f := range map[string]func() ([]byte, error){
		"another key":     func() ([]byte, error) { return other.Open(sealed, "job") },
		"another purpose": func() ([]byte, error) { return k.Open(sealed, "ca") },
		"changed":         func() ([]byte, error) { return k.Open(changed, "job") },
		"short":           func() ([]byte, error) { return k.Open(sealed[:3], "job") },
		"nothing":         func() ([]byte, error) { return k.Open(nil, "job") },
	} {
		if got, err := f(); !errors.Is(err, seal.ErrOpen) || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new", "secret.key")
	var wg sync.WaitGroup
	keys := make([]*seal.Key, 8)
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], err = seal.File(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	sealed := keys[0].Seal([]byte("x"), "p")
	for i, k := range keys {
		if _, err := k.Open(sealed, "p"); err != nil {
			t.Errorf("key %d is another one: %v", i, err)
		}
	}
	if all, err := os.ReadDir(filepath.Dir(path)); err != nil || len(all) != 1 {
		t.Errorf("left in its folder: %v, %v", all, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.File(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others may read: %v", err)
	}
	if err := os.WriteFile(filepath.Join(t.TempDir(), "short"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.New("short"); err == nil || strings.Contains(err.Error(), `"short"`) {
		t.Errorf("a short secret: %v", err)
	}
}
