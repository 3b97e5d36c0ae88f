package console

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
)

// schedulerView is a scheduler, and what it sees if that could be read.
type schedulerView struct {
	Name string
	Up   bool // it can be reached
	Seen *sight.Scheduler
}

// membersView is the schedulers of a cluster, and what they see together.
type membersView struct {
	Of         store.Cluster
	Schedulers []schedulerView
	Sees       sight.Cluster
}

// members returns what is known of a cluster's schedulers.
func (c *Console) members(ctx context.Context, k store.Cluster) (v membersView, err error) {
	v.Of = k
	if k.Standard {
		for _, s := range c.Schedulers() { // this manager is connected to them
			v.Schedulers = append(v.Schedulers, schedulerView{Name: s.Name, Up: s.Up})
		}
	} else {
		all, err := c.Store.Nodes(ctx, k.ID, "scheduler", store.Page{Limit: maxRows})
		if err != nil {
			return v, err
		}
		for _, n := range all {
			v.Schedulers = append(v.Schedulers, schedulerView{Name: n.Address, Up: n.State() == "alive"})
		}
	}
	v.Sees = c.Sight.Gather(ctx, k.ID, v.Names())
	for i := range v.Schedulers {
		v.Schedulers[i].Seen = v.Sees.Schedulers[v.Schedulers[i].Name]
	}
	return v, nil
}

// Names are the schedulers.
func (v membersView) Names() (names []string) {
	for _, s := range v.Schedulers {
		names = append(names, s.Name)
	}
	return names
}

// Seeing reports whether some scheduler could be asked what it sees.
func (v membersView) Seeing() bool { return len(v.Sees.Blind) < len(v.Schedulers) }

// Up is how many schedulers can be reached.
func (v membersView) Up() (n int) {
	for _, s := range v.Schedulers {
		if s.Up {
			n++
		}
	}
	return n
}

// standard is the cluster that images are preheated in.
func (c *Console) standard(ctx context.Context) (store.Cluster, error) {
	all, err := c.Store.AllClusters(ctx)
	if err != nil {
		return store.Cluster{}, err
	}
	for _, k := range all {
		if k.Standard {
			return k, nil
		}
	}
	return store.Cluster{}, store.ErrNotFound
}

// nodeView is a node, with what it says of itself and what schedulers say.
type nodeView struct {
	store.Node
	Load *store.Load // nil: it has said nothing
	Seen *sight.Host // nil: it is not connected to a scheduler that could be asked
	Ban  *sight.Ban
}

// Busy reports whether what it said of its load is of now.
func (n nodeView) Busy() bool {
	return n.Load != nil && n.Alive && time.Since(n.Load.At) < loadFor
}

// loadFor is for how long what a node says of its load is of now: it says so
// again when that changes.
const loadFor = 30 * time.Second

// viewNodes joins nodes with what is known of them.
func (c *Console) viewNodes(ctx context.Context, m membersView, all []store.Node) ([]nodeView, error) {
	if len(all) == 0 {
		return nil, nil
	}
	loads, err := c.Store.Loads(ctx, m.Of.ID, all[0].ID, all[len(all)-1].ID)
	if err != nil {
		return nil, err
	}
	hosts := map[string]*sight.Host{}
	for i := range m.Sees.Hosts {
		hosts[m.Sees.Hosts[i].ID] = &m.Sees.Hosts[i]
	}
	bans := map[string]*sight.Ban{}
	for i := range m.Sees.Bans {
		bans[m.Sees.Bans[i].Host] = &m.Sees.Bans[i]
	}
	out := make([]nodeView, len(all))
	for i, n := range all {
		out[i] = nodeView{Node: n, Seen: hosts[n.Name], Ban: bans[n.Name]}
		if l, said := loads[n.ID]; said {
			out[i].Load = &l
		}
	}
	return out, nil
}

// clusterDetail is a cluster with a page of its nodes.
type clusterDetail struct {
	membersView
	Nodes   []nodeView
	Others  []sight.Host // connected to schedulers that nobody has joined
	More    int          // of those that are not shown
	Moved   moved
	Filters []link
	First   string
	Next    string
}

const maxRows = 100

// Blobs is how many swarms there are.
func (d clusterDetail) Blobs() int { return len(d.Sees.Swarms) }

var nodeRoles = []string{"", "scheduler", "seed", "host"}

func (c *Console) clusterFrame(ctx context.Context, v *web.Visit) (f frame, err error) {
	k, err := c.clusterBy(ctx, v)
	if err != nil {
		return f, err
	}
	d := clusterDetail{}
	if d.membersView, err = c.members(ctx, k); err != nil {
		return f, err
	}
	path, q := clusterPath(k.ID), v.URL.Query()
	chosen := ""
	for _, role := range nodeRoles {
		l := link{Name: role + "s", Path: path + "?role=" + role, Here: role == q.Get("role")}
		if role == "" {
			l.Name, l.Path = "all", path
		}
		if l.Here {
			chosen = role
		}
		d.Filters = append(d.Filters, l)
	}
	p := part(v)
	all, err := c.Store.Nodes(ctx, k.ID, chosen, p)
	if err != nil {
		return f, err
	}
	if d.Nodes, err = c.viewNodes(ctx, d.membersView, all); err != nil {
		return f, err
	}
	if p.After > 0 {
		d.First = path + "?" + url.Values{"role": {chosen}}.Encode()
	}
	if len(all) == perPage {
		d.Next = path + "?" + url.Values{"role": {chosen}, "after": {strconv.FormatInt(all[len(all)-1].ID, 10)}}.Encode()
	}
	if len(all) == 0 && p.After == 0 && chosen == "" {
		d.Others = d.Sees.Hosts[:min(maxRows, len(d.Sees.Hosts))]
		d.More = len(d.Sees.Hosts) - len(d.Others)
	}
	hours, err := c.Store.TrafficHours(ctx, k.ID, time.Now(), hoursShown)
	d.Moved = sumUp(hours)
	return frame{Title: k.Name, Page: "cluster", Live: path + "/events?" + q.Encode(), Body: d}, err
}

func (c *Console) cluster(v *web.Visit) error {
	f, err := c.clusterFrame(v.Context(), v)
	if err != nil {
		return err
	}
	return c.show(v, http.StatusOK, f)
}

func (c *Console) clusterEvents(v *web.Visit) error {
	return c.live(v, func(ctx context.Context) (frame, bool, error) {
		f, err := c.clusterFrame(ctx, v)
		return f, false, err
	})
}

// nodeDetail is a node and its cluster.
type nodeDetail struct {
	nodeView
	Of store.Cluster
}

func (c *Console) node(v *web.Visit) error {
	ctx := v.Context()
	id, err := idOf(v, "id")
	if err != nil {
		return err
	}
	n, err := c.Store.Node(ctx, id)
	if err != nil {
		return err
	}
	k, err := c.Store.Cluster(ctx, n.Cluster)
	if err != nil {
		return err
	}
	m, err := c.members(ctx, k)
	if err != nil {
		return err
	}
	views, err := c.viewNodes(ctx, m, []store.Node{n})
	if err != nil {
		return err
	}
	return c.show(v, http.StatusOK, frame{Title: n.Name, Page: "node", Body: nodeDetail{views[0], k}})
}

func (c *Console) revokeNode(v *web.Visit) error {
	id, err := idOf(v, "id")
	if err != nil {
		return err
	}
	n, err := c.Clusters.Revoke(v.Context(), v.By(), id)
	if err != nil {
		return err
	}
	return see(v, fmt.Sprint("/nodes/", n.ID))
}
