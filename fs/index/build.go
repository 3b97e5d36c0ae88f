package index

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	_ "crypto/sha512" // digests that manifests may use

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Sink receives content while a blob is indexed. WriteChunk is called from one
// goroutine, in the order of the blob; data is valid during the call. What it
// gets is unverified until Build returns nil, and inodes that a later entry
// replaced (Inode.Dead) got content as well.
type Sink interface {
	WriteChunk(ino uint32, off int64, data []byte) error
}

// Options of Build.
type Options struct {
	Blob     digest.Digest // "": unknown
	Size     int64         // of the blob; 0 or less: unknown
	DiffID   digest.Digest // "": unknown
	Sink     Sink          // may be nil
	Spacing  int64         // bytes of output between checkpoints; 0: 256 KiB
	Limits   Limits
	Progress func(read int64) // told now and then how much of the blob was read; may be nil
}

const defaultSpacing = 256 << 10

// maxZstdWindow is what zstd decodes without being asked for more.
const maxZstdWindow = 128 << 20

// Build reads the layer r, a tar that may be compressed with gzip or zstd, to
// its end, and writes its index to path, durably and in one step. It returns
// ErrDigest if the blob is not the announced one, ErrInvalid if it is and
// cannot be unpacked, and the errors of r and o.Sink. Blob and DiffID of the
// result are what was computed.
//
// Build returns after its last use of r. When ctx ends, r must fail.
func Build(ctx context.Context, path string, r io.Reader, o Options) (Info, error) {
	if o.Spacing <= 0 {
		o.Spacing = defaultSpacing
	}
	o.Limits = o.Limits.withDefaults()
	b := &build{o: o, r: r, in: make(chan []byte, inBlocks), blocks: make(chan block, outBlocks), hashed: make(chan block, outBlocks)}
	var err error
	if b.blob, err = verifier(o.Blob); err != nil {
		return Info{}, err
	}
	if b.diffID, err = verifier(o.DiffID); err != nil {
		return Info{}, err
	}
	if b.w, err = newWriter(path, o.Limits); err != nil {
		return Info{}, err
	}
	defer b.w.abort()
	if err := b.run(ctx); err != nil {
		return Info{}, err
	}
	return b.w.commit(Info{
		Blob: b.blob.Digest(), BlobSize: b.read, DiffID: b.diffID.Digest(), Kind: b.kind, Seekable: b.kind != Zstd,
	}, o.Spacing)
}

// build is one pass over a blob.
type build struct {
	o      Options
	r      io.Reader
	w      *writer
	kind   Kind
	in     chan []byte // the blob
	blocks chan block  // decoded
	hashed chan block  // decoded and hashed
	blob   *verified
	diffID *verified
	read   int64 // bytes of the blob
	end    int64 // of what can be decoded, in the blob
}

// verified is a digest being computed, and what it should be.
type verified struct {
	hash.Hash
	algorithm digest.Algorithm
	want      digest.Digest
}

func verifier(want digest.Digest) (*verified, error) {
	v := &verified{algorithm: digest.SHA256, want: want}
	if want != "" {
		if err := want.Validate(); err != nil {
			return nil, fmt.Errorf("%q: %w", want, err)
		}
		v.algorithm = want.Algorithm()
	}
	v.Hash = v.algorithm.Hash()
	return v, nil
}

func (v *verified) Digest() digest.Digest { return digest.NewDigest(v.algorithm, v.Hash) }

func (v *verified) check(what string) error {
	if got := v.Digest(); v.want != "" && got != v.want {
		return fmt.Errorf("%s is %s, not %s: %w", what, got, v.want, ErrDigest)
	}
	return nil
}

