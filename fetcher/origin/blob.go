package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
)

// Body is the bytes of a blob as a registry sends them, not verified. Read
// gives io.EOF only after all bytes that were announced, and an
// *UnavailableError if the connection breaks before. How long a body may send
// nothing is up to its reader.
type Body struct {
	io.ReadCloser
	Off  int64 // where the first byte lies in the blob: 0 when the registry ignored the range
	Size int64 // of the whole blob; -1: the registry did not say
}

// Blob opens n bytes of a blob from off on; n < 0 means up to its end. It
// makes one attempt over the hosts that serve the repository. ctx ends the
// reading of the body too. A registry that ignores ranges sends the whole
// blob, and the body may end before off+n where the blob does.
func (c *Client) Blob(ctx context.Context, repo Repo, d digest.Digest, off, n int64) (*Body, error) {
	q, err := newQuery(kindBlob, repo, d)
	if err != nil {
		return nil, fmt.Errorf("origin: %w", err)
	}
	switch {
	case off < 0 || n == 0:
		return nil, fmt.Errorf("origin: no bytes in a range of %d from %d on", n, off)
	case n > 0:
		q.span = fmt.Sprintf("bytes=%d-%d", off, off+n-1)
	case off > 0:
		q.span = fmt.Sprintf("bytes=%d-", off)
	}
	var body *Body
	err = c.each(ctx, q, func(h *host) error {
		resp, err := c.get(ctx, h, q)
		if err != nil {
			return err
		}
		if body, err = c.body(ctx, h, resp, off, n); err != nil {
			resp.Body.Close()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("origin: blob %s of %s: %w", d, repo, err)
	}
	return body, nil
}

// body checks that an answer holds the range that was asked for.
func (c *Client) body(ctx context.Context, h *host, resp *http.Response, off, n int64) (*Body, error) {
	b := &Body{Size: resp.ContentLength}
	length := resp.ContentLength
	if resp.StatusCode == http.StatusPartialContent {
		header := resp.Header.Get("Content-Range")
		first, last, size, ok := contentRange(header)
		switch {
		case !ok:
			return nil, fmt.Errorf("%w: 206 with Content-Range %q", ErrResponse, oneLine(header))
		case first != off, n > 0 && last >= off+n:
			return nil, fmt.Errorf("%w: asked for %d bytes from %d on, got Content-Range %q", ErrResponse, n, off, oneLine(header))
		case length >= 0 && length != last-first+1:
			return nil, fmt.Errorf("%w: Content-Range %q with Content-Length %d", ErrResponse, oneLine(header), length)
		}
		b.Off, b.Size, length = first, size, last-first+1
	}
	b.ReadCloser = &reader{
		ctx:      ctx,
		now:      c.now,
		body:     resp.Body,
		left:     length,
		whole:    h.succeeded,
		broken:   func() { h.failed(0, c.now()) },
		received: c.metrics.received.WithLabelValues(kindBlob),
	}
	return b, nil
}

// contentRange parses "bytes first-last/size"; size is -1 where it is "*".
func contentRange(s string) (first, last, size int64, ok bool) {
	unit, rest, _ := strings.Cut(strings.TrimSpace(s), " ")
	span, total, found := strings.Cut(rest, "/")
	from, to, dash := strings.Cut(span, "-")
	if !strings.EqualFold(unit, "bytes") || !found || !dash {
		return 0, 0, 0, false
	}
	first, err1 := strconv.ParseInt(strings.TrimSpace(from), 10, 64)
	last, err2 := strconv.ParseInt(strings.TrimSpace(to), 10, 64)
	if err := errors.Join(err1, err2); err != nil || first < 0 || last < first {
		return 0, 0, 0, false
	}
	if total = strings.TrimSpace(total); total == "*" {
		return first, last, -1, true
	}
	size, err := strconv.ParseInt(total, 10, 64)
	return first, last, size, err == nil && last < size
}

// stalled is how long a reader has waited for the next bytes when giving up
// counts against the host.
const stalled = 5 * time.Second

// reader reads a body of a known length, and says when it is cut off.
type reader struct {
	ctx      context.Context
	now      func() time.Time
	body     io.ReadCloser
	left     int64  // bytes to come; -1: unknown
	whole    func() // called when all has come
	broken   func() // called when it has been cut off, or has stalled
	received prometheus.Counter
	closed   atomic.Bool // Close may be called while Read waits
}

func (r *reader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	if r.left > 0 && int64(len(p)) > r.left {
		p = p[:r.left]
	}
	start := r.now()
	n, err := r.body.Read(p)
	r.received.Add(float64(n))
	if r.left > 0 {
		r.left -= int64(n)
	}
	switch {
	case r.left == 0, errors.Is(err, io.EOF) && r.left < 0:
		r.left = 0
		r.whole()
		return n, nil
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	abandoned := r.ctx.Err() != nil || r.closed.Load()
	if !abandoned || r.now().Sub(start) > stalled {
		r.broken()
	}
	return n, fmt.Errorf("origin: read body: %w", netError(r.ctx, err))
}

func (r *reader) Close() error {
	r.closed.Store(true)
	return r.body.Close()
}
