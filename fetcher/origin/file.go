package origin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ErrChanged means that a server has another version of a file than the one that
// was asked for. Asking again does not help; FindFile says which one there is.
var ErrChanged = errors.New("the file has changed")

// IsFile reports whether r is not a repository, but a file of an HTTP server: Host
// is then a scheme and a host, and Path the rest of the address, with what pins the
// version behind a "#". It holds no secret.
func (r Repo) IsFile() bool { return strings.Contains(r.Host, "://") }

// Access is how a file is asked for: by an address that may be signed, with
// headers that may be secret. Printed, it shows neither.
type Access struct {
	URL    *url.URL
	Header http.Header
}

// String leaves all out.
func (Access) String() string { return "access to a file" }

// GoString leaves all out.
func (a Access) GoString() string { return a.String() }

// File is one version of a file of an HTTP server.
type File struct {
	Size     int64  // -1: the server did not say
	ETag     string // "": it did not say
	Modified string // Last-Modified, as the server writes it; "": it did not say
}

// Pinned reports whether another version of the file can be told from this one.
func (f File) Pinned() bool { return f.Size >= 0 && (f.ETag != "" || f.Modified != "") }

// At names the version at the address u, which must hold no secrets. Whoever
// reads it gets this version, or ErrChanged.
func (f File) At(u *url.URL) Repo {
	r := AnyVersion(u)
	version := url.Values{}
	if f.ETag != "" {
		version.Set("etag", f.ETag)
	}
	if f.Modified != "" {
		version.Set("modified", f.Modified)
	}
	r.Path += "#" + version.Encode()
	return r
}

// AnyVersion names the file at the address u whatever its version, for readers
// who compare what they get with a digest.
func AnyVersion(u *url.URL) Repo {
	path := strings.TrimPrefix(u.EscapedPath(), "/")
	if u.RawQuery != "" {
		path += "?" + u.RawQuery
	}
	return Repo{Host: u.Scheme + "://" + u.Host, Path: path}
}

// Unpinned is the file whatever its version.
func (r Repo) Unpinned() Repo {
	r.Path, _, _ = strings.Cut(r.Path, "#")
	return r
}

// version returns what pins a file.
func (r Repo) version() File {
	_, text, _ := strings.Cut(r.Path, "#")
	v, _ := url.ParseQuery(text) // what cannot be read pins nothing
	return File{ETag: v.Get("etag"), Modified: v.Get("modified")}
}

// files are how this process reaches files.
type files struct {
	client *http.Client
	host   host // takes the place of a registry's

	mu      sync.Mutex // guards what follows
	access  map[Repo][]*Access
	learned map[Repo]learnedAccess
}

func newFiles(cfg Config) *files {
	f := &files{access: map[Repo][]*Access{}, learned: map[Repo]learnedAccess{}}
	t := &http.Transport{
		Proxy: cfg.Proxy, TLSHandshakeTimeout: cfg.DialTimeout,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.FileRoots},
		ResponseHeaderTimeout: cfg.HeaderTimeout, DisableCompression: true, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: 32, IdleConnTimeout: 90 * time.Second,
	}
	Guard(t, net.Dialer{Timeout: cfg.DialTimeout, KeepAlive: 30 * time.Second})
	f.client = &http.Client{CheckRedirect: checkRedirect, Transport: t}
	return f
}

// checkRedirect lets no header of the client's go to another server than the one
// it was meant for.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("%w: more than %d redirects", ErrResponse, maxRedirects)
	}
	req.Header.Del("Referer") // an address may be a secret
	if sameOrigin(req.URL, via[0].URL) {
		return nil
	}
	for k := range req.Header {
		if !slices.Contains([]string{"Range", "If-Range", "User-Agent", "Accept-Encoding"}, k) {
			req.Header.Del(k)
		}
	}
	return nil
}

// Lend says how a file is to be asked for from now on, until release is called.
func (c *Client) Lend(r Repo, a Access) (release func()) {
	f := c.files
	own := &a
	f.mu.Lock()
	defer f.mu.Unlock()
	f.access[r] = append(f.access[r], own)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.access[r] = slices.DeleteFunc(f.access[r], func(x *Access) bool { return x == own })
		if len(f.access[r]) == 0 {
			delete(f.access, r)
		}
	}
}

// learnedAccess is how another host asks for a file.
type learnedAccess struct {
	Access
	until time.Time
}

