package index

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// A pack is an index as it travels: a prefix, the head, which is header and
// tables in one zstd frame, and the windows as they are in the file. Who has
// the head can open the index; windows come one by one, with the data that they
// are needed for.
//
// The digest of a pack depends on the encoder, that of the index in it
// ([Info.ID]) does not.

const (
	packMagic = "DFSPACK1"
	// PackPrefix is how long the prefix of a pack is: magic, length of the head's
	// frame, of what it decodes to, and of the windows, 8 bytes each.
	PackPrefix = 32
	// maxHead bounds the memory that unpacking takes.
	maxHead = 1 << 30
)

// Head says where the parts of a pack are.
type Head struct {
	Size    int64 // of the head's frame, which begins behind the prefix
	tables  int64 // header and tables, expanded
	windows int64
}

// ParseHead reads the prefix of a pack of size bytes.
func ParseHead(prefix []byte, size int64) (Head, error) {
	if len(prefix) < PackPrefix || string(prefix[:len(packMagic)]) != packMagic {
		return Head{}, fmt.Errorf("not a packed index: %w", ErrCorrupt)
	}
	h := Head{int64(le.Uint64(prefix[8:])), int64(le.Uint64(prefix[16:])), int64(le.Uint64(prefix[24:]))}
	if h.Size <= 0 || h.tables < headerSize || h.tables > maxHead || h.Size > h.tables+h.tables/8+1024 || h.windows < 0 || h.windows != size-PackPrefix-h.Size {
		return Head{}, fmt.Errorf("packed index: lengths %+v of %d bytes: %w", h, size, ErrCorrupt)
	}
	return h, nil
}

// Pack writes the index as a pack and returns its length.
func (x *Index) Pack(w io.Writer) (int64, error) {
	windows := x.tablesAt() - headerSize
	var frame bytes.Buffer
	enc, err := zstd.NewWriter(&frame, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		panic(err) // the options are constants
	}
	_, err = enc.Write(x.mapped[:headerSize])
	if err == nil {
		_, err = enc.Write(x.mapped[headerSize+windows:])
	}
	if err = errors.Join(err, enc.Close()); err != nil {
		return 0, fmt.Errorf("pack index: %w", err)
	}
	prefix := make([]byte, 0, PackPrefix)
	prefix = append(prefix, packMagic...)
	for _, n := range []int64{int64(frame.Len()), int64(len(x.mapped)) - windows, windows} {
		prefix = le.AppendUint64(prefix, uint64(n))
	}
	n, err := io.Copy(w, io.MultiReader(bytes.NewReader(prefix), &frame, io.NewSectionReader(x.file, headerSize, windows)))
	if err != nil {
		return 0, fmt.Errorf("pack index: %w", err)
	}
	return n, nil
}

// tablesAt is where the first table begins; before it are the windows.
func (x *Index) tablesAt() int64 {
	at := int64(len(x.mapped))
	for _, t := range append(x.tables[:], x.windows) {
		if t.size > 0 {
			at = min(at, t.off)
		}
	}
	return at
}

// Unpack puts the index of a pack at path, without its windows: r reads the
// head's frame. What is in it is checked by Open.
func Unpack(path string, h Head, r io.Reader) error {
	head, err := expand(h, r)
	if err != nil {
		return fmt.Errorf("unpack index: %w", err)
	}
	w := &writer{path: path}
	if w.file, err = createIndex(path); err != nil {
		return err
	}
	defer w.abort()
	if _, err := w.file.WriteAt(head[:headerSize], 0); err != nil {
		return fmt.Errorf("unpack index: %w", err)
	}
	if _, err := w.file.WriteAt(head[headerSize:], headerSize+h.windows); err != nil {
		return fmt.Errorf("unpack index: %w", err)
	}
	return w.publish()
}

func expand(h Head, r io.Reader) ([]byte, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxZstdWindow))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	head := make([]byte, h.tables)
	if _, err := io.ReadFull(d, head); err != nil {
		return nil, fmt.Errorf("%w: %w", noEOF(err), ErrCorrupt)
	}
	if n, err := d.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("more than %d bytes: %w", h.tables, ErrCorrupt)
	}
	return head, nil
}

// Windows gives bytes of a pack that are windows: n at off.
type Windows func(off, n int64) ([]byte, error)

// Lazy makes the index take windows that it lacks from its pack, of size bytes,
// and keep them. It is to be called before the first Decode.
func (x *Index) Lazy(size int64, get Windows) {
	first := size - (x.tablesAt() - headerSize)
	x.lacking = func(loc windowLoc) ([]byte, error) {
		frame, err := get(first+loc.off-headerSize, int64(loc.size))
		if err == nil && len(frame) != int(loc.size) {
			err = io.ErrUnexpectedEOF
		}
		return frame, err
	}
}

// fetchWindow takes window i from where the index came from.
func (x *Index) fetchWindow(i int, loc windowLoc) ([]byte, error) {
	frame, err := x.lacking(loc)
	if err != nil {
		return nil, fmt.Errorf("window %d: %w: %w", i, ErrWindow, err)
	}
	raw, err := x.expandWindow(i, loc, frame)
	if err != nil {
		return nil, err
	}
	if f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", x.file.Fd()), os.O_WRONLY, 0); err == nil {
		_, _ = f.WriteAt(frame, loc.off) // if that fails, it is fetched again
		_ = f.Close()
	}
	return raw, nil
}
