package fs

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fs/keeper"
)

// The tests kill daemons and keepers, so these are children: this test binary, told by
// its environment to be one of them instead.
const (
	roleEnv   = "SESSION_TEST_ROLE"
	socketEnv = "SESSION_TEST_SOCKET"
	dirEnv    = "SESSION_TEST_DIR"
	relayEnv  = "SESSION_TEST_RELAY"
	stuckEnv  = "SESSION_TEST_STUCK"
	readerEnv = "SESSION_TEST_READER"
	flatEnv   = "SESSION_TEST_FLAT"
	detachEnv = "SESSION_TEST_DETACH"
)

func init() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	switch os.Getenv(roleEnv) {
	case "":
		return
	case "keeper":
		err := keeper.Run(context.Background(), keeper.Config{
			Socket: os.Getenv(socketEnv), Detach: os.Getenv(detachEnv) != "", Log: log,
		})
		fmt.Fprintln(os.Stderr, "keeper:", err)
		os.Exit(3)
	case "reader":
		readerChild()
		os.Exit(0)
	case "daemon":
		if err := daemonChild(log); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// daemonChild serves words until SIGTERM, then closes gracefully. It tells its parent
// in lines on its standard output how far it is.
func daemonChild(log *slog.Logger) error {
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer cancel()
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	k, err := keeper.Open(ctx, keeper.ClientConfig{
		Socket: os.Getenv(socketEnv), Start: []string{"/usr/bin/env", roleEnv + "=keeper", exe}, Log: log,
	})
	if err != nil {
		return err
	}
	raw := newWords()
	if os.Getenv(flatEnv) != "" {
		if raw.flat, err = os.OpenFile(os.Getenv(dirEnv)+".flat", os.O_RDWR|os.O_CREATE, 0o600); err != nil {
			return err
		}
		if _, err := raw.flat.Write(make([]byte, defaultMaxRead)); err != nil {
			return err
		}
	}
	if os.Getenv(stuckEnv) != "" {
		raw.stuck = make(chan struct{})
		raw.asked = func(off uint64) { fmt.Println("stuck", off) }
	}
	s, err := openSession(ctx, k, sessionOptions{
		Name: "w", Dir: os.Getenv(dirEnv), Relay: os.Getenv(relayEnv) != "", Drain: time.Second,
	}, raw, log)
	if err != nil {
		return err
	}
	fmt.Println("ready", s.Takeover())
	<-ctx.Done()
	if err := s.Close(context.Background()); err != nil {
		return err
	}
	return k.Close()
}

// words is a file system of one endless file "f" whose every word of 8 bytes is a hash
// of its offset.
type words struct {
	fuse.RawFileSystem
	flat  *os.File         // if not nil, contents do not matter, and come from here
	stuck chan struct{}    // if not nil, READ waits for it
	asked func(off uint64) // called when a READ begins to wait
}

func newWords() *words { return &words{RawFileSystem: fuse.NewDefaultRawFileSystem()} }

// patience is how long the tests wait for what must happen.
const patience = 20 * time.Second

const wordsSize = 1 << 40

func word(off uint64) uint64 { return (off/8 + 1) * 0x9e3779b97f4a7c15 }

func (w *words) attr(node uint64, a *fuse.Attr) {
	a.Ino, a.Nlink = node, 1
	if a.Mode = unix.S_IFDIR | 0o755; node != 1 {
		a.Mode, a.Size = unix.S_IFREG|0o644, wordsSize
	}
}

func (w *words) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if h.NodeId != 1 || name != "f" {
		return fuse.ENOENT
	}
	out.NodeId, out.EntryValid, out.AttrValid = 2, 3600, 3600
	w.attr(2, &out.Attr)
	return fuse.OK
}

func (w *words) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.AttrValid = 3600
	w.attr(in.NodeId, &out.Attr)
	return fuse.OK
}

// Open leaves it to the kernel, which then keeps what it has read of a file: opening it
// anew would wait for the pages that nobody has answered.
func (w *words) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

func (w *words) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if w.stuck != nil {
		w.asked(in.Offset)
		<-w.stuck
	}
	if w.flat != nil {
		return fuse.ReadResultFd(w.flat.Fd(), 0, len(buf)), fuse.OK
	}
	for i := 0; i+8 <= len(buf); i += 8 {
		binary.LittleEndian.PutUint64(buf[i:], word(in.Offset+uint64(i)))
	}
	return fuse.ReadResultData(buf), fuse.OK
}

// world is one keeper socket and one mount point, with the processes around them.
type world struct {
	t           testing.TB
	dir, socket string
	relay       bool
	next        int64 // where nobody has read yet
}

func newWorld(t testing.TB, relay bool) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse")
	}
	base, err := os.MkdirTemp("/tmp", "keeper-")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: filepath.Join(base, "mnt"), socket: filepath.Join(base, "keeper.sock"), relay: relay}
	t.Cleanup(func() {
		w.killKeeper()
		if err := detach(w.dir); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(base); err != nil {
			t.Error(err)
		}
	})
	return w
}

// killKeeper kills the keeper, if one lives, with all the connections that only it holds.
func (w *world) killKeeper() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	k, err := keeper.Dial(ctx, w.socket, slog.New(slog.DiscardHandler))
	if err != nil {
		return
	}
	defer k.Close()
	pid, err := k.Ping(ctx)
	if err == nil {
		err = unix.Kill(pid, unix.SIGKILL)
	}
	if err != nil {
		w.t.Error("keeper not killed:", err)
	}
}

type child struct {
	t     testing.TB
	cmd   *exec.Cmd
	lines chan string
	dead  chan error
}

