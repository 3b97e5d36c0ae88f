package wire_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	blob   = p2p.Blob{Digest: digest.FromString("x"), Size: 10 << 20}
	origin = p2p.Origin{Registry: "docker.io", Repository: "library/x"}
)

func host(id string) p2p.Host {
	return p2p.Host{ID: p2p.HostID(id), Addr: "10.0.0.1:65002", Seed: true, IDC: "a", Location: "b|c", Slots: 7, Share: true}
}

func some(n int, pieces ...int) *p2p.Have {
	h := p2p.NewHave(n)
	for _, i := range pieces {
		h.Add(i)
	}
	return h
}

func sums(n int) []p2p.Sum {
	s := make([]p2p.Sum, n)
	for i := range s {
		s[i][0], s[i][31] = byte(i), byte(i>>8)
	}
	return s
}

// fromHost is one of each that a host may say after its Announce.
var fromHost = []p2p.Message{
	p2p.Inventory{Blob: blob, Have: some(40, 1, 39), Verified: true},
	p2p.Want{Blob: blob, Origin: origin, Lazy: true, Priority: p2p.OnDemand},
	p2p.Want{Blob: blob, Priority: p2p.Background},
	p2p.Unwant{Digest: blob.Digest},
	p2p.Progress{Digest: blob.Digest, Got: []int{0, 39}, From: []p2p.Transfer{
		{Parent: "a", Bytes: 5, Took: time.Second, Failed: p2p.Busy}, {Bytes: 1 << 40, Failed: p2p.Refused},
	}},
	p2p.Wrong{Digest: blob.Digest, Piece: 3, Parent: "a", Got: sums(2)[1]},
	p2p.Verified{Digest: blob.Digest},
	p2p.Spoiled{Digest: blob.Digest},
	p2p.Checked{Digest: blob.Digest, Piece: 65535, Parent: "a", Failed: p2p.Mismatch},
	p2p.Digests{Digest: blob.Digest, First: 3, Sums: sums(5), Verified: true},
	p2p.Content{Digest: blob.Digest, Data: []byte("tiny")},
	p2p.Publish{Index: layerIndex},
	p2p.Lookup{Layers: []digest.Digest{blob.Digest, layerIndex.ID}, Version: 3},
	p2p.Distrust{Layer: blob.Digest, ID: layerIndex.ID, Reason: "another tree"},
	p2p.Distrust{Layer: blob.Digest, ID: layerIndex.ID, Reason: "another tree", Containers: []string{"default/web", "k8s.io/1"}},
	p2p.Learn{Profile: layerProfile},
	p2p.Learn{Profile: p2p.Profile{Layer: blob.Digest, Index: layerIndex.ID}, Again: true},
	p2p.Recall{Layer: blob.Digest, Image: layerProfile.Image},
	p2p.Done{ID: 7, Failed: "no room"},
}

var layerProfile = p2p.Profile{
	Layer: blob.Digest, Image: digest.FromString("image"), Index: layerIndex.ID, Runs: []p2p.Run{{First: 5, Count: 2}, {First: 0, Count: 1}},
	Pack: p2p.Blob{Digest: digest.FromString("boot pack"), Size: 10},
}

var layerIndex = p2p.Index{
	Layer: blob.Digest, Version: 1, ID: digest.FromString("id"), DiffID: digest.FromString("tar"), Head: 5,
	Pack: p2p.Blob{Digest: digest.FromString("pack"), Size: 10}, Proof: p2p.Proof{Certificate: []byte("c"), Signature: []byte("s")},
}

var fromScheduler = []p2p.Message{
	p2p.Parents{Digest: blob.Digest, Stripes: [][]p2p.Host{{host("a"), host("b")}, nil, {host("b")}}},
	p2p.Parents{Digest: blob.Digest},
	p2p.Fetch{Blob: blob, Origin: origin, Whole: true, Background: true},
	p2p.Lease{Digest: blob.Digest, Pieces: []int{5, 6}, For: time.Minute},
	p2p.Lease{Digest: blob.Digest},
	p2p.Source{Digest: blob.Digest, Allowed: true},
	p2p.Renew{Digest: blob.Digest},
	p2p.Content{Digest: blob.Digest, Data: bytes.Repeat([]byte("x"), 128)},
	p2p.Ask{Digest: blob.Digest},
	p2p.Check{Digest: blob.Digest, Piece: 3, Parent: host("c")},
	p2p.Audit{Digest: blob.Digest, Pieces: []int{7, 39}, Reason: "in doubt"},
	p2p.Command{ID: 7, Blob: blob, Origin: origin, Remove: true, Stop: true},
	p2p.Gone{Host: "c", Reason: "served wrong bytes"},
	p2p.Indexes{Layers: []digest.Digest{blob.Digest, layerIndex.ID}, Found: []p2p.Index{layerIndex}},
	p2p.Distrust{Layer: blob.Digest, ID: layerIndex.ID, Reason: "another tree"},
	p2p.Digests{Digest: blob.Digest, Sums: sums(1)},
	p2p.Recalled{Layer: blob.Digest, Image: layerProfile.Image, Profile: &layerProfile},
	p2p.Recalled{Layer: blob.Digest, Image: layerProfile.Image},
}

