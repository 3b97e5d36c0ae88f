package console

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/auth"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
)

//go:embed templates
var files embed.FS

// pages are the templates by the name of their page: the frame, the pieces that
// pages share, and what the page says itself.
var pages = parse("sign-in", "password", "overview", "jobs", "new-job", "job", "schedules", "clusters", "cluster", "settings", "blobs", "blob", "node", "join-tokens", "images", "find", "harbor", "tokens", "users", "user", "audit", "about", "failed")

func parse(names ...string) map[string]*template.Template {
	common := template.Must(template.New("").Funcs(funcs).ParseFS(files, "templates/frame.html", "templates/pieces.html"))
	all := map[string]*template.Template{}
	for _, name := range names {
		all[name] = template.Must(template.Must(common.Clone()).ParseFS(files, "templates/"+name+".html"))
	}
	return all
}

var funcs = template.FuncMap{
	"asset": assetURL,
	"bytes": size,
	"time":  func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") },
	"iso":   func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"took":  took,
	"words": func(s []string) string { return strings.Join(s, ", ") },
	"short": short,
	"image": registry.Name,
	"dict":  dict,
	"list":  func(all ...string) []string { return all },
}

// frame is what every page has.
type frame struct {
	Title   string
	Page    string // its name
	Theme   string // light or dark; "": as the system
	Back    string // where it is
	User    store.User
	Alone   bool   // without navigation
	Live    string // where its news come from
	Version string
	Nav     []link
	Body    any
}

type link struct {
	Name, Path string
	Here       bool
}

// May reports whether the visitor has a role, or a higher one.
func (f frame) May(role store.Role) bool { return auth.AtLeast(f.User.Role, role) }

// nav is where the visitor can go from a page.
func nav(u store.User, at string) (all []link) {
	for _, l := range []struct {
		name, path string
		role       store.Role
	}{
		{"Overview", "/", store.Guest}, {"Preheat", "/jobs", store.Guest}, {"Images", "/images", store.Guest}, {"Find", "/find", store.Operator}, {"Clusters", "/clusters", store.Guest}, {"Join tokens", "/join-tokens", store.Operator}, {"Harbor", "/harbor", store.Guest},
		{"Users", "/users", store.Root}, {"Audit log", "/audit", store.Root}, {"About", "/about", store.Guest},
	} {
		if auth.AtLeast(u.Role, l.role) {
			all = append(all, link{l.name, l.path, at == l.path || l.path != "/" && strings.HasPrefix(at, l.path+"/")})
		}
	}
	return all
}

// policy is what browsers let a page do: what comes from here, and nothing that
// stands in the page itself.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// show answers with a page.
func (c *Console) show(v *web.Visit, status int, f frame) error {
	f.Theme, f.User, f.Version = theme(v), v.User, c.Version
	f.Back = v.URL.RequestURI()
	f.Alone = f.Alone || v.User.ID == 0 || v.User.MustChange
	f.Nav = nav(v.User, v.URL.Path)
	text, err := execute(f, "frame")
	if err != nil {
		return err
	}
	h := v.W.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "same-origin") // with none browsers would not say where a form comes from
	v.W.WriteHeader(status)
	_, _ = v.W.Write(text) // who has left does not see it
	return nil
}

// execute makes a part of a page.
func execute(f frame, part string) ([]byte, error) {
	var b bytes.Buffer
	if err := pages[f.Page].ExecuteTemplate(&b, part, f); err != nil {
		return nil, fmt.Errorf("page %s: %w", f.Page, err)
	}
	return b.Bytes(), nil
}

// see sends the browser to another page.
func see(v *web.Visit, path string) error {
	v.W.Header().Set("Location", path)
	v.W.WriteHeader(http.StatusSeeOther)
	return nil
}

// local returns a path of this site, "/" if s is none.
func local(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || !strings.HasPrefix(s, "/") ||
		strings.HasPrefix(s, "//") || strings.ContainsAny(s, "\\\r\n\t") {
		return "/"
	}
	return s
}

const themeCookie = "theme"

// theme is what the visitor has chosen.
func theme(v *web.Visit) string {
	k, err := v.Cookie(themeCookie)
	if err != nil || k.Value != "light" && k.Value != "dark" {
		return ""
	}
	return k.Value
}

func (c *Console) setTheme(v *web.Visit) error {
	k := &http.Cookie{Name: themeCookie, Value: v.PostFormValue("theme"), Path: "/", MaxAge: 365 * 24 * 3600, HttpOnly: true, Secure: v.Secure, SameSite: http.SameSiteStrictMode}
	if k.Value != "light" && k.Value != "dark" {
		k.Value, k.MaxAge = "", -1
	}
	http.SetCookie(v.W, k)
	return see(v, local(v.PostFormValue("back")))
}

// Fail shows that something went wrong, or leads to where that is mended.
func (c *Console) Fail(v *web.Visit, e *web.Error) {
	if v.Header.Get("HX-Request") != "" || v.Method == http.MethodPost && e.Status == http.StatusForbidden && e.Code == "cross_origin" {
		http.Error(v.W, e.Message, e.Status)
		return
	}
	switch {
	case e.Status == http.StatusUnauthorized && v.Method == http.MethodGet && v.Header.Get("Sec-Fetch-Site") == "cross-site":
		// The session's cookie does not come along with a link from elsewhere. It
		// does when this page asks once more.
		v.W.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = v.W.Write([]byte(`<!doctype html><meta http-equiv="refresh" content="0"><title>dfmanager</title>`))
	case e.Status == http.StatusUnauthorized:
		to := "/sign-in"
		if at := v.URL.RequestURI(); v.Method == http.MethodGet && at != "/" {
			to += "?" + url.Values{"next": {at}}.Encode()
		}
		_ = see(v, to)
	case e.Code == "password_change_required":
		_ = see(v, "/password")
	default:
		if err := c.show(v, e.Status, frame{Title: http.StatusText(e.Status), Page: "failed", Body: e}); err != nil {
			c.Log.Error("an error could not be shown", "err", err)
		}
	}
}
