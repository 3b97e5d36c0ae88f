package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
)

const (
	bufSize     = 128 << 10
	headSize    = 64 << 10
	contentType = "application/octet-stream"
)

var buffers = sync.Pool{New: func() any { return new([bufSize]byte) }}

// delivery is a blob, or ranges of it, on the way to a client.
type delivery struct {
	m      *Mirror
	a      *answer
	t      target
	blob   *fetcher.Blob
	from   fetcher.From
	spans  []span // none: all of the blob
	before fetcher.Stats
	timing string

	readers []io.ReadCloser
	body    io.Reader
	length  int64
	buf     *[bufSize]byte
	head    []byte // first bytes of body, read to see whether there are any
}

// open starts to read all that is asked for.
func (d *delivery) open(ctx context.Context) (err error) {
	spans := d.spans
	if len(spans) == 0 {
		spans = []span{{0, d.blob.Size()}}
	}
	if len(d.spans) == 0 && d.blob.Size() > 2*headSize {
		// The network brings a whole blob piece by piece, and shows none of a
		// piece before all of it is right. So that the client need not wait for
		// the first one, its beginning is read as it comes.
		spans = append(spans, span{0, headSize})
	}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	for _, s := range spans {
		r, err := d.reader(ctx, s)
		if err != nil {
			return err
		}
		d.readers = append(d.readers, r)
	}
	d.buf = buffers.Get().(*[bufSize]byte)
	switch len(d.spans) {
	case 0:
		d.length = d.blob.Size()
		whole := io.Reader(d.readers[0])
		if len(d.readers) > 1 {
			whole = io.MultiReader(d.readers[1], &skipping{whole, headSize})
		}
		d.body = &verified{Reader: whole, left: d.length, v: d.t.digest.Verifier()}
	case 1:
		d.length, d.body = spans[0].n, d.readers[0]
	default:
		d.body = d.readers[0] // until first has seen that there are bytes
	}
	return nil
}

func (d *delivery) close() {
	for _, r := range d.readers {
		_ = r.Close() // it was only read
	}
	if d.buf != nil {
		buffers.Put(d.buf)
	}
	d.readers, d.buf = nil, nil
}

// first waits for the first bytes, as long as an error can still be told.
func (d *delivery) first() error {
	n, err := io.ReadAtLeast(d.body, d.buf[:], 1)
	if errors.Is(err, io.EOF) && d.length == 0 {
		err = nil
	}
	if err != nil {
		return d.failed(err)
	}
	d.head = d.buf[:n]
	took := time.Since(d.a.began)
	source := d.source()
	d.timing += fmt.Sprintf(", first;desc=%q;dur=%s", source, millis(took))
	d.m.metrics.firstByte.WithLabelValues(source).Observe(took.Seconds())
	return nil
}

// send sends the header and then all bytes, as they come.
func (d *delivery) send() error {
	h := d.a.Header()
	h.Set("Content-Type", contentType)
	h.Set("Docker-Content-Digest", d.t.digest.String())
	h.Set("Docker-Distribution-Api-Version", "registry/2.0")
	h.Set("Etag", etag(d.t))
	h.Set("Accept-Ranges", "bytes")
	h.Set("Server-Timing", d.timing)
	status := http.StatusPartialContent
	switch len(d.spans) {
	case 0:
		status = http.StatusOK
	case 1:
		h.Set("Content-Range", contentRange(d.spans[0], d.blob.Size()))
	default:
		d.multipart(h)
	}
	h.Set("Content-Length", strconv.FormatInt(d.length, 10))
	d.a.quiet = len(d.spans) > 0
	d.a.WriteHeader(status)
	err := d.copy()
	d.a.from = d.sources()
	if err != nil {
		return d.failed(err)
	}
	d.done()
	return nil
}

