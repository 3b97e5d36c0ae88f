package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

var by = store.By{Actor: "tester", Remote: "192.0.2.1"}

func mustUser(t *testing.T, db *store.DB, name string, role store.Role) store.User {
	t.Helper()
	u, err := db.CreateUser(t.Context(), by, store.User{Name: name, Role: role, Password: "hash of " + name})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func p[T any](v T) *T { return &v }

func TestUsers(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		root, guest := mustUser(t, db, "root", store.Root), mustUser(t, db, "o'brien; DROP TABLE users", store.Guest)
		if _, err := db.CreateUser(ctx, by, store.User{Name: "root", Role: store.Guest}); !errors.Is(err, store.ErrExists) {
			t.Errorf("a second user of that name: %v", err)
		}
		got, err := db.UserByName(ctx, guest.Name)
		if err != nil || got != guest {
			t.Errorf("by name: %+v, %v; want %+v", got, err, guest)
		}
		changed, err := db.ChangeUser(ctx, by, guest.ID, store.UserChange{Role: p(store.Operator), MustChange: p(true)})
		want := guest
		want.Role, want.MustChange = store.Operator, true
		if diff := cmp.Diff(want, changed, cmpopts.IgnoreFields(store.User{}, "Updated")); err != nil || diff != "" {
			t.Errorf("change: %v %s", err, diff)
		}
		if _, err := db.ChangeUser(ctx, by, 99, store.UserChange{}); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("change of nobody: %v", err)
		}
		page, err := db.Users(ctx, store.Page{After: root.ID, Limit: 5})
		if err != nil || len(page) != 1 || page[0].ID != guest.ID {
			t.Errorf("second page: %+v, %v", page, err)
		}
		if err := db.DeleteUser(ctx, by, guest.ID); err != nil {
			t.Error(err)
		}
		if _, err := db.User(ctx, guest.ID); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("deleted user: %v", err)
		}
	})
}

func TestSubjectUser(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		local := mustUser(t, db, "root", store.Root)
		anna := store.User{Name: "anna", Role: store.Operator, Subject: "https://id.example 1"}
		first, err := db.SubjectUser(ctx, by, anna)
		if diff := cmp.Diff(anna, first, cmpopts.IgnoreFields(store.User{}, "ID", "Created", "Updated")); err != nil || diff != "" {
			t.Fatalf("the first time: %v %s", err, diff)
		}
		anna.Name, anna.Role = "renamed", store.Root
		again, err := db.SubjectUser(ctx, by, anna)
		if err != nil || again.ID != first.ID || again.Name != "anna" || again.Role != store.Root {
			t.Errorf("with another role and name: %+v %v", again, err)
		}
		for _, u := range []store.User{{Name: "root", Role: store.Guest, Subject: "https://id.example 2"}, {Name: "anna", Role: store.Guest, Subject: "https://other.example 1"}} {
			if _, err := db.SubjectUser(ctx, by, u); !errors.Is(err, store.ErrExists) {
				t.Errorf("%s with another subject: %v", u.Name, err)
			}
		}
		if _, err := db.ChangeUser(ctx, by, local.ID, store.UserChange{Role: p(store.Guest)}); err != nil {
			t.Fatal(err)
		}
		anna.Role = store.Guest
		if _, err := db.SubjectUser(ctx, by, anna); !errors.Is(err, store.ErrLastRoot) {
			t.Errorf("the last root: %v", err)
		}
		if _, err := db.ChangeUser(ctx, by, local.ID, store.UserChange{Role: p(store.Root)}); err != nil {
			t.Fatal(err)
		}
		if _, err := db.ChangeUser(ctx, by, first.ID, store.UserChange{Disabled: p(true)}); err != nil {
			t.Fatal(err)
		}
		if u, err := db.SubjectUser(ctx, by, anna); err != nil || !u.Disabled || u.Role != store.Root {
			t.Errorf("when disabled: %+v %v", u, err)
		}
		mustUser(t, db, "another without a subject", store.Guest)
	})
}

func TestSomebodyStaysRoot(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		a, b := mustUser(t, db, "a", store.Root), mustUser(t, db, "b", store.Root)
		failed := make(chan error, 2)
		for _, u := range []store.User{a, b} { // at once
			go func() {
				_, err := db.ChangeUser(ctx, by, u.ID, store.UserChange{Role: p(store.Guest)})
				failed <- err
			}()
		}
		one, two := <-failed, <-failed
		if (one == nil) == (two == nil) || !errors.Is(errors.Join(one, two), store.ErrLastRoot) {
			t.Errorf("two roots gave up their role: %v, %v", one, two)
		}
		for _, u := range []store.User{a, b} {
			if now, _ := db.User(ctx, u.ID); now.Role != store.Root {
				continue
			}
			if err := db.DeleteUser(ctx, by, u.ID); !errors.Is(err, store.ErrLastRoot) {
				t.Errorf("delete: %v", err)
			}
			if _, err := db.ChangeUser(ctx, by, u.ID, store.UserChange{Disabled: p(true)}); !errors.Is(err, store.ErrLastRoot) {
				t.Errorf("disable: %v", err)
			}
			if _, err := db.User(ctx, u.ID); err != nil {
				t.Errorf("it is gone after all: %v", err)
			}
		}
	})
}

