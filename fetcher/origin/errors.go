package origin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
)

var (
	// ErrNotFound means that the registry does not have the blob or manifest
	// in that repository. Asking again does not help.
	ErrNotFound = errors.New("not found")

	// ErrUnauthorized means that none of the credentials, nor anonymous
	// access, may read the repository. Asking again does not help until there
	// are other credentials.
	ErrUnauthorized = errors.New("not authorized")

	// ErrDigest means that what the registry served is not what its digest
	// says. Another source may have the right bytes.
	ErrDigest = errors.New("content does not match its digest")

	// ErrResponse means that the registry gave an answer that cannot be used,
	// such as another range than the one asked for. Another source may do
	// better; asking this one again at once does not.
	ErrResponse = errors.New("unusable answer")
)

// UnavailableError means that the registry could not be reached, or said that
// it cannot answer now (429, 5xx). Asking again later may help.
type UnavailableError struct {
	RetryAfter time.Duration // how long the registry asks to wait; 0: it did not say
	Status     int           // HTTP status; 0: no answer came
	Err        error         // why, never nil
}

func (e *UnavailableError) Error() string {
	if e.RetryAfter > 0 {
		return fmt.Sprintf("unavailable (try again in %s): %v", e.RetryAfter.Round(time.Second), e.Err)
	}
	return "unavailable: " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.Err }

// maxRetryAfter bounds what a registry can ask us to wait.
const maxRetryAfter = time.Hour

// statusError turns an answer that is not a success into an error and closes
// its body. It is not asked for 401, nor for answers that redirect.
func statusError(resp *http.Response, now time.Time) error {
	text := errorText(resp)
	err := fmt.Errorf("status %d%s", resp.StatusCode, text)
	switch code := resp.StatusCode; {
	case code == http.StatusNotFound || code == http.StatusGone:
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	case code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code == http.StatusTooEarly, code >= 500:
		return &UnavailableError{RetryAfter: retryAfter(resp.Header.Get("Retry-After"), now), Status: code, Err: err}
	default:
		return fmt.Errorf("%w: %w", ErrResponse, err)
	}
}

// retryAfter reads a Retry-After header: seconds, or an HTTP date.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if s, err := strconv.ParseInt(value, 10, 64); err == nil {
		return min(max(time.Duration(min(s, int64(maxRetryAfter/time.Second)))*time.Second, 0), maxRetryAfter)
	}
	if t, err := http.ParseTime(value); err == nil {
		return min(max(t.Sub(now), 0), maxRetryAfter)
	}
	return 0
}

const (
	maxErrorText  = 300
	errorTextTime = 3 * time.Second // for its body to come
)

// errorText returns what a registry says in the body of an error, shortened
// and on one line, with a separator before it; "" if it says nothing. It
// closes the body.
func errorText(resp *http.Response) string {
	defer resp.Body.Close()
	hurry := time.AfterFunc(errorTextTime, func() { resp.Body.Close() })
	defer hurry.Stop()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10)) // what came before an error is good enough
	var doc struct {
		Errors  []struct{ Code, Message string }
		Message string
		Details string
	}
	text := ""
	if json.Unmarshal(body, &doc) == nil {
		for _, e := range doc.Errors {
			text += ", " + strings.TrimSpace(e.Code+" "+e.Message)
		}
		if text == "" {
			text = strings.TrimSpace(doc.Message + " " + doc.Details)
		}
	} else if t := resp.Header.Get("Content-Type"); strings.HasPrefix(t, "text/plain") || t == "" {
		text = string(body)
	}
	return prefixed(oneLine(strings.TrimPrefix(text, ", ")))
}

func prefixed(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}

// oneLine makes text of others fit for an error message.
func oneLine(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	if len(s) > maxErrorText {
		s = strings.ToValidUTF8(s[:maxErrorText], "") + "…"
	}
	return s
}

// netError classifies what http.Client returned: the caller's own end stays
// as it is, anything else is a network that may heal. Addresses are left out,
// because signed ones are secrets.
func netError(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var known *UnavailableError
	if errors.As(err, &known) || errors.Is(err, ErrResponse) {
		return err
	}
	return &UnavailableError{Err: err}
}
