package console

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/account"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/openid"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
)

// attemptCookie has what a browser keeps while its visitor is at the provider. It
// has to come along when that sends the browser back, so it is not as strict as
// the session's; it is good for nothing else.
func attemptCookie(v *web.Visit, value string, age time.Duration) *http.Cookie {
	return &http.Cookie{
		Name: attemptName(v), Value: value, Path: "/", MaxAge: int(age.Seconds()), HttpOnly: true, Secure: v.Secure, SameSite: http.SameSiteLaxMode,
	}
}

func attemptName(v *web.Visit) string {
	if v.Secure {
		return "__Host-dfmanager-oidc"
	}
	return "dfmanager-oidc"
}

// signInElsewhere sends the browser to the provider.
func (c *Console) signInElsewhere(v *web.Visit) error {
	if c.Provider == nil {
		return store.ErrNotFound
	}
	q := v.URL.Query()
	next := local(q.Get("next"))
	if _, host, _ := strings.Cut(c.Provider.URL, "://"); host != v.Host && !q.Has("here") {
		return see(v, c.Provider.URL+"/sign-in/oidc?here&"+url.Values{"next": {next}}.Encode()) // the cookie must be where it will come back to
	}
	to, cookie, err := c.Provider.Begin(v.Context(), next)
	if err != nil {
		return c.signInFailed(v, "", err)
	}
	http.SetCookie(v.W, attemptCookie(v, cookie, openid.Lasts))
	return see(v, to)
}

// cameBack takes what the provider has a browser say.
func (c *Console) cameBack(v *web.Visit) error {
	if c.Provider == nil {
		return store.ErrNotFound
	}
	kept := ""
	if k, err := v.Cookie(attemptName(v)); err == nil {
		kept = k.Value
	}
	u, next, ours, err := c.Provider.Finish(v.Context(), kept, v.URL.Query())
	if !ours {
		return c.signInFailed(v, "", err)
	}
	http.SetCookie(v.W, attemptCookie(v, "", -time.Second))
	session := ""
	if err == nil {
		session, err = c.Accounts.SignInAs(v.Context(), v.By(), v.Session, u)
	}
	if err != nil {
		return c.signInFailed(v, u.Subject, err)
	}
	v.Begin(session)
	return see(v, next)
}

// signInFailed says why, and notes it in the audit log if it is known who it was.
func (c *Console) signInFailed(v *web.Visit, subject string, err error) error {
	var e *openid.Error
	status := http.StatusForbidden
	var message string
	switch {
	case errors.As(err, &e):
		message = e.Message
		if e.Away {
			status = http.StatusBadGateway
		}
	case errors.Is(err, account.ErrDisabled):
		message = "This user may not sign in here any more."
	case errors.Is(err, store.ErrExists):
		message = "The name that the provider has for you is another user's of this manager. Ask who runs it."
	case errors.Is(err, store.ErrLastRoot):
		message = "The provider takes the role root from you, and nobody else has it: give it to somebody else first."
	default:
		return err
	}
	c.Log.Warn("sign-in with OpenID Connect failed", "err", err)
	if subject != "" {
		if err := c.Store.Audit(v.Context(), store.By{Remote: v.By().Remote}, "session.refuse", subject, message); err != nil {
			return err
		}
	}
	return c.showSignIn(v, status, signForm{Next: "/", Problem: message})
}
