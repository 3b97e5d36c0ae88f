package main

import (
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/openid"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/seal"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
)

// OIDCConfig names an OpenID Connect provider.
type OIDCConfig struct {
	Issuer     string   `toml:"issuer" comment:"URL of an OpenID Connect provider at which people may sign in, too. Its callback is URL/sign-in/oidc/callback."`
	URL        string   `toml:"url" comment:"Of this manager, as browsers reach it: https://manager.example:8080."`
	Name       string   `toml:"name" comment:"Of the provider, on the button. Empty: its address."`
	ClientID   string   `toml:"client_id"`
	SecretFile string   `toml:"client_secret_file" comment:"File with the client's secret. Empty: the client is public, and has none."`
	Scopes     []string `toml:"scopes" comment:"Asked for besides openid."`
	UserClaim  string   `toml:"user_claim" comment:"Claim with the user's name."`
	RoleClaim  string   `toml:"role_claim" comment:"Claim with what gives roles; a path with dots, as realm_access.roles, for one within another."`
	Root       []string `toml:"root" comment:"Values of that claim that give each role, which is looked at whenever somebody signs in; \"*\" is everybody.\nThe highest counts, and who has none of them may not sign in."`
	Operator   []string `toml:"operator"`
	Guest      []string `toml:"guest"`
	CA         string   `toml:"ca" comment:"PEM file with CAs of the provider, besides the system's."`
}

func defaultOIDC() OIDCConfig {
	return OIDCConfig{
		Scopes: []string{"profile", "email"}, UserClaim: "preferred_username", RoleClaim: "groups",
		Root: []string{}, Operator: []string{}, Guest: []string{},
	}
}

func (c OIDCConfig) validate(bad func(key, format string, args ...any)) {
	if c.Issuer == "" {
		return
	}
	if !isURL(c.Issuer) {
		bad("auth.oidc.issuer", "%q is not like https://id.example", c.Issuer)
	}
	if u, err := url.Parse(c.URL); !isURL(c.URL) || err != nil || u.Path != "" {
		bad("auth.oidc.url", "%q is not like https://manager.example:8080, without a path", c.URL)
	}
	if c.ClientID == "" || c.UserClaim == "" || c.RoleClaim == "" {
		bad("auth.oidc", "client_id, user_claim and role_claim must not be empty")
	}
	if len(c.Root)+len(c.Operator)+len(c.Guest) == 0 {
		bad("auth.oidc", "root, operator and guest are all empty, so nobody could sign in")
	}
}

// isURL reports whether s is a URL of http or https without what no base has.
func isURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == ""
}

// provider makes it; nil, if there is none.
func (c OIDCConfig) provider(key *seal.Key) (*openid.Provider, error) {
	if c.Issuer == "" {
		return nil, nil
	}
	cas, err := daemon.Roots("auth.oidc.ca", c.CA)
	if err != nil {
		return nil, err
	}
	var secret []byte
	if c.SecretFile != "" {
		if secret, err = os.ReadFile(c.SecretFile); err != nil {
			return nil, fmt.Errorf("auth.oidc.client_secret_file: %w", err)
		}
	}
	return openid.New(openid.Config{
		Issuer: c.Issuer, ClientID: c.ClientID, ClientSecret: strings.TrimSpace(string(secret)), Name: c.Name, URL: c.URL,
		Scopes: c.Scopes, UserClaim: c.UserClaim, RoleClaim: c.RoleClaim,
		Roles: openid.Roles{Root: c.Root, Operator: c.Operator, Guest: c.Guest}, Roots: cas, Key: key,
	}), nil
}
