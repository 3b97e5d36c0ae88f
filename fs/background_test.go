package fs

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
)

// TestQuiet: layers are not filled while something is fetched for a container that is
// about to start, or while a process waits for what comes for another reason.
func TestQuiet(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.Quiet = 300 * time.Millisecond })
	w := e.want(scattered())
	first := e.layer(w)
	begun, release := make(chan struct{}), make(chan struct{})
	e.fs.fetchAhead(func() { close(begun); <-release })
	<-begun
	if err := e.fs.Remove(t.Context(), first.ID()); err != nil {
		t.Fatal(err)
	}
	l := e.layer(w) // its index is known: nothing of it is here
	busy := func(why string) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := e.fs.waitQuiet(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", why, err)
		}
	}
	busy("a start is prepared")

	pack := newBoot(chunks(t, l, "a")) // which goes on and does not bring it
	l.boot.Store(pack)
	over := make(chan struct{})
	go func() {
		for alive := time.NewTicker(bootPatience / 20); ; {
			select {
			case <-alive.C:
				pack.step(func() {})
			case <-over:
				pack.step(func() { pack.over = true })
				return
			}
		}
	}()
	in, _ := l.walk("a")
	read := make(chan error, 1)
	go func() { read <- l.ensure(t.Context(), in.Ino, 0, 1, fetcher.OnDemand) }()
	for before := time.Now(); e.fetcher.LastOnDemand().IsZero() && time.Since(before) < time.Minute; {
		time.Sleep(time.Millisecond)
	}
	close(release)
	busy("a process waits")
	close(over)
	if err := <-read; err != nil {
		t.Error(err)
	}
	if err := e.fs.waitQuiet(t.Context()); err != nil {
		t.Error(err)
	}
}
