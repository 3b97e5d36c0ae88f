package console

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
)

// alarm is something to be looked at.
type alarm struct {
	Bad  bool // something does not work; else: it will not for long
	Text string
	Path string // where there is more; "": nowhere
}

// overview is what an operator wants to know first.
type overview struct {
	Alarms            []alarm
	Members           membersView
	Moved             moved
	Waiting, Running  int
	Succeeded, Failed int // in the last day
	Bytes             int64
	BytesChart        chart
	JobsChart         chart
	Active            []jobView
	Recent            []jobView
	Hosts, Seeds      int // that are alive, in all clusters
}

const (
	hoursShown  = 24
	jobsShown   = 8
	manyWaiting = 100
)

func (c *Console) overviewFrame(ctx context.Context) (f frame, err error) {
	o := overview{}
	k, err := c.standard(ctx)
	if err != nil {
		return f, err
	}
	if o.Members, err = c.members(ctx, k); err != nil {
		return f, err
	}
	if o.Hosts, o.Seeds, err = c.alive(ctx, o.Members); err != nil {
		return f, err
	}
	traffic, err := c.Store.TrafficHours(ctx, 0, time.Now(), hoursShown)
	if err != nil {
		return f, err
	}
	o.Moved = sumUp(traffic)
	if o.Waiting, o.Running, err = c.Store.JobCounts(ctx); err != nil {
		return f, err
	}
	hours, err := c.Store.JobHours(ctx, time.Now(), hoursShown)
	if err != nil {
		return f, err
	}
	for _, h := range hours {
		o.Succeeded += h.Succeeded
		o.Failed += h.Failed
		o.Bytes += h.Bytes
	}
	o.BytesChart, o.JobsChart = bytesChart(hours), jobsChart(hours)
	active, err := c.Store.Jobs(ctx, store.Running, store.Page{Limit: jobsShown})
	if err != nil {
		return f, err
	}
	recent, err := c.Store.Jobs(ctx, "", store.Page{Limit: jobsShown})
	if err != nil {
		return f, err
	}
	o.Active, o.Recent = viewJobs(active), viewJobs(recent)
	o.Alarms = alarms(o)
	return frame{Title: "Overview", Page: "overview", Live: "/events", Body: o}, nil
}

// alive counts hosts and seeds, whether or not they have joined.
func (c *Console) alive(ctx context.Context, m membersView) (hosts, seeds int, err error) {
	all, err := c.Store.Census(ctx)
	for _, n := range all {
		switch n.Role {
		case "host":
			hosts += int(n.Alive)
		case "seed":
			seeds += int(n.Alive)
		}
	}
	if hosts+seeds > 0 {
		return hosts, seeds, err
	}
	for _, h := range m.Sees.Hosts {
		if !h.Seed && h.Share { // a manager is none
			hosts++
		}
	}
	return hosts, m.Sees.Seeds, err
}

// alarms is what is wrong, the worst first.
func alarms(o overview) (all []alarm) {
	say := func(bad bool, path, format string, args ...any) {
		all = append(all, alarm{bad, fmt.Sprintf(format, args...), path})
	}
	m, at := o.Members, clusterPath(o.Members.Of.ID)
	configured, up := len(m.Schedulers), m.Up()
	switch {
	case configured == 0:
		say(true, at, "No scheduler has joined the default cluster, so nothing can be preheated.")
	case up == 0:
		say(true, at, "No scheduler of the cluster can be reached.")
	case up < configured:
		say(true, at, "%d of %d schedulers cannot be reached.", configured-up, configured)
	}
	if up > 0 && len(m.Sees.Blind) == 0 && m.Sees.Seeds == 0 {
		say(true, at, "The cluster has no seed that is alive: preheating needs one.")
	}
	if n := len(m.Sees.Bans); n > 0 {
		say(false, at, "%s banned, or used as a last resort only.", plural(n, "host is", "hosts are"))
	}
	for _, f := range m.Sees.False {
		text := fmt.Sprintf("An index of layer %.19s was false: no new container is started on it.", f.Layer)
		if n := len(f.Containers); n > 0 {
			text += fmt.Sprintf(" %s to be replaced.", plural(n, "container that had it is", "containers that had it are"))
		}
		say(true, at+"#false", "%s", text)
	}
	stuck := 0
	for _, s := range m.Sees.Swarms {
		if s.State == "stuck" {
			stuck++
		}
	}
	if stuck > 0 {
		say(true, at+"/blobs", "%s: some host wants it and nobody has or fetches it.", plural(stuck, "blob is stuck", "blobs are stuck"))
	}
	if o.Failed > 0 {
		say(false, "/jobs?state=failed", "%s failed in the last 24 hours.", plural(o.Failed, "job has", "jobs have"))
	}
	if o.Waiting >= manyWaiting {
		say(false, "/jobs?state=waiting", "%d jobs wait.", o.Waiting)
	}
	return all
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func (c *Console) overview(v *web.Visit) error {
	f, err := c.overviewFrame(v.Context())
	if err != nil {
		return err
	}
	return c.show(v, http.StatusOK, f)
}

func (c *Console) overviewEvents(v *web.Visit) error {
	return c.live(v, func(ctx context.Context) (frame, bool, error) {
		f, err := c.overviewFrame(ctx)
		return f, false, err
	})
}
