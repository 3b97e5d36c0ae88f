package peer_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/swarm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf is Blobs in memory. Each blob has the first here bytes of its content;
// through requests get the rest as feed says.
type shelf struct {
	mu    sync.Mutex
	items map[digest.Digest]*item
	opens int
	asks  []peer.Ask
}

type item struct {
	blob    p2p.Blob
	data    []byte
	file    string // instead of data
	have    *p2p.Have
	changed chan struct{}
	// through gives what through requests read; nil: they fail.
	through func(ctx context.Context, off, n int64) (io.ReadCloser, error)
}

func newShelf() *shelf { return &shelf{items: map[digest.Digest]*item{}} }

// content returns n bytes that are the same for the same n.
func content(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	_, _ = r.Read(b)
	return b
}

// put puts a blob of n bytes there, all of it.
func (s *shelf) put(n int) *item {
	data := content(n)
	b := p2p.Blob{Digest: digest.FromBytes(data), Size: int64(n)}
	it := &item{blob: b, data: data, have: p2p.FullHave(b.Pieces()), changed: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.items[b.Digest] = it
	return it
}

// onDisk moves the content to a file.
func (it *item) onDisk(t testing.TB) *item {
	t.Helper()
	it.file = filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(it.file, it.data, 0o600); err != nil {
		t.Fatal(err)
	}
	return it
}

// set changes which pieces are there.
func (s *shelf) set(it *item, change func(h *p2p.Have)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(it.have)
	close(it.changed)
	it.changed = make(chan struct{})
}

func (s *shelf) drop(it *item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.items, it.blob.Digest)
	close(it.changed)
}

func (s *shelf) get(d digest.Digest) (*item, error) {
	if it := s.items[d]; it != nil {
		return it, nil
	}
	return nil, peer.ErrNotFound
}

func (s *shelf) Stat(d digest.Digest) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it, err := s.get(d)
	if err != nil {
		return 0, err
	}
	return it.blob.Size, nil
}

func (s *shelf) Have(d digest.Digest) (*p2p.Have, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it, err := s.get(d)
	if err != nil {
		return nil, nil, err
	}
	return it.have.Clone(), it.changed, nil
}

func (s *shelf) Open(ctx context.Context, d digest.Digest, off, n int64, ask peer.Ask) (io.ReadCloser, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opens++
	s.asks = append(s.asks, ask)
	it, err := s.get(d)
	if err != nil {
		return nil, 0, err
	}
	if ask.Through && it.through != nil {
		r, err := it.through(ctx, off, n)
		return r, n, err
	}
	size := p2p.PieceSize(it.blob.Size)
	end := off
	for end < off+n && it.have.Has(int(end/size)) {
		end = min((end/size+1)*size, off+n)
	}
	if end == off {
		return nil, 0, peer.ErrNotFound
	}
	if it.file == "" {
		return io.NopCloser(bytes.NewReader(it.data[off:end])), end - off, nil
	}
	f, err := os.Open(it.file)
	if err != nil {
		return nil, 0, err
	}
	if _, err := f.Seek(off, io.SeekStart); err != nil {
		return nil, 0, err
	}
	return f, end - off, nil
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// serve serves blobs on loopback until the test ends.
func serve(t testing.TB, c peer.ServerConfig) p2p.Host {
	t.Helper()
	ln := listen(t)
	s, err := peer.Serve(ln, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return p2p.Host{ID: p2p.HostID("host-" + ln.Addr().String()), Addr: ln.Addr().String()}
}

// client makes a client; it must be made after the servers it talks to, so that
// it is closed before them.
func client(t testing.TB, c peer.ClientConfig) *peer.Client {
	t.Helper()
	cl, err := peer.NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// from makes sources of peers.
func from(through bool, peers ...p2p.Host) []swarm.Source {
	var l []swarm.Source
	for _, h := range peers {
		l = append(l, swarm.Source{Peer: h, Through: through})
	}
	return l
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
