package snapshot

import (
	"context"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// Want describes a layer as its image's manifest and config describe it.
type Want struct {
	Repo     origin.Repo
	Manifest digest.Digest      // of the image
	Desc     ocispec.Descriptor // of the layer in the manifest, annotations included
	DiffID   digest.Digest      // from the config
	Image    digest.Digest      // chain ID of the image's uppermost layer
	Mode     Mode               // of the image
}

// Layer is what a snapshot must know of a layer.
type Layer struct {
	Size   int64 // bytes of disk that the layer takes unpacked, whether it is filled yet or not
	Inodes int64
	UID    uint32 // owner of the layer's root directory
	GID    uint32
}

// Below is one layer of a chain, or a directory that takes a layer's place in
// it because containerd unpacked it. Exactly one field is set.
type Below struct {
	Layer uint32
	Dir   string // plain directory, whiteouts in overlay's form
}

// Program is what an image's config runs.
type Program struct {
	Name  string        // the first argument of its command; "" if it has none
	Path  string        // where a Name without a slash is looked for, as in $PATH
	Dir   string        // what any other relative Name is below
	Image digest.Digest // chain ID of its uppermost layer
}

// Form says which directories Paths may answer with.
type Form int

// The forms.
const (
	AnyForm   Form = iota // each layer as it is at the moment: plain, or lazy through a FUSE session
	OneForm               // for id mappings: all plain, or all from the one session that can be id-mapped
	PlainForm             // all plain; waits until the layers are complete
)

// Layers keeps layers on this host. A layer is known by a number that is
// greater than 0 and is never used twice, not even after the layer's removal.
// All methods are safe for concurrent use; calls that concern one blob share
// their work.
type Layers interface {
	// Resolve returns the layer that w describes. It comes back when the layer
	// is lazily readable or unpacked, which can take as long as a download; with
	// a mode other than Lazy, when all content of it is here.
	//
	// origin.ErrUnauthorized and origin.ErrNotFound mean that no credentials
	// here may read the blob, fetcher.ErrUnavailable that no source has
	// answered within the retry budget. Any other error is final for this
	// content, such as a wrong digest.
	Resolve(ctx context.Context, w Want) (uint32, error)

	// Place gives the folders that layer id only implies the owner, mode and
	// xattrs that they have in the layers below it (lowest first). The answer
	// is a layer that can be mounted in such a chain: id itself, or another
	// layer with the same content.
	Place(ctx context.Context, id uint32, below []Below) (uint32, error)

	// Paths returns directories fit to be overlayfs's lowerdirs, one for each
	// layer. If chain says that ids, uppermost first, are all there is in a
	// mount, it may be one for all together.
	Paths(ctx context.Context, ids []uint32, form Form, chain bool) ([]string, error)

	// Complete returns when a layer that has its place is an ordinary directory.
	// Until then that is all that is done for it.
	Complete(ctx context.Context, id uint32) error

	// Start is told that containers of an image are about to start: its layers,
	// lowest first, and its program. It returns at once.
	Start(ids []uint32, p Program)

	// Record is told that a container is started from the layers of an image, which
	// is named by its uppermost layer's chain ID: when it is made, and again when it is
	// mounted. It returns at once.
	Record(ids []uint32, image digest.Digest)

	// Layer tells about a layer, and whether there is one with that number.
	Layer(id uint32) (Layer, bool)

	// Hides reports whether a layer has whiteouts or opaque folders.
	Hides(id uint32) bool

	// List returns the numbers of all layers there are.
	List() []uint32

	// Remove deletes a layer and what it alone uses. It may be slow. Removing
	// what is not there is no error.
	Remove(ctx context.Context, id uint32) error
}

// Images reads manifests (manifest true) and configs by digest, verified and at
// most 4 MiB long, with their media type. Errors are those of Layers.Resolve.
type Images interface {
	Document(ctx context.Context, repo origin.Repo, d digest.Digest, manifest bool) (data []byte, mediaType string, err error)
}
