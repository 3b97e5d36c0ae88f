package index_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// bootLayer is an index, and a function that reads its chunks.
func bootLayer(t testing.TB) (*index.Index, func(index.Chunk, []byte) error) {
	t.Helper()
	content := map[uint32][]byte{}
	l := indextest.Gzip(indextest.Tar(
		indextest.File("a", indextest.Random(1, 600<<10)), indextest.File("b", indextest.Random(2, 100)), indextest.File("c", indextest.Random(1, 600<<10)),
	), indextest.GzipOptions{})
	x := mustBuild(t, l.Blob, index.Options{Blob: l.Digest, DiffID: l.DiffID})
	for ino := uint32(1); ; ino++ {
		in, ok := x.Inode(ino)
		if !ok {
			break
		}
		switch x.Path(in.Ino) {
		case "a", "c":
			content[ino] = indextest.Random(1, 600<<10)
		case "b":
			content[ino] = indextest.Random(2, 100)
		}
	}
	return x, func(c index.Chunk, p []byte) error {
		copy(p, content[c.Ino][c.Off:])
		return nil
	}
}

func packBoot(t testing.TB, x *index.Index, chunks []int, read func(index.Chunk, []byte) error) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := x.PackBoot(&b, chunks, read); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestBoot: chunks come out in the order in which they went in, what is there twice
// costs once, and nothing wrong comes out of a pack that is wrong or cut off.
func TestBoot(t *testing.T) {
	x, read := bootLayer(t)
	want := []int{x.Info().Chunks - 1, 0, 1, 3, 2}
	packed := packBoot(t, x, want, read)
	unpack := func(r io.Reader) (listed, got []int, err error) {
		err = x.UnpackBoot(r, func(chunks []int) { listed = chunks }, func(c int, data []byte) error {
			p := make([]byte, len(data))
			if err := read(x.Chunk(c), p); err != nil || !bytes.Equal(p, data) {
				t.Errorf("chunk %d is wrong: %v", c, err)
			}
			got = append(got, c)
			return nil
		})
		return listed, got, err
	}
	listed, got, err := unpack(iotest.OneByteReader(bytes.NewReader(packed)))
	if err != nil || !slices.Equal(got, want) || !slices.Equal(listed, want) {
		t.Errorf("%v, listed %v: %v", got, listed, err)
	}
	twice := make([]int, x.Info().Chunks)
	for i := range twice {
		twice[i] = i
	}
	if n := len(packBoot(t, x, twice, read)); n > 650<<10 {
		t.Errorf("%d bytes of what is 600 KiB twice", n)
	}
	for _, n := range []int{0, 1, 10, len(packed) / 2, len(packed) - 1} {
		if _, got, err := unpack(bytes.NewReader(packed[:n])); !errors.Is(err, index.ErrCorrupt) && len(got) != len(want) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	broken := errors.New("broken")
	if _, _, err := unpack(io.MultiReader(bytes.NewReader(packed[:100]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("the source's error is %v", err)
	}
	lies := packBoot(t, x, want, func(index.Chunk, []byte) error { return nil })
	if _, got, err := unpack(bytes.NewReader(lies)); !errors.Is(err, index.ErrCorrupt) || len(got) > 0 {
		t.Errorf("wrong content: %v, %v", got, err)
	}
}

// FuzzUnpackBoot: whatever a pack is, only chunks of the index come out, as they are.
func FuzzUnpackBoot(f *testing.F) {
	x, read := bootLayer(f)
	f.Add(packBoot(f, x, []int{2, 0}, read))
	f.Add(packBoot(f, x, nil, read))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = x.UnpackBoot(bytes.NewReader(b), func(chunks []int) {
			if len(chunks) > index.MaxBoot {
				t.Errorf("%d chunks", len(chunks))
			}
		}, func(c int, data []byte) error {
			p := make([]byte, len(data))
			if err := read(x.Chunk(c), p); err != nil || !bytes.Equal(p, data) {
				t.Errorf("chunk %d is wrong", c)
			}
			return nil
		})
	})
}
