package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfsnapshotter/imageservice"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

const (
	secretTried = 2 * time.Hour   // how long a secret counts whose pull has not ended
	keepWithin  = 3 * time.Second // the keeper should answer
)

// pulls learns from pulls what images may be read by. Its methods may be called
// concurrently.
type pulls struct {
	learned *origin.Learned
	keep    func(ctx context.Context, secrets []byte) error // for the next process; nil: nobody does
	log     *slog.Logger

	mu    sync.Mutex                // held while a pull begins or ends
	tried map[imageservice.Pull]int // how many are under way; guarded by mu

	keeping sync.Mutex // held while secrets are kept: what is older is not kept later
}

// begin learns what an image may be read by: for a while, since its layers are asked for
// during the pull, and for good when that has succeeded.
func (s *pulls) begin(p imageservice.Pull) (ended func(err error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tried == nil {
		s.tried = map[imageservice.Pull]int{}
	}
	s.tried[p]++
	s.learned.Add(p.Repo, p.Credential, time.Now().Add(secretTried))
	return func(err error) {
		s.end(p, err == nil)
		if err == nil {
			s.log.Debug("pull secret learned", "repo", p.Repo.String())
			s.keepAll()
		}
	}
}

// end notes that a pull has ended. A secret is forgotten with the last pull that tries
// it, but not if one has succeeded: containers may still read.
func (s *pulls) end(p imageservice.Pull, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tried[p]--; s.tried[p] == 0 {
		delete(s.tried, p)
	}
	switch {
	case ok:
		s.learned.Add(p.Repo, p.Credential, time.Time{})
	case s.tried[p] == 0:
		s.learned.Forget(p.Repo, p.Credential)
	}
}

// keepAll has the keeper keep what was learned, in memory, for the next process.
func (s *pulls) keepAll() {
	if s.keep == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), keepWithin) // with those before
	defer cancel()
	s.keeping.Lock()
	defer s.keeping.Unlock()
	data, err := s.learned.Export()
	if err == nil {
		err = s.keep(ctx, data)
	}
	if err != nil {
		s.log.Warn("pull secrets will not outlive this process", "err", err)
	}
}
