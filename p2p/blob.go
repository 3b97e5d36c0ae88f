package p2p

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// ErrInvalid is wrapped by every error of a Validate method: the value came
// from outside and must not be used.
var ErrInvalid = errors.New("invalid")

const (
	minPiece   = 256 << 10
	maxPiece   = 16 << 20
	wantPieces = 1024 // pieces grow before there are more of them

	// MaxSize is the size of the largest blob the network carries.
	MaxSize = 1 << 40
	// MaxPieces is the number of pieces of such a blob.
	MaxPieces = MaxSize / maxPiece

	stripes      = 8
	minStriped   = 8   // pieces; below, one stripe
	tinySize     = 128 // bytes
	maxDigestLen = 200
)

// PieceSize returns the length in bytes of every piece but the last of a blob
// of size bytes: 256 KiB up to 256 MiB, then the power of two that makes at most
// 1,024 pieces, and at most 16 MiB. A host passes on whole pieces, so that what
// they take on a thin line is what each step of the way costs. The result is part of the peer protocol, so
// it never changes for a given size. It panics if size is negative.
func PieceSize(size int64) int64 {
	if size < 0 {
		panic(fmt.Sprintf("p2p: blob of %d bytes", size))
	}
	n := int64(minPiece)
	for n < maxPiece && size > n*wantPieces {
		n *= 2
	}
	return n
}

// A Blob is content named by its digest, or by a Name where nobody knows that. Its
// size is always known: it comes from the manifest that names the blob, or from the
// server that has the file.
type Blob struct {
	Digest digest.Digest
	Size   int64
}

// Validate checks a blob that came from outside.
func (b Blob) Validate() error {
	if err := ValidateDigest(b.Digest); err != nil {
		return err
	}
	if b.Size < 0 || b.Size > MaxSize {
		return fmt.Errorf("blob %s of %d bytes: %w", b.Digest, b.Size, ErrInvalid)
	}
	return nil
}

// ValidateDigest checks a digest that came from outside.
func ValidateDigest(d digest.Digest) error {
	if len(d) > maxDigestLen {
		return fmt.Errorf("digest of %d bytes: %w", len(d), ErrInvalid)
	}
	if d.Validate() != nil && !IsName(d) {
		return fmt.Errorf("digest %q: %w", d, ErrInvalid)
	}
	return nil
}

// Pieces returns the number of pieces, 0 of an empty blob.
func (b Blob) Pieces() int {
	n := PieceSize(b.Size)
	return int((b.Size + n - 1) / n)
}

// Piece returns where piece i lies in the blob. It panics if there is no such
// piece.
func (b Blob) Piece(i int) (off, n int64) {
	if i < 0 || i >= b.Pieces() {
		panic(fmt.Sprintf("p2p: piece %d of %d", i, b.Pieces()))
	}
	size := PieceSize(b.Size)
	off = int64(i) * size
	return off, min(size, b.Size-off)
}

// Stripes returns the number of stripes: 8, or 1 of a blob of fewer than 8
// pieces.
func (b Blob) Stripes() int {
	return stripesOf(b.Pieces())
}

// Stripe returns the stripe that a piece belongs to.
func (b Blob) Stripe(piece int) int {
	return piece % b.Stripes()
}

func stripesOf(pieces int) int {
	if pieces < minStriped {
		return 1
	}
	return stripes
}

// A Scope says how much machinery a blob of some size is worth.
type Scope int

// The scopes.
const (
	Empty  Scope = iota // no bytes, so no swarm
	Tiny                // up to 128 bytes that match a digest: they ride in the scheduler's answer
	Small               // one piece that matches a digest: parents fetch it if they lack it, so nobody subscribes to what they have
	Normal              // everything else
)

// Scope returns the scope of a blob of that size.
func (b Blob) Scope() Scope {
	switch {
	case b.Size == 0:
		return Empty
	case IsName(b.Digest): // nobody can tell whether what one host passes on for another is right
		return Normal
	case b.Size <= tinySize:
		return Tiny
	case b.Pieces() == 1:
		return Small
	}
	return Normal
}

func (s Scope) String() string {
	switch s {
	case Empty:
		return "empty"
	case Tiny:
		return "tiny"
	case Small:
		return "small"
	case Normal:
		return "normal"
	}
	return fmt.Sprintf("Scope(%d)", int(s))
}
