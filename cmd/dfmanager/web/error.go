package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/account"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// Error is what a client is told of what went wrong.
type Error struct {
	Status     int               `json:"-"`
	Code       string            `json:"code"`             // for programs
	Message    string            `json:"message"`          // for people
	Fields     map[string]string `json:"fields,omitempty"` // what is wrong with which
	RetryAfter time.Duration     `json:"-"`
}

// Error is the message.
func (e *Error) Error() string {
	return fmt.Sprintf("%d %s: %s %v", e.Status, e.Code, e.Message, e.Fields)
}

// problem is the body of every answer that is not a success.
type problem struct {
	Error *Error `json:"error"`
}

// invalid is the error of fields that are wrong; nil if there are none.
func invalid(fields map[string]string) error {
	return field.Errors(fields).Err()
}

// fail answers with an error. What the client can do nothing about goes to the
// log, and not to the client.
func (s *Server) fail(c *call, err error) {
	e := told(err)
	if e.Status >= 500 {
		s.Log.Error("request", "method", c.Method, "route", c.name(), "status", e.Status, "err", err)
	}
	if e.RetryAfter > 0 {
		seconds := (e.RetryAfter + time.Second - 1) / time.Second
		c.w.Header().Set("Retry-After", strconv.Itoa(int(seconds)))
	}
	if s.forPeople(c) {
		s.Pages.Fail(s.visit(c), e)
		return
	}
	if e.Status == http.StatusUnauthorized {
		c.w.Header().Set("WWW-Authenticate", `Bearer realm="dfmanager"`)
	}
	c.json(e.Status, problem{e})
}

// told is what of an error may be told to everybody.
func told(err error) *Error {
	var e *Error
	var wrong field.Errors
	var wait *account.WaitError
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &wrong):
		return &Error{Status: http.StatusBadRequest, Code: "invalid", Message: "some values are not what they should be", Fields: wrong}
	case errors.As(err, &wait):
		return &Error{Status: http.StatusTooManyRequests, Code: "too_many_failures", Message: "too many failed sign-ins; wait", RetryAfter: wait.For}
	case errors.Is(err, account.ErrCredentials):
		return &Error{Status: http.StatusUnauthorized, Code: "unauthorized", Message: account.ErrCredentials.Error()}
	case errors.Is(err, store.ErrFull):
		return &Error{Status: http.StatusTooManyRequests, Code: "too_many", Message: err.Error(), RetryAfter: 30 * time.Second}
	case errors.Is(err, store.ErrNotFound):
		return &Error{Status: http.StatusNotFound, Code: "not_found", Message: "there is no such thing"}
	case errors.Is(err, store.ErrExists):
		return &Error{Status: http.StatusConflict, Code: "exists", Message: "this name is taken"}
	case errors.Is(err, store.ErrLastRoot), errors.Is(err, store.ErrState):
		return &Error{Status: http.StatusConflict, Code: "conflict", Message: err.Error()}
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &Error{Status: http.StatusServiceUnavailable, Code: "unavailable", Message: "the database does not answer; try again", RetryAfter: 2 * time.Second}
	}
	return &Error{Status: http.StatusInternalServerError, Code: "internal", Message: "something went wrong here; the log says what"}
}
