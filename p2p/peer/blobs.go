package peer

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// Blobs is what a host gives to others.
type Blobs interface {
	// Stat returns the size of a blob of which something is here or on its
	// way; else the error is ErrNotFound.
	Stat(d digest.Digest) (size int64, err error)
	// Open gives those bytes of d from off on that are here without a gap, at
	// most n of them. It returns how many that is; none is ErrNotFound. If
	// ask.Through is set, it fetches what is missing instead, and the body
	// delivers bytes as they come. ctx ends when nobody wants the bytes any more.
	//
	// A body that is an *os.File, positioned at off, is sent without being
	// copied through this process; it may be longer than n.
	Open(ctx context.Context, d digest.Digest, off, n int64, ask Ask) (io.ReadCloser, int64, error)
	// Have returns the pieces of d that are here, and a channel that is closed
	// once that has changed. The set is the caller's to keep.
	Have(d digest.Digest) (*p2p.Have, <-chan struct{}, error)
}

// Limiter holds back what is sent.
type Limiter interface {
	// Wait returns when n more bytes may be sent, or with ctx's error.
	Wait(ctx context.Context, n int, p p2p.Priority) error
}
