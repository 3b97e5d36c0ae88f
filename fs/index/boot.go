package index

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// MaxBoot is how many chunks a boot pack holds at most.
const MaxBoot = 1 << 15

// bootWindow is how far back content is looked for that is there twice.
const bootWindow = 8 << 20

// PackBoot writes a boot pack: the content of chunks, in that order, as one zstd
// stream, the calls of machine code made absolute. Where they lie scattered in the blob that is much less than the spans that
// have to be fetched for them. read fills p with the content of a chunk.
func (x *Index) PackBoot(w io.Writer, chunks []int, read func(c Chunk, p []byte) error) error {
	enc, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(bootWindow))
	if err != nil {
		panic(err) // the options are constants
	}
	list := binary.AppendUvarint(nil, uint64(len(chunks)))
	at := 0
	for _, c := range chunks {
		list = binary.AppendVarint(list, int64(c-at))
		at = c + 1
	}
	_, err = enc.Write(list)
	var buf []byte
	for _, c := range chunks {
		if err != nil {
			break
		}
		ch := x.Chunk(c)
		if int64(cap(buf)) < ch.Len {
			buf = make([]byte, ch.Len)
		}
		if err = read(ch, buf[:ch.Len]); err == nil {
			absolute(buf[:ch.Len], ch.Off)
			_, err = enc.Write(buf[:ch.Len])
		}
	}
	if err = errors.Join(err, enc.Close()); err != nil {
		return fmt.Errorf("boot pack: %w", err)
	}
	return nil
}

// UnpackBoot reads a boot pack. It calls begin with the numbers of the chunks in
// it, and then fn with each, in that order and verified; data is valid during the
// call. An error of r or fn is returned as it is; other errors wrap ErrCorrupt.
func (x *Index) UnpackBoot(r io.Reader, begin func(chunks []int), fn func(chunk int, data []byte) error) error {
	src := &counted{r: r}
	d, err := zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(bootWindow))
	if err != nil {
		panic(err) // the options are constants
	}
	defer d.Close()
	corrupt := func(err error) error {
		if src.err != nil {
			return src.err
		}
		return fmt.Errorf("boot pack: %w: %w", err, ErrCorrupt)
	}
	br := bufio.NewReader(d)
	chunks, err := x.bootList(br)
	if err == nil && !x.info.Hashes() {
		err = errors.New("nothing tells what its chunks should be")
	}
	if err != nil {
		return corrupt(err)
	}
	begin(chunks)
	var buf []byte
	for _, c := range chunks {
		ch := x.chunk(c)
		if cap(buf) < int(ch.size) {
			buf = make([]byte, ch.size)
		}
		data := buf[:ch.size]
		if _, err := io.ReadFull(br, data); err != nil {
			return corrupt(err)
		}
		relative(data, ch.off)
		if sha256.Sum256(data) != ch.digest {
			return corrupt(fmt.Errorf("chunk %d: digest mismatch", c))
		}
		if err := fn(c, data); err != nil {
			return err
		}
	}
	return nil
}

// bootList reads which chunks a boot pack has.
func (x *Index) bootList(r io.ByteReader) ([]int, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, noEOF(err)
	}
	if n > MaxBoot {
		return nil, fmt.Errorf("%d chunks", n)
	}
	chunks, at := make([]int, 0, n), int64(0)
	for range n {
		gap, err := binary.ReadVarint(r)
		if err != nil {
			return nil, noEOF(err)
		}
		c := at + gap
		if gap < -int64(x.info.Chunks) || c < 0 || c >= int64(x.info.Chunks) {
			return nil, fmt.Errorf("chunk %d of %d", c, x.info.Chunks)
		}
		chunks = append(chunks, int(c))
		at = c + 1
	}
	return chunks, nil
}