// scheduler is a server that answers each stream with what serve does.
func scheduler(t *testing.T, id *wire.Identity, serve func(*wire.HostStream) error) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := wire.NewServer(id)
	wire.Register(s, serve)
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// link connects to it.
func link(t *testing.T, addr string, id *wire.Identity) *wire.SchedulerStream {
	t.Helper()
	conn, err := wire.Dial(addr, id)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() {
		cancel()
		_ = conn.Close()
	})
	s, err := conn.Link(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// echo is what a server got, and sends of its own.
func echo(got *[]p2p.Message, answers []p2p.Message) func(*wire.HostStream) error {
	return func(s *wire.HostStream) error {
		for range len(fromHost) + 1 {
			m, err := s.Recv()
			if err != nil {
				return err
			}
			*got = append(*got, m)
		}
		for _, m := range answers {
			if err := s.Send(m); err != nil {
				return err
			}
		}
		return nil
	}
}

func TestMessages(t *testing.T) {
	t.Parallel()
	announce := p2p.Announce{Host: host("me")}
	for i := range 3000 { // more than one part holds
		d := digest.FromString(strings.Repeat("x", i))
		announce.Inventory = append(announce.Inventory, p2p.Inventory{Blob: p2p.Blob{Digest: d, Size: 1 << 30}, Have: some(1024, i%1024, 7)})
	}
	many := p2p.Digests{Digest: blob.Digest, First: 1, Sums: sums(p2p.MaxPieces - 1)}
	var got []p2p.Message
	s := link(t, scheduler(t, nil, echo(&got, append(fromScheduler[:len(fromScheduler):len(fromScheduler)], many))), nil)
	sent := append([]p2p.Message{announce}, fromHost...)
	for _, m := range sent {
		if err := s.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	var answers []p2p.Message
	var tail p2p.Digests // many, put together
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if d, ok := m.(p2p.Digests); ok && d.First > 0 {
			if d.First != 1+len(tail.Sums) {
				t.Errorf("sums from %d come after %d", d.First, len(tail.Sums))
			}
			d.Sums, d.First = append(tail.Sums, d.Sums...), 1
			tail = d
			continue
		}
		answers = append(answers, m)
	}
	if diff := cmp.Diff(sent, got, haves); diff != "" {
		t.Errorf("to the scheduler (-sent +got):\n%s", diff)
	}
	if diff := cmp.Diff(fromScheduler, answers); diff != "" {
		t.Errorf("to the host (-sent +got):\n%s", diff)
	}
	if !slices.Equal(many.Sums, tail.Sums) {
		t.Errorf("many sums differ: %d of %d", len(tail.Sums), len(many.Sums))
	}
}

var haves = cmp.Comparer(func(a, b *p2p.Have) bool { return a.Equal(b) })

// TestAddress lets the scheduler fill in where a host is.
func TestAddress(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]string{
		":65002":         "127.0.0.1:65002",
		"0.0.0.0:65002":  "127.0.0.1:65002",
		"[::]:65002":     "127.0.0.1:65002",
		"10.1.2.3:65002": "10.1.2.3:65002",
		"node-1:65002":   "node-1:65002",
		"node-1":         "",
		"":               "",
		":0":             "",
	} {
		t.Run(said, func(t *testing.T) {
			t.Parallel()
			h := host("me")
			h.Addr = said
			addr := scheduler(t, nil, func(s *wire.HostStream) error {
				m, err := s.Recv()
				if err != nil {
					return status.Error(codes.InvalidArgument, err.Error())
				}
				return s.Send(p2p.Check{Digest: blob.Digest, Parent: m.(p2p.Announce).Host})
			})
			s := link(t, addr, nil)
			if err := s.Send(p2p.Announce{Host: h}); err != nil {
				t.Fatal(err)
			}
			m, err := s.Recv()
			if want == "" {
				if status.Code(err) != codes.InvalidArgument {
					t.Errorf("got %v, %v", m, err)
				}
				return
			}
			if err != nil || m.(p2p.Check).Parent.Addr != want {
				t.Errorf("got %v, %v", m, err)
			}
		})
	}
}

// TestFlood sends more than a message may hold.
func TestFlood(t *testing.T) {
	t.Parallel()
	var got []p2p.Message
	s := link(t, scheduler(t, nil, echo(&got, nil)), nil)
	err := s.Send(p2p.Want{Blob: blob, Origin: p2p.Origin{Registry: strings.Repeat("x", 2*wire.MaxMessage)}})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("sending: %v", err)
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
