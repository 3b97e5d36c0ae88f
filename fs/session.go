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
	g        sync.WaitGroup // serving goroutines
	done     chan struct{}  // closed when serving has ended for good

	mu  sync.Mutex // guards cur and the descriptors in it
	cur *serving
}

// serving is one go-fuse server. A session has one for each relay it outlives.
type serving struct {
	server *fuse.Server
	fd     int             // what server reads and writes; server closes it
	stop   int             // a duplicate of fd, to stop reading through; -1 when fd is closed
	lost   <-chan struct{} // closed when the relay is gone; nil without one
	ended  chan struct{}   // closed when server has returned from all calls
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
		done: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	v, err := s.open(ctx)
	if err != nil {
		s.cancel()
		return nil, fmt.Errorf("session %s: %w", o.Name, err)
	}
	s.readAhead()
	s.log.Info("session serves", "dir", dir, "takeover", s.taken, "relay", s.held.Relay)
	s.serve(v)
	go s.run(v)
	return s, nil
}

// open returns a server that has been through INIT and is ready to serve the mount.
func (s *session) open(ctx context.Context) (*serving, error) {
	if err := s.takeOver(ctx); err != nil {
		return nil, err
	}
	var fresh func(reply []byte) error
	if s.held == nil {
		var err error
		if fresh, err = s.mount(ctx); err != nil {
			return nil, err
		}
	}
	v, err := s.newServing(ctx, fresh)
	if err != nil {
		if !s.taken {
			s.abandon(ctx)
		}
		s.held.Close()
		return nil, err
	}
	return v, nil
}

func (s *session) newServing(ctx context.Context, fresh func(reply []byte) error) (*serving, error) {
	srv, fd, err := s.initServer(fresh)
	if err != nil {
		return nil, err
	}
	v := &serving{server: srv, fd: fd, stop: -1, ended: make(chan struct{})}
	if v.lost, err = s.connect(ctx, fd); err == nil {
		v.stop, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	}
	if err != nil {
		discard(srv, fd)
		return nil, err
	}
	return v, nil
}

// connect makes fd, on which a server was initialised, the kernel's or the relay's.
func (s *session) connect(ctx context.Context, fd int) (lost <-chan struct{}, err error) {
	if s.held.Relay {
		sock, lost, err := s.k.Attach(ctx, s.o.Name)
		if err != nil {
			return nil, err
		}
		defer unix.Close(sock)
		return lost, os.NewSyscallError("dup3", unix.Dup3(sock, fd, unix.O_CLOEXEC))
	}
	// A graceful stop left it so.
	if err := unix.SetNonblock(s.held.FD, false); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if err := unix.Dup3(s.held.FD, fd, unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("dup3", err)
	}
	if !s.taken {
		return nil, nil
	}
	if _, err := unix.Write(s.held.FD, resendMessage()); err != nil {
		return nil, fmt.Errorf("ask the kernel to resend: %w", err)
	}
	return nil, nil
}

// serve lets v answer, and makes it the one that the session's other methods speak of.
func (s *session) serve(v *serving) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cur = v
	if s.stopping.Load() {
		s.stopReading()
	}
	s.g.Go(func() {
		defer close(v.ended)
		v.server.Serve()
		s.mu.Lock()
		defer s.mu.Unlock()
		unix.Close(v.stop)
		v.stop = -1
	})
}

// run keeps the session served until the mount ends or the session is closed. A relay
// may die: the session goes on over the next one, which sends again whatever has no
// answer yet. The old server may still be busy with the same; nobody hears its answers.
func (s *session) run(v *serving) {
	defer close(s.done)
	defer s.g.Wait()
	for s.outlives(v) {
		next, err := s.newServing(s.ctx, nil)
		if err != nil {
			if !s.stopping.Load() {
				s.log.Error("session no longer serves", "err", err)
			}
			return
		}
		s.serve(next)
		v = next
	}
}

// outlives waits until v is of no use, and reports whether another is to take its place.
func (s *session) outlives(v *serving) bool {
	select {
	case <-v.ended:
	case <-v.lost:
	case <-s.ctx.Done():
	}
	switch {
	case s.stopping.Load():
		return false
	case !s.held.Relay || s.held.Dead():
		s.log.Warn("the mount has ended", "dir", s.o.Dir)
		return false
	}
	s.log.Warn("the relay is gone, waiting for another")
	return true
}

// Takeover reports whether the mount is one that an earlier process made: the kernel
// then remembers what that process told it.
func (s *session) Takeover() bool { return s.taken }

// Server returns the server for notifications. It changes when a relay dies, so it is
// not to be kept.
func (s *session) Server() *fuse.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cur.server
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
	if s.cur.stop < 0 {
		return
	}
	if err := unix.SetNonblock(s.cur.stop, true); err != nil {
		s.log.Warn("session cannot be stopped gracefully", "err", err)
	}
	s.restartReads()
}

// cutOff takes the connection from the server while requests keep it busy: its loops
// end, and answers still to come go nowhere. s.mu is held.
func (s *session) cutOff() {
	if s.cur.stop < 0 {
		return
	}
	if err := replaceByNull(s.cur.fd); err != nil {
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
