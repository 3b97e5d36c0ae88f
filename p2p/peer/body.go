package peer

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// Body is bytes of a blob as one source sends them.
type Body struct {
	Off, N int64 // what the source promised; N may be less than was asked for

	peer  p2p.HostID // "": the origin
	r     io.ReadCloser
	left  int64
	guard *guard
	ctx   context.Context
	stop  context.CancelCauseFunc
	count prometheus.Counter // nil: not counted here
}

// Read reads what comes next. The error is io.EOF after N bytes.
func (b *Body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	b.guard.start()
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.guard.stop()
	b.left -= int64(n)
	if b.count != nil {
		b.count.Add(float64(n))
	}
	switch {
	case err == nil, errors.Is(err, io.EOF) && b.left == 0:
		return n, nil
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return n, failed(b.ctx, b.peer, err)
}

// Close ends the request. The connection is kept if all was read.
func (b *Body) Close() error {
	if b.left == 0 {
		_, _ = io.CopyN(io.Discard, b.r, 1) // lets http see the end
	}
	err := b.r.Close()
	b.stop(ErrClosed)
	return err
}

// guard ends a request whose peer is silent.
type guard struct {
	after time.Duration
	timer *time.Timer
}

// newGuard makes a guard that runs.
func newGuard(after time.Duration, stop context.CancelCauseFunc) *guard {
	return &guard{after, time.AfterFunc(after, func() { stop(ErrStalled) })}
}

func (g *guard) start() { g.timer.Reset(g.after) }
func (g *guard) stop()  { g.timer.Stop() }
