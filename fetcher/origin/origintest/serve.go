package origintest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// note keeps a request for the test to look at.
func (r *Registry) note(req *http.Request, kind string) *Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	q := &Request{Kind: kind, Method: req.Method, URL: req.URL.RequestURI(), Proto: req.Proto, Header: req.Header.Clone()}
	r.requests = append(r.requests, q)
	return q
}

func (r *Registry) update(q *Request, status int, sent int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if status != 0 {
		q.Status = status
	}
	q.Sent += sent
}

// reply answers with an error as registries do.
func (r *Registry) reply(w http.ResponseWriter, q *Request, status int, code string) {
	r.update(q, status, 0)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": strings.ToLower(code)}}}) //nolint:errcheck // the client is gone
}

func (r *Registry) serveRegistry(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == tokenPath {
		r.serveToken(w, req, r.note(req, "token"))
		return
	}
	rest, ok := strings.CutPrefix(req.URL.Path, r.opts.Root+"/")
	repo, kind, ref := split(rest)
	q := r.note(req, kind)
	for name, value := range r.opts.Header {
		if req.Header.Get(name) != value {
			r.reply(w, q, http.StatusBadRequest, "HEADER MISSING")
			return
		}
	}
	switch {
	case !ok:
		r.reply(w, q, http.StatusNotFound, "NOT FOUND")
	case !r.allowed(w, req, q, repo):
	case req.Method == http.MethodPost, req.Method == http.MethodPut:
		r.servePush(w, req, q, repo, ref)
	case kind == "referrers":
		r.serveReferrers(w, req, q, repo, digest.Digest(ref))
	case kind == "other":
		r.update(q, http.StatusOK, 0)
		fmt.Fprintln(w, "{}")
	case kind == "blob" && r.store != nil:
		r.redirect(w, req, q, repo, ref)
	default:
		r.serveContent(w, req, q, repo, r.resolve(repo, ref))
	}
}

// split takes "a/b/blobs/sha256:…" apart.
func split(path string) (repo, kind, ref string) {
	if repo, id, ok := strings.Cut(path, "/blobs/uploads/"); ok {
		return repo, "upload", id
	}
	for part, kind := range map[string]string{"/blobs/": "blob", "/manifests/": "manifest", "/referrers/": "referrers"} {
		if i := strings.LastIndex(path, part); i > 0 {
			return path[:i], kind, path[i+len(part):]
		}
	}
	return "", "other", ""
}

func (r *Registry) resolve(repo, ref string) digest.Digest {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d, ok := r.tags[repo+":"+ref]; ok {
		return d
	}
	return digest.Digest(ref)
}

func (r *Registry) content(repo string, d digest.Digest) (content, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.blobs[repo][d]
	return c, ok
}

// redirect sends the reader of a blob to the store, with a signed link.
func (r *Registry) redirect(w http.ResponseWriter, req *http.Request, q *Request, repo, ref string) {
	d := digest.Digest(ref)
	if _, ok := r.content(repo, d); !ok {
		r.reply(w, q, http.StatusNotFound, "BLOB_UNKNOWN")
		return
	}
	r.mu.Lock()
	r.serial++
	sig := fmt.Sprintf("s%d", r.serial)
	r.links[sig] = true
	q.Digest, q.Status = d, http.StatusTemporaryRedirect
	r.mu.Unlock()
	query := url.Values{"repo": {repo}, "digest": {ref}, "signature": {sig}}
	http.Redirect(w, req, r.store.URL+"/data?"+query.Encode(), http.StatusTemporaryRedirect)
}

// ExpireLinks makes the blob store refuse the links given so far.
func (r *Registry) ExpireLinks() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.links)
}

func (r *Registry) serveStore(w http.ResponseWriter, req *http.Request) {
	q := r.note(req, "store")
	query := req.URL.Query()
	r.mu.Lock()
	good := r.links[query.Get("signature")]
	r.mu.Unlock()
	switch {
	case req.Header.Get("Authorization") != "":
		r.reply(w, q, http.StatusBadRequest, "ONLY ONE AUTH MECHANISM ALLOWED")
	case !good:
		r.reply(w, q, http.StatusForbidden, "REQUEST HAS EXPIRED")
	default:
		r.serveContent(w, req, q, query.Get("repo"), digest.Digest(query.Get("digest")))
	}
}

