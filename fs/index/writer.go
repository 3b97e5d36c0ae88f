package index

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"github.com/klauspost/compress/zstd"
)

// writer collects a layer's tree, spans and chunks, and writes the index. Spans
// and chunks are added in blob order, or sorted by commit where sort is set.
//
// Windows go to the file at once: one that is to become path by commit, or
// nothing by abort.
type writer struct {
	tree    *tree
	spans   []span
	chunks  []chunk
	windows []windowLoc
	digests []byte // of raw windows
	file    *os.File
	path    string
	end     int64 // of what is in file
	zenc    *zstd.Encoder
	whole   bool   // all spans are kept, with or without chunks
	buf     []byte // of tables
}

// newWriter begins an index that will be at path.
func newWriter(path string, lim Limits) (*writer, error) {
	f, err := createIndex(path)
	if err != nil {
		return nil, err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(maxWindow))
	if err != nil {
		panic(err) // the options are constants
	}
	return &writer{tree: newTree(lim), file: f, path: path, end: headerSize, zenc: enc}, nil
}

// expect makes room for about n files, if they are not too many to be believed.
func (w *writer) expect(n int64) {
	const most = 1 << 15
	room := int(min(n, most))
	w.spans, w.chunks = slices.Grow(w.spans, room), slices.Grow(w.chunks, room)
	w.tree.expect(room)
}

// createIndex creates the file that publish will make the one at path.
func createIndex(path string) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return nil, fmt.Errorf("create index: %w", err)
	}
	return f, nil
}

// abort drops what was written, unless commit was done.
func (w *writer) abort() {
	if w.file != nil {
		_ = w.file.Close()
		_ = os.Remove(w.file.Name())
		w.file = nil
	}
}

// addSpan returns the number that chunks of the span name.
func (w *writer) addSpan(s span) uint32 {
	w.spans = append(w.spans, s)
	return uint32(len(w.spans) - 1)
}

// addChunk adds a run of a file's content.
func (w *writer) addChunk(c chunk) error {
	if len(w.chunks) >= w.tree.lim.Chunks {
		return fmt.Errorf("more than %d chunks: %w", w.tree.lim.Chunks, ErrInvalid)
	}
	if c.size == 0 || c.size > maxChunk {
		return fmt.Errorf("chunk of %d bytes: %w", c.size, ErrInvalid)
	}
	w.chunks = append(w.chunks, c)
	return nil
}

// addWindow writes a window and returns its number for span.window.
func (w *writer) addWindow(raw []byte) (uint32, error) {
	frame := w.zenc.EncodeAll(raw, nil)
	if _, err := w.file.WriteAt(frame, w.end); err != nil {
		return 0, fmt.Errorf("write index: %w", err)
	}
	w.windows = append(w.windows, windowLoc{off: w.end, size: uint32(len(frame)), raw: uint32(len(raw))})
	sum := sha256.Sum256(raw)
	w.digests = append(w.digests, sum[:]...)
	w.end += int64(len(frame))
	return uint32(len(w.windows)), nil
}

// commit finishes the tree and puts the index at its path, on disk. Of info it
// takes what says where the layer comes from; it returns the whole of it.
func (w *writer) commit(info Info, spacing int64) (Info, error) {
	if err := w.tree.finish(); err != nil {
		return Info{}, err
	}
	w.dropUnused()
	h := header{info: info, spacing: spacing}
	h.info.Version = Version
	if err := w.writeTables(&h); err != nil {
		return Info{}, err
	}
	if _, err := w.file.WriteAt(h.encode(), 0); err != nil {
		return Info{}, fmt.Errorf("write index: %w", err)
	}
	if err := w.file.Truncate(w.end); err != nil { // the last tables may be empty
		return Info{}, fmt.Errorf("write index: %w", err)
	}
	h.info.Inodes, h.info.Chunks, h.info.Spans = h.count(secInodes), h.count(secChunks), h.count(secSpans)
	return h.info, w.publish()
}

// publish makes the file the one at path, durably.
func (w *writer) publish() error {
	if err := w.file.Sync(); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	if err := os.Rename(w.file.Name(), w.path); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	if err := w.file.Close(); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	w.file = nil
	dir, err := os.Open(filepath.Dir(w.path))
	if err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	return nil
}

// dropUnused leaves out the chunks of replaced files and, unless whole is set, the
// spans that no chunk needs, and numbers the rest anew, in blob order.
func (w *writer) dropUnused() {
	w.chunks = slices.DeleteFunc(w.chunks, func(c chunk) bool {
		return w.tree.nodes[c.ino].flags&flagDead != 0
	})
	rank := make([]uint32, len(w.spans))
	for _, c := range w.chunks {
		rank[c.span] = 1
	}
	order := make([]uint32, 0, len(w.spans))
	for i, used := range rank {
		if used != 0 || w.whole {
			order = append(order, uint32(i))
		}
	}
	sort.SliceStable(order, func(i, j int) bool { return w.spans[order[i]].off < w.spans[order[j]].off })
	spans := make([]span, len(order))
	for i, old := range order {
		rank[old], spans[i] = uint32(i), w.spans[old]
	}
	w.spans = spans
	for i := range w.chunks {
		w.chunks[i].span = rank[w.chunks[i].span]
	}
	inOrder := func(a, b chunk) int {
		if a.span != b.span {
			return int(int64(a.span) - int64(b.span))
		}
		return int(min(max(a.inner-b.inner, -1), 1))
	}
	if !slices.IsSortedFunc(w.chunks, inOrder) {
		slices.SortStableFunc(w.chunks, inOrder)
	}
	for i := range w.chunks {
		s := &w.spans[w.chunks[i].span]
		s.chunks++
		s.outSize = max(s.outSize, w.chunks[i].inner+int64(w.chunks[i].size))
	}
	next := uint32(0)
	for i := range w.spans {
		w.spans[i].first = next
		next += w.spans[i].chunks
	}
	w.dropWindows()
}

// dropWindows renumbers the windows that are still needed. The frames of the
// others stay in the file as a gap.
func (w *writer) dropWindows() {
	var windows []windowLoc
	var digests []byte
	for i := range w.spans {
		s := &w.spans[i]
		if s.window == 0 {
			continue
		}
		old := int(s.window - 1)
		windows = append(windows, w.windows[old])
		digests = append(digests, w.digests[old*sha256.Size:][:sha256.Size]...)
		s.window = uint32(len(windows))
	}
	w.windows, w.digests = windows, digests
}
