package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	kib = 1 << 10
	mib = 1 << 20
)

// content returns n random bytes and their digest.
func content(n int, seed uint64) ([]byte, digest.Digest) {
	var key [32]byte
	key[0] = byte(seed)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b) // it never fails
	return b, digest.FromBytes(b)
}

func open(t testing.TB, dir string, c store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(dir, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // again, after the test looked at it
	return s
}

func openBlob(t testing.TB, s *store.Store, d digest.Digest, size int64) *store.Blob {
	t.Helper()
	b, err := s.Blob(d, size)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, b *store.Blob, data []byte, off, n int64) {
	t.Helper()
	if _, err := b.Fill(data[off:off+n], off); err != nil {
		t.Fatal(err)
	}
}

func closeAll(t testing.TB, closers ...interface{ Close() error }) {
	t.Helper()
	for _, c := range closers {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// checkHeld fails the test if the store gives a byte of b that is not data's.
// It returns how many it gives.
func checkHeld(t testing.TB, b *store.Blob, data []byte) int64 {
	t.Helper()
	var held int64
	for off := int64(0); off < b.Size(); {
		n := b.Present(off, b.Size()-off)
		p := make([]byte, n)
		if _, err := b.ReadAt(p, off); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p, data[off:off+n]) {
			t.Fatalf("wrong bytes in the %d at %d", n, off)
		}
		held += n
		if off += n; off < b.Size() {
			off = b.Missing(off, b.Size()-off)[0].End()
		}
	}
	return held
}

// TestBlob holds what is there after writes, which never change what is there.
func TestBlob(t *testing.T) {
	data, d := content(mib, 1)
	s := open(t, t.TempDir(), store.Config{})
	b := openBlob(t, s, d, mib)
	if _, err := b.ReadAt(make([]byte, 1), 0); !errors.Is(err, store.ErrMissing) {
		t.Errorf("read of nothing: %v", err)
	}
	write(t, b, data, 1000, 1000)
	write(t, b, data, 3000, 1000)
	if _, err := b.Fill(make([]byte, 2500), 1500); err != nil { // zeros over 1500..4000
		t.Fatal(err)
	}
	want := append(append(append([]byte{}, data[1000:2000]...), make([]byte, 1000)...), data[3000:4000]...)
	got := make([]byte, 3000)
	if _, err := b.ReadAt(got, 1000); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the second write changed bytes that were there (%v)", err)
	}
	if _, err := b.ReadAt(got, 1001); !errors.Is(err, store.ErrMissing) {
		t.Errorf("read beyond what is there: %v", err)
	}
	if diff := cmp.Diff([]store.Range{{Off: 900, Len: 100}, {Off: 4000, Len: 50}}, b.Missing(900, 3150)); diff != "" {
		t.Error(diff)
	}
	for _, off := range []int64{-1, mib - 10} {
		if _, err := b.Fill(make([]byte, 11), off); err == nil {
			t.Errorf("wrote outside the blob at %d", off)
		}
	}
	if s.Used() != 3000 || b.Held() != 3000 || b.Complete() {
		t.Errorf("used %d, held %d, complete %v", s.Used(), b.Held(), b.Complete())
	}
	closeAll(t, b, s)
}

// TestDiscard holds that discarded bytes are gone, after a kill too.
func TestDiscard(t *testing.T) {
	data, d := content(mib, 1)
	dir := t.TempDir()
	s := open(t, dir, store.Config{})
	b := openBlob(t, s, d, mib)
	write(t, b, data, 0, mib)
	if err := b.VerifyDigest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Discard(1000, 2000); err != nil {
		t.Fatal(err)
	}
	if b.Verified() || b.MarkVerified() == nil || b.VerifyDigest(t.Context()) == nil {
		t.Error("verified without all bytes")
	}
	killed := snapshot(t, dir)
	for name, s := range map[string]*store.Store{"here": s, "after a kill": open(t, killed, store.Config{})} {
		b := openBlob(t, s, d, mib)
		if diff := cmp.Diff([]store.Range{{Off: 1000, Len: 2000}}, b.Missing(0, mib)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if err := b.Drop(); err != nil {
		t.Fatal(err)
	}
	if s.Used() != 0 || b.Held() != 0 {
		t.Errorf("used %d, held %d after Drop", s.Used(), b.Held())
	}
	write(t, b, data, 0, mib)
	checkHeld(t, b, data)
}

// TestVerify holds what marks a blob verified and what drops it.
func TestVerify(t *testing.T) {
	data, d := content(mib, 1)
	dir := t.TempDir()
	s := open(t, dir, store.Config{})
	b := openBlob(t, s, d, mib)
	if _, err := b.Fill(make([]byte, mib), 0); err != nil {
		t.Fatal(err)
	}
	if err := b.VerifyDigest(t.Context()); !errors.Is(err, store.ErrCorrupt) || b.Held() != 0 {
		t.Errorf("wrong content: %v, %d bytes left", err, b.Held())
	}
	write(t, b, data, 0, mib)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.VerifyDigest(ctx); !errors.Is(err, context.Canceled) || b.Verified() {
		t.Errorf("cancelled: %v, verified %v", err, b.Verified())
	}
	v := b.Verifier()
	if _, err := v.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := b.Discard(0, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Fill(make([]byte, 10), 0); err != nil {
		t.Fatal(err)
	}
	if err := v.Commit(); !errors.Is(err, store.ErrMissing) || b.Verified() {
		t.Errorf("bytes changed under the hash: %v, verified %v", err, b.Verified())
	}
	if err := b.Discard(0, 10); err != nil {
		t.Fatal(err)
	}
	write(t, b, data, 0, 10)
	if err := b.VerifyDigest(t.Context()); err != nil || !b.Verified() {
		t.Errorf("right content: %v, verified %v", err, b.Verified())
	}
	if _, err := s.Blob(d, mib+1); !errors.Is(err, store.ErrSize) {
		t.Errorf("another size: %v", err)
	}
	closeAll(t, b, s)
	s = open(t, dir, store.Config{})
	if b := openBlob(t, s, d, mib); !b.Verified() || !b.Complete() {
		t.Errorf("reopened: verified %v, complete %v", b.Verified(), b.Complete())
	}
}

// TestQuota holds that the least recently used blobs that nobody has open go
// when there are too many bytes.
func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, dir, store.Config{Max: 3 * mib})
		var ds []digest.Digest
		pinned := map[int]*store.Blob{}
		for i := range 5 {
			data, d := content(mib, uint64(i))
			ds = append(ds, d)
			b := openBlob(t, s, d, mib)
			write(t, b, data, 0, mib)
			if i == 1 {
				pinned[i] = b
			} else {
				closeAll(t, b)
			}
			if i == 2 { // used again: the oldest but one
				closeAll(t, openBlob(t, s, ds[0], mib))
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
		kept := func(s *store.Store) (out []int) {
			for i, d := range ds {
				b := openBlob(t, s, d, mib)
				if b.Complete() {
					out = append(out, i)
				}
				closeAll(t, b)
			}
			return out
		}
		// 2 went for 3, 0 went for 4; 1 is older, but open.
		if diff := cmp.Diff([]int{1, 3, 4}, kept(s)); diff != "" {
			t.Error(diff)
		}
		if s.Used() != 3*mib {
			t.Errorf("used %d", s.Used())
		}
		time.Sleep(time.Second)
		closeAll(t, openBlob(t, s, ds[3], mib), pinned[1], s)
		time.Sleep(time.Second)
		s = open(t, dir, store.Config{Max: 2 * mib}) // 4 was used longest ago
		synctest.Wait()
		if diff := cmp.Diff([]int{1, 3}, kept(s)); diff != "" {
			t.Error(diff)
		}
		if trash, err := os.ReadDir(filepath.Join(dir, "trash")); err != nil || len(trash) > 0 {
			t.Errorf("trash %v, %v", trash, err)
		}
		closeAll(t, s)
	})
}

// TestFull fills a small disk: a write says so, what is not open is evicted,
// and then there is room again.
func TestFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("store-test", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("mounting a tmpfs needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := open(t, filepath.Join(dir, "blobs"), store.Config{})
		old, oldDigest := content(2*mib, 1)
		b := openBlob(t, s, oldDigest, 2*mib)
		write(t, b, old, 0, 2*mib)
		closeAll(t, b)
		data, d := content(3*mib, 2)
		b = openBlob(t, s, d, 3*mib)
		var full error
		for off := int64(0); off < 3*mib && full == nil; off += 64 * kib {
			_, full = b.Fill(data[off:off+64*kib], off)
		}
		if !errors.Is(full, store.ErrFull) || !errors.Is(full, syscall.ENOSPC) || !s.Full() {
			t.Fatalf("a full disk: %v, full %v", full, s.Full())
		}
		checkHeld(t, b, data)
		synctest.Wait()
		if o := openBlob(t, s, oldDigest, 2*mib); o.Held() != 0 {
			t.Error("the blob nobody has open was not evicted")
		}
		write(t, b, data, 0, 3*mib)
		if held := checkHeld(t, b, data); held != 3*mib {
			t.Errorf("%d bytes there after the second write", held)
		}
		time.Sleep(time.Minute)
		if s.Full() {
			t.Error("full for ever")
		}
		closeAll(t, b, s)
	})
}

// TestForeign holds that what is not the store's, or not good any more, is
// dropped on start and nothing else is.
func TestForeign(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, store.Config{})
	var ds []digest.Digest
	for i := range 6 {
		data, d := content(100*kib, uint64(i))
		ds = append(ds, d)
		b := openBlob(t, s, d, 100*kib)
		write(t, b, data, 0, 100*kib)
		closeAll(t, b)
	}
	closeAll(t, s)
	file := func(i int, name string) string { return filepath.Join(dir, "sha256", ds[i].Encoded(), name) }
	flip := func(path string) error {
		b, err := os.ReadFile(path)
		b[len(b)/2] ^= 1
		return errors.Join(err, os.WriteFile(path, b, 0o600))
	}
	err := errors.Join(
		flip(file(1, "map")),
		os.Truncate(file(2, "data"), 50*kib),
		os.Remove(file(3, "map")),
		os.Remove(file(4, "data")),
		os.WriteFile(file(5, "map.boot"), []byte("of no boot"), 0o600), // the durable map counts
		os.WriteFile(filepath.Join(dir, "README"), nil, 0o600),
		os.MkdirAll(filepath.Join(dir, "sha256", "abc", "x"), 0o700),
		os.MkdirAll(filepath.Join(dir, "sha1", "da39a3ee5e6b4b0d3255bfef95601890afd80709"), 0o700),
		os.WriteFile(filepath.Join(dir, "sha256", digest.FromString("file").Encoded()), nil, 0o600),
		os.Symlink("/etc", filepath.Join(dir, "sha256", digest.FromString("link").Encoded())),
	)
	if err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, store.Config{})
	var kept []int
	for i, d := range ds {
		if b := openBlob(t, s, d, 100*kib); b.Complete() {
			kept = append(kept, i)
		}
	}
	if diff := cmp.Diff([]int{0, 5}, kept); diff != "" {
		t.Error(diff)
	}
	if names, err := os.ReadDir(filepath.Join(dir, "sha256")); err != nil || len(names) != 2 {
		t.Errorf("left: %v, %v", names, err)
	}
}

