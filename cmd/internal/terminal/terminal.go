// Package terminal is how commands show people what they found, and how far they are.
package terminal

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Is reports whether what is written to w is seen on a terminal.
func Is(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Size is a number of bytes, for people.
func Size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}

// JSON writes v for programs, so that people can read it, too.
func JSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// Line is a line that is shown anew, again and again. Its zero value is shown
// nowhere. Its methods may be called concurrently.
type Line struct {
	To io.Writer // a terminal; nil: there is none

	mu    sync.Mutex
	shown time.Time // zero: nothing is on it; guarded by mu
}

// refresh is how often the line changes.
const refresh = 100 * time.Millisecond

// NewLine returns a line on w, which is shown if that is a terminal.
func NewLine(w io.Writer) *Line {
	if !Is(w) {
		return &Line{}
	}
	return &Line{To: w}
}

// Progress says that n of all bytes of something are done. It may be called for
// each few bytes.
func (l *Line) Progress(what string, n, all int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.To != nil && time.Since(l.shown) >= refresh {
		l.show(fmt.Sprintf("%s: %s of %s (%d %%)", what, Size(n), Size(all), 100*n/max(all, 1)))
	}
}

// Show replaces the line by text. An empty one leaves the terminal as it was.
func (l *Line) Show(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.show(text)
}

func (l *Line) show(text string) {
	if l.To == nil || text == "" && l.shown.IsZero() {
		return
	}
	if n := l.Columns(); n > 0 { // of a line that wraps the beginning would stay
		text = cut(text, n-1)
	}
	_, _ = fmt.Fprintf(l.To, "\r\033[K%s", text) // who does not see it loses little
	if l.shown = time.Now(); text == "" {
		l.shown = time.Time{}
	}
}

func cut(text string, n int) string {
	if all := []rune(text); len(all) > n {
		return string(all[:n])
	}
	return text
}

// Columns is how wide the terminal is; 0: that is not known.
func (l *Line) Columns() int {
	f, ok := l.To.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}
