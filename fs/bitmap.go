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
	bitmapMagic  = "dfsnbit2"
	bitmapHeader = 4096 // magic, clean flag, boot ID; the bits start on the next page
)

// bitmap says which chunks of a layer are on disk. The file is mapped, so that
// a bit outlives the process as soon as it is set, as the chunk does: what was
// written before the bit is in the page cache, which ends with the boot.
//
// Only a power loss parts the two: pages reach the disk in any order, a bit
// perhaps before its chunk. So bits count only in the boot that set them, or if
// the clean flag says that everything was synced after the last was set. The
// others become suspects, in an area of their own: chunks to be hashed before
// they are used. A suspect becomes a bit only when its hash was right or it was
// written anew, however many boots later. Any mixture of old and new pages of
// the file is safe: without the flag, which is off the disk before another bit
// is set, the next boot makes suspects of all bits it finds; and a suspect that
// is lost is a chunk to fetch.
type bitmap struct {
	mu       sync.RWMutex // guards bits, suspects and count
	file     []byte       // the mapping; nil once closed
	bits     []byte
	suspects []byte
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
	area := (n + 7) / 8
	size := int64(bitmapHeader + 2*area)
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
	b := &bitmap{file: m, bits: m[bitmapHeader:][:area], suspects: m[bitmapHeader+area:], n: n}
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
		clear(b.suspects)
	} else if !clean { // in this order: it may be cut off, and is done again then
		for i, x := range b.bits {
			b.suspects[i] |= x
		}
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

// close unmaps the bitmap. clean says that it and every chunk it lists were
// synced to disk before.
func (b *bitmap) close(clean bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == nil {
		return nil
	}
	if clean {
		b.file[8] = 1
	}
	err := unix.Munmap(b.file)
	b.file, b.bits, b.suspects = nil, nil, nil
	return err
}

func (b *bitmap) has(i int) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.bits != nil && b.bits[i>>3]&(1<<(i&7)) != 0
}

// hasAll reports whether chunks first to last are all there.
func (b *bitmap) hasAll(first, last int) bool { return b.all(first, last, 0) }

// mayAll reports whether chunks first to last are all there or suspects.
func (b *bitmap) mayAll(first, last int) bool { return b.all(first, last, 0xff) }

// all looks at the bits, and at the suspects as far as mask lets it.
func (b *bitmap) all(first, last int, mask byte) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.bits == nil {
		return false
	}
	if b.count == b.n {
		return true
	}
	for i := first; i <= last; i++ {
		if (b.bits[i>>3]|b.suspects[i>>3]&mask)&(1<<(i&7)) == 0 {
			return false
		}
	}
	return true
}

// set marks chunk i, which was written or hashed, as there.
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
	b.acquit(i)
}

// setAll marks every chunk as there.
func (b *bitmap) setAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.n {
		b.bits[i>>3] |= 1 << (i & 7)
	}
	b.count = b.n
	clear(b.suspects)
}

// doubt makes suspects of the first n chunks, none of which is there for sure.
func (b *bitmap) doubt(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range n {
		b.suspects[i>>3] |= 1 << (i & 7)
	}
}

// suspect reports whether chunk i was there before an unclean boot, or was
// written before its digest was known. The caller hashes it, and then sets or
// drops it.
func (b *bitmap) suspect(i int) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.suspects != nil && b.suspects[i>>3]&(1<<(i&7)) != 0
}

// drop forgets the suspicion that chunk i is there.
func (b *bitmap) drop(i int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.suspects != nil {
		b.acquit(i)
	}
}

// acquit writes only where there is something to clear: pages of a layer
// without suspects are never touched. The caller holds mu.
func (b *bitmap) acquit(i int) {
	if m := byte(1) << (i & 7); b.suspects[i>>3]&m != 0 {
		b.suspects[i>>3] &^= m
	}
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
