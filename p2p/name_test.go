package p2p_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

func TestName(t *testing.T) {
	t.Parallel()
	name := p2p.Name(sha256.Sum256([]byte("a file")))
	for d, is := range map[digest.Digest]bool{
		name:                         true,
		digest.FromString("content"): false,
		"url+sha256:abc":             false,
		name + "0":                   false,
		digest.Digest(strings.ToUpper(string(name))):                                 false,
		"url+sha256:../../../../../../../../../../../../../../../../../../../../etc": false,
		"": false,
	} {
		if p2p.IsName(d) != is {
			t.Errorf("IsName(%q) is %v", d, !is)
		}
	}
	b := p2p.Blob{Digest: name, Size: 100}
	if err := b.Validate(); err != nil {
		t.Error(err)
	}
	if b.Scope() != p2p.Normal {
		t.Errorf("a blob of 100 bytes without a digest is %v, but neither the scheduler nor a parent that lacks it can check its content", b.Scope())
	}
	for d, right := range map[digest.Digest]bool{name: true, digest.FromString("x"): true, digest.FromString("y"): false} {
		v := p2p.Verifier(d)
		_, _ = v.Write([]byte("x"))
		if v.Verified() != right {
			t.Errorf("the content x of %s is right: %v", d, !right)
		}
	}
}
