package snapshot

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// Reasons why a layer is left to containerd, as metrics name them.
const (
	reasonLabels      = "labels"      // containerd sent none
	reasonUnreadable  = "unreadable"  // no credentials here may read it
	reasonUnavailable = "unavailable" // no source answered
	reasonForeign     = "foreign"     // not a kind of image that is served
	reasonMismatch    = "mismatch"    // manifest, config and labels contradict each other
	reasonWhiteout    = "whiteout"    // the lowest layer hides something, of nothing
	reasonBelow       = "below"       // a lower layer of the image was left to containerd
)

var (
	// errTargetExists tells containerd that the layer it wants to unpack is there.
	errTargetExists = fmt.Errorf("target snapshot: %w", errdefs.ErrAlreadyExists)

	errNoLabels = errors.New("containerd sends no image labels: set enable_remote_snapshot_annotations, or disable_snapshot_annotations = false")
	errWhiteout = errors.New("the lowest layer has whiteouts or opaque folders")
	errBelow    = errors.New("a lower layer of the image was left to containerd")
	errClosed   = errors.New("snapshotter is closed")
)

// leaveError means that a layer must be left to containerd.
type leaveError struct {
	reason string
	err    error
}

func (e *leaveError) Error() string { return e.err.Error() }

func (e *leaveError) Unwrap() error { return e.err }

// leave decides whether err is one to leave the layer to containerd for, which
// may have credentials or ways of its own. With nothing of the image served
// here yet (first), a source that does not answer is one: containerd can try
// at no loss. Later it fails the pull, which is then tried again.
func leave(err error, first bool) *leaveError {
	var known *leaveError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return known
	case errors.Is(err, origin.ErrUnauthorized), errors.Is(err, origin.ErrNotFound):
		return &leaveError{reasonUnreadable, err}
	case first && unavailable(err):
		return &leaveError{reasonUnavailable, err}
	default:
		return nil
	}
}

func unavailable(err error) bool {
	var u *origin.UnavailableError
	return errors.Is(err, fetcher.ErrUnavailable) || errors.As(err, &u)
}

// edge gives an error from below the class that containerd's clients know.
func edge(err error) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, fetcher.ErrFull):
		return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	case unavailable(err), errors.Is(err, errClosed):
		return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	case errors.Is(err, fetcher.ErrDigest), errors.Is(err, origin.ErrDigest):
		return fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	default:
		return err
	}
}
