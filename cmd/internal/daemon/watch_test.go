package daemon_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRelaxWatch holds that the thread which sleeps most of the time has the slack, in a
// program without cgo, as releases are: here others come first.
func TestRelaxWatch(t *testing.T) {
	t.Parallel()
	bin := filepath.Join(t.TempDir(), "watch")
	build := exec.Command("go", "build", "-o", bin, "./testdata/watch")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.Command(bin).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var most, all, slack int
	for line := range strings.Lines(string(out)) {
		var s, asleep int
		if _, err := fmt.Sscan(line, &s, &asleep); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if all += asleep; asleep > most {
			most, slack = asleep, s
		}
	}
	if most < all/2+1 || slack != 10_000_000 {
		t.Errorf("the thread that was found asleep %d times of %d has a slack of %d ns", most, all, slack)
	}
}
