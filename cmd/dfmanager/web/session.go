package web

import (
	"net/http"
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/auth"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

func (s *Server) sessionRoutes() []route {
	return []route{
		{method: "POST", path: "/api/v1/session", access: public, summary: "Sign in; the answer sets a cookie", in: signIn{}, out: self{}, status: http.StatusCreated, do: s.signIn},
		{method: "DELETE", path: "/api/v1/session", access: firstSign, summary: "Sign out", do: s.signOut},
		{method: "GET", path: "/api/v1/me", access: access{role: store.Guest, scope: auth.Read, locked: true}, summary: "Who you are", out: self{}, do: s.me},
		{method: "PUT", path: "/api/v1/me/password", access: firstSign, summary: "Change your password; your other sessions end", in: newPassword{}, do: s.changePassword},
	}
}

type signIn struct {
	Name     string `json:"name"`
	Password string `json:"password"`
}

// self is who calls.
type self struct {
	ID         int64    `json:"id"`
	Name       string   `json:"name"`
	Role       string   `json:"role"`
	MustChange bool     `json:"must_change_password"`
	Scopes     []string `json:"scopes"`
}

func (c *call) self() self {
	scopes := slices.Clone(c.scopes)
	if scopes == nil {
		scopes = []string{}
	}
	return self{c.user.ID, c.user.Name, string(c.user.Role), c.user.MustChange, scopes}
}

func (s *Server) me(c *call) (any, error) { return c.self(), nil }

// cookieName is one that only this host can have set, where that is possible.
func (s *Server) cookieName() string {
	if s.Secure {
		return "__Host-dfmanager"
	}
	return "dfmanager"
}

func (s *Server) cookie(value string, age time.Duration) *http.Cookie {
	return &http.Cookie{
		Name: s.cookieName(), Value: value, Path: "/", MaxAge: int(age.Seconds()),
		HttpOnly: true, Secure: s.Secure, SameSite: http.SameSiteStrictMode,
	}
}

func (s *Server) signIn(c *call) (any, error) {
	in, err := body[signIn](c)
	if err != nil {
		return nil, err
	}
	u, session, err := s.Accounts.SignIn(c.Context(), c.by(), c.session, in.Name, in.Password)
	if err != nil {
		return nil, err
	}
	c.user, c.scopes = u, nil
	http.SetCookie(c.w, s.cookie(session, s.Accounts.Session))
	return c.self(), nil
}

func (s *Server) signOut(c *call) (any, error) {
	if err := s.Store.DeleteSession(c.Context(), c.by(), c.session); err != nil {
		return nil, err
	}
	http.SetCookie(c.w, s.cookie("", -time.Second))
	return nil, nil
}

type newPassword struct {
	Old string `json:"old"`
	New string `json:"new"`
}

func (s *Server) changePassword(c *call) (any, error) {
	in, err := body[newPassword](c)
	if err != nil {
		return nil, err
	}
	return nil, s.Accounts.ChangePassword(c.Context(), c.by(), c.user, c.session, in.Old, in.New)
}
