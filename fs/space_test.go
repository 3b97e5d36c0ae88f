package fs

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestDiskSpace: blocks that the file system keeps for root are neither free nor
// used, so that one with large reserves is not taken for a full one.
func TestDiskSpace(t *testing.T) {
	t.Parallel()
	s := unix.Statfs_t{Bsize: 4096, Blocks: 1000, Bfree: 800, Bavail: 100}
	if free, size := diskSpace(&s); free != 100*4096 || size != 300*4096 {
		t.Errorf("%d of %d bytes", free, size)
	}
	if free, size, err := DiskSpace(t.TempDir()); err != nil || free > size || size <= 0 {
		t.Errorf("%d of %d bytes, %v", free, size, err)
	}
	if _, _, err := DiskSpace("/nowhere"); err == nil {
		t.Error("a folder that is not there has space")
	}
}
