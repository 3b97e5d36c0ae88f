package origin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// each asks the hosts of a repository for one blob, in order, until one
// succeeds.
func (c *Client) each(ctx context.Context, q query, ask func(*host) error) error {
	r, err := c.registry(q.repo.Host, c.now())
	if err != nil {
		return err
	}
	var failed failures
	for _, h := range r.inOrder(q.key(), c.now()) {
		err := ask(h)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		err = fmt.Errorf("%s: %w", h.base.Host, err)
		c.note(h, q, err, len(r.hosts) > 1)
		failed = append(failed, failure{h, err})
	}
	if len(failed) == 1 {
		return failed[0].err
	}
	return failed
}

// note remembers what a host's failure means for the next request.
func (c *Client) note(h *host, q query, err error, others bool) {
	var unavailable *UnavailableError
	wait := time.Duration(0)
	switch {
	case errors.Is(err, ErrUnauthorized), q.kind == kindReferrers && errors.Is(err, ErrResponse):
		return // it need not know referrers to have blobs
	case errors.Is(err, ErrNotFound):
		if !h.server {
			h.absent.put(q.key(), struct{}{}, c.now(), time.Minute)
		}
		return
	case errors.As(err, &unavailable):
		wait = unavailable.RetryAfter
	}
	if h.failed(wait, c.now()) && others {
		c.cfg.Log.Warn("a host of the registry fails, asking the others first", "registry", q.repo.Host, "host", h.base.Host, "err", err)
	}
}

// distrust is how long Blame holds.
const distrust = 10 * time.Minute

// Blame tells the client that a blob's bytes were wrong: the registry's own
// server is asked for them before any mirror for a while.
func (c *Client) Blame(repo Repo, d digest.Digest) {
	c.mu.Lock()
	r := c.registries[repo.Host]
	c.mu.Unlock()
	if r == nil {
		return
	}
	for _, h := range r.hosts {
		h.places.drop(memoKey{repo.Path, d})
		if !h.server {
			h.absent.put(memoKey{repo.Path, d}, struct{}{}, c.now(), distrust)
		}
	}
}

type failure struct {
	host *host
	err  error
}

// failures is what several hosts answered, as one error: it names them all
// and counts as the one that tells best what to do.
type failures []failure

func (f failures) Error() string {
	var b strings.Builder
	for i, e := range f {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(e.err.Error())
	}
	return b.String()
}

// Unwrap returns the failure to act on: the server's word on absence is
// final, else a host that may come back is worth waiting for, else the server
// knows best. It was asked, as all were.
func (f failures) Unwrap() error {
	server := f[len(f)-1].err
	for _, e := range f {
		if e.host.server {
			server = e.err
		}
	}
	if errors.Is(server, ErrNotFound) {
		return server
	}
	for _, e := range f {
		var unavailable *UnavailableError
		if errors.As(e.err, &unavailable) {
			return e.err
		}
	}
	return server
}
