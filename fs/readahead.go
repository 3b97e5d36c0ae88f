package fs

import (
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
)

const (
	maxStreams  = 16        // sequential readers remembered per layer
	minStream   = 512 << 10 // bytes of a file read in sequence before anything is read ahead
	maxWindow   = 32 << 20  // bytes of a file read ahead at most
	maxStep     = 4 << 20   // bytes that a large window lacks when more is asked for
	streamSlack = 128 << 10 // the kernel's own read-aheads come out of order

	// kernelAhead is how much the kernel reads around a page that a program touches
	// in a mapped file, and ahead of one who reads with small buffers. Its default
	// of 128 KiB makes of the pages that a start needs half as many again
	// (docs/design/profiles.md); reads ahead that pay are this process's.
	kernelAhead = 16 << 10
)

// stream is one sequential reader of a file.
type stream struct {
	ino   uint32
	start int64 // where it began
	next  int64 // where its next read is expected
	ahead int64 // up to where has been asked for
}

// streams are the sequential readers of a layer, the most recent first.
type streams []stream

// note records a read and returns the range to read ahead, empty for a reader
// that is not sequential. Half as much is read ahead as has been read, so that
// a reader who stops has cost little, and one who goes on soon fills the link.
func (s *streams) note(ino uint32, off, n, size int64) (from, to int64) {
	i := s.find(ino, off)
	if i < 0 {
		if len(*s) < maxStreams {
			*s = append(*s, stream{})
		}
		i = len(*s) - 1
		(*s)[i] = stream{ino: ino, start: off, next: off, ahead: off}
	}
	t := &(*s)[i]
	t.next = max(t.next, off+n)
	t.ahead = max(t.ahead, t.next)
	window := min((t.next-t.start)/2, maxWindow)
	lacks := window - (t.ahead - t.next)
	if t.next-t.start >= minStream && lacks >= min(window/2, maxStep) && t.ahead < size {
		from, to = t.ahead, min(t.next+window, size)
		t.ahead = to
	}
	s.front(i)
	return from, to
}

func (s *streams) find(ino uint32, off int64) int {
	for i, t := range *s {
		if t.ino == ino && off >= t.next-streamSlack && off <= t.next+streamSlack {
			return i
		}
	}
	return -1
}

func (s *streams) front(i int) {
	t := (*s)[i]
	copy((*s)[1:i+1], (*s)[:i])
	(*s)[0] = t
}

// readAhead notes a read of [off, off+n) and fetches what a sequential reader
// will want next. What a boot pack has tells nothing: had its reader gone on,
// more would be in it.
func (l *Layer) readAhead(node index.Inode, off, n int64) {
	if l.complete.Load() || l.filled.full() || node.Size <= n || l.packed(node.Ino, off) {
		return
	}
	l.mu.Lock()
	from, to := l.streams.note(node.Ino, off, n, node.Size)
	l.mu.Unlock()
	if from >= to || l.ready(node.Ino, from, to-from) {
		return
	}
	l.fs.start(func() {
		if l.hold() {
			defer l.release()
			_ = l.ensure(l.ctx, node.Ino, from, to-from, fetcher.Prefetch)
		}
	})
}

const (
	regionSize = 1 << 20   // of the blob, in bytes
	smallRun   = 256 << 10 // longer runs are not extended: a round trip costs less than more of them
	minGrow    = 32 << 10
	maxGrow    = 512 << 10
)

// neighbours counts the bytes of each region of a blob that readers had to wait
// for. Programs read many small files that lie close together, in an order of
// their own, and each is a round trip. So each wait brings with it as much of
// what lies behind as its region has been waited for before: where one file is
// read little is added, where many are the region soon is there.
type neighbours map[int64]int64

// grow returns how many bytes to fetch behind run.
func (n neighbours) grow(run index.Extent) int64 {
	if run.Len > smallRun {
		return 0
	}
	region := run.Off / regionSize
	asked := n[region]
	n[region] += run.Len + minGrow
	return min(max(asked, minGrow), maxGrow)
}

const (
	walkStep  = 32        // inodes between two files read by one who reads all
	walkStart = 4         // files read in sequence before any is read ahead
	walkAhead = 32        // inodes looked at ahead
	walkBytes = 128 << 10 // of each file
)

// walker notices one who reads file after file in the layer's order, as tar does.
type walker struct {
	last, ahead uint32
	run         int
}

// note records that the beginning of a file is read, and returns the inodes to
// bring into memory: [from, to), empty most of the time.
func (w *walker) note(ino uint32) (from, to uint32) {
	step := int64(ino) - int64(w.last)
	w.last = ino
	if step < 0 || step > walkStep {
		w.run, w.ahead = 0, 0
		return 0, 0
	}
	w.run++
	from, to = max(w.ahead, ino+1), ino+walkAhead
	if w.run < walkStart || to-from < walkAhead/2 {
		return 0, 0
	}
	w.ahead = to
	return from, to
}

// walkOn notes that file ino is read from its beginning, and brings into memory
// what one who reads all will want next: then the disk works while the kernel
// and this process exchange messages, not in between.
func (l *Layer) walkOn(ino uint32) {
	l.mu.Lock()
	from, to := l.walker.note(ino)
	l.mu.Unlock()
	if from >= to {
		return
	}
	l.fs.start(func() { l.warm(from, to) })
}

// warm makes the system read the beginnings of the files [from, to) that are on
// disk. They stay open for the reads to come.
func (l *Layer) warm(from, to uint32) {
	if !l.hold() {
		return
	}
	defer l.release()
	for i := from; i < to; i++ {
		in, ok := l.index.Inode(i)
		if !ok {
			return
		}
		if !isRegular(in.Mode) || in.Size == 0 || in.Dead || !l.ready(i, 0, in.Size) {
			continue
		}
		file, err := l.fs.files.get(l, i, false)
		if err != nil {
			continue // its reader will hear of it
		}
		_ = unix.Fadvise(int(file.Fd()), 0, min(in.Size, walkBytes), unix.FADV_WILLNEED)
		file.put()
	}
}
