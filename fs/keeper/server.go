package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dyingTries = 200
	dyingPause = 10 * time.Millisecond
)

// Config is what a keeper needs to know.
type Config struct {
	Socket string // control socket; created, mode 0600
	Relay  bool   // relay every session, also where the kernel could resend
	Detach bool   // leave the terminal session and the cgroup of the daemon that started this process
	Log    *slog.Logger
}

// Run is the keeper process: it makes the process small and hard to kill, then serves
// until ctx ends. It returns [ErrRunning] when a live keeper owns the socket.
func Run(ctx context.Context, cfg Config) error {
	harden(cfg)
	return Serve(ctx, cfg)
}

// Serve serves on cfg.Socket until ctx ends, and leaves the process as it is. All that
// it holds is closed at the end: mounts that no daemon serves then are dead.
func Serve(ctx context.Context, cfg Config) error {
	lock, ln, err := listen(cfg.Socket)
	if err != nil {
		return fmt.Errorf("keeper: %w", err)
	}
	defer unix.Close(lock)
	s := &server{cfg: cfg, sessions: map[string]*held{}, state: map[string]int{}}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	cfg.Log.Info("keeper is listening", "socket", cfg.Socket, "pid", os.Getpid())
	err = s.accept(ctx, ln)
	s.conns.Wait()
	s.close()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("keeper: %w", err)
}

// listen takes the socket over from a dead keeper. A lock beside it tells a dead one
// from a live one and is held as long as the process lives.
func listen(socket string) (lock int, ln *net.UnixListener, err error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return -1, nil, err
	}
	lock, err = unix.Open(socket+".lock", unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, nil, &os.PathError{Op: "open", Path: socket + ".lock", Err: err}
	}
	defer func() {
		if err != nil {
			unix.Close(lock)
		}
	}()
	if err := lockAlone(lock, socket); err != nil {
		return -1, nil, err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return -1, nil, err
	}
	ln, err = net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: socket})
	if err != nil {
		return -1, nil, err
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		ln.Close()
		return -1, nil, err
	}
	return lock, ln, nil
}

// lockAlone waits for a keeper that is just dying, and gives up before a live one.
func lockAlone(lock int, socket string) error {
	for range dyingTries {
		err := unix.Flock(lock, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return os.NewSyscallError("flock", err)
		}
		if c, err := net.Dial("unixpacket", socket); err == nil {
			c.Close()
			break
		}
		time.Sleep(dyingPause)
	}
	return fmt.Errorf("%w: %s", ErrRunning, socket)
}

type server struct {
	cfg   Config
	conns sync.WaitGroup

	mu       sync.Mutex // guards the two maps; a relay's own lock comes after it
	sessions map[string]*held
	state    map[string]int // sealed memory files
}

type held struct {
	*Session
	relay *relay // nil in resend mode
}

func (h *held) close() {
	if h.relay != nil {
		h.relay.close()
	}
	h.Close()
}

func (s *server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.sessions {
		h.close()
	}
	for _, fd := range s.state {
		unix.Close(fd)
	}
}

func (s *server) accept(ctx context.Context, ln *net.UnixListener) error {
	for {
		c, err := ln.AcceptUnix()
		if err != nil {
			return err
		}
		s.conns.Go(func() {
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			if err := s.converse(c); err != nil && ctx.Err() == nil {
				s.cfg.Log.Warn("keeper connection ended", "err", err)
			}
		})
	}
}

// converse answers the requests of one connection until the other side hangs up.
func (s *server) converse(c *net.UnixConn) error {
	if err := checkPeer(c); err != nil {
		return err
	}
	buf := make([]byte, maxMessage)
	for {
		req, fds, err := receive(c, buf)
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) {
			return nil
		}
		if err != nil {
			return err
		}
		reply, out := s.handle(req, fds)
		err = send(c, reply, out...)
		closeAll(out)
		if errors.Is(err, unix.EPIPE) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("answer %s: %w", req.Op, err)
		}
	}
}

// checkPeer lets only root and the keeper's own user in.
func checkPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if cerr != nil {
		return os.NewSyscallError("SO_PEERCRED", cerr)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("refused user %d", cred.Uid)
	}
	return nil
}

