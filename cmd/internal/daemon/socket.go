package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// ListenUnix makes a socket that only root may use, in the place of one that
// nobody listens on any more.
func ListenUnix(path string) (net.Listener, error) {
	if err := FreeSocket(path); err != nil {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// FreeSocket removes a socket that nobody listens on. One that is in use is an
// error.
func FreeSocket(path string) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case fi.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is there and is not a socket: remove it, or set another address", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("socket %s is in use by a live process: stop it, or set another address", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
