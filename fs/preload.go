package fs

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/profiles"
)

const (
	maxPreload  = 64 << 20 // bytes of a blob that a profile can have fetched
	preloadStep = 4 << 20  // … within which the blob's order counts, and not that of the profile
	preloadGap  = 32 << 10 // bytes that are fetched rather than to make two requests
	preloaders  = 4        // requests under way for one layer
)

// A hint is what is known of how containers start from a layer.
type hint struct {
	profile profiles.Profile
	from    string // who has seen it; "" if nobody
}

// ask asks what containers of an image read first of a layer, while that is being
// resolved.
func (f *FS) ask(ctx context.Context, w Want) <-chan hint {
	answer := make(chan hint, 1)
	if w.Image == "" || w.Desc.Size < minLazy {
		answer <- hint{}
		return answer
	}
	asks := f.start(func() {
		p, from, ok := f.profiles.Find(ctx, w.Desc.Digest, w.Image)
		if !ok {
			from = ""
		}
		answer <- hint{p, from}
	})
	if !asks {
		answer <- hint{}
	}
	return answer
}

// preload fetches what containers of an image will read first, in the background:
// what a profile says or, without one, what an eStargz blob itself does.
func (l *Layer) preload(image digest.Digest, h hint) {
	if !l.hold() {
		return
	}
	defer l.release()
	if l.complete.Load() || l.filled.full() {
		return
	}
	runs := h.profile.Runs
	if h.from == "" || h.profile.Index != l.index.Info().ID {
		h.from, runs = "image", l.landmark()
	} else if h.profile.Image == image {
		l.knows.Store(&image)
	}
	if len(runs) == 0 && h.from == "image" {
		h.from = "none"
	}
	l.fs.metrics.profiles.WithLabelValues(h.from).Inc()
	if len(runs) == 0 {
		return
	}
	b := newBoot(runs)
	if h.from != "cluster" || h.profile.Pack == (profiles.Blob{}) || !l.boot.CompareAndSwap(nil, b) {
		l.fs.fetchAhead(func() { l.bring(runs) })
		return
	}
	began := l.fs.fetchAhead(func() {
		l.unpackBoot(b, h.profile.Pack)
		l.bring(runs) // what was not in it
	})
	if !began {
		b.step(func() { b.over = true })
	}
}

// landmark is the profile that an eStargz blob carries: its chunks before the
// landmark are wanted first.
func (l *Layer) landmark() []profiles.Run {
	n := l.index.Info().Prefetch
	var count uint32
	for c := 0; n > 0 && c < l.filled.n; c++ {
		if e := l.extent(c); e.Off+e.Len > n {
			break
		}
		count++
	}
	if count == 0 {
		return nil
	}
	return []profiles.Run{{First: 0, Count: count}}
}

// bring fetches the chunks of runs, in that order but for what lies close
// together, in as few requests as that takes.
func (l *Layer) bring(runs []profiles.Run) {
	if !l.hold() {
		return
	}
	defer l.release()
	todo := make(chan index.Extent)
	var wg sync.WaitGroup
	for range preloaders {
		wg.Go(func() {
			for e := range todo {
				_ = l.ensureChunks(l.ctx, e.First, e.Last, fetcher.Prefetch) // a reader reports what matters
			}
		})
	}
	for _, e := range l.requests(runs) {
		todo <- e
	}
	close(todo)
	wg.Wait()
}

// requests returns the extents to ask for so that the chunks of runs are there
// that are missing. Chunks that the layer does not have are left out, for runs may
// be anything.
func (l *Layer) requests(runs []profiles.Run) []index.Extent {
	return l.extents(runs, l.filled.has)
}

// extents returns what has to be fetched for the chunks of runs that are not there.
func (l *Layer) extents(runs []profiles.Run, there func(chunk int) bool) []index.Extent {
	var all, step []index.Extent
	var total, size int64
	seen := map[int]bool{} // extents, by their first chunk
	for _, run := range runs {
		for c := int(run.First); c < min(int(run.First+run.Count), l.filled.n); c++ {
			if there(c) {
				continue
			}
			e := l.extent(c)
			if c = e.Last; seen[e.First] {
				continue
			}
			seen[e.First] = true
			if total += e.Len; total > maxPreload {
				return append(all, joined(step)...)
			}
			step = append(step, e)
			if size += e.Len; size >= preloadStep {
				all, step, size = append(all, joined(step)...), nil, 0
			}
		}
	}
	return append(all, joined(step)...)
}

// joined puts extents into the blob's order, neighbours together.
func joined(list []index.Extent) (out []index.Extent) {
	slices.SortFunc(list, func(a, b index.Extent) int { return cmp.Compare(a.Off, b.Off) })
	for _, e := range list {
		if n := len(out) - 1; n >= 0 && e.Off-(out[n].Off+out[n].Len) <= preloadGap && out[n].Len+e.Len <= maxRun {
			out[n] = out[n].Join(e)
		} else {
			out = append(out, e)
		}
	}
	return out
}
