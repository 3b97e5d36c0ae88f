package fs

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fs/keeper"
)

const (
	defaultMaxRead = 1 << 20
	defaultDrain   = 3 * time.Second
	maxBackground  = 4096 // one queue serves all containers
)

// sessionOptions describe one FUSE mount.
type sessionOptions struct {
	Name      string        // what the keeper knows it by
	Dir       string        // mount point, made if missing
	Relay     bool          // relay also where the kernel could resend
	MaxRead   int           // bytes of the longest READ; 0: 1 MiB; relayed at most keeper.MaxRelayRead
	ReadAhead int           // bytes the kernel reads ahead; 0: its default
	ACL       bool          // the kernel obeys POSIX ACLs in xattrs; of no use where xattrs are ENOSYS
	Drain     time.Duration // Close waits so long for answers on the way; 0: 3 s
}

// session is a mount that survives this process. It serves from openSession until
// Close, and is left with the keeper then; requests that come meanwhile wait.
type session struct {
	o     sessionOptions
	k     *keeper.Client
	raw   fuse.RawFileSystem
	log   *slog.Logger
	held  *keeper.Session // with descriptors of its own
	taken bool

	ctx      context.Context
	cancel   context.CancelFunc
	stopping atomic.Bool
	done     chan struct{} // closed when serving has ended for good

	mu     sync.Mutex // guards what follows
	server *fuse.Server
	fd     int // what server reads; it closes it
	stop   int // a duplicate of fd, to stop reading through; -1 when not serving
}

// openSession mounts o.Dir, or takes the mount over that the keeper holds under o.Name,
// and serves raw on it. raw must be able to answer when it is called: requests that an
// earlier process left unanswered come at once.
//
// A live mount at o.Dir that this keeper does not hold can only be some other process's
// or a dead one's: it is detached, which leaves those who use it alone, and o.Dir is
// mounted anew.
func openSession(ctx context.Context, k *keeper.Client, o sessionOptions, raw fuse.RawFileSystem, log *slog.Logger) (*session, error) {
	if o.MaxRead == 0 {
		o.MaxRead = defaultMaxRead
	}
	if o.Drain == 0 {
		o.Drain = defaultDrain
	}
	dir, err := mountPath(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("session %s: %w", o.Name, err)
	}
	o.Dir = dir
	s := &session{
		o: o, k: k, raw: keepMounted{raw}, log: log.With("session", o.Name),
		done: make(chan struct{}), stop: -1,
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	srv, fd, err := s.open(ctx)
	if err != nil {
		s.cancel()
		return nil, fmt.Errorf("session %s: %w", o.Name, err)
	}
	s.readAhead()
	s.log.Info("session serves", "dir", dir, "takeover", s.taken, "relay", s.held.Relay)
	s.adopt(srv, fd)
	go s.run(srv)
	return s, nil
}

// open returns a server that has been through INIT and reads the kernel's requests from
// fd once it serves.
func (s *session) open(ctx context.Context) (srv *fuse.Server, fd int, err error) {
	if err := s.takeOver(ctx); err != nil {
		return nil, -1, err
	}
	var fresh func(reply []byte) error
	if s.held == nil {
		if fresh, err = s.mount(ctx); err != nil {
			return nil, -1, err
		}
	}
	srv, fd, err = s.initServer(fresh)
	if err == nil {
		if err = s.connect(ctx, fd); err != nil {
			discard(srv, fd)
		}
	}
	if err != nil {
		if !s.taken {
			s.abandon(ctx)
		}
		s.held.Close()
		return nil, -1, err
	}
	return srv, fd, nil
}

// connect makes fd, on which a server was initialised, the kernel's or the relay's.
func (s *session) connect(ctx context.Context, fd int) error {
	if s.held.Relay {
		sock, err := s.k.Attach(ctx, s.o.Name)
		if err != nil {
			return err
		}
		defer unix.Close(sock)
		return os.NewSyscallError("dup3", unix.Dup3(sock, fd, unix.O_CLOEXEC))
	}
	// A graceful stop left it so.
	if err := unix.SetNonblock(s.held.FD, false); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if err := unix.Dup3(s.held.FD, fd, unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("dup3", err)
	}
	if !s.taken {
		return nil
	}
	if _, err := unix.Write(s.held.FD, resendMessage()); err != nil {
		return fmt.Errorf("ask the kernel to resend: %w", err)
	}
	return nil
}

// adopt makes srv the server that the session's other methods speak of.
func (s *session) adopt(srv *fuse.Server, fd int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server, s.fd = srv, fd
	stop, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		s.log.Warn("session cannot be stopped gracefully", "err", err)
		stop = -1
	}
	s.stop = stop
	if s.stopping.Load() {
		s.stopReading()
	}
}

