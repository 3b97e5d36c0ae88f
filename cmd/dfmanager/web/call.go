package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// call is one request.
type call struct {
	*http.Request
	w       *answer
	route   *route          // nil: there is none
	remote  string          // address
	arrived context.Context // ends when who asks has left

	user    store.User // zero: nobody
	open    bool       // nobody, from an address that is open to registries
	session string     // hash of the session; "": it is a token or a password that speaks
	scopes  []string   // of the token
}

// answer remembers the status.
type answer struct {
	http.ResponseWriter
	status int
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// Write is http.ResponseWriter's.
func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	return a.ResponseWriter.Write(p)
}

// WriteHeader is http.ResponseWriter's.
func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

func (c *call) name() string {
	if c.route == nil {
		return "none"
	}
	return c.route.path
}

// by says who makes a change.
func (c *call) by() store.By { return store.By{Actor: c.user.Name, Remote: c.remote} }

// raw is JSON as it is.
type raw []byte

// reply sends what a handler returned.
func (c *call) reply(out any) {
	status := c.route.status
	if status == 0 {
		status = http.StatusOK
	}
	if out == nil {
		c.w.WriteHeader(http.StatusNoContent)
		return
	}
	c.json(status, out)
}

func (c *call) json(status int, out any) {
	data, ok := out.(raw)
	if !ok {
		var err error
		if data, err = json.Marshal(out); err != nil {
			panic(err) // of a type of ours
		}
		data = append(data, '\n')
	}
	c.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	c.w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	c.w.WriteHeader(status)
	_, _ = c.w.Write(data) // who has left does not hear it
}

// body reads the request's body, which must be one JSON value with no key that
// is not known.
func body[T any](c *call) (v T, err error) {
	if kind, _, err := mime.ParseMediaType(c.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return v, &Error{Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type", Message: "the body must be application/json"}
	}
	d := json.NewDecoder(c.Body)
	d.DisallowUnknownFields()
	return v, decode(d, &v)
}

func decode(d *json.Decoder, v any) error {
	err := d.Decode(v)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is more behind the JSON value")
		}
	}
	var large *http.MaxBytesError
	var kind *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &large):
		return &Error{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Message: fmt.Sprintf("the body must have %d bytes at most", maxBody)}
	case errors.As(err, &kind):
		return &Error{Status: http.StatusBadRequest, Code: "invalid", Message: "the body is not what it should be",
			Fields: map[string]string{kind.Field: "must not be " + article(kind.Value)}}
	case errors.Is(err, io.EOF):
		return &Error{Status: http.StatusBadRequest, Code: "invalid", Message: "the body is empty"}
	default:
		return &Error{Status: http.StatusBadRequest, Code: "invalid", Message: "the body is not what it should be: " + strings.TrimPrefix(err.Error(), "json: ")}
	}
}

func article(what string) string {
	if strings.HasPrefix(what, "array") || strings.HasPrefix(what, "object") {
		return "an " + what
	}
	return "a " + what
}

// id is the number in the path. What is not one does not exist.
func (c *call) id(name string) (int64, error) {
	n, err := strconv.ParseInt(c.PathValue(name), 10, 64)
	if err != nil || n <= 0 {
		return 0, store.ErrNotFound
	}
	return n, nil
}

// list is a page of a list. Next is what to say as "after" for the next page; 0:
// this was the last.
type list[T any] struct {
	Items []T   `json:"items"`
	Next  int64 `json:"next"`
}

const defaultPage, maxPage = 50, 200

// part is which part of a list is asked for.
func (c *call) part() (store.Page, error) {
	p := store.Page{Limit: defaultPage}
	q := c.URL.Query()
	fields := map[string]string{}
	if s := q.Get("after"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			fields["after"] = "must be what an earlier answer said as next"
		}
		p.After = n
	}
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxPage {
			fields["limit"] = fmt.Sprintf("must be a number from 1 to %d", maxPage)
		}
		p.Limit = n
	}
	return p, invalid(fields)
}

// page makes a list of what the store gave for p.
func page[T, U any](p store.Page, all []T, id func(T) int64, show func(T) U) list[U] {
	l := list[U]{Items: make([]U, len(all))}
	for i, t := range all {
		l.Items[i] = show(t)
	}
	if len(all) == p.Limit {
		l.Next = id(all[len(all)-1])
	}
	return l
}

// when is a time as it is shown; nil: never.
func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
