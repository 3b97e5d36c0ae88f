package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"golang.org/x/sys/unix"
)

// ClientConfig says how to reach a keeper.
type ClientConfig struct {
	Socket string
	// Start is the command that becomes a keeper on Socket, run whenever there is none.
	// Empty: somebody else (systemd) starts keepers, and the client waits for them.
	Start []string
	Log   *slog.Logger
}

// Client talks to the keeper for one daemon. It remembers what it was asked to hold,
// and gives it to the next keeper when one dies. Calls wait for a keeper, and repeat
// what was cut off, until their ctx ends. It is safe for use by several goroutines.
type Client struct {
	cfg     ClientConfig
	once    bool // no supervisor: the first broken connection is the last
	ctx     context.Context
	cancel  context.CancelFunc
	g       sync.WaitGroup
	started []int // pids of keepers this process started; only connect uses it

	mu    sync.Mutex // guards the rest
	link  *link      // nil while there is no keeper
	up    chan struct{}
	held  map[string]*Session
	state map[string]int // sealed memory files
}

// Open connects to the keeper, starting one if need be, and keeps the connection up
// until Close. It returns [ErrVersion] when the keeper is too old or too new.
func Open(ctx context.Context, cfg ClientConfig) (*Client, error) {
	c := newClient(cfg)
	l, err := c.connect(ctx)
	if err != nil {
		c.cancel()
		return nil, fmt.Errorf("keeper on %s: %w", cfg.Socket, err)
	}
	c.setLink(l)
	c.g.Go(func() { c.supervise(l) })
	return c, nil
}

// Dial connects to a running keeper, once: for commands that only look or abort.
func Dial(ctx context.Context, socket string, log *slog.Logger) (*Client, error) {
	c := newClient(ClientConfig{Socket: socket, Log: log})
	c.once = true
	l, err := dial(ctx, socket)
	if err != nil {
		c.cancel()
		return nil, fmt.Errorf("keeper on %s: %w", socket, err)
	}
	c.setLink(l)
	return c, nil
}

func newClient(cfg ClientConfig) *Client {
	c := &Client{cfg: cfg, up: make(chan struct{}), held: map[string]*Session{}, state: map[string]int{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Close leaves the keeper alone with what it holds.
func (c *Client) Close() error {
	c.cancel()
	c.g.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != nil {
		c.link.close()
		c.link = nil
	}
	for _, s := range c.held {
		s.Close()
	}
	for _, fd := range c.state {
		unix.Close(fd)
	}
	c.held, c.state = nil, nil
	return nil
}

// Relay reports whether the keeper wants every session relayed.
func (c *Client) Relay() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link != nil && c.link.relay
}

// Ping returns once a keeper has answered.
func (c *Client) Ping(ctx context.Context) (pid int, err error) {
	m, _, err := c.call(ctx, &message{Op: opHello, Version: Version, Min: minVersion})
	if err != nil {
		return 0, err
	}
	return m.PID, nil
}

// Hold gives s to the keeper, and to its successors until Release or Close. The
// descriptors stay the caller's.
func (c *Client) Hold(ctx context.Context, s *Session) error {
	if err := s.validate(); err != nil {
		return err
	}
	own, err := s.dup()
	if err != nil {
		return err
	}
	if err := c.remember(own); err != nil {
		own.Close()
		return err
	}
	_, _, err = c.call(ctx, &message{Op: opHold, Session: s}, s.fds()...)
	if err != nil {
		return fmt.Errorf("hold %s: %w", s.Name, err)
	}
	return nil
}

// Take returns the session held under name, with descriptors that are the caller's;
// from now on this client too remembers it. It returns [ErrNotHeld] if there is none.
func (c *Client) Take(ctx context.Context, name string) (*Session, error) {
	m, fds, err := c.call(ctx, &message{Op: opTake, Name: name})
	if err != nil {
		return nil, fmt.Errorf("take %s: %w", name, err)
	}
	s := m.Session
	if s == nil {
		closeAll(fds)
		return nil, fmt.Errorf("take %s: no session in the answer", name)
	}
	s.setFDs(fds)
	own, err := s.dup()
	if err == nil {
		err = s.validate()
	}
	if err == nil {
		err = c.remember(own)
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("take %s: %w", name, err)
	}
	return s, nil
}

// remember owns s unless it fails.
func (c *Client) remember(s *Session) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		return ErrClosed
	}
	if old := c.held[s.Name]; old != nil {
		old.Close()
	}
	c.held[s.Name] = s
	return nil
}

