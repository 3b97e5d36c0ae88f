package origin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
)

// PushBlob puts a blob of size bytes into a repository, unless that has it. open
// reads it from its start, as often as need be. Like all that writes it goes to
// the registry's own server, never to a mirror, with a token that may push.
func (c *Client) PushBlob(ctx context.Context, repo Repo, d digest.Digest, size int64, open func() (io.ReadCloser, error)) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("origin: push blob %s to %s: %w", d, repo, err)
		}
	}()
	q, err := newQuery(kindBlob, repo, d)
	if err != nil {
		return err
	}
	h, err := c.writable(repo)
	if err != nil {
		return err
	}
	head := q
	head.method = http.MethodHead
	if _, err := c.write(ctx, h, head, head.url(h)); err == nil || !errors.Is(err, ErrNotFound) {
		return err
	}
	at, err := c.upload(ctx, h, repo)
	if err != nil {
		return err
	}
	values := at.Query()
	values.Set("digest", d.String())
	at.RawQuery = values.Encode()
	q.kind, q.method, q.media = kindUpload, http.MethodPut, "application/octet-stream"
	q.body, q.length = open, size
	_, err = c.write(ctx, h, q, at)
	return err
}

// upload begins an upload and returns where to send it.
func (c *Client) upload(ctx context.Context, h *host, repo Repo) (*url.URL, error) {
	u := h.base
	u.Path += "/" + repo.Path + "/blobs/uploads/"
	header, err := c.write(ctx, h, query{kind: kindUpload, repo: repo, method: http.MethodPost}, &u)
	if err != nil {
		return nil, err
	}
	at, err := u.Parse(header.Get("Location"))
	if err != nil || header.Get("Location") == "" || at.Scheme != "http" && at.Scheme != "https" {
		return nil, fmt.Errorf("%w: an upload that has no usable Location", ErrResponse)
	}
	return at, nil
}

// PushManifest puts a manifest into a repository, under a tag, or under its
// digest if tag is "". lists says that the registry lists it among the referrers
// of its subject: if not, ReferrersTag is the pusher's to keep.
func (c *Client) PushManifest(ctx context.Context, repo Repo, tag, mediaType string, data []byte) (lists bool, err error) {
	q, err := newQuery(kindManifest, repo, digest.FromBytes(data))
	if err == nil && tag != "" {
		q, err = newTagQuery(repo, tag)
	}
	if err != nil {
		return false, fmt.Errorf("origin: %w", err)
	}
	q.method, q.media, q.accept = http.MethodPut, mediaType, nil
	q.body, q.length = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, int64(len(data))
	h, err := c.writable(repo)
	if err != nil {
		return false, err
	}
	header, err := c.write(ctx, h, q, q.url(h))
	if err != nil {
		return false, fmt.Errorf("origin: push manifest %s to %s: %w", q.reference(), repo, err)
	}
	return header.Get("OCI-Subject") != "", nil
}

// writable returns the registry's own server.
func (c *Client) writable(repo Repo) (*host, error) {
	r, err := c.registry(repo.Host, c.now())
	if err != nil {
		return nil, err
	}
	own := r.own()
	if len(own) == 0 {
		return nil, fmt.Errorf("%w: %s has no server to write to", ErrResponse, repo.Host)
	}
	return own[len(own)-1], nil
}

// write makes a request that writes, or asks whether that is needed, and returns
// the header of its answer. Only the host itself is told who asks.
func (c *Client) write(ctx context.Context, h *host, q query, u *url.URL) (http.Header, error) {
	var resp *http.Response
	var err error
	if sameOrigin(u, &h.base) {
		resp, _, err = c.login(ctx, h, q, u)
	} else {
		resp, err = c.send(ctx, h, q, u, "", false)
	}
	if err != nil {
		return nil, err
	}
	elsewhere := q.method == http.MethodHead && resp.StatusCode/100 == 3 // in a blob store
	if resp.StatusCode/100 != 2 && !elsewhere {
		return nil, statusError(resp, c.now())
	}
	return resp.Header, resp.Body.Close()
}
