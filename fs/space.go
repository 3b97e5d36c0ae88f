package fs

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// minFree is the part of the file system that filling leaves free, in percent.
const minFree = 15

var errLowSpace = errors.New("less than 15 % of the disk is free")

// DiskSpace says how many bytes of dir's file system may still be written, and
// how many it has altogether without those that are kept for others, as df does.
func DiskSpace(dir string) (free, size int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	free, size = diskSpace(&s)
	return free, size, nil
}

func diskSpace(s *unix.Statfs_t) (free, size int64) {
	return int64(s.Bavail) * s.Bsize, int64(s.Blocks-s.Bfree+s.Bavail) * s.Bsize
}

// space says why nothing more should be filled, if so.
func (f *FS) space() error {
	if time.Since(time.Unix(0, f.noSpace.Load())) < fullFor {
		return unix.ENOSPC
	}
	free, size, err := DiskSpace(f.root)
	if err == nil && float64(free)*100 < float64(size)*minFree {
		err = errLowSpace
	}
	return err
}

// isFull reports whether err says that the disk, or somebody's part of it, has
// no room for a file or its content.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// diskFull notes that a write found no space.
func (f *FS) diskFull() { f.noSpace.Store(time.Now().UnixNano()) }