// Attach returns the socket over which the keeper relays the requests of session name,
// beginning with all that have no answer yet. An earlier socket of it is closed. When
// that keeper dies lost is closed, and it is time to attach to the next.
func (c *Client) Attach(ctx context.Context, name string) (fd int, lost <-chan struct{}, err error) {
	l, _, fds, err := c.callOn(ctx, &message{Op: opAttach, Name: name})
	if err != nil {
		return -1, nil, fmt.Errorf("attach %s: %w", name, err)
	}
	if len(fds) != 1 {
		closeAll(fds)
		return -1, nil, fmt.Errorf("attach %s: %d descriptors in the answer", name, len(fds))
	}
	return fds[0], l.done, nil
}

// Release makes the keeper forget session name and close its descriptors.
func (c *Client) Release(ctx context.Context, name string) error {
	c.forget(name)
	if _, _, err := c.call(ctx, &message{Op: opRelease, Name: name}); err != nil {
		return fmt.Errorf("release %s: %w", name, err)
	}
	return nil
}

// Abort ends the connection of session name: all that waits in it gets ENOTCONN.
func (c *Client) Abort(ctx context.Context, name string) error {
	c.forget(name)
	if _, _, err := c.call(ctx, &message{Op: opAbort, Name: name}); err != nil {
		return fmt.Errorf("abort %s: %w", name, err)
	}
	return nil
}

func (c *Client) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.held[name]; s != nil {
		s.Close()
		delete(c.held, name)
	}
}

// List tells what the keeper holds, sorted by name.
func (c *Client) List(ctx context.Context) ([]Status, error) {
	m, _, err := c.call(ctx, &message{Op: opList})
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	return m.List, nil
}

// PutState leaves data, at most 1 MiB, with the keeper under name. It is in memory
// only, in a file that nobody can change.
func (c *Client) PutState(ctx context.Context, name string, data []byte) error {
	fd, err := sealed(name, data)
	if err != nil {
		return err
	}
	c.mu.Lock()
	if c.held == nil {
		c.mu.Unlock()
		unix.Close(fd)
		return ErrClosed
	}
	old, ok := c.state[name]
	c.state[name] = fd
	c.mu.Unlock()
	if ok {
		unix.Close(old)
	}
	return c.putState(ctx, name, fd)
}

func (c *Client) putState(ctx context.Context, name string, fd int) error {
	_, _, err := c.call(ctx, &message{Op: opPut, Name: name}, fd)
	if err != nil {
		return fmt.Errorf("put state %s: %w", name, err)
	}
	return nil
}

// State returns what was last put under name, or [ErrNotHeld].
func (c *Client) State(ctx context.Context, name string) ([]byte, error) {
	_, fds, err := c.call(ctx, &message{Op: opGet, Name: name})
	if err != nil {
		return nil, fmt.Errorf("get state %s: %w", name, err)
	}
	defer closeAll(fds)
	if len(fds) != 1 {
		return nil, fmt.Errorf("get state %s: %d descriptors in the answer", name, len(fds))
	}
	data, err := readSealed(fds[0])
	if err != nil {
		return nil, fmt.Errorf("get state %s: %w", name, err)
	}
	return data, nil
}

func (c *Client) call(ctx context.Context, m *message, fds ...int) (*message, []int, error) {
	_, reply, out, err := c.callOn(ctx, m, fds...)
	return reply, out, err
}

// callOn does one request on whatever keeper is there, and again on the next if the
// connection breaks: all operations may be repeated. It returns the connection too.
func (c *Client) callOn(ctx context.Context, m *message, fds ...int) (*link, *message, []int, error) {
	for {
		l, err := c.wait(ctx)
		if err != nil {
			return nil, nil, nil, err
		}
		reply, out, err := l.call(ctx, m, fds)
		if errors.Is(err, errBroken) && ctx.Err() == nil && !c.once {
			c.drop(l)
			continue
		}
		if err == nil {
			err = reply.err()
		}
		if err != nil {
			closeAll(out)
			return nil, nil, nil, err
		}
		return l, reply, out, nil
	}
}

// wait returns the connection, when there is one.
func (c *Client) wait(ctx context.Context) (*link, error) {
	for {
		c.mu.Lock()
		l, up := c.link, c.up
		c.mu.Unlock()
		if l != nil {
			return l, nil
		}
		select {
		case <-up:
		case <-c.ctx.Done():
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a keeper: %w", context.Cause(ctx))
		}
	}
}

func (c *Client) setLink(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = l
	close(c.up)
}

// drop forgets l, if it still is the connection in use.
func (c *Client) drop(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == l {
		c.link, c.up = nil, make(chan struct{})
	}
}
