package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Host is where parts run: this machine, or a network namespace that stands for
// another one. It has a folder of its own below the lab's.
type Host struct {
	Name string // "" this machine
	IP   string // on the lab's network, "" this machine

	lab *Lab
	dir string
	ns  string   // network namespace, "" the machine's
	net *Network // that it is a port of, or nil
}

// machine returns the host that is this machine.
func (l *Lab) machine() *Host { return &Host{lab: l, dir: l.Dir} }

// Path returns a path below the host's folder.
func (h *Host) Path(elem ...string) string {
	return filepath.Join(append([]string{h.dir}, elem...)...)
}

// Addr returns the host's address with a port.
func (h *Host) Addr(port string) string { return net.JoinHostPort(h.IP, port) }

// write makes a file below the host's folder and returns its path.
func (h *Host) write(name, text string) (string, error) {
	rel, err := filepath.Rel(h.lab.Dir, h.Path(name))
	if err != nil {
		return "", err
	}
	return h.lab.write(rel, text)
}

// Start starts a program on the host. Its output goes to NAME.log in the
// host's folder.
func (h *Host) Start(name string, env []string, argv ...string) (p *Process, err error) {
	err = h.within(func() (err error) {
		p, err = h.lab.Start(filepath.Join(h.Name, name), env, argv...)
		return err
	})
	return p, err
}

// within calls f in the host's network. Sockets and programs that f makes in
// the calling goroutine stay there.
func (h *Host) within(f func() error) error {
	if h.ns == "" {
		return f()
	}
	done := make(chan error)
	go func() { done <- enter(h.ns, f) }()
	return <-done
}

// enter calls f on a thread in a network namespace. A thread that does not come
// back ends with its goroutine.
func enter(ns string, f func() error) error {
	runtime.LockOSThread()
	back, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer back.Close()
	to, err := os.Open("/run/netns/" + ns)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer to.Close()
	if err := unix.Setns(int(to.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", ns, err)
	}
	err = f()
	if back := unix.Setns(int(back.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return err
}

// Listen listens on an address of the host's.
func (h *Host) Listen(addr string) (ln net.Listener, err error) {
	err = h.within(func() (err error) {
		ln, err = net.Listen("tcp", addr)
		return err
	})
	return ln, err
}

// Dial connects as a program of the host's would.
func (h *Host) Dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	err = h.within(func() (err error) {
		c, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// Client returns an HTTP client that is a program of the host's. It keeps no
// connections.
func (h *Host) Client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: h.Dial, DisableKeepAlives: true}, Timeout: 20 * time.Second}
}

// SaveLogs copies the logs of all hosts to a folder, for somebody to read when
// the lab is gone.
func (l *Lab) SaveLogs(to string) error {
	logs, err := filepath.Glob(l.Path("*.log"))
	more, merr := filepath.Glob(l.Path("*", "*.log"))
	if err = errors.Join(err, merr, os.MkdirAll(to, 0o755)); err != nil {
		return err
	}
	for _, log := range append(logs, more...) {
		text, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(l.Dir, log)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, strings.ReplaceAll(name, "/", "-")), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
