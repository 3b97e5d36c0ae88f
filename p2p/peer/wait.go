package peer

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// waitFor is how long a server keeps a request for bytes that are not here yet, at
// most: clients count on an answer by then.
const waitFor = 10 * time.Second

// comes returns when the byte at off of a blob of size bytes is here. It takes no
// upload slot meanwhile, but counts as one who wants to hear of what is here.
func (s *Server) comes(r *http.Request, d digest.Digest, off, size int64) error {
	ctx, host := r.Context(), hostOf(r)
	if !s.watchers.take(host, false) {
		return errBusy
	}
	defer s.watchers.free(host)
	t := time.NewTimer(s.wait)
	defer t.Stop()
	for {
		have, changed, err := s.blobs.Have(d)
		if err != nil {
			return err
		}
		if have.Has(int(off / p2p.PieceSize(size))) {
			return nil
		}
		select {
		case <-changed:
		case <-t.C:
			return fmt.Errorf("byte %d of %s has not come: %w", off, d, ErrNotFound)
		case <-s.stopping:
			return ErrClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
