package p2p

import (
	"fmt"

	"github.com/opencontainers/go-digest"
)

// An Index says that there is an index of a layer, and where: it travels as a
// blob of its own, the pack. Package fs/index documents both formats.
type Index struct {
	Layer   digest.Digest // the blob that it makes readable at random
	Version int           // of the format
	ID      digest.Digest // of what is in it; the same from every host that makes it
	DiffID  digest.Digest // of the layer, which its maker has unpacked and verified
	Pack    Blob
	Head    int64 // bytes of the pack that are needed to open it
	Proof   Proof // of who made it; empty where hosts have no certificates
}

// A Proof is a maker's signature of an index.
type Proof struct {
	Certificate []byte // of the maker, DER
	Signature   []byte // of Index.Statement
}

const maxVersion = 1 << 16

// Validate returns an error that wraps ErrInvalid unless there can be such an
// index.
func (x Index) Validate() error {
	for _, d := range []digest.Digest{x.Layer, x.ID, x.DiffID} {
		if err := ValidateDigest(d); err != nil {
			return err
		}
	}
	if err := x.Pack.Validate(); err != nil {
		return err
	}
	if x.Version < 1 || x.Version > maxVersion || x.Head < 1 || x.Head > x.Pack.Size {
		return fmt.Errorf("index of version %d, %d bytes of %d to open it: %w", x.Version, x.Head, x.Pack.Size, ErrInvalid)
	}
	return nil
}

// Statement is what a maker signs: that this is the index of that layer.
func (x Index) Statement() []byte {
	return fmt.Appendf(nil, "dfsnapshotter index\n%s\n%d\n%s\n%s\n%s\n%d\n%d\n", x.Layer, x.Version, x.ID, x.DiffID, x.Pack.Digest, x.Pack.Size, x.Head)
}

// Of indexes.
type (
	// Publish offers an index whose pack the host has.
	Publish struct{ Index Index }
	// Lookup asks for the indexes of layers, in one version of the format.
	Lookup struct {
		Layers  []digest.Digest
		Version int
	}
	// Indexes answers a Lookup: what was Found of these Layers, one each at most.
	// It comes unasked when a layer that was asked for in vain gets one.
	Indexes struct {
		Layers []digest.Digest
		Found  []Index
	}
	// Distrust says that an index is not that of its layer. From a host: it has
	// seen all of the blob, or it repeats what it was told and says which of its
	// Containers have been given the layer; from the scheduler: no new container is
	// to use it.
	Distrust struct {
		Layer, ID  digest.Digest
		Reason     string
		Containers []string
	}
)

func (Publish) message()  {}
func (Lookup) message()   {}
func (Indexes) message()  {}
func (Distrust) message() {}

// What a Distrust has of containers at most, and how long a name is in bytes.
const (
	MaxContainers    = 64
	MaxContainerName = 256
)

// MaxLookup is how many layers one Lookup may ask for.
const MaxLookup = 256
