package main

import (
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestRefused asks agents that know no such request, one of them only after it has broken
// off: nobody waits for an agent that is there.
func TestRefused(t *testing.T) {
	t.Parallel()
	data := random(mib, 51)
	s := serve(t, data)
	for name, c := range map[string]struct {
		breaks int32 // so many times before it answers
		status int
		says   string
	}{
		"404":                     {0, http.StatusNotFound, "since the agent answers 404 Not Found"},
		"400":                     {0, http.StatusBadRequest, "since the agent answers 400 Bad Request"},
		"after it has broken off": {2, http.StatusNotFound, "since the agent answers 404 Not Found"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			ln, err := net.Listen("unix", filepath.Join(dir, "s"))
			if err != nil {
				t.Fatal(err)
			}
			var asked atomic.Int32
			h := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if asked.Add(1) <= c.breaks {
					panic(http.ErrAbortHandler)
				}
				w.WriteHeader(c.status)
			})}
			go func() { _ = h.Serve(ln) }() // until it is closed
			t.Cleanup(func() { _ = h.Close() })
			to, began := filepath.Join(dir, "f"), time.Now()
			out, err := run(t, s.URL+"/f", "-O", to, "--agent", ln.Addr().String())
			if err != nil || !strings.Contains(out, c.says) || asked.Load() != c.breaks+1 || time.Since(began) > agentAgain/2 {
				t.Errorf("%v after %v and %d requests: %s", err, time.Since(began), asked.Load(), out)
			}
			checkFile(t, to, data)
		})
	}
}
