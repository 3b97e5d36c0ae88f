package index_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sha(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}

// build indexes blob and opens the index for the time of the test.
func build(t testing.TB, blob []byte, o index.Options) (*index.Index, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "index")
	info, err := index.Build(t.Context(), path, bytes.NewReader(blob), o)
	if err != nil {
		return nil, err
	}
	x, err := index.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	if got := x.Info(); got != info {
		t.Errorf("Open says %+v, Build said %+v", got, info)
	}
	return x, nil
}

func mustBuild(t testing.TB, blob []byte, o index.Options) *index.Index {
	t.Helper()
	x, err := build(t, blob, o)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// TestForms: every form of a layer is the same tree and content, and says of
// itself what is true.
func TestForms(t *testing.T) {
	tarball := indextest.Tar(append(indextest.Nasty(), indextest.Sparse()...)...)
	plain := mustBuild(t, tarball, index.Options{})
	want := fileBytes(t, plain, tarball)
	forms := append(indextest.Plain(tarball), zeroPadded(tarball), flushed(tarball), storedAt(tarball, 0), storedAt(tarball, 60_000))
	for _, l := range forms {
		t.Run(l.Name, func(t *testing.T) {
			o := index.Options{Blob: l.Digest, Size: l.Size(), DiffID: l.DiffID, Spacing: 20_000}
			x := mustBuild(t, l.Blob, o)
			if err := index.Same(x, plain); err != nil {
				t.Errorf("Same: %v", err)
			}
			if !maps.EqualFunc(want, fileBytes(t, x, l.Blob), bytes.Equal) {
				t.Error("content differs")
			}
			info := x.Info()
			if info.Blob != l.Digest || info.DiffID != l.DiffID || info.BlobSize != l.Size() {
				t.Errorf("%+v", info)
			}
			if l.Name == "gzip" {
				decodeJoined(t, x, l.Blob)
			}
		})
	}
}

// TestDeterministic: the same blob gives the same index ID, another spacing
// another one.
func TestDeterministic(t *testing.T) {
	l := indextest.Gzip(indextest.Tar(indextest.Nasty()...), indextest.GzipOptions{Level: gzip.BestSpeed})
	a := mustBuild(t, l.Blob, index.Options{})
	b := mustBuild(t, l.Blob, index.Options{})
	c := mustBuild(t, l.Blob, index.Options{Spacing: 1 << 10})
	if a.Info() != b.Info() || a.Info().ID == c.Info().ID {
		t.Errorf("%+v, %+v, %+v", a.Info(), b.Info(), c.Info())
	}
	for _, x := range []*index.Index{a, c} {
		if err := index.Verify(t.Context(), x, bytes.NewReader(l.Blob)); err != nil {
			t.Error(err)
		}
	}
}

// zeroPadded is gzip with zeros behind the last member.
func zeroPadded(tarball []byte) indextest.Layer {
	l := indextest.Gzip(tarball, indextest.GzipOptions{Level: gzip.BestSpeed})
	l.Name, l.Blob = "gzip-padded", append(l.Blob, make([]byte, 1000)...)
	l.Digest = digest.FromBytes(l.Blob)
	return l
}

// flushed is gzip with empty stored blocks, at which the decoder's count of
// input bytes goes wrong, in the midst of compressed ones.
func flushed(tarball []byte) indextest.Layer {
	l := indextest.Gzip(tarball, indextest.GzipOptions{Level: gzip.BestCompression, Flush: 997})
	l.Name = "gzip-flushed"
	return l
}

// storedAt is gzip of stored blocks that end exactly where the decoder hands out
// what it has: then it goes on into the next block before it can be stopped.
// empty blocks lie between them.
func storedAt(tarball []byte, empty int) indextest.Layer {
	var b bytes.Buffer
	block := func(data []byte, final byte) {
		n := uint16(len(data))
		b.Write([]byte{final, byte(n), byte(n >> 8), byte(^n), byte(^n >> 8)})
		b.Write(data)
	}
	b.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff})
	for rest := tarball; len(rest) > 0; rest = rest[min(len(rest), 32<<10):] {
		block(rest[:min(len(rest), 32<<10)], 0)
		for range empty {
			block(nil, 0)
		}
	}
	block(nil, 1)
	b.Write(binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(tarball)))
	b.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(tarball))))
	l := indextest.Gzip(tarball, indextest.GzipOptions{Level: gzip.BestSpeed})
	l.Name, l.Blob, l.Digest = fmt.Sprintf("gzip-stored-32K-and-%d", empty), b.Bytes(), digest.FromBytes(b.Bytes())
	return l
}

