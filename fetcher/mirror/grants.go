package mirror

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

const (
	grantLife = 5 * time.Minute
	maxGrants = 8192 // of each of two generations
)

// grants remembers for a while which blobs registries gave to whom. What clients
// log in with is not kept: only a keyed hash is.
type grants struct {
	key [32]byte

	mu         sync.Mutex // guards what follows
	young, old map[[32]byte]grant
}

// grant is what a registry said of a blob to one client.
type grant struct {
	size    int64
	expires time.Time
}

func newGrants() *grants {
	g := &grants{young: map[[32]byte]grant{}}
	_, _ = rand.Read(g.key[:]) // never fails
	return g
}

// name is the key of a grant. Each part is preceded by its length, so that no two
// ways to cut them are the same.
func (g *grants) name(authorization string, repo origin.Repo, d digest.Digest) (k [32]byte) {
	h := hmac.New(sha256.New, g.key[:])
	for _, s := range []string{authorization, repo.Host, repo.Path, d.String()} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	h.Sum(k[:0])
	return k
}

// add notes that a registry gave the blob to who logs in so.
func (g *grants) add(authorization string, repo origin.Repo, d digest.Digest, size int64) {
	k := g.name(authorization, repo, d)
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.young) >= maxGrants {
		g.young, g.old = map[[32]byte]grant{}, g.young
	}
	g.young[k] = grant{size, time.Now().Add(grantLife)}
}

// size returns that of a blob which a registry gave to who logs in so, lately.
func (g *grants) size(authorization string, repo origin.Repo, d digest.Digest) (int64, bool) {
	k := g.name(authorization, repo, d)
	g.mu.Lock()
	defer g.mu.Unlock()
	e, ok := g.young[k]
	if !ok {
		e, ok = g.old[k]
	}
	if !ok || time.Now().After(e.expires) {
		return 0, false
	}
	return e.size, true
}
