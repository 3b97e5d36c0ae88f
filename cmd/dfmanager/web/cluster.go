package web

import (
	"errors"
	"net/http"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/auth"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

var govern = access{role: store.Operator, scope: auth.Admin}

func (s *Server) clusterRoutes() []route {
	return []route{
		{method: "GET", path: "/api/v1/clusters", access: look, summary: "All clusters, and how many nodes they have", out: list[oneCluster]{}, page: true, do: s.clusters},
		{method: "POST", path: "/api/v1/clusters", access: govern, summary: "Create a cluster with a CA of its own", in: cluster.Order{}, out: oneCluster{}, status: http.StatusCreated, do: s.createCluster},
		{method: "GET", path: "/api/v1/clusters/{id}", access: look, summary: "A cluster", out: oneCluster{}, do: s.cluster},
		{method: "PATCH", path: "/api/v1/clusters/{id}", access: govern, summary: "Change a cluster; what is left out stays. Its nodes hear of new settings at once", in: cluster.Patch{}, out: oneCluster{}, do: s.changeCluster},
		{method: "DELETE", path: "/api/v1/clusters/{id}", access: govern, summary: "Delete a cluster that has no nodes", do: s.deleteCluster},
		{method: "GET", path: "/api/v1/clusters/{id}/nodes", access: look, summary: "The nodes of a cluster; of one role, if asked for", out: list[oneNode]{}, page: true, query: []string{"role"}, do: s.nodes},
		{method: "GET", path: "/api/v1/nodes/{id}", access: look, summary: "A node", out: oneNode{}, do: s.node},
		{method: "POST", path: "/api/v1/nodes/{id}/revoke", access: govern, summary: "Have the others refuse a node, which can renew its certificate no more; it is forgotten when that has expired", out: oneNode{}, do: s.revokeNode},
		{method: "GET", path: "/api/v1/join-tokens", access: govern, summary: "Join tokens, without what is secret of them", out: list[joinToken]{}, page: true, do: s.joinTokens},
		{method: "POST", path: "/api/v1/join-tokens", access: govern, summary: "Create a join token; only this answer shows it", in: cluster.TokenOrder{}, out: createdJoinToken{}, status: http.StatusCreated, do: s.createJoinToken},
		{method: "DELETE", path: "/api/v1/join-tokens/{id}", access: govern, summary: "Delete a join token; nodes that joined with it stay", do: s.deleteJoinToken},
	}
}

type oneCluster struct {
	ID       int64          `json:"id"`
	Name     string         `json:"name"`
	Standard bool           `json:"default"`
	Scope    store.Scope    `json:"scope"`
	Settings store.Settings `json:"settings"`
	Nodes    []census       `json:"nodes"`
	Created  time.Time      `json:"created_at"`
	Updated  time.Time      `json:"updated_at"`
}

type census struct {
	Role    string `json:"role"`
	All     int64  `json:"all"`
	Alive   int64  `json:"alive"`
	Revoked int64  `json:"revoked"`
}

// showClusters returns how clusters are shown.
func (s *Server) showClusters(c *call) (func(store.Cluster) oneCluster, error) {
	counts, err := s.Store.Census(c.Context())
	return func(k store.Cluster) oneCluster {
		o := oneCluster{k.ID, k.Name, k.Standard, k.Scope, k.Settings, []census{}, k.Created, k.Updated}
		for _, l := range []*[]string{&o.Scope.CIDRs, &o.Scope.Hostnames, &o.Scope.IDCs, &o.Scope.Locations, &o.Settings.Blocked} {
			if *l == nil {
				*l = []string{}
			}
		}
		for _, n := range counts {
			if n.Cluster == k.ID {
				o.Nodes = append(o.Nodes, census{n.Role, n.All, n.Alive, n.Revoked})
			}
		}
		return o
	}, err
}

func (s *Server) showCluster(c *call, k store.Cluster, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	show, err := s.showClusters(c)
	return show(k), err
}

func (s *Server) clusters(c *call) (any, error) {
	p, err := c.part()
	if err != nil {
		return nil, err
	}
	all, err := s.Store.Clusters(c.Context(), p)
	if err != nil {
		return nil, err
	}
	show, err := s.showClusters(c)
	return page(p, all, func(k store.Cluster) int64 { return k.ID }, show), err
}

func (s *Server) createCluster(c *call) (any, error) {
	in, err := body[cluster.Order](c)
	if err != nil {
		return nil, err
	}
	k, err := s.Clusters.Create(c.Context(), c.by(), in)
	return s.showCluster(c, k, err)
}

func (s *Server) cluster(c *call) (any, error) {
	id, err := c.id("id")
	if err != nil {
		return nil, err
	}
	k, err := s.Store.Cluster(c.Context(), id)
	return s.showCluster(c, k, err)
}

func (s *Server) changeCluster(c *call) (any, error) {
	id, err := c.id("id")
	if err != nil {
		return nil, err
	}
	in, err := body[cluster.Patch](c)
	if err != nil {
		return nil, err
	}
	k, err := s.Clusters.Change(c.Context(), c.by(), id, in)
	return s.showCluster(c, k, err)
}

func (s *Server) deleteCluster(c *call) (any, error) {
	id, err := c.id("id")
	if err != nil {
		return nil, err
	}
	err = s.Store.DeleteCluster(c.Context(), c.by(), id)
	if errors.Is(err, store.ErrState) {
		err = &Error{Status: http.StatusConflict, Code: "conflict", Message: "it is the default cluster, or has nodes"}
	}
	return nil, err
}

type oneNode struct {
	ID       int64      `json:"id"`
	Cluster  int64      `json:"cluster_id"`
	Name     string     `json:"name"`
	Role     string     `json:"role"`
	State    string     `json:"state"` // alive, dead or revoked
	Address  string     `json:"address"`
	Hostname string     `json:"hostname"`
	IDC      string     `json:"idc"`
	Location string     `json:"location"`
	Version  string     `json:"version"`
	Seen     *time.Time `json:"changed_at"` // when it came or went last
	Joined   time.Time  `json:"joined_at"`
	Until    time.Time  `json:"certificate_expires_at"`
	Load     *nodeLoad  `json:"load"` // nil: it has said nothing
}

// nodeLoad is how busy a node was when it said so last.
type nodeLoad struct {
	At      time.Time `json:"at"`
	Origin  int64     `json:"origin"` // bytes per second, of late
	Peers   int64     `json:"peers"`
	Sent    int64     `json:"sent"`
	Kept    int64     `json:"kept"` // bytes of blobs on its disk
	Uploads int64     `json:"uploads"`
	Waiting int64     `json:"waiting_reads"`
}

func showNode(n store.Node, loads map[int64]store.Load) oneNode {
	o := oneNode{n.ID, n.Cluster, n.Name, n.Role, n.State(), n.Address, n.Hostname, n.IDC, n.Location, n.Version, when(n.Seen), n.Joined, n.Until, nil}
	if l, said := loads[n.ID]; said {
		o.Load = &nodeLoad{l.At, l.Origin, l.Peers, l.Sent, l.Kept, l.Uploads, l.Waiting}
	}
	return o
}

func (s *Server) nodes(c *call) (any, error) {
	id, p, err := s.clusterPart(c)
	if err != nil {
		return nil, err
	}
	role := c.URL.Query().Get("role")
	if role != "" {
		if err := cluster.CheckRole(role); err != nil {
			return nil, invalid(map[string]string{"role": err.Error()})
		}
	}
	all, err := s.Store.Nodes(c.Context(), id, role, p)
	if err != nil || len(all) == 0 {
		return list[oneNode]{Items: []oneNode{}}, err
	}
	loads, err := s.Store.Loads(c.Context(), id, all[0].ID, all[len(all)-1].ID)
	return page(p, all, func(n store.Node) int64 { return n.ID }, func(n store.Node) oneNode { return showNode(n, loads) }), err
}

// clusterPart is the cluster in the path, which is there, and which part of a list
// is asked for.
func (s *Server) clusterPart(c *call) (id int64, p store.Page, err error) {
	if id, err = c.id("id"); err != nil {
		return id, p, err
	}
	if p, err = c.part(); err != nil {
		return id, p, err
	}
	_, err = s.Store.Cluster(c.Context(), id)
	return id, p, err
}

func (s *Server) node(c *call) (any, error) {
	id, err := c.id("id")
	if err != nil {
		return nil, err
	}
	n, err := s.Store.Node(c.Context(), id)
	return s.withLoad(c, n, err)
}

func (s *Server) withLoad(c *call, n store.Node, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	loads, err := s.Store.Loads(c.Context(), n.Cluster, n.ID, n.ID)
	return showNode(n, loads), err
}

func (s *Server) revokeNode(c *call) (any, error) {
	id, err := c.id("id")
	if err != nil {
		return nil, err
	}
	n, err := s.Clusters.Revoke(c.Context(), c.by(), id)
	return s.withLoad(c, n, err)
}

type joinToken struct {
	ID      int64      `json:"id"`
	Cluster int64      `json:"cluster_id"` // 0: the one that fits
	Role    string     `json:"role"`
	Once    bool       `json:"once"`
	Uses    int64      `json:"uses"`
	Used    *time.Time `json:"last_used_at"`
	Actor   string     `json:"created_by"`
	Created time.Time  `json:"created_at"`
	Expires time.Time  `json:"expires_at"`
}

func showJoinToken(k store.JoinToken) joinToken {
	return joinToken{k.ID, k.Cluster, k.Role, k.Once, k.Uses, when(k.Used), k.Actor, k.Created, k.Expires}
}

type createdJoinToken struct {
	joinToken
	Token string `json:"token"`
}

func (s *Server) joinTokens(c *call) (any, error) {
	p, err := c.part()
	if err != nil {
		return nil, err
	}
	all, err := s.Store.JoinTokens(c.Context(), p)
	return page(p, all, func(k store.JoinToken) int64 { return k.ID }, showJoinToken), err
}

func (s *Server) createJoinToken(c *call) (any, error) {
	in, err := body[cluster.TokenOrder](c)
	if err != nil {
		return nil, err
	}
	k, text, err := s.Clusters.CreateToken(c.Context(), c.by(), in)
	return createdJoinToken{showJoinToken(k), text}, err
}

func (s *Server) deleteJoinToken(c *call) (any, error) {
	id, err := c.id("id")
	if err != nil {
		return nil, err
	}
	return nil, s.Store.DeleteJoinToken(c.Context(), c.by(), id)
}
