package store

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// slack is how much more than its map lists a data file may take before the
// rest is given back: ranges that no map had listed when the last run ended.
const slack = 1 << 20

// scan takes in what an earlier run left, oldest use first.
func (s *Store) scan() error {
	algorithms, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	used := map[*Blob]time.Time{}
	for _, a := range algorithms {
		if a.Name() == trashName {
			continue
		}
		names := []os.DirEntry{}
		if a.IsDir() && known(a.Name()) {
			if names, err = os.ReadDir(filepath.Join(s.dir, a.Name())); err != nil {
				return err
			}
		} else if err := s.refuse(filepath.Join(s.dir, a.Name()), errForeign); err != nil {
			return err
		}
		for _, n := range names {
			d := digest.NewDigestFromEncoded(digest.Algorithm(a.Name()), n.Name())
			b, at, err := s.load(d)
			if err != nil {
				if err := s.refuse(filepath.Join(s.dir, a.Name(), n.Name()), err); err != nil {
					return err
				}
				continue
			}
			used[b] = at
		}
	}
	for b := range used {
		s.blobs[b.digest] = b
		s.used.Add(b.bytes)
	}
	order := make([]*Blob, 0, len(used))
	for b := range used {
		order = append(order, b)
	}
	slices.SortFunc(order, func(a, b *Blob) int {
		return cmp.Or(used[a].Compare(used[b]), cmp.Compare(a.digest, b.digest))
	})
	for _, b := range order {
		b.elem = s.idle.PushBack(b)
	}
	return nil
}

// known reports whether blobs may have digests of an algorithm.
func known(algorithm string) bool {
	return digest.Algorithm(algorithm).Available() || p2p.IsName(digest.Digest(algorithm+":"+strings.Repeat("0", 64)))
}

var errForeign = fmt.Errorf("not a file of the store")

// refuse drops what cannot be used, for the reason why.
func (s *Store) refuse(path string, why error) error {
	s.log.Warn("dropped from the store", "path", path, "err", why)
	return s.discardPath(path)
}

// load reads the folder of blob d and returns it with the time of its last use.
func (s *Store) load(d digest.Digest) (*Blob, time.Time, error) {
	if err := p2p.ValidateDigest(d); err != nil {
		return nil, time.Time{}, errForeign
	}
	b := &Blob{s: s, digest: d, dir: s.blobDir(d)}
	m, err := readMap(b.dir, s.boot)
	if err != nil {
		return nil, time.Time{}, err
	}
	f, err := os.OpenFile(filepath.Join(b.dir, dataName), os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, time.Time{}, err
	}
	if m.boot == (boot{}) { // one of another boot: it must not come to life again
		if err := removeFile(b.dir, bootMapName); err != nil {
			return nil, time.Time{}, err
		}
	}
	if n := len(m.have); n > 0 && m.have[n-1].End() > fi.Size() {
		return nil, time.Time{}, fmt.Errorf("%w: lists bytes beyond the data", errBadMap)
	}
	if _, err := os.Lstat(filepath.Join(b.dir, pinName)); err == nil {
		b.pinned = true
	}
	b.size, b.have, b.bytes, b.verified = m.size, m.have, m.have.bytes(), m.verified
	if err := b.trim(f, fi); err != nil {
		return nil, time.Time{}, err
	}
	if m.boot != (boot{}) { // not durable yet
		b.touch()
	}
	return b, fi.ModTime(), nil
}

// trim gives back the room of bytes that the map does not list.
func (b *Blob) trim(f *os.File, fi os.FileInfo) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || st.Blocks*512 <= b.bytes+slack {
		return nil
	}
	for _, r := range b.have.missing(0, max(fi.Size(), b.size)) {
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, r.Off, r.Len)
		if err != nil && err != unix.EOPNOTSUPP {
			return fmt.Errorf("punch hole: %w", err)
		}
	}
	return nil
}
