package openid

import (
	"slices"
	"strings"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/auth"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// user is who claims are about.
func (p *Provider) user(claims map[string]any) (u store.User, err error) {
	subject, _ := claims["sub"].(string)
	name, _ := claim(claims, p.UserClaim).(string)
	u = store.User{Name: strings.ToLower(name), Subject: p.Issuer + " " + subject}
	switch {
	case name == "":
		return u, &Error{Message: "The provider does not say what to call you: there is no claim " + p.UserClaim + "."}
	case auth.CheckName(u.Name) != nil:
		return u, &Error{Message: "The provider calls you " + u.Name + " (claim " + p.UserClaim + "); a name " + auth.CheckName(u.Name).Error() + "."}
	case (p.UserClaim == "email" || p.RoleClaim == "email") && (claims["email_verified"] == false || claims["email_verified"] == "false"):
		return u, &Error{Message: "The provider has not verified your address."}
	}
	if u.Role = p.Roles.of(values(claim(claims, p.RoleClaim))); u.Role == "" {
		return u, &Error{Message: "You are known to the provider, but nothing in your claim " + p.RoleClaim + " gives you a role here. Ask who runs this manager."}
	}
	return u, nil
}

// of is the highest role that one of the values gives; "": none.
func (r Roles) of(values []string) store.Role {
	for _, k := range []struct {
		role  store.Role
		given []string
	}{{store.Root, r.Root}, {store.Operator, r.Operator}, {store.Guest, r.Guest}} {
		if slices.ContainsFunc(k.given, func(g string) bool { return g == "*" || slices.Contains(values, g) }) {
			return k.role
		}
	}
	return ""
}

// claim is the one of a name, which may be a path with dots; nil: there is none.
func claim(claims map[string]any, name string) any {
	if v, there := claims[name]; there {
		return v
	}
	first, rest, deeper := strings.Cut(name, ".")
	inner, _ := claims[first].(map[string]any)
	if !deeper || inner == nil {
		return nil
	}
	return claim(inner, rest)
}

// values are the words of a claim: a text, a list of them, or an object, of which
// the names count.
func values(v any) (all []string) {
	switch v := v.(type) {
	case string:
		all = []string{v}
	case []any:
		for _, item := range v {
			if s, is := item.(string); is {
				all = append(all, s)
			}
		}
	case map[string]any:
		for name := range v {
			all = append(all, name)
		}
	}
	return all
}
