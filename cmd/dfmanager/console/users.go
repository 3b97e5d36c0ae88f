package console

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/account"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
)

var roles = []store.Role{store.Guest, store.Operator, store.Root}

// userList is a page of users, and the form for one more.
type userList struct {
	Users      []store.User
	Next       string
	Roles      []store.Role
	Name, Role string // that were typed
	Fields     field.Errors
}

func (c *Console) users(v *web.Visit) error {
	return c.showUsers(v, http.StatusOK, userList{Role: string(store.Guest)})
}

func (c *Console) showUsers(v *web.Visit, status int, list userList) (err error) {
	if list.Users, err = c.Store.Users(v.Context(), part(v)); err != nil {
		return err
	}
	list.Next, list.Roles = next(v, list.Users, func(u store.User) int64 { return u.ID }), roles
	return c.show(v, status, frame{Title: "Users", Page: "users", Body: list})
}

func (c *Console) createUser(v *web.Visit) error {
	n := account.NewUser{Name: v.PostFormValue("name"), Password: v.PostFormValue("password"), Role: v.PostFormValue("role")}
	u, err := c.Accounts.CreateUser(v.Context(), v.By(), n)
	var wrong field.Errors
	switch {
	case errors.As(err, &wrong):
		return c.showUsers(v, http.StatusBadRequest, userList{Name: n.Name, Role: n.Role, Fields: wrong})
	case errors.Is(err, store.ErrExists):
		return c.showUsers(v, http.StatusConflict, userList{Name: n.Name, Role: n.Role, Fields: field.Errors{"name": "is taken"}})
	case err != nil:
		return err
	}
	return see(v, userPath(u.ID))
}

func userPath(id int64) string { return "/users/" + strconv.FormatInt(id, 10) }

// userDetail is a user with tokens.
type userDetail struct {
	Whose   store.User
	Self    bool // the visitor's own
	Roles   []store.Role
	Tokens  []store.Token
	Next    string
	Problem string
	Fields  field.Errors
}

func (c *Console) user(v *web.Visit) error { return c.showUser(v, http.StatusOK, userDetail{}) }

func (c *Console) showUser(v *web.Visit, status int, d userDetail) error {
	id, err := idOf(v, "id")
	if err != nil {
		return err
	}
	if d.Whose, err = c.Store.User(v.Context(), id); err != nil {
		return err
	}
	if d.Tokens, err = c.Store.Tokens(v.Context(), id, part(v)); err != nil {
		return err
	}
	d.Self, d.Roles = id == v.User.ID, roles
	d.Next = next(v, d.Tokens, func(k store.Token) int64 { return k.ID })
	return c.show(v, status, frame{Title: d.Whose.Name, Page: "user", Body: d})
}

// changeUser changes what the form that was sent is about: the role, whether the
// user may sign in, or the password.
func (c *Console) changeUser(v *web.Visit) error {
	id, err := idOf(v, "id")
	if err != nil {
		return err
	}
	if err := v.ParseForm(); err != nil {
		return &web.Error{Status: http.StatusBadRequest, Code: "invalid", Message: "the form cannot be read"}
	}
	p := account.UserPatch{Role: given(v, "role"), Password: given(v, "password")}
	if s := given(v, "disabled"); s != nil {
		is := *s == "yes"
		p.Disabled = &is
	}
	_, err = c.Accounts.ChangeUser(v.Context(), v.By(), id, p)
	return c.changed(v, err, userPath(id))
}

// given is a value of the form; nil: it has none of that name.
func given(v *web.Visit, name string) *string {
	if !v.PostForm.Has(name) {
		return nil
	}
	s := v.PostForm.Get(name)
	return &s
}

func (c *Console) deleteUser(v *web.Visit) error {
	id, err := idOf(v, "id")
	if err != nil {
		return err
	}
	return c.changed(v, c.Store.DeleteUser(v.Context(), v.By(), id), "/users")
}

// changed shows how a change of a user went.
func (c *Console) changed(v *web.Visit, err error, to string) error {
	var wrong field.Errors
	switch {
	case err == nil:
		return see(v, to)
	case errors.As(err, &wrong):
		return c.showUser(v, http.StatusBadRequest, userDetail{Fields: wrong})
	case errors.Is(err, store.ErrLastRoot):
		return c.showUser(v, http.StatusConflict, userDetail{Problem: "This cannot be done: it is the last user with role root who can sign in."})
	}
	return err
}

func (c *Console) revokeToken(v *web.Visit) error {
	id, err := idOf(v, "id")
	if err != nil {
		return err
	}
	return c.revoke(v, id, userPath(id))
}

func (c *Console) revoke(v *web.Visit, user int64, to string) error {
	id, err := idOf(v, "token")
	if err != nil {
		return err
	}
	if err := c.Store.DeleteToken(v.Context(), v.By(), user, id); err != nil {
		return err
	}
	return see(v, to)
}

// auditList is a page of the audit log.
type auditList struct {
	Entries []store.Entry
	First   string // where the log begins; "": it is shown
	Next    string
}

func (c *Console) audit(v *web.Visit) error {
	p := part(v)
	all, err := c.Store.Entries(v.Context(), p)
	if err != nil {
		return err
	}
	list := auditList{Entries: all, Next: next(v, all, func(e store.Entry) int64 { return e.ID })}
	if p.After > 0 {
		list.First = "/audit"
	}
	return c.show(v, http.StatusOK, frame{Title: "Audit log", Page: "audit", Body: list})
}