// copy sends the bytes that were read to see whether there are any, and the rest.
func (d *delivery) copy() error {
	if len(d.spans) < 2 {
		if _, err := d.a.Write(d.head); err != nil {
			return err
		}
		if d.a.sent == d.length {
			return nil
		}
		_ = d.a.control.Flush() // the rest may take its time; without it the client waits longer
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{d.a}, struct{ io.Reader }{d.body}, d.buf[:])
	if err == nil && d.a.sent < d.length {
		err = fmt.Errorf("%d bytes more, and no others: %w", n, io.ErrUnexpectedEOF)
	}
	return err
}

// multipart makes the body one of several parts.
func (d *delivery) multipart(h http.Header) {
	var frame bytes.Buffer
	w := multipart.NewWriter(&frame)
	h.Set("Content-Type", "multipart/byteranges; boundary="+w.Boundary())
	var parts []io.Reader
	cut := func() { // what the writer wrote since
		text := bytes.Clone(frame.Bytes())
		frame.Reset()
		parts, d.length = append(parts, bytes.NewReader(text)), d.length+int64(len(text))
	}
	for i, s := range d.spans {
		_, _ = w.CreatePart(textproto.MIMEHeader{"Content-Type": {contentType}, "Content-Range": {contentRange(s, d.blob.Size())}}) // a Buffer takes everything
		cut()
		if i == 0 {
			parts = append(parts, bytes.NewReader(bytes.Clone(d.head)))
		}
		parts, d.length = append(parts, d.readers[i]), d.length+s.n
	}
	_ = w.Close() // the same
	cut()
	d.body = io.MultiReader(parts...)
}

func contentRange(s span, size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", s.off, s.off+s.n-1, size)
}

// failed sees to what a blob that is not what it should be means.
func (d *delivery) failed(err error) error {
	if !errors.Is(err, fetcher.ErrDigest) {
		return err
	}
	d.m.metrics.corrupt.Inc()
	d.m.log.Error("a blob does not match its digest; the client does not get the end of it", "blob", d.t.digest, "repo", d.t.at().String())
	return errors.Join(err, d.blob.Discard(0, d.blob.Size()))
}

// done notes that all bytes were sent.
func (d *delivery) done() {
	if len(d.spans) > 0 {
		return
	}
	if err := d.blob.MarkVerified(); err != nil {
		d.m.log.Debug("blob not marked as verified", "blob", d.t.digest, "err", err) // the disk has not all of it
	}
	d.m.log.Info("peer task done", "cost", time.Since(d.a.began), "peer", d.m.cfg.Name, "task", d.t.digest.Encoded(),
		"repo", d.t.at().String(), "size", d.blob.Size(), fromStore, d.a.from[fromStore], fromPeer, d.a.from[fromPeer], fromOrigin, d.a.from[fromOrigin])
}

// sources says where the bytes sent came from. Others may have read the blob
// meanwhile, so it is an estimate: what was fetched since the beginning, and the
// rest was there.
func (d *delivery) sources() map[string]int64 {
	now, left := d.blob.Stats(), d.a.sent
	from := map[string]int64{}
	for _, s := range []string{fromOrigin, fromPeer} {
		from[s] = min(left, now.Fetched[s]-d.before.Fetched[s])
		left -= from[s]
	}
	from[fromStore] = left
	return from
}

// source is where the first bytes came from.
func (d *delivery) source() string {
	now := d.blob.Stats()
	for _, s := range []string{fromOrigin, fromPeer} {
		if now.Fetched[s] > d.before.Fetched[s] {
			return s
		}
	}
	return fromStore
}

// skipping leaves out the first n bytes.
type skipping struct {
	io.Reader
	n int64
}

func (r *skipping) Read(p []byte) (int, error) {
	if r.n > 0 {
		if _, err := io.CopyN(io.Discard, r.Reader, r.n); err != nil {
			return 0, err
		}
		r.n = 0
	}
	return r.Reader.Read(p)
}

// verified reads a whole blob and gives its last bytes only if all of them match
// its digest.
type verified struct {
	io.Reader
	left int64
	v    digest.Verifier
}

func (r *verified) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	_, _ = r.v.Write(p[:n]) // a hash takes everything
	if r.left -= int64(n); r.left <= 0 && !r.v.Verified() {
		return 0, fetcher.ErrDigest
	}
	return n, err
}
