package fs

import (
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fs/profiles"
)

// startupFor is how long after a container's start its reads are of interest.
const startupFor = time.Minute

// recorder notes which chunks of a layer are read first, in order. It has its size
// from the beginning: a read costs a look at some bits.
type recorder struct {
	mu   sync.Mutex
	runs []profiles.Run // of a capacity that is never exceeded
	seen []uint64       // a bit for each chunk that is in runs
}

func newRecorder(chunks int) *recorder {
	return &recorder{runs: make([]profiles.Run, 0, min(chunks, profiles.MaxRuns)), seen: make([]uint64, (chunks+63)/64)}
}

// note notes a read of the chunks first to last, and reports whether it is the first
// of one of them. What comes after all runs are taken is left out.
func (r *recorder) note(first, last int) (news bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := uint32(first); c <= uint32(last); c++ {
		word, bit := &r.seen[c/64], uint64(1)<<(c%64)
		if *word&bit != 0 {
			continue
		}
		if n := len(r.runs); n > 0 && r.runs[n-1].First+r.runs[n-1].Count == c {
			r.runs[n-1].Count++
		} else if n < cap(r.runs) {
			r.runs = append(r.runs, profiles.Run{First: c, Count: 1})
		} else {
			return news
		}
		*word |= bit
		news = true
	}
	return news
}

// taken returns the runs, of as many chunks as a profile holds.
func (r *recorder) taken() []profiles.Run {
	r.mu.Lock()
	defer r.mu.Unlock()
	room := uint32(profiles.MaxChunks)
	for i, run := range r.runs {
		if run.Count > room {
			runs := slices.Clone(r.runs[:i+1])
			runs[i].Count = room
			return slices.DeleteFunc(runs, func(run profiles.Run) bool { return run.Count == 0 })
		}
		room -= run.Count
	}
	return slices.Clone(r.runs)
}

// Record is told that a container of an image is started from its layers. What it
// reads of them in the first minute is noted, and learned then.
//
// Of each layer that is done once, for the first container that has it: the kernel
// keeps what it was given, and does not ask for it again for the next one. Nothing
// is seen of layers that are directories, be it only when Record is told again,
// since the container is mounted now.
func (f *FS) Record(layers []*Layer, image digest.Digest) {
	var watched []*Layer
	for _, l := range layers {
		if l.record() {
			watched = append(watched, l)
		}
	}
	if len(watched) == 0 {
		return
	}
	f.touch()
	f.start(func() {
		select {
		case <-time.After(f.startup):
			f.learn(watched, image)
		case <-f.ctx.Done(): // not a whole start
		}
	})
}

// record begins to note what is read of the layer, if it is worth that.
func (l *Layer) record() bool {
	if !l.hold() {
		return false
	}
	defer l.release()
	if l.complete.Load() {
		l.recorder.Store(nil) // the container reads the directory
		return false
	}
	if l.rec.Size < minLazy || !l.untouched.CompareAndSwap(true, false) {
		return false
	}
	l.recorder.Store(newRecorder(l.filled.n))
	return true
}

// learn ends the noting and tells what was read; nothing if nothing was, since
// then no container has run.
func (f *FS) learn(layers []*Layer, image digest.Digest) {
	runs := map[*Layer][]profiles.Run{}
	any := false
	for _, l := range layers {
		r := l.recorder.Swap(nil)
		if r == nil {
			continue // it became a directory before the container was mounted
		}
		runs[l] = r.taken()
		any = any || len(runs[l]) > 0
	}
	if !any {
		return
	}
	for l, read := range runs {
		l.learn(image, read)
	}
}

// learn tells what a container has read of the layer.
func (l *Layer) learn(image digest.Digest, runs []profiles.Run) {
	if !l.hold() {
		return
	}
	defer l.release()
	p := profiles.Profile{Layer: l.rec.Blob, Image: image, Index: l.index.Info().ID, Runs: runs}
	if pack := l.packBoot(runs); pack != nil {
		if err := l.fs.profiles.Pack(&p, pack); err != nil {
			l.log().Warn("no boot pack", "err", err)
		}
	}
	if p.Pack != (profiles.Blob{}) {
		l.fs.metrics.boots.WithLabelValues("made").Inc()
	}
	l.fs.profiles.Learn(p)
	l.fs.metrics.recorded.Inc()
	l.log().Debug("a start was recorded", "image", image, "runs", len(runs), "pack", p.Pack.Size)
}

// shortWait is how long a read of a start may wait without anybody noticing.
const shortWait = 20 * time.Millisecond

// noteRead notes a read for a start that is being recorded, and how long it waited
// for its chunks. Also while all that it reads is here the start goes on, and what
// fills layers would take processors and lines from it.
func (l *Layer) noteRead(ino uint32, off, n int64, waited time.Duration) {
	r := l.recorder.Load()
	if r == nil {
		return
	}
	first, last, ok := l.index.Find(ino, off, n)
	if !ok {
		return
	}
	if r.note(first, last) {
		l.fs.touch()
	}
	switch {
	case waited == 0:
		l.fs.metrics.startReads.none.Inc()
	case waited < shortWait:
		l.fs.metrics.startReads.short.Inc()
	default:
		l.fs.metrics.startReads.long.Inc()
	}
}
