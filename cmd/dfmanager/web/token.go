package web

import (
	"net/http"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/account"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

func (s *Server) tokenRoutes() []route {
	return []route{
		{method: "GET", path: "/api/v1/me/tokens", access: onlyHere, summary: "Your tokens", out: list[token]{}, page: true, do: s.tokens},
		{method: "POST", path: "/api/v1/me/tokens", access: onlyHere, summary: "Create a token; only this answer shows it", in: account.NewToken{}, out: createdToken{}, status: http.StatusCreated, do: s.createToken},
		{method: "DELETE", path: "/api/v1/me/tokens/{token}", access: onlyHere, summary: "Revoke one of your tokens", do: s.deleteToken},
	}
}

type token struct {
	ID      int64      `json:"id"`
	Name    string     `json:"name"`
	Scopes  []string   `json:"scopes"`
	Created time.Time  `json:"created_at"`
	Expires *time.Time `json:"expires_at"`
	Used    *time.Time `json:"last_used_at"`
}

func showToken(k store.Token) token {
	return token{k.ID, k.Name, k.Scopes, k.Created, when(k.Expires), when(k.Used)}
}

type createdToken struct {
	token
	Token string `json:"token"`
}

func (s *Server) tokens(c *call) (any, error) { return s.tokensOf(c, c.user.ID) }

func (s *Server) userTokens(c *call) (any, error) {
	id, err := c.id("id")
	if err != nil {
		return nil, err
	}
	return s.tokensOf(c, id)
}

func (s *Server) tokensOf(c *call, user int64) (any, error) {
	p, err := c.part()
	if err != nil {
		return nil, err
	}
	all, err := s.Store.Tokens(c.Context(), user, p)
	return page(p, all, func(k store.Token) int64 { return k.ID }, showToken), err
}

func (s *Server) createToken(c *call) (any, error) {
	in, err := body[account.NewToken](c)
	if err != nil {
		return nil, err
	}
	k, text, err := s.Accounts.CreateToken(c.Context(), c.by(), c.user.ID, in)
	return createdToken{showToken(k), text}, err
}

func (s *Server) deleteToken(c *call) (any, error) { return s.revoke(c, c.user.ID) }

func (s *Server) revokeToken(c *call) (any, error) {
	id, err := c.id("id")
	if err != nil {
		return nil, err
	}
	return s.revoke(c, id)
}

func (s *Server) revoke(c *call, user int64) (any, error) {
	id, err := c.id("token")
	if err != nil {
		return nil, err
	}
	return nil, s.Store.DeleteToken(c.Context(), c.by(), user, id)
}
