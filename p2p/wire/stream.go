package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/internal/pb"
)

// Caller is who is at the other end of a connection.
type Caller struct {
	Addr netip.Addr // as this side sees it; invalid if it is none
	Port uint16     // of the connection
	Name Name       // of its certificate; zero over plain text
}

// HostStream is a scheduler's end of a host's stream. One goroutine may Recv
// while another one Sends.
type HostStream struct {
	stream grpc.BidiStreamingServer[pb.ToScheduler, pb.ToHost]
	caller Caller
	w      writer
}

type service struct {
	pb.UnimplementedSchedulerServer
	serve func(*HostStream) error
}

// Register makes s serve the streams of hosts with serve, which runs once per
// stream and ends it with a status error, or nil.
func Register(s grpc.ServiceRegistrar, serve func(*HostStream) error) {
	pb.RegisterSchedulerServer(s, &service{serve: serve})
}

func (s *service) Link(stream grpc.BidiStreamingServer[pb.ToScheduler, pb.ToHost]) error {
	c, secure, err := callerOf(stream.Context())
	if err != nil {
		return err
	}
	return s.serve(&HostStream{stream: stream, caller: c, w: writer{secure}})
}

// callerOf is who makes a call, and whether by TLS.
func callerOf(ctx context.Context) (c Caller, secure bool, err error) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return c, false, status.Error(codes.Internal, "no peer")
	}
	if tcp, ok := p.Addr.(*net.TCPAddr); ok {
		c.Addr, c.Port = tcp.AddrPort().Addr().Unmap().WithZone(""), tcp.AddrPort().Port()
	}
	info, secure := p.AuthInfo.(credentials.TLSInfo)
	if secure {
		if c.Name, err = Who(&info.State); err != nil {
			return c, true, status.Error(codes.Unauthenticated, err.Error())
		}
	}
	return c, secure, nil
}

// Context ends with the stream.
func (s *HostStream) Context() context.Context { return s.stream.Context() }

// Caller says whose stream it is.
func (s *HostStream) Caller() Caller { return s.caller }

// Send sends a message.
func (s *HostStream) Send(m p2p.Message) error {
	for _, part := range s.w.toHost(m) {
		if err := s.stream.Send(part); err != nil {
			return err
		}
	}
	return nil
}

// Recv waits for the next message. An address that the host left open is the
// one its stream comes from. An error that wraps [p2p.ErrInvalid] says what the
// host did wrong, after ErrUnknown the next message may be read, and io.EOF says
// that the host has ended the stream.
func (s *HostStream) Recv() (p2p.Message, error) {
	m, err := s.stream.Recv()
	if err != nil {
		return nil, err
	}
	if m.GetAnnounce() != nil {
		return s.recvAnnounce(m.GetAnnounce())
	}
	return s.reader().fromHost(m)
}

func (s *HostStream) reader() *reader {
	r := &reader{secure: s.w.secure}
	if s.caller.Addr.IsValid() {
		r.seen = s.caller.Addr.String()
	}
	return r
}

func (s *HostStream) recvAnnounce(a *pb.Announce) (p2p.Message, error) {
	whole, err := s.reader().announce(a, true)
	have := haveSize(a)
	for err == nil && a.GetMore() {
		var m *pb.ToScheduler
		if m, err = s.stream.Recv(); err != nil {
			break
		}
		if a = m.GetAnnounce(); a == nil {
			return nil, fmt.Errorf("announce is not finished: %w", p2p.ErrInvalid)
		}
		have += haveSize(a)
		if n := len(whole.Inventory) + len(a.GetInventory()); n > maxInventory || have > maxHave || len(a.GetInventory()) == 0 {
			return nil, fmt.Errorf("announce of %d blobs and more: %w", n, p2p.ErrInvalid)
		}
		var part p2p.Announce
		part, err = s.reader().announce(a, false)
		whole.Inventory = append(whole.Inventory, part.Inventory...)
	}
	if err != nil {
		return nil, err
	}
	return whole, nil
}

// haveSize is how much memory the have-maps of an Announce take, about.
func haveSize(a *pb.Announce) (n int) {
	for _, i := range a.GetInventory() {
		n += len(i.GetHave())
	}
	return n
}

// SchedulerStream is a host's end of its stream to a scheduler. Recv is for one
// goroutine, Send for any.
type SchedulerStream struct {
	stream grpc.BidiStreamingClient[pb.ToScheduler, pb.ToHost]
	w      writer
	mu     sync.Mutex // held while sending
}

// Link opens a host's stream, which lives as long as ctx. It gives the scheduler
// a few seconds to become reachable; when to try again is the caller's business.
func (c *Conn) Link(ctx context.Context) (*SchedulerStream, error) {
	c.connect(ctx)
	stream, err := pb.NewSchedulerClient(c.cc).Link(ctx)
	if err != nil {
		return nil, err
	}
	return &SchedulerStream{stream: stream, w: writer{c.secure}}, nil
}

// Send sends a message.
func (s *SchedulerStream) Send(m p2p.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, part := range s.w.toScheduler(m) {
		if err := s.stream.Send(part); err != nil {
			return err
		}
	}
	return nil
}

// Recv waits for the next message. Messages of a kind that this version does
// not know are left out.
func (s *SchedulerStream) Recv() (p2p.Message, error) {
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return nil, err
		}
		msg, err := (&reader{secure: s.w.secure}).fromScheduler(m)
		if errors.Is(err, ErrUnknown) {
			continue
		}
		return msg, err
	}
}
