package manage

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
)

const prefix = "dfj_"

// ErrToken reports what is no join token.
var ErrToken = errors.New("not a join token")

// Token lets who has it join a cluster.
type Token struct {
	Secret string // what the manager knows by its hash
	CA     CA     // by which who has it knows the manager
}

// CA is the SHA-256 of a CA's certificate, in DER.
type CA [sha256.Size]byte

// CAOf returns it for a certificate.
func CAOf(der []byte) CA { return sha256.Sum256(der) }

// ServerName is what a node asks for in TLS that trusts this CA.
func (a CA) ServerName() string { return hex.EncodeToString(a[:16]) + ".dfmanager" }

// NewToken makes a token of a cluster whose CA certificate is ca, in DER.
func NewToken(ca []byte) Token {
	b := make([]byte, 24)
	_, _ = rand.Read(b) // never fails
	return Token{Secret: base64.RawURLEncoding.EncodeToString(b), CA: CAOf(ca)}
}

// Text is the token as people copy it.
func (t Token) Text() string {
	return prefix + t.Secret + "." + base64.RawURLEncoding.EncodeToString(t.CA[:])
}

// String shows nothing.
func (t Token) String() string { return prefix + "…" }

// GoString shows nothing.
func (t Token) GoString() string { return t.String() }

// Hash is by what the manager finds the token.
func (t Token) Hash() string {
	sum := sha256.Sum256([]byte(t.Secret))
	return hex.EncodeToString(sum[:])
}

// ParseToken reads what Text wrote.
func ParseToken(text string) (t Token, err error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), prefix)
	secret, ca, both := strings.Cut(rest, ".")
	sum, err := base64.RawURLEncoding.DecodeString(ca)
	if !ok || !both || err != nil || len(sum) != len(t.CA) || len(secret) < 16 || len(secret) > 100 {
		return t, ErrToken
	}
	t.Secret = secret
	copy(t.CA[:], sum)
	return t, nil
}
