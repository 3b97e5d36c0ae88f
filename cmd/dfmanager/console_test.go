package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/clustertest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/openid"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/openid/openidtest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// What people do with the console, in a browser, with a cluster that is real.
func TestConsole(t *testing.T) {
	t.Parallel()
	if !alone(t) {
		return
	}
	members := clustertest.New(t, true)
	r := origintest.New(t, origintest.Options{})
	s := members.Scheduler()
	members.Seed(r.Host(), s.Addr)
	cfg := testConfig(storetest.SQLite(t))
	cfg.Cluster.Schedulers, cfg.Web.Rate = []string{s.Addr}, 10_000
	f := members.Files("manager", wire.RoleManager)
	cfg.TLS.CA, cfg.TLS.Cert, cfg.TLS.Key = f.CA, f.Cert, f.Key
	m, _ := start(t, cfg, rootPassword)
	v := visit(t, "http://"+m.ln.Addr().String())

	v.open("/jobs")
	v.at("/sign-in")
	v.look("sign-in")
	v.signIn("root", "wrong password")
	v.see("no such user")
	v.signIn("root", rootPassword)
	v.at("/password")
	v.open("/jobs")
	v.at("/password")
	v.look("first-password")
	v.fill("old", rootPassword)
	v.fill("new", "one password")
	v.fill("again", "another password")
	v.press("Change password")
	v.see("is not the same")
	v.first(rootPassword, rootPassword2)

	v.preheats(r)
	v.makesToken()
	v.makesUser()
	v.looksAtBlobs()
	v.makesCluster()
	works(t, m.db)
	for _, p := range []string{"/", "/jobs", "/schedules", "/images", "/clusters", "/clusters/1", "/clusters/1/blobs", "/clusters/2", "/clusters/2/settings", "/nodes/1", "/harbor", "/users", "/users/2", "/audit", "/about", "/password", "/nothing"} {
		v.open(p)
		v.look(strings.ReplaceAll(strings.Trim(strings.Replace(p, "/", "overview", 1-min(1, len(p)-1)), "/"), "/", "-"))
	}
	v.open("/find")
	v.fill("image", r.Host()+"/team/app:v7")
	v.do(chromedp.Click(`input[name="plain_http"]`))
	v.press("Find")
	v.see("seed-2")
	v.see("3 of 3")
	v.look("find")
	v.preheatsFile(newShelf(t, 3<<20, "open sesame"))
	v.open("/jobs/new?from=1&remove=image")
	v.look("remove")
	v.press("Remove from all hosts")
	v.see("3 of 3 blobs removed")
	v.see("Final")
	v.look("removed")
	v.chooses()
	v.comesFromElsewhere()
	v.press("Sign out")
	v.at("/sign-in")
	v.open("/users")
	v.at("/sign-in")

	v.isGuest()
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, p := range v.problems {
		t.Errorf("the browser complains: %s", p)
	}
}

