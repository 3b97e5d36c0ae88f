// Package console is what people see of the manager: pages that are made on the
// server, and a script that replaces parts of them as things change.
//
// The pages ask the same store, accounts and job runner as the REST API, and
// are served by web, which knows who visits and whether they may. They work
// without the script, need nothing from other sites, and run nothing that does
// not come from a file of this package.
package console

import (
	"log/slog"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/account"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/openid"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/warm"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
)

// Config says what the pages need.
type Config struct {
	Store      *store.DB
	Accounts   *account.Accounts
	Jobs       *job.Runner
	Clusters   *cluster.Clusters
	Schedulers func() []warm.Scheduler // of the standard cluster, as of now
	Sight      *sight.Sight
	Provider   *openid.Provider // where people may sign in, too; nil: nowhere
	NodesPort  string           // where nodes connect
	Facts      []Fact           // how the manager is configured
	Version    string
	Tick       time.Duration // how often live pages look for news; 0: each second
	Log        *slog.Logger
}

// Fact is something that is configured, for people to read.
type Fact struct{ Name, Value, Key string }

// Console makes pages. It is web.Pages.
type Console struct {
	Config
	streams chan struct{} // holds a token for each live page that is open
}

const maxStreams = 250

// New makes a Console.
func New(c Config) *Console {
	if c.Tick <= 0 {
		c.Tick = time.Second
	}
	return &Console{c, make(chan struct{}, maxStreams)}
}

// Pages are all pages. What changes something is a POST.
func (c *Console) Pages() []web.Page {
	const guest, operator, root = store.Guest, store.Operator, store.Root
	return []web.Page{
		{Method: "GET", Path: "/assets/{name}", Do: asset},
		{Method: "GET", Path: "/sign-in", Do: c.signInPage},
		{Method: "POST", Path: "/sign-in", Do: c.signIn},
		{Method: "GET", Path: "/sign-in/oidc", Do: c.signInElsewhere},
		{Method: "GET", Path: openid.CallbackPath, Do: c.cameBack},
		{Method: "POST", Path: "/sign-out", Role: guest, First: true, Do: c.signOut},
		{Method: "POST", Path: "/theme", Do: c.setTheme},
		{Method: "GET", Path: "/password", Role: guest, First: true, Do: c.passwordPage},
		{Method: "POST", Path: "/password", Role: guest, First: true, Do: c.changePassword},
		{Method: "GET", Path: "/{$}", Role: guest, Do: c.overview},
		{Method: "GET", Path: "/events", Role: guest, Live: true, Do: c.overviewEvents},
		{Method: "GET", Path: "/jobs", Role: guest, Do: c.jobs},
		{Method: "GET", Path: "/jobs/events", Role: guest, Live: true, Do: c.jobsEvents},
		{Method: "GET", Path: "/jobs/new", Role: operator, Do: c.newJob},
		{Method: "POST", Path: "/jobs/new", Role: operator, Do: c.createJob},
		{Method: "GET", Path: "/jobs/{id}", Role: guest, Do: c.job},
		{Method: "GET", Path: "/jobs/{id}/events", Role: guest, Live: true, Do: c.jobEvents},
		{Method: "POST", Path: "/jobs/{id}/cancel", Role: operator, Do: c.cancelJob},
		{Method: "GET", Path: "/schedules", Role: guest, Do: c.schedules},
		{Method: "POST", Path: "/schedules/{id}/delete", Role: operator, Do: c.deleteSchedule},
		{Method: "GET", Path: "/clusters", Role: guest, Do: c.clusters},
		{Method: "POST", Path: "/clusters", Role: operator, Do: c.createCluster},
		{Method: "GET", Path: "/clusters/{id}", Role: guest, Do: c.cluster},
		{Method: "GET", Path: "/clusters/{id}/events", Role: guest, Live: true, Do: c.clusterEvents},
		{Method: "GET", Path: "/clusters/{id}/settings", Role: operator, Do: c.settings},
		{Method: "POST", Path: "/clusters/{id}/settings", Role: operator, Do: c.changeSettings},
		{Method: "POST", Path: "/clusters/{id}/delete", Role: operator, Do: c.deleteCluster},
		{Method: "GET", Path: "/clusters/{id}/blobs", Role: guest, Do: c.blobs},
		{Method: "GET", Path: "/clusters/{id}/blobs/events", Role: guest, Live: true, Do: c.blobsEvents},
		{Method: "GET", Path: "/clusters/{id}/blobs/{digest}", Role: guest, Do: c.blob},
		{Method: "GET", Path: "/clusters/{id}/blobs/{digest}/events", Role: guest, Live: true, Do: c.blobEvents},
		{Method: "GET", Path: "/nodes/{id}", Role: guest, Do: c.node},
		{Method: "POST", Path: "/nodes/{id}/revoke", Role: operator, Do: c.revokeNode},
		{Method: "GET", Path: "/join-tokens", Role: operator, Do: c.joinTokens},
		{Method: "POST", Path: "/join-tokens", Role: operator, Do: c.createJoinToken},
		{Method: "POST", Path: "/join-tokens/{id}/delete", Role: operator, Do: c.deleteJoinToken},
		{Method: "GET", Path: "/images", Role: guest, Do: c.images},
		{Method: "GET", Path: "/find", Role: operator, Do: c.findPage},
		{Method: "POST", Path: "/find", Role: operator, Do: c.find},
		{Method: "GET", Path: "/harbor", Role: guest, Do: c.harbor},
		{Method: "GET", Path: "/tokens", Role: guest, Do: c.tokens},
		{Method: "POST", Path: "/tokens", Role: guest, Do: c.createToken},
		{Method: "POST", Path: "/tokens/{token}/revoke", Role: guest, Do: c.revokeOwn},
		{Method: "GET", Path: "/about", Role: guest, Do: c.about},
		{Method: "GET", Path: "/users", Role: root, Do: c.users},
		{Method: "POST", Path: "/users", Role: root, Do: c.createUser},
		{Method: "GET", Path: "/users/{id}", Role: root, Do: c.user},
		{Method: "POST", Path: "/users/{id}", Role: root, Do: c.changeUser},
		{Method: "POST", Path: "/users/{id}/delete", Role: root, Do: c.deleteUser},
		{Method: "POST", Path: "/users/{id}/tokens/{token}/revoke", Role: root, Do: c.revokeToken},
		{Method: "GET", Path: "/audit", Role: root, Do: c.audit},
	}
}
