package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/internal/pb"
)

const (
	maxOrdered = 10_000   // hosts in one order
	maxSeen    = 64 << 20 // bytes that a scheduler says it sees
)

// ErrNoSwarm says that the scheduler knows of nobody who has or wants the blob.
var ErrNoSwarm = errors.New("no swarm of this blob")

// Obeyed is how a command ended at a host; Failed is empty if it was carried out.
type Obeyed struct {
	Host   p2p.HostID
	Failed string
}

// Overseer answers managers.
type Overseer interface {
	// See returns what the scheduler sees, as JSON: all of it if d is "", or the
	// swarm of a blob, or ErrNoSwarm.
	See(d digest.Digest) ([]byte, error)
	// Order has hosts commanded and calls say for each of them, from one
	// goroutine, until ctx ends. What it returns is a status.
	Order(ctx context.Context, c p2p.Command, hosts []p2p.HostID, say func(Obeyed) error) error
}

// RegisterOverseer makes s answer managers: where there are certificates, only who
// has one of that role. meet is told who calls; nil: nobody is.
func RegisterOverseer(s grpc.ServiceRegistrar, o Overseer, meet func(Caller)) {
	pb.RegisterOverseerServer(s, &overseeing{o: o, meet: meet})
}

type overseeing struct {
	pb.UnimplementedOverseerServer
	o    Overseer
	meet func(Caller)
}

// admit lets managers in.
func (s *overseeing) admit(ctx context.Context) error {
	c, secure, err := callerOf(ctx)
	switch {
	case err != nil:
		return err
	case secure && c.Name.Role != RoleManager:
		return status.Errorf(codes.PermissionDenied, "%s is a %s; this is for managers, whose certificates have OU=%s", c.Name.ID, c.Name.Role, RoleManager)
	}
	if s.meet != nil {
		s.meet(c)
	}
	return nil
}

func (s *overseeing) See(m *pb.Look, stream grpc.ServerStreamingServer[pb.Seen]) error {
	if err := s.admit(stream.Context()); err != nil {
		return err
	}
	d := digest.Digest(m.GetDigest())
	if d != "" && p2p.ValidateDigest(d) != nil {
		return status.Error(codes.InvalidArgument, "digest")
	}
	text, err := s.o.See(d)
	if errors.Is(err, ErrNoSwarm) {
		return status.Error(codes.NotFound, err.Error())
	}
	for err == nil && len(text) > 0 {
		n := min(partSize, len(text))
		err = stream.Send(&pb.Seen{Part: text[:n]})
		text = text[n:]
	}
	return err
}

func (s *overseeing) Order(m *pb.Orders, stream grpc.ServerStreamingServer[pb.Obeyed]) error {
	if err := s.admit(stream.Context()); err != nil {
		return err
	}
	r := &reader{}
	c := r.command(m.GetCommand())
	if len(m.GetHosts()) > maxOrdered {
		r.fail("%d hosts", len(m.GetHosts()))
	}
	hosts := make([]p2p.HostID, len(m.GetHosts()))
	for i, h := range m.GetHosts() {
		hosts[i] = r.hostID(h)
	}
	if r.err != nil {
		return status.Error(codes.InvalidArgument, r.err.Error())
	}
	return s.o.Order(stream.Context(), c, hosts, func(o Obeyed) error {
		return stream.Send(&pb.Obeyed{Host: string(o.Host), Failed: o.Failed})
	})
}

// See asks the scheduler what it sees, as [Overseer] does.
func (c *Conn) See(ctx context.Context, d digest.Digest) ([]byte, error) {
	c.connect(ctx)
	stream, err := pb.NewOverseerClient(c.cc).See(ctx, &pb.Look{Digest: d.String()})
	var text []byte
	for err == nil {
		var m *pb.Seen
		if m, err = stream.Recv(); err == nil {
			text = append(text, m.GetPart()...)
		}
		if len(text) > maxSeen {
			return nil, fmt.Errorf("it sees more than %d bytes: %w", maxSeen, p2p.ErrInvalid)
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		return text, nil
	case status.Code(err) == codes.NotFound:
		return nil, ErrNoSwarm
	}
	return nil, said(err)
}

// Order has the scheduler command hosts, and calls obeyed for each, as it ends
// there. It returns when that was for all.
func (c *Conn) Order(ctx context.Context, m p2p.Command, hosts []p2p.HostID, obeyed func(Obeyed)) error {
	c.connect(ctx)
	names := make([]string, len(hosts))
	for i, h := range hosts {
		names[i] = string(h)
	}
	stream, err := pb.NewOverseerClient(c.cc).Order(ctx, &pb.Orders{Command: writer{}.command(m), Hosts: names})
	for err == nil {
		var o *pb.Obeyed
		if o, err = stream.Recv(); err != nil {
			break
		}
		r := &reader{}
		got := Obeyed{r.hostID(o.GetHost()), r.text(o.GetFailed(), maxReason)}
		if r.err != nil {
			return r.err
		}
		obeyed(got)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return said(err)
}

// said is what an error says, without the words of gRPC.
func said(err error) error {
	if s, is := status.FromError(err); is && s.Code() != codes.Canceled && s.Code() != codes.DeadlineExceeded {
		return errors.New(s.Message())
	}
	return err
}

// plain makes a reason of what may hold anything.
func plain(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, s)
	return s[:min(len(s), maxReason)]
}
