package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

const (
	maxFailures = 5 // in a row, without a byte in between
	firstPause  = time.Second
)

// blobReader reads a whole blob from its registry, and goes on where it was when
// the connection breaks. What it reads is not verified.
type blobReader struct {
	ctx    context.Context
	client *origin.Client
	repo   origin.Repo
	digest digest.Digest
	size   int64

	off      int64
	body     io.ReadCloser // nil: there is none
	failures int
}

func (r *blobReader) Read(p []byte) (int, error) {
	for r.off < r.size {
		n, err := r.read(p)
		if n > 0 {
			r.failures = 0
			r.off += int64(n)
			return n, nil
		}
		if err == nil {
			continue
		}
		_ = r.Close() // it has failed
		if err := r.pause(err); err != nil {
			return 0, err
		}
	}
	return 0, io.EOF
}

// read makes one attempt.
func (r *blobReader) read(p []byte) (int, error) {
	if r.body == nil {
		body, err := r.client.Blob(r.ctx, r.repo, r.digest, r.off, -1)
		if err != nil {
			return 0, err
		}
		if _, err := io.CopyN(io.Discard, body, r.off-body.Off); err != nil { // it ignores ranges
			return 0, errors.Join(err, body.Close())
		}
		r.body = body
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.size-r.off)])
	if errors.Is(err, io.EOF) && n == 0 { // the registry's blob is shorter
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// pause waits before another attempt, or says that it would be of no use.
func (r *blobReader) pause(why error) error {
	var down *origin.UnavailableError
	r.failures++
	if r.ctx.Err() != nil || !errors.As(why, &down) || r.failures > maxFailures {
		return why
	}
	t := time.NewTimer(max(down.RetryAfter, firstPause<<(r.failures-1)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
}

// Close ends the request that is under way.
func (r *blobReader) Close() error {
	if r.body == nil {
		return nil
	}
	body := r.body
	r.body = nil
	return body.Close()
}
