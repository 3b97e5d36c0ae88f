// Package sighttest has schedulers for tests that see what they are told to.
package sighttest

import (
	"context"
	"errors"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// Schedulers is a sight.Source in which all that can be asked see the same.
type Schedulers struct {
	mu    sync.Mutex // guards what follows
	sees  map[digest.Digest]string
	away  string // scheduler that does not answer
	asked int
}

// New makes schedulers that see JSON, by digest; that of "" is all there is.
func New(sees map[digest.Digest]string) *Schedulers {
	s := &Schedulers{sees: map[digest.Digest]string{}}
	for d, text := range sees {
		s.sees[d] = text
	}
	return s
}

// Set changes what is seen of a blob, or of all.
func (s *Schedulers) Set(d digest.Digest, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sees[d] = text
}

// Away has one of them not answer.
func (s *Schedulers) Away(scheduler string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = scheduler
}

// Asked is how often they were asked.
func (s *Schedulers) Asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// See says what is seen.
func (s *Schedulers) See(_ context.Context, _ int64, scheduler string, d digest.Digest) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if scheduler == s.away {
		return nil, errors.New("connection refused")
	}
	text, there := s.sees[d]
	if !there {
		return nil, wire.ErrNoSwarm
	}
	return []byte(text), nil
}
