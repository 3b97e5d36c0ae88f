package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

const (
	defaultStall = 10 * time.Second
	dialTimeout  = 3 * time.Second
	// A host that waits on behalf of others gives up a bit before they do, or
	// all of a chain would change parents because of one that hangs.
	stallPerHop = time.Second
	leastStall  = 2 * time.Second
	maxRetry    = time.Minute
)

// ClientConfig says how peers are reached.
type ClientConfig struct {
	Identity   *wire.Identity // nil: plain text
	Stall      time.Duration  // a peer that sends nothing for so long is given up; 0: 10 s
	Registerer prometheus.Registerer
}

// Client asks other hosts for pieces. Connections are kept and used again.
type Client struct {
	http     *http.Client
	scheme   string
	stall    time.Duration
	identity *wire.Identity
	metrics  *clientMetrics
}

// NewClient makes a Client.
func NewClient(c ClientConfig) (*Client, error) {
	if c.Stall <= 0 {
		c.Stall = defaultStall
	}
	m, err := newClientMetrics(c.Registerer)
	if err != nil {
		return nil, err
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	t := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout: 2 * dialTimeout,
		Protocols:           protocols, DisableCompression: true,
		MaxIdleConns: 1024, MaxIdleConnsPerHost: 16, IdleConnTimeout: 90 * time.Second, // less than the server's
		MaxResponseHeaderBytes: 8 << 10, ReadBufferSize: 16 << 10,
	}
	client := &Client{scheme: "http", identity: c.Identity, stall: c.Stall, metrics: m}
	if c.Identity != nil {
		client.scheme = "https"
		t.TLSClientConfig = c.Identity.Client(wire.RoleHost, wire.RoleSeed)
	}
	client.http = &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	return client, nil
}

// Close closes the connections that are idle. Requests under way end with
// their contexts.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Get asks peer once for n bytes of b from off on. ctx governs the body, too;
// errors of the peer are of type *Error.
func (c *Client) Get(ctx context.Context, peer p2p.Host, b p2p.Blob, off, n int64, ask Ask) (*Body, error) {
	if off < 0 || n <= 0 || n > b.Size-off {
		return nil, fmt.Errorf("get %d bytes at %d of %s: blob has %d", n, off, b.Digest, b.Size)
	}
	ctx, stop := context.WithCancelCause(ctx)
	body, err := c.get(ctx, stop, peer, b, off, n, ask)
	c.metrics.requests.WithLabelValues(asked(err)).Inc()
	if err != nil {
		stop(err)
	}
	return body, err
}

func (c *Client) get(ctx context.Context, stop context.CancelCauseFunc, peer p2p.Host, b p2p.Blob, off, n int64, ask Ask) (*Body, error) {
	g := c.guard(ask.Hops, stop)
	defer g.stop()
	if ask.Wait {
		g.timer.Reset(waitFor + g.after) // by then it answers, whatever it has
	}
	resp, err := c.do(ctx, peer, "/blobs/"+b.Digest.String(), func(h http.Header) {
		h.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
		ask.header(h)
	})
	if ask.Wait && errors.Is(err, errAsk) {
		return nil, &Error{Peer: peer.ID, Failure: p2p.Missing, Err: err} // an older build, which cannot wait
	}
	if err != nil {
		return nil, err
	}
	if n, err = promised(resp, b.Size, off, n); err != nil {
		_ = resp.Body.Close()
		return nil, &Error{Peer: peer.ID, Failure: p2p.Missing, Err: err}
	}
	return &Body{Off: off, N: n, peer: peer.ID, r: resp.Body, left: n, guard: g, ctx: ctx, stop: stop, count: c.metrics.bytes}, nil
}

// origin makes a Body of what the origin sends, so that it is watched and
// replaced like any other source.
func (c *Client) origin(ctx context.Context, ask func(context.Context, int64, int64) (io.ReadCloser, error), off, n int64) (*Body, error) {
	ctx, stop := context.WithCancelCause(ctx)
	g := c.guard(0, stop)
	defer g.stop()
	r, err := ask(ctx, off, n)
	if err != nil {
		err = failed(ctx, "", err)
		stop(err)
		return nil, err
	}
	return &Body{Off: off, N: n, r: r, left: n, guard: g, ctx: ctx, stop: stop}, nil
}

// guard makes a guard for a request that was passed on so often.
func (c *Client) guard(hops int, stop context.CancelCauseFunc) *guard {
	return newGuard(max(c.stall-time.Duration(hops)*stallPerHop, min(c.stall, leastStall)), stop)
}

// promised returns how many bytes a good response holds.
func promised(resp *http.Response, size, off, n int64) (int64, error) {
	if resp.StatusCode != http.StatusPartialContent {
		return 0, fmt.Errorf("answered %s", resp.Status)
	}
	gotOff, gotN, gotSize, err := parseContentRange(resp.Header.Get("Content-Range"))
	if err != nil {
		return 0, err
	}
	if gotSize != size || gotOff != off || gotN > n || resp.ContentLength != gotN {
		return 0, fmt.Errorf("sends %d bytes at %d of %d, not %d at %d of %d", gotN, gotOff, gotSize, n, off, size)
	}
	return gotN, nil
}

// do sends a GET and returns what is a success.
func (c *Client) do(ctx context.Context, peer p2p.Host, path string, header func(http.Header)) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.scheme+"://"+peer.Addr+path, nil)
	if err != nil {
		return nil, &Error{Peer: peer.ID, Failure: p2p.Unreachable, Err: err}
	}
	header(req.Header)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, failed(ctx, peer.ID, err)
	}
	if err := c.check(resp, peer); err != nil {
		_, _ = io.CopyN(io.Discard, resp.Body, 1<<10) // so that the connection can be used again
		_ = resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

func (c *Client) check(resp *http.Response, peer p2p.Host) error {
	if resp.TLS != nil {
		if who, err := wire.Who(resp.TLS); err != nil || who.ID != peer.ID || c.identity.Blocked(who.ID) {
			return &Error{Peer: peer.ID, Failure: p2p.Unreachable, Err: errors.Join(ErrIdentity, err)}
		}
	}
	e := &Error{Peer: peer.ID, Err: fmt.Errorf("answered %s", resp.Status)}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
		return nil
	case http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable:
		e.Failure, e.Err = p2p.Missing, ErrNotFound
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		e.Failure, e.Err = p2p.Busy, errBusy
		if s, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16); err == nil {
			e.RetryAfter = min(time.Duration(s)*time.Second, maxRetry)
		}
	case http.StatusBadRequest:
		e.Failure, e.Err = p2p.Unreachable, errAsk
	case http.StatusBadGateway, http.StatusLoopDetected:
		e.Failure = p2p.Missing // it lacks the bytes and could not get them either
	default:
		e.Failure = p2p.Unreachable
	}
	return e
}
