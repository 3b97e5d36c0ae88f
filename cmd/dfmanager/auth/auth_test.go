package auth_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/auth"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

func TestPasswords(t *testing.T) {
	t.Parallel()
	h := auth.NewHasher()
	hash, err := h.Hash(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	again, err := h.Hash(t.Context(), "correct horse")
	if err != nil || hash == again || !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("hashes %q and %q, %v", hash, again, err)
	}
	if err := h.Check(t.Context(), hash, "correct horse"); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct{ hash, password string }{
		"wrong":   {hash, "correct hors"},
		"empty":   {hash, ""},
		"nobody":  {"", "correct horse"},
		"endless": {hash, strings.Repeat("x", 1000)},
	} {
		if err := h.Check(t.Context(), c.hash, c.password); !errors.Is(err, auth.ErrPassword) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []string{"x", "$argon2id$v=19$m=19456,t=2,p=1$a", "$argon2id$v=19$m=19456,t=2,p=1$?$?"} {
		if err := h.Check(t.Context(), bad, "x"); err == nil || errors.Is(err, auth.ErrPassword) {
			t.Errorf("hash %q: %v", bad, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 10 { // whether a turn is free or not
		if _, err := h.Hash(ctx, "x"); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

func TestCheckPassword(t *testing.T) {
	t.Parallel()
	for password, good := range map[string]bool{
		"correct horse": true, "ünïcödé €!": true, "short": false, "root-user1": false, "ROOT-USER1": false,
		"xxxxxxxxxxxxxxxx": false, "": false, strings.Repeat("long", 100): false, "bad \xff utf-8 bytes": false,
	} {
		if err := auth.CheckPassword("root-user1", password); (err == nil) != good {
			t.Errorf("%q: %v", password, err)
		}
	}
	if err := auth.CheckPassword("root", auth.NewPassword()); err != nil {
		t.Error(err)
	}
}

func TestCheckName(t *testing.T) {
	t.Parallel()
	for name, good := range map[string]bool{
		"root": true, "a": true, "jane.doe+x@example.com": true, "0": true, "Root": false, "": false, "-a": false, "a b": false,
		"a\n": false, "ü": false, strings.Repeat("a", 128): true, strings.Repeat("a", 129): false,
	} {
		if err := auth.CheckName(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestRolesAndScopes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		role, least store.Role
		want        bool
	}{
		{store.Root, store.Operator, true}, {store.Operator, store.Operator, true}, {store.Guest, store.Operator, false},
		{"", store.Guest, false}, {"nobody", store.Guest, false}, {store.Root, "nobody", false},
	} {
		if got := auth.AtLeast(c.role, c.least); got != c.want {
			t.Errorf("AtLeast(%q, %q) = %v", c.role, c.least, got)
		}
	}
	for _, c := range []struct {
		have string
		need auth.Scope
		want bool
	}{
		{"read", auth.Read, true}, {"read", auth.Preheat, false}, {"preheat", auth.Read, true}, {"read preheat", auth.Preheat, true},
		{"admin", auth.Read, true}, {"", auth.Read, false}, {"root", auth.Read, false}, {"admin", "everything", false},
	} {
		if got := auth.Allows(strings.Fields(c.have), c.need); got != c.want {
			t.Errorf("Allows(%q, %q) = %v", c.have, c.need, got)
		}
	}
	if auth.CheckScopes([]string{"read", "admin"}) != nil || auth.CheckScopes(nil) == nil || auth.CheckScopes([]string{"read", "x"}) == nil {
		t.Error("CheckScopes")
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	token, hash := auth.NewToken()
	other, _ := auth.NewToken()
	if !auth.IsToken(token) || auth.IsToken("password") || auth.Hash(token) != hash || token == other || strings.Contains(hash, token) {
		t.Errorf("%q %q %q", token, other, hash)
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	now := time.Now()
	f := func(both, address, name int) []store.Failures {
		return []store.Failures{{Count: both, Last: now}, {Count: address, Last: now}, {Count: name, Last: now}}
	}
	for name, c := range map[string]struct {
		failures []store.Failures
		after    time.Duration
		want     time.Duration
	}{
		"none":                  {f(0, 0, 0), 0, 0},
		"some":                  {f(4, 19, 99), 0, 0},
		"one too many":          {f(5, 5, 5), 0, 2 * time.Second},
		"waited":                {f(5, 5, 5), 2 * time.Second, 0},
		"more":                  {f(8, 8, 8), time.Second, 15 * time.Second},
		"endless":               {f(10000, 1, 1), 0, 5 * time.Minute},
		"many names":            {f(1, 20, 1), 0, 2 * time.Second},
		"name from many places": {f(1, 1, 101), 0, 4 * time.Second},
		"long ago":              {f(10000, 10000, 10000), time.Hour, 0},
	} {
		if got := max(0, auth.Wait(c.failures, now.Add(c.after))); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if got := auth.Subjects("Root", "::1"); len(got) != 3 || got[0] != "both root ::1" {
		t.Errorf("%q", got)
	}
}
