package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/sched"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

const method = "/dfsnapshotter.p2p.v1.Scheduler/Link"

// attacker speaks HTTP/2 as it likes.
type attacker struct {
	*http2.Framer
	conn net.Conn
}

func attack(t *testing.T, s *server) attacker {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	// Who does not read, and is not read, is done after a while.
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, http2.ClientPreface)
	a := attacker{http2.NewFramer(conn, conn), conn}
	a.AllowIllegalWrites = true
	_ = a.WriteSettings()
	return a
}

// headers are those of a good request, and more.
func headers(more ...hpack.HeaderField) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: method}, {Name: ":authority", Value: "x"},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}, more...) {
		_ = e.WriteField(f) // to memory
	}
	return b.Bytes()
}

// open begins stream number i.
func (a attacker) open(i int) (stream uint32, err error) {
	stream = uint32(2*i + 1)
	return stream, a.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: headers(), EndHeaders: true})
}

// TestFloods has each do one thing over and over, as fast as it goes. None may
// cost much memory, or keep the scheduler from serving hosts.
func TestFloods(t *testing.T) { // not parallel: it measures memory
	const times = 50_000
	junk := bytes.Repeat([]byte{0xab}, 16<<10)
	for name, once := range map[string]func(a attacker, i int) error{
		"pings":    func(a attacker, _ int) error { return a.WritePing(false, [8]byte{}) },
		"settings": func(a attacker, _ int) error { return a.WriteSettings() },
		"windows":  func(a attacker, _ int) error { return a.WriteWindowUpdate(0, 1) },
		"unknown":  func(a attacker, _ int) error { return a.WriteRawFrame(0xfe, 0, 0, junk) },
		"rapid reset": func(a attacker, i int) error {
			stream, err := a.open(i)
			if err == nil {
				err = a.WriteRSTStream(stream, http2.ErrCodeCancel)
			}
			return err
		},
		"streams": func(a attacker, i int) error {
			_, err := a.open(i)
			return err
		},
		"endless header": func(a attacker, i int) error {
			if i > 0 {
				return a.WriteContinuation(1, false, headers(hpack.HeaderField{Name: fmt.Sprint("x-", i), Value: strings.Repeat("v", 1000)}))
			}
			return a.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers()})
		},
		"large header": func(a attacker, i int) error {
			h := headers(hpack.HeaderField{Name: "x", Value: strings.Repeat("v", 12<<10)})
			return a.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: h, EndHeaders: true})
		},
		"endless message": func(a attacker, i int) error {
			if i == 0 {
				if _, err := a.open(0); err != nil {
					return err
				}
				return a.WriteData(1, false, binary.BigEndian.AppendUint32([]byte{0}, 1<<32-1))
			}
			return a.WriteData(1, false, junk)
		},
		"data without a stream": func(a attacker, _ int) error { return a.WriteData(77, false, junk) },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, nil)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			a := attack(t, s)
			drained := make(chan struct{})
			go func() {
				defer close(drained)
				_, _ = io.Copy(io.Discard, a.conn)
			}()
			sent := 0
			for ; sent < times; sent++ {
				if err := once(a, sent); err != nil {
					break
				}
			}
			runtime.ReadMemStats(&after)
			if got := int64(after.HeapInuse) - int64(before.HeapInuse); got > 32<<20 {
				t.Errorf("it took %d MiB of memory", got>>20)
			}
			h := join(t, s, nil, host("h", false))
			settle(t, s, 1)
			_ = a.conn.Close()
			<-drained
			settleConns(t, s, 1)
			h.say(t, want)
			t.Logf("%d times", sent)
		})
	}
}

// raw sends bytes as messages.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (raw) Unmarshal(b []byte, v any) error { *v.(*[]byte) = bytes.Clone(b); return nil }
func (raw) Name() string                    { return "proto" }

// rawStream opens a stream that says anything.
func rawStream(t *testing.T, s *server) grpc.ClientStream {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+s.addr(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	stream, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, grpc.ForceCodec(raw{}))
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func field(n protowire.Number, b []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), b)
}

// announcement is an Announce of host "r", in protobuf.
var announcement = field(1, field(1, append(field(1, []byte("r")), field(2, []byte(":65002"))...)))

func endOf(s grpc.ClientStream) codes.Code {
	for {
		var b []byte
		if err := s.RecvMsg(&b); err != nil {
			return status.Code(err)
		}
	}
}

