package fs

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	bitmapMagic  = "dfsnbits"
	bitmapHeader = 4096 // magic, clean flag, boot ID; the bits start on the next page
)

// bitmap says which chunks of a layer are on disk. The file is mapped, so that
// a bit outlives the process as soon as it is set. A bit may reach the disk
// before its chunk does; therefore bits that an unclean boot left behind are
// only suspects, to be hashed before use.
type bitmap struct {
	mu       sync.RWMutex // guards bits, suspects and count
	file     []byte       // the mapping; nil once closed
	bits     []byte
	suspects []byte // nil when there are none
	n        int
	count    int
}

// openBitmap maps the bitmap of n chunks at path, making it if it is missing
// or of another shape. boot names this boot of the machine.
func openBitmap(path string, n int, boot string) (*bitmap, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	size := int64(bitmapHeader + (n+7)/8)
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Size() != size {
		if err := f.Truncate(0); err != nil {
			return nil, err
		}
		if err := allocate(f, size); err != nil {
			return nil, err
		}
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	b := &bitmap{file: m, bits: m[bitmapHeader:], n: n}
	if err := b.load(boot); err != nil {
		return nil, errors.Join(err, unix.Munmap(m))
	}
	return b, nil
}

// allocate gives f real blocks: writing to a mapped hole of a full disk would
// be a fault, not an error.
func allocate(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) {
		_, err = f.WriteAt(make([]byte, size), 0)
	}
	if err != nil {
		return &os.PathError{Op: "allocate", Path: f.Name(), Err: err}
	}
	return nil
}

func (b *bitmap) load(boot string) error {
	h := b.file[:bitmapHeader]
	known, stopped := bytes.Equal(h[:8], []byte(bitmapMagic)), h[8] == 1
	clean := stopped || string(bytes.TrimRight(h[16:80], "\x00")) == boot
	if !known {
		clear(b.bits)
	} else if !clean {
		b.suspects = bytes.Clone(b.bits)
		clear(b.bits)
	}
	copy(h, bitmapMagic)
	h[8] = 0
	clear(h[16:80])
	copy(h[16:80], boot)
	for _, x := range b.bits {
		b.count += bits.OnesCount8(x)
	}
	if !stopped {
		return nil
	}
	// From here on bits may reach the disk before their chunks, so the flag
	// that says otherwise must be gone first.
	return unix.Msync(h, unix.MS_SYNC)
}

// close unmaps the bitmap. clean says that every chunk it lists was synced to
// disk before.
func (b *bitmap) close(clean bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == nil {
		return nil
	}
	if clean && b.suspects == nil {
		b.file[8] = 1
	}
	err := unix.Munmap(b.file)
	b.file, b.bits = nil, nil
	return err
}

func (b *bitmap) has(i int) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.bits != nil && b.bits[i>>3]&(1<<(i&7)) != 0
}

// hasAll reports whether chunks first to last are all there.
func (b *bitmap) hasAll(first, last int) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.bits == nil {
		return false
	}
	if b.count == b.n {
		return true
	}
	for i := first; i <= last; i++ {
		if b.bits[i>>3]&(1<<(i&7)) == 0 {
			return false
		}
	}
	return true
}

func (b *bitmap) set(i int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bits == nil {
		return
	}
	if m := byte(1) << (i & 7); b.bits[i>>3]&m == 0 {
		b.bits[i>>3] |= m
		b.count++
	}
	if b.suspects != nil {
		b.suspects[i>>3] &^= 1 << (i & 7)
	}
}

// setAll marks every chunk as there.
func (b *bitmap) setAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.n {
		b.bits[i>>3] |= 1 << (i & 7)
	}
	b.count, b.suspects = b.n, nil
}

// suspect reports whether chunk i was there before an unclean boot, and
// forgets that: the caller hashes it and sets it again if it is right.
func (b *bitmap) suspect(i int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.suspects == nil || b.suspects[i>>3]&(1<<(i&7)) == 0 {
		return false
	}
	b.suspects[i>>3] &^= 1 << (i & 7)
	return true
}

// next returns the first chunk at or after i that is missing, or n.
func (b *bitmap) next(i int) int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.bits == nil || b.count == b.n {
		return b.n
	}
	for ; i < b.n; i++ {
		if b.bits[i>>3] == 0xff {
			i |= 7
			continue
		}
		if b.bits[i>>3]&(1<<(i&7)) == 0 {
			return i
		}
	}
	return b.n
}

func (b *bitmap) filled() (count, n int) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.count, b.n
}

func (b *bitmap) full() bool {
	count, n := b.filled()
	return count == n
}
