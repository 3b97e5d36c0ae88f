// Package terminaltest has terminals for tests.
package terminaltest

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Terminal is one that nobody sits at. Programs are given TTY.
type Terminal struct {
	TTY  *os.File
	user *os.File // the other end of it

	mu    sync.Mutex // guards what follows
	shown bytes.Buffer
}

// New makes a terminal of so many columns.
func New(t testing.TB, columns int) *Terminal {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := user.SyscallConn() // user.Fd would have its reads block for ever
	if err != nil {
		t.Fatal(err)
	}
	var n int
	var wrong error
	if err := c.Control(func(fd uintptr) {
		if wrong = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); wrong == nil {
			n, wrong = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
		if wrong == nil {
			wrong = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: uint16(columns)})
		}
	}); err != nil || wrong != nil {
		t.Fatal(err, wrong)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	x := &Terminal{TTY: tty, user: user}
	var reading sync.WaitGroup
	reading.Go(x.read)
	t.Cleanup(func() {
		_ = tty.Close() // what was shown is what counts
		_ = user.Close()
		reading.Wait()
	})
	return x
}

func (x *Terminal) read() {
	for b := make([]byte, 4096); ; {
		n, err := x.user.Read(b)
		x.mu.Lock()
		x.shown.Write(b[:n])
		x.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Shown is all that was shown so far, as it was sent.
func (x *Terminal) Shown() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.shown.String()
}

// See waits until a text was shown.
func (x *Terminal) See(t testing.TB, text string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); !strings.Contains(x.Shown(), text); <-tick.C {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("%q is not in %q", text, x.Shown())
		}
	}
}

// Type types a text.
func (x *Terminal) Type(t testing.TB, text string) {
	t.Helper()
	if _, err := x.user.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// Screen is what is left of what was shown: its lines, in which later text has taken
// the place of earlier.
func Screen(shown string, columns int) (lines []string) {
	var line []rune
	at := 0
	for rest := shown; rest != ""; {
		if after, is := strings.CutPrefix(rest, "\033[K"); is {
			line, rest = line[:at], after
			continue
		}
		r := []rune(rest)[0]
		rest = rest[len(string(r)):]
		switch {
		case r == '\r':
			at = 0
			continue
		case r == '\n', at == columns:
			lines, line, at = append(lines, string(line)), nil, 0
		}
		if r == '\n' {
			continue
		}
		if line = append(line[:at:at], append([]rune{r}, line[min(at+1, len(line)):]...)...); at < columns {
			at++
		}
	}
	return append(lines, string(line))
}
