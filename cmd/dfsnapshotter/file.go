package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/file"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	maxFileRequest = 1 << 20 // bytes
	tellEvery      = 250 * time.Millisecond
)

// fileRequest is one of dfget's, while it is answered.
type fileRequest struct {
	agent.Request
	n    *node
	w    http.ResponseWriter
	told time.Time
	sent int64 // bytes that were read for it
}

// file serves dfget.
func (n *node) file(w http.ResponseWriter, r *http.Request) {
	q := fileRequest{n: n, w: w}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxFileRequest)).Decode(&q.Request); err != nil {
		http.Error(w, "the request is no JSON of a file", http.StatusBadRequest)
		return
	}
	began := time.Now()
	f, d, err := q.serve(r.Context())
	if r.Context().Err() != nil {
		n.log.Debug("dfget is gone", "err", err)
		return
	}
	end := agent.End{Digest: d}
	if err != nil {
		end.Error = refusal(err)
		n.log.Debug("file not given", "err", err)
	} else {
		n.log.Info("file given", "blob", f.Name, "from", f.Repo.String(), "size", f.Size, "took", time.Since(began))
	}
	if err := agent.Write(w, agent.Event{End: &end}); err != nil {
		n.log.Debug("dfget is gone", "err", err)
	}
}

// refusal is how dfget is told of an error.
func refusal(err error) *agent.Error {
	var known *agent.Error
	if errors.As(err, &known) {
		return known
	}
	e := &agent.Error{Code: agent.Unavailable, Text: err.Error()}
	for _, c := range []struct {
		code agent.Code
		err  error
	}{
		{agent.Spec, file.ErrSpec},
		{agent.NotFound, origin.ErrNotFound},
		{agent.Unauthorized, origin.ErrUnauthorized},
		{agent.Digest, fetcher.ErrDigest},
		{agent.Changed, origin.ErrChanged},
		{agent.Changed, fetcher.ErrSize},
	} {
		if errors.Is(err, c.err) {
			e.Code = c.code
			break
		}
	}
	return e
}

// serve sends the file and returns its digest.
func (q *fileRequest) serve(ctx context.Context) (*file.File, digest.Digest, error) {
	f, err := file.Find(ctx, q.n.origin, q.Spec)
	switch {
	case err != nil:
		return nil, "", err
	case f.Name == "":
		return nil, "", &agent.Error{Code: agent.Direct, Text: f.Why}
	case f.Size > p2p.MaxSize:
		return nil, "", &agent.Error{Code: agent.Direct, Text: "it is too large to be shared"}
	}
	defer f.Lend(q.n.origin)()
	b, err := q.n.fetcher.Blob(fetcher.Ref{Digest: f.Name, Size: f.Size, Repo: f.Repo})
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = b.Close() }() // it returns nil
	d, err := q.send(ctx, b)
	return f, d, err
}

// send sends what the caller lacks of a blob, which it reads whole.
func (q *fileRequest) send(ctx context.Context, b *fetcher.Blob) (digest.Digest, error) {
	r, err := b.Range(ctx, 0, b.Size(), fetcher.Prefetch)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }() // it was only read
	before := b.Stats()
	sum := digest.SHA256.Digester()
	hashed, matched := io.Writer(sum.Hash()), func() bool { return sum.Digest() == b.Digest() }
	if b.Digest().Algorithm() != digest.SHA256 {
		match := p2p.Verifier(b.Digest())
		hashed, matched = io.MultiWriter(sum.Hash(), match), match.Verified
	}
	start := agent.Start{Name: b.Digest(), Size: b.Size(), Off: q.Have}
	whole := io.TeeReader(r, hashed)
	if q.Have > 0 && q.Have <= b.Size() {
		if _, err := io.CopyN(io.Discard, whole, q.Have); err != nil {
			return "", err
		}
		q.sent = q.Have
	}
	if q.Have > 0 && (q.Have > b.Size() || sum.Digest() != q.HaveSum) {
		_ = r.Close() // the same
		q.Have, q.HaveSum, q.sent = 0, "", 0
		return q.send(ctx, b)
	}
	if err := agent.Write(q.w, agent.Event{Start: &start}); err != nil {
		return "", err
	}
	if err := q.copy(whole, b, before); err != nil {
		return "", err
	}
	if !matched() {
		return "", errors.Join(fmt.Errorf("%s: %w", b.Digest(), fetcher.ErrDigest), b.Discard(0, b.Size()))
	}
	// What has no digest is whole here when all pieces were judged, which the
	// network says; without one all of it is the origin's.
	if !p2p.IsName(b.Digest()) || !q.n.cfg.clustered() {
		if err := b.MarkVerified(); err != nil {
			q.n.log.Debug("blob not marked as verified", "blob", b.Digest(), "err", err) // the disk has not all of it
		}
	}
	return sum.Digest(), nil
}

// copy sends bytes as they come, and tells where they come from.
func (q *fileRequest) copy(whole io.Reader, b *fetcher.Blob, before fetcher.Stats) error {
	buf := make([]byte, 256<<10)
	flush := http.NewResponseController(q.w)
	for {
		n, err := whole.Read(buf)
		q.sent += int64(n)
		if n > 0 {
			if err := agent.WriteData(q.w, buf[:n]); err != nil {
				return err
			}
		}
		done := errors.Is(err, io.EOF)
		if done || time.Since(q.told) > tellEvery {
			q.told = time.Now()
			if err := errors.Join(agent.Write(q.w, agent.Event{From: q.from(b, before)}), flush.Flush()); err != nil {
				return err
			}
		}
		if done && q.sent < b.Size() {
			err = io.ErrUnexpectedEOF
		} else if done {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// from says where the bytes came from. Others may have read the blob meanwhile,
// so it is an estimate: what was fetched since the beginning, and the rest was
// there.
func (q *fileRequest) from(b *fetcher.Blob, before fetcher.Stats) *agent.From {
	now, left := b.Stats(), q.sent
	part := func(source string) int64 {
		n := min(left, now.Fetched[source]-before.Fetched[source])
		left -= n
		return n
	}
	f := &agent.From{Origin: part("origin"), Peers: part("peer")}
	f.Cache = left
	return f
}
