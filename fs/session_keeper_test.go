package fs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fs/keeper"
)

func (w *world) dial() *keeper.Client {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	k, err := keeper.Open(ctx, keeper.ClientConfig{Socket: w.socket, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = k.Close() })
	return k
}

// otherKeeper waits for a keeper that is not pid, and holds the session.
func (w *world) otherKeeper(k *keeper.Client, pid int) {
	w.t.Helper()
	for end := time.Now().Add(patience); ; {
		ctx, cancel := context.WithDeadline(w.t.Context(), end)
		defer cancel()
		got, err := k.Ping(ctx)
		if err != nil {
			w.t.Fatal("no other keeper: ", err)
		}
		list, err := k.List(ctx)
		if err == nil && got != pid && len(list) == 1 && list[0].Served == w.relay {
			return
		}
	}
}

func (w *world) pid(k *keeper.Client) int {
	w.t.Helper()
	pid, err := k.Ping(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return pid
}

func TestReadersOutliveKeeperAndDaemon(t *testing.T) {
	bothModes(t, func(t *testing.T, w *world) {
		const readers = 8
		for range 5 {
			d, _ := w.start(stuckEnv + "=1")
			k := w.dial()
			errs := w.readers(readers)
			w.stuck(d, readers)
			pid := w.pid(k)
			w.killKeeper()
			w.otherKeeper(k, pid)
			d.kill()
			d, takeover := w.start()
			if !takeover {
				t.Fatal("mounted anew")
			}
			w.finish(errs, readers)
			d.kill()
			_ = k.Close()
		}
	})
}

// A relayed READ that the daemon has when the keeper dies is answered through the next one.
func TestKeeperDiesUnderReaders(t *testing.T) {
	bothModes(t, func(t *testing.T, w *world) {
		const readers = 8
		w.start()
		k := w.dial()
		for range 10 {
			errs := w.readers(readers)
			pid := w.pid(k)
			w.killKeeper()
			w.finish(errs, readers)
			w.otherKeeper(k, pid)
		}
	})
}

// Whoever dies, at whatever moment, as long as the other lives.
func TestKilledUnderLoad(t *testing.T) {
	bothModes(t, func(t *testing.T, w *world) {
		const readers = 32
		d, _ := w.start()
		for range 8 {
			errs := w.readers(readers)
			d.kill()
			more := w.readers(readers)
			var takeover bool
			if d, takeover = w.start(); !takeover {
				t.Fatal("mounted anew")
			}
			k := w.dial()
			pid := w.pid(k)
			w.killKeeper()
			w.finish(errs, readers)
			w.otherKeeper(k, pid)
			_ = k.Close()
			w.finish(more, readers)
		}
	})
}

func TestCloseLeavesMount(t *testing.T) {
	bothModes(t, func(t *testing.T, w *world) {
		d, _ := w.start()
		w.finish(w.readers(8), 8)
		for range 5 {
			errs := w.readers(64) // some of them under the closing
			d.end(unix.SIGTERM)
			var takeover bool
			if d, takeover = w.start(); !takeover {
				t.Fatal("mounted anew")
			}
			w.finish(errs, 64)
		}
		if err := d.cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-d.dead:
			d.dead <- err
			if err != nil {
				t.Fatal("graceful end: ", err)
			}
		case <-time.After(patience):
			t.Fatal("daemon does not close")
		}
	})
}

func TestBothDead(t *testing.T) {
	bothModes(t, func(t *testing.T, w *world) {
		d, _ := w.start(stuckEnv + "=1")
		errs := w.readers(1)
		w.stuck(d, 1)
		d.kill()
		w.killKeeper()
		w.broken(errs)
		if _, takeover := w.start(); takeover {
			t.Fatal("took a dead mount over")
		}
		w.finish(w.readers(8), 8)
	})
}

func TestAbortFreesReaders(t *testing.T) {
	bothModes(t, func(t *testing.T, w *world) {
		d, _ := w.start(stuckEnv + "=1")
		errs := w.readers(1)
		w.stuck(d, 1)
		d.kill()
		names, err := keeper.Abort(t.Context(), w.socket, slog.New(slog.DiscardHandler))
		if err != nil || len(names) != 1 || names[0] != "w" {
			t.Fatal(names, err)
		}
		w.broken(errs)
		if _, takeover := w.start(); takeover {
			t.Fatal("took an aborted mount over")
		}
		w.finish(w.readers(8), 8)
	})
}

// broken waits for one reader to end with an error.
func (w *world) broken(errs <-chan error) {
	w.t.Helper()
	select {
	case err := <-errs:
		if err == nil {
			w.t.Fatal("a READ without an answer ended well")
		}
	case <-time.After(patience):
		w.t.Fatal("a reader hangs")
	}
}

// Unmounted by hand, the file system goes on below those who use it, and is mounted again.
func TestUnmountedByHand(t *testing.T) {
	bothModes(t, func(t *testing.T, w *world) {
		d, _ := w.start(stuckEnv + "=1")
		errs := w.readers(1)
		w.stuck(d, 1)
		if err := detach(w.dir); err != nil {
			t.Fatal(err)
		}
		d.kill()
		if _, takeover := w.start(); !takeover {
			t.Fatal("mounted anew")
		}
		w.finish(errs, 1)
		w.finish(w.readers(8), 8)
	})
}

