package mirror

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// pass sends a request on to its registry and the answer back, and notes what
// that says of what the client may read.
func (m *Mirror) pass(a *answer, r *http.Request, t target) error {
	q := origin.Request{Method: r.Method, Path: t.path, Query: t.query, Header: cleaned(r.Header)}
	if r.ContentLength != 0 {
		q.Body, q.Length = r.Body, r.ContentLength
	}
	resp, err := m.cfg.Registries.Pass(r.Context(), t.registry, q)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK && t.kind == blob && r.Method == http.MethodHead && resp.ContentLength >= 0 {
		m.grants.add(identity(r.Header), t.at(), t.digest, resp.ContentLength)
	}
	keepWithin(resp, r, t)
	body := io.Reader(resp.Body)
	if t.kind == manifest && r.Method == http.MethodGet && resp.StatusCode == http.StatusOK {
		if body, err = m.noted(r, t, resp); err != nil {
			return err
		}
	}
	return relay(a, resp, body)
}

// noted reads a manifest and remembers which blobs it gives the client leave to
// read, before the client can ask for them. The result is the answer's body.
func (m *Mirror) noted(r *http.Request, t target, resp *http.Response) (io.Reader, error) {
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return nil, &origin.UnavailableError{Err: err}
	}
	if len(data) > maxManifest {
		return io.MultiReader(bytes.NewReader(data), resp.Body), nil
	}
	if d := digest.Digest(t.ref); d.Validate() == nil && d.Algorithm().FromBytes(data) != d {
		return nil, refuse(http.StatusBadGateway, codeDigestInvalid, "the registry's manifest does not match its digest %s", d)
	}
	who := identity(r.Header)
	for _, b := range blobsOf(data) {
		m.grants.add(who, t.at(), b.Digest, b.Size)
	}
	return bytes.NewReader(data), nil
}

// relay sends a server's answer to the client.
func relay(a *answer, resp *http.Response, body io.Reader) error {
	h := a.Header()
	for k, values := range cleaned(resp.Header) {
		h[k] = values
	}
	if resp.ContentLength >= 0 {
		h.Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
	a.WriteHeader(resp.StatusCode)
	buf := buffers.Get().(*[bufSize]byte)
	defer buffers.Put(buf)
	_, err := io.CopyBuffer(struct{ io.Writer }{a}, struct{ io.Reader }{body}, buf[:])
	return err
}

// keepWithin makes a registry's answer to a write lead back to the mirror, with
// the registry's name, where it leads to the registry itself.
func keepWithin(resp *http.Response, r *http.Request, t target) {
	at, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || resp.Request == nil || resp.Header.Get("Location") == "" {
		return
	}
	base := resp.Request.URL
	at = base.ResolveReference(at)
	if _, rest, ok := strings.Cut(at.Path, "/v2/"); ok && at.Scheme == base.Scheme && at.Host == base.Host {
		query := at.Query()
		if r.URL.Query().Has("ns") {
			query.Set("ns", t.registry)
		}
		at = &url.URL{Path: "/v2/" + rest, RawQuery: query.Encode()}
	}
	resp.Header.Set("Location", at.String())
}

// hopByHop are headers about one connection only.
var hopByHop = []string{"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// cleaned returns headers without those that are about this connection, or for
// this mirror.
func cleaned(from http.Header) http.Header {
	h := from.Clone()
	for _, list := range from.Values("Connection") {
		for name := range strings.SplitSeq(list, ",") {
			h.Del(textproto.TrimString(name))
		}
	}
	for _, name := range hopByHop {
		h.Del(name)
	}
	for name := range h {
		if strings.HasPrefix(name, "X-Dragonfly-") {
			delete(h, name)
		}
	}
	h.Del("Accept-Encoding") // manifests are read here, and ranges are of plain bytes
	return h
}

// allowed returns the size of a blob that the registry gives to this client. It
// is asked unless it said so lately. Not ok: what the registry says to the
// client's own request is the answer.
func (m *Mirror) allowed(r *http.Request, t target) (size int64, how string, ok bool, err error) {
	who := identity(r.Header)
	if size, ok = m.grants.size(who, t.at(), t.digest); ok {
		return size, "known", true, nil
	}
	header := cleaned(r.Header)
	for _, name := range []string{"Range", "If-Range", "If-None-Match", "If-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		header.Del(name)
	}
	resp, err := m.cfg.Registries.Pass(r.Context(), t.registry, origin.Request{Method: http.MethodHead, Path: t.path, Query: t.query, Header: header})
	if err != nil {
		var down *origin.UnavailableError
		if errors.As(err, &down) || r.Context().Err() != nil {
			return 0, "", false, err
		}
		return 0, "", false, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ContentLength < 0 {
		return 0, "", false, nil
	}
	m.grants.add(who, t.at(), t.digest, resp.ContentLength)
	return resp.ContentLength, "asked", true, nil
}
