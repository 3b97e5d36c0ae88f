package origin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// manifestTypes are the media types of manifests and indexes that are asked
// for, best first.
var manifestTypes = []string{
	ocispec.MediaTypeImageManifest,
	ocispec.MediaTypeImageIndex,
	"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"*/*;q=0.1",
}

// Document reads a manifest or index, or with manifest false a small blob
// such as an image's config, of at most limit bytes, and verifies it. The
// media type is what the registry says, or for a manifest what it says of
// itself; it is "" where neither says anything. A host whose body takes
// longer than HeaderTimeout is given up for the next one.
func (c *Client) Document(ctx context.Context, repo Repo, d digest.Digest, manifest bool, limit int64) (data []byte, mediaType string, err error) {
	kind := kindBlob
	if manifest {
		kind = kindManifest
	}
	q, err := newQuery(kind, repo, d)
	if err != nil {
		return nil, "", fmt.Errorf("origin: %w", err)
	}
	if manifest {
		q.accept = manifestTypes
	}
	data, mediaType, err = c.document(ctx, q, limit, func(data []byte, _ string) error {
		if got := d.Algorithm().FromBytes(data); got != d {
			return fmt.Errorf("%w: got %d bytes of %s", ErrDigest, len(data), got)
		}
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("origin: %s %s of %s: %w", kind, d, repo, err)
	}
	return data, mediaType, nil
}

// Tagged reads the manifest or index that a tag names, as Document reads one
// that a digest names.
func (c *Client) Tagged(ctx context.Context, repo Repo, tag string, limit int64) (data []byte, mediaType string, err error) {
	q, err := newTagQuery(repo, tag)
	if err == nil {
		data, mediaType, err = c.document(ctx, q, limit, func([]byte, string) error { return nil })
	}
	if err != nil {
		return nil, "", fmt.Errorf("origin: %s:%s: %w", repo, tag, err)
	}
	return data, mediaType, nil
}

// document asks the hosts for a document until one gives what check has nothing
// against.
func (c *Client) document(ctx context.Context, q query, limit int64, check func(data []byte, mediaType string) error) (data []byte, mediaType string, err error) {
	err = c.each(ctx, q, func(h *host) error {
		within, cancel := context.WithCancel(ctx)
		defer cancel()
		resp, err := c.get(within, h, q)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		stall := time.AfterFunc(c.cfg.HeaderTimeout, cancel)
		defer stall.Stop()
		if data, err = c.read(ctx, resp, q, limit); err != nil {
			return err
		}
		mediaType = documentType(resp.Header.Get("Content-Type"), data, q.kind != kindBlob)
		if err := check(data, mediaType); err != nil {
			return err
		}
		h.succeeded()
		return nil
	})
	return data, mediaType, err
}

// read reads a whole document.
func (c *Client) read(ctx context.Context, resp *http.Response, q query, limit int64) ([]byte, error) {
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: status %d for a request without a range", ErrResponse, resp.StatusCode)
	}
	if resp.ContentLength > limit {
		return nil, fmt.Errorf("%w: %d bytes are more than the %d allowed", ErrResponse, resp.ContentLength, limit)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	c.metrics.received.WithLabelValues(q.kind).Add(float64(len(data)))
	if err != nil {
		return nil, fmt.Errorf("read body: %w", netError(ctx, err))
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: more than the %d bytes allowed", ErrResponse, limit)
	}
	return data, nil
}

func documentType(header string, data []byte, manifest bool) string {
	t, _, err := mime.ParseMediaType(header)
	if err != nil {
		t = ""
	}
	if !manifest || (t != "" && t != "application/json" && t != "text/plain" && t != "application/octet-stream") {
		return t
	}
	var doc struct {
		MediaType string `json:"mediaType"`
	}
	if json.Unmarshal(data, &doc) == nil && doc.MediaType != "" {
		return doc.MediaType
	}
	return t
}
