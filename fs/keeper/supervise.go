package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	firstRetry = 5 * time.Millisecond
	lastRetry  = time.Second
)

// supervise notices at once when the keeper dies, finds or starts the next, and gives
// it all that the old one held.
func (c *Client) supervise(l *link) {
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-l.done:
		}
		c.drop(l)
		l.close()
		c.cfg.Log.Warn("the keeper is gone, looking for another", "err", l.err)
		var err error
		if l, err = c.connectAndRestore(); err != nil {
			return
		}
		c.setLink(l)
		c.cfg.Log.Info("a new keeper holds the sessions", "pid", l.pid)
	}
}

func (c *Client) connectAndRestore() (*link, error) {
	for {
		l, err := c.connect(c.ctx)
		if err == nil {
			if err = c.restore(l); err == nil {
				return l, nil
			}
			l.close()
		}
		if c.ctx.Err() != nil {
			return nil, c.ctx.Err()
		}
		c.cfg.Log.Error("sessions are without a keeper", "err", err)
		if !pause(c.ctx, lastRetry) {
			return nil, c.ctx.Err()
		}
	}
}

// restore gives a new keeper what this client remembers. Calls wait meanwhile, for the
// link is not published yet.
func (c *Client) restore(l *link) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.held {
		if s.Dead() {
			continue
		}
		if _, err := l.do(c.ctx, &message{Op: opHold, Session: s}, s.fds()); err != nil {
			return fmt.Errorf("hold %s: %w", s.Name, err)
		}
	}
	for name, fd := range c.state {
		if _, err := l.do(c.ctx, &message{Op: opPut, Name: name}, []int{fd}); err != nil {
			return fmt.Errorf("put state %s: %w", name, err)
		}
	}
	return nil
}

// connect dials until a keeper answers or ctx ends, and starts one if that is its task.
func (c *Client) connect(ctx context.Context) (*link, error) {
	var running bool // a keeper that was started here and did not answer yet
	for delay := firstRetry; ; delay = min(2*delay, lastRetry) {
		l, err := dial(ctx, c.cfg.Socket)
		if err == nil || errors.Is(err, ErrVersion) {
			c.reap()
			return l, err
		}
		if n := c.reap(); n > 0 {
			running = false
		}
		if len(c.cfg.Start) > 0 && !running {
			pid, serr := start(c.cfg.Start)
			if serr != nil {
				return nil, serr
			}
			c.started = append(c.started, pid)
			running = true
		}
		if !pause(ctx, delay) {
			return nil, fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		}
	}
}

// reap collects keepers started here that have died, so that none stays a zombie.
func (c *Client) reap() (n int) {
	alive := c.started[:0]
	for _, pid := range c.started {
		got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
		if err == nil && got == 0 {
			alive = append(alive, pid)
			continue
		}
		n++
	}
	c.started = alive
	return n
}

// start runs a keeper that shares nothing with this process but its standard error.
func start(command []string) (pid int, err error) {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return 0, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	pid, err = syscall.ForkExec(path, command, &syscall.ProcAttr{
		Dir:   "/",
		Env:   os.Environ(),
		Files: []uintptr{null.Fd(), null.Fd(), os.Stderr.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", path, err)
	}
	return pid, nil
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

var errBroken = errors.New("connection to the keeper broke")

// link is one connection to a keeper.
type link struct {
	conn  *net.UnixConn
	pid   int
	relay bool

	turn    chan struct{} // holds one token: the right to ask
	replies chan answer
	g       sync.WaitGroup
	done    chan struct{} // closed when the connection is no use any more
	err     error         // why; set before done is closed
}

type answer struct {
	msg *message
	fds []int
}

func dial(ctx context.Context, socket string) (*link, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unixpacket", socket)
	if err != nil {
		return nil, err
	}
	l := &link{conn: nc.(*net.UnixConn), turn: make(chan struct{}, 1), replies: make(chan answer), done: make(chan struct{})}
	l.turn <- struct{}{}
	l.g.Go(l.read)
	m, err := l.do(ctx, &message{Op: opHello, Version: Version, Min: minVersion, PID: os.Getpid()}, nil)
	if err == nil && (m.Version < minVersion || m.Min > Version) {
		err = fmt.Errorf("%w: it speaks %d to %d, this program %d to %d", ErrVersion, m.Min, m.Version, minVersion, Version)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	l.pid, l.relay = m.PID, m.Relay
	return l, nil
}

// read hands answers to the one who asks, and so sees the end of the connection also
// while nobody does.
func (l *link) read() {
	buf := make([]byte, maxMessage)
	for {
		m, fds, err := receive(l.conn, buf)
		if err != nil {
			l.err = err
			close(l.done)
			return
		}
		select {
		case l.replies <- answer{m, fds}:
		case <-time.After(lastRetry): // nobody asked
			closeAll(fds)
		}
	}
}

func (l *link) close() {
	l.conn.Close()
	l.g.Wait()
}

// call asks and returns the answer, which may be a refusal. An error that is errBroken
// says that nobody knows what became of the request.
func (l *link) call(ctx context.Context, m *message, fds []int) (*message, []int, error) {
	select {
	case <-l.turn:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	case <-l.done:
		return nil, nil, fmt.Errorf("%w: %w", errBroken, l.err)
	}
	defer func() { l.turn <- struct{}{} }()
	if err := send(l.conn, m, fds...); err != nil {
		l.conn.Close()
		return nil, nil, fmt.Errorf("%w: %w", errBroken, err)
	}
	select {
	case a := <-l.replies:
		return a.msg, a.fds, nil
	case <-l.done:
		return nil, nil, fmt.Errorf("%w: %w", errBroken, l.err)
	case <-ctx.Done():
		l.conn.Close() // or the next who asks would get this answer
		return nil, nil, fmt.Errorf("%w: %w", errBroken, context.Cause(ctx))
	}
}

// do is call for requests whose answer carries no descriptor.
func (l *link) do(ctx context.Context, m *message, fds []int) (*message, error) {
	reply, out, err := l.call(ctx, m, fds)
	if err != nil {
		return nil, err
	}
	closeAll(out)
	return reply, reply.err()
}
