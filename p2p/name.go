package p2p

import (
	"encoding/hex"
	"strings"

	"github.com/opencontainers/go-digest"
)

// names stands before the colon of a name, where digests have their algorithm.
const names = "url+sha256:"

// Name is what a blob is called whose digest nobody knows: one version of a file
// on a server. sum is the SHA-256 of all that tells it from others. The pieces of
// such a blob are right if they match the sums that the scheduler tells; that all
// are right says nothing of the whole.
func Name(sum Sum) digest.Digest { return digest.Digest(names + hex.EncodeToString(sum[:])) }

// IsName reports whether d is a Name, which no content can be compared with.
func IsName(d digest.Digest) bool {
	text, ok := strings.CutPrefix(string(d), names)
	return ok && digest.NewDigestFromEncoded(digest.SHA256, text).Validate() == nil
}

// Verifier compares content with d. Where that is a Name there is nothing to
// compare, and whatever is written is right.
func Verifier(d digest.Digest) digest.Verifier {
	if IsName(d) {
		return unverified{}
	}
	return d.Verifier()
}

type unverified struct{}

func (unverified) Write(p []byte) (int, error) { return len(p), nil }

func (unverified) Verified() bool { return true }
