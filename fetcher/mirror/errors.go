package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// Error codes of the distribution specification, and two that registries use
// besides.
const (
	codeBlobUnknown   = "BLOB_UNKNOWN"
	codeDenied        = "DENIED"
	codeDigestInvalid = "DIGEST_INVALID"
	codeNameInvalid   = "NAME_INVALID"
	codeRangeInvalid  = "RANGE_INVALID"
	codeTooMany       = "TOOMANYREQUESTS"
	codeUnauthorized  = "UNAUTHORIZED"
	codeUnavailable   = "UNAVAILABLE"
	codeUnknown       = "UNKNOWN"
	codeUnsupported   = "UNSUPPORTED"
)

// refusal is an answer that is not what the client asked for.
type refusal struct {
	status     int
	code       string
	message    string
	retryAfter time.Duration // 0: the client is not told
	size       int64         // of the blob whose range cannot be had; with codeRangeInvalid
}

func (r *refusal) Error() string { return r.message }

func refuse(status int, code, format string, args ...any) *refusal {
	return &refusal{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

// refusalOf says how a client is told of err.
func refusalOf(err error) *refusal {
	var known *refusal
	var down *origin.UnavailableError
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, origin.ErrAddress):
		return refuse(http.StatusForbidden, codeDenied, "%v", err)
	case errors.Is(err, origin.ErrNotFound):
		return refuse(http.StatusNotFound, codeBlobUnknown, "%v", err)
	case errors.Is(err, origin.ErrUnauthorized):
		return refuse(http.StatusUnauthorized, codeUnauthorized, "%v", err)
	case errors.Is(err, fetcher.ErrDigest):
		return refuse(http.StatusBadGateway, codeDigestInvalid, "%v", err)
	case errors.As(err, &down) && down.Status == http.StatusTooManyRequests:
		r := refuse(http.StatusTooManyRequests, codeTooMany, "%v", err)
		r.retryAfter = down.RetryAfter
		return r
	case errors.Is(err, fetcher.ErrUnavailable):
		return refuse(http.StatusServiceUnavailable, codeUnavailable, "%v", err)
	case errors.As(err, &down):
		r := refuse(http.StatusBadGateway, codeUnavailable, "%v", err)
		r.retryAfter = down.RetryAfter
		return r
	}
	return refuse(http.StatusBadGateway, codeUnknown, "%v", err)
}

// write answers in the form that clients of registries understand.
func (r *refusal) write(w http.ResponseWriter) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	body, _ := json.Marshal(map[string][]entry{"errors": {{r.code, r.message}}}) // strings only
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	h.Set("X-Content-Type-Options", "nosniff")
	if r.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(r.retryAfter.Round(time.Second)/time.Second)))
	}
	if r.code == codeRangeInvalid {
		h.Set("Content-Range", fmt.Sprintf("bytes */%d", r.size))
	}
	w.WriteHeader(r.status)
	_, _ = w.Write(append(body, '\n')) // a client that is gone needs no answer
}
