package web

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/auth"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// Where a token may stand besides Authorization.
const tokenHeader = "X-Dfmanager-Token"

var errCredentials = &Error{Status: http.StatusUnauthorized, Code: "unauthorized", Message: "these credentials are not good, or not any more"}

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
		return errCredentials
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
		return errCredentials
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
	u, err := s.password(c, name, password)
	if err == nil {
		c.user, c.scopes = u, []string{string(auth.Admin)}
	}
	return err
}

// password checks a name and password. Who fails often has to wait.
func (s *Server) password(c *call, name, password string) (store.User, error) {
	ctx := c.Context()
	name = strings.ToLower(name)
	u, err := s.Store.UserByName(ctx, name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.User{}, err
	}
	if u.ID != 0 && !u.Disabled && s.passwords.has(u.Password, password) {
		return u, nil
	}
	subjects := auth.Subjects(name, c.remote)
	failures, err := s.Store.SignInFailures(ctx, subjects...)
	if err != nil {
		return store.User{}, err
	}
	if wait := auth.Wait(failures, time.Now()); wait > 0 {
		return store.User{}, &Error{Status: http.StatusTooManyRequests, Code: "too_many_failures", Message: "too many failed sign-ins; wait", RetryAfter: wait}
	}
	hash := u.Password
	if u.Disabled {
		hash = ""
	}
	err = s.Hasher.Check(ctx, hash, password)
	if errors.Is(err, auth.ErrPassword) {
		return store.User{}, errors.Join(errCredentials, s.failed(ctx, name, c.remote, subjects))
	}
	if err != nil {
		return store.User{}, err
	}
	s.passwords.add(u.Password, password)
	if failures[0].Count+failures[2].Count > 0 {
		err = s.Store.SignedIn(ctx, subjects[0], subjects[2]) // an address does not become good by one of its names
	}
	return u, err
}

func (s *Server) failed(ctx context.Context, name, remote string, subjects []string) error {
	if err := s.Store.SignInFailed(ctx, auth.Forget, subjects...); err != nil {
		return err
	}
	s.Log.Info("sign-in failed", "address", remote)
	who := name
	if auth.CheckName(who) != nil {
		who = "" // it may be a password, typed into the wrong field
	}
	return s.Store.Audit(ctx, store.By{Remote: remote}, "session.refuse", who, "")
}

// checked remembers for a while which passwords were right: hashing takes long,
// and programs send theirs with every request.
type checked struct {
	key   [32]byte
	mu    sync.Mutex // guards until
	until map[[32]byte]time.Time
}

const checkedFor, maxChecked = 5 * time.Minute, 1024

func newChecked() *checked {
	c := &checked{until: map[[32]byte]time.Time{}}
	_, _ = rand.Read(c.key[:]) // never fails
	return c
}

func (c *checked) sum(hash, password string) [32]byte {
	return sha256.Sum256([]byte(string(c.key[:]) + hash + "\x00" + password))
}

func (c *checked) has(hash, password string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return hash != "" && time.Now().Before(c.until[c.sum(hash, password)])
}

func (c *checked) add(hash, password string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.until) >= maxChecked {
		clear(c.until)
	}
	c.until[c.sum(hash, password)] = time.Now().Add(checkedFor)
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
