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
	if repo.IsFile() {
		return ""
	}
	r, err := c.registry(repo.Host, c.now())
	if err != nil {
		return ""
	}
	for _, h := range r.own() {
		s := h.session(c, repo.Path)
		s.mu.Lock()
		g := s.grant
		s.mu.Unlock()
		if g != nil && g.earned && g.worked.Load() && (g.expires.IsZero() || c.now().Before(g.expires)) {
			return strings.TrimPrefix(g.header, "Bearer ")
		}
	}
	return ""
}

// own returns the hosts that are the registry itself, not a mirror: its default
// one, and entries of hosts.toml for the same host and port.
func (r *registry) own() []*host {
	var server *host
	for _, h := range r.hosts {
		if h.server {
			server = h
		}
	}
	if server == nil {
		return nil
	}
	var own []*host
	for _, h := range r.hosts {
		if h.base.Host == server.base.Host {
			own = append(own, h)
		}
	}
	return own
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
