package keeper

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxRelayRead is the most bytes one READ of a relayed session may ask for. A
	// message on a unix socket takes one kernel allocation for all that does not fit 17
	// pages, and with this much it is small enough never to fail. A reply that cannot
	// be sent would be a reader that waits for ever.
	MaxRelayRead = 64 << 10

	maxReply     = MaxRelayRead + 4096 // a listing with headers, or a READ
	socketBuffer = 1 << 20             // bytes on the way in one direction
	notices      = 4096                // notifications that wait for the kernel's locks
	replyHeader  = 16
)

// relay passes requests from the kernel to a daemon, and its replies back.
//
// Three goroutines: pull reads requests and sends them; push, one per attached daemon,
// writes replies, which never waits long; notify writes notifications, which may wait
// for locks that only a reply can free, and so must not hold replies up.
type relay struct {
	log  *slog.Logger
	fuse *os.File // non-blocking, and nobody else reads it
	tab  *table

	ctx     context.Context
	cancel  context.CancelFunc
	g       sync.WaitGroup
	notices chan []byte

	attaching sync.Mutex // one at a time; taken before mu

	mu      sync.Mutex    // guards what follows
	daemon  *os.File      // nil while there is none
	changed chan struct{} // closed when daemon is set
	pushed  chan struct{} // closed when the last push has ended
}

// openRelay serves s, whose descriptors it copies.
func openRelay(s *Session, log *slog.Logger) (*relay, error) {
	c, err := s.dup()
	if err != nil {
		return nil, err
	}
	tab, err := openTable(c.Table)
	unix.Close(c.Table)
	if err != nil {
		unix.Close(c.FD)
		return nil, err
	}
	if err := unix.SetNonblock(c.FD, true); err != nil {
		tab.close()
		unix.Close(c.FD)
		return nil, os.NewSyscallError("fcntl", err)
	}
	ended := make(chan struct{})
	close(ended)
	r := &relay{
		log: log.With("session", s.Name), fuse: os.NewFile(uintptr(c.FD), "/dev/fuse"), tab: tab,
		notices: make(chan []byte, notices), changed: make(chan struct{}), pushed: ended,
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.g.Go(r.pull)
	r.g.Go(r.notify)
	return r, nil
}

func (r *relay) close() {
	r.cancel()
	r.attaching.Lock()
	r.detach(r.current())
	r.wake()
	r.attaching.Unlock()
	r.g.Wait()
	r.fuse.Close()
	r.tab.close()
}

func (r *relay) status() (served bool, waiting int) { return r.current() != nil, r.tab.len() }

// attach makes a new socket the daemon's, after all that an earlier daemon had already
// answered has reached the kernel.
func (r *relay) attach() (fd int, err error) {
	r.attaching.Lock()
	defer r.attaching.Unlock()
	if r.ctx.Err() != nil {
		return -1, ErrClosed
	}
	pair, err := socketpair()
	if err != nil {
		return -1, err
	}
	r.detach(r.current())
	mine := os.NewFile(uintptr(pair[0]), "daemon")
	pushed := make(chan struct{})
	r.mu.Lock()
	r.daemon, r.pushed = mine, pushed
	close(r.changed)
	r.mu.Unlock()
	r.g.Go(func() {
		defer close(pushed)
		r.push(mine)
	})
	r.wake()
	return pair[1], nil
}

// detach ends the connection to daemon, once what it sent has been read.
func (r *relay) detach(daemon *os.File) {
	r.mu.Lock()
	pushed := r.pushed
	r.mu.Unlock()
	if daemon != nil {
		if raw, err := daemon.SyscallConn(); err == nil {
			// A failure says that the socket is closed, which is what is wanted.
			_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
		}
	}
	<-pushed
}

func (r *relay) current() *os.File {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.daemon
}

// lost forgets daemon, which hung up.
func (r *relay) lost(daemon *os.File) {
	r.mu.Lock()
	if r.daemon == daemon {
		r.daemon, r.changed = nil, make(chan struct{})
	}
	r.mu.Unlock()
	daemon.Close()
}

// await returns the daemon, when there is one; nil when the relay ends.
func (r *relay) await() *os.File {
	for {
		r.mu.Lock()
		daemon, changed := r.daemon, r.changed
		r.mu.Unlock()
		if daemon != nil {
			return daemon
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			return nil
		}
	}
}

// wake makes pull look around instead of waiting for the kernel's next request.
func (r *relay) wake() {
	// It fails only when the file is closed, and then pull has ended.
	_ = r.fuse.SetReadDeadline(time.Unix(1, 0))
}

func (r *relay) pull() {
	var served *os.File
	for r.ctx.Err() == nil {
		daemon := r.await()
		if daemon == nil {
			return
		}
		if daemon != served { // a new daemon first gets what the last one left
			if r.resend(daemon) != nil {
				r.lost(daemon)
			}
			served = daemon
			continue
		}
		if err := r.next(daemon); err != nil {
			r.log.Info("relay ended", "err", err)
			r.cancel()
			r.attaching.Lock()
			r.detach(r.current())
			r.attaching.Unlock()
			return
		}
	}
}

// resend sends daemon all requests that wait for an answer.
func (r *relay) resend(daemon *os.File) error {
	all := r.tab.all()
	for _, i := range all {
		if _, err := daemon.Write(r.tab.request(i)); err != nil {
			return err
		}
		if id := r.tab.unique(i); r.tab.interrupted(id) {
			if _, err := daemon.Write(interruptOf(id)); err != nil {
				return err
			}
		}
	}
	r.log.Info("a daemon is attached", "resent", len(all))
	return nil
}

// next passes one request on. Its error says that the kernel will send no more.
func (r *relay) next(daemon *os.File) error {
	i, ok := r.tab.reserve()
	if !ok {
		select {
		case <-r.tab.room:
		case <-r.ctx.Done():
		}
		return nil
	}
	n, err := r.fuse.Read(r.tab.slot(i))
	if err != nil || n < requestHeader {
		r.tab.release(i)
		return r.readError(err)
	}
	req := r.tab.request(i)
	if !answered(req) {
		if opcode(req) == opInterrupt {
			r.tab.interrupt(binary.NativeEndian.Uint64(req[requestHeader:]))
		}
		_, err = daemon.Write(req)
		r.tab.release(i)
	} else {
		r.tab.record(i)
		_, err = daemon.Write(req)
	}
	if err != nil {
		r.lost(daemon)
	}
	return nil
}

// readError returns err if it is for good.
func (r *relay) readError(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		// It fails only when the file is closed, which the next read tells too.
		_ = r.fuse.SetReadDeadline(time.Time{})
		return nil
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.EINTR), errors.Is(err, syscall.EAGAIN):
		return nil // a request that was taken back before it was read
	case err == nil:
		return io.ErrUnexpectedEOF
	}
	return err
}

