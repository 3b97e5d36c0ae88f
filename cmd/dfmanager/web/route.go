package web

import (
	"net/http"
	"strings"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/auth"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// route is a method and path, who may use it, and what it does.
type route struct {
	method, path string
	access       access
	summary      string
	in           any  // zero value of what the body must be; nil: there is none
	out          any  // zero value of the answer; nil: there is none
	page         bool // it is a list, of which parts are asked for
	query        []string
	status       int   // of success; 0: 200
	view         *Page // it is shown to people, and answers by itself
	do           func(*call) (any, error)
}

// access is who may use a route.
type access struct {
	public bool       // anybody
	role   store.Role // at least
	scope  auth.Scope // that a token must have; "": tokens and passwords in headers are refused
	locked bool       // even before a first password was changed
	open   bool       // nobody has to say who they are at the addresses that are open
}

var (
	public    = access{public: true}
	onlyHere  = access{role: store.Guest} // with a browser's session
	firstSign = access{role: store.Guest, locked: true}
	look      = access{role: store.Guest, scope: auth.Read}
	rootOnly  = access{role: store.Root, scope: auth.Admin}
)

// check says whether the caller may.
func (a access) check(c *call) error {
	switch {
	case a.public, a.open && c.open:
		return nil
	case c.user.ID == 0:
		return &Error{Status: http.StatusUnauthorized, Code: "unauthorized", Message: "sign in, or send a token"}
	case c.user.MustChange && !a.locked:
		return &Error{Status: http.StatusForbidden, Code: "password_change_required", Message: "change the first password before anything else"}
	case !auth.AtLeast(c.user.Role, a.role):
		return &Error{Status: http.StatusForbidden, Code: "forbidden", Message: "this takes the role " + string(a.role) + " or a higher one"}
	case a.scope == "" && c.session == "":
		return &Error{Status: http.StatusForbidden, Code: "session_required", Message: "this takes a signed-in session; tokens are not enough"}
	case a.scope != "" && c.session == "" && !auth.Allows(c.scopes, a.scope):
		return &Error{Status: http.StatusForbidden, Code: "scope_required", Message: "this takes a token with scope " + string(a.scope)}
	}
	return nil
}

// parameters are the names in the path.
func (r *route) parameters() (names []string) {
	for part := range strings.SplitSeq(r.path, "/") {
		if strings.HasPrefix(part, "{") {
			names = append(names, strings.Trim(part, "{}"))
		}
	}
	return names
}

// table is all there is.
func (s *Server) table() []route {
	var all []route
	for _, part := range [][]route{s.basicRoutes(), s.sessionRoutes(), s.userRoutes(), s.tokenRoutes(), s.jobRoutes(), s.scheduleRoutes(), s.clusterRoutes(), s.contentRoutes(), s.registryRoutes()} {
		all = append(all, part...)
	}
	return all
}

func (s *Server) basicRoutes() []route {
	return []route{
		{method: "GET", path: "/healthz", access: public, summary: "Whether the process lives", out: state{}, do: func(*call) (any, error) { return state{"ok"}, nil }},
		{method: "GET", path: "/readyz", access: public, summary: "Whether it can answer: the database is there", out: state{}, do: s.ready},
		{method: "GET", path: "/api/v1/openapi.json", access: look, summary: "This document", out: raw(nil), do: func(*call) (any, error) { return raw(s.openAPI), nil }},
		{method: "GET", path: "/api/v1/audit", access: rootOnly, summary: "Who changed what, newest first", out: list[entry]{}, page: true, do: s.audit},
	}
}

type state struct {
	Status string `json:"status"`
}

func (s *Server) ready(c *call) (any, error) {
	if err := s.Store.Ping(c.Context()); err != nil {
		return nil, err
	}
	return state{"ok"}, nil
}
