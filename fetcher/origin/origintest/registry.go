// Package origintest has a small registry that works, and that can be told
// to fail: for the tests of whatever reads from registries. It counts what it
// is asked and what it sends.
package origintest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// Auth is how a registry wants to be logged in to.
type Auth int

// The ways to log in.
const (
	NoAuth Auth = iota
	Basic
	Bearer // with a token server, which is the registry itself
)

// Options say what a registry is like.
type Options struct {
	Auth Auth
	// Users are the passwords of those who may log in.
	Users map[string]string
	// IdentityTokens are refresh tokens that the token server exchanges.
	IdentityTokens []string
	// Readers are the users (or identity tokens) who may read a repository;
	// one not listed is open to all who log in. "" is anonymous: without it
	// here nobody reads without logging in.
	Readers map[string][]string
	// TokenLife is what the token server says of its tokens, and keeps to.
	// 0: five minutes.
	TokenLife time.Duration
	// ExpiredStatus answers requests with an expired token; 0: 401.
	ExpiredStatus int
	// PostOnly makes the token server refuse GET.
	PostOnly bool

	// Referrers makes the registry list the referrers of manifests; without it
	// their readers and pushers have to use the tag.
	Referrers bool

	// Redirect sends readers of blobs to a second server, the blob store,
	// which refuses requests that carry Authorization.
	Redirect bool

	TLS       bool           // with HTTP/2
	ClientCAs *x509.CertPool // asks for client certificates that these signed
	// Root is the path of the API; "" means /v2.
	Root string
	// Header must be in each request to the registry, by name and value.
	Header map[string]string
}

// Request is one that the registry or its blob store has got.
type Request struct {
	Kind   string // "blob", "manifest", "referrers", "upload", "token", "store" or "other"
	Method string
	URL    string // path and query
	Proto  string
	Header http.Header
	Digest digest.Digest // of the blob or manifest asked for
	Status int           // of the answer; 0: not answered yet
	Sent   int64         // bytes of a blob or manifest given to the connection
}

// Registry is a running registry.
type Registry struct {
	opts  Options
	main  *httptest.Server
	store *httptest.Server // nil without Options.Redirect

	mu       sync.Mutex // guards what follows
	blobs    map[string]map[digest.Digest]content
	tags     map[string]digest.Digest // by repo:tag
	faults   map[digest.Digest]*Fault
	healed   chan struct{} // closed when faults end
	requests []*Request
	tokens   map[string]token
	links    map[string]bool // signatures that are good
	serial   int
	closed   bool
}

type content struct {
	data      []byte
	mediaType string // "" for a blob
}

// New starts a registry that ends with the test.
func New(t testing.TB, o Options) *Registry {
	t.Helper()
	r := Start(o)
	t.Cleanup(r.Close)
	return r
}

// Start starts a registry on a free port of 127.0.0.1. Close ends it.
func Start(o Options) *Registry {
	if o.Root == "" {
		o.Root = "/v2"
	}
	if o.TokenLife == 0 {
		o.TokenLife = 5 * time.Minute
	}
	if o.ExpiredStatus == 0 {
		o.ExpiredStatus = http.StatusUnauthorized
	}
	r := &Registry{
		opts:   o,
		blobs:  map[string]map[digest.Digest]content{},
		tags:   map[string]digest.Digest{},
		faults: map[digest.Digest]*Fault{},
		healed: make(chan struct{}),
		tokens: map[string]token{},
		links:  map[string]bool{},
	}
	r.main = r.serve(r.serveRegistry)
	if o.Redirect {
		r.store = r.serve(r.serveStore)
	}
	return r
}

func (r *Registry) serve(h http.HandlerFunc) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	if !r.opts.TLS {
		s.Start()
		return s
	}
	s.EnableHTTP2 = true
	if r.opts.ClientCAs != nil {
		s.TLS = &tls.Config{ClientCAs: r.opts.ClientCAs, ClientAuth: tls.RequireAndVerifyClientCert}
	}
	s.StartTLS()
	return s
}

// Close ends the registry: requests that hang are let go, and later ones
// cannot connect.
func (r *Registry) Close() {
	r.mu.Lock()
	closed := r.closed
	r.closed = true
	r.mu.Unlock()
	if closed {
		return
	}
	r.Heal()
	r.main.CloseClientConnections()
	r.main.Close()
	if r.store != nil {
		r.store.CloseClientConnections()
		r.store.Close()
	}
}

// Host returns the host and port to put into an image's name.
func (r *Registry) Host() string {
	return strings.TrimPrefix(strings.TrimPrefix(r.main.URL, "http://"), "https://")
}

// URL returns the address of the registry, without /v2.
func (r *Registry) URL() string { return r.main.URL }

// CA returns the certificate, in PEM, that vouches for a registry with TLS.
func (r *Registry) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.main.Certificate().Raw})
}

// AddBlob puts a blob into a repository. The data must not be changed later.
func (r *Registry) AddBlob(repo string, data []byte) digest.Digest {
	return r.add(repo, content{data: data})
}

// AddManifest puts a manifest or index into a repository.
func (r *Registry) AddManifest(repo, mediaType string, data []byte) digest.Digest {
	return r.add(repo, content{data: data, mediaType: mediaType})
}

func (r *Registry) add(repo string, c content) digest.Digest {
	d := digest.FromBytes(c.data)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.blobs[repo] == nil {
		r.blobs[repo] = map[digest.Digest]content{}
	}
	r.blobs[repo][d] = c
	return d
}

// Tag lets a manifest be found by name.
func (r *Registry) Tag(repo, tag string, d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tags[repo+":"+tag] = d
}

// Requests returns what has been asked so far, oldest first.
func (r *Registry) Requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Request, len(r.requests))
	for i, q := range r.requests {
		out[i] = *q
	}
	return out
}

// Count returns how many requests of a kind have come.
func (r *Registry) Count(kind string) int {
	n := 0
	for _, q := range r.Requests() {
		if q.Kind == kind {
			n++
		}
	}
	return n
}

// Sent returns how many bytes of a blob or manifest have been sent; "" means
// of all.
func (r *Registry) Sent(d digest.Digest) int64 {
	var n int64
	for _, q := range r.Requests() {
		if d == "" || q.Digest == d {
			n += q.Sent
		}
	}
	return n
}

// Reset forgets what has been counted.
func (r *Registry) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}