// TestConcurrent has readers, writers and discarders work on a few blobs under
// a quota: no byte that is given is wrong.
func TestConcurrent(t *testing.T) {
	const size = 512 * kib
	s := open(t, t.TempDir(), store.Config{Max: 3 * size})
	var blobs [6][]byte
	var names [6]digest.Digest
	for i := range blobs {
		blobs[i], names[i] = content(size, uint64(i))
	}
	var wg sync.WaitGroup
	for w := range uint64(12) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(w, 0))
			for range 150 {
				i := rnd.IntN(6)
				data := blobs[i]
				b, err := s.Blob(names[i], size)
				if err != nil {
					t.Error(err)
					return
				}
				for range 4 {
					off := rnd.Int64N(size)
					n := 1 + rnd.Int64N(size-off)
					switch rnd.IntN(12) {
					case 0:
						if err := b.Discard(off, n); err != nil {
							t.Error(err)
						}
					case 1:
						if err := b.VerifyDigest(t.Context()); err != nil && !errors.Is(err, store.ErrMissing) {
							t.Error(err)
						}
					case 2, 3, 4:
						if _, err := b.Fill(data[off:off+n], off); err != nil {
							t.Error(err)
						}
					default:
						p := make([]byte, n)
						_, err := b.ReadAt(p, off)
						if err == nil && !bytes.Equal(p, data[off:off+n]) || err != nil && !errors.Is(err, store.ErrMissing) {
							t.Errorf("read %d bytes at %d: wrong, or %v", n, off, err)
						}
					}
				}
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	closeAll(t, s)
}

// BenchmarkWrite writes a blob in the blocks in which bodies come.
func BenchmarkWrite(b *testing.B) {
	data, d := content(128*kib, 1)
	s := open(b, b.TempDir(), store.Config{})
	blob := openBlob(b, s, d, 1<<40)
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	off := int64(0)
	for b.Loop() {
		if _, err := blob.Fill(data, off); err != nil {
			b.Fatal(err)
		}
		if off += int64(len(data)); off > 256*mib {
			if err := blob.Drop(); err != nil {
				b.Fatal(err)
			}
			off = 0
		}
	}
}

// BenchmarkRead reads what is there, in a blob of many ranges.
func BenchmarkRead(b *testing.B) {
	data, d := content(4*kib, 1)
	s := open(b, b.TempDir(), store.Config{})
	blob := openBlob(b, s, d, 1<<30)
	for i := range int64(10000) {
		write(b, blob, data, 0, 0)
		if _, err := blob.Fill(data, i*8*kib); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.SetBytes(4 * kib)
	p := make([]byte, 4*kib)
	for i := int64(0); b.Loop(); i++ {
		if _, err := blob.ReadAt(p, i%10000*8*kib); err != nil {
			b.Fatal(fmt.Errorf("%d: %w", i, err))
		}
	}
}
