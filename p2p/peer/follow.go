package peer

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// Change is news of which pieces a peer has.
type Change struct {
	Whole   bool      // Added is all it has; what was known before does not count
	Added   *p2p.Have // nil: none
	Removed *p2p.Have // nil: none
}

// Watch calls fn with the pieces of b that peer has, and then with each change,
// until ctx ends or the peer fails, is gone or drops the blob; the error says
// which and is never nil. Each call of fn comes after the one before returned.
func (c *Client) Watch(ctx context.Context, peer p2p.Host, b p2p.Blob, fn func(Change)) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(ErrClosed)
	g := newGuard(silentFor, stop)
	defer g.stop()
	resp, err := c.do(ctx, peer, "/blobs/"+b.Digest.String()+"/have", func(http.Header) {})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if size := resp.Header.Get(headerSize); size != strconv.FormatInt(b.Size, 10) {
		return &Error{Peer: peer.ID, Failure: p2p.Missing, Err: fmt.Errorf("has the blob with %.20q bytes, not %d", size, b.Size)}
	}
	r, pieces := bufio.NewReader(resp.Body), b.Pieces()
	for {
		g.start()
		kind, have, err := readFrame(r, pieces)
		g.stop()
		if err != nil {
			return failed(ctx, peer.ID, err)
		}
		switch kind {
		case frameWhole:
			fn(Change{Whole: true, Added: have})
		case frameAdded:
			fn(Change{Added: have})
		case frameRemoved:
			fn(Change{Removed: have})
		case frameGone:
			return &Error{Peer: peer.ID, Failure: p2p.Missing, Err: ErrNotFound}
		}
	}
}
