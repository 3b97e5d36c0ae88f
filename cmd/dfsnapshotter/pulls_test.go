package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfsnapshotter/imageservice"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

func pull(repo, password string) imageservice.Pull {
	return imageservice.Pull{
		Repo:       origin.Repo{Host: "registry.example", Path: repo},
		Credential: origin.Credential{Username: "ada", Password: password, Source: "a pull by CRI"},
	}
}

// knows reports whether an image can be read by what its pull came with.
func knows(t *testing.T, l *origin.Learned, p imageservice.Pull) bool {
	t.Helper()
	all, err := l.Lookup(t.Context(), p.Repo)
	if err != nil {
		t.Error(err)
	}
	return slices.Contains(all, p.Credential)
}

// TestPullsFail has pulls fail beside others with the same secret, which need it still.
func TestPullsFail(t *testing.T) {
	t.Parallel()
	var l origin.Learned
	s := &pulls{learned: &l, log: slog.New(slog.DiscardHandler)}
	p, other := pull("app", "right"), pull("app", "another")
	failed := errors.New("there is no such tag")
	first, second := s.begin(p), s.begin(p)
	s.begin(other)(failed)
	if knows(t, &l, other) {
		t.Error("the secret of a pull that has failed is known")
	}
	if second(failed); !knows(t, &l, p) {
		t.Error("the secret of a pull under way is forgotten when another one fails")
	}
	if first(failed); knows(t, &l, p) {
		t.Error("the secret is known when all pulls have failed")
	}
	first, second = s.begin(p), s.begin(p)
	first(nil)
	if second(failed); !knows(t, &l, p) {
		t.Error("the secret of a pull that has succeeded is forgotten when another one fails")
	}
	if len(s.tried) > 0 {
		t.Errorf("%d pulls that have ended are remembered", len(s.tried))
	}
}

// TestPullsKept has two pulls end at once, the keeper being slow with the first one: what
// it has in the end is both secrets.
func TestPullsKept(t *testing.T) {
	t.Parallel()
	var l, next origin.Learned
	var mu sync.Mutex // guards what follows
	var kept []byte
	calls := 0
	entered := make(chan struct{})
	s := &pulls{learned: &l, log: slog.New(slog.DiscardHandler), keep: func(_ context.Context, data []byte) error {
		mu.Lock()
		calls++
		first := calls == 1
		mu.Unlock()
		if first {
			close(entered)
			time.Sleep(200 * time.Millisecond)
		}
		mu.Lock()
		defer mu.Unlock()
		kept = data
		return nil
	}}
	a, b := pull("a", "x"), pull("b", "y")
	var wg sync.WaitGroup
	wg.Go(func() { s.begin(a)(nil) })
	<-entered
	s.begin(b)(nil)
	wg.Wait()
	if err := next.Import(kept); err != nil {
		t.Fatal(err)
	}
	if !knows(t, &next, a) || !knows(t, &next, b) {
		t.Errorf("the next process knows a: %v, b: %v", knows(t, &next, a), knows(t, &next, b))
	}
}
