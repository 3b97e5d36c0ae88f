package web

import (
	"net/http"
	"time"
	"unicode"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/auth"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

func (s *Server) tokenRoutes() []route {
	return []route{
		{method: "GET", path: "/api/v1/me/tokens", access: onlyHere, summary: "Your tokens", out: list[token]{}, page: true, do: s.tokens},
		{method: "POST", path: "/api/v1/me/tokens", access: onlyHere, summary: "Create a token; only this answer shows it", in: newToken{}, out: createdToken{}, status: http.StatusCreated, do: s.createToken},
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

type newToken struct {
	Name   string   `json:"name"`
	Scopes []string `json:"scopes"`
	Days   int      `json:"expires_in_days"` // 0: never
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
	in, err := body[newToken](c)
	if err != nil {
		return nil, err
	}
	fields := map[string]string{}
	if len(in.Name) == 0 || len(in.Name) > 64 || !printable(in.Name) {
		fields["name"] = "must be 1 to 64 printable characters"
	}
	if err := auth.CheckScopes(in.Scopes); err != nil {
		fields["scopes"] = err.Error()
	}
	if in.Days < 0 || in.Days > 3650 {
		fields["expires_in_days"] = "must be from 0, which means never, to 3650"
	}
	if err := invalid(fields); err != nil {
		return nil, err
	}
	k := store.Token{UserID: c.user.ID, Name: in.Name, Scopes: in.Scopes}
	if in.Days > 0 {
		k.Expires = time.Now().AddDate(0, 0, in.Days)
	}
	var text string
	text, k.Hash = auth.NewToken()
	k, err = s.Store.CreateToken(c.Context(), c.by(), k)
	return createdToken{showToken(k), text}, err
}

func printable(s string) bool {
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
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
