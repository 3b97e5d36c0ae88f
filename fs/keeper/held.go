package keeper

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Session is one FUSE connection as the keeper holds it.
type Session struct {
	Name  string `json:"name"`
	Dir   string `json:"dir"`   // where it is mounted
	Dev   uint32 `json:"dev"`   // minor number of its device, which also names its connection in /sys/fs/fuse
	Relay bool   `json:"relay"` // chosen when it was mounted, and kept for the mount's life
	Init  []byte `json:"init"`  // INIT as the kernel sent it
	Reply []byte `json:"reply"` // the answer the kernel was given

	// FD is the connection's /dev/fuse descriptor and Table the shared memory of a
	// relayed session, else -1. They are plain numbers because an os.File may change
	// O_NONBLOCK, which daemon and keeper share.
	FD    int `json:"-"`
	Table int `json:"-"`
}

// Status is what [Client.List] tells of a session.
type Status struct {
	Name    string `json:"name"`
	Dir     string `json:"dir"`
	Relay   bool   `json:"relay"`
	Served  bool   `json:"served"`  // relayed only: a daemon is attached
	Waiting int    `json:"waiting"` // relayed only: requests without an answer
}

// Close closes the descriptors of s.
func (s *Session) Close() {
	closeAll(s.fds())
	s.FD, s.Table = -1, -1
}

// Dead reports whether the connection has ended: unmounted everywhere, or aborted.
func (s *Session) Dead() bool {
	p := []unix.PollFd{{Fd: int32(s.FD)}}
	for {
		_, err := unix.Poll(p, 0)
		if err == unix.EINTR {
			continue
		}
		return err != nil || p[0].Revents&(unix.POLLERR|unix.POLLNVAL) != 0
	}
}

func (s *Session) validate() error {
	switch {
	case s.Name == "" || s.Dir == "":
		return fmt.Errorf("session without name or directory")
	case len(s.Init) < 40+16 || len(s.Reply) < 16+24:
		return fmt.Errorf("session %s: INIT of %d bytes, reply of %d", s.Name, len(s.Init), len(s.Reply))
	case s.FD < 0 || s.Relay != (s.Table >= 0):
		return fmt.Errorf("session %s: a descriptor is missing", s.Name)
	}
	return nil
}

// fds lists the descriptors in the order they travel in.
func (s *Session) fds() []int {
	var fds []int
	for _, fd := range []int{s.FD, s.Table} {
		if fd >= 0 {
			fds = append(fds, fd)
		}
	}
	return fds
}

func (s *Session) setFDs(fds []int) {
	s.FD, s.Table = -1, -1
	for i, fd := range fds {
		switch i {
		case 0:
			s.FD = fd
		case 1:
			s.Table = fd
		default:
			unix.Close(fd)
		}
	}
}

// dup returns a copy of s with descriptors of its own.
func (s *Session) dup() (*Session, error) {
	c := *s
	var fds []int
	for _, fd := range s.fds() {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			closeAll(fds)
			return nil, os.NewSyscallError("dup", err)
		}
		fds = append(fds, n)
	}
	c.setFDs(fds)
	return &c, nil
}