// A browser that comes back from the provider, which is another site, is signed in.
func TestConsoleSignInElsewhere(t *testing.T) {
	t.Parallel()
	if !alone(t) {
		return
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") // the provider and the manager have to know each other's address
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + ln.Addr().String()
	at := openidtest.New(t, base+openid.CallbackPath, map[string]openidtest.User{"1": {Name: "anna", Groups: []string{"ops"}}})
	cfg := testConfig(storetest.SQLite(t))
	cfg.Web.Rate, cfg.Auth.OIDC.Issuer, cfg.Auth.OIDC.URL, cfg.Auth.OIDC.ClientID, cfg.Auth.OIDC.Operator = 10_000, at.Issuer, base, openidtest.ClientID, []string{"ops"}
	cfg.Auth.OIDC.Name, cfg.Auth.OIDC.SecretFile = "Example ID", filepath.Join(t.TempDir(), "secret")
	if err := errors.Join(os.WriteFile(cfg.Auth.OIDC.SecretFile, []byte(openidtest.Secret+"\n"), 0o600), ln.Close()); err != nil {
		t.Fatal(err)
	}
	cfg.Listen = ln.Addr().String()
	start(t, cfg, rootPassword)
	v := visit(t, base)
	v.open("/clusters")
	v.at("/sign-in")
	v.look("sign-in-elsewhere")
	v.press("Sign in with Example ID")
	v.at("/login/username")
	v.fill("username", "anna")
	v.fill("password", openidtest.Password)
	v.press("Log in")
	v.at("/clusters")
	v.see("anna")
	v.open("/password")
	v.see("OpenID Connect")
	v.press("Sign out")
	v.at("/sign-in")
	v.signIn("root", rootPassword)
	v.first(rootPassword, rootPassword2)
	v.open("/users/2")
	v.see(at.Issuer)
	v.look("user-elsewhere")
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, p := range v.problems {
		t.Errorf("the browser complains: %s", p)
	}
}

// works adds a host to the cluster that was made, and what hosts and seeds have moved
// in the last day.
func works(t *testing.T, db *store.DB) {
	t.Helper()
	ctx, by := t.Context(), store.By{Actor: "test"}
	k, _, err := cluster.NewToken(ctx, db, by, store.JoinToken{Cluster: 2, Role: "host", Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	n, err := db.Join(ctx, by, k, store.Node{Cluster: 2, Name: "node-7f31", Role: "host", Key: "k", Until: time.Now().Add(time.Hour), Hostname: "node", IDC: "fra1"})
	if err == nil {
		n.Address, n.Version = "10.8.0.7:65002", "v1.2"
		_, err = db.KeepManager(ctx, "another", time.Hour)
	}
	if err == nil {
		err = db.SetPresence(ctx, "another", []store.Presence{{Node: n, Stream: 1, Present: true}})
	}
	for h := range 24 {
		if err != nil {
			t.Fatal(err)
		}
		much := int64(h%7+1) << 30
		err = db.AddTraffic(ctx, time.Now().Add(-time.Duration(h)*time.Hour), map[store.Mover]store.Traffic{
			{Cluster: 2, Role: "host"}: {Peers: 5 * much, Store: much, Origin: much / 8}, {Cluster: 2, Role: "seed"}: {Origin: much / 2},
		}, []store.Load{{Node: n.ID, At: time.Now(), Peers: 41 << 20, Sent: 17 << 20, Origin: 1 << 20, Kept: 23 << 30, Uploads: 6, Waiting: 2}})
	}
}

// preheats has an image preheated and watches that.
func (v *visitor) preheats(r *origintest.Registry) {
	v.t.Helper()
	manifest, layers := image(v.t, r, "team/app", "v7")
	r.Fail(layers[1], origintest.Fault{HangAfter: 400_000})
	u, err := url.Parse(manifest)
	if err != nil {
		v.t.Fatal(err)
	}
	v.press("Preheat an image")
	v.at("/jobs/new")
	v.fill("image", "not an image!")
	v.press("Preheat")
	v.see("is no image's name")
	v.look("new-job")
	v.fill("image", u.Host+"/team/app:v7")
	v.do(chromedp.Click(chromedp.CSS("input[name=plain_http]")))
	v.press("Preheat")
	v.at("/jobs/1")
	v.see("2 of 3 blobs")
	v.open("/clusters/1/blobs/" + layers[1].String())
	v.see("Time line")
	v.see("s for the origin") // it waited
	v.look("blob-waiting")
	v.open("/jobs/1")
	eval[bool](v, "window.same = true") // gone with the next page
	v.see("Live")
	v.see("2 of 3 blobs")
	v.do(chromedp.Focus(chromedp.CSS("form[action='/jobs/1/cancel'] button")))
	v.look("job-running")
	v.wait("document.activeElement.textContent == 'Cancel'")
	r.Heal()
	v.see("3 of 3 blobs")
	v.see("succeeded")
	v.see("Final")
	v.wait("window.same && !document.querySelector(\"form[action='/jobs/1/cancel']\")")
	v.look("job-succeeded")
	v.press("Repeat…")
	v.at("/jobs/new")
	v.fill("cron", "30 4 * * 1-5")
	v.press("Preheat")
	v.at("/schedules")
	v.see("30 4 * * 1-5")
	v.open("/jobs/new?from=1")
	v.fill("image", u.Host+"/team/none:v1")
	v.press("Preheat")
	v.at("/jobs/2")
	v.see("failed")
	v.look("job-failed")
}

// preheatsFile has a file preheated for which the server wants a header.
func (v *visitor) preheatsFile(s *shelf) {
	v.t.Helper()
	v.open("/jobs/new")
	v.press("A file")
	v.fill("url", s.URL+"/model.bin")
	v.do(chromedp.Click("summary"))
	v.fill("headers", "X-Password: "+s.password)
	v.look("new-file")
	v.press("Preheat")
	v.see("1 of 1 blobs")
	v.see("succeeded")
	v.look("job-file")
}

func (v *visitor) makesToken() {
	v.t.Helper()
	v.open("/tokens")
	v.fill("name", "harbor")
	v.press("Create token")
	v.see("not shown again")
	if token := eval[string](v, "document.getElementById('fresh').textContent"); !strings.HasPrefix(token, "dfm_") {
		v.t.Errorf("token %q", token)
	}
	v.look("tokens")
	v.open("/tokens")
	v.wait("!document.getElementById('fresh')")
	v.see("harbor")
}

const guestPassword, guestPassword2 = "for the first day", "for all the others"

func (v *visitor) makesUser() {
	v.t.Helper()
	v.open("/users")
	v.fill("name", "ada")
	v.fill("password", guestPassword)
	v.press("Create user")
	v.at("/users/2")
	v.see("first password")
}

// looksAtBlobs follows a blob of the image that was preheated, while its seed drops
// out and comes back.
func (v *visitor) looksAtBlobs() {
	v.t.Helper()
	v.open("/images")
	v.see("team/app:v7")
	v.do(chromedp.Click(chromedp.CSS("main summary")))
	v.do(chromedp.Click(chromedp.CSS("main details[open] a")))
	v.wait("location.pathname.startsWith('/clusters/1/blobs/sha256:') && document.readyState == 'complete'")
	v.see("Live")
	v.see("1 of 1 have all of it")
	v.wait("document.querySelector('svg.pieces.good rect')")
	v.look("blob")
	digest := eval[string](v, "location.pathname.split(':')[1].slice(0, 12)")
	v.open("/clusters/1/blobs")
	v.fill("digest", digest)
	v.press("Find")
	v.wait("location.search.includes('" + digest + "') && document.querySelectorAll('tbody tr').length == 1")
}

// makesCluster makes a cluster, changes its settings, and makes a token for it.
func (v *visitor) makesCluster() {
	v.t.Helper()
	v.open("/clusters")
	v.fill("name", "fra")
	v.fill("cidrs", "10.8.0.0/16")
	v.press("Create cluster")
	v.at("/clusters/2")
	v.see("No scheduler has joined this cluster")
	v.press("Settings")
	v.at("/clusters/2/settings")
	v.fill("upload", "fast")
	v.press("Save")
	v.see("must be a number")
	v.fill("upload", "50")
	v.press("Save")
	v.at("/clusters/2")
	v.press("Add nodes")
	v.at("/join-tokens")
	eval[string](v, "document.getElementById('cluster_id').value = '2'")
	v.press("Create join token")
	v.see("not shown again")
	if token := eval[string](v, "document.getElementById('fresh').textContent"); !strings.HasPrefix(token, "dfj_") {
		v.t.Errorf("join token %q", token)
	}
	v.look("join-tokens")
}

// chooses changes the colours.
func (v *visitor) chooses() {
	v.t.Helper()
	v.open("/about")
	v.press("Dark")
	v.wait("getComputedStyle(document.documentElement).colorScheme == 'dark'")
	v.at("/about")
	v.press("Auto")
	v.wait("getComputedStyle(document.documentElement).colorScheme == 'light dark'")
}

// comesFromElsewhere follows a link from another site, with which the session's
// cookie does not come along at first.
func (v *visitor) comesFromElsewhere() {
	v.t.Helper()
	v.do(chromedp.Navigate(strings.Replace(v.base, "127.0.0.1", "localhost", 1) + "/sign-in"))
	eval[string](v, fmt.Sprintf("location = %q", v.base+"/about"))
	v.at("/about")
	v.see("This manager")
}

// isGuest sees everything but users and the audit log, and changes nothing.
func (v *visitor) isGuest() {
	v.t.Helper()
	v.signIn("ada", guestPassword)
	v.first(guestPassword, guestPassword2)
	for _, path := range []string{"/jobs", "/jobs/1", "/schedules", "/images", "/clusters", "/clusters/1", "/harbor", "/about"} {
		v.open(path)
		if n := eval[int](v, "document.querySelectorAll('main form, main a[href^=\"/jobs/new\"]').length"); n != 0 {
			v.t.Errorf("%s offers a guest %d changes", path, n)
		}
	}
	v.open("/jobs/1")
	v.look("guest-job")
	for path, form := range map[string]string{
		"/jobs/new": "image=nginx", "/jobs/1/cancel": "", "/users": "name=eve&password=a+long+password&role=root",
		"/schedules/1/delete": "", "/clusters": "name=evil", "/clusters/2/settings": "name=evil", "/clusters/2/delete": "", "/join-tokens": "role=host&expires_in_minutes=5", "/join-tokens/1/delete": "", "/nodes/1/revoke": "",
		"/users/2": "role=root", "/users/1/delete": "", "/users/1/tokens/1/revoke": "",
	} {
		if got := v.post(path, form); got != 403 {
			v.t.Errorf("a guest's POST %s: %d", path, got)
		}
	}
	for _, path := range []string{"/users", "/audit", "/jobs/new", "/join-tokens", "/clusters/2/settings"} {
		v.open(path)
		v.see("Forbidden")
	}
	v.press("Sign out")
	v.at("/sign-in")
}

// Where browsers say little of where a form comes from, as by plain HTTP with a
// name, it is taken all the same.
func TestConsoleByName(t *testing.T) {
	t.Parallel()
	if !alone(t) {
		return
	}
	cfg := testConfig(storetest.SQLite(t))
	cfg.Web.Rate = 10_000
	m, _ := start(t, cfg, rootPassword)
	_, port, err := net.SplitHostPort(m.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	v := visit(t, "http://manager.test:"+port, chromedp.Flag("host-resolver-rules", "MAP *.test 127.0.0.1"))
	v.open("/")
	v.signIn("root", rootPassword)
	v.first(rootPassword, rootPassword2)
	v.see("No scheduler has joined")
}
