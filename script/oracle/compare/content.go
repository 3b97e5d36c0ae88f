package compare

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
)

type buffers struct{ a, b []byte }

func newBuffers() *buffers {
	return &buffers{make([]byte, 512<<10), make([]byte, 512<<10)}
}

// content compares file p byte by byte. Of files that differ it gives the
// SHA-256 and where they part.
func (w *walk) content(p string, buf *buffers) {
	fa, errA := os.Open(filepath.Join(w.a, p))
	if errA == nil {
		defer fa.Close()
	}
	fb, errB := os.Open(filepath.Join(w.b, p))
	if errB == nil {
		defer fb.Close()
	}
	if errA != nil || errB != nil {
		w.differ(p, "open", message(errA), message(errB))
		return
	}
	sums := [2]hash.Hash{sha256.New(), sha256.New()}
	parted := int64(-1)
	off := int64(0)
	for {
		n, errA := io.ReadFull(fa, buf.a)
		m, errB := io.ReadFull(fb, buf.b)
		if !ended(errA) || !ended(errB) {
			w.differ(p, fmt.Sprintf("read at %d", off), message(errA), message(errB))
			return
		}
		if parted < 0 && !bytes.Equal(buf.a[:n], buf.b[:m]) {
			parted = off + firstDifference(buf.a[:n], buf.b[:m])
			if err := rehash(sums, fa, fb, off); err != nil {
				w.differ(p, fmt.Sprintf("content at %d", parted), "?", err)
				return
			}
		}
		if parted >= 0 {
			sums[0].Write(buf.a[:n])
			sums[1].Write(buf.b[:m])
		}
		off += int64(n)
		if n < len(buf.a) && m < len(buf.b) {
			break
		}
	}
	w.mu.Lock()
	w.stats.Files++
	w.stats.Bytes += off
	w.mu.Unlock()
	if parted >= 0 {
		w.differ(p, fmt.Sprintf("content at %d", parted), fmt.Sprintf("sha256:%x", sums[0].Sum(nil)), fmt.Sprintf("sha256:%x", sums[1].Sum(nil)))
	}
}

// rehash puts into sums what comes before off.
func rehash(sums [2]hash.Hash, fa, fb *os.File, off int64) error {
	for i, f := range []*os.File{fa, fb} {
		if _, err := io.Copy(sums[i], io.NewSectionReader(f, 0, off)); err != nil {
			return err
		}
	}
	return nil
}

func ended(err error) bool {
	return err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

func firstDifference(a, b []byte) int64 {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return int64(i)
		}
	}
	return int64(min(len(a), len(b)))
}