// run serves until the mount ends or the session is closed. A relayed session's socket
// breaks with its keeper; it goes on over the next one's, which sends again whatever
// has no answer yet.
func (s *session) run(srv *fuse.Server) {
	defer close(s.done)
	for {
		srv.Serve()
		s.mu.Lock()
		unix.Close(s.stop)
		s.fd, s.stop = -1, -1
		s.mu.Unlock()
		if s.stopping.Load() {
			return
		}
		if !s.held.Relay || s.held.Dead() {
			s.log.Warn("the mount has ended", "dir", s.o.Dir)
			return
		}
		s.log.Warn("the relay is gone, waiting for another")
		next, fd, err := s.initServer(nil)
		if err == nil {
			if err = s.connect(s.ctx, fd); err != nil {
				discard(next, fd)
			}
		}
		if err != nil {
			if !s.stopping.Load() {
				s.log.Error("session no longer serves", "err", err)
			}
			return
		}
		s.adopt(next, fd)
		srv = next
	}
}

// Takeover reports whether the mount is one that an earlier process made: the kernel
// then remembers what that process told it.
func (s *session) Takeover() bool { return s.taken }

// Server returns the server for notifications. It changes when a relay dies, so it is
// not to be kept.
func (s *session) Server() *fuse.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.server
}

// Dev returns the device number of the mount.
func (s *session) Dev() uint32 { return s.held.Dev }

// Close stops serving and leaves the mount with the keeper. What has been read from the
// kernel is answered first, within o.Drain; what is not then, the next process is sent
// again. When ctx ends before raw has returned from all calls, its error is returned.
func (s *session) Close(ctx context.Context) error {
	s.stopping.Store(true)
	s.cancel()
	s.mu.Lock()
	s.stopReading()
	s.mu.Unlock()
	drain := time.NewTimer(s.o.Drain)
	defer drain.Stop()
	select {
	case <-s.done:
	case <-drain.C:
		s.log.Warn("requests are left to the next process")
		s.mu.Lock()
		s.cutOff()
		s.mu.Unlock()
		select {
		case <-s.done:
		case <-ctx.Done():
			return fmt.Errorf("close session %s: %w", s.o.Name, context.Cause(ctx))
		}
	case <-ctx.Done():
		return fmt.Errorf("close session %s: %w", s.o.Name, context.Cause(ctx))
	}
	s.held.Close()
	return nil
}

// stopReading ends the server's loops once they have answered what they have read: a
// read that would wait now fails instead. s.mu is held.
func (s *session) stopReading() {
	if s.stop < 0 {
		return
	}
	if err := unix.SetNonblock(s.stop, true); err != nil {
		s.log.Warn("session cannot be stopped gracefully", "err", err)
	}
	s.restartReads()
}

// cutOff takes the connection from the server while requests keep it busy: its loops
// end, and answers still to come go nowhere. s.mu is held.
func (s *session) cutOff() {
	if s.stop < 0 {
		return
	}
	if err := replaceByNull(s.fd); err != nil {
		s.log.Warn("session cannot be stopped", "err", err)
	}
	s.restartReads()
}

// restartReads makes the kernel begin anew every read(2) that waits in this process, so
// that it sees what was changed. The Go runtime uses this signal for itself, ignores
// spare ones, and has system calls restarted.
func (s *session) restartReads() {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		s.log.Warn("threads not listed", "err", err)
		return
	}
	for _, t := range threads {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		// A thread that has ended meanwhile waits in no read.
		_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
	}
}

// Unmount ends the mount for good, for those who still use it too.
func (s *session) Unmount() error {
	s.stopping.Store(true)
	err := detach(s.o.Dir)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if aerr := s.k.Abort(ctx, s.o.Name); aerr != nil && !errors.Is(aerr, keeper.ErrNotHeld) {
		err = errors.Join(err, aerr)
	}
	return errors.Join(err, s.Close(ctx))
}

// keepMounted hides from the file system that a server has ended: the mount has not.
type keepMounted struct{ fuse.RawFileSystem }

func (keepMounted) OnUnmount() {}

// logger turns go-fuse's log into ours. While the session stops, its loops complain
// about what was done to them.
func (s *session) logger() *log.Logger { return log.New(fuseLog{s}, "", 0) }

type fuseLog struct{ s *session }

func (w fuseLog) Write(p []byte) (int, error) {
	level := slog.LevelWarn
	if w.s.stopping.Load() {
		level = slog.LevelDebug
	}
	w.s.log.Log(context.Background(), level, "fuse", "text", string(p))
	return len(p), nil
}

// discard ends a server that will not serve: go-fuse has no other way to close it.
func discard(srv *fuse.Server, fd int) {
	if replaceByNull(fd) == nil {
		srv.Serve()
	}
}

// replaceByNull makes fd a file that swallows what is written and fails to be read.
func replaceByNull(fd int) error {
	null, err := unix.Open(os.DevNull, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: os.DevNull, Err: err}
	}
	defer unix.Close(null)
	return os.NewSyscallError("dup3", unix.Dup3(null, fd, unix.O_CLOEXEC))
}
