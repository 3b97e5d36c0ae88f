package origin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// errNone is what a host answers that lists no such referrers.
var errNone = fmt.Errorf("%w: it lists none", ErrNotFound)

// Referrers lists the manifests of an artifact type that refer to a manifest, as
// the registry says: in a list of at most limit bytes, of which nothing is
// verified. A registry that does not know the referrers of the OCI distribution
// specification 1.1 is asked for the tag that stands for them; see ReferrersTag.
func (c *Client) Referrers(ctx context.Context, repo Repo, subject digest.Digest, artifactType string, limit int64) ([]ocispec.Descriptor, error) {
	q, err := newQuery(kindReferrers, repo, subject)
	if err != nil {
		return nil, fmt.Errorf("origin: %w", err)
	}
	q.accept, q.filter = []string{ocispec.MediaTypeImageIndex}, artifactType
	found, err := c.referrers(ctx, q, artifactType, limit)
	if errors.Is(err, errNone) {
		return nil, nil
	}
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrResponse) {
		if q, err = newTagQuery(repo, ReferrersTag(subject)); err == nil {
			found, err = c.referrers(ctx, q, artifactType, limit)
		}
		if errors.Is(err, ErrNotFound) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("origin: referrers of %s of %s: %w", subject, repo, err)
	}
	return found, nil
}

// ReferrersTag is the tag whose index lists a manifest's referrers where the
// registry does not do so itself.
func ReferrersTag(subject digest.Digest) string {
	algorithm, encoded := subject.Algorithm().String(), subject.Encoded()
	return algorithm[:min(len(algorithm), 32)] + "-" + encoded[:min(len(encoded), 64)]
}

// referrers reads one list. A host that has an empty one leaves it to the others.
func (c *Client) referrers(ctx context.Context, q query, artifactType string, limit int64) (found []ocispec.Descriptor, err error) {
	_, _, err = c.document(ctx, q, limit, func(data []byte, mediaType string) error {
		if found, err = ParseReferrers(data, mediaType); err != nil {
			return err
		}
		found = slices.DeleteFunc(found, func(d ocispec.Descriptor) bool {
			return artifactType != d.ArtifactType || d.Digest.Validate() != nil || d.Size < 0
		})
		if len(found) == 0 {
			return errNone
		}
		return nil
	})
	return found, err
}

// ParseReferrers reads a list of referrers. It returns ErrResponse if it is none.
func ParseReferrers(data []byte, mediaType string) ([]ocispec.Descriptor, error) {
	var list ocispec.Index
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%w: a list of referrers that is none: %w", ErrResponse, err)
	}
	if list.MediaType != "" {
		mediaType = list.MediaType
	}
	if mediaType != ocispec.MediaTypeImageIndex {
		return nil, fmt.Errorf("%w: a list of referrers of type %q", ErrResponse, oneLine(mediaType))
	}
	return list.Manifests, nil
}
