package index_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

func tocOptions(l indextest.Layer) index.TOCOptions {
	return index.TOCOptions{Blob: l.Digest, Size: l.Size(), MediaType: l.MediaType, Annotations: l.Annotations}
}

// fromTOC indexes l by its table of contents.
func fromTOC(t *testing.T, l indextest.Layer) *index.Index {
	t.Helper()
	p := filepath.Join(t.TempDir(), "toc")
	info, err := index.FromTOC(t.Context(), p, bytes.NewReader(l.Blob), tocOptions(l))
	if err != nil {
		t.Fatal(err)
	}
	x, err := index.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	if diff := cmp.Diff(info, x.Info()); diff != "" {
		t.Errorf("FromTOC says of the index it wrote (-FromTOC +Open):\n%s", diff)
	}
	return x
}

// filled collects what a pass over a blob yields, by inode.
type filled map[uint32][]byte

func (c filled) WriteChunk(ino uint32, off int64, data []byte) error {
	if n := int(off) + len(data); n > len(c[ino]) {
		c[ino] = append(c[ino], make([]byte, n-len(c[ino]))...)
	}
	copy(c[ino][off:], data)
	return nil
}

// fromTar indexes l by reading it whole.
func fromTar(t *testing.T, l indextest.Layer) (*index.Index, filled) {
	t.Helper()
	p, c := filepath.Join(t.TempDir(), "tar"), filled{}
	o := index.Options{Blob: l.Digest, Size: l.Size(), DiffID: l.DiffID, Sink: c}
	if _, err := index.Build(t.Context(), p, bytes.NewReader(l.Blob), o); err != nil {
		t.Fatal(err)
	}
	x, err := index.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x, c
}

// decodeAll reads every file of x by its chunks.
func decodeAll(t *testing.T, x *index.Index, blob []byte) filled {
	t.Helper()
	c := filled{}
	for i := 0; i < x.Info().Chunks; {
		e := x.Extent(i)
		if e.First != i || e.Off < 0 || e.Len <= 0 || e.Off+e.Len > int64(len(blob)) {
			t.Fatalf("extent of chunk %d is %+v", i, e)
		}
		err := x.Decode(bytes.NewReader(blob[e.Off:e.Off+e.Len]), e, func(i int, data []byte) error {
			k := x.Chunk(i)
			if int64(len(data)) != k.Len {
				return fmt.Errorf("chunk %d has %d bytes, want %d", i, len(data), k.Len)
			}
			return c.WriteChunk(k.Ino, k.Off, data)
		})
		if err != nil {
			t.Fatalf("extent %+v: %v", e, err)
		}
		i = e.Last + 1
	}
	return c
}

// sameLayer holds an index made from a table of contents to the one that
// reading l whole gives, content included. It returns the latter.
func sameLayer(t *testing.T, toc *index.Index, l indextest.Layer) *index.Index {
	t.Helper()
	tar, want := fromTar(t, l)
	if err := index.Same(toc, tar); err != nil {
		t.Errorf("trees differ: %v", err)
	}
	got := decodeAll(t, toc, l.Blob)
	for ino := range uint32(tar.Info().Inodes) + 1 {
		n, ok := tar.Inode(ino)
		if !ok || n.Dead || n.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		g := append(got[ino], make([]byte, max(0, n.Size-int64(len(got[ino]))))...) // a hole at the end
		w := append(want[ino], make([]byte, max(0, n.Size-int64(len(want[ino]))))...)
		if !bytes.Equal(g, w) {
			t.Errorf("%q: content differs, %d bytes, want %d", tar.Path(ino), len(got[ino]), n.Size)
		}
	}
	return tar
}

func TestFromTOC(t *testing.T) {
	tarball := indextest.Tar(indextest.Nasty()...)
	prioritized := indextest.EStargz(tarball, indextest.EStargzOptions{Prioritized: []string{"data/text", "links/a"}})
	prioritized.Name = "estargz-prioritized"
	layers := append(indextest.WithTOC(tarball), prioritized)
	odd := indextest.Tar(append(indextest.Unholdable()[3:], // what BuildKit and podman copy, and estargz.Build mends
		indextest.File("../../up", []byte("above the root")),
		indextest.File("gone/.wh.with-content", []byte("not in the layer")),
		indextest.Symlink("ways", "gone"),
		indextest.File("ways/through", []byte("a symbolic link")),
		indextest.Dir("/"),
		indextest.File("times/rounded-up", nil).At(indextest.Time.Add(700*time.Millisecond)),
		indextest.File("times/rounded-down", nil).At(indextest.Time.Add(300*time.Millisecond)),
	)...)
	layers = append(layers, indextest.EStargz(odd, indextest.EStargzOptions{Lossless: true}), indextest.PodmanZstdChunked(odd, 10))
	layers[len(layers)-2].Name, layers[len(layers)-1].Name = "odd-lossless", "odd-podman"
	for name, entries := range map[string][]indextest.Entry{
		"empty":   nil,
		"no-data": {indextest.Dir("a"), indextest.File("a/b", nil), indextest.Symlink("c", "a")},
		"many":    indextest.Many(3000),
	} {
		tarball := indextest.Tar(entries...)
		for _, o := range []indextest.EStargzOptions{{MinChunkSize: 10_000}, {MinChunkSize: 10_000, Lossless: true}} {
			l := indextest.EStargz(tarball, o)
			l.Name = fmt.Sprintf("%s-lossless-%v", name, o.Lossless)
			layers = append(layers, l)
		}
		l := indextest.PodmanZstdChunked(tarball, 4096)
		l.Name = name + "-podman"
		layers = append(layers, l)
	}
	for _, l := range layers {
		t.Run(l.Name, func(t *testing.T) {
			toc := fromTOC(t, l)
			tar := sameLayer(t, toc, l)
			i := toc.Info()
			if i.DiffID != "" || !i.Seekable || i.Blob != l.Digest || i.BlobSize != l.Size() || i.Bytes != tar.Info().Bytes {
				t.Errorf("info: %+v", i)
			}
			wantKind := index.EStargz
			if strings.HasSuffix(l.MediaType, "zstd") {
				wantKind = index.ZstdChunked
			}
			if i.Kind != wantKind {
				t.Errorf("kind is %v, want %v", i.Kind, wantKind)
			}
			if (i.Prefetch > 0) != (l.Name == prioritized.Name) {
				t.Errorf("prefetch is %d", i.Prefetch)
			}
		})
	}
}

