// Package registry reads manifests: which blobs an image consists of, and a
// token by which a seed may read them. It reads no blob.
package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// What went wrong, as far as it makes a difference to what is done next.
var (
	// ErrNotFound: the registry has no such image. Asking again does not help.
	ErrNotFound = errors.New("the registry has no such image")
	// ErrRefused: it does not accept the credentials. Asking again does not help.
	ErrRefused = errors.New("the registry refuses the credentials")
	// ErrInvalid: it is no image that can be preheated. Asking again does not help.
	ErrInvalid = errors.New("not an image that can be preheated")
	// ErrUnavailable: the registry does not answer, or not now. Asking again may help.
	ErrUnavailable = errors.New("the registry does not answer")
)

const (
	maxManifest  = 4 << 20
	maxToken     = 64 << 10
	requestIn    = 20 * time.Second
	maxRedirects = 5
)

// Config says how registries are reached.
type Config struct {
	Roots *x509.CertPool // nil: the system's
	Proxy func(*http.Request) (*url.URL, error)
}

// Client asks registries.
type Client struct{ http *http.Client }

// New makes a Client. Registries are named by whoever may have an image preheated, and
// name token servers themselves: it does not ask where clouds tell this machine its
// secrets.
func New(c Config) *Client {
	t := &http.Transport{
		Proxy: c.Proxy, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.Roots},
		ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 4,
		TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: 64 << 10,
	}
	origin.Guard(t, net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second})
	return &Client{http: &http.Client{
		Timeout: requestIn, Transport: t,
		CheckRedirect: func(_ *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return errors.New("too many redirects")
			}
			return nil
		},
	}}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Credential is how to log in: what Authorization says, or a user and password;
// the zero value is anonymous. Printed, it shows nothing.
type Credential struct {
	Authorization  string `json:"authorization,omitempty"`
	User, Password string `json:",omitempty"`
}

// String shows nothing.
func (Credential) String() string { return "registry.Credential" }

// GoString shows nothing.
func (c Credential) GoString() string { return c.String() }

// Repo is a repository as somebody with a credential sees it. It may be used
// concurrently.
type Repo struct {
	client *Client
	ref    Ref
	cred   Credential

	mu     sync.Mutex // held while a token is asked for
	bearer string     // what the registry accepted last, or is thought to accept
	basic  bool       // it wants user and password
}

// Repo returns the repository of an image. It asks nobody.
func (c *Client) Repo(ref Ref, cred Credential) *Repo {
	r := &Repo{client: c, ref: ref, cred: cred}
	kind, value, _ := strings.Cut(cred.Authorization, " ")
	switch {
	case strings.EqualFold(kind, "Bearer"):
		r.bearer = strings.TrimSpace(value)
	case strings.EqualFold(kind, "Basic"):
		req := &http.Request{Header: http.Header{"Authorization": {cred.Authorization}}}
		r.cred.User, r.cred.Password, _ = req.BasicAuth()
	}
	return r
}

// Lent is the token that a seed may use: the one the registry accepted, "" if
// it needs none or takes passwords only.
func (r *Repo) Lent() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bearer
}

// Renew gets another token, for the registry refuses the one that was lent. It
// fails where there is nothing to get one with.
func (r *Repo) Renew(ctx context.Context) error {
	if r.fixed() {
		return fmt.Errorf("%w: the token has expired, or does not reach that far", ErrRefused)
	}
	old := r.Lent()
	req, err := r.request(ctx, r.ref.Reference)
	if err != nil {
		return err
	}
	resp, err := r.client.http.Do(req) // without a token, to hear what is wanted
	if err != nil {
		return r.away(err)
	}
	defer drain(resp)
	if resp.StatusCode != http.StatusUnauthorized {
		return nil
	}
	return r.login(ctx, resp.Header.Get("WWW-Authenticate"), old)
}

// fixed reports whether the credential is a token, which nobody can renew.
func (r *Repo) fixed() bool { return r.cred.Authorization != "" && r.cred.User == "" }

func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again
	_ = resp.Body.Close()
}

// manifest reads a manifest or index by tag or digest, and says what it is.
func (r *Repo) manifest(ctx context.Context, reference string) (data []byte, kind string, d digest.Digest, err error) {
	for try := 0; ; try++ {
		resp, err := r.get(ctx, reference)
		if err != nil {
			return nil, "", "", err
		}
		if resp.StatusCode == http.StatusUnauthorized && try == 0 && !r.fixed() {
			drain(resp)
			if err := r.login(ctx, resp.Header.Get("WWW-Authenticate"), r.Lent()); err != nil {
				return nil, "", "", err
			}
			continue
		}
		defer drain(resp)
		if err := r.judge(resp, reference); err != nil {
			return nil, "", "", err
		}
		data, err = io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
		if err != nil {
			return nil, "", "", r.away(err)
		}
		d, err = r.check(data, reference)
		return data, resp.Header.Get("Content-Type"), d, err
	}
}