// TestRawMessages sends what no host would.
func TestRawMessages(t *testing.T) {
	t.Parallel()
	more := protowire.AppendVarint(protowire.AppendTag(nil, 3, protowire.VarintType), 1)
	digestOf := func(b string) []byte { return field(1, []byte(b)) }
	for name, c := range map[string]struct {
		after []byte // the announce
		want  codes.Code
		count string // in /metrics
	}{
		"no protobuf":      {bytes.Repeat([]byte{0xff}, 100), codes.Internal, `streams_ended_total{code="Internal"} 1`},
		"too large":        {make([]byte, wire.MaxMessage+1), codes.ResourceExhausted, `streams_ended_total{code="ResourceExhausted"} 1`},
		"no digest":        {field(7, nil), codes.InvalidArgument, `messages_total{result="invalid"} 1`},
		"odd digest":       {field(7, digestOf("sha256:../../../etc/passwd")), codes.InvalidArgument, `messages_total{result="invalid"} 1`},
		"announce cut off": {field(7, digestOf(string(blob.Digest))), codes.InvalidArgument, `messages_total{result="invalid"} 1`},
		"two announces":    {announcement, codes.FailedPrecondition, `streams_ended_total{code="FailedPrecondition"} 1`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, nil)
			stream := rawStream(t, s)
			first := announcement
			if name == "announce cut off" {
				first = append(bytes.Clone(announcement), field(1, more)...) // protobuf merges the two
			}
			for _, m := range [][]byte{first, c.after} {
				if err := stream.SendMsg(m); err != nil {
					t.Fatal(err)
				}
			}
			if code := endOf(stream); code != c.want {
				t.Errorf("it ended with %v", code)
			}
			eventually(t, s, "dfscheduler_"+c.count+"\n")
		})
	}
}

// eventually waits until /metrics says so.
func eventually(t *testing.T, s *server, line string) {
	t.Helper()
	for text := ""; !strings.Contains(text, line); {
		select {
		case <-time.After(time.Millisecond):
			text = get(t, s, "/metrics")
		case <-t.Context().Done():
			t.Fatalf("/metrics does not say %q:\n%s", line, text)
		}
	}
}

// TestNoise sends messages in which a few bytes are wrong, and checks that
// each stream ends, or goes on, as it must.
func TestNoise(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	random := rand.New(rand.NewPCG(1, 2))
	digest := field(1, []byte(blob.Digest))
	blobs := field(1, protowire.AppendVarint(protowire.AppendTag(bytes.Clone(digest), 2, protowire.VarintType), 40<<20))
	good := [][]byte{
		announcement,
		field(2, append(bytes.Clone(blobs), field(2, []byte{2, 1, 0, 0, 0, 0x80})...)), // an inventory
		field(3, append(bytes.Clone(blobs), 0x20, 1)),                                  // a want
		field(5, append(bytes.Clone(digest), field(2, []byte{1, 2, 3})...)),            // progress
		field(10, append(bytes.Clone(digest), field(3, make([]byte, 64))...)),          // sums
	}
	for range 300 {
		stream := rawStream(t, s)
		for range 20 {
			m := bytes.Clone(good[random.IntN(len(good))])
			for range random.IntN(4) {
				m[random.IntN(len(m))] = byte(random.Uint32())
			}
			if stream.SendMsg(m) != nil {
				break
			}
		}
		_ = stream.CloseSend()
		switch code := endOf(stream); code {
		case codes.OK, codes.Unknown, codes.Internal, codes.InvalidArgument, codes.FailedPrecondition, codes.PermissionDenied, codes.ResourceExhausted, codes.Aborted:
		default:
			t.Fatalf("a stream ended with %v", code)
		}
	}
	settle(t, s, 0)
}

// TestDeaf has a host that lives and takes no messages: what waits for it is
// bounded, and it is let go.
func TestDeaf(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	n := join(t, s, nil, host("deaf", false))
	settle(t, s, 1)
	s.hub.mu.Lock()
	out := s.hub.sessions["deaf"].out
	s.hub.mu.Unlock()
	stripe := make([]p2p.Host, 30)
	for i := range stripe {
		stripe[i] = host(fmt.Sprint(i), false)
		stripe[i].Addr = "10.0.0.1:65002"
	}
	parents := p2p.Parents{Digest: blob.Digest, Stripes: [][]p2p.Host{stripe, stripe, stripe, stripe}}
	for range 4 * maxOutbox {
		s.hub.mu.Lock()
		s.hub.deliver([]sched.Send{{To: "deaf", Message: parents}})
		s.hub.mu.Unlock()
	}
	out.mu.Lock()
	waiting := out.size
	out.mu.Unlock()
	if waiting > maxOutboxSize+sizeOf(parents) {
		t.Errorf("%d bytes wait", waiting)
	}
	settle(t, s, 0)
	if code := n.ends(t); code != codes.ResourceExhausted {
		t.Errorf("it ended with %v", code)
	}
}