// Learn says how a file is asked for until then where nobody lends another way. Of very
// many the one that ends first is forgotten.
func (c *Client) Learn(r Repo, a Access, until time.Time) {
	f := c.files
	f.mu.Lock()
	defer f.mu.Unlock()
	f.learned[r] = learnedAccess{a, until}
	if len(f.learned) <= maxLearned {
		return
	}
	first := r
	for k, l := range f.learned {
		if l.until.Before(f.learned[first].until) {
			first = k
		}
	}
	delete(f.learned, first)
}

// reach returns how a file is asked for: as who lent it last says, as was learned, or
// as it is named.
func (f *files) reach(r Repo) (Access, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if lent := f.access[r]; len(lent) > 0 {
		return *lent[len(lent)-1], nil
	}
	if l, ok := f.learned[r]; ok && time.Now().Before(l.until) {
		return l.Access, nil
	}
	name, _, _ := strings.Cut(r.String(), "#")
	u, err := url.Parse(name)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return Access{}, fmt.Errorf("origin: %q is not the address of a file", r)
	}
	return Access{URL: u}, nil
}

// FindFile asks a server which version of a file it has.
func (c *Client) FindFile(ctx context.Context, a Access) (File, error) {
	resp, err := c.ask(ctx, a, File{}, "bytes=0-0")
	if err != nil {
		return File{}, fmt.Errorf("origin: %w", err)
	}
	defer resp.Body.Close()
	f := File{Size: resp.ContentLength, ETag: resp.Header.Get("ETag"), Modified: resp.Header.Get("Last-Modified")}
	switch span := resp.Header.Get("Content-Range"); resp.StatusCode {
	case http.StatusPartialContent:
		var ok bool
		if _, _, f.Size, ok = contentRange(span); !ok {
			f.Size = -1
		}
	case http.StatusRequestedRangeNotSatisfiable: // there is no first byte
		f.Size = -1
		if strings.TrimSpace(strings.TrimPrefix(span, "bytes")) == "*/0" {
			f.Size = 0
		}
	}
	return f, nil
}

// File opens n bytes of a file from off on; n < 0 means up to its end. Like Blob
// it makes one attempt.
func (c *Client) File(ctx context.Context, r Repo, off, n int64) (*Body, error) {
	a, err := c.files.reach(r)
	if err != nil {
		return nil, err
	}
	span := "bytes=" + strconv.FormatInt(off, 10) + "-"
	if n > 0 {
		span += strconv.FormatInt(off+n-1, 10)
	}
	resp, err := c.ask(ctx, a, r.version(), span)
	if err != nil {
		return nil, fmt.Errorf("origin: file %s: %w", r, err)
	}
	if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		resp.Body.Close()
		return nil, fmt.Errorf("origin: file %s: %w: it has no byte %d", r, ErrChanged, off)
	}
	body, err := c.body(ctx, &c.files.host, resp, off, n)
	if err != nil {
		resp.Body.Close()
		return nil, fmt.Errorf("origin: file %s: %w", r, err)
	}
	return body, nil
}

// ask asks for a range of a version of a file. The answer's status is 200, 206 or
// 416.
func (c *Client) ask(ctx context.Context, a Access, v File, span string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.URL.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrResponse, netError(ctx, err))
	}
	for k, values := range a.Header {
		req.Header[http.CanonicalHeaderKey(k)] = slices.Clone(values)
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
		req.Header.Del("Host")
	}
	c.via(req.Header)
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", c.cfg.UserAgent)
	}
	req.Header.Set("Accept-Encoding", "identity") // ranges are of the file's bytes
	req.Header.Set("Range", span)
	switch {
	case v.ETag != "" && !strings.HasPrefix(v.ETag, "W/"):
		req.Header.Set("If-Range", v.ETag)
	case v.ETag == "" && v.Modified != "":
		req.Header.Set("If-Range", v.Modified)
	}
	resp, err := c.files.client.Do(req)
	err = netError(ctx, err)
	c.metrics.answered(kindFile, resp, err)
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return resp, nil
	}
	if resp, err = c.checked(resp); err != nil {
		return nil, err
	}
	etag, modified := resp.Header.Get("ETag"), resp.Header.Get("Last-Modified")
	if v.ETag != "" && v.ETag != etag || v.ETag == "" && v.Modified != "" && v.Modified != modified {
		resp.Body.Close()
		return nil, fmt.Errorf("%w: asked for ETag %q of %q, got ETag %q of %q", ErrChanged, v.ETag, v.Modified, oneLine(etag), oneLine(modified))
	}
	return resp, nil
}
