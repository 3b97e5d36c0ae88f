package fs

import (
	"cmp"
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
)

// hurried bounds the runs of a layer that are fetched at a time for one who wants
// all of it.
const hurried = 8

// Fill returns when all content of the layer is on disk: it is fetched at once,
// not when nothing else is going on. The work goes on when ctx ends.
func (l *Layer) Fill(ctx context.Context) error {
	return l.fs.await(ctx, l.ensureAll)
}

// Complete returns when the layer, which has its place, is an ordinary directory.
// It is filled at once, as by Fill.
func (l *Layer) Complete(ctx context.Context) error {
	return l.fs.await(ctx, l.hurry)
}

// await runs fn, which goes on when ctx ends.
func (f *FS) await(ctx context.Context, fn func() error) error {
	done := make(chan error, 1)
	if !f.start(func() { done <- fn() }) {
		return errClosed
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for a layer: %w", context.Cause(ctx))
	}
}

// awaitComplete completes layers, as Complete does.
func (f *FS) awaitComplete(ctx context.Context, layers []*Layer) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range layers {
		g.Go(func() error { return l.Complete(ctx) })
	}
	return g.Wait()
}

// hurry fills and completes the layer.
func (l *Layer) hurry() error {
	if l.complete.Load() {
		return nil
	}
	if err := l.ensureAll(); err != nil {
		return err
	}
	return l.finalize(l.ctx) // holds the layer itself: holding it twice at once hangs with a removal in between
}

// ensureAll fetches all that is missing, some runs at a time, in the blob's order.
func (l *Layer) ensureAll() error {
	if !l.hold() {
		return errRemoved
	}
	defer l.release()
	g, ctx := errgroup.WithContext(l.ctx)
	g.SetLimit(hurried)
	last := l.filled.n - 1
	for c := l.missing(0, last); c <= last && ctx.Err() == nil; {
		run := l.extent(c)
		for run.Last < last && run.Len < maxRun {
			run = run.Join(l.extent(run.Last + 1))
		}
		g.Go(func() error { return l.ensureChunks(ctx, run.First, run.Last, fetcher.Prefetch) })
		c = l.missing(run.Last+1, last)
	}
	return cmp.Or(g.Wait(), context.Cause(l.ctx))
}
