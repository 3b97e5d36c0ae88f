package origin

import (
	"context"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Token returns a bearer token that reads exactly this repository for a while:
// the one that a token server made for this client's credentials and that the
// registry has accepted. It is "" where there is none to lend: nothing of the
// repository was read yet, it is open to all, or the registry wants passwords, or
// a token that was configured. Token asks nobody.
func (c *Client) Token(repo Repo) string {
	s, err := c.serverSession(repo)
	if err != nil {
		return ""
	}
	s.mu.Lock()
	g := s.grant
	s.mu.Unlock()
	if g == nil || !g.earned || !g.worked.Load() || !g.expires.IsZero() && c.now().After(g.expires) {
		return ""
	}
	token, _ := strings.CutPrefix(g.header, "Bearer ")
	return token
}

// NewToken returns what Token does after it has read a byte of d, so that the
// token is one that the registry accepts now.
func (c *Client) NewToken(ctx context.Context, repo Repo, d digest.Digest) (string, error) {
	body, err := c.Blob(ctx, repo, d, 0, 1)
	if err != nil {
		return "", err
	}
	return c.Token(repo), body.Close()
}

// serverSession returns the login state at the registry itself, not at a
// mirror.
func (c *Client) serverSession(repo Repo) (*session, error) {
	r, err := c.registry(repo.Host, c.now())
	if err != nil {
		return nil, err
	}
	h := r.hosts[len(r.hosts)-1]
	for _, o := range r.hosts {
		if o.server {
			h = o
		}
	}
	return h.session(c, repo.Path), nil
}
