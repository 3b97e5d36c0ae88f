// Package containerd asks a containerd what dfget needs of it: what it is and how it is
// configured, its images and content, and to pull.
package containerd

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	introspection "github.com/containerd/containerd/api/services/introspection/v1"
	version "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Socket is containerd's, where its configuration says nothing else.
const Socket = "/run/containerd/containerd.sock"

// Client asks one containerd, for one of its namespaces.
type Client struct {
	conn      *grpc.ClientConn
	socket    string
	namespace string
}

// Open returns a client of the containerd that listens on socket. Nobody is asked yet.
func Open(socket, namespace string) (*Client, error) {
	if err := identifiers.Validate(namespace); err != nil {
		return nil, fmt.Errorf("containerd's namespace: %w", err)
	}
	conn, err := grpc.NewClient("passthrough:///containerd", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20), grpc.MaxCallSendMsgSize(16<<20)))
	if err != nil {
		return nil, err
	}
	return &Client{conn, socket, namespace}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// in makes requests of the client's namespace.
func (c *Client) in(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, c.namespace)
}

// askFor is how long containerd may take to say what it is.
const askFor = 10 * time.Second

// Version returns containerd's version, such as "v2.3.4".
func (c *Client) Version(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	v, err := version.NewVersionClient(c.conn).Version(ctx, &emptypb.Empty{})
	if err != nil {
		return "", fmt.Errorf("ask containerd at %s: %w", c.socket, err)
	}
	return v.GetVersion(), nil
}

// Plugin is a part of containerd.
type Plugin struct {
	Exports      map[string]string
	Capabilities []string
	Failed       string // why it does not work; "": it does
}

// Plugin returns a plugin as it runs; nil: there is none.
func (c *Client) Plugin(ctx context.Context, kind, id string) (*Plugin, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	all, err := introspection.NewIntrospectionClient(c.conn).Plugins(ctx, &introspection.PluginsRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask containerd for its plugins: %w", err)
	}
	for _, p := range all.GetPlugins() {
		if p.GetType() == kind && p.GetID() == id {
			return &Plugin{Exports: p.GetExports(), Capabilities: slices.Clone(p.GetCapabilities()), Failed: strings.TrimSpace(p.GetInitErr().GetMessage())}, nil
		}
	}
	return nil, nil
}
