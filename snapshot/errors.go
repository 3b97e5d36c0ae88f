package snapshot

import "errors"

// Errors that Layers and Images answer with, wrapped, and that decide who
// handles an image.
var (
	// ErrUnreadable means that the registry refuses this content to every
	// credential held here, or denies that it exists. The image is left to
	// containerd, which may have been given credentials of its own.
	ErrUnreadable = errors.New("not readable with the credentials held here")

	// ErrUnavailable means that no source answered within the retry budget.
	// The image is left to containerd, which may know another way.
	ErrUnavailable = errors.New("no source answered")

	// ErrForeign means that the content is of a kind that is not served here,
	// such as an encrypted layer. The image is left to containerd.
	ErrForeign = errors.New("kind of layer is not served")
)
