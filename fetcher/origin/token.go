package origin

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
)

const (
	clientID = "dfsnapshotter" // as token servers are told
	// shortestLife is how long a token counts for if its server does not say:
	// the specification's default.
	shortestLife = 60 * time.Second
	maxTokenBody = 1 << 20
)

// answer answers a challenge with a credential: it returns the Authorization
// to send and when to renew it. It gives ErrUnauthorized if the token server
// refuses the credential.
func (h *host) answer(ctx context.Context, c *Client, repo Repo, cand candidate) (header string, renew time.Time, err error) {
	cred := cand.credential
	switch {
	case cred.RegistryToken != "":
		return "Bearer " + cred.RegistryToken, time.Time{}, nil
	case cand.challenge.Scheme == auth.BasicAuth:
		pair := base64.StdEncoding.EncodeToString([]byte(cred.Username + ":" + cred.Password))
		return "Basic " + pair, time.Time{}, nil
	}
	to, err := auth.GenerateTokenOptions(ctx, h.base.Host, cred.Username, cred.Password, cand.challenge)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("%w: %w", ErrResponse, err)
	}
	if len(to.Scopes) == 0 {
		to.Scopes = []string{"repository:" + repo.Path + ":pull"}
	}
	start := c.now()
	within, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout+c.cfg.HeaderTimeout)
	defer cancel()
	token, life, err := h.token(within, c, cred, to)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("token for %s with %s: %w", repo, cand.name(), tokenError(ctx, err))
	}
	if life <= 0 {
		life = shortestLife
	}
	return "Bearer " + token, start.Add(life - min(life/10, 30*time.Second)), nil
}

// token asks the token server. Passwords go by GET, which all servers know;
// identity tokens only work by POST.
func (h *host) token(ctx context.Context, c *Client, cred Credential, to auth.TokenOptions) (string, time.Duration, error) {
	client := *h.client
	client.Transport = &tokenTransport{next: client.Transport, metrics: c.metrics}
	client.CheckRedirect = checkTokenRedirect
	header := h.tokenHeader(c.cfg.UserAgent)
	if cred.IdentityToken != "" {
		to.Username, to.Secret = "", cred.IdentityToken
		return oauth(ctx, &client, header, to)
	}
	r, err := auth.FetchToken(ctx, &client, header, to)
	if err != nil {
		var status remoteerrors.ErrUnexpectedStatus
		if to.Secret != "" && errors.As(err, &status) && onlyPost(status.StatusCode) {
			return oauth(ctx, &client, header, to)
		}
		return "", 0, err
	}
	return r.Token, seconds(r.ExpiresInSeconds), nil
}

func onlyPost(status int) bool {
	return status == http.StatusNotFound || status == http.StatusMethodNotAllowed || status == http.StatusBadRequest
}

func oauth(ctx context.Context, client *http.Client, header http.Header, to auth.TokenOptions) (string, time.Duration, error) {
	r, err := auth.FetchTokenWithOAuth(ctx, client, header, clientID, to)
	if err != nil {
		return "", 0, err
	}
	return r.AccessToken, seconds(r.ExpiresInSeconds), nil
}

func seconds(n int) time.Duration { return time.Duration(min(n, 1<<31-1)) * time.Second }

// tokenHeader returns the extra headers for a token server: those of the
// host, as containerd sends them, but none that logs in at the host itself.
func (h *host) tokenHeader(userAgent string) http.Header {
	header := http.Header{}
	for k, values := range h.header {
		if k = http.CanonicalHeaderKey(k); k != "Authorization" && k != "Cookie" {
			header[k] = values
		}
	}
	header.Set("User-Agent", userAgent)
	return header
}

// tokenError says whether a token server refused a credential, or could not
// answer. Its text is kept, its address is not: that has the scope only, but
// may be long.
func tokenError(ctx context.Context, err error) error {
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		return statusError(&http.Response{
			StatusCode: refusal(status.StatusCode),
			Body:       io.NopCloser(strings.NewReader(string(status.Body))),
		}, time.Now())
	}
	if errors.Is(err, auth.ErrNoToken) {
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	return netError(ctx, err)
}

// refusal maps the statuses by which token servers refuse to one.
func refusal(status int) int {
	if status >= 400 && status < 500 {
		return http.StatusUnauthorized
	}
	return status
}

// checkTokenRedirect lets a token server send us to itself only, since the
// request may hold a password.
func checkTokenRedirect(req *http.Request, via []*http.Request) error {
	to, first := req.URL, via[0].URL
	upgrade := to.Scheme == "https" && to.Hostname() == first.Hostname()
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("%w: more than %d redirects", ErrResponse, maxRedirects)
	case !upgrade && !sameOrigin(to, first):
		return fmt.Errorf("%w: the token server %s redirects to %s", ErrResponse, first.Host, to.Host)
	}
	return nil
}

// tokenTransport keeps what the token client's errors leave out: that a
// server wants us to wait. It also bounds what it sends.
type tokenTransport struct {
	next    http.RoundTripper
	metrics *metrics
}

func (t *tokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		t.metrics.answered(kindToken, nil, netError(req.Context(), err))
		return nil, err
	}
	t.metrics.answered(kindToken, resp, nil)
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500 {
		return nil, statusError(resp, time.Now())
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxTokenBody), resp.Body}
	return resp, nil
}
