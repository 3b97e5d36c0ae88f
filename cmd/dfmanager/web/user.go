package web

import (
	"net/http"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/account"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

func (s *Server) userRoutes() []route {
	return []route{
		{method: "GET", path: "/api/v1/users", access: rootOnly, summary: "All users", out: list[user]{}, page: true, do: s.users},
		{method: "POST", path: "/api/v1/users", access: rootOnly, summary: "Create a user, who must change the password at the first sign-in", in: account.NewUser{}, out: user{}, status: http.StatusCreated, do: s.createUser},
		{method: "GET", path: "/api/v1/users/{id}", access: rootOnly, summary: "A user", out: user{}, do: s.oneUser},
		{method: "PATCH", path: "/api/v1/users/{id}", access: rootOnly, summary: "Change a user; what is left out stays. A new password must be changed at the next sign-in", in: account.UserPatch{}, out: user{}, do: s.changeUser},
		{method: "DELETE", path: "/api/v1/users/{id}", access: rootOnly, summary: "Delete a user with all tokens and sessions", do: s.deleteUser},
		{method: "GET", path: "/api/v1/users/{id}/tokens", access: rootOnly, summary: "A user's tokens", out: list[token]{}, page: true, do: s.userTokens},
		{method: "DELETE", path: "/api/v1/users/{id}/tokens/{token}", access: rootOnly, summary: "Revoke a user's token", do: s.revokeToken},
	}
}

type user struct {
	ID         int64     `json:"id"`
	Name       string    `json:"name"`
	Role       string    `json:"role"`
	Disabled   bool      `json:"disabled"`
	MustChange bool      `json:"must_change_password"`
	Elsewhere  bool      `json:"signs_in_elsewhere"` // with OpenID Connect
	Created    time.Time `json:"created_at"`
	Updated    time.Time `json:"updated_at"`
}

func showUser(u store.User) user {
	return user{u.ID, u.Name, string(u.Role), u.Disabled, u.MustChange, u.Subject != "", u.Created, u.Updated}
}

func (s *Server) users(c *call) (any, error) {
	p, err := c.part()
	if err != nil {
		return nil, err
	}
	all, err := s.Store.Users(c.Context(), p)
	return page(p, all, func(u store.User) int64 { return u.ID }, showUser), err
}

func (s *Server) createUser(c *call) (any, error) {
	in, err := body[account.NewUser](c)
	if err != nil {
		return nil, err
	}
	u, err := s.Accounts.CreateUser(c.Context(), c.by(), in)
	return showUser(u), err
}

func (s *Server) oneUser(c *call) (any, error) {
	id, err := c.id("id")
	if err != nil {
		return nil, err
	}
	u, err := s.Store.User(c.Context(), id)
	return showUser(u), err
}

func (s *Server) changeUser(c *call) (any, error) {
	id, err := c.id("id")
	if err != nil {
		return nil, err
	}
	in, err := body[account.UserPatch](c)
	if err != nil {
		return nil, err
	}
	u, err := s.Accounts.ChangeUser(c.Context(), c.by(), id, in)
	return showUser(u), err
}

func (s *Server) deleteUser(c *call) (any, error) {
	id, err := c.id("id")
	if err != nil {
		return nil, err
	}
	return nil, s.Store.DeleteUser(c.Context(), c.by(), id)
}

type entry struct {
	ID     int64     `json:"id"`
	At     time.Time `json:"at"`
	Actor  string    `json:"actor"`
	Remote string    `json:"remote"`
	Action string    `json:"action"`
	Object string    `json:"object"`
	Detail string    `json:"detail"`
}

func (s *Server) audit(c *call) (any, error) {
	p, err := c.part()
	if err != nil {
		return nil, err
	}
	all, err := s.Store.Entries(c.Context(), p)
	return page(p, all, func(e store.Entry) int64 { return e.ID }, func(e store.Entry) entry {
		return entry{e.ID, e.At, e.By.Actor, e.By.Remote, e.Action, e.Object, e.Detail}
	}), err
}
