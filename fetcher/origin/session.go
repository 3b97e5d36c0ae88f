package origin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
)

// maxRenewal bounds one login: credential helpers, plugins and the token
// server together.
const maxRenewal = 2 * time.Minute

// grant is leave to read a repository: the Authorization to send. A nil grant
// is none, which is how the first request goes out.
type grant struct {
	header  string
	expires time.Time   // zero: unknown
	worked  atomic.Bool // the registry has accepted it
	earned  bool        // a token server made it for a credential
	left    []candidate // what to try if it does not
	tried   []string    // names of what was tried before it, and of what made it
	refused []error     // what token servers said to those
}

func (g *grant) authorization() string {
	if g == nil {
		return ""
	}
	return g.header
}

// accepted notes that the registry let the grant pass.
func (g *grant) accepted() {
	if g != nil {
		g.worked.Store(true)
	}
}

// candidate is one way to get a grant.
type candidate struct {
	challenge  auth.Challenge
	credential Credential // zero: anonymous
}

func (c candidate) name() string {
	if c.credential == (Credential{}) {
		return "anonymous access"
	}
	return c.credential.Source
}

// session is the login state of one repository at one host. However many
// requests wait for a login, one is under way.
type session struct {
	client *Client
	host   *host
	repo   Repo

	mu         sync.Mutex
	grant      *grant           // guarded by mu; in use
	challenges []auth.Challenge // guarded by mu; the last ones
	renewal    *renewal         // guarded by mu; under way, or nil
}

type renewal struct {
	done  chan struct{}
	grant *grant
	err   error
}

// current returns the grant to send a request with. One about to expire is
// renewed first.
func (s *session) current(ctx context.Context) (*grant, error) {
	s.mu.Lock()
	g := s.grant
	if s.renewal == nil && (g == nil || g.expires.IsZero() || s.client.now().Before(g.expires)) {
		s.mu.Unlock()
		return g, nil
	}
	r := s.start(nil, "")
	s.mu.Unlock()
	return r.wait(ctx)
}

// renew returns another grant after the registry refused one with 401 or 403,
// whose answer it closes. A grant that worked before has expired: all
// credentials are tried again, as they may have changed as well. Otherwise it
// is the next credential's turn.
func (s *session) renew(ctx context.Context, refused *grant, resp *http.Response) (*grant, error) {
	text := fmt.Sprintf("status %d%s", resp.StatusCode, errorText(resp))
	s.mu.Lock()
	if s.renewal == nil && s.grant != refused && s.grant != nil {
		defer s.mu.Unlock()
		return s.grant, nil // somebody else was faster
	}
	if ch := supported(auth.ParseAuthHeader(resp.Header)); len(ch) > 0 {
		s.challenges = ch
	}
	if len(s.challenges) == 0 {
		s.mu.Unlock()
		return nil, fmt.Errorf("%w: %s, and no way to log in is offered", ErrUnauthorized, text)
	}
	if refused != nil && refused.worked.Load() {
		refused = nil
	}
	r := s.start(refused, text)
	s.mu.Unlock()
	return r.wait(ctx)
}

// supported keeps the challenges that can be answered.
func supported(all []auth.Challenge) []auth.Challenge {
	return slices.DeleteFunc(all, func(c auth.Challenge) bool {
		return c.Scheme != auth.BearerAuth && c.Scheme != auth.BasicAuth
	})
}

// start makes sure that a renewal is under way. It belongs to the client, not
// to the request that happened to be first. s.mu is held.
func (s *session) start(after *grant, text string) *renewal {
	if s.renewal != nil {
		return s.renewal
	}
	r := &renewal{done: make(chan struct{})}
	challenges := s.challenges
	started := s.client.spawn(func() {
		ctx, cancel := context.WithTimeout(s.client.ctx, maxRenewal)
		defer cancel()
		r.grant, r.err = s.next(ctx, after, challenges, text)
		switch {
		case r.err == nil:
		case s.client.ctx.Err() != nil:
			r.err = errClosed
		case ctx.Err() != nil:
			r.err = &UnavailableError{Err: fmt.Errorf("login to %s took longer than %s", s.repo, maxRenewal)}
		}
		s.mu.Lock()
		s.grant, s.renewal = r.grant, nil
		s.mu.Unlock()
		close(r.done)
	})
	if started {
		s.renewal = r // before the goroutine can clear it: s.mu is held
	} else {
		r.err = errClosed
		close(r.done)
	}
	return r
}

// wait returns the outcome of a renewal. ctx ends the waiting only.
func (r *renewal) wait(ctx context.Context) (*grant, error) {
	select {
	case <-r.done:
		return r.grant, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// next returns the grant of the first credential that a token server accepts,
// of those that come after a refused grant's, or of all if that is nil.
func (s *session) next(ctx context.Context, after *grant, challenges []auth.Challenge, text string) (*grant, error) {
	g := &grant{}
	if after != nil {
		g.left, g.tried, g.refused = after.left, after.tried, after.refused
	} else {
		g.left = s.candidates(ctx, challenges)
	}
	for len(g.left) > 0 {
		cand := g.left[0]
		g.left = g.left[1:]
		g.tried = append(slices.Clip(g.tried), cand.name())
		header, expires, err := s.host.answer(ctx, s.client, s.repo, cand)
		if err == nil {
			g.header, g.expires = header, expires
			g.earned = cand.challenge.Scheme == auth.BearerAuth && cand.credential != (Credential{}) && cand.credential.RegistryToken == ""
			return g, nil
		}
		if !errors.Is(err, ErrUnauthorized) {
			return nil, err
		}
		g.refused = append(slices.Clip(g.refused), err)
	}
	return nil, s.denied(g, text)
}

// candidates lists the ways to log in: each credential, then without.
func (s *session) candidates(ctx context.Context, challenges []auth.Challenge) []candidate {
	creds, err := s.client.cfg.Credentials.Lookup(ctx, s.repo)
	if err != nil {
		s.client.cfg.Log.Warn("credentials cannot be looked up", "repo", s.repo.String(), "err", err)
	}
	var out []candidate
	for _, ch := range challenges {
		for _, cred := range creds {
			if cred.answers(ch) {
				out = append(out, candidate{ch, cred})
			}
		}
	}
	for _, ch := range challenges {
		if ch.Scheme == auth.BearerAuth {
			out = append(out, candidate{challenge: ch})
		}
	}
	return out
}

// denied says that nothing is left to try, and what to do.
func (s *session) denied(g *grant, text string) error {
	var reasons []string
	for _, err := range g.refused {
		reasons = append(reasons, err.Error())
	}
	if text != "" {
		reasons = append(reasons, "the registry: "+text)
	}
	tried := "no credentials are known for it"
	if len(g.tried) > 0 {
		tried = "tried " + strings.Join(slices.Compact(g.tried), ", ")
	}
	return fmt.Errorf("%w to read %s: %s (%s); give credentials that may pull it, as with docker login %s",
		ErrUnauthorized, s.repo, tried, strings.Join(reasons, "; "), s.repo.Host)
}
