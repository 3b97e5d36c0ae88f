// Package lab starts real parts for tests, benchmarks and the demo: a registry,
// if wished behind a slow link, a containerd and a dfsnapshotter, all with
// folders and sockets of their own. Nothing of the machine's is touched, and
// Close leaves nothing behind; what a killed program left is swept away by the
// next Open.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Lab is one set of parts below one folder.
type Lab struct {
	Root string // of the project
	Dir  string // of everything the lab has
	Log  io.Writer

	// Upstream is the registry of requests to mirrors that name none.
	Upstream string

	building sync.Mutex // held while programs are built

	lock *os.File // held while the owner lives, so that others can tell

	close    sync.Once
	closeErr error // read after close

	mu     sync.Mutex // guards the rest
	procs  []*Process
	closed bool
}

// prefix begins the names of all labs' folders. They lie in /var/tmp because
// /tmp may be memory, which no benchmark should compare with.
const prefix = "/var/tmp/dflab"

var (
	openMu sync.Mutex // guards open
	open   = map[*Lab]bool{}

	closing sync.Mutex // held by CloseAll, and for good by an interrupt
)

// Open makes an empty lab for the project at root.
func Open(root string) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("root is needed, to mount and to run containers")
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(root, ".tools/bin/containerd")); err != nil {
		return nil, fmt.Errorf("run script/install-deps first: %w", err)
	}
	sweepAbandoned()
	l := &Lab{Root: root, Log: io.Discard}
	if l.Dir, l.lock, err = ownFolder(); err != nil {
		return nil, err
	}
	// The root of a pod with a user namespace must get through to its rootfs.
	if err := os.Chmod(l.Dir, 0o711); err != nil {
		return nil, errors.Join(err, l.lock.Close(), os.RemoveAll(l.Dir))
	}
	openMu.Lock()
	open[l] = true
	openMu.Unlock()
	return l, nil
}

// ownFolder makes a folder and locks it. Another program that opens a lab may take
// it for abandoned until it is locked, and sweep it away.
func ownFolder() (dir string, f *os.File, err error) {
	for range 10 {
		if dir, err = os.MkdirTemp(filepath.Dir(prefix), filepath.Base(prefix)); err != nil {
			return "", nil, err
		}
		if f, err = lock(dir); err == nil {
			return dir, f, nil
		}
	}
	return "", nil, fmt.Errorf("make a folder for a lab: %w", err)
}

// Close stops and removes everything. Whoever calls it while another does
// waits for that one.
func (l *Lab) Close() error {
	l.close.Do(func() {
		l.mu.Lock()
		l.closed = true
		procs := l.procs
		l.mu.Unlock()
		l.closeErr = sweep(l.Dir)
		for _, p := range procs {
			l.closeErr = errors.Join(l.closeErr, p.Kill()) // sweep goes by names
		}
		l.closeErr = errors.Join(l.closeErr, l.lock.Close())
		openMu.Lock()
		delete(open, l)
		openMu.Unlock()
	})
	return l.closeErr
}

// CloseOnSignal closes all labs and exits when the program is interrupted. A
// CloseAll elsewhere then never returns: what fails because of the interrupt
// must not end the program before everything is removed. The returned function
// ends the watch.
func CloseOnSignal() (stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		if _, ok := <-c; !ok {
			return
		}
		fmt.Fprintln(os.Stderr, "interrupted: cleaning up")
		closing.Lock()
		closeAll()
		os.Exit(130)
	}()
	return func() { signal.Stop(c); close(c) }
}

// CloseAll closes the labs that are open.
func CloseAll() {
	closing.Lock()
	defer closing.Unlock()
	closeAll()
}

func closeAll() {
	openMu.Lock()
	var all []*Lab
	for l := range open {
		all = append(all, l)
	}
	openMu.Unlock()
	for _, l := range all {
		if err := l.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

// Path returns a path below the lab's folder.
func (l *Lab) Path(elem ...string) string {
	return filepath.Join(append([]string{l.Dir}, elem...)...)
}

// Tool returns the path of an installed tool.
func (l *Lab) Tool(name string) string { return filepath.Join(l.Root, ".tools/bin", name) }

// write makes a file below the lab's folder and returns its path.
func (l *Lab) write(name, text string) (string, error) {
	p := l.Path(name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return "", err
	}
	return p, os.WriteFile(p, []byte(text), 0o644)
}

// Process is a program the lab has started.
type Process struct {
	*exec.Cmd
	LogFile string
	done    chan struct{}
	err     error // of Wait; read after done is closed
}

// Start starts a program whose output goes to NAME.log, in a process group of
// its own, so that an interrupt reaches the lab first.
func (l *Lab) Start(name string, env []string, argv ...string) (*Process, error) {
	logFile := l.Path(name + ".log")
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := &Process{Cmd: cmd, LogFile: logFile, done: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("start %s: the lab is closed", name)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	l.procs = append(l.procs, p)
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Running reports whether the program has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Wait waits until the program has ended, and says how.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Kill ends the program without a chance to say good-bye.
func (p *Process) Kill() error {
	if err := p.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return nil
}

// Stop asks the program to end and waits up to 30 s for it.
func (p *Process) Stop() error {
	if err := p.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(30 * time.Second):
		return errors.Join(fmt.Errorf("%s did not end after SIGTERM", p.Path), p.Kill())
	}
}

// Eventually calls f until it returns nil, at most for limit, and returns f's
// last error.
func Eventually(ctx context.Context, limit time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	pause := 5 * time.Millisecond
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %s: %w", limit, err)
		case <-time.After(pause):
			pause = min(2*pause, 200*time.Millisecond)
		}
	}
}

// ready waits until p answers to f, or ends.
func (p *Process) ready(ctx context.Context, limit time.Duration, f func() error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := Eventually(ctx, limit, func() error {
		if !p.Running() {
			cancel(errors.New("ended"))
		}
		return f()
	})
	if err != nil {
		tail, _ := os.ReadFile(p.LogFile)
		if len(tail) > 2000 {
			tail = tail[len(tail)-2000:]
		}
		return fmt.Errorf("%s is not ready: %w\n%s", filepath.Base(p.Path), err, tail)
	}
	return nil
}
