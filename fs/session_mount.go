package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fs/keeper"
)

const (
	mountSource = "dfsnapshotter"
	maxStacked  = 16 // mounts upon each other at one directory
)

// mountPath returns dir as the mount table writes it. It looks at the parent only: a
// mount that nobody serves would never answer.
func mountPath(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return "", err
	}
	return filepath.Join(parent, filepath.Base(dir)), nil
}

// takeOver fills s.held with what the keeper holds, if that is a live connection. A
// mount that somebody has unmounted, while containers still use it, is mounted again.
func (s *session) takeOver(ctx context.Context) error {
	held, err := s.k.Take(ctx, s.o.Name)
	if errors.Is(err, keeper.ErrNotHeld) {
		return nil
	}
	if err != nil {
		return err
	}
	why := "its connection has ended"
	if !held.Dead() {
		if err := s.seeMounted(held); err == nil {
			s.held, s.taken = held, true
			return nil
		} else {
			why = err.Error()
		}
	}
	s.log.Warn("the keeper's session is of no use, mounting anew", "dir", s.o.Dir, "why", why)
	held.Close()
	return s.k.Release(ctx, s.o.Name)
}

// seeMounted makes sure that held is what is mounted at s.o.Dir.
func (s *session) seeMounted(held *keeper.Session) error {
	if held.Dir != s.o.Dir {
		return fmt.Errorf("it was mounted at %s", held.Dir)
	}
	dev, err := keeper.Mounted(s.o.Dir)
	if err != nil || dev == held.Dev {
		return err
	}
	if err := detach(s.o.Dir); err != nil {
		return err
	}
	// The kernel finds the file system that the descriptor already belongs to.
	if err := s.mountFD(held.FD); err != nil {
		return err
	}
	dev, err = keeper.Mounted(s.o.Dir)
	if err == nil && dev != held.Dev {
		err = errors.Join(errors.New("it could not be mounted again"), detach(s.o.Dir))
	}
	return err
}

// mount makes a new mount and fills s.held. The function it returns completes it with
// the reply to the kernel's INIT.
func (s *session) mount(ctx context.Context) (complete func(reply []byte) error, err error) {
	if err := detach(s.o.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.o.Dir, 0o700); err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/fuse", Err: err}
	}
	s.held = &keeper.Session{Name: s.o.Name, Dir: s.o.Dir, FD: fd, Table: -1}
	if err := s.start(); err != nil {
		s.abandon(ctx)
		s.held.Close()
		return nil, err
	}
	return func(reply []byte) error {
		s.held.Reply = reply
		if _, err := unix.Write(fd, reply); err != nil {
			return fmt.Errorf("answer INIT: %w", err)
		}
		return s.k.Hold(ctx, s.held)
	}, nil
}

// start mounts s.held, reads the kernel's INIT, and decides who resends.
func (s *session) start() (err error) {
	h := s.held
	if err := s.mountFD(h.FD); err != nil {
		return err
	}
	if h.Dev, err = keeper.Mounted(s.o.Dir); err != nil {
		return err
	}
	buf := make([]byte, keeper.MaxRequest)
	n, err := unix.Read(h.FD, buf)
	if err != nil {
		return fmt.Errorf("read INIT: %w", err)
	}
	h.Init = buf[:n]
	if err := checkInit(h.Init); err != nil {
		return err
	}
	h.Relay = s.o.Relay || s.k.Relay() || !canResend(h.Init)
	if h.Relay {
		h.Table, err = keeper.NewTable(s.o.Name)
	}
	return err
}

func (s *session) mountFD(fd int) error {
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read=%d", fd, s.o.MaxRead)
	if err := unix.Mount(mountSource, s.o.Dir, keeper.FSType, unix.MS_RDONLY, options); err != nil {
		return &os.PathError{Op: "mount", Path: s.o.Dir, Err: err}
	}
	return nil
}

// abandon undoes mount.
func (s *session) abandon(ctx context.Context) {
	if err := detach(s.o.Dir); err != nil {
		s.log.Warn("mount left behind", "err", err)
	}
	if s.held.Reply != nil {
		if err := s.k.Release(ctx, s.o.Name); err != nil {
			s.log.Warn("the keeper may hold a session of no use", "err", err)
		}
	}
}

// detach removes all sessions mounted at dir from the tree. Who uses one goes on.
func detach(dir string) error {
	for range maxStacked {
		dev, err := keeper.Mounted(dir)
		if err != nil || dev == 0 {
			return err
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return &os.PathError{Op: "unmount", Path: dir, Err: err}
		}
	}
	return fmt.Errorf("%s is under %d mounts", dir, maxStacked)
}

// readAhead raises how much the kernel reads ahead in this mount.
func (s *session) readAhead() {
	if s.o.ReadAhead == 0 {
		return
	}
	file := fmt.Sprintf("/sys/class/bdi/0:%d/read_ahead_kb", s.held.Dev)
	if err := os.WriteFile(file, []byte(strconv.Itoa(s.o.ReadAhead>>10)), 0); err != nil {
		s.log.Warn("read-ahead stays at the kernel's default", "err", err)
	}
}
