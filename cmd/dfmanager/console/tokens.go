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

// tokenList is the visitor's tokens, and the form for one more.
type tokenList struct {
	Tokens      []store.Token
	Next        string
	Name, Scope string // that were typed
	Days        string
	Fields      field.Errors
	Fresh       string // one that was made just now
}

func (c *Console) tokens(v *web.Visit) error {
	return c.showTokens(v, http.StatusOK, tokenList{Scope: "preheat", Days: "365"})
}

func (c *Console) showTokens(v *web.Visit, status int, list tokenList) (err error) {
	if list.Tokens, err = c.Store.Tokens(v.Context(), v.User.ID, part(v)); err != nil {
		return err
	}
	list.Next = next(v, list.Tokens, func(k store.Token) int64 { return k.ID })
	return c.show(v, status, frame{Title: "Your tokens", Page: "tokens", Body: list})
}

// createToken answers with the token itself: nobody is led to a page of which
// the address would show it again.
func (c *Console) createToken(v *web.Visit) error {
	list := tokenList{Name: v.PostFormValue("name"), Scope: v.PostFormValue("scope"), Days: v.PostFormValue("expires_in_days")}
	n := account.NewToken{Name: list.Name, Scopes: []string{list.Scope}, Days: -1}
	if days, err := strconv.Atoi(list.Days); err == nil {
		n.Days = days
	}
	_, text, err := c.Accounts.CreateToken(v.Context(), v.By(), v.User.ID, n)
	var wrong field.Errors
	switch {
	case errors.As(err, &wrong):
		list.Fields = wrong
		return c.showTokens(v, http.StatusBadRequest, list)
	case errors.Is(err, store.ErrExists):
		list.Fields = field.Errors{"name": "is that of another of your tokens"}
		return c.showTokens(v, http.StatusConflict, list)
	case err != nil:
		return err
	}
	return c.showTokens(v, http.StatusCreated, tokenList{Scope: "preheat", Days: "365", Fresh: text})
}

func (c *Console) revokeOwn(v *web.Visit) error { return c.revoke(v, v.User.ID, "/tokens") }
