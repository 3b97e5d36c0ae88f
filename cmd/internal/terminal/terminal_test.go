package terminal_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/terminal"
)

func TestSize(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0.0 KiB", 1536: "1.5 KiB", 3 << 20: "3.0 MiB", 5 << 30: "5.0 GiB"} {
		if got := terminal.Size(n); got != want {
			t.Errorf("%d bytes: %q, want %q", n, got, want)
		}
	}
}

// TestLine: progress is shown at once and then not too often, and leaves nothing
// behind.
func TestLine(t *testing.T) {
	t.Parallel()
	var to bytes.Buffer
	l := terminal.Line{To: &to}
	l.Show("")
	l.Progress("x", 1<<20, 4<<20)
	l.Progress("x", 2<<20, 4<<20)
	l.Show("")
	l.Show("")
	if got, want := to.String(), "\r\033[Kx: 1.0 MiB of 4.0 MiB (25 %)\r\033[K"; got != want {
		t.Errorf("shows %q, want %q", got, want)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, w := range []*terminal.Line{terminal.NewLine(f), terminal.NewLine(&to)} {
		if w.To != nil {
			t.Error("a file counts as a terminal")
		}
		w.Progress("x", 1, 2)
		w.Show("x")
	}
}
