package bucket

import (
	"context"
	"io"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// readStep is what is read at a time, so that one who comes with a higher
// priority waits for no more than that.
const readStep = 64 << 10

// Body returns r read no faster than b lets it. ctx ends a wait; the body ends
// with r.
func (b *Bucket) Body(ctx context.Context, r io.ReadCloser, p p2p.Priority) io.ReadCloser {
	if b == nil {
		return r
	}
	return &body{r, ctx, b, p}
}

type body struct {
	io.ReadCloser
	ctx    context.Context
	bucket *Bucket
	p      p2p.Priority
}

// Read reads first and waits then: only now is it known how much has come.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), readStep)])
	if held := b.bucket.Wait(b.ctx, n, b.p); held != nil {
		return n, held
	}
	return n, err
}
