package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/terminal"
	"github.com/dfsnapshotter/dfsnapshotter/fs"
)

// says starts a daemon that says one thing after the other of an image, and the
// last for ever.
func says(t *testing.T, states ...imageStatus) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/image", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("name") != "a.example/b:1?x" {
			http.Error(w, "no such image", http.StatusNotFound)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		_ = json.NewEncoder(w).Encode(states[0]) // whoever asks fails then
		if len(states) > 1 {
			states = states[1:]
		}
	})
	s := daemon.Serve(ln, mux)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return socket
}

func TestWait(t *testing.T) {
	t.Parallel()
	half := fs.Status{Size: 10 << 20, State: fs.Lazy, Chunks: 4, Filled: 2}
	stuck, whole, refused := half, half, half
	stuck.Reason = "disk is full"
	whole.State = fs.Complete
	refused.State, refused.Reason = fs.Refused, "wrong diffID"
	image := func(pulled bool, l ...fs.Status) imageStatus { return imageStatus{pulled, l} }
	for name, c := range map[string]struct {
		states []imageStatus
		want   string // of the error; "": all is there
		shows  string // on the terminal
	}{
		"there":        {[]imageStatus{image(true, whole, whole)}, "", ""},
		"comes":        {[]imageStatus{image(false, half), image(true, half, whole), image(true, whole, whole)}, "", "15.0 MiB of 20.0 MiB, 1 of 2 layers are complete"},
		"not ours":     {[]imageStatus{image(true)}, "", ""},
		"refused":      {[]imageStatus{image(true, whole, refused)}, "wrong diffID", ""},
		"is stuck":     {[]imageStatus{image(true, whole, stuck)}, "filling has stopped: disk is full", "filling has stopped"},
		"never pulled": {[]imageStatus{image(false, whole)}, "its pull is under way", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var shown bytes.Buffer
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if c.want != "" {
				ctx, cancel = context.WithTimeout(t.Context(), 2*lookAgain)
			}
			defer cancel()
			w := waiter{socket: says(t, c.states...), image: "a.example/b:1?x", line: &terminal.Line{To: &shown}}
			err := w.wait(ctx)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if !strings.Contains(shown.String(), c.shows) {
				t.Errorf("it shows %q, want %q", shown.String(), c.shows)
			}
			var exit daemon.ExitError
			if late := c.want != "" && name != "refused"; errors.As(err, &exit) != late || late && exit.Code != timedOut {
				t.Errorf("exit code %d: %v", exit.Code, err)
			}
		})
	}
	w := waiter{socket: says(t, image(true)), image: "other", line: &terminal.Line{}}
	if err := w.wait(t.Context()); err == nil || !strings.Contains(err.Error(), "no such image") {
		t.Errorf("an unknown image: %v", err)
	}
	w.socket += "x"
	if err := w.wait(t.Context()); err == nil || !strings.Contains(err.Error(), "no agent answers") {
		t.Errorf("no daemon: %v", err)
	}
}
