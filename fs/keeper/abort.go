package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Abort ends every session that the keeper on socket holds, and returns their names.
// All that waits for an answer in them, even against SIGKILL, gets ENOTCONN. It is for
// when no daemon will come back.
func Abort(ctx context.Context, socket string, log *slog.Logger) ([]string, error) {
	c, err := Dial(ctx, socket, log)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	list, err := c.List(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	var errs []error
	for _, st := range list {
		if err := c.Abort(ctx, st.Name); err != nil {
			errs = append(errs, err)
			continue
		}
		names = append(names, st.Name)
	}
	return names, errors.Join(errs...)
}

// abortConnection makes the kernel end the FUSE connection dev, mounted at dir.
func abortConnection(dir string, dev uint32) error {
	err := controlAbort(dev)
	if err == nil {
		return nil
	}
	mounted, merr := Mounted(dir)
	if merr != nil || mounted != dev {
		return errors.Join(err, merr)
	}
	// Ends the connection first; the mount then stays if containers use it.
	if err := unix.Unmount(dir, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EBUSY) {
		return os.NewSyscallError("umount", err)
	}
	return nil
}

// controlAbort goes through FUSE's control file system, mounted for this call only and
// in no directory.
func controlAbort(dev uint32) error {
	ctl, err := unix.Fsopen("fusectl", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(ctl)
	if err := unix.FsconfigCreate(ctl); err != nil {
		return os.NewSyscallError("fsconfig", err)
	}
	root, err := unix.Fsmount(ctl, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fsmount", err)
	}
	defer unix.Close(root)
	name := strconv.FormatUint(uint64(dev), 10) + "/abort"
	fd, err := unix.Openat(root, name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "fusectl:" + name, Err: err}
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte("1"))
	return os.NewSyscallError("write", err)
}

// FSType is the file system type that sessions are mounted with.
const FSType = "fuse.dfsnapshotter"

// Mounted returns the device number of the session mounted uppermost at dir, 0 for
// none. It reads the mount table only, for touching a mount that nobody serves blocks.
func Mounted(dir string) (dev uint32, err error) {
	mounts, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return i.Mountpoint != dir, false
	})
	if err != nil {
		return 0, fmt.Errorf("mounts at %s: %w", dir, err)
	}
	if len(mounts) == 0 {
		return 0, nil
	}
	top := mounts[len(mounts)-1]
	if top.FSType != FSType || top.Major != 0 {
		return 0, fmt.Errorf("%s is a mount of type %s", dir, top.FSType)
	}
	return uint32(top.Minor), nil
}
