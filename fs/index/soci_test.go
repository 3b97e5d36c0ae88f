package index_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// fromZtoc opens the index that a ztoc gives of a layer.
func fromZtoc(t testing.TB, l indextest.Layer, data []byte) (*index.Index, error) {
	t.Helper()
	p := filepath.Join(t.TempDir(), "index")
	if _, err := index.FromZtoc(p, data, index.ZtocOptions{Blob: l.Digest, Size: l.Size()}); err != nil {
		return nil, err
	}
	x, err := index.Open(p)
	if err != nil {
		t.Fatalf("FromZtoc made what Open refuses: %v", err)
	}
	t.Cleanup(func() { _ = x.Close() })
	return x, nil
}

func mustFromZtoc(t testing.TB, l indextest.Layer, data []byte) *index.Index {
	t.Helper()
	x, err := fromZtoc(t, l, data)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// steps decodes one extent as a layer's reader does.
func steps(x *index.Index, blob []byte, e index.Extent, fn func(int, []byte) error) error {
	list := x.Steps(e)
	for i, s := range list {
		give := fn
		if i < len(list)-1 {
			give = func(int, []byte) error { return nil }
		}
		if err := x.Decode(bytes.NewReader(blob[s.Off:s.Off+s.Len]), s, give); err != nil {
			return err
		}
	}
	return nil
}

// sociTar has files of all sizes, some of them longer than a span.
func sociTar() []byte {
	entries := []indextest.Entry{indextest.Dir("d/"), indextest.File("empty", nil)}
	for i, n := range []int{1, 511, 512, 513, 70_000, 300_000, 4096, 900_000, 31} {
		name := "d/" + string(rune('a'+i))
		entries = append(entries, indextest.File(name, indextest.Text(uint64(i), n)).Xattr("user.n", name), indextest.Link("l"+name[2:], name))
	}
	entries = append(entries, indextest.Many(200)...)
	return indextest.Tar(append(entries, indextest.File("random", indextest.Random(3, 200_000)), indextest.File("d/b", []byte("again")))...)
}

// sociForms are layers in the forms that SOCI makes ztocs of.
func sociForms() map[string]indextest.Layer {
	tarball := sociTar()
	return map[string]indextest.Layer{
		"gzip":    indextest.Gzip(tarball, indextest.GzipOptions{}),
		"members": indextest.Gzip(tarball, indextest.GzipOptions{Member: 150_000, Stored: 3}),
		"blocks":  indextest.Gzip(tarball, indextest.GzipOptions{Flush: 7_000}),
		"tar":     indextest.Uncompressed(tarball),
		"padded":  indextest.Gzip(append(bytes.Clone(tarball), make([]byte, 400_000)...), indextest.GzipOptions{Flush: 50_000}),
	}
}

// TestZtoc: what a ztoc says of a layer is the tree and the content that its blob
// has, in whatever order it is read.
func TestZtoc(t *testing.T) {
	for name, l := range sociForms() {
		t.Run(name, func(t *testing.T) {
			z := indextest.NewZtoc(l, 64<<10)
			if len(z.Points) < 8 {
				t.Fatalf("%d spans", len(z.Points))
			}
			x := mustFromZtoc(t, l, z.Encode())
			sameAsBuilt(t, x, l)
		})
	}
	t.Run("old form", func(t *testing.T) {
		l := sociForms()["gzip"]
		z := indextest.NewZtoc(l, 64<<10)
		z.Old = true
		sameAsBuilt(t, mustFromZtoc(t, l, z.Encode()), l)
	})
}

// extents are all of an index.
func extents(x *index.Index) (list []index.Extent) {
	for c := 0; c < x.Info().Chunks; c = list[len(list)-1].Last + 1 {
		list = append(list, x.Extent(c))
	}
	return list
}

// sameAsBuilt compares an index of kind Soci with the one that is made of the blob,
// and reads all content by it forwards and, anew, backwards.
func sameAsBuilt(t *testing.T, x *index.Index, l indextest.Layer) {
	t.Helper()
	if i := x.Info(); i.Kind != index.Soci || !i.Seekable || i.DiffID != "" || i.Hashes() || i.Blob != l.Digest {
		t.Fatalf("it is %+v", i)
	}
	built := mustBuild(t, l.Blob, index.Options{})
	if err := index.Same(x, built); err != nil {
		t.Fatal(err)
	}
	want := fileBytes(t, built, l.Blob)
	for _, backwards := range []bool{true, false} {
		list := extents(x)
		if backwards {
			slices.Reverse(list)
		}
		got := map[uint32][]byte{}
		for _, e := range list {
			err := steps(x, l.Blob, e, func(chunk int, data []byte) error {
				ch := x.Chunk(chunk)
				in, _ := x.Inode(ch.Ino)
				if got[ch.Ino] == nil {
					got[ch.Ino] = make([]byte, in.Size)
				}
				copy(got[ch.Ino][ch.Off:], data)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		for ino, content := range want {
			if len(content) > 0 && !bytes.Equal(got[ino], content) {
				t.Errorf("backwards %v: content of %q differs", backwards, x.Path(ino))
			}
		}
	}
	if err := index.Verify(t.Context(), x, bytes.NewReader(l.Blob)); err != nil {
		t.Error(err)
	}
}

// TestZtocLies: of a ztoc that lies about where things are, nothing wrong is read:
// it is refused, or reading ends with ErrCorrupt before the first wrong byte.
func TestZtocLies(t *testing.T) {
	l := sociForms()["gzip"]
	built := mustBuild(t, l.Blob, index.Options{})
	right := fileBytes(t, built, l.Blob)
	for name, lie := range map[string]func(z *indextest.Ztoc){
		"digest":          func(z *indextest.Ztoc) { z.Digests[3] = z.Digests[2] },
		"window":          func(z *indextest.Ztoc) { clear(z.Points[4].Window) },
		"end of a window": func(z *indextest.Ztoc) { z.Points[4].Window[len(z.Points[4].Window)-1] ^= 1 },
		"bits":            func(z *indextest.Ztoc) { z.Points[2].Bits = (z.Points[2].Bits + 1) & 7 },
		"place in the blob": func(z *indextest.Ztoc) {
			z.Points[5].In++
			z.Rehash(l.Blob)
		},
		"place in the tar": func(z *indextest.Ztoc) { z.Points[5].Out += 512 },
		"offset": func(z *indextest.Ztoc) {
			e := z.EntryOf("d/f")
			e.Offset, e.Size = e.Offset+512, e.Size-512
		},
		"length": func(z *indextest.Ztoc) { z.EntryOf("d/h").Size -= 513 },
		"one file for two": func(z *indextest.Ztoc) {
			e := z.EntryOf("d/h")
			next := z.EntryOf("d/i")
			e.Size = next.Offset + next.Size - e.Offset
			next.Name, next.Offset, next.Size = "gone", e.Offset+e.Size+1024-(e.Offset+e.Size)%512, 0
		},
		"swapped": func(z *indextest.Ztoc) {
			a, b := z.EntryOf("d/e"), z.EntryOf("d/f")
			a.Offset, b.Offset = b.Offset, a.Offset
		},
		"beyond the tar": func(z *indextest.Ztoc) { z.EntryOf("random").Size += 1 << 20 },
		"another size":   func(z *indextest.Ztoc) { z.BlobSize++ },
		"fewer digests":  func(z *indextest.Ztoc) { z.Digests = z.Digests[1:] },
		"huge":           func(z *indextest.Ztoc) { z.TarSize = 1 << 60 },
		"sparse": func(z *indextest.Ztoc) {
			z.EntryOf("d/e").PAXRecords["GNU.sparse.major"] = "1"
		},
	} {
		t.Run(name, func(t *testing.T) {
			z := indextest.NewZtoc(l, 64<<10)
			lie(z)
			x, err := fromZtoc(t, l, z.Encode())
			if err != nil {
				if !errors.Is(err, index.ErrCorrupt) && !errors.Is(err, index.ErrNoTOC) {
					t.Errorf("it is refused with %v", err)
				}
				t.Log(err)
				return
			}
			found := 0
			for _, e := range slices.Backward(extents(x)) {
				err := steps(x, l.Blob, e, func(chunk int, data []byte) error {
					ch := x.Chunk(chunk)
					ino, _ := lookup(built, x.Path(ch.Ino))
					if off := int(ch.Off); off+len(data) > len(right[ino]) || !bytes.Equal(right[ino][off:off+len(data)], data) {
						t.Errorf("wrong bytes of %q at %d", x.Path(ch.Ino), ch.Off)
					}
					return nil
				})
				if err != nil {
					if found++; found == 1 {
						t.Log(err)
					}
					if !errors.Is(err, index.ErrCorrupt) {
						t.Fatal(err)
					}
				}
			}
			if found == 0 {
				t.Error("nobody has noticed")
			}
		})
	}
}

// lookup finds a path in a tree.
func lookup(x *index.Index, path string) (ino uint32, ok bool) {
	ino, ok = index.Root, true
	for name := range strings.SplitSeq(path, "/") {
		if ino, ok = x.Lookup(ino, name); !ok {
			return 0, false
		}
	}
	return ino, ok
}

// sociReal is the layer of testdata/soci, as gzip and as the tar in it, and what SOCI
// itself has written of both; README.md says how.
func sociReal(t testing.TB) map[string]indextest.Layer {
	t.Helper()
	blob := readFile(t, "layer.tar.gz")
	tarball, err := gunzip(blob)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]indextest.Layer{
		"gzip": {Blob: blob, Digest: digest.FromBytes(blob)},
		"tar":  {Blob: tarball, Digest: digest.FromBytes(tarball)},
	}
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "soci", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRealZtoc reads what SOCI itself has written.
func TestRealZtoc(t *testing.T) {
	for name, l := range sociReal(t) {
		t.Run(name, func(t *testing.T) { sameAsBuilt(t, mustFromZtoc(t, l, readFile(t, name+".ztoc")), l) })
	}
}

// TestZtocBoot: where chunks have no digests, nothing is taken from a boot pack.
func TestZtocBoot(t *testing.T) {
	l := sociForms()["gzip"]
	x := mustFromZtoc(t, l, indextest.NewZtoc(l, 64<<10).Encode())
	pack := packBoot(t, x, []int{0, 1}, func(_ index.Chunk, p []byte) error { clear(p); return nil })
	err := x.UnpackBoot(bytes.NewReader(pack), func([]int) {}, func(int, []byte) error {
		t.Error("a chunk is taken")
		return nil
	})
	if !errors.Is(err, index.ErrCorrupt) {
		t.Error(err)
	}
}

// FuzzZtoc: whatever the bytes of a ztoc are, they are refused with one of the known
// errors or give an index that Open accepts and whose extents decode, or fail, cleanly.
func FuzzZtoc(f *testing.F) {
	tarball := smallTar()
	gz, plain := indextest.Gzip(tarball, indextest.GzipOptions{Flush: 5000}), indextest.Uncompressed(tarball)
	for _, l := range []indextest.Layer{gz, plain} {
		f.Add(l.MediaType == plain.MediaType, indextest.NewZtoc(l, 8<<10).Encode())
	}
	f.Add(false, readFile(f, "gzip.ztoc"))
	f.Add(true, readFile(f, "tar.ztoc"))
	old := indextest.NewZtoc(gz, 8<<10)
	old.Old = true
	f.Add(false, old.Encode())
	f.Fuzz(func(t *testing.T, uncompressed bool, data []byte) {
		l := gz
		if uncompressed {
			l = plain
		}
		x, err := fromZtoc(t, l, data)
		if err != nil {
			known(t, err)
			return
		}
		for _, e := range extents(x) {
			if err := steps(x, l.Blob, e, func(int, []byte) error { return nil }); err != nil {
				known(t, err)
			}
		}
	})
}
