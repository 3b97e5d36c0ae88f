package web

import (
	"net/http"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/auth"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

func (s *Server) userRoutes() []route {
	return []route{
		{method: "GET", path: "/api/v1/users", access: rootOnly, summary: "All users", out: list[user]{}, page: true, do: s.users},
		{method: "POST", path: "/api/v1/users", access: rootOnly, summary: "Create a user, who must change the password at the first sign-in", in: newUser{}, out: user{}, status: http.StatusCreated, do: s.createUser},
		{method: "GET", path: "/api/v1/users/{id}", access: rootOnly, summary: "A user", out: user{}, do: s.oneUser},
		{method: "PATCH", path: "/api/v1/users/{id}", access: rootOnly, summary: "Change a user; what is left out stays. A new password must be changed at the next sign-in", in: userPatch{}, out: user{}, do: s.changeUser},
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
	Created    time.Time `json:"created_at"`
	Updated    time.Time `json:"updated_at"`
}

func showUser(u store.User) user {
	return user{u.ID, u.Name, string(u.Role), u.Disabled, u.MustChange, u.Created, u.Updated}
}

func (s *Server) users(c *call) (any, error) {
	p, err := c.part()
	if err != nil {
		return nil, err
	}
	all, err := s.Store.Users(c.Context(), p)
	return page(p, all, func(u store.User) int64 { return u.ID }, showUser), err
}

type newUser struct {
	Name     string `json:"name"`
	Password string `json:"password"`
	Role     string `json:"role"`
}

func (s *Server) createUser(c *call) (any, error) {
	in, err := body[newUser](c)
	if err != nil {
		return nil, err
	}
	fields := map[string]string{}
	check := func(field string, err error) {
		if err != nil {
			fields[field] = err.Error()
		}
	}
	check("name", auth.CheckName(in.Name))
	check("password", auth.CheckPassword(in.Name, in.Password))
	check("role", auth.CheckRole(store.Role(in.Role)))
	if err := invalid(fields); err != nil {
		return nil, err
	}
	hash, err := s.Hasher.Hash(c.Context(), in.Password)
	if err != nil {
		return nil, err
	}
	u, err := s.Store.CreateUser(c.Context(), c.by(), store.User{Name: in.Name, Role: store.Role(in.Role), Password: hash, MustChange: true})
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

type userPatch struct {
	Password *string `json:"password"`
	Role     *string `json:"role"`
	Disabled *bool   `json:"disabled"`
}

func (s *Server) changeUser(c *call) (any, error) {
	id, err := c.id("id")
	if err != nil {
		return nil, err
	}
	in, err := body[userPatch](c)
	if err != nil {
		return nil, err
	}
	u, err := s.Store.User(c.Context(), id)
	if err != nil {
		return nil, err
	}
	change, err := s.userChange(c, u, in)
	if err != nil {
		return nil, err
	}
	u, err = s.Store.ChangeUser(c.Context(), c.by(), id, change)
	return showUser(u), err
}

// userChange checks what is to become of u.
func (s *Server) userChange(c *call, u store.User, in userPatch) (store.UserChange, error) {
	change := store.UserChange{Disabled: in.Disabled}
	fields := map[string]string{}
	if in.Role != nil {
		role := store.Role(*in.Role)
		change.Role = &role
		if err := auth.CheckRole(role); err != nil {
			fields["role"] = err.Error()
		}
	}
	if in.Password != nil {
		if err := auth.CheckPassword(u.Name, *in.Password); err != nil {
			fields["password"] = err.Error()
		}
	}
	if err := invalid(fields); err != nil || in.Password == nil {
		return change, err
	}
	hash, err := s.Hasher.Hash(c.Context(), *in.Password)
	must := true
	change.Password, change.MustChange = &hash, &must
	return change, err
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
