package web

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// Page is a route for people with a browser: it answers with what is to be
// shown. Who they are is known from their session alone, so that no credentials
// which a browser sends by itself can change anything.
type Page struct {
	Method, Path string
	Role         store.Role // at least; "": anybody
	First        bool       // even before a first password was changed
	Live         bool       // it goes on until the visitor leaves, or the server stops
	Do           func(*Visit) error
}

// Pages are all of them, and how they show that something went wrong.
type Pages interface {
	Pages() []Page
	// Fail answers with an error; v.User may be nobody.
	Fail(v *Visit, e *Error)
}

// Visit is one request for a page.
type Visit struct {
	*http.Request
	W       http.ResponseWriter
	User    store.User // zero: nobody
	Session string     // hash of the session; "": there is none
	Secure  bool       // the browser uses https
	remote  string
	server  *Server
}

// By says who makes a change.
func (v *Visit) By() store.By { return store.By{Actor: v.User.Name, Remote: v.remote} }

// Begin has the browser keep a session.
func (v *Visit) Begin(session string) {
	http.SetCookie(v.W, v.server.cookie(session, v.server.Accounts.Session))
}

// End has the browser forget its session.
func (v *Visit) End() { http.SetCookie(v.W, v.server.cookie("", -time.Second)) }

// pageRoutes are the routes of the pages.
func (s *Server) pageRoutes() (all []route) {
	if s.Pages == nil {
		return nil
	}
	for _, p := range s.Pages.Pages() {
		all = append(all, route{
			method: p.Method, path: p.Path, access: access{public: p.Role == "", role: p.Role, locked: p.First}, view: &p,
			do: func(c *call) (any, error) { return nil, s.show(c, p) },
		})
	}
	return all
}

func (s *Server) visit(c *call) *Visit {
	return &Visit{Request: c.Request, W: c.w, User: c.user, Session: c.session, Secure: s.Secure, remote: c.remote, server: s}
}

// show has a page be shown.
func (s *Server) show(c *call, p Page) error {
	v := s.visit(c)
	if p.Live {
		ctx, cancel := context.WithCancel(c.arrived)
		defer cancel()
		defer context.AfterFunc(s.stopping, cancel)()
		v.Request = v.WithContext(ctx)
	}
	return p.Do(v)
}

// forPeople reports whether an error is to be shown to somebody with a browser:
// registries take an answer with a page for success.
func (s *Server) forPeople(c *call) bool {
	if s.Pages == nil || c.route != nil {
		return c.route != nil && c.route.view != nil
	}
	return !strings.HasPrefix(c.URL.Path, "/api/") && !strings.HasPrefix(c.URL.Path, "/oapi/") &&
		strings.Contains(c.Header.Get("Accept"), "text/html")
}
