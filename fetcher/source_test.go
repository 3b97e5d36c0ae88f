package fetcher_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	kib = 1 << 10
	mib = 1 << 20
)

// request is one that a fake source got.
type request struct {
	Repo   origin.Repo
	Off, N int64
}

// fault says how a fake source answers a request; the zero value well.
type fault struct {
	err   error         // Open fails
	mute  bool          // Open never answers
	hang  int64         // no more bytes after so many
	cut   int64         // the body ends after so many
	whole bool          // the range is ignored
	extra int64         // so many bytes more than asked for
	late  int64         // the body begins so much too late
	size  int64         // the blob is said to have so many bytes
	lie   bool          // every byte is wrong
	delay time.Duration // before each block
	block int           // bytes of a block; 0: 32 KiB
}

// fake is a source that holds blobs in memory and answers as it is told.
type fake struct {
	name   string
	blobs  map[digest.Digest][]byte
	answer func(i int, r request) fault // i-th request; nil: always well

	mu       sync.Mutex
	requests []request
	open     int // bodies
	most     int // bodies open at a time
	sent     int64
}

func newFake(answer func(i int, r request) fault, blobs ...[]byte) *fake {
	s := &fake{name: "fake", blobs: map[digest.Digest][]byte{}, answer: answer}
	for _, b := range blobs {
		s.blobs[digest.FromBytes(b)] = b
	}
	return s
}

func (s *fake) Name() string { return s.name }

func (s *fake) Open(ctx context.Context, ref fetcher.Ref, off, n int64) (*fetcher.Body, error) {
	s.mu.Lock()
	i := len(s.requests)
	r := request{ref.Repo, off, n}
	s.requests = append(s.requests, r)
	s.mu.Unlock()
	var f fault
	if s.answer != nil {
		f = s.answer(i, r)
	}
	data, ok := s.blobs[ref.Digest]
	switch {
	case f.err != nil:
		return nil, f.err
	case !ok:
		return nil, fmt.Errorf("fake: %w", origin.ErrNotFound)
	case f.mute:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	end := min(off+n+f.extra, int64(len(data)))
	if f.whole {
		off, end = 0, int64(len(data))
	}
	off = min(off+f.late, end)
	size := int64(len(data))
	if f.size != 0 {
		size = f.size
	}
	if f.lie {
		data = bytes.Repeat([]byte{'X'}, len(data))
	}
	if f.block == 0 {
		f.block = 32 * kib
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	s.most = max(s.most, s.open)
	b := &fakeBody{s: s, fault: f, data: data[off:end]}
	b.ctx, b.cancel = context.WithCancel(ctx)
	return &fetcher.Body{ReadCloser: b, Off: off, Size: size}, nil
}

func (s *fake) seen() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func (s *fake) bytesSent() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

type fakeBody struct {
	s      *fake
	fault  fault
	ctx    context.Context
	cancel context.CancelFunc
	data   []byte
	done   int64
	once   sync.Once
}

func (b *fakeBody) Read(p []byte) (int, error) {
	if b.fault.delay > 0 {
		select {
		case <-time.After(b.fault.delay):
		case <-b.ctx.Done():
		}
	}
	limit := int64(len(b.data))
	switch {
	case b.ctx.Err() != nil:
		return 0, b.ctx.Err()
	case b.fault.hang > 0 && b.done >= b.fault.hang:
		<-b.ctx.Done()
		return 0, b.ctx.Err()
	case b.fault.cut > 0 && b.done >= b.fault.cut:
		return 0, io.ErrUnexpectedEOF
	case b.done == limit:
		return 0, io.EOF
	case b.fault.hang > 0:
		limit = min(limit, b.fault.hang)
	case b.fault.cut > 0:
		limit = min(limit, b.fault.cut)
	}
	p = p[:min(len(p), b.fault.block)]
	n := copy(p, b.data[b.done:limit])
	b.done += int64(n)
	b.s.mu.Lock()
	b.s.sent += int64(n)
	b.s.mu.Unlock()
	return n, nil
}

func (b *fakeBody) Close() error {
	b.cancel()
	b.once.Do(func() {
		b.s.mu.Lock()
		b.s.open--
		b.s.mu.Unlock()
	})
	return nil
}

// content returns n random bytes; equal seeds give equal ones.
func content(n int, seed uint64) []byte {
	var key [32]byte
	key[0] = byte(seed)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b) // it never fails
	return b
}

var repo = origin.Repo{Host: "registry.test", Path: "a/b"}

func ref(b []byte) fetcher.Ref {
	return fetcher.Ref{Digest: digest.FromBytes(b), Size: int64(len(b)), Repo: repo}
}

func newFetcher(t testing.TB, sources ...fetcher.Source) *fetcher.Fetcher {
	t.Helper()
	return open(t, fetcher.Config{Dir: tempDir(t), Sources: sources})
}

// tempDir returns a folder in memory if it can: what is synced there costs no
// time.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "fetcher-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // nothing depends on it
	return dir
}

func open(t testing.TB, c fetcher.Config) *fetcher.Fetcher {
	t.Helper()
	f, err := fetcher.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func openBlob(t testing.TB, f *fetcher.Fetcher, r fetcher.Ref) *fetcher.Blob {
	t.Helper()
	b, err := f.Blob(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() }) // it returns nil
	return b
}

// read reads a range to its end.
func read(ctx context.Context, b *fetcher.Blob, off, n int64, p fetcher.Priority) ([]byte, error) {
	r, err := b.Range(ctx, off, n, p)
	if err != nil {
		return nil, err
	}
	buf := bytes.NewBuffer(make([]byte, 0, min(n, b.Size())+bytes.MinRead))
	_, err = buf.ReadFrom(r)
	return buf.Bytes(), errors.Join(err, r.Close())
}

// want fails the test unless the range reads as it should.
func want(t testing.TB, b *fetcher.Blob, data []byte, off, n int64, p fetcher.Priority) {
	t.Helper()
	got, err := read(t.Context(), b, off, n, p)
	if err != nil {
		t.Errorf("read %d bytes at %d: %v", n, off, err)
		return
	}
	if !bytes.Equal(got, data[off:min(off+n, int64(len(data)))]) {
		t.Errorf("read %d bytes at %d: wrong bytes (%d)", n, off, len(got))
	}
}
