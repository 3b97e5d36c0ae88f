package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// diskSize is how large a lab's disk may become. Only what is written takes
// space.
const diskSize = 64 << 30

// OwnDisk gives the lab, which has nothing yet, a file system of its own: ext4
// with a journal, as nodes have. Benchmarks want it because the machine's may
// have none. Such a one passes over every inode that was deleted in the last
// minutes, one by one, for each new file, so that what ran before would count.
func (l *Lab) OwnDisk() error {
	file := l.Path("disk") // hidden once it is mounted
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, diskSize)); err != nil {
		return err
	}
	if err := run("mkfs.ext4 -q -F -E lazy_itable_init=1,nodiscard " + file); err != nil {
		return err
	}
	out, err := exec.Command("losetup", "--find", "--show", "--direct-io=on", file).Output()
	if err != nil {
		return fmt.Errorf("losetup: %w", err)
	}
	dev := strings.TrimSpace(string(out))
	// It is locked before it hides the folder that is, or somebody might take the lab
	// for abandoned.
	at := l.Path("mounted")
	err = os.Mkdir(at, 0o711)
	if err == nil {
		err = run("mount -o noinit_itable " + dev + " " + at)
	}
	if err = errors.Join(err, run("losetup --detach "+dev)); err != nil { // it goes when it is unmounted
		return err
	}
	below := l.lock
	if l.lock, err = lock(at); err != nil {
		l.lock = below
		return err
	}
	return errors.Join(os.Chmod(at, 0o711), run("mount --bind "+at+" "+l.Dir), below.Close())
}