// interruptOf makes the INTERRUPT that the kernel sends for request id.
func interruptOf(id uint64) []byte {
	b := make([]byte, requestHeader+8)
	binary.NativeEndian.PutUint32(b[offLen:], uint32(len(b)))
	binary.NativeEndian.PutUint32(b[offOpcode:], opInterrupt)
	binary.NativeEndian.PutUint64(b[offUnique:], id|1)
	binary.NativeEndian.PutUint64(b[requestHeader:], id)
	return b
}

// push passes on what daemon sends until it hangs up.
func (r *relay) push(daemon *os.File) {
	defer r.lost(daemon)
	buf := make([]byte, maxReply)
	for {
		n, err := daemon.Read(buf)
		if err != nil {
			return
		}
		if n >= replyHeader {
			r.reply(buf[:n])
		}
	}
}

func (r *relay) reply(msg []byte) {
	id := binary.NativeEndian.Uint64(msg[8:])
	switch {
	case id == 0:
		select {
		case r.notices <- append([]byte(nil), msg...):
		default:
			r.log.Warn("notification dropped, the kernel is busy with thousands")
		}
		return
	case id&1 != 0: // to an INTERRUPT: the kernel may have forgotten it
		_, _ = r.fuse.Write(msg)
		return
	case !r.tab.waiting(id):
		return
	}
	if _, err := r.fuse.Write(msg); err != nil && !errors.Is(err, syscall.ENOENT) {
		// The request is still the kernel's, and no better reply will come.
		r.log.Error("the kernel refused a reply", "err", err, "bytes", len(msg))
		_, _ = r.fuse.Write(errorReply(id, syscall.EIO))
	}
	r.tab.done(id)
}

func errorReply(id uint64, errno syscall.Errno) []byte {
	b := make([]byte, replyHeader)
	binary.NativeEndian.PutUint32(b[0:], replyHeader)
	binary.NativeEndian.PutUint32(b[4:], uint32(-int32(errno)))
	binary.NativeEndian.PutUint64(b[8:], id)
	return b
}

func (r *relay) notify() {
	for {
		select {
		case msg := <-r.notices:
			if _, err := r.fuse.Write(msg); err != nil && !errors.Is(err, syscall.ENOENT) {
				r.log.Debug("the kernel refused a notification", "err", err)
			}
		case <-r.ctx.Done():
			return
		}
	}
}

// socketpair returns the two ends of a daemon's connection: the keeper's does not
// block, the daemon's does, for go-fuse reads it as it reads /dev/fuse.
func socketpair() (pair [2]int, err error) {
	pair, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return pair, os.NewSyscallError("socketpair", err)
	}
	for _, fd := range pair {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer) != nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
		}
		if err != nil {
			break
		}
	}
	if err == nil {
		err = unix.SetNonblock(pair[0], true)
	}
	if err != nil {
		closeAll(pair[:])
		return pair, os.NewSyscallError("socket", err)
	}
	return pair, nil
}
