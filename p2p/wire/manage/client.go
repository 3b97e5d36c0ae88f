package manage

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage/internal/pb"
)

// Join asks the manager at addr for a certificate and writes it, its key and the
// CA to files, as of [Files]. Asked again after an answer was lost it
// gives the same key, so that a one-time token is good for that.
func Join(ctx context.Context, addr string, t Token, name wire.Name, p Place, f wire.Files) error {
	key, csr, err := keptKey(f.Key)
	if err != nil {
		return err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: t.CA.ServerName(),
		InsecureSkipVerify: true, // verified below: by the token
		VerifyConnection:   func(s tls.ConnectionState) error { return verifyByDigest(&s, t.CA) },
	}
	return ask(ctx, addr, config, func(ctx context.Context, c pb.ManagerClient) error {
		ctx, cancel := context.WithTimeout(ctx, answerIn)
		defer cancel()
		got, err := c.Join(ctx, &pb.JoinRequest{Token: t.Secret, Name: string(name.ID), Role: string(name.Role), Csr: csr, Place: p.proto()})
		if err != nil {
			return err
		}
		return write(f, key, got)
	})
}

// Renew asks the manager at addr for a new certificate, with a new key, and puts
// both in the place of the files' ones.
func Renew(ctx context.Context, addr string, f wire.Files) error {
	config, err := memberConfig(f)
	if err != nil {
		return err
	}
	key, csr, err := newKey()
	if err != nil {
		return err
	}
	return ask(ctx, addr, config, func(ctx context.Context, c pb.ManagerClient) error {
		ctx, cancel := context.WithTimeout(ctx, answerIn)
		defer cancel()
		got, err := c.Renew(ctx, &pb.RenewRequest{Csr: csr})
		if err != nil {
			return err
		}
		return write(f, key, got)
	})
}

// Teller says now and then how busy a node is, until ctx ends. say returns nil
// when the manager has noted it.
type Teller func(ctx context.Context, say func(Load) error)

// Link has the manager at addr say what holds, and calls hear with that, until
// ctx ends or the manager cannot be reached any more. As long as it lasts, tell
// runs, if there is one.
func Link(ctx context.Context, addr string, f wire.Files, h Hello, hear func(Orders), tell Teller) error {
	config, err := memberConfig(f)
	if err != nil {
		return err
	}
	return ask(ctx, addr, config, func(ctx context.Context, c pb.ManagerClient) error {
		stream, err := c.Link(ctx, &pb.Hello{Address: h.Address, Version: h.Version, Place: h.Place.proto()})
		if err != nil {
			return err
		}
		end := func() {}
		defer func() { end() }()
		for {
			m, err := stream.Recv()
			if err != nil {
				return err
			}
			if tell != nil { // the manager knows this node's stream now
				end, tell = telling(ctx, c, tell), nil
			}
			o, err := orders(m)
			if err != nil {
				return err
			}
			hear(o)
		}
	})
}

// telling has tell run, and returns what ends it.
func telling(ctx context.Context, c pb.ManagerClient, tell Teller) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tell(ctx, func(l Load) error {
			ctx, cancel := context.WithTimeout(ctx, answerIn)
			defer cancel()
			_, err := c.Report(ctx, l.proto())
			return err
		})
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// memberConfig is that of a connection with a node's certificate, as its files
// are now.
func memberConfig(f wire.Files) (*tls.Config, error) {
	text, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: no certificate in it", f.CA)
	}
	own, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", f.Cert, f.Key, err)
	}
	ca := CAOf(block.Bytes)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: ca.ServerName(), Certificates: []tls.Certificate{own},
		InsecureSkipVerify: true, // verified below: by role, not by name
		VerifyConnection:   func(s tls.ConnectionState) error { return verifyByDigest(&s, ca) },
	}, nil
}

// verifyByDigest checks that the other end is a manager whose certificate the CA
// with that digest has signed. The manager sends the CA's certificate along.
func verifyByDigest(s *tls.ConnectionState, ca CA) error {
	pool := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		if CAOf(c.Raw) == ca {
			pool.AddCert(c)
		}
	}
	c := s.PeerCertificates[0]
	if _, err := c.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return fmt.Errorf("this is another manager, or it has the cluster no more: %w", err)
	}
	if u := c.Subject.OrganizationalUnit; len(u) != 1 || u[0] != string(wire.RoleManager) {
		return fmt.Errorf("who answers is no manager but a %.100q", u)
	}
	return nil
}

// ask has f call the manager at addr.
func ask(ctx context.Context, addr string, config *tls.Config, f func(context.Context, pb.ManagerClient) error) error {
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithAuthority(config.ServerName), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithUserAgent("dfsnapshotter"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)), grpc.WithReadBufferSize(buffer), grpc.WithWriteBufferSize(buffer),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 2 * aliveEvery, Timeout: aliveFor}))
	if err != nil {
		return fmt.Errorf("manager %s: %w", addr, err)
	}
	defer cc.Close()
	err = f(ctx, pb.NewManagerClient(cc))
	switch s, is := status.FromError(err); {
	case err == nil:
		return nil
	case is && (s.Code() == codes.PermissionDenied || s.Code() == codes.AlreadyExists || s.Code() == codes.InvalidArgument):
		return fmt.Errorf("manager %s: %s: %w", addr, s.Message(), ErrRefused)
	case is:
		return fmt.Errorf("manager %s: %s", addr, s.Message())
	}
	return fmt.Errorf("manager %s: %w", addr, err)
}
