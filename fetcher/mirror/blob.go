package mirror

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

const (
	// urgentMost is the length up to which a range is taken for one that a
	// process waits for; more is a download.
	urgentMost = 8 << 20
	// learnedLife is how long what a client logs in with serves this host's own
	// requests. Registries' tokens live about as long.
	learnedLife = 10 * time.Minute
)

// blob answers a GET of a blob.
func (m *Mirror) blob(a *answer, r *http.Request, t target) error {
	from, err := priority(r.Header.Get("X-Dragonfly-Priority"))
	if err != nil {
		return err
	}
	size, how, ok, err := m.allowed(r, t)
	if err != nil {
		return err
	}
	if !ok {
		return m.pass(a, r, t)
	}
	checked := time.Since(a.began)
	h := a.Header()
	h.Set("X-Dragonfly-Task-ID", t.digest.Encoded())
	if tag := etag(t); strings.Contains(r.Header.Get("If-None-Match"), tag) {
		h.Set("Etag", tag)
		a.WriteHeader(http.StatusNotModified)
		return nil
	}
	spans, err := parseRange(ranged(r, t), size)
	if err != nil {
		return err
	}
	m.learn(t.at(), r.Header.Get("Authorization"))
	b, err := m.cfg.Fetcher.Blob(fetcher.Ref{Digest: t.digest, Size: size, Repo: t.at()})
	if err != nil {
		m.log.Warn("a client's blob is passed through", "blob", t.digest, "repo", t.at().String(), "err", err)
		return m.pass(a, r, t)
	}
	defer b.Close()
	d := &delivery{m: m, a: a, t: t, blob: b, from: from, spans: spans, before: b.Stats(), timing: fmt.Sprintf("auth;desc=%q;dur=%s", how, millis(checked))}
	err = d.open(r.Context())
	if err == nil {
		defer d.close()
		err = d.first()
	}
	switch {
	case err == nil:
		return d.send()
	case r.Context().Err() != nil:
		return err
	case from == fetcher.PeersOnly:
		return refuse(http.StatusNotFound, codeBlobUnknown, "no peer has it, and X-Dragonfly-Priority 2 wants no other source: %v", err)
	case passable(err):
		m.log.Warn("a client's blob is passed through", "blob", t.digest, "repo", t.at().String(), "err", err)
		return m.pass(a, r, t)
	}
	return err
}

// passable reports whether an error of the fetcher's is one that the registry may
// not have for the client itself.
func passable(err error) bool {
	return errors.Is(err, origin.ErrUnauthorized) || errors.Is(err, origin.ErrNotFound) || errors.Is(err, fetcher.ErrSize) || errors.Is(err, fetcher.ErrFull)
}

// priority reads Dragonfly's header.
func priority(header string) (fetcher.From, error) {
	switch header {
	case "", "0", "4", "5", "6": // seeds first, which the schedulers see to
		return fetcher.Anywhere, nil
	case "3":
		return fetcher.OriginOnly, nil
	case "2":
		return fetcher.PeersOnly, nil
	case "1":
		return 0, refuse(http.StatusForbidden, codeDenied, "X-Dragonfly-Priority 1 forbids the download")
	}
	return 0, refuse(http.StatusBadRequest, codeUnsupported, "X-Dragonfly-Priority %.20q is not a number from 0 to 6", header)
}

func etag(t target) string { return `"` + t.digest.String() + `"` }

// ranged returns the Range header if it holds for this blob.
func ranged(r *http.Request, t target) string {
	if c := r.Header.Get("If-Range"); c != "" && c != etag(t) {
		return ""
	}
	return r.Header.Get("Range")
}

// learn lets this host's own requests for a repository log in as the client did.
// That is kept in memory only.
func (m *Mirror) learn(repo origin.Repo, authorization string) {
	c := origin.Credential{Source: "a client of the mirror"}
	scheme, value, _ := strings.Cut(authorization, " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		c.RegistryToken = strings.TrimSpace(value)
	case strings.EqualFold(scheme, "Basic"):
		pair, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value))
		if err != nil {
			return
		}
		c.Username, c.Password, _ = strings.Cut(string(pair), ":")
	}
	m.cfg.Learned.Add(repo, c, time.Now().Add(learnedLife)) // an empty one counts for nothing
}

func millis(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 1, 64)
}

// reader opens bytes of the blob.
func (d *delivery) reader(ctx context.Context, s span) (io.ReadCloser, error) {
	p := fetcher.Prefetch
	if s.n < d.blob.Size() && s.n <= urgentMost {
		p = fetcher.OnDemand
	}
	return d.blob.RangeFrom(ctx, s.off, s.n, p, d.from)
}
