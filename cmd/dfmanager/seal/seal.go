// Package seal keeps secrets that are stored from who reads the store.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ErrOpen reports what was not sealed with this key, or not for this purpose.
var ErrOpen = errors.New("cannot be opened with this key: all managers of a database need the same one")

// Key seals and opens secrets with AES-256-GCM.
type Key struct{ aead cipher.AEAD }

// minSecret is the least that is taken for a secret key and not for a password.
const minSecret = 32

// New makes a key of a secret with at least 32 characters.
func New(secret string) (*Key, error) {
	if len(secret) < minSecret {
		return nil, fmt.Errorf("must have at least %d characters, such as what `openssl rand -hex 32` prints", minSecret)
	}
	key, err := hkdf.Key(sha256.New, []byte(secret), nil, "dfmanager seal 1", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	return &Key{aead}, err
}

// File makes a key of the secret in a file, which is made if it is missing. Who
// else may read it is an error.
func File(path string) (*Key, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		if err := create(path); err != nil {
			return nil, err
		}
		info, err = os.Stat(path)
	}
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s: others may read it: chmod 600 it, and change what it has sealed", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	k, err := New(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// create makes the file, whole or not at all. Where somebody else was faster,
// theirs counts.
func create(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".secret-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	_, err = f.WriteString(hex.EncodeToString(b) + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// Seal returns a secret that Open opens for the same purpose.
func (k *Key) Seal(secret []byte, purpose string) []byte {
	nonce := make([]byte, k.aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	return k.aead.Seal(nonce, nonce, secret, []byte(purpose))
}

// Open returns what was sealed.
func (k *Key) Open(sealed []byte, purpose string) ([]byte, error) {
	n := k.aead.NonceSize()
	if len(sealed) < n {
		return nil, ErrOpen
	}
	secret, err := k.aead.Open(nil, sealed[:n], sealed[n:], []byte(purpose))
	if err != nil {
		return nil, ErrOpen
	}
	return secret, nil
}
