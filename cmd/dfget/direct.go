package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"strconv"
	"strings"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/file"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// fromOrigin reads what is missing of p from the server.
func (d *download) fromOrigin(ctx context.Context, p *part) error {
	u, err := url.Parse(d.URL)
	if err != nil {
		return fmt.Errorf("%w: the URL cannot be read", file.ErrSpec)
	}
	c, err := d.access.open(origin.Repo{Host: u.Host}, false, d.log)
	if err != nil {
		return err
	}
	defer c.Close()
	f, err := file.Find(ctx, c, d.Spec)
	if err != nil {
		return err
	}
	defer f.Lend(c)()
	off, n, err := parseRange(d.span, f.Size)
	if err != nil {
		return err
	}
	if d.span == "" && f.Name != "" {
		err = p.of(f.Version, d.Digest != "")
	} else {
		err = p.restart() // what cannot be told from another version is not gone on with
	}
	if err != nil {
		return err
	}
	total := f.Size
	if n >= 0 {
		total = n
	}
	d.show.begin(p.size, total)
	if total >= 0 && p.size >= total {
		return d.match(p)
	}
	if err := d.stream(ctx, c, f, p, off+p.size, total-p.size); err != nil {
		return err
	}
	return d.match(p)
}

// stream copies n bytes from off on; those up to the end where n is negative.
func (d *download) stream(ctx context.Context, c *origin.Client, f *file.File, p *part, off, n int64) error {
	body, err := f.Open(ctx, c, off, max(n, -1))
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()   // it was only read
	if skip := off - body.Off; skip > 0 { // the server ignores ranges
		if _, err := io.CopyN(io.Discard, body, skip); err != nil {
			return err
		}
	}
	begin := p.size
	if n < 0 {
		n = math.MaxInt64
	}
	buf := make([]byte, 256<<10)
	for left := n; left > 0; {
		m, err := body.Read(buf[:min(int64(len(buf)), left)])
		left -= int64(m)
		if m > 0 {
			if err := d.put(ctx, p, buf[:m]); err != nil {
				return err
			}
			d.result.From = agent.From{Origin: p.size - begin}
			d.show.from(d.result.From)
		}
		switch {
		case errors.Is(err, io.EOF) && n < math.MaxInt64 && left > 0:
			return &origin.UnavailableError{Err: fmt.Errorf("%d bytes before the end: %w", left, io.ErrUnexpectedEOF)}
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}

// match compares what came with the digest, if there is one.
func (d *download) match(p *part) error {
	if d.span != "" { // a digest is of the whole
		return nil
	}
	sums, err := p.digests()
	if err != nil {
		return err
	}
	d.result.Digest = sums.sha256()
	if p.want == "" {
		return nil
	}
	if got := sums[p.want.Algorithm()].Digest(); got != p.want {
		return fmt.Errorf("%w: it is %s, not %s", origin.ErrDigest, got, p.want)
	}
	return nil
}

// parseRange returns the bytes that a range means; n < 0: up to the end.
func parseRange(s string, size int64) (off, n int64, err error) {
	if s == "" {
		return 0, -1, nil
	}
	bad := fmt.Errorf(`--range %q must be "FIRST-LAST", "FIRST-" or "-COUNT", of bytes that count from 0`, s)
	first, last, ok := strings.Cut(s, "-")
	a, err1 := strconv.ParseInt(first, 10, 64)
	b, err2 := strconv.ParseInt(last, 10, 64)
	switch {
	case !ok, first == "" && (err2 != nil || b <= 0), first != "" && (err1 != nil || a < 0), last != "" && (err2 != nil || b < 0), first != "" && last != "" && b < a:
		return 0, 0, bad
	case first == "" && size < 0:
		return 0, 0, errors.New("the server does not say how large the file is, so that its last bytes cannot be asked for")
	case first == "":
		off, n = max(size-b, 0), min(b, size)
	case last == "":
		off, n = a, -1
		if size >= 0 {
			n = size - a
		}
	default:
		off, n = a, b-a+1
		if size >= 0 {
			n = min(n, size-a)
		}
	}
	if size >= 0 && off >= size && size > 0 {
		return 0, 0, fmt.Errorf("the file has %d bytes: there is none at %d", size, off)
	}
	return off, n, nil
}
