package mirror

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// kind is what of a registry a request is about.
type kind string

const (
	blob     kind = "blob"
	manifest kind = "manifest"
	other    kind = "other" // tags, referrers, uploads, the API itself
)

const (
	maxPath     = 4 << 10
	maxHeader   = 64 << 10 // bytes of all headers of a request
	maxRegistry = 255
)

// target is what a request wants.
type target struct {
	kind     kind
	registry string        // as in image names
	repo     string        // "" if the path names none
	ref      string        // of a manifest: tag or digest
	digest   digest.Digest // of a blob
	path     string        // what follows /v2/
	query    url.Values    // without what names the registry
}

func (t target) at() origin.Repo { return origin.Repo{Host: t.registry, Path: t.repo} }

// parsePath reads the path of a request, decoded, which must be of the registry
// API.
func parsePath(path string) (t target, err error) {
	rest, ok := strings.CutPrefix(path, "/v2")
	switch {
	case len(path) > maxPath:
		return t, refuse(http.StatusRequestURITooLong, codeUnsupported, "the path has %d bytes; %d are allowed", len(path), maxPath)
	case !ok || rest != "" && rest[0] != '/':
		return t, refuse(http.StatusNotFound, codeUnsupported, "this is a mirror of registries: paths begin with /v2/")
	case strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r == '\\' || r >= 0x7f }):
		return t, refuse(http.StatusBadRequest, codeNameInvalid, "the path holds a character that no name has")
	}
	t.kind, t.path = other, strings.TrimPrefix(rest, "/")
	parts := strings.Split(t.path, "/")
	for i, p := range parts {
		if p == "." || p == ".." || p == "" && i < len(parts)-1 {
			return t, refuse(http.StatusBadRequest, codeNameInvalid, "the path holds %q, which no name does", p+"/")
		}
	}
	return t, t.split(parts)
}

// split finds the repository's name in the parts of the path, and what of it is
// asked for.
func (t *target) split(parts []string) error {
	n := len(parts)
	if n < 3 { // the API itself, or the catalogue
		return nil
	}
	part, last := parts[n-2], parts[n-1]
	t.repo = strings.Join(parts[:n-2], "/")
	switch {
	case part == "blobs" && last != "uploads":
		t.kind, t.digest = blob, digest.Digest(last)
		if err := t.digest.Validate(); err != nil {
			return refuse(http.StatusBadRequest, codeDigestInvalid, "%q is not a digest: %v", last, err)
		}
	case part == "manifests":
		t.kind, t.ref = manifest, last
	case part == "blobs" || part == "tags" || part == "referrers":
	default: // an upload under way: NAME/blobs/uploads/ID
		i := strings.LastIndex(t.path, "/blobs/uploads")
		if i < 0 {
			return refuse(http.StatusNotFound, codeUnsupported, "registries have nothing like %s", "/v2/"+t.path)
		}
		t.repo = t.path[:i]
	}
	if _, err := reference.WithName("registry/" + t.repo); err != nil {
		return refuse(http.StatusBadRequest, codeNameInvalid, "%q is not the name of a repository: %v", t.repo, err)
	}
	return nil
}

// ParseRegistry reads how people name a registry, "https://ghcr.io" or
// "registry:5000", and returns its name as in images, and whether it was said to
// speak plain HTTP.
func ParseRegistry(s string) (name string, plain bool, err error) {
	bad := refuse(http.StatusBadRequest, codeNameInvalid, "%.100q is not the name of a registry, such as ghcr.io or https://registry.example:5000", s)
	scheme, host, found := strings.Cut(s, "://")
	if !found {
		scheme, host = "https", s
	}
	host = strings.ToLower(strings.TrimSuffix(host, "/"))
	u, err := url.Parse("//" + host)
	if err != nil || (scheme != "http" && scheme != "https") || len(host) > maxRegistry || u.Host != host || u.Hostname() == "" || u.User != nil || strings.HasSuffix(host, ":") {
		return "", false, bad
	}
	if _, err := reference.WithName(host + "/name"); err != nil {
		return "", false, bad
	}
	switch host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		host = "docker.io"
	}
	return host, scheme == "http", nil
}

// target returns what a request in a mirror's form wants.
func (m *Mirror) target(r *http.Request) (target, error) {
	t, err := parsePath(r.URL.Path)
	if err != nil {
		return t, err
	}
	t.query = r.URL.Query()
	name := r.Header.Get("X-Dragonfly-Registry")
	if name == "" {
		name = t.query.Get("ns")
	}
	t.query.Del("ns")
	if name == "" {
		t.registry = m.upstream
		if t.registry == "" {
			return t, refuse(http.StatusBadRequest, codeNameInvalid, "which registry? Say so by ?ns=, by the header X-Dragonfly-Registry, or by mirror.upstream in the configuration")
		}
		return t, nil
	}
	if t.registry, _, err = ParseRegistry(name); err != nil {
		return t, err
	}
	return t, checkHost(hostname(t.registry), isLocal(r))
}

// hostname returns the host of host:port.
func hostname(hostport string) string { return (&url.URL{Host: hostport}).Hostname() }

// checkHost refuses addresses that a client may not be led to, see checkAddr, however
// they are written. What a name resolves to is looked at when it is dialed; where a
// proxy dials, it alone knows, and has to refuse such addresses itself.
func checkHost(host string, local bool) error {
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		host = "127.0.0.1"
	}
	if a, ok := origin.Literal(host); ok {
		return checkAddr(a, local)
	}
	return nil
}

// checkAddr refuses link-local and metadata addresses, and this machine's own
// services to clients of other machines.
func checkAddr(a netip.Addr, local bool) error {
	if a.IsUnspecified() || a.Unmap().IsLoopback() {
		if local {
			return nil
		}
		return refuse(http.StatusForbidden, codeDenied, "%s is this mirror's own machine, whose services are not for others", a)
	}
	return origin.CheckAddress(a)
}

// isLocal reports whether the client is a program on this machine.
func isLocal(r *http.Request) bool {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && a.Addr().Unmap().IsLoopback()
}
