package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/terminal/terminaltest"
)

// run runs a command line at a terminal.
func runAt(t *testing.T, x *terminaltest.Terminal, args ...string) <-chan error {
	t.Helper()
	cmd := newCommand()
	cmd.SetIn(x.TTY)
	cmd.SetOut(x.TTY)
	cmd.SetErr(x.TTY)
	cmd.SetArgs(args)
	ended := make(chan error, 1)
	go func() { ended <- cmd.ExecuteContext(t.Context()) }()
	return ended
}

// At a terminal a bar shows how far an image is; at the end there is one line, however
// narrow the terminal is.
func TestPreheatTerminal(t *testing.T) {
	t.Parallel()
	const image = "registry.example/a-team/with-a-long-name/app:v7"
	blobs := func(got int64, states ...string) []heatedBlob {
		return []heatedBlob{{Digest: "sha256:a", Size: 3 << 20, Got: got, Host: "seed-0", State: states[0]}, {Digest: "sha256:b", Size: 1 << 20, State: states[1], Got: map[bool]int64{true: 1 << 20}[states[1] == "succeeded"]}}
	}
	for columns, bar := range map[int]string{
		200: image + "   50 % [############............] 2.0 MiB of 4.0 MiB",
		110: "/app:v7   50 % [############............] 2.0 MiB of 4.0 MiB",
		40:  "me/app:v7   50 % [####",
	} {
		b := newBoss(t, step{state: "waiting"}, step{"running", "", blobs(2<<20, "running", "waiting")}, step{"running", "", blobs(3<<20, "succeeded", "running")}, step{"succeeded", "", blobs(3<<20, "succeeded", "succeeded")})
		x := terminaltest.New(t, columns)
		if err := <-runAt(t, x, "preheat", "--account", b.kept(t), "--pace", "1ms", image); err != nil {
			t.Fatal(err)
		}
		x.See(t, "in place on seed-0 after")
		x.See(t, "\n")
		if shown := x.Shown(); !strings.Contains(shown, "is being looked up") && columns > 60 || !strings.Contains(shown, bar) || columns > 60 && !strings.Contains(shown, " 1 of 2 blobs") {
			t.Errorf("%d columns: %q is not in %q", columns, bar, shown)
		}
		left := strings.Join(terminaltest.Screen(x.Shown(), columns), "")
		if !strings.HasPrefix(left, image+"  4.0 MiB in 2 blobs, in place on seed-0 after") {
			t.Errorf("%d columns: what is left is %q", columns, left)
		}
	}
}

// The password is asked for, and not shown.
func TestLoginTerminal(t *testing.T) {
	t.Parallel()
	b := newBoss(t)
	file := filepath.Join(t.TempDir(), "manager.json")
	x := terminaltest.New(t, 80)
	ended := runAt(t, x, "login", "--account", file, b.URL, "-u", "ada")
	x.See(t, "Password of ada: ")
	x.Type(t, "secret word\n")
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	x.See(t, "as ada (operator)")
	if shown := x.Shown(); strings.Contains(shown, "secret") || strings.Contains(shown, "dfm_") {
		t.Errorf("it shows %q", shown)
	}
	if a, err := (&accountFlag{file}).load(); err != nil || a.Token != "dfm_made" {
		t.Errorf("%+v, %v", a, err)
	}
}
