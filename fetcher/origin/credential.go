package origin

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
)

// Credential is one way to log in: a user name and password, or one of the
// tokens. Printed, it shows only where it came from.
type Credential struct {
	Username string
	Password string
	// IdentityToken is exchanged for access tokens at the token server
	// (OAuth2's refresh token).
	IdentityToken string
	// RegistryToken is an access token that the registry takes as it is.
	RegistryToken string
	// Source says where it came from, for people: "docker config".
	Source string
}

// String leaves the secrets out.
func (c Credential) String() string { return fmt.Sprintf("credential from %s", c.Source) }

// GoString leaves the secrets out.
func (c Credential) GoString() string { return c.String() }

// LogValue leaves the secrets out.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText leaves the secrets out, of JSON too.
func (c Credential) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// empty tells whether there is nothing to log in with.
func (c Credential) empty() bool {
	c.Source = ""
	return c == Credential{}
}

// answers tells whether a credential is of use for a challenge.
func (c Credential) answers(ch auth.Challenge) bool {
	if ch.Scheme == auth.BasicAuth {
		return c.Username != "" || c.Password != ""
	}
	return !c.empty()
}

// Credentials knows credentials of repositories.
type Credentials interface {
	// Lookup returns the credentials for a repository, the best first; none
	// is no error. It is asked once per login, and may run programs.
	Lookup(ctx context.Context, r Repo) ([]Credential, error)
}

// Chain asks several sources and returns what all of them know, in their
// order. A source that fails is logged and left out.
func Chain(log *slog.Logger, sources ...Credentials) Credentials {
	return chain{log, sources}
}

type chain struct {
	log     *slog.Logger
	sources []Credentials
}

func (c chain) Lookup(ctx context.Context, r Repo) ([]Credential, error) {
	var all []Credential
	for _, s := range c.sources {
		creds, err := s.Lookup(ctx, r)
		if err != nil {
			c.log.Warn("a source of credentials does not work", "repo", r.String(), "err", err)
		}
		for _, cred := range creds {
			if !slices.ContainsFunc(all, cred.same) {
				all = append(all, cred)
			}
		}
	}
	return all, nil
}

// same tells whether two credentials log in alike.
func (c Credential) same(o Credential) bool {
	o.Source = c.Source
	return c == o
}
