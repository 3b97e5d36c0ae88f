package web

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/account"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/auth"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// Where a token may stand besides Authorization.
const tokenHeader = "X-Dfmanager-Token"

// identify finds out who calls. Credentials that are sent must be good, even
// where none are needed: who tests a configuration wants to know.
func (s *Server) identify(c *call) error {
	h := c.Header.Get("Authorization")
	kind, value, _ := strings.Cut(h, " ")
	name, password, basic := c.BasicAuth()
	custom := c.Header.Get(tokenHeader)
	switch {
	case custom != "":
		return s.byToken(c, "", custom)
	case basic && auth.IsToken(password):
		return s.byToken(c, name, password)
	case basic:
		return s.byPassword(c, name, password)
	case strings.EqualFold(kind, "Bearer"):
		return s.byToken(c, "", strings.TrimSpace(value))
	case h != "":
		return account.ErrCredentials
	}
	if err := s.bySession(c); err != nil || c.user.ID != 0 {
		return err
	}
	if addr, err := netip.ParseAddr(c.remote); err == nil && within(s.OpenTo, addr) {
		c.open, c.user.Name = true, "anonymous"
	}
	return nil
}

// bySession looks for a cookie. One that is not good any more is as good as none.
func (s *Server) bySession(c *call) error {
	cookies := c.CookiesNamed(s.cookieName())
	if len(cookies) == 0 {
		return nil
	}
	hash := auth.Hash(cookies[0].Value)
	u, err := s.Store.SessionUser(c.Context(), hash)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err == nil {
		c.user, c.session = u, hash
	}
	return err
}

func (s *Server) byToken(c *call, name, token string) error {
	k, u, err := s.Store.TokenUser(c.Context(), auth.Hash(token))
	if errors.Is(err, store.ErrNotFound) || err == nil && name != "" && !strings.EqualFold(name, u.Name) {
		return account.ErrCredentials
	}
	if err != nil {
		return err
	}
	c.user, c.scopes = u, k.Scopes
	if time.Since(k.Used) > time.Minute {
		if err := s.Store.UseToken(c.Context(), k.ID); err != nil {
			s.Log.Warn("when a token was used could not be noted", "err", err)
		}
	}
	return nil
}

func (s *Server) byPassword(c *call, name, password string) error {
	u, err := s.Accounts.Check(c.Context(), c.remote, name, password)
	if err == nil {
		c.user, c.scopes = u, []string{string(auth.Admin)}
	}
	return err
}

// forwarded are the addresses that a request went through, the last one last.
func forwarded(h http.Header) (hops []string) {
	for _, line := range h.Values("X-Forwarded-For") {
		for hop := range strings.SplitSeq(line, ",") {
			hops = append(hops, strings.TrimSpace(hop))
		}
	}
	return hops
}
