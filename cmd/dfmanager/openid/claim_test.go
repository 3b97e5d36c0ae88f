package openid

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

func TestUser(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		user, role string // claims
		claims     string
		want       store.User
		say        string
	}{
		"list":            {"preferred_username", "groups", `{"sub":"1","preferred_username":"Anna","groups":["a",7,"admins"]}`, store.User{Name: "anna", Role: store.Root, Subject: "https://id.example 1"}, ""},
		"text":            {"name", "role", `{"sub":"1","name":"anna","role":"ops"}`, store.User{Name: "anna", Role: store.Operator, Subject: "https://id.example 1"}, ""},
		"path":            {"name", "realm_access.roles", `{"sub":"1","name":"anna","realm_access":{"roles":["ops"]}}`, store.User{Name: "anna", Role: store.Operator, Subject: "https://id.example 1"}, ""},
		"name with dots":  {"name", "https://x.example/roles", `{"sub":"1","name":"anna","https://x.example/roles":["ops"]}`, store.User{Name: "anna", Role: store.Operator, Subject: "https://id.example 1"}, ""},
		"object":          {"name", "roles", `{"sub":"1","name":"anna","roles":{"ops":{"org":"x"}}}`, store.User{Name: "anna", Role: store.Operator, Subject: "https://id.example 1"}, ""},
		"verified":        {"email", "r", `{"sub":"1","email":"a@example.com","email_verified":true,"r":"ops"}`, store.User{Name: "a@example.com", Role: store.Operator, Subject: "https://id.example 1"}, ""},
		"not verified":    {"email", "r", `{"sub":"1","email":"a@example.com","email_verified":false,"r":"ops"}`, store.User{}, "not verified"},
		"said in a text":  {"email", "r", `{"sub":"1","email":"a@example.com","email_verified":"false","r":"ops"}`, store.User{}, "not verified"},
		"role by address": {"name", "email", `{"sub":"1","name":"anna","email":"ops","email_verified":false}`, store.User{}, "not verified"},
		"no role":         {"name", "r", `{"sub":"1","name":"anna","r":["opsx","admin"]}`, store.User{}, "gives you a role"},
		"no claim":        {"name", "r.s", `{"sub":"1","name":"anna","r":"ops"}`, store.User{}, "gives you a role"},
		"no name":         {"name", "r", `{"sub":"1","name":{"x":"anna"},"r":"ops"}`, store.User{}, "what to call you"},
		"bad name":        {"name", "r", `{"sub":"1","name":"anna <x>","r":"ops"}`, store.User{}, "lower-case"},
	} {
		var claims map[string]any
		if err := json.Unmarshal([]byte(c.claims), &claims); err != nil {
			t.Fatal(err)
		}
		p := New(Config{Issuer: "https://id.example", UserClaim: c.user, RoleClaim: c.role, Roles: Roles{Root: []string{"admins"}, Operator: []string{"ops"}}})
		got, err := p.user(claims)
		if c.say == "" && (err != nil || got != c.want) || c.say != "" && (err == nil || !strings.Contains(err.Error(), c.say)) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if got := (Roles{Guest: []string{"*"}}).of(nil); got != store.Guest {
		t.Errorf("everybody is %q", got)
	}
}
