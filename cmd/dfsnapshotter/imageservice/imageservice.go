// Package imageservice stands between a kubelet and the CRI image service of containerd.
// It forwards every call, and learns from those that pull images how these may be read,
// which containerd does not tell its snapshotters.
package imageservice

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// maxMessage is the size of the largest message that is forwarded, as of kubelets.
const maxMessage = 16 << 20

// Config says who is asked, and who wants to know.
type Config struct {
	Endpoint string // containerd's socket
	// Pulls hears of an image that is to be pulled, with what it may be read by. What it
	// returns is told how that ended.
	Pulls func(p Pull) (ended func(err error))
	Log   *slog.Logger
}

// Service is an image service. Its methods may be called concurrently.
type Service struct {
	cfg     Config
	server  *grpc.Server
	conn    *grpc.ClientConn
	served  chan error
	streams sync.WaitGroup // what clients say
}

// Serve answers on ln, which it takes over, until Close.
func Serve(ln net.Listener, c Config) (*Service, error) {
	conn, err := grpc.NewClient("passthrough:///containerd", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", c.Endpoint)
		}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	s := &Service{cfg: c, conn: conn, served: make(chan error, 1)}
	s.server = grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.UnknownServiceHandler(s.forward),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.WaitForHandlers(true))
	go func() { s.served <- s.server.Serve(ln) }()
	return s, nil
}

// Close ends all calls, and returns when whoever wants to know has heard how.
func (s *Service) Close() error {
	s.server.Stop()
	s.streams.Wait()
	return errors.Join(<-s.served, s.conn.Close())
}

// forward passes a call on, whatever it is.
func (s *Service) forward(_ any, in grpc.ServerStream) (err error) {
	method, ok := grpc.MethodFromServerStream(in)
	if !ok {
		return status.Error(codes.Internal, "the call has no name")
	}
	ctx, cancel := context.WithCancel(outgoing(in.Context()))
	defer cancel()
	out, err := grpc.NewClientStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, s.conn, method)
	if err != nil {
		return err
	}
	var first sync.Once
	ended := func(error) {}
	s.streams.Go(func() {
		if err := up(in, out, func(message []byte) {
			first.Do(func() { ended = s.pulls(method, message) })
		}); err != nil {
			cancel()
		}
	})
	err = down(out, in)
	first.Do(func() {}) // if nothing was said until now, nobody waits for its end
	ended(err)
	return err
}

// up passes on what the client says.
func up(in grpc.ServerStream, out grpc.ClientStream, heard func(message []byte)) error {
	for {
		var message []byte
		if err := in.RecvMsg(&message); err != nil {
			if errors.Is(err, io.EOF) {
				return out.CloseSend()
			}
			return err
		}
		heard(message)
		if out.SendMsg(&message) != nil {
			return nil //nolint:nilerr // the answer says why
		}
	}
}

// down passes on what the service answers.
func down(out grpc.ClientStream, in grpc.ServerStream) error {
	header, err := out.Header()
	if err != nil {
		return err
	}
	if err := in.SendHeader(header); err != nil {
		return err
	}
	for {
		var message []byte
		if err := out.RecvMsg(&message); err != nil {
			in.SetTrailer(out.Trailer())
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := in.SendMsg(&message); err != nil {
			return err
		}
	}
}

// outgoing returns a context that takes along what the client has said besides messages.
func outgoing(ctx context.Context) context.Context {
	said, _ := metadata.FromIncomingContext(ctx)
	md := said.Copy()
	for k := range said {
		if strings.HasPrefix(k, ":") || strings.HasPrefix(k, "grpc-") || slices.Contains([]string{"content-type", "user-agent", "te"}, k) {
			delete(md, k)
		}
	}
	return metadata.NewOutgoingContext(ctx, md)
}

// pulls looks whether a call pulls an image.
func (s *Service) pulls(method string, message []byte) (ended func(error)) {
	if !slices.Contains([]string{"/runtime.v1.ImageService/PullImage", "/runtime.v1alpha2.ImageService/PullImage"}, method) {
		return func(error) {}
	}
	p, err := parsePull(message)
	if err != nil {
		s.cfg.Log.Debug("nothing is learned of how an image may be read", "err", err)
		return func(error) {}
	}
	return s.cfg.Pulls(p)
}
