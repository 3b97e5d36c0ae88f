package console

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
)

// clusterRow is a cluster in the list of all.
type clusterRow struct {
	store.Cluster
	Schedulers, Seeds, Hosts store.Census
}

// scopeForm is a scope as it is typed: words.
type scopeForm struct{ CIDRs, Hostnames, IDCs, Locations string }

func scopeOf(v *web.Visit) (f scopeForm, s store.Scope) {
	f = scopeForm{v.PostFormValue("cidrs"), v.PostFormValue("hostnames"), v.PostFormValue("idcs"), v.PostFormValue("locations")}
	return f, store.Scope{CIDRs: typed(f.CIDRs), Hostnames: typed(f.Hostnames), IDCs: typed(f.IDCs), Locations: typed(f.Locations)}
}

func showScope(s store.Scope) scopeForm {
	words := func(all []string) string { return strings.Join(all, " ") }
	return scopeForm{words(s.CIDRs), words(s.Hostnames), words(s.IDCs), words(s.Locations)}
}

// Lists returns what of a scope is not empty, for people.
func (r clusterRow) Lists() (all []string) {
	for _, l := range []struct {
		name string
		list []string
	}{{"address", r.Scope.CIDRs}, {"host name", r.Scope.Hostnames}, {"idc", r.Scope.IDCs}, {"location", r.Scope.Locations}} {
		if len(l.list) > 0 {
			all = append(all, l.name+" "+strings.Join(l.list, " or "))
		}
	}
	return all
}

// typed are the words of a field.
func typed(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' })
}

// clusterList is all clusters, and the form for one more.
type clusterList struct {
	Clusters []clusterRow
	Next     string
	Name     string
	Scope    scopeForm
	Fields   field.Errors
}

func (c *Console) clusters(v *web.Visit) error {
	return c.showClusters(v, http.StatusOK, clusterList{})
}

func (c *Console) showClusters(v *web.Visit, status int, l clusterList) error {
	all, err := c.Store.Clusters(v.Context(), part(v))
	if err != nil {
		return err
	}
	l.Next = next(v, all, func(k store.Cluster) int64 { return k.ID })
	counts, err := c.Store.Census(v.Context())
	if err != nil {
		return err
	}
	for _, k := range all {
		row := clusterRow{Cluster: k}
		for _, n := range counts {
			if n.Cluster != k.ID {
				continue
			}
			switch n.Role {
			case "scheduler":
				row.Schedulers = n
			case "seed":
				row.Seeds = n
			default:
				row.Hosts = n
			}
		}
		l.Clusters = append(l.Clusters, row)
	}
	return c.show(v, status, frame{Title: "Clusters", Page: "clusters", Body: l})
}

func (c *Console) createCluster(v *web.Visit) error {
	l := clusterList{Name: strings.TrimSpace(v.PostFormValue("name"))}
	var scope store.Scope
	l.Scope, scope = scopeOf(v)
	k, err := c.Clusters.Create(v.Context(), v.By(), cluster.Order{Name: l.Name, Scope: scope})
	if l.Fields = fieldsOf(err, "is that of another cluster"); l.Fields != nil {
		return c.showClusters(v, http.StatusBadRequest, l)
	}
	if err != nil {
		return err
	}
	return see(v, clusterPath(k.ID))
}

// fieldsOf is what is wrong with what was typed; nil: it is something else that is.
func fieldsOf(err error, taken string) field.Errors {
	var wrong field.Errors
	switch {
	case errors.As(err, &wrong):
		return wrong
	case errors.Is(err, store.ErrExists):
		return field.Errors{"name": taken}
	}
	return nil
}

func clusterPath(id int64) string { return "/clusters/" + strconv.FormatInt(id, 10) }

// settingsForm is what holds in a cluster, as it is typed: limits in MiB per second.
type settingsForm struct {
	Cluster                         store.Cluster
	Name                            string
	Scope                           scopeForm
	Download, Upload, Origin, Slots string
	Blocked                         string
	Standard                        bool
	Problem                         string
	Fields                          field.Errors
}

