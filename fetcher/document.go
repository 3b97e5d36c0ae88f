package fetcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

const (
	documentMax   = 4 << 20          // bytes of one document
	documentTime  = 30 * time.Second // for one request
	documentsKept = 1024
	documentsMax  = 64 << 20 // bytes of all kept ones
)

// documents keeps manifests and configs on disk, each in a file whose first
// line is the media type.
type documents struct {
	f   *Fetcher
	dir string

	mu    sync.Mutex
	calls map[documentKey]*documentCall
}

type documentKey struct {
	digest   digest.Digest
	repo     origin.Repo
	manifest bool
}

type documentCall struct {
	done      chan struct{} // closed after the rest is set
	data      []byte
	mediaType string
	err       error
}

func openDocuments(dir string, f *Fetcher) (*documents, error) {
	return &documents{f: f, dir: dir, calls: map[documentKey]*documentCall{}}, os.MkdirAll(dir, 0o700)
}

// Document returns a small document by its digest, with its media type: a
// manifest, or else a blob such as an image's config. It is verified, and kept
// for the next time.
func (f *Fetcher) Document(ctx context.Context, repo origin.Repo, d digest.Digest, manifest bool) ([]byte, string, error) {
	if err := d.Validate(); err != nil {
		return nil, "", fmt.Errorf("document %q: %w", d, err)
	}
	if data, mediaType, ok := f.docs.load(d); ok {
		return data, mediaType, nil
	}
	c, err := f.docs.call(documentKey{d, repo, manifest})
	if err != nil {
		return nil, "", err
	}
	select {
	case <-c.done:
		return bytes.Clone(c.data), c.mediaType, c.err
	case <-ctx.Done():
		return nil, "", ctx.Err()
	}
}

// Referrers lists the manifests of an artifact type that refer to a manifest, as
// its registry says now. It asks once.
func (f *Fetcher) Referrers(ctx context.Context, repo origin.Repo, subject digest.Digest, artifactType string) ([]ocispec.Descriptor, error) {
	if f.cfg.Documents == nil {
		return nil, nil
	}
	t := f.host(repo.Host).enter(nil, OnDemand)
	defer t.leave()
	if err := t.wait(ctx); err != nil {
		return nil, err
	}
	return f.cfg.Documents.Referrers(ctx, repo, subject, artifactType, documentMax)
}

// call joins the request for k that is under way, or makes one.
func (s *documents) call(k documentKey) (*documentCall, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.calls[k]; c != nil {
		return c, nil
	}
	if s.f.cfg.Documents == nil {
		return nil, fmt.Errorf("document %s: %w: no origin", k.digest, origin.ErrNotFound)
	}
	c := &documentCall{done: make(chan struct{})}
	started := s.f.start(func() {
		c.data, c.mediaType, c.err = s.fetch(k)
		if c.err == nil {
			if err := s.save(k.digest, c.mediaType, c.data); err != nil {
				s.f.log.Warn("document not kept", "digest", k.digest, "err", err)
			}
		}
		s.mu.Lock()
		delete(s.calls, k)
		s.mu.Unlock()
		close(c.done)
	})
	if !started {
		return nil, ErrClosed
	}
	s.calls[k] = c
	return c, nil
}

// fetch asks until there is an answer or the budget is spent.
func (s *documents) fetch(k documentKey) ([]byte, string, error) {
	ctx, cancel := context.WithTimeoutCause(s.f.ctx, budgetUrgent, ErrUnavailable)
	defer cancel()
	host := s.f.host(k.repo.Host)
	y := try{}
	for {
		data, mediaType, err := s.ask(ctx, host, k)
		if err == nil {
			return data, mediaType, nil
		}
		var down *origin.UnavailableError
		if ctx.Err() == nil && !errors.As(err, &down) && !errors.Is(err, context.DeadlineExceeded) {
			return nil, "", fmt.Errorf("document %s of %s: %w", k.digest, k.repo, err)
		}
		y.failures++
		y.at, y.jitter = time.Now(), 0.5+rand.Float64() // spreads load, keeps no secret
		if down != nil {
			y.after = y.at.Add(down.RetryAfter)
		}
		select {
		case <-time.After(time.Until(latest(y.ready(OnDemand), host.heldUntil()))):
		case <-ctx.Done():
			return nil, "", fmt.Errorf("document %s of %s: %w: %w", k.digest, k.repo, context.Cause(ctx), err)
		}
	}
}

// ask makes one request.
func (s *documents) ask(ctx context.Context, host *limiter, k documentKey) ([]byte, string, error) {
	t := host.enter(nil, OnDemand)
	defer t.leave()
	if err := t.wait(ctx); err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, documentTime)
	defer cancel()
	return s.f.cfg.Documents.Document(ctx, k.repo, k.digest, k.manifest, documentMax)
}

func (s *documents) path(d digest.Digest) string {
	return filepath.Join(s.dir, d.Algorithm().String()+"-"+d.Encoded())
}

// load returns a kept document, if it is still what its digest says.
func (s *documents) load(d digest.Digest) ([]byte, string, bool) {
	path := s.path(d)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, "", false
	}
	mediaType, data, ok := bytes.Cut(b, []byte{'\n'})
	if !ok || d.Algorithm().FromBytes(data) != d {
		s.f.log.Warn("kept document is damaged", "digest", d)
		_ = os.Remove(path) // it is fetched, and written, again
		return nil, "", false
	}
	now := time.Now()
	_ = os.Chtimes(path, now, now) // last use; losing it costs nothing
	return data, string(mediaType), true
}

// save keeps a document and drops those unused for longest. No sync: load sees
// what a crash damaged.
func (s *documents) save(d digest.Digest, mediaType string, data []byte) error {
	if bytes.ContainsRune([]byte(mediaType), '\n') {
		return errors.New("media type has a line break")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	tmp := filepath.Join(s.dir, "tmp")
	if err := os.WriteFile(tmp, append([]byte(mediaType+"\n"), data...), 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, s.path(d)); err != nil {
		return err
	}
	return s.prune()
}

func (s *documents) prune() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var files []os.FileInfo
	var total int64
	for _, e := range entries {
		if fi, err := e.Info(); err == nil {
			files, total = append(files, fi), total+fi.Size()
		}
	}
	slices.SortFunc(files, func(a, b os.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for len(files) > documentsKept || total > documentsMax {
		if err := os.RemoveAll(filepath.Join(s.dir, files[0].Name())); err != nil {
			return err
		}
		total -= files[0].Size()
		files = files[1:]
	}
	return nil
}
