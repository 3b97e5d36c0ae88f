package index_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"maps"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// FuzzTar builds from any bytes. What is accepted must hold the files that
// archive/tar reads.
func FuzzTar(f *testing.F) {
	small := func(e []indextest.Entry) {
		for _, one := range e {
			if len(one.Data) < 10_000 && len(one.Raw) < 10_000 {
				f.Add(indextest.Tar(one))
			}
		}
	}
	small(indextest.Nasty())
	small(indextest.Sparse())
	f.Add(indextest.Tar(indextest.File("a", []byte("a")), indextest.Link("b", "a"), indextest.Symlink("c", "b"), indextest.Dir("a")))
	f.Fuzz(func(t *testing.T, tarball []byte) {
		limits := index.Limits{Inodes: 1000, Sparse: 1 << 24, Stream: 1 << 24}
		x, err := build(t, tarball, index.Options{Limits: limits})
		if err != nil {
			if !errors.Is(err, index.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if x.Info().Kind != index.Tar { // compressed
			return
		}
		use(t, x, tarball)
		if err := index.Verify(t.Context(), x, bytes.NewReader(tarball)); err != nil {
			t.Error(err)
		}
		want := tarContents(tarball)
		for ino, got := range fileBytes(t, x, tarball) {
			if i, _ := x.Inode(ino); i.Mode&unix.S_IFMT == unix.S_IFREG && !want[string(got)] {
				t.Errorf("%q has a content that is not in the tar", x.Path(ino))
			}
		}
	})
}

// tarContents returns all file contents of a tar.
func tarContents(tarball []byte) map[string]bool {
	all := map[string]bool{}
	for tr := tar.NewReader(bytes.NewReader(tarball)); ; {
		if _, err := tr.Next(); err != nil {
			return all
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			return all
		}
		all[string(b)] = true
	}
}

// FuzzGzip compresses any bytes in odd ways, and decodes them span by span.
func FuzzGzip(f *testing.F) {
	f.Add([]byte("text text text"), uint8(1), uint8(0), uint8(3), uint8(1))
	f.Add(indextest.Text(1, 30_000), uint8(6), uint8(200), uint8(30), uint8(0))
	f.Add(indextest.Random(1, 30_000), uint8(0), uint8(100), uint8(9), uint8(2))
	f.Add(append(indextest.Text(2, 20_000), indextest.Random(2, 20_000)...), uint8(9), uint8(250), uint8(1), uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, level, member, flush, stored uint8) {
		tarball := indextest.Tar(indextest.File("a", data), indextest.File("b", bytes.Repeat(data, 3)))
		l := indextest.Gzip(tarball, indextest.GzipOptions{
			Level: int(level % 10), Member: int(member) * 256, Flush: int(flush)*64 + 1, Stored: int(stored % 4),
		})
		x := mustBuild(t, l.Blob, index.Options{DiffID: l.DiffID, Spacing: 4096})
		plain := mustBuild(t, tarball, index.Options{})
		if !maps.EqualFunc(fileBytes(t, x, l.Blob), fileBytes(t, plain, tarball), bytes.Equal) {
			t.Error("content differs")
		}
		if x.Info().Chunks > 0 {
			decodeJoined(t, x, l.Blob)
		}
	})
}

// FuzzGunzip feeds any bytes: what compress/gzip reads to its end is accepted,
// and nothing else but zeros behind it.
func FuzzGunzip(f *testing.F) {
	add := func(l indextest.Layer) { f.Add(l.Blob) }
	tarball := indextest.Tar(indextest.File("a", indextest.Text(1, 5000)))
	for _, l := range indextest.Plain(tarball)[1:5] {
		add(l)
	}
	add(zeroPadded(tarball))
	add(flushed(tarball))
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Name, z.Comment, z.Extra = "name", "comment", []byte("extra")
	_, _ = z.Write(tarball)
	_ = z.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, blob []byte) {
		if len(blob) < 10 || !bytes.HasPrefix(blob, []byte{0x1f, 0x8b, 8}) {
			return
		}
		want, err := gunzip(blob)
		if err == nil {
			if _, err = build(t, want, index.Options{}); err != nil {
				err = index.ErrInvalid // a good gzip of a bad tar
			}
		}
		x, got := build(t, blob, index.Options{Spacing: 4096})
		if (err == nil) != (got == nil) {
			t.Fatalf("compress/gzip: %v; index: %v", err, got)
		}
		if err != nil {
			return
		}
		plain := mustBuild(t, want, index.Options{})
		if x.Info().DiffID != plain.Info().DiffID {
			t.Errorf("diffID %s, want %s", x.Info().DiffID, plain.Info().DiffID)
		}
		if !maps.EqualFunc(fileBytes(t, x, blob), fileBytes(t, plain, want), bytes.Equal) {
			t.Error("content differs")
		}
	})
}

// gunzip is compress/gzip, which takes zeros behind the last member for a bad
// header, with those cut off.
func gunzip(blob []byte) ([]byte, error) {
	r := bytes.NewReader(blob)
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	var all []byte
	for {
		z.Multistream(false)
		b, err := io.ReadAll(z)
		all = append(all, b...)
		if err != nil {
			return nil, err
		}
		if rest := blob[len(blob)-r.Len():]; len(bytes.Trim(rest, "\x00")) == 0 {
			return all, nil
		}
		if err := z.Reset(r); err != nil {
			return nil, errors.Join(err, io.ErrUnexpectedEOF)
		}
	}
}

// FuzzOpen changes an index behind its digests: it is refused, or all of it can
// be asked for without harm.
func FuzzOpen(f *testing.F) {
	file, blob := indexFile(f)
	tables := uint32(indextest.Tables(file))
	f.Add(tables, uint64(1), uint32(24), uint64(1<<40))
	f.Add(uint32(16+2*144), uint64(7), tables+48, uint64(0xffffffff))
	f.Add(tables+64*2+36, uint64(2), tables+64*5+20, uint64(6))
	f.Fuzz(func(t *testing.T, at1 uint32, v1 uint64, at2 uint32, v2 uint64) {
		changed := bytes.Clone(file)
		for at, v := range map[uint32]uint64{at1: v1, at2: v2} {
			i := int(at) % (len(changed) - 8)
			for b := range 8 {
				if v>>(8*b) != 0 || v == 0 {
					changed[i+b] = byte(v >> (8 * b))
				}
			}
		}
		x, err := open(t, indextest.Reseal(changed))
		if err != nil {
			return
		}
		use(t, x, blob)
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