func TestUnmountedByHandAndUnused(t *testing.T) {
	bothModes(t, func(t *testing.T, w *world) {
		d, _ := w.start()
		d.kill()
		if err := detach(w.dir); err != nil {
			t.Fatal(err)
		}
		if _, takeover := w.start(); takeover {
			t.Fatal("took a mount over that is gone")
		}
		w.finish(w.readers(8), 8)
	})
}

func TestForeignInitRefused(t *testing.T) {
	w := newWorld(t, false)
	d, _ := w.start()
	d.kill()
	k := w.dial()
	ses, err := k.Take(t.Context(), "w")
	if err != nil {
		t.Fatal(err)
	}
	defer ses.Close()
	good := append([]byte(nil), ses.Reply...)
	binary.NativeEndian.PutUint32(ses.Reply[replyBytes+24:], 1000) // time_gran, which go-fuse never sets
	if err := k.Hold(t.Context(), ses); err != nil {
		t.Fatal(err)
	}
	_, err = openSession(t.Context(), k, sessionOptions{Name: "w", Dir: w.dir}, newWords(), slog.New(slog.DiscardHandler))
	if !errors.Is(err, errInit) {
		t.Fatalf("got %v, want %v", err, errInit)
	}
	ses.Reply = good
	if err := k.Hold(t.Context(), ses); err != nil {
		t.Fatal(err)
	}
	if _, takeover := w.start(); !takeover {
		t.Fatal("the refusal has ended the mount")
	}
	w.finish(w.readers(8), 8)
}

// What ends the daemon's terminal session or cgroup leaves the keeper alone, and it
// needs little memory.
func TestKeeperStandsAlone(t *testing.T) {
	w := newWorld(t, false)
	w.start(detachEnv + "=1")
	pid := w.pid(w.dial())
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Error("session of the keeper:", sid, err)
	}
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(groups)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if f[2] != "/" && f[2] != "/dfsnapshotter-keeper" {
			t.Error("in the daemon's cgroup", line)
		}
	}
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGPIPE} {
		if err := unix.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "RssAnon:") || strings.HasPrefix(line, "VmRSS:") || strings.HasPrefix(line, "VmLck:") {
			t.Log(strings.TrimSpace(line))
		}
	}
	if got := w.pid(w.dial()); got != pid {
		t.Error("a terminal's signal killed the keeper")
	}
}

func TestSessionInOneProcess(t *testing.T) {
	bothModes(t, func(t *testing.T, w *world) {
		w.start() // for its keeper
		k := w.dial()
		log := slog.New(slog.NewTextHandler(t.Output(), nil))
		dir := filepath.Join(filepath.Dir(w.dir), "second")
		o := sessionOptions{Name: "second", Dir: dir, Relay: w.relay, ACL: true, ReadAhead: 512 << 10}
		s, err := openSession(t.Context(), k, o, newWords(), log)
		if err != nil {
			t.Fatal(err)
		}
		if got := readAheadOf(t, s.Dev()); got != "512\n" {
			t.Errorf("read_ahead_kb is %q", got)
		}
		w.next += 1 << 20
		if err := readWords(filepath.Join(dir, "f"), w.next); err != nil {
			t.Error(err)
		}
		if st := s.Server().InodeNotify(2, 0, -1); st != fuse.OK {
			t.Error("notify:", st)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s, err = openSession(t.Context(), k, o, newWords(), log); err != nil {
			t.Fatal(err)
		}
		if !s.Takeover() {
			t.Error("mounted anew")
		}
		if err := readWords(filepath.Join(dir, "f"), w.next); err != nil {
			t.Error(err)
		}
		if err := s.Unmount(); err != nil {
			t.Fatal(err)
		}
		if dev, err := keeper.Mounted(dir); dev != 0 || err != nil {
			t.Error("still mounted", dev, err)
		}
		if _, err := k.Take(t.Context(), "second"); !errors.Is(err, keeper.ErrNotHeld) {
			t.Error("still held:", err)
		}
	})
}

func readAheadOf(t *testing.T, dev uint32) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/sys/class/bdi/0:%d/read_ahead_kb", dev))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// BenchmarkSequentialRead reads what the kernel does not have yet, in order.
func BenchmarkSequentialRead(b *testing.B) {
	for _, relay := range []bool{false, true} {
		name := "direct"
		if relay {
			name = "relay"
		}
		b.Run(name, func(b *testing.B) { benchmarkRead(b, relay) })
	}
}

func benchmarkRead(b *testing.B, relay bool) {
	w := newWorld(b, relay)
	w.start(flatEnv + "=1")
	fd, err := unix.Open(filepath.Join(w.dir, "f"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 1<<20)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for off := int64(0); b.Loop(); off += int64(len(buf)) {
		if n, err := unix.Pread(fd, buf, off); n != len(buf) || err != nil {
			b.Fatal(n, err)
		}
	}
}
