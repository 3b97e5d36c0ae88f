package fetcher

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// Priority orders requests; a smaller one goes first.
type Priority = p2p.Priority

const (
	// OnDemand is for bytes that a process waits for.
	OnDemand = p2p.OnDemand
	// Prefetch is for bytes that will be wanted in a moment.
	Prefetch = p2p.Prefetch
	// Background is for bytes that nobody waits for.
	Background = p2p.Background

	priorities = Background + 1
)

// Ref says which blob is meant and where it may be had.
type Ref struct {
	Digest digest.Digest
	Size   int64
	Repo   origin.Repo
}

// Body is the bytes of a blob from Off on, as they come. They need not be the
// right ones.
type Body struct {
	io.ReadCloser
	Off  int64 // at most the offset asked for; less: the source sends what it has
	Size int64 // of the whole blob; -1: the source does not know
}

// Source gives ranges of blobs.
type Source interface {
	// Name is the source's value of the label "source" of metrics.
	Name() string
	// Open asks for n bytes of ref from off on, once: it does not try again.
	// It returns soon after ctx ends, and so does a Read of the body, or
	// after Close of the body by another goroutine. Errors are those of
	// package origin; any other one is taken for a passing fault.
	Open(ctx context.Context, ref Ref, off, n int64) (*Body, error)
}

// blamer is a Source that does something about wrong bytes of ref.
type blamer interface {
	Blame(ref Ref)
}

// Documents gives small documents, and lists which refer to a manifest;
// *origin.Client does.
type Documents interface {
	Referrers(ctx context.Context, repo origin.Repo, subject digest.Digest, artifactType string, limit int64) ([]ocispec.Descriptor, error)
	Document(ctx context.Context, repo origin.Repo, d digest.Digest, manifest bool, limit int64) ([]byte, string, error)
}

// Origin makes a Source of a client of registries, which also reads files.
func Origin(c *origin.Client) Source { return registry{c} }

type registry struct{ client *origin.Client }

func (registry) Name() string { return "origin" }

// Blame makes the registry's own server be asked before its mirrors.
func (r registry) Blame(ref Ref) { r.client.Blame(ref.Repo, ref.Digest) }

func (r registry) Open(ctx context.Context, ref Ref, off, n int64) (*Body, error) {
	var b *origin.Body
	var err error
	if ref.Repo.IsFile() {
		b, err = r.client.File(ctx, ref.Repo, off, n)
	} else {
		b, err = r.client.Blob(ctx, ref.Repo, ref.Digest, off, n)
	}
	if err != nil {
		return nil, err
	}
	return &Body{ReadCloser: b.ReadCloser, Off: b.Off, Size: b.Size}, nil
}

var (
	// ErrClosed reports the use of a closed Fetcher or Blob.
	ErrClosed = errors.New("fetcher: closed")
	// ErrUnavailable reports that no source gave the bytes in the time that a
	// read of its priority has. Reading again later may help.
	ErrUnavailable = errors.New("no source gave the bytes in time")
	// ErrDigest reports a blob whose content does not match its digest. It
	// has been dropped; reading again prefers other sources.
	ErrDigest = errors.New("content does not match its digest")
	// ErrFull reports that a background read stopped, or that a blob was not
	// kept, because the disk has no room or takes no writes.
	ErrFull = store.ErrFull
	// ErrSize reports that a source has the blob with another size than the
	// reference says.
	ErrSize = errors.New("blob has another size")

	errStalled = errors.New("source sends nothing")
	errShared  = errors.New("another request brings these bytes")
	errNowhere = errors.New("nobody said where it may be had")
	errAlone   = errors.New("nobody waits for these bytes")
)

// final reports whether asking the same source and repository again cannot
// help.
func final(err error) bool {
	return errors.Is(err, origin.ErrNotFound) || errors.Is(err, origin.ErrUnauthorized) || errors.Is(err, origin.ErrChanged) || errors.Is(err, ErrSize)
}

// result is the value of the label "result" for a request that ended with err.
func result(err error) string {
	var down *origin.UnavailableError
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, errShared), errors.Is(err, errAlone), errors.Is(err, ErrClosed):
		return "given_up"
	case errors.Is(err, errStalled):
		return "stalled"
	case errors.Is(err, errOutpaced):
		return "outpaced"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "truncated"
	case errors.Is(err, origin.ErrNotFound):
		return "not_found"
	case errors.Is(err, origin.ErrUnauthorized):
		return "unauthorized"
	case errors.Is(err, origin.ErrChanged):
		return "changed"
	case errors.Is(err, ErrFull):
		return "disk_full"
	case errors.As(err, &down):
		return "unavailable"
	default:
		return "error"
	}
}
