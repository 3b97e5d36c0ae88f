package wire

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

const (
	// aliveEvery is how long a connection may be silent before either side
	// asks the other one whether it lives, and aliveFor how long that may take.
	aliveEvery = 5 * time.Second
	aliveFor   = 5 * time.Second
	connectFor = 5 * time.Second
	buffer     = 8 << 10
)

// Conn is a connection to a scheduler, which is made when it is first used.
type Conn struct {
	cc     *grpc.ClientConn
	secure bool
}

// Dial makes a connection to the scheduler at addr, "host:port". With id nil it
// is plain text. It does not wait.
func Dial(addr string, id *Identity) (*Conn, error) {
	creds := insecure.NewCredentials()
	if id != nil {
		creds = credentials.NewTLS(id.Client(RoleScheduler))
	}
	cc, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(creds),
		grpc.WithNoProxy(),
		grpc.WithUserAgent("dfsnapshotter"),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 2 * aliveEvery, Timeout: aliveFor}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: 3 * time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("dial scheduler %s: %w", addr, err)
	}
	return &Conn{cc: cc, secure: id != nil}, nil
}

// connect returns once the connection stands, or has not come about for a while.
func (c *Conn) connect(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, connectFor)
	defer cancel()
	c.cc.Connect()
	for state := c.cc.GetState(); state != connectivity.Ready; state = c.cc.GetState() {
		if !c.cc.WaitForStateChange(ctx, state) {
			return
		}
		c.cc.Connect() // it may have become idle
	}
}

// Close ends the connection and all that runs over it.
func (c *Conn) Close() error { return c.cc.Close() }

// NewServer makes a gRPC server for [Register] and [RegisterOverseer] with the limits of this protocol:
// few streams to a connection, small buffers, and hosts that no longer answer
// are gone within ten seconds. With id nil it is plain text.
func NewServer(id *Identity) *grpc.Server {
	var config *tls.Config
	if id != nil {
		config = id.Server(RoleHost, RoleSeed, RoleManager)
	}
	opts := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage),
		grpc.MaxConcurrentStreams(4), grpc.MaxHeaderListSize(8 << 10),
		grpc.ReadBufferSize(buffer), grpc.WriteBufferSize(buffer), grpc.SharedWriteBuffer(true),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: time.Minute, Time: aliveEvery, Timeout: aliveFor}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: aliveEvery, PermitWithoutStream: true}),
	}
	if config != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(config)))
	}
	return grpc.NewServer(opts...)
}
