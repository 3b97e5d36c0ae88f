package peer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

var (
	// ErrNotFound reports bytes, or a whole blob, that are not here: ask
	// somebody else.
	ErrNotFound = errors.New("not here")
	// ErrIdentity reports an address at which another host answers than the
	// one that was asked: its certificate is somebody else's.
	ErrIdentity = errors.New("another host answers there")
	// ErrStalled reports a peer that sent nothing for too long.
	ErrStalled = errors.New("peer sends nothing")
	// ErrClosed reports the use of something that was closed.
	ErrClosed = errors.New("peer: closed")
)

// Error is how a peer, or the origin, failed a request. Another one, or the same
// one later, may do better.
type Error struct {
	Peer       p2p.HostID    // "": the origin
	Failure    p2p.Failure   // never None
	RetryAfter time.Duration // with Busy: not before; 0: it did not say
	Err        error
}

func (e *Error) Error() string {
	if e.Peer == "" {
		return fmt.Sprintf("origin: %v", e.Err)
	}
	return fmt.Sprintf("peer %s: %v", e.Peer, e.Err)
}

// Unwrap returns what it was.
func (e *Error) Unwrap() error { return e.Err }

// failed says how peer failed with err. What the caller itself ended is no
// failure of the peer: then the result is the reason it gave.
func failed(ctx context.Context, peer p2p.HostID, err error) error {
	var known *Error
	if errors.As(err, &known) {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		if errors.Is(cause, ErrStalled) {
			return &Error{Peer: peer, Failure: p2p.Stalled, Err: cause}
		}
		return cause
	}
	return &Error{Peer: peer, Failure: p2p.Unreachable, Err: err}
}