// start runs a daemon and waits until it serves.
func (w *world) start(env ...string) (d *child, takeover bool) {
	w.t.Helper()
	d = w.launch(env...)
	for {
		switch line := d.line(); {
		case line == "ready true":
			return d, true
		case line == "ready false":
			return d, false
		case !strings.HasPrefix(line, "stuck "): // read-ahead that an earlier daemon left
			w.t.Fatalf("daemon says %q", line)
		}
	}
}

func (w *world) launch(env ...string) *child {
	w.t.Helper()
	if w.relay {
		env = append(env, relayEnv+"=1")
	}
	return w.spawn("daemon", append(env, socketEnv+"="+w.socket, dirEnv+"="+w.dir)...)
}

// spawn runs a child in a role.
func (w *world) spawn(role string, env ...string) *child {
	w.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	d := &child{t: w.t, cmd: exec.Command(exe), lines: make(chan string, 1000), dead: make(chan error, 1)}
	d.cmd.Env = append(append(os.Environ(), roleEnv+"="+role), env...)
	if testing.Verbose() {
		d.cmd.Stderr = os.Stderr
	}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	cmd := d.cmd
	go func() {
		for sc := bufio.NewScanner(out); sc.Scan(); {
			d.lines <- sc.Text()
		}
		close(d.lines)
		d.dead <- cmd.Wait()
	}()
	w.t.Cleanup(d.kill)
	return d
}

func (d *child) line() string {
	d.t.Helper()
	select {
	case line := <-d.lines:
		return line
	case <-time.After(patience):
		d.t.Fatal("daemon says nothing")
		return ""
	}
}

func (d *child) kill() { d.end(unix.SIGKILL) }

func (d *child) end(sig syscall.Signal) {
	if d.cmd == nil {
		return
	}
	// It may have died by itself.
	_ = d.cmd.Process.Signal(sig)
	select {
	case <-d.dead:
	case <-time.After(patience):
		d.t.Errorf("daemon %d does not end", d.cmd.Process.Pid)
	}
	d.cmd = nil
}

const stretch = 192 << 10 // what one reader reads, more than one READ

// readers starts a process of n readers where nobody has read yet, and returns where
// their errors arrive. This process must not have files of the mount open: a fork
// flushes them, which waits for a daemon.
func (w *world) readers(n int) <-chan error {
	w.t.Helper()
	args := []string{filepath.Join(w.dir, "f")}
	for range n {
		args = append(args, strconv.FormatInt(w.next, 10))
		w.next += 1 << 20
	}
	p := w.spawn("reader", readerEnv+"="+strings.Join(args, " "))
	errs := make(chan error, n)
	go func() {
		for line := range p.lines {
			if line == "ok" {
				errs <- nil
			} else {
				errs <- errors.New(line)
			}
		}
	}()
	return errs
}

// readerChild reads a file at several offsets at once.
func readerChild() {
	args := strings.Fields(os.Getenv(readerEnv))
	var g sync.WaitGroup
	for _, a := range args[1:] {
		g.Go(func() {
			off, err := strconv.ParseInt(a, 10, 64)
			if err == nil {
				err = readWords(args[0], off)
			}
			if err != nil {
				fmt.Println("error:", err)
				return
			}
			fmt.Println("ok")
		})
	}
	g.Wait()
}

func readWords(name string, off int64) error {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0) // os.Open would poll
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	buf := make([]byte, stretch)
	for n := 0; n < len(buf); {
		m, err := unix.Pread(fd, buf[n:], off+int64(n))
		if err == nil && m == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return &os.PathError{Op: "read", Path: name, Err: err}
		}
		n += m
	}
	for i := 0; i < len(buf); i += 8 {
		if got, want := binary.LittleEndian.Uint64(buf[i:]), word(uint64(off)+uint64(i)); got != want {
			return fmt.Errorf("at %d: %#x, want %#x", off+int64(i), got, want)
		}
	}
	return nil
}

// finish waits for n readers to end well.
func (w *world) finish(errs <-chan error, n int) {
	w.t.Helper()
	for range n {
		select {
		case err := <-errs:
			if err != nil {
				w.t.Fatal(err)
			}
		case <-time.After(patience):
			w.t.Fatal("a reader hangs")
		}
	}
}

// stuck waits until daemon d has a READ of each of the last n readers.
func (w *world) stuck(d *child, n int) {
	w.t.Helper()
	wait := map[int64]bool{}
	for i := range int64(n) {
		wait[w.next-(i+1)<<20] = true
	}
	for len(wait) > 0 {
		var off int64
		line := d.line()
		if _, err := fmt.Sscanf(line, "stuck %d", &off); err != nil {
			w.t.Fatalf("daemon says %q", line)
		}
		delete(wait, off>>20<<20)
	}
}

func bothModes(t *testing.T, test func(t *testing.T, w *world)) {
	for _, relay := range []bool{false, true} {
		name := "resend"
		if relay {
			name = "relay"
		}
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, relay)
			if !relay && !kernelResends(t) {
				t.Skip("needs a kernel that resends, Linux 6.9")
			}
			test(t, w)
		})
	}
}

func kernelResends(t testing.TB) bool {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > 6 || major == 6 && minor >= 9
}

func TestReadersOutliveDaemon(t *testing.T) {
	bothModes(t, func(t *testing.T, w *world) {
		const readers = 8
		for round := range 20 {
			d, takeover := w.start(stuckEnv + "=1")
			if takeover != (round > 0) {
				t.Fatalf("round %d: takeover %v", round, takeover)
			}
			errs := w.readers(readers)
			w.stuck(d, readers)
			d.kill()
			d, takeover = w.start()
			if !takeover {
				t.Fatal("mounted anew")
			}
			w.finish(errs, readers)
			d.kill()
		}
	})
}
