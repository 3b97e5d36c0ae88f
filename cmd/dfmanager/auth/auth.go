// Package auth knows passwords, tokens, and what they allow. It keeps nothing.
package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// A Scope is what a token may do at most.
type Scope string

// The scopes. Each allows what those before it do.
const (
	Read    Scope = "read"    // look at what its user may see
	Preheat Scope = "preheat" // and create and cancel jobs
	Admin   Scope = "admin"   // and everything else that its user may do, but to change passwords and tokens
)

var (
	scopes = []Scope{Read, Preheat, Admin}
	roles  = []store.Role{store.Guest, store.Operator, store.Root}
)

// AtLeast reports whether role may do what least may.
func AtLeast(role, least store.Role) bool {
	have, want := slices.Index(roles, role), slices.Index(roles, least)
	return want >= 0 && have >= want
}

// Allows reports whether one of a token's scopes allows need.
func Allows(have []string, need Scope) bool {
	want := slices.Index(scopes, need)
	return want >= 0 && slices.ContainsFunc(have, func(s string) bool { return slices.Index(scopes, Scope(s)) >= want })
}

// CheckScopes reports what is wrong with the scopes that a token is to have.
func CheckScopes(list []string) error {
	if len(list) == 0 {
		return fmt.Errorf("give one of %v", scopes)
	}
	for _, s := range list {
		if !slices.Contains(scopes, Scope(s)) {
			return fmt.Errorf("%.40q is not one of %v", s, scopes)
		}
	}
	return nil
}

// CheckRole reports a role that there is not.
func CheckRole(r store.Role) error {
	if !slices.Contains(roles, r) {
		return fmt.Errorf("%.40q is not one of %v", string(r), roles)
	}
	return nil
}

var name = regexp.MustCompile(`^[a-z0-9][a-z0-9._@+-]{0,127}$`)

// CheckName reports what is wrong with a user's name.
func CheckName(s string) error {
	if !name.MatchString(s) {
		return errors.New("must be 1 to 128 lower-case letters, digits or . _ @ + -, and begin with a letter or digit")
	}
	return nil
}

const minPassword, maxPassword = 10, 256

// CheckPassword reports what is wrong with a new password.
func CheckPassword(user, password string) error {
	switch n := utf8.RuneCountInString(password); {
	case !utf8.ValidString(password):
		return errors.New("must be UTF-8")
	case n < minPassword || len(password) > maxPassword:
		return fmt.Errorf("must have at least %d characters, and at most %d bytes", minPassword, maxPassword)
	case strings.EqualFold(password, user):
		return errors.New("must not be the user's name")
	case strings.Trim(password, password[:1]) == "":
		return errors.New("must not be one character, repeated")
	}
	return nil
}

// prefix shows what a token is, to people and to scanners for leaked secrets.
const prefix = "dfm_"

// NewToken makes a token, and the hash by which it is known again.
func NewToken() (token, hash string) {
	token = prefix + secret(32)
	return token, Hash(token)
}

// NewSession makes what a browser keeps, and its hash.
func NewSession() (session, hash string) {
	session = secret(32)
	return session, Hash(session)
}

// NewPassword makes a password to be typed once.
func NewPassword() string { return secret(15) }

// IsToken reports whether s looks like a token, and not like a password.
func IsToken(s string) bool { return strings.HasPrefix(s, prefix) }

// Hash returns by what a token or session is found. They are random, so nobody
// can try them all, and a fast hash will do.
func Hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func secret(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}
