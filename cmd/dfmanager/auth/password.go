package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// What hashing one password costs: 19 MiB and two passes, which takes a core
// about 30 ms.
const (
	memory  = 19 << 10 // KiB
	passes  = 2
	keySize = 32
	atOnce  = 2 // so that a flood of sign-ins does not fill the memory
)

var (
	b64    = base64.RawStdEncoding
	params = fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=1$", argon2.Version, memory, passes)
)

// ErrPassword reports that a password is not the one.
var ErrPassword = errors.New("wrong password")

// Hasher makes and checks hashes of passwords, a few at a time.
type Hasher struct {
	turns chan struct{}
	decoy string
}

// NewHasher makes a Hasher.
func NewHasher() *Hasher {
	h := &Hasher{turns: make(chan struct{}, atOnce)}
	h.decoy = encode(make([]byte, 16), make([]byte, keySize))
	return h
}

// Hash returns the hash of a password, in the form that argon2's own tools use.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	key, err := h.key(ctx, password, salt)
	if err != nil {
		return "", err
	}
	return encode(salt, key), nil
}

func encode(salt, key []byte) string {
	return params + b64.EncodeToString(salt) + "$" + b64.EncodeToString(key)
}

func decode(hash string) (salt, key []byte, err error) {
	rest, ok := strings.CutPrefix(hash, params)
	first, second, both := strings.Cut(rest, "$")
	if !ok || !both {
		return nil, nil, errors.New("stored hash of a password is malformed")
	}
	salt, err = b64.DecodeString(first)
	if err == nil {
		key, err = b64.DecodeString(second)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("stored hash of a password: %w", err)
	}
	return salt, key, nil
}

// key waits for its turn.
func (h *Hasher) key(ctx context.Context, password string, salt []byte) ([]byte, error) {
	select {
	case h.turns <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-h.turns }()
	return argon2.IDKey([]byte(password), salt, passes, memory, 1, keySize), nil
}

// Check compares a password with a hash and gives ErrPassword if it is not the
// one. An empty hash fits no password, and takes as long to say so, so that
// nobody learns which users there are.
func (h *Hasher) Check(ctx context.Context, hash, password string) error {
	known := hash != ""
	if !known {
		hash = h.decoy
	}
	if len(password) > maxPassword {
		return ErrPassword
	}
	salt, want, err := decode(hash)
	if err != nil {
		return err
	}
	got, err := h.key(ctx, password, salt)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(got, want) != 1 || !known {
		return ErrPassword
	}
	return nil
}