// TestTOCFile tells apart tars that end before the table's own entry from those
// that do not.
func TestTOCFile(t *testing.T) {
	tarball := indextest.Tar(indextest.File("a", []byte("a")), indextest.File("zeros", make([]byte, 5000)), indextest.Dir("last"))
	for _, tt := range []struct {
		name string
		l    indextest.Layer
		want bool
	}{
		{"built", indextest.EStargz(tarball, indextest.EStargzOptions{}), true},
		{"lossless", indextest.EStargz(tarball, indextest.EStargzOptions{Lossless: true}), false},
		{"lossless without end marker", indextest.EStargz(tarball[:len(tarball)-1024], indextest.EStargzOptions{Lossless: true}), true},
		{"zstd", indextest.EStargz(tarball, indextest.EStargzOptions{Zstd: true}), false},
	} {
		if _, got := fromTOC(t, tt.l).Lookup(index.Root, estargz.TOCTarName); got != tt.want {
			t.Errorf("%s: table is a file: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// countedReader counts the requests that reading a blob would cost.
type countedReader struct {
	io.ReaderAt
	mu    sync.Mutex
	reads int
	bytes int
}

func (c *countedReader) ReadAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads++
	c.bytes += len(p)
	return c.ReaderAt.ReadAt(p, off)
}

func TestFromTOCReads(t *testing.T) {
	var few, many []indextest.Entry
	shared := indextest.EStargzOptions{MinChunkSize: 50_000}
	for i := range 2500 {
		e := indextest.File(fmt.Sprintf("f%d", i), indextest.Random(uint64(i), 1000))
		if many = append(many, e); i < 300 {
			few = append(few, e)
		}
	}
	tests := []struct {
		name         string
		l            indextest.Layer
		reads, bytes int
	}{
		{"small table", indextest.EStargz(indextest.Tar(few...), shared), 1, 128 << 10},
		{"large table", indextest.EStargz(indextest.Tar(many...), shared), 2, 900 << 10},
		{"position in the manifest", indextest.PodmanZstdChunked(indextest.Tar(many...), 50_000), 1, 500 << 10},
	}
	for _, tt := range tests {
		r := &countedReader{ReaderAt: bytes.NewReader(tt.l.Blob)}
		if _, err := index.FromTOC(t.Context(), filepath.Join(t.TempDir(), "x"), r, tocOptions(tt.l)); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if r.reads > tt.reads || r.bytes > tt.bytes {
			t.Errorf("%s: %d reads of %d bytes, want at most %d of %d", tt.name, r.reads, r.bytes, tt.reads, tt.bytes)
		}
	}
}

var errSource = errors.New("source is gone")

// brokenReader fails below an offset.
type brokenReader struct {
	io.ReaderAt
	below int64
}

func (b brokenReader) ReadAt(p []byte, off int64) (int, error) {
	if off < b.below {
		return 0, errSource
	}
	return b.ReaderAt.ReadAt(p, off)
}

// TestFromTOCSourceFails: an error of the source is not called corruption.
func TestFromTOCSourceFails(t *testing.T) {
	l := indextest.EStargz(indextest.Tar(indextest.File("big", indextest.Random(1, 1<<20))), indextest.EStargzOptions{})
	for _, below := range []int64{64 << 10, l.Size()} {
		p := filepath.Join(t.TempDir(), "x")
		_, err := index.FromTOC(t.Context(), p, brokenReader{bytes.NewReader(l.Blob), below}, tocOptions(l))
		if !errors.Is(err, errSource) || errors.Is(err, index.ErrCorrupt) || errors.Is(err, index.ErrNoTOC) {
			t.Errorf("source fails below %d: %v", below, err)
		}
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(p), "*")); len(left) > 0 {
			t.Errorf("files left behind: %v", left)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errSource)
	many := indextest.EStargz(indextest.Tar(indextest.Many(1500)...), indextest.EStargzOptions{MinChunkSize: 10_000})
	if _, err := index.FromTOC(ctx, filepath.Join(t.TempDir(), "x"), bytes.NewReader(many.Blob), tocOptions(many)); !errors.Is(err, errSource) {
		t.Errorf("ended context: %v", err)
	}
}
