// Package web is what the manager answers: the REST API below /api/v1, what
// registries call, and the pages that it is given.
//
// Every route stands in one table, with who may use it; what is not in the
// table does not exist. A handler gets a call of which it is known who makes it
// and that they may, and returns a value or an error; how either looks as HTTP
// is decided in one place.
package web

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/account"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// Config says what the server needs.
type Config struct {
	Store      *store.DB
	Accounts   *account.Accounts
	Jobs       *job.Runner
	Clusters   *cluster.Clusters
	Sight      *sight.Sight
	Schedulers []string       // of the standard cluster, if none join it
	Pages      Pages          // nil: none
	Secure     bool           // browsers reach it by https only
	Proxies    []netip.Prefix // whose X-Forwarded-For is believed
	OpenTo     []netip.Prefix // where registries need no credentials
	Rate       int            // requests per second and address
	Version    string
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Server answers requests. It is an http.Handler.
type Server struct {
	Config
	routes   map[string]*route // by pattern of mux
	mux      *http.ServeMux    // finds routes; its handlers do nothing
	cross    *http.CrossOriginProtection
	limits   *limits
	metrics  *metrics
	openAPI  []byte
	stopping context.Context // ends what is live
	stop     context.CancelFunc
}

// Bounds of one request.
const (
	maxBody    = 1 << 20
	answerIn   = 25 * time.Second // Harbor gives up after 30
	maxHeaders = 32 << 10
)

// New makes a Server.
func New(c Config) (*Server, error) {
	s := &Server{
		Config: c, routes: map[string]*route{}, mux: http.NewServeMux(), cross: http.NewCrossOriginProtection(),
		limits: newLimits(c.Rate),
	}
	var err error
	if s.metrics, err = newMetrics(c.Registerer); err != nil {
		return nil, err
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	table := s.table()
	all := append(table, s.pageRoutes()...)
	for i := range all {
		r := &all[i]
		pattern := r.method + " " + r.path
		s.routes[pattern] = r
		s.mux.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) {})
	}
	if s.openAPI, err = document(table, c.Version); err != nil {
		return nil, fmt.Errorf("OpenAPI document: %w", err)
	}
	return s, nil
}

// HTTP returns a server for it with limits on how long anything may take.
func (s *Server) HTTP() *http.Server {
	h := &http.Server{
		Handler: s, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 20 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: maxHeaders,
		ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug), // what clients do wrong with TLS and HTTP
	}
	h.RegisterOnShutdown(s.stop)
	return h
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(r.Context(), answerIn)
	defer cancel()
	c := &call{Request: r.WithContext(ctx), w: &answer{ResponseWriter: w}, arrived: r.Context()}
	c.remote = s.address(r)
	c.Body = http.MaxBytesReader(w, r.Body, maxBody)
	secure(w.Header(), s.Secure)
	out, err := s.handle(c)
	switch {
	case err != nil:
		s.fail(c, err)
	case c.route.view == nil:
		c.reply(out)
	}
	s.metrics.observe(c, began)
	s.Log.Debug("request", "method", r.Method, "route", c.name(), "status", c.w.status, "user", c.user.Name, "address", c.remote, "took", time.Since(began))
}

// handle finds the route, finds out who calls, and whether they may.
func (s *Server) handle(c *call) (out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	if wait := s.limits.take(c.remote, time.Now()); wait > 0 {
		return nil, &Error{Status: http.StatusTooManyRequests, Code: "rate_limited", Message: "too many requests from this address", RetryAfter: wait}
	}
	if err := s.find(c); err != nil {
		return nil, err
	}
	if err := s.cross.Check(c.Request); err != nil {
		return nil, &Error{Status: http.StatusForbidden, Code: "cross_origin", Message: "this request comes from another site's page"}
	}
	if err := s.identify(c); err != nil {
		return nil, err
	}
	if err := c.route.access.check(c); err != nil {
		return nil, err
	}
	return c.route.do(c)
}

// find sets the call's route. There are no redirects: one to a page would look
// like success to a program.
func (s *Server) find(c *call) error {
	missing := &Error{Status: http.StatusNotFound, Code: "not_found", Message: "there is nothing at this path"}
	if p := c.URL.Path; p != path.Clean(p) {
		return missing
	}
	if _, pattern := s.mux.Handler(c.Request); s.routes[pattern] != nil {
		c.route = s.routes[pattern]
		s.mux.ServeHTTP(c.w, c.Request) // sets the path's values
		return nil
	}
	allowed := ""
	for _, m := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
		other := c.Clone(c.Context())
		other.Method = m
		if _, pattern := s.mux.Handler(other); s.routes[pattern] != nil {
			if allowed != "" {
				allowed += ", "
			}
			allowed += m
		}
	}
	if allowed == "" {
		return missing
	}
	c.w.Header().Set("Allow", allowed)
	return &Error{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Message: "this path takes " + allowed}
}

// secure sets headers that keep browsers from doing more with an answer than to
// show it.
func secure(h http.Header, https bool) {
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if https {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// address returns who calls: as the last proxy that is trusted says, or as it
// connected.
func (s *Server) address(r *http.Request) string {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		return host
	}
	addr := at.Addr().Unmap()
	hops := forwarded(r.Header)
	for i := len(hops) - 1; i >= 0 && within(s.Proxies, addr); i-- {
		next, err := netip.ParseAddr(hops[i])
		if err != nil {
			break
		}
		addr = next.Unmap()
	}
	return addr.String()
}

func within(all []netip.Prefix, a netip.Addr) bool {
	for _, p := range all {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