// check returns a manifest's digest, which must be the one it was asked for by.
func (r *Repo) check(data []byte, reference string) (digest.Digest, error) {
	if len(data) > maxManifest {
		return "", fmt.Errorf("%w: its manifest has more than %d bytes", ErrInvalid, maxManifest)
	}
	asked := digest.Digest(reference)
	if !isDigest(reference) {
		return digest.FromBytes(data), nil
	}
	if got := asked.Algorithm().FromBytes(data); got != asked {
		return "", fmt.Errorf("%w: %s sends a manifest with the digest %s instead of %s", ErrInvalid, r.ref.Host, got, asked)
	}
	return asked, nil
}

func (r *Repo) request(ctx context.Context, reference string) (*http.Request, error) {
	at := r.ref
	at.Reference = reference
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.URL(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	req.Header.Set("Accept", strings.Join(accepted, ", "))
	req.Header.Set("User-Agent", "dfmanager")
	return req, nil
}

// get asks with what is known to be accepted.
func (r *Repo) get(ctx context.Context, reference string) (*http.Response, error) {
	req, err := r.request(ctx, reference)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	bearer, basic := r.bearer, r.basic
	r.mu.Unlock()
	switch {
	case basic:
		req.SetBasicAuth(r.cred.User, r.cred.Password)
	case bearer != "":
		req.Header.Set("Authorization", "Bearer "+bearer)
	case r.fixed():
		req.Header.Set("Authorization", r.cred.Authorization)
	}
	resp, err := r.client.http.Do(req)
	if err != nil {
		return nil, r.away(err)
	}
	return resp, nil
}

// away says that the registry cannot be reached, without what may be secret in
// the query of a URL.
func (r *Repo) away(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		err = e.Err
	}
	if errors.Is(err, origin.ErrAddress) {
		return fmt.Errorf("%w: %s: %w", ErrInvalid, r.ref.Host, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, r.ref.Host, err)
}

// judge turns a status into an error that says what to do.
func (r *Repo) judge(resp *http.Response, reference string) error {
	status := fmt.Sprintf("%s answered %d for %s", r.ref.Host, resp.StatusCode, r.ref.named(reference))
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
		return nil
	case code == http.StatusNotFound:
		return fmt.Errorf("%w: %s", ErrNotFound, status)
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return fmt.Errorf("%w: %s", ErrRefused, status)
	case code == http.StatusTooManyRequests, code >= 500:
		return fmt.Errorf("%w: %s", ErrUnavailable, status)
	default:
		return fmt.Errorf("%w: %s", ErrInvalid, status)
	}
}

// login does what a challenge asks for. old is the token that was refused.
func (r *Repo) login(ctx context.Context, challenge, old string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bearer != old {
		return nil // somebody else was faster
	}
	kind, values := parseChallenge(challenge)
	switch {
	case strings.EqualFold(kind, "Basic") && r.cred.User != "" && !r.basic:
		r.basic, r.bearer = true, ""
		return nil
	case strings.EqualFold(kind, "Bearer"):
		token, err := r.token(ctx, values)
		r.bearer = token
		return err
	}
	return fmt.Errorf("%w: %s wants to know who asks for %s", ErrRefused, r.ref.Host, r.ref.Repository)
}

// token asks the token server. The caller holds r.mu.
func (r *Repo) token(ctx context.Context, values map[string]string) (string, error) {
	realm, err := url.Parse(values["realm"])
	if err != nil || realm.Host == "" || realm.Scheme != "https" && realm.Scheme != r.ref.Scheme {
		return "", fmt.Errorf("%w: %s names no usable token server", ErrInvalid, r.ref.Host)
	}
	q := realm.Query()
	if s := values["service"]; s != "" {
		q.Set("service", s)
	}
	q.Set("scope", "repository:"+r.ref.Repository+":pull")
	realm.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if r.cred.User != "" {
		req.SetBasicAuth(r.cred.User, r.cred.Password)
	}
	resp, err := r.client.http.Do(req)
	if err != nil {
		return "", r.away(err)
	}
	defer drain(resp)
	switch code := resp.StatusCode; {
	case code == http.StatusTooManyRequests, code >= 500:
		return "", fmt.Errorf("%w: the token server of %s answered %d", ErrUnavailable, r.ref.Host, code)
	case code != http.StatusOK:
		return "", fmt.Errorf("%w: the token server of %s answered %s", ErrRefused, r.ref.Host, strconv.Itoa(code))
	}
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxToken)).Decode(&answer); err != nil {
		return "", fmt.Errorf("%w: the token server of %s sends no token", ErrUnavailable, r.ref.Host)
	}
	if answer.Token == "" {
		answer.Token = answer.AccessToken
	}
	return answer.Token, nil
}

// parseChallenge takes `Bearer realm="…",service="…"` apart.
func parseChallenge(s string) (kind string, values map[string]string) {
	kind, rest, _ := strings.Cut(strings.TrimSpace(s), " ")
	values = map[string]string{}
	for rest != "" {
		name, after, ok := strings.Cut(rest, "=")
		if !ok {
			break
		}
		var value string
		if quoted, is := strings.CutPrefix(after, `"`); is {
			value, rest, _ = strings.Cut(quoted, `"`)
			_, rest, _ = strings.Cut(rest, ",")
		} else {
			value, rest, _ = strings.Cut(after, ",")
		}
		values[strings.ToLower(strings.Trim(name, " ,"))] = strings.TrimSpace(value)
	}
	return kind, values
}