// serveContent answers with a blob or manifest, or as its fault says.
func (r *Registry) serveContent(w http.ResponseWriter, req *http.Request, q *Request, repo string, d digest.Digest) {
	r.mu.Lock()
	q.Digest = d
	r.mu.Unlock()
	c, ok := r.content(repo, d)
	f, healed := r.fault(d)
	if f.Hang {
		hang(req, healed)
	}
	switch {
	case f.Status != 0:
		if f.RetryAfter != "" {
			w.Header().Set("Retry-After", f.RetryAfter)
		}
		r.reply(w, q, f.Status, "FAULT")
		return
	case !ok, (c.mediaType == "") == (q.Kind == "manifest"):
		r.reply(w, q, http.StatusNotFound, "UNKNOWN")
		return
	}
	size := int64(len(c.data))
	first, last, ranged := span(req.Header.Get("Range"), size)
	if f.IgnoreRange {
		first, last, ranged = 0, size-1, false
	}
	if first > last && size > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		r.reply(w, q, http.StatusRequestedRangeNotSatisfiable, "RANGE")
		return
	}
	w.Header().Set("Content-Type", cmp.Or(c.mediaType, "application/octet-stream"))
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Content-Length", strconv.FormatInt(last-first+1, 10))
	status := http.StatusOK
	if ranged {
		status = http.StatusPartialContent
		setRange(w.Header(), f.ContentRange, fmt.Sprintf("bytes %d-%d/%d", first, last, size))
	}
	r.update(q, status, 0)
	w.WriteHeader(status)
	if req.Method != http.MethodHead {
		r.send(w, req, q, c.data[first:last+1], f, healed)
	}
}

func setRange(h http.Header, instead, right string) {
	switch instead {
	case "":
		h.Set("Content-Range", right)
	case "-":
	default:
		h.Set("Content-Range", instead)
	}
}

// span reads a Range header of one range.
func span(header string, size int64) (first, last int64, ranged bool) {
	from, to, ok := strings.Cut(strings.TrimPrefix(header, "bytes="), "-")
	first, err := strconv.ParseInt(from, 10, 64)
	if !ok || err != nil {
		return 0, size - 1, false
	}
	last, err = strconv.ParseInt(to, 10, 64)
	if err != nil || last >= size {
		last = size - 1
	}
	return first, last, true
}

// send sends the body, in pieces, as far as the fault lets it.
func (r *Registry) send(w http.ResponseWriter, req *http.Request, q *Request, data []byte, f Fault, healed <-chan struct{}) {
	if f.Corrupt {
		data = flip(data)
	}
	flush := http.NewResponseController(w).Flush
	const piece = 32 << 10
	for sent := int64(0); sent < int64(len(data)); {
		n := min(int64(len(data))-sent, piece)
		if f.CutAfter > 0 {
			n = min(n, f.CutAfter-sent)
		}
		if f.HangAfter > 0 && sent < f.HangAfter {
			n = min(n, f.HangAfter-sent)
		}
		if n == 0 {
			flush() //nolint:errcheck // the connection ends anyway
			panic(http.ErrAbortHandler)
		}
		if f.HangAfter > 0 && sent == f.HangAfter {
			flush() //nolint:errcheck // the client finds out
			hang(req, healed)
		}
		if f.Delay > 0 {
			flush() //nolint:errcheck // the client finds out
			select {
			case <-time.After(f.Delay):
			case <-healed:
			case <-req.Context().Done():
			}
		}
		// Before the client has it: a test may look as soon as that is so. An error
		// does not tell that it has not: a client of HTTP/2 that has all it wants resets
		// the stream, which may end the very Write that brought the last of it.
		r.update(q, 0, n)
		if _, err := w.Write(data[sent : sent+n]); err != nil {
			return
		}
		sent += n
	}
}

// flip returns other bytes than those given.
func flip(data []byte) []byte {
	out := make([]byte, len(data))
	for i, b := range data {
		out[i] = ^b
	}
	return out
}
