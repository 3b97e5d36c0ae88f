package origin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

const (
	maxRedirects = 5
	// maxTries bounds how often one request is sent with other credentials.
	maxTries = 12
	// placeLife is how long a redirect is used again. Registries sign for
	// longer; a place that refuses earlier is forgotten at once.
	placeLife = 5 * time.Minute
)

// query is what one call wants of every host it asks.
type query struct {
	kind   string
	repo   Repo
	digest digest.Digest // "": that of a tag
	tag    string
	accept []string
	filter string // artifact type of the referrers that are wanted
	span   string // value of Range, "" for all

	method string                        // "": GET
	body   func() (io.ReadCloser, error) // nil: none
	length int64                         // of the body
	media  string                        // type of the body
}

func newQuery(kind string, repo Repo, d digest.Digest) (query, error) {
	q := query{kind: kind, repo: repo, digest: d}
	if err := d.Validate(); err != nil {
		return q, fmt.Errorf("%q: %w", d, err)
	}
	return q, repo.validate()
}

// tags are the names that manifests may have.
var tags = regexp.MustCompile(`^[\w][\w.-]{0,127}$`)

func newTagQuery(repo Repo, tag string) (query, error) {
	q := query{kind: kindManifest, repo: repo, tag: tag, accept: manifestTypes}
	if !tags.MatchString(tag) {
		return q, fmt.Errorf("%q is not a tag", tag)
	}
	return q, repo.validate()
}

func (r Repo) validate() error {
	if _, err := reference.WithName(r.String()); err != nil || r.Host == "" || strings.Contains(r.Host, "/") {
		return fmt.Errorf("%q is not the name of a repository", r)
	}
	return nil
}

// key is what a host's answer is remembered by. That it lists no referrers of a
// manifest says nothing of the manifest.
func (q query) key() memoKey {
	if q.kind == kindReferrers {
		return memoKey{q.repo.Path, "referrers:" + q.digest}
	}
	return memoKey{q.repo.Path, digest.Digest(q.reference())}
}

// reference is what the URL names.
func (q query) reference() string {
	if q.digest == "" {
		return q.tag
	}
	return q.digest.String()
}

// parts of URLs, by kind.
var parts = map[string]string{kindBlob: "/blobs/", kindManifest: "/manifests/", kindReferrers: "/referrers/"}

// url returns where a host has what is asked for.
func (q query) url(h *host) *url.URL {
	u := h.base
	u.Path += "/" + q.repo.Path + parts[q.kind] + q.reference()
	if q.filter != "" {
		values := u.Query()
		values.Set("artifactType", q.filter)
		u.RawQuery = values.Encode()
	}
	return &u
}

// get sends q to a host, logs in where it asks for that, and follows where it
// sends us. The answer is one with status 200 or 206.
func (c *Client) get(ctx context.Context, h *host, q query) (*http.Response, error) {
	if place, ok := h.places.get(q.key(), c.now()); ok {
		resp, err := c.follow(ctx, h, q, place, "")
		if err == nil || ctx.Err() != nil || tooMany(err) {
			return resp, err
		}
		h.places.drop(q.key()) // a new one may be signed anew, or be elsewhere
	}
	resp, auth, err := c.login(ctx, h, q, q.url(h))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 3 {
		return c.checked(resp)
	}
	place, err := location(resp)
	if err != nil {
		return nil, err
	}
	resp, err = c.follow(ctx, h, q, place, auth)
	if err == nil && q.kind == kindBlob && !sameOrigin(place, &h.base) {
		h.places.put(q.key(), place, c.now(), placeLife)
	}
	return resp, err
}

func tooMany(err error) bool {
	var e *UnavailableError
	return errors.As(err, &e) && e.Status == http.StatusTooManyRequests
}

// login sends q to a URL of the host with the credentials it accepts, and returns
// its answer and the Authorization it accepted.
func (c *Client) login(ctx context.Context, h *host, q query, u *url.URL) (*http.Response, string, error) {
	s := h.session(c, q.repo.Path)
	g, err := s.current(ctx)
	if err != nil {
		return nil, "", err
	}
	for range maxTries {
		resp, err := c.send(ctx, h, q, u, g.authorization(), true)
		if err != nil {
			return nil, "", err
		}
		if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
			g.accepted()
			return resp, g.authorization(), nil
		}
		if g, err = s.renew(ctx, g, resp); err != nil {
			return nil, "", err
		}
	}
	return nil, "", fmt.Errorf("%w: the registry refuses each token that it gave", ErrUnauthorized)
}

// follow reads from where a host sent us. Its Authorization and extra headers
// go to that host only.
func (c *Client) follow(ctx context.Context, h *host, q query, u *url.URL, auth string) (*http.Response, error) {
	for range maxRedirects {
		own := sameOrigin(u, &h.base)
		if !own {
			auth = ""
		}
		resp, err := c.send(ctx, h, q, u, auth, own)
		if err != nil {
			return nil, err
		}
		switch code := resp.StatusCode; {
		case code/100 == 3:
			if u, err = location(resp); err != nil {
				return nil, err
			}
		case !own && (code == http.StatusUnauthorized || code == http.StatusForbidden):
			// Not about our credentials: the link is bad or has expired.
			return nil, &UnavailableError{Status: code, Err: fmt.Errorf("blob store %s that the registry named: status %d%s", u.Host, code, errorText(resp))}
		default:
			return c.checked(resp)
		}
	}
	return nil, fmt.Errorf("%w: more than %d redirects", ErrResponse, maxRedirects)
}

// send makes one HTTP request. own says that u is the host itself.
func (c *Client) send(ctx context.Context, h *host, q query, u *url.URL, auth string, own bool) (*http.Response, error) {
	req, err := q.request(ctx, u)
	if err != nil {
		return nil, err
	}
	if own {
		for k, values := range h.header {
			for _, v := range values {
				req.Header.Add(k, v)
			}
		}
		c.via(req.Header)
	}
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	req.Header.Set("Accept-Encoding", "identity") // ranges are of the blob's bytes
	if auth != "" {
		req.Header.Set("Authorization", auth)
	}
	if q.span != "" {
		req.Header.Set("Range", q.span)
	}
	for _, t := range q.accept {
		req.Header.Add("Accept", t)
	}
	resp, err := h.client.Do(req)
	err = netError(ctx, err)
	c.metrics.answered(q.kind, resp, err)
	return resp, err
}

// request returns q as a request without headers but those of its body.
func (q query) request(ctx context.Context, u *url.URL) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, cmp.Or(q.method, http.MethodGet), u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrResponse, netError(ctx, err))
	}
	if q.body == nil {
		return req, nil
	}
	req.Header.Set("Content-Type", q.media)
	req.ContentLength, req.GetBody = q.length, q.body
	req.Body, err = q.body()
	return req, err
}

// checked turns an answer that is neither 200 nor 206 into an error.
func (c *Client) checked(resp *http.Response) (*http.Response, error) {
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent {
		return resp, nil
	}
	return nil, statusError(resp, c.now())
}

// location returns where an answer redirects to, and closes its body.
func location(resp *http.Response) (*url.URL, error) {
	resp.Body.Close()
	u, err := resp.Location()
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("%w: status %d without a usable Location", ErrResponse, resp.StatusCode)
	}
	return u, nil
}

// sameOrigin tells whether two addresses are of one server.
func sameOrigin(a, b *url.URL) bool { return a.Scheme == b.Scheme && a.Host == b.Host }
