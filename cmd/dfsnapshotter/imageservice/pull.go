package imageservice

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// Pull is an image that is to be pulled. Printed, it shows no secret.
type Pull struct {
	Repo       origin.Repo
	Credential origin.Credential
}

// String shows no secret.
func (p Pull) String() string { return "pull of " + p.Repo.String() }

// errNothing reports a pull without credentials that are for its registry.
var errNothing = errors.New("the pull has no credentials")

// parsePull reads a request to pull. That of v1alpha2 has the same form.
func parsePull(message []byte) (Pull, error) {
	var r cri.PullImageRequest
	if err := proto.Unmarshal(message, &r); err != nil {
		return Pull{}, fmt.Errorf("read a request to pull: %w", err)
	}
	named, err := reference.ParseDockerRef(r.GetImage().GetImage())
	if err != nil {
		return Pull{}, fmt.Errorf("name of an image: %w", err)
	}
	p := Pull{Repo: origin.Repo{Host: reference.Domain(named), Path: reference.Path(named)}}
	a := r.GetAuth()
	if a == nil || !meant(a.GetServerAddress(), p.Repo.Host) {
		return Pull{}, errNothing
	}
	c := origin.Credential{
		Username: a.GetUsername(), Password: a.GetPassword(), IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken(),
	}
	if c == (origin.Credential{}) && a.GetAuth() != "" {
		if c.Username, c.Password, err = basic(a.GetAuth()); err != nil {
			return Pull{}, err
		}
	}
	if c == (origin.Credential{}) {
		return Pull{}, errNothing
	}
	c.Source = "a pull by CRI"
	p.Credential = c
	return p, nil
}

// basic reads a name and a password as they stand in docker's configuration.
func basic(auth string) (name, password string, err error) {
	text, err := base64.StdEncoding.DecodeString(auth)
	name, password, ok := strings.Cut(string(text), ":")
	if err != nil || !ok {
		return "", "", errors.New("the auth of a pull is no name and password") // which may be a secret
	}
	return name, strings.Trim(password, "\x00"), nil
}

// hub are the names that Docker Hub has as a server.
var hub = []string{"docker.io", "index.docker.io", "registry-1.docker.io"}

// meant reports whether credentials that name a server, by its name or a URL, are for a
// registry; those that name none are.
func meant(server, registry string) bool {
	if server == "" {
		return true
	}
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	return err == nil && (u.Host == registry || slices.Contains(hub, u.Host) && slices.Contains(hub, registry))
}
