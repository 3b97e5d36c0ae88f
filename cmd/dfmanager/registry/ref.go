package registry

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// Ref is where a manifest can be read.
type Ref struct {
	Scheme, Host string // http or https; with the port, if there is one
	Repository   string
	Reference    string // tag or digest
}

var (
	repository = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tag        = regexp.MustCompile(`^[\w][\w.-]{0,127}$`)
)

// Docker Hub has one name in images, and another one on the network.
const hub, hubHost = "docker.io", "registry-1.docker.io"

// ParseURL reads a manifest's URL, as Harbor sends it:
// https://HOST/v2/REPOSITORY/manifests/REFERENCE.
func ParseURL(raw string) (Ref, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return Ref{}, errors.New("must be https://HOST/v2/REPOSITORY/manifests/REFERENCE, without user and query")
	}
	rest, ok := strings.CutPrefix(u.Path, "/v2/")
	i := strings.LastIndex(rest, "/manifests/")
	if !ok || i < 0 {
		return Ref{}, errors.New("must name a manifest: /v2/REPOSITORY/manifests/REFERENCE")
	}
	r := Ref{u.Scheme, u.Host, rest[:i], rest[i+len("/manifests/"):]}
	return r, r.check()
}

// ParseName reads an image's name, such as nginx:1 or host/app@sha256:….
func ParseName(name string, plain bool) (Ref, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return Ref{}, fmt.Errorf("is no image's name: %w", err)
	}
	r := Ref{Scheme: "https", Host: reference.Domain(named), Repository: reference.Path(named)}
	if plain {
		r.Scheme = "http"
	}
	if r.Host == hub {
		r.Host = hubHost
	}
	switch t := reference.TagNameOnly(named).(type) {
	case reference.Digested:
		r.Reference = t.Digest().String()
	case reference.Tagged:
		r.Reference = t.Tag()
	}
	return r, r.check()
}

func isDigest(reference string) bool { return digest.Digest(reference).Validate() == nil }

func (r Ref) check() error {
	if len(r.Repository) > 255 || !repository.MatchString(r.Repository) {
		return fmt.Errorf("%.80q is not the name of a repository", r.Repository)
	}
	if !isDigest(r.Reference) && !tag.MatchString(r.Reference) {
		return fmt.Errorf("%.80q is neither a tag nor a digest", r.Reference)
	}
	return nil
}

// Name is the name of the image whose manifest is at a URL, or the URL if it is no
// manifest's.
func Name(url string) string {
	if r, err := ParseURL(url); err == nil {
		return r.String()
	}
	return url
}

// URL is where the manifest can be read.
func (r Ref) URL() string {
	return r.Scheme + "://" + r.Host + "/v2/" + r.Repository + "/manifests/" + r.Reference
}

// Registry is the registry's name in images.
func (r Ref) Registry() string {
	if r.Host == hubHost {
		return hub
	}
	return r.Host
}

// String is the image's name.
func (r Ref) String() string { return r.named(r.Reference) }

func (r Ref) named(reference string) string {
	sep := ":"
	if isDigest(reference) {
		sep = "@"
	}
	return r.Registry() + "/" + r.Repository + sep + reference
}
