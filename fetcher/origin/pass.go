package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Request is one that somebody else makes of a registry.
type Request struct {
	Method string
	Path   string      // what follows /v2/
	Query  url.Values  // without what names the registry
	Header http.Header // of the client, with its own Authorization; not changed
	Body   io.Reader   // nil: none
	Length int64       // of the body; -1: unknown
}

// Pass sends a request on to a registry with the headers it came with, and none
// of this client's own: those of hosts.toml may be keys. The hosts of the registry are asked in their order
// until one does not refuse; if all do, the answer is that of the registry's own
// server. Reads follow redirects, which get no credentials. Requests that change
// something go to the server alone. The caller closes the answer's body.
func (c *Client) Pass(ctx context.Context, registry string, q Request) (*http.Response, error) {
	r, err := c.registry(registry, c.now())
	if err != nil {
		return nil, fmt.Errorf("origin: %w", err)
	}
	hosts := r.inOrder(memoKey{}, c.now())
	if !q.reads() {
		hosts = r.own()
		if len(hosts) == 0 {
			return nil, fmt.Errorf("origin: %w: %s has no server to write to", ErrResponse, registry)
		}
		hosts = hosts[len(hosts)-1:]
	}
	var best declined
	var failed failures
	for _, h := range hosts {
		resp, err := c.pass(ctx, h, q)
		switch {
		case err != nil && ctx.Err() != nil:
			best.close()
			return nil, err
		case err != nil:
			h.failed(0, c.now())
			failed = append(failed, failure{h, fmt.Errorf("%s: %w", h.base.Host, err)})
		case resp.StatusCode < 400 || resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
			best.close()
			return resp, nil
		default:
			best.take(h, resp)
		}
	}
	if best.resp != nil && !failed.server() {
		return best.resp, nil
	}
	best.close()
	return nil, fmt.Errorf("origin: %s %s of %s: %w", q.Method, q.Path, registry, failed)
}

// server reports whether the registry's own server is among those that failed:
// then what mirrors lack may yet be there.
func (f failures) server() bool {
	return slices.ContainsFunc(f, func(e failure) bool { return e.host.server })
}

// declined is the answer to give if no host has a better one.
type declined struct {
	from *host
	resp *http.Response
}

// take keeps the server's answer, or else the last one.
func (r *declined) take(h *host, resp *http.Response) {
	if r.from != nil && r.from.server {
		resp.Body.Close()
		return
	}
	r.close()
	r.from, r.resp = h, resp
}

func (r *declined) close() {
	if r.resp != nil {
		r.resp.Body.Close()
	}
}

// reads reports whether a request changes nothing, so that it may be made again.
func (q Request) reads() bool { return q.Method == http.MethodGet || q.Method == http.MethodHead }

// pass makes the request of one host, and follows where that sends a reader.
func (c *Client) pass(ctx context.Context, h *host, q Request) (*http.Response, error) {
	u := h.base
	u.Path += "/" + q.Path
	query := u.Query()
	for k, v := range q.Query {
		query[k] = v
	}
	u.RawQuery = query.Encode()
	at, own := &u, true
	for range maxRedirects {
		resp, err := c.passOnce(ctx, h, q, at, own)
		if err != nil || !q.reads() || !redirects(resp) {
			return resp, err
		}
		if at, err = location(resp); err != nil {
			return nil, err
		}
		own = sameOrigin(at, &h.base)
	}
	return nil, fmt.Errorf("%w: more than %d redirects", ErrResponse, maxRedirects)
}

func redirects(resp *http.Response) bool {
	return resp.StatusCode/100 == 3 && resp.StatusCode != http.StatusNotModified
}

// passOnce makes one HTTP request. own says that u is the host itself.
func (c *Client) passOnce(ctx context.Context, h *host, q Request, u *url.URL, own bool) (*http.Response, error) {
	var body io.Reader
	if q.Body != nil {
		body = struct{ io.Reader }{q.Body} // closed by who made it: a transport that falls back to HTTP does not need a new one
	}
	req, err := http.NewRequestWithContext(ctx, q.Method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrResponse, netError(ctx, err))
	}
	if body != nil {
		req.ContentLength = q.Length
	}
	req.Header = q.Header.Clone()
	c.via(req.Header)
	if !own {
		req.Header.Del("Authorization")
		req.Header.Del("Cookie")
	}
	resp, err := h.client.Do(req)
	err = netError(ctx, err)
	c.metrics.answered(kindPassed, resp, err)
	return resp, err
}

// via adds this host to those that a request came through.
func (c *Client) via(h http.Header) {
	if c.cfg.Via == "" {
		return
	}
	h.Set("Via", strings.Join(append(h.Values("Via"), "1.1 "+c.cfg.Via), ", "))
}

// Server returns the address of a registry's own server, up to its API.
func (c *Client) Server(registry string) (*url.URL, error) {
	r, err := c.registry(registry, c.now())
	if err != nil {
		return nil, fmt.Errorf("origin: %w", err)
	}
	own := r.own()
	if len(own) == 0 {
		return nil, fmt.Errorf("origin: %s: %w", registry, errors.New("only mirrors serve it"))
	}
	u := own[len(own)-1].base
	return &u, nil
}