// decodeJoined decodes all extents as one and holds chunk by chunk against it.
func decodeJoined(t *testing.T, x *index.Index, blob []byte) {
	t.Helper()
	n := x.Info().Chunks
	e := x.Extent(0).Join(x.Extent(n - 1))
	next := 0
	err := x.Decode(bytes.NewReader(blob[e.Off:e.Off+e.Len]), e, func(i int, data []byte) error {
		if i != next || int64(len(data)) != x.Chunk(i).Len {
			t.Errorf("chunk %d of %d bytes comes when %d should", i, len(data), next)
		}
		next++
		return nil
	})
	if err != nil || next != n {
		t.Errorf("%d of %d chunks: %v", next, n, err)
	}
}

func TestWrongBlob(t *testing.T) {
	l := indextest.Gzip(indextest.Tar(indextest.Nasty()...), indextest.GzipOptions{Level: gzip.DefaultCompression})
	damaged := bytes.Clone(l.Blob)
	damaged[len(damaged)/2] ^= 0x10
	broken := errors.New("connection broke")
	good := index.Options{Blob: l.Digest, Size: l.Size(), DiffID: l.DiffID}
	for name, c := range map[string]struct {
		r    io.Reader
		o    index.Options
		want error
	}{
		"blob":              {bytes.NewReader(l.Blob), index.Options{Blob: l.DiffID}, index.ErrDigest},
		"diffID":            {bytes.NewReader(l.Blob), index.Options{Blob: l.Digest, DiffID: l.Digest}, index.ErrDigest},
		"diffID of tar":     {bytes.NewReader(l.Tar), index.Options{DiffID: l.Digest}, index.ErrDigest},
		"shorter":           {bytes.NewReader(l.Blob), index.Options{Size: l.Size() + 1}, index.ErrDigest},
		"longer":            {bytes.NewReader(l.Blob), index.Options{Size: l.Size() - 1}, index.ErrDigest},
		"truncated":         {bytes.NewReader(l.Blob[:len(l.Blob)/2]), good, index.ErrDigest},
		"damaged":           {bytes.NewReader(damaged), good, index.ErrDigest},
		"damaged, unnamed":  {bytes.NewReader(damaged), index.Options{}, index.ErrInvalid},
		"damaged by maker":  {bytes.NewReader(damaged), index.Options{Blob: digest.FromBytes(damaged)}, index.ErrInvalid},
		"garbage behind":    {io.MultiReader(bytes.NewReader(l.Blob), bytes.NewReader([]byte{0, 0, 7})), index.Options{}, index.ErrInvalid},
		"no member behind":  {io.MultiReader(bytes.NewReader(l.Blob), bytes.NewReader([]byte("garbage, more than ten bytes"))), index.Options{}, index.ErrInvalid},
		"reader fails":      {io.MultiReader(bytes.NewReader(l.Blob[:1000]), iotest.ErrReader(broken)), good, broken},
		"reader breaks off": {io.MultiReader(bytes.NewReader(l.Blob[:1000]), iotest.ErrReader(io.ErrUnexpectedEOF)), good, io.ErrUnexpectedEOF},
		"no digest":         {bytes.NewReader(l.Blob), index.Options{Blob: "sha256:zz"}, digest.ErrDigestInvalidLength},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := index.Build(t.Context(), filepath.Join(dir, "index"), c.r, c.o)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// TestSHA512 indexes a layer that is named by another algorithm.
func TestSHA512(t *testing.T) {
	tarball := indextest.Tar(indextest.File("a", []byte("a")))
	o := index.Options{Blob: digest.SHA512.FromBytes(tarball), DiffID: digest.FromBytes(tarball)}
	if i := mustBuild(t, tarball, o).Info(); i.Blob != o.Blob || i.DiffID != o.DiffID {
		t.Errorf("%+v", i)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("no longer wanted")
	r := readerFunc(func(p []byte) (int, error) {
		cancel(stop)
		return len(p), nil
	})
	if _, err := index.Build(ctx, filepath.Join(t.TempDir(), "index"), r, index.Options{}); !errors.Is(err, stop) {
		t.Errorf("got %v, want %v", err, stop)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// collector is a Sink that keeps what it gets.
type collector struct {
	files map[uint32][]byte
	fail  error
}

func (c *collector) WriteChunk(ino uint32, off int64, data []byte) error {
	if n := int64(len(c.files[ino])); off > n {
		c.files[ino] = append(c.files[ino], make([]byte, off-n)...) // a hole
	}
	c.files[ino] = append(c.files[ino], data...)
	return c.fail
}

func TestSink(t *testing.T) {
	tarball := indextest.Tar(append(indextest.Nasty(), indextest.Sparse()...)...)
	for _, l := range indextest.Plain(tarball) {
		t.Run(l.Name, func(t *testing.T) {
			c := &collector{files: map[uint32][]byte{}}
			x := mustBuild(t, l.Blob, index.Options{Sink: c})
			dead := 0
			maps.DeleteFunc(c.files, func(ino uint32, _ []byte) bool {
				i, _ := x.Inode(ino)
				if i.Dead {
					dead++
				}
				return i.Dead
			})
			want := fileBytes(t, x, l.Blob)
			maps.DeleteFunc(want, func(_ uint32, b []byte) bool { return len(b) == 0 })
			if !maps.EqualFunc(want, c.files, bytes.Equal) || dead == 0 {
				t.Errorf("content differs, or none of it is dead (%d)", dead)
			}
		})
	}
}

// TestSinkFails: no more of the blob is read than was under way.
func TestSinkFails(t *testing.T) {
	full := errors.New("disk full")
	read := int64(0)
	head := indextest.Tar(indextest.File("a", make([]byte, 10<<20)))
	r := io.MultiReader(bytes.NewReader(head[:1<<20]), readerFunc(func(p []byte) (int, error) {
		read += int64(len(p))
		return len(p), nil
	}))
	_, err := index.Build(t.Context(), filepath.Join(t.TempDir(), "index"), r, index.Options{
		Sink: &collector{files: map[uint32][]byte{}, fail: full},
	})
	if !errors.Is(err, full) || read > 8<<20 {
		t.Errorf("%v after %d bytes", err, read)
	}
}

func TestProgress(t *testing.T) {
	tarball := indextest.Tar(indextest.Nasty()...)
	var got []int64
	mustBuild(t, tarball, index.Options{Progress: func(n int64) { got = append(got, n) }})
	if !slices.IsSorted(got) || len(got) < 2 || got[len(got)-1] != int64(len(tarball)) {
		t.Errorf("progress %v of %d", got, len(tarball))
	}
}

// TestExtents: an extent is small, and no chunk needs another extent than that
// of its neighbours in it.
func TestExtents(t *testing.T) {
	tarball := sample(6)
	for name, c := range map[string]struct {
		l   indextest.Layer
		max int64
	}{
		"tar":          {indextest.Uncompressed(tarball), 64 << 10},
		"gzip":         {indextest.Gzip(tarball, indextest.GzipOptions{Level: gzip.BestSpeed}), 256 << 10},
		"gzip members": {indextest.Gzip(tarball, indextest.GzipOptions{Level: gzip.BestSpeed, Member: 10_000}), 128 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			x := mustBuild(t, c.l.Blob, index.Options{})
			for i := range x.Info().Chunks {
				e := x.Extent(i)
				if i < e.First || i > e.Last || e.Len > c.max || x.Extent(e.First) != e || x.Extent(e.Last) != e {
					t.Fatalf("chunk %d: %+v", i, e)
				}
				if d := x.Chunk(i); d.Len > 16<<10 || d.Off/(16<<10) != (d.Off+d.Len-1)/(16<<10) {
					t.Fatalf("chunk %d: %+v", i, d)
				}
			}
		})
	}
}

// TestThinWindows: an index holds of its windows what is needed, which is nothing
// where the content repeats nothing.
func TestThinWindows(t *testing.T) {
	for name, c := range map[string]struct {
		content []byte
		most    int64 // bytes for each window
	}{
		"random": {indextest.Random(1, 4<<20), 100},
		"text":   {indextest.Text(1, 4<<20), 20 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			l := indextest.Gzip(indextest.Tar(indextest.File("a", c.content)), indextest.GzipOptions{Level: gzip.DefaultCompression})
			x := mustBuild(t, l.Blob, index.Options{})
			var pack bytes.Buffer
			size, err := x.Pack(&pack)
			if err != nil {
				t.Fatal(err)
			}
			h, err := index.ParseHead(pack.Bytes(), size)
			if err != nil {
				t.Fatal(err)
			}
			windows, spans := size-index.PackPrefix-h.Size, int64(x.Info().Spans)
			if spans < 8 || windows > spans*c.most {
				t.Errorf("%d bytes of windows for %d spans, want %d for each at most", windows, spans, c.most)
			}
		})
	}
}

func TestDecodeErrors(t *testing.T) {
	l := indextest.Gzip(indextest.Tar(indextest.Nasty()...), indextest.GzipOptions{Level: gzip.BestSpeed})
	x := mustBuild(t, l.Blob, index.Options{Spacing: 100_000})
	e := x.Extent(x.Info().Chunks - 1)
	bytesOf := func(change func([]byte)) []byte {
		b := bytes.Clone(l.Blob[e.Off : e.Off+e.Len])
		change(b)
		return b
	}
	broken := errors.New("connection broke")
	nothing := func(int, []byte) error { return nil }
	for name, c := range map[string]struct {
		r    io.Reader
		e    index.Extent
		fn   func(int, []byte) error
		want error
	}{
		"as it is":  {bytes.NewReader(bytesOf(func([]byte) {})), e, nothing, nil},
		"byte wise": {iotest.OneByteReader(bytes.NewReader(bytesOf(func([]byte) {}))), e, nothing, nil},
		"flipped":   {bytes.NewReader(bytesOf(func(b []byte) { b[len(b)/2] ^= 1 })), e, nothing, index.ErrCorrupt},
		"zeros":     {bytes.NewReader(bytesOf(func(b []byte) { clear(b) })), e, nothing, index.ErrCorrupt},
		"truncated": {bytes.NewReader(bytesOf(func([]byte) {})[:e.Len/2]), e, nothing, io.ErrUnexpectedEOF},
		"broken":    {iotest.ErrReader(broken), e, nothing, broken},
		"receiver":  {bytes.NewReader(bytesOf(func([]byte) {})), e, func(int, []byte) error { return broken }, broken},
	} {
		t.Run(name, func(t *testing.T) {
			if err := x.Decode(c.r, c.e, c.fn); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	if err := x.Decode(bytes.NewReader(nil), index.Extent{Last: 1 << 30}, nothing); err == nil {
		t.Error("an extent of another index is decoded")
	}
	damaged := bytes.Clone(l.Blob)
	damaged[len(damaged)-100] ^= 1
	if err := index.Verify(t.Context(), x, bytes.NewReader(damaged)); !errors.Is(err, index.ErrDigest) {
		t.Errorf("Verify of a damaged blob: %v", err)
	}
}
