package index

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// Index is a mapped index. Its methods may be called by many goroutines at
// once, before Close; strings and slices they return lie in the map and are
// gone with it.
type Index struct {
	header
	file    *os.File
	mapped  []byte // all tables; the windows are not in it
	inodes  []byte
	entries []byte
	strings []byte
	xattrs  []byte
	chunks  []byte
	spans   []byte
	sums    []byte // of raw windows
	locs    []byte
	lacking func(windowLoc) ([]byte, error) // a window's frame that is not in file; nil: all are
	proofs  *proofs                         // of kind Soci: what is known of its spans
}

// Open maps the index at path. It reads all of it once, windows excepted, and
// checks digests, bounds and order, so that no use of the index can fail later
// because of what is in it. It returns ErrCorrupt or ErrVersion.
func Open(path string) (*Index, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	x := &Index{file: f}
	if err := x.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open index %s: %w", path, err), x.Close())
	}
	return x, nil
}

// Close unmaps the index. Nothing may use it, or what it returned, any more.
func (x *Index) Close() error {
	var err error
	if x.mapped != nil {
		err = unix.Munmap(x.mapped)
	}
	return errors.Join(err, x.file.Close())
}

func (x *Index) load() error {
	head := make([]byte, headerSize)
	if n, err := x.file.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	} else if err := x.decode(head[:n]); err != nil {
		return err
	}
	st, err := x.file.Stat()
	if err != nil {
		return err
	}
	if st.Size() > 1<<46 {
		return fmt.Errorf("file of %d bytes: %w", st.Size(), ErrCorrupt)
	}
	if x.mapped, err = unix.Mmap(int(x.file.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map: %w", err)
	}
	for s, to := range []*[]byte{&x.inodes, &x.entries, &x.strings, &x.xattrs, &x.chunks, &x.spans, &x.sums} {
		if *to, err = x.section(x.tables[s], recordSize[s]); err != nil {
			return fmt.Errorf("section %d: %w", s, err)
		}
	}
	if x.locs, err = x.section(x.windows, windowSize); err != nil {
		return fmt.Errorf("windows: %w", err)
	}
	if err := x.check(); err != nil {
		return err
	}
	if !x.info.Hashes() {
		x.proofs = newProofs(x.info.Spans)
	}
	return unix.Madvise(x.mapped, unix.MADV_DONTNEED) // what was only checked need not be resident
}

// section returns the bytes of a table, if they are those the header names.
func (x *Index) section(t table, record int) ([]byte, error) {
	size := int64(len(x.mapped))
	if t.size == 0 {
		t.off = headerSize // nothing there to point at
	}
	if t.off < headerSize || t.size < 0 || t.off > size || t.size > size-t.off || t.off%8 != 0 || t.size%int64(record) != 0 || t.size/int64(record) > math.MaxUint32 {
		return nil, fmt.Errorf("%d bytes at %d: %w", t.size, t.off, ErrCorrupt)
	}
	b := x.mapped[t.off : t.off+t.size : t.off+t.size]
	if sha256.Sum256(b) != t.digest {
		return nil, fmt.Errorf("digest: %w", ErrCorrupt)
	}
	return b, nil
}

// Info describes the index.
func (x *Index) Info() Info { return x.info }
