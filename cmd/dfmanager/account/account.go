// Package account is how people sign in, and what they do to users and tokens,
// whether they ask for it with JSON or with a form. Who may do what is decided
// by those who call.
package account

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/auth"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// ErrCredentials says that nobody signs in with these.
var ErrCredentials = errors.New("these credentials are not good, or not any more")

// ErrDisabled says that this user may not sign in.
var ErrDisabled = errors.New("this user is disabled")

// elsewhere is why something of a user cannot be changed here.
const elsewhere = "is the OpenID Connect provider's business: the user signs in there"

// WaitError says that too many sign-ins have failed.
type WaitError struct{ For time.Duration }

// Error says how long to wait.
func (e *WaitError) Error() string {
	return fmt.Sprintf("too many failed sign-ins; wait %v", e.For.Round(time.Second))
}

// Config says what Accounts need.
type Config struct {
	Store   *store.DB
	Hasher  *auth.Hasher
	Session time.Duration // how long a sign-in lasts
	Log     *slog.Logger
}

// Accounts are the users of a manager.
type Accounts struct {
	Config
	passwords *checked
}

// New makes Accounts.
func New(c Config) *Accounts { return &Accounts{c, newChecked()} }

// Check returns whose name and password these are: ErrCredentials or a WaitError
// otherwise. Who fails often has to wait.
func (a *Accounts) Check(ctx context.Context, remote, name, password string) (store.User, error) {
	name = strings.ToLower(name)
	u, err := a.Store.UserByName(ctx, name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.User{}, err
	}
	if u.ID != 0 && !u.Disabled && a.passwords.has(u.Password, password) {
		return u, nil
	}
	subjects := auth.Subjects(name, remote)
	failures, err := a.Store.SignInFailures(ctx, subjects...)
	if err != nil {
		return store.User{}, err
	}
	if wait := auth.Wait(failures, time.Now()); wait > 0 {
		return store.User{}, &WaitError{wait}
	}
	hash := u.Password
	if u.Disabled {
		hash = ""
	}
	err = a.Hasher.Check(ctx, hash, password)
	if errors.Is(err, auth.ErrPassword) {
		return store.User{}, errors.Join(ErrCredentials, a.failed(ctx, name, remote, subjects))
	}
	if err != nil {
		return store.User{}, err
	}
	a.passwords.add(u.Password, password)
	if failures[0].Count+failures[2].Count > 0 {
		err = a.Store.SignedIn(ctx, subjects[0], subjects[2]) // an address does not become good by one of its names
	}
	return u, err
}

func (a *Accounts) failed(ctx context.Context, name, remote string, subjects []string) error {
	if err := a.Store.SignInFailed(ctx, auth.Forget, subjects...); err != nil {
		return err
	}
	a.Log.Info("sign-in failed", "address", remote)
	who := name
	if auth.CheckName(who) != nil {
		who = "" // it may be a password, typed into the wrong field
	}
	return a.Store.Audit(ctx, store.By{Remote: remote}, "session.refuse", who, "")
}

// SignIn begins a session. It always is a new one: what a browser brought along,
// of which old is the hash, ends, whoever gave it that.
func (a *Accounts) SignIn(ctx context.Context, by store.By, old, name, password string) (u store.User, session string, err error) {
	if u, err = a.Check(ctx, by.Remote, name, password); err != nil {
		return u, "", err
	}
	session, err = a.begin(ctx, by, old, u)
	return u, session, err
}

// SignInAs begins a session of who has signed in elsewhere: Subject, Name and Role of
// u count. ErrDisabled says that this manager does not let them in,
// store.ErrExists that the name is another user's.
func (a *Accounts) SignInAs(ctx context.Context, by store.By, old string, u store.User) (session string, err error) {
	if u, err = a.Store.SubjectUser(ctx, store.By{Actor: u.Name, Remote: by.Remote}, u); err != nil {
		return "", err
	}
	if u.Disabled {
		return "", ErrDisabled
	}
	return a.begin(ctx, by, old, u)
}

// begin begins a session; the one with the hash old ends.
func (a *Accounts) begin(ctx context.Context, by store.By, old string, u store.User) (string, error) {
	if old != "" {
		if err := a.Store.DeleteSession(ctx, by, old); err != nil {
			return "", err
		}
	}
	by.Actor = u.Name
	session, hash := auth.NewSession()
	return session, a.Store.CreateSession(ctx, by, u.ID, hash, time.Now().Add(a.Session))
}

// ChangePassword changes the password of who asks for it. The user's sessions
// end, but for the one with the hash keep.
func (a *Accounts) ChangePassword(ctx context.Context, by store.By, u store.User, keep, old, fresh string) error {
	if u.Subject != "" {
		return field.Errors{"old": elsewhere}
	}
	if _, err := a.Check(ctx, by.Remote, u.Name, old); err != nil {
		return err
	}
	wrong := field.Errors{}
	wrong.Check("new", auth.CheckPassword(u.Name, fresh))
	if fresh == old {
		wrong["new"] = "must not be the old one"
	}
	if err := wrong.Err(); err != nil {
		return err
	}
	hash, err := a.Hasher.Hash(ctx, fresh)
	if err != nil {
		return err
	}
	must := false
	_, err = a.Store.ChangeUser(ctx, by, u.ID, store.UserChange{Password: &hash, MustChange: &must, Keep: keep})
	return err
}
