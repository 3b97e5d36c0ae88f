package p2p

import (
	"encoding/binary"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// A Profile says which chunks of a layer the containers of an image read first,
// in order: what is worth fetching before they ask. It is a hint and nothing
// more, and who uses one checks that the layer has such chunks.
type Profile struct {
	Layer digest.Digest
	Image digest.Digest // chain ID of the image's uppermost layer; "": of any image that has the layer
	Index digest.Digest // ID of the index that numbers the chunks
	Runs  []Run
	Pack  Blob // the boot pack, with the content of most of these chunks; the zero Blob: there is none
}

// A Run is the chunks First, First+1 … of a layer, Count of them.
type Run struct{ First, Count uint32 }

// What a profile holds at most.
const (
	MaxRuns     = 4096
	MaxProfiled = 1 << 15  // chunks in all runs
	MaxBootPack = 64 << 20 // bytes
	maxChunks   = 1 << 24  // chunks of a layer, as package fs/index has it
)

// Validate returns an error that wraps ErrInvalid unless there can be such a
// profile.
func (p Profile) Validate() error {
	digests := []digest.Digest{p.Layer, p.Index}
	if p.Image != "" {
		digests = append(digests, p.Image)
	}
	for _, d := range digests {
		if err := ValidateDigest(d); err != nil {
			return err
		}
	}
	if p.Pack != (Blob{}) {
		if err := p.Pack.Validate(); err != nil {
			return err
		}
		if p.Pack.Size > MaxBootPack {
			return fmt.Errorf("boot pack of %d bytes: %w", p.Pack.Size, ErrInvalid)
		}
	}
	return validateRuns(p.Runs)
}

func validateRuns(runs []Run) error {
	if len(runs) > MaxRuns {
		return fmt.Errorf("profile of %d runs: %w", len(runs), ErrInvalid)
	}
	total := 0
	for _, r := range runs {
		if r.Count < 1 || r.Count > MaxProfiled || r.First > maxChunks-r.Count {
			return fmt.Errorf("run of %d chunks from %d: %w", r.Count, r.First, ErrInvalid)
		}
		total += int(r.Count)
	}
	if total > MaxProfiled {
		return fmt.Errorf("profile of %d chunks: %w", total, ErrInvalid)
	}
	return nil
}

// AppendRuns appends the compact form of runs to b: for each, how far its first
// chunk is from the end of the run before, and its length, as varints.
func AppendRuns(b []byte, runs []Run) []byte {
	end := int64(0)
	for _, r := range runs {
		b = binary.AppendVarint(b, int64(r.First)-end)
		b = binary.AppendUvarint(b, uint64(r.Count))
		end = int64(r.First) + int64(r.Count)
	}
	return b
}

// ParseRuns reads what AppendRuns has written. Its error wraps ErrInvalid.
func ParseRuns(b []byte) (runs []Run, err error) {
	end := int64(0)
	for len(b) > 0 {
		gap, n := binary.Varint(b)
		if n <= 0 {
			return nil, fmt.Errorf("runs of a profile: %w", ErrInvalid)
		}
		count, m := binary.Uvarint(b[n:])
		if m <= 0 {
			return nil, fmt.Errorf("runs of a profile: %w", ErrInvalid)
		}
		b = b[n+m:]
		if gap < -maxChunks || gap > maxChunks || end+gap < 0 || end+gap > maxChunks || count > MaxProfiled || len(runs) >= MaxRuns {
			return nil, fmt.Errorf("run %d of a profile: %w", len(runs), ErrInvalid)
		}
		r := Run{uint32(end + gap), uint32(count)}
		runs = append(runs, r)
		end = int64(r.First) + int64(r.Count)
	}
	return runs, validateRuns(runs)
}

// Of profiles.
type (
	// Learn says what a container has read of a layer. Again says that this host
	// has said so before, perhaps to this scheduler.
	Learn struct {
		Profile Profile
		Again   bool
	}
	// Recall asks for the profile of a layer in an image.
	Recall struct{ Layer, Image digest.Digest }
	// Recalled answers a Recall. The profile is that of the Image or, if the Image
	// was never seen, of any; nil if nothing is known of the Layer.
	Recalled struct {
		Layer, Image digest.Digest
		Profile      *Profile
	}
)

func (Learn) message()    {}
func (Recall) message()   {}
func (Recalled) message() {}
