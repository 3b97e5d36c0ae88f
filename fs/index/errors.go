package index

import "errors"

var (
	// ErrCorrupt is returned when bytes are not what they should be: an index
	// file that is damaged, a blob that does not decode, or content that is
	// not what the index was made from. Ask another source.
	ErrCorrupt = errors.New("corrupt")

	// ErrVersion is returned by Open for an index of another format version.
	// Build it again.
	ErrVersion = errors.New("index has another format version")

	// ErrDigest is returned when a blob, read to its end, does not have the
	// digest, size or diffID it was announced with. Ask another source.
	ErrDigest = errors.New("digest mismatch")

	// ErrWindow is returned when a window that the index lacks cannot be had from
	// where the index came from. Unpack the layer.
	ErrWindow = errors.New("window of the index cannot be had")

	// ErrInvalid is returned for a layer that no source can mend: containerd
	// would refuse to unpack it, or it exceeds Limits. The error names the
	// entry.
	ErrInvalid = errors.New("invalid layer")
)