// run lets the stages work. When the content cannot be used, the blob is still
// read to its end, to know whether it is the right blob.
func (b *build) run(ctx context.Context) error {
	stages, sctx := errgroup.WithContext(ctx)
	in, out := newPool(inBlocks, inBlock), newPool(outBlocks, outBlock)
	reader := make(chan error, 1)
	go func() { reader <- b.readBlob(sctx, in) }()
	stages.Go(func() error { return b.decode(sctx, in, out) })
	stages.Go(func() error { return b.hashStream(sctx) })
	stages.Go(func() error { return b.scan(sctx, out) })
	err := stages.Wait()
	rerr := <-reader
	switch {
	case rerr != nil:
		return fmt.Errorf("read blob: %w", rerr)
	case err != nil && !errors.Is(err, ErrInvalid):
		return err
	}
	if b.o.Size > 0 && b.read != b.o.Size {
		return fmt.Errorf("blob has %d bytes, not %d: %w", b.read, b.o.Size, ErrDigest)
	}
	if err := b.blob.check("blob"); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	if b.hashedOnce() {
		b.diffID.Hash = b.blob.Hash
	}
	return b.diffID.check("diffID")
}

// readBlob reads and hashes the blob, and passes it on until the stages end.
// It reads to the end in any case but theirs having failed in what is not the
// blob's fault.
func (b *build) readBlob(sctx context.Context, free pool) error {
	defer close(b.in)
	buf := make([]byte, inBlock) // for when nobody gives blocks back any more
	for {
		block, taken := buf, false
		p, err := free.get(sctx)
		switch {
		case err == nil:
			block, taken = p, true
		case !errors.Is(err, ErrInvalid):
			return nil // run has the error
		}
		n, err := readFull(b.r, block)
		b.blob.Write(block[:n])
		b.read += int64(n)
		if b.o.Progress != nil {
			b.o.Progress(b.read)
		}
		if n > 0 && taken {
			_ = send(sctx, b.in, block[:n]) // they ended: only the digest is wanted
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case b.o.Size > 0 && b.read > b.o.Size:
			return fmt.Errorf("blob is longer than %d bytes: %w", b.o.Size, ErrDigest)
		}
	}
}

// readFull fills p as far as r goes. Unlike io.ReadFull it leaves an unexpected
// EOF what it is: r's own error, of a connection that broke.
func readFull(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	return n, err
}

// decode turns the blob into the stream of the tar. Only what was decoded to its
// end ends for the stages behind: else they would take the end for the error.
func (b *build) decode(ctx context.Context, in, free pool) error {
	src := &source{ctx: ctx, in: b.in, pool: in}
	br := bufio.NewReaderSize(src, 64<<10)
	out := &outlet{ctx: ctx, to: b.blocks, pool: free, limit: b.o.Limits.Stream}
	if err := out.flush(); err != nil {
		return err
	}
	head, err := br.Peek(10)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch b.kind = detect(head); b.kind {
	case Gzip:
		err = (&gunzip{src: src, br: br, out: out, spacing: b.o.Spacing}).run()
	case Zstd:
		err = copyZstd(out, br)
	default:
		err = copyOut(out, br)
	}
	if err == nil {
		err = out.flush()
	}
	b.end = src.pos - int64(br.Buffered())
	switch {
	case err == nil:
		close(b.blocks)
	case ctx.Err() == nil:
		return fmt.Errorf("%v: %w: %w", b.kind, err, ErrInvalid)
	}
	return err
}

// detect tells the kind of a layer by its first bytes, as containerd does.
func detect(head []byte) Kind {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}):
		return Gzip
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Zstd
	case len(head) >= 8 && le.Uint32(head)&0xfffffff0 == 0x184d2a50: // skippable frame
		return Zstd
	}
	return Tar
}

func copyOut(out *outlet, r io.Reader) error {
	for {
		n, err := r.Read(out.room())
		if e := out.emit(n); e != nil {
			return e
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// copyZstd makes the whole blob one span: it can only be decoded as a whole.
func copyZstd(out *outlet, r io.Reader) error {
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
	if err != nil {
		return err
	}
	defer d.Close()
	if err := out.begin(&spanStart{span: span{codec: codecZstd}}); err != nil {
		return err
	}
	return copyOut(out, d)
}

// hashedOnce says that the stream is the blob and one digest serves both.
func (b *build) hashedOnce() bool {
	return b.kind == Tar && b.blob.algorithm == b.diffID.algorithm
}

// hashStream computes the diffID.
func (b *build) hashStream(ctx context.Context) error {
	for {
		select {
		case block, ok := <-b.blocks:
			if !ok {
				close(b.hashed)
				return nil
			}
			if !b.hashedOnce() {
				b.diffID.Write(block.data)
			}
			if err := send(ctx, b.hashed, block); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
