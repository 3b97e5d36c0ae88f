package console

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/account"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
)

// signForm is what was typed to sign in, but for the password.
type signForm struct {
	Name, Next string
	Problem    string
	Provider   string // where else people may sign in; "": nowhere
}

func (c *Console) signInPage(v *web.Visit) error {
	next := local(v.URL.Query().Get("next"))
	if v.User.ID != 0 {
		return see(v, next)
	}
	return c.showSignIn(v, http.StatusOK, signForm{Next: next})
}

func (c *Console) showSignIn(v *web.Visit, status int, form signForm) error {
	if c.Provider != nil {
		form.Provider = c.Provider.Host()
	}
	return c.show(v, status, frame{Title: "Sign in", Page: "sign-in", Alone: true, Body: form})
}

func (c *Console) signIn(v *web.Visit) error {
	form := signForm{Name: v.PostFormValue("name"), Next: local(v.PostFormValue("next"))}
	u, session, err := c.Accounts.SignIn(v.Context(), v.By(), v.Session, form.Name, v.PostFormValue("password"))
	var wait *account.WaitError
	switch {
	case errors.As(err, &wait):
		form.Problem = "Too many sign-ins have failed. Try again in " + took(wait.For+time.Second) + "."
		v.W.Header().Set("Retry-After", strconv.Itoa(int(wait.For.Seconds())+1))
		return c.showSignIn(v, http.StatusTooManyRequests, form)
	case errors.Is(err, account.ErrCredentials):
		form.Problem = "There is no such user with this password."
		return c.showSignIn(v, http.StatusUnauthorized, form)
	case err != nil:
		return err
	}
	v.Begin(session)
	if u.MustChange {
		return see(v, "/password")
	}
	return see(v, form.Next)
}

func (c *Console) signOut(v *web.Visit) error {
	if err := c.Store.DeleteSession(v.Context(), v.By(), v.Session); err != nil {
		return err
	}
	v.End()
	return see(v, "/sign-in")
}

// passwordForm is what is wrong with what was typed.
type passwordForm struct {
	Problem string
	Fields  field.Errors
	Done    bool
}

func (c *Console) passwordPage(v *web.Visit) error {
	return c.showPassword(v, http.StatusOK, passwordForm{Done: v.URL.Query().Has("done")})
}

func (c *Console) showPassword(v *web.Visit, status int, form passwordForm) error {
	return c.show(v, status, frame{Title: "Change password", Page: "password", Body: form})
}

func (c *Console) changePassword(v *web.Visit) error {
	old, fresh := v.PostFormValue("old"), v.PostFormValue("new")
	if fresh != v.PostFormValue("again") {
		return c.showPassword(v, http.StatusBadRequest, passwordForm{Fields: field.Errors{"again": "is not the same as the new password"}})
	}
	err := c.Accounts.ChangePassword(v.Context(), v.By(), v.User, v.Session, old, fresh)
	var wrong field.Errors
	var wait *account.WaitError
	switch {
	case errors.As(err, &wrong):
		return c.showPassword(v, http.StatusBadRequest, passwordForm{Fields: wrong})
	case errors.Is(err, account.ErrCredentials):
		return c.showPassword(v, http.StatusBadRequest, passwordForm{Fields: field.Errors{"old": "is not your password"}})
	case errors.As(err, &wait):
		return c.showPassword(v, http.StatusTooManyRequests, passwordForm{Problem: "Too many tries have failed. Try again in " + took(wait.For+time.Second) + "."})
	case err != nil:
		return err
	case v.User.MustChange:
		return see(v, "/")
	}
	return see(v, "/password?done")
}
