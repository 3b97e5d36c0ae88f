package mirror

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
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

// harmless are headers that do not tell registries who asks. Some take keys in
// headers of their own, so all others count.
var harmless = []string{
	"Accept", "Accept-Encoding", "Accept-Language", "Cache-Control", "Connection", "Content-Length", "Content-Type", "If-Match",
	"If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since", "Keep-Alive", "Pragma", "Range", "Traceparent",
	"Tracestate", "User-Agent", "Via",
}

// identity is all of a request's headers by which a registry may tell who asks.
func identity(h http.Header) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if !slices.Contains(harmless, name) && !strings.HasPrefix(name, "X-Dragonfly-") {
			fmt.Fprintf(&b, "%s: %q\n", name, h[name])
		}
	}
	return b.String()
}

// name is the key of a grant. Each part is preceded by its length, so that no two
// ways to cut them are the same.
func (g *grants) name(who string, repo origin.Repo, d digest.Digest) (k [32]byte) {
	h := hmac.New(sha256.New, g.key[:])
	for _, s := range []string{who, repo.Host, repo.Path, d.String()} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	h.Sum(k[:0])
	return k
}

// add notes that a registry gave the blob to somebody.
func (g *grants) add(who string, repo origin.Repo, d digest.Digest, size int64) {
	k := g.name(who, repo, d)
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.young) >= maxGrants {
		g.young, g.old = map[[32]byte]grant{}, g.young
	}
	g.young[k] = grant{size, time.Now().Add(grantLife)}
}

// size returns that of a blob which a registry gave to them, lately.
func (g *grants) size(who string, repo origin.Repo, d digest.Digest) (int64, bool) {
	k := g.name(who, repo, d)
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