// handle does one request. It owns fds, and its caller closes the returned ones.
func (s *server) handle(req *message, fds []int) (reply *message, out []int) {
	reply = &message{Op: req.Op}
	var err error
	switch req.Op {
	case opHello:
		reply.Version, reply.Min, reply.PID, reply.Relay = Version, minVersion, os.Getpid(), s.cfg.Relay
	case opHold:
		err = s.hold(req.Session, fds)
		fds = nil
	case opTake:
		reply.Session, out, err = s.take(req.Name)
	case opAttach:
		out, err = s.attach(req.Name)
	case opRelease:
		s.release(req.Name)
	case opAbort:
		err = s.abort(req.Name)
	case opList:
		reply.List = s.list()
	case opPut:
		err = s.put(req.Name, fds)
		fds = nil
	case opGet:
		out, err = s.get(req.Name)
	default:
		err = fmt.Errorf("%w: operation %q is unknown to version %d", ErrVersion, req.Op, Version)
	}
	closeAll(fds)
	if err != nil {
		return failure(err), nil
	}
	return reply, out
}

// hold owns fds.
func (s *server) hold(ses *Session, fds []int) error {
	if ses == nil {
		closeAll(fds)
		return errors.New("hold: no session")
	}
	ses.setFDs(fds)
	h := &held{Session: ses}
	if err := ses.validate(); err != nil {
		h.close()
		return err
	}
	if old := s.remove(ses.Name); old != nil { // first, or two relays would read one connection
		old.close()
	}
	if ses.Relay {
		r, err := openRelay(ses, s.cfg.Log)
		if err != nil {
			h.close()
			return fmt.Errorf("relay %s: %w", ses.Name, err)
		}
		h.relay = r
	}
	s.mu.Lock()
	s.sessions[ses.Name] = h
	s.mu.Unlock()
	s.cfg.Log.Info("keeper holds a session", "session", ses.Name, "dir", ses.Dir, "relay", ses.Relay)
	return nil
}

func (s *server) find(name string) (*held, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.sessions[name]
	if h == nil {
		return nil, fmt.Errorf("session %s: %w", name, ErrNotHeld)
	}
	return h, nil
}

func (s *server) take(name string) (*Session, []int, error) {
	h, err := s.find(name)
	if err != nil {
		return nil, nil, err
	}
	c, err := h.dup()
	if err != nil {
		return nil, nil, err
	}
	return c, c.fds(), nil
}

func (s *server) attach(name string) ([]int, error) {
	h, err := s.find(name)
	if err != nil {
		return nil, err
	}
	if h.relay == nil {
		return nil, fmt.Errorf("session %s is not relayed", name)
	}
	fd, err := h.relay.attach()
	if err != nil {
		return nil, fmt.Errorf("attach %s: %w", name, err)
	}
	return []int{fd}, nil
}

func (s *server) remove(name string) *held {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.sessions[name]
	delete(s.sessions, name)
	return h
}

func (s *server) release(name string) {
	h := s.remove(name)
	if h == nil {
		return
	}
	if h.relay != nil {
		s.end(h) // or a notification that waits for a lock would keep it open
	}
	h.close()
}

// abort ends the connection even while a daemon holds a descriptor of it too.
func (s *server) abort(name string) error {
	h, err := s.find(name)
	if err != nil {
		return err
	}
	s.end(h)
	s.release(name)
	return nil
}

func (s *server) end(h *held) {
	if h.Dead() {
		return
	}
	if err := abortConnection(h.Dir, h.Dev); err != nil {
		s.cfg.Log.Warn("connection not aborted by the kernel, only closed", "session", h.Name, "err", err)
	}
}

func (s *server) list() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Status
	for _, h := range s.sessions {
		st := Status{Name: h.Name, Dir: h.Dir, Relay: h.Relay}
		if h.relay != nil {
			st.Served, st.Waiting = h.relay.status()
		}
		list = append(list, st)
	}
	slices.SortFunc(list, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// put owns fds.
func (s *server) put(name string, fds []int) error {
	if len(fds) != 1 || name == "" {
		closeAll(fds)
		return errors.New("put: want a name and one descriptor")
	}
	if _, err := checkSealed(fds[0]); err != nil {
		closeAll(fds)
		return fmt.Errorf("put %s: %w", name, err)
	}
	s.mu.Lock()
	old, ok := s.state[name]
	s.state[name] = fds[0]
	s.mu.Unlock()
	if ok {
		unix.Close(old)
	}
	return nil
}

func (s *server) get(name string) ([]int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fd, ok := s.state[name]
	if !ok {
		return nil, fmt.Errorf("state %s: %w", name, ErrNotHeld)
	}
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	return []int{n}, nil
}
