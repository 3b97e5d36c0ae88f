package console

import (
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
)

// joinList is join tokens, and the form for one more.
type joinList struct {
	Tokens   []joinRow
	Next     string
	Clusters []store.Cluster
	Role     string // that was typed, as the rest
	Cluster  int64
	Once     bool
	Minutes  string
	Fields   field.Errors
	Fresh    string // one that was made just now
	Nodes    string // where its owner connects
}

// joinRow is a join token with the name of its cluster.
type joinRow struct {
	store.JoinToken
	In string // "": the one that fits
}

// Used up, or soon of no use, tokens need no attention.
func (r joinRow) UsedUp() bool { return r.Once && r.Uses > 0 }

const usualMinutes = "60"

func (c *Console) joinTokens(v *web.Visit) error {
	return c.showJoinTokens(v, http.StatusOK, joinList{Role: "host", Once: true, Minutes: usualMinutes})
}

func (c *Console) showJoinTokens(v *web.Visit, status int, l joinList) (err error) {
	if l.Clusters, err = c.Store.AllClusters(v.Context()); err != nil {
		return err
	}
	names := map[int64]string{}
	for _, k := range l.Clusters {
		names[k.ID] = k.Name
	}
	all, err := c.Store.JoinTokens(v.Context(), part(v))
	if err != nil {
		return err
	}
	for _, k := range all {
		l.Tokens = append(l.Tokens, joinRow{k, names[k.Cluster]})
	}
	l.Next = next(v, all, func(k store.JoinToken) int64 { return k.ID })
	host := v.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	l.Nodes = net.JoinHostPort(strings.Trim(host, "[]"), c.NodesPort)
	return c.show(v, status, frame{Title: "Join tokens", Page: "join-tokens", Body: l})
}

// createJoinToken answers with the token itself: nobody is led to a page of which
// the address would show it again.
func (c *Console) createJoinToken(v *web.Visit) error {
	l := joinList{Role: v.PostFormValue("role"), Once: v.PostFormValue("once") != "", Minutes: v.PostFormValue("expires_in_minutes")}
	o := cluster.TokenOrder{Role: l.Role, Once: l.Once}
	l.Cluster, _ = strconv.ParseInt(v.PostFormValue("cluster_id"), 10, 64) // what is no number is none
	o.Cluster = l.Cluster
	o.Minutes, _ = strconv.ParseInt(l.Minutes, 10, 64) // 0 is refused
	_, text, err := c.Clusters.CreateToken(v.Context(), v.By(), o)
	if l.Fields = fieldsOf(err, ""); l.Fields != nil {
		return c.showJoinTokens(v, http.StatusBadRequest, l)
	}
	if err != nil {
		return err
	}
	return c.showJoinTokens(v, http.StatusCreated, joinList{Role: l.Role, Once: true, Minutes: usualMinutes, Fresh: text})
}

func (c *Console) deleteJoinToken(v *web.Visit) error {
	id, err := idOf(v, "id")
	if err != nil {
		return err
	}
	if err := c.Store.DeleteJoinToken(v.Context(), v.By(), id); err != nil {
		return err
	}
	return see(v, "/join-tokens")
}
