package manage

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage/internal/pb"
)

const (
	maxCSR, maxMessage = 16 << 10, 16 << 20
	// aliveEvery is how long a connection may be silent before either side asks
	// the other one whether it lives, and aliveFor how long that may take.
	aliveEvery, aliveFor = 5 * time.Second, 5 * time.Second
	answerIn             = 20 * time.Second
	buffer               = 4 << 10
)

// Certificate is what a node gets, in PEM.
type Certificate struct{ Chain, CA []byte }

// What a Handler answers that is the caller's fault.
var (
	ErrRefused = errors.New("refused") // the token or certificate is not good for this
	ErrInvalid = errors.New("invalid") // the request makes no sense
	ErrTaken   = errors.New("taken")   // the name is somebody else's
)

// Handler answers nodes.
type Handler interface {
	// Join gives a certificate to who has a token, of which hash is the hash.
	Join(ctx context.Context, hash string, r Request, p Place) (Certificate, error)
	// Renew gives a new one to who has one.
	Renew(ctx context.Context, r Request) (Certificate, error)
	// Link has send called with what the node is told, at once and whenever it
	// changes, until ctx ends, which says that the node has gone.
	Link(ctx context.Context, r Request, h Hello, send func(Orders) error) error
	// Report notes what a node that has a Link has moved since it last said so.
	Report(ctx context.Context, r Request, l Load) error
}

// Request is who calls.
type Request struct {
	Name wire.Name  // of the certificate; who joins says it
	CA   CA         // of the certificate; zero for who joins
	Key  any        // public key that a certificate is wanted for
	From netip.Addr // where the call comes from
}

// Authority finds the certificate that is shown to who asks for a server name, as
// of [CA.ServerName], and the CA of those who may show one. What there is for no
// cluster is what a node is shown that trusts nobody here, so that it can say so.
type Authority func(serverName string) (*tls.Certificate, *x509.CertPool, error)

// Server serves nodes.
type Server struct{ grpc *grpc.Server }

// Serve answers on ln, which it takes over, until Stop.
func (s *Server) Serve(ln net.Listener) error {
	err := s.grpc.Serve(ln)
	if errors.Is(err, grpc.ErrServerStopped) { // before it had begun
		return nil
	}
	return err
}

// Stop ends all streams and waits for their handlers.
func (s *Server) Stop() { s.grpc.Stop() }

// NewServer makes a server for a Handler.
func NewServer(find Authority, h Handler) *Server {
	config := &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		cert, members, err := find(hello.ServerName)
		if err != nil {
			return nil, err
		}
		return &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*cert}, NextProtos: []string{"h2"},
			ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: members, SessionTicketsDisabled: true,
		}, nil
	}}
	s := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(config)),
		grpc.MaxRecvMsgSize(64<<10), grpc.MaxSendMsgSize(maxMessage), grpc.MaxHeaderListSize(8<<10), grpc.MaxConcurrentStreams(16),
		grpc.ReadBufferSize(buffer), grpc.WriteBufferSize(buffer), grpc.SharedWriteBuffer(true),
		grpc.ConnectionTimeout(10*time.Second), grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: time.Minute, Time: aliveEvery, Timeout: aliveFor}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: aliveEvery, PermitWithoutStream: true}),
	)
	pb.RegisterManagerServer(s, &service{h: h})
	return &Server{s}
}

type service struct {
	pb.UnimplementedManagerServer
	h Handler
}

func (s *service) Join(ctx context.Context, m *pb.JoinRequest) (*pb.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	r := Request{From: from(ctx), Name: wire.Name{ID: p2p.HostID(m.GetName()), Role: wire.Role(m.GetRole())}}
	if err := r.Name.ID.Validate(); err != nil {
		return nil, coded(fmt.Errorf("%w: name: %w", ErrInvalid, err))
	}
	switch r.Name.Role {
	case wire.RoleHost, wire.RoleSeed, wire.RoleScheduler:
	default:
		return nil, coded(fmt.Errorf("%w: role %.40q is not host, seed or scheduler", ErrInvalid, m.GetRole()))
	}
	p, err := place(m.GetPlace())
	if err != nil {
		return nil, coded(err)
	}
	if r.Key, err = publicKey(m.GetCsr()); err != nil {
		return nil, coded(err)
	}
	return answer(s.h.Join(ctx, Token{Secret: m.GetToken()}.Hash(), r, p))
}

func (s *service) Renew(ctx context.Context, m *pb.RenewRequest) (*pb.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	r, err := member(ctx)
	if err != nil {
		return nil, coded(err)
	}
	if r.Key, err = publicKey(m.GetCsr()); err != nil {
		return nil, coded(err)
	}
	return answer(s.h.Renew(ctx, r))
}

func (s *service) Link(m *pb.Hello, stream grpc.ServerStreamingServer[pb.Orders]) error {
	r, err := member(stream.Context())
	if err != nil {
		return coded(err)
	}
	h, err := hello(m)
	if err != nil {
		return coded(err)
	}
	err = s.h.Link(stream.Context(), r, h, func(o Orders) error { return stream.Send(o.proto()) })
	if err != nil && stream.Context().Err() == nil { // else it has gone
		return coded(err)
	}
	return nil
}

func (s *service) Report(ctx context.Context, m *pb.Load) (*pb.Noted, error) {
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	r, err := member(ctx)
	if err != nil {
		return nil, coded(err)
	}
	l, err := load(m)
	if err == nil {
		err = s.h.Report(ctx, r, l)
	}
	if err != nil {
		return nil, coded(err)
	}
	return &pb.Noted{}, nil
}

// member is who calls with a certificate, which TLS has verified.
func member(ctx context.Context) (r Request, err error) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return r, fmt.Errorf("%w: nobody calls", ErrRefused)
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return r, fmt.Errorf("%w: this takes a certificate of the cluster", ErrRefused)
	}
	chain := info.State.VerifiedChains[0]
	r.CA, r.From = CAOf(chain[len(chain)-1].Raw), from(ctx)
	if r.Name, err = wire.Who(&info.State); err != nil {
		return r, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return r, nil
}

// from is where a call comes from; invalid if that is no address.
func from(ctx context.Context) (a netip.Addr) {
	if p, ok := grpcpeer.FromContext(ctx); ok {
		if tcp, ok := p.Addr.(*net.TCPAddr); ok {
			a = tcp.AddrPort().Addr().Unmap().WithZone("")
		}
	}
	return a
}

// publicKey reads a certificate request, whose signature shows that the caller
// has the private key.
func publicKey(der []byte) (any, error) {
	if len(der) > maxCSR {
		return nil, fmt.Errorf("%w: a certificate request of %d bytes", ErrInvalid, len(der))
	}
	r, err := x509.ParseCertificateRequest(der)
	if err == nil {
		err = r.CheckSignature()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: certificate request: %w", ErrInvalid, err)
	}
	return r.PublicKey, nil
}

func answer(c Certificate, err error) (*pb.Certificate, error) {
	if err != nil {
		return nil, coded(err)
	}
	return &pb.Certificate{Chain: c.Chain, Ca: c.CA}, nil
}

// coded turns an error into a status. What is not the caller's fault is told to
// nobody.
func coded(err error) error {
	switch {
	case errors.Is(err, ErrRefused):
		return status.Error(codes.PermissionDenied, err.Error())
	case errors.Is(err, ErrInvalid):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, ErrTaken):
		return status.Error(codes.AlreadyExists, err.Error())
	}
	return status.Error(codes.Unavailable, "the manager cannot answer just now; its log says why")
}
