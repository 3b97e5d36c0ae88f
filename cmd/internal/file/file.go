// Package file finds what dfget was asked for: which version of a file there is, what
// it is called in the cluster, and where it comes from. The agent does so, and
// dfget itself where there is none.
package file

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/crypto/argon2"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// ErrSpec reports a request that makes no sense; its text says why.
var ErrSpec = errors.New("cannot be fetched")

// Spec says which file is meant.
type Spec struct {
	URL    string        `json:"url"` // http, https, or oci://registry/repository@digest
	Digest digest.Digest `json:"digest,omitempty"`
	Header http.Header   `json:"header,omitempty"` // secrets, maybe
	Tag    string        `json:"tag,omitempty"`    // tells files of one URL apart
	Filter []string      `json:"filter,omitempty"` // parameters of the query that do not
	Size   int64         `json:"size,omitempty"`   // of a registry's blob, whose manifest was read; 0: unknown
}

// File is one version of a file.
type File struct {
	Name    digest.Digest // its digest if that is known, else a p2p.Name; "": other hosts must not be asked for it
	Why     string        // Name is ""
	Size    int64         // -1: unknown
	Repo    origin.Repo   // where it is
	Version string        // changes when the file does

	access origin.Access
	filter []string
}

// Find asks the origin which version of a file there is.
func Find(ctx context.Context, c *origin.Client, s Spec) (*File, error) {
	u, err := s.parse()
	switch {
	case err != nil:
		return nil, err
	case u.Scheme == "oci":
		return findBlob(ctx, c, s)
	}
	return findURL(ctx, c, s, u)
}

// parse looks whether a request makes sense.
func (s Spec) parse() (*url.URL, error) {
	u, err := url.Parse(s.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: the URL cannot be read", ErrSpec) // which may hold a secret
	case s.Digest != "" && s.Digest.Validate() != nil:
		return nil, fmt.Errorf("%w: %q is no digest such as sha256:… with 64 hexadecimal digits", ErrSpec, s.Digest)
	case u.Scheme == "oci":
		return u, nil
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("%w: URLs begin with http://, https:// or oci://", ErrSpec)
	case u.Host == "":
		return nil, fmt.Errorf("%w: the URL names no server", ErrSpec)
	}
	return u, nil
}

// Public returns the address of a file of a web server without what is secret, by
// which its versions are called, or why the request makes no sense.
func (s Spec) Public() (string, error) {
	u, err := s.parse()
	if err != nil {
		return "", err
	}
	if u.Scheme == "oci" {
		return "", fmt.Errorf("%w: it is a blob of a registry", ErrSpec)
	}
	return public(u, s.Filter).String(), nil
}

// findBlob finds a blob of a registry.
func findBlob(ctx context.Context, c *origin.Client, s Spec) (*File, error) {
	name, d, ok := strings.Cut(strings.TrimPrefix(s.URL, "oci://"), "@")
	host, path, _ := strings.Cut(name, "/")
	f := &File{Name: digest.Digest(d), Repo: origin.Repo{Host: host, Path: path}, Version: d}
	if !ok || f.Name.Validate() != nil || path == "" {
		return nil, fmt.Errorf("%w: a blob of a registry is oci://REGISTRY/REPOSITORY@DIGEST", ErrSpec)
	}
	if s.Digest != "" && s.Digest != f.Name {
		return nil, fmt.Errorf("%w: the URL names another digest than --digest", ErrSpec)
	}
	if s.Size > 0 {
		f.Size = s.Size
		return f, nil
	}
	b, err := c.Blob(ctx, f.Repo, f.Name, 0, 1)
	if err != nil {
		return nil, err
	}
	f.Size = b.Size
	if f.Size < 0 {
		f.Name, f.Why = "", "the registry does not say how large the blob is"
	}
	return f, b.Close()
}

// findURL finds a file of a web server.
func findURL(ctx context.Context, c *origin.Client, s Spec, u *url.URL) (*File, error) {
	f := &File{access: origin.Access{URL: u, Header: s.Header.Clone()}, filter: s.Filter}
	if f.access.Header == nil {
		f.access.Header = http.Header{}
	}
	if u.User != nil && f.access.Header.Get("Authorization") == "" {
		password, _ := u.User.Password()
		f.access.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)))
	}
	v, err := c.FindFile(ctx, f.access)
	if err != nil {
		return nil, err
	}
	public := public(u, s.Filter)
	f.Size, f.Version = v.Size, fmt.Sprintf("%d %q %q", v.Size, v.ETag, v.Modified)
	switch f.Repo = v.At(public); {
	case v.Size < 0:
		f.Why = "the server does not say how large the file is"
	case s.Digest != "":
		f.Name, f.Repo, f.Version = s.Digest, origin.AnyVersion(public), s.Digest.String()
	case !v.Pinned():
		f.Why = "the server tells no ETag and no Last-Modified, by which hosts could tell versions of the file apart"
	default:
		f.Name = name(s, public, f)
	}
	if len(f.Repo.Path) > p2p.MaxRepository {
		f.Name, f.Why = "", "its URL is too long"
	}
	return f, nil
}

// name is a hash of all that tells a version of a file from others. Headers may
// be secrets, of which no fast hash must be seen.
func name(s Spec, public *url.URL, f *File) digest.Digest {
	h := sha256.New()
	put := func(text string) { fmt.Fprintf(h, "%d:%s", len(text), text) }
	for _, part := range []string{public.String(), s.Tag, f.Version} {
		put(part)
	}
	if len(f.access.Header) > 0 {
		var all strings.Builder
		for _, k := range slices.Sorted(maps.Keys(f.access.Header)) {
			fmt.Fprintf(&all, "%q %q\n", http.CanonicalHeaderKey(k), f.access.Header[k])
		}
		salt := sha256.Sum256([]byte(public.String()))
		put(string(argon2.IDKey([]byte(all.String()), salt[:], 1, 16<<10, 1, 32)))
	}
	return p2p.Name(p2p.Sum(h.Sum(nil)))
}

// signing are the parameters, in small letters, by which stores sign addresses.
var signing = []string{
	"awsaccesskeyid", "expires", "signature", "googleaccessid", "key-pair-id", "policy", "ossaccesskeyid", "security-token",
}

// public returns an address without what is secret, or what does not tell files
// apart.
func public(u *url.URL, filter []string) *url.URL {
	p := *u
	p.User, p.Fragment, p.RawFragment = nil, "", ""
	q := u.Query()
	azure := q.Has("sig") && q.Has("sv")
	for k := range q {
		low := strings.ToLower(k)
		signs := slices.Contains(signing, low) || strings.HasPrefix(low, "x-amz-") || strings.HasPrefix(low, "x-goog-") ||
			azure && slices.Contains([]string{"sv", "ss", "srt", "sp", "se", "st", "spr", "sig", "sr"}, low)
		if signs || slices.Contains(filter, k) {
			q.Del(k)
		}
	}
	p.RawQuery = q.Encode()
	return &p
}

// Lend lets a client read the file as this request may, until release is called.
func (f *File) Lend(c *origin.Client) (release func()) {
	if !f.Repo.IsFile() {
		return func() {}
	}
	return c.Lend(f.Repo, f.access)
}

// Open reads the file from its origin from off on; n < 0 means up to its end.
// Lend must have been called.
func (f *File) Open(ctx context.Context, c *origin.Client, off, n int64) (*origin.Body, error) {
	if f.Repo.IsFile() {
		return c.File(ctx, f.Repo, off, n)
	}
	return c.Blob(ctx, f.Repo, digest.Digest(f.Version), off, n)
}
