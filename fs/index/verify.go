package index

import (
	"context"
	"fmt"
	"io"
)

// Verify decodes all content out of the blob, extent by extent as a reader of
// the layer would, and checks every chunk; it checks the blob's digest as well.
func Verify(ctx context.Context, x *Index, blob io.ReaderAt) error {
	info := x.Info()
	v, err := verifier(info.Blob)
	if err != nil {
		return err
	}
	if n, err := io.Copy(v, &ctxReader{ctx, io.NewSectionReader(blob, 0, 1<<62)}); err != nil {
		return fmt.Errorf("read blob: %w", err)
	} else if n != info.BlobSize {
		return fmt.Errorf("blob has %d bytes, not %d: %w", n, info.BlobSize, ErrDigest)
	}
	if err := v.check("blob"); err != nil {
		return err
	}
	for i := 0; i < info.Chunks; {
		next := i
		for _, e := range x.Steps(x.Extent(i)) {
			r := &ctxReader{ctx, io.NewSectionReader(blob, e.Off, e.Len)}
			err := x.Decode(r, e, func(chunk int, _ []byte) error {
				next = chunk + 1
				return nil
			})
			if err != nil {
				return err
			}
		}
		i = next
	}
	return nil
}

// ctxReader fails when ctx ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}