func (c *Console) settings(v *web.Visit) error {
	k, err := c.clusterBy(v.Context(), v)
	if err != nil {
		return err
	}
	s := k.Settings
	return c.showSettings(v, http.StatusOK, settingsForm{
		Cluster: k, Name: k.Name, Scope: showScope(k.Scope), Download: mebibytes(s.Download), Upload: mebibytes(s.Upload), Origin: mebibytes(s.Origin),
		Slots: strconv.FormatInt(s.OriginRequests, 10), Blocked: strings.Join(s.Blocked, " "), Standard: k.Standard,
	})
}

func (c *Console) showSettings(v *web.Visit, status int, f settingsForm) error {
	return c.show(v, status, frame{Title: "Settings of " + f.Cluster.Name, Page: "settings", Body: f})
}

// mebibytes writes bytes as MiB.
func mebibytes(n int64) string { return strconv.FormatFloat(float64(n)/(1<<20), 'f', -1, 64) }

// limits reads numbers of a form; wrong says which are none.
func (f settingsForm) limits(wrong field.Errors) (s store.Settings) {
	for _, l := range []struct {
		field, text string
		to          *int64
		unit        float64
	}{
		{"download", f.Download, &s.Download, 1 << 20}, {"upload", f.Upload, &s.Upload, 1 << 20}, {"origin", f.Origin, &s.Origin, 1 << 20},
		{"origin_requests", f.Slots, &s.OriginRequests, 1},
	} {
		n, err := strconv.ParseFloat(l.text, 64)
		if err != nil || n < 0 || n*l.unit > 1<<50 || l.unit == 1 && n != float64(int64(n)) {
			wrong[l.field] = "must be a number, 0 for none"
			continue
		}
		*l.to = int64(n * l.unit)
	}
	s.Blocked = typed(f.Blocked)
	return s
}

func (c *Console) changeSettings(v *web.Visit) error {
	k, err := c.clusterBy(v.Context(), v)
	if err != nil {
		return err
	}
	f := settingsForm{
		Cluster: k, Name: strings.TrimSpace(v.PostFormValue("name")), Download: v.PostFormValue("download"), Upload: v.PostFormValue("upload"),
		Origin: v.PostFormValue("origin"), Slots: v.PostFormValue("origin_requests"), Blocked: v.PostFormValue("blocked"), Standard: v.PostFormValue("default") != "",
		Fields: field.Errors{},
	}
	var scope store.Scope
	f.Scope, scope = scopeOf(v)
	settings := f.limits(f.Fields)
	if len(f.Fields) > 0 {
		return c.showSettings(v, http.StatusBadRequest, f)
	}
	_, err = c.Clusters.Change(v.Context(), v.By(), k.ID, cluster.Patch{Name: &f.Name, Scope: &scope, Settings: &settings, Standard: f.Standard && !k.Standard})
	if f.Fields = fieldsOf(err, "is that of another cluster"); f.Fields != nil {
		f.Problem = f.Fields["settings"]
		return c.showSettings(v, http.StatusBadRequest, f)
	}
	if err != nil {
		return err
	}
	return see(v, clusterPath(k.ID))
}

func (c *Console) deleteCluster(v *web.Visit) error {
	k, err := c.clusterBy(v.Context(), v)
	if err != nil {
		return err
	}
	err = c.Store.DeleteCluster(v.Context(), v.By(), k.ID)
	if errors.Is(err, store.ErrState) {
		return &web.Error{Status: http.StatusConflict, Code: "conflict", Message: "It is the default cluster, or has nodes."}
	}
	if err != nil {
		return err
	}
	return see(v, "/clusters")
}

// clusterBy is the cluster in the path.
func (c *Console) clusterBy(ctx context.Context, v *web.Visit) (store.Cluster, error) {
	id, err := idOf(v, "id")
	if err != nil {
		return store.Cluster{}, err
	}
	return c.Store.Cluster(ctx, id)
}
