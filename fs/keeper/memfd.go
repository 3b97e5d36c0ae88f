package keeper

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// maxState bounds one piece of state, so that the keeper stays small.
const maxState = 1 << 20

const stateSeals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

func memfd(name string) (int, error) {
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, flags)
	}
	return fd, os.NewSyscallError("memfd_create", err)
}

// sealed returns a memory file that holds data and can never change.
func sealed(name string, data []byte) (int, error) {
	if len(data) > maxState {
		return -1, fmt.Errorf("state %s: %d bytes are more than %d", name, len(data), maxState)
	}
	fd, err := memfd(name)
	if err != nil {
		return -1, err
	}
	for off := 0; off < len(data); {
		n, err := unix.Pwrite(fd, data[off:], int64(off))
		if err != nil {
			unix.Close(fd)
			return -1, os.NewSyscallError("pwrite", err)
		}
		off += n
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, stateSeals); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("seal", err)
	}
	return fd, nil
}

// checkSealed refuses what the other side could still change or blow up.
func checkSealed(fd int) (size int, err error) {
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&stateSeals != stateSeals {
		return 0, errors.New("state is not a sealed memory file")
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	if st.Size > maxState {
		return 0, fmt.Errorf("state of %d bytes is more than %d", st.Size, maxState)
	}
	return int(st.Size), nil
}

func readSealed(fd int) ([]byte, error) {
	size, err := checkSealed(fd)
	if err != nil {
		return nil, err
	}
	data := make([]byte, size)
	for off := 0; off < size; {
		n, err := unix.Pread(fd, data[off:], int64(off))
		if err != nil {
			return nil, os.NewSyscallError("pread", err)
		}
		if n == 0 {
			return nil, errors.New("state is shorter than its size")
		}
		off += n
	}
	return data, nil
}