func TestSessions(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		u := mustUser(t, db, "u", store.Root)
		mustUser(t, db, "other", store.Root)
		for hash, d := range map[string]time.Duration{"old": -time.Second, "one": time.Hour, "two": time.Hour} {
			if err := db.CreateSession(ctx, by, u.ID, hash, time.Now().Add(d)); err != nil {
				t.Fatal(err)
			}
		}
		alive := func(want ...string) {
			t.Helper()
			var got []string
			for _, h := range []string{"old", "one", "two", "three"} {
				if s, err := db.SessionUser(ctx, h); err == nil && s.ID == u.ID {
					got = append(got, h)
				} else if !errors.Is(err, store.ErrNotFound) {
					t.Error(err)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("sessions: %s", diff)
			}
		}
		alive("one", "two")
		if _, err := db.ChangeUser(ctx, by, u.ID, store.UserChange{Password: p("new"), Keep: "two"}); err != nil {
			t.Fatal(err)
		}
		alive("two")
		if _, err := db.ChangeUser(ctx, by, u.ID, store.UserChange{Disabled: p(true)}); err != nil {
			t.Fatal(err)
		}
		if _, err := db.ChangeUser(ctx, by, u.ID, store.UserChange{Disabled: p(false)}); err != nil {
			t.Fatal(err)
		}
		alive()
		if err := db.CreateSession(ctx, by, u.ID, "three", time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		alive("three")
		if err := db.DeleteSession(ctx, by, "three"); err != nil {
			t.Fatal(err)
		}
		alive()
	})
}

func TestTokens(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		u, other := mustUser(t, db, "u", store.Guest), mustUser(t, db, "other", store.Root)
		k, err := db.CreateToken(ctx, by, store.Token{UserID: u.ID, Name: "ci", Hash: "h1", Scopes: []string{"read", "preheat"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.CreateToken(ctx, by, store.Token{UserID: u.ID, Name: "ci", Hash: "h2"}); !errors.Is(err, store.ErrExists) {
			t.Errorf("a second one of that name: %v", err)
		}
		if _, err := db.CreateToken(ctx, by, store.Token{UserID: u.ID, Name: "old", Hash: "h3", Expires: time.Now().Add(-time.Second)}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := db.TokenUser(ctx, "h3"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a token that has expired: %v", err)
		}
		got, who, err := db.TokenUser(ctx, "h1")
		if diff := cmp.Diff(k, got); err != nil || diff != "" || who.ID != u.ID {
			t.Errorf("%v %v %s", err, who, diff)
		}
		for range 2 {
			if err := db.UseToken(ctx, k.ID); err != nil {
				t.Fatal(err)
			}
		}
		if all, err := db.Tokens(ctx, u.ID, store.Page{Limit: 1}); err != nil || len(all) != 1 || time.Since(all[0].Used) > time.Minute {
			t.Errorf("%+v, %v", all, err)
		}
		if err := db.DeleteToken(ctx, by, other.ID, k.ID); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("somebody else's token: %v", err)
		}
		if _, err := db.ChangeUser(ctx, by, u.ID, store.UserChange{Disabled: p(true)}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := db.TokenUser(ctx, "h1"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a token of a disabled user: %v", err)
		}
		if err := db.DeleteToken(ctx, by, u.ID, k.ID); err != nil {
			t.Error(err)
		}
	})
}

func TestSignInFailures(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		for range 3 {
			if err := db.SignInFailed(ctx, time.Hour, "a", "b"); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.SignedIn(ctx, "b"); err != nil {
			t.Fatal(err)
		}
		got, err := db.SignInFailures(ctx, "a", "b", "c")
		if err != nil || got[0].Count != 3 || time.Since(got[0].Last) > time.Minute || got[1].Count+got[2].Count != 0 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestAudit(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		u := mustUser(t, db, "u", store.Root)
		if _, err := db.ChangeUser(ctx, by, u.ID, store.UserChange{Password: p("secret")}); err != nil {
			t.Fatal(err)
		}
		if err := db.DeleteUser(ctx, by, u.ID); !errors.Is(err, store.ErrLastRoot) {
			t.Fatal(err)
		}
		all, err := db.Entries(ctx, store.Page{Limit: 10})
		if err != nil || len(all) != 2 {
			t.Fatalf("%+v, %v", all, err)
		}
		want := []store.Entry{{By: by, Action: "user.change", Object: "u", Detail: "password"}, {By: by, Action: "user.create", Object: "u", Detail: "role root"}}
		if diff := cmp.Diff(want, all, cmpopts.IgnoreFields(store.Entry{}, "ID", "At")); diff != "" {
			t.Error(diff)
		}
		rest, err := db.Entries(ctx, store.Page{After: all[0].ID, Limit: 10})
		if err != nil || len(rest) != 1 || rest[0].ID != all[1].ID {
			t.Errorf("%+v, %v", rest, err)
		}
	})
}
