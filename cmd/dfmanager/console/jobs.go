package console

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// jobView is a job as it is shown.
type jobView struct {
	store.Job
	Image string // its name
	Plain bool   // its registry is reached without TLS
}

func viewJob(j store.Job) jobView {
	v := jobView{Job: j, Image: j.URL}
	if ref, err := registry.ParseURL(j.URL); err == nil {
		v.Image, v.Plain = ref.String(), ref.Scheme == "http"
	}
	return v
}

func viewJobs(all []store.Job) []jobView {
	out := make([]jobView, len(all))
	for i, j := range all {
		out[i] = viewJob(j)
	}
	return out
}

// Took is how long it ran, or has been running.
func (j jobView) Took() time.Duration {
	switch {
	case j.Started.IsZero():
		return 0
	case j.Finished.IsZero():
		return time.Since(j.Started).Truncate(time.Second)
	}
	return j.Finished.Sub(j.Started)
}

// Word is the state, and what is going to become of it.
func (j jobView) Word() string {
	switch {
	case j.Cancel && !j.State.Done():
		return "being cancelled"
	case j.State == store.Waiting && j.Tries > 0:
		return "to be tried again"
	}
	return string(j.State)
}

const perPage = 50

// part is which part of a list is asked for. What makes no sense is the start.
func part(v *web.Visit) store.Page {
	after, err := strconv.ParseInt(v.URL.Query().Get("after"), 10, 64)
	if err != nil || after < 0 {
		after = 0
	}
	return store.Page{After: after, Limit: perPage}
}

// next is where the following part of a list is; "": there is none.
func next[T any](v *web.Visit, all []T, id func(T) int64) string {
	if len(all) < perPage {
		return ""
	}
	q := v.URL.Query()
	q.Set("after", strconv.FormatInt(id(all[len(all)-1]), 10))
	return v.URL.Path + "?" + q.Encode()
}

// jobList is a page of jobs.
type jobList struct {
	Jobs    []jobView
	Filters []link
	First   string // where the list begins; "": it is shown
	Next    string
}

var states = []store.State{"", store.Running, store.Waiting, store.Succeeded, store.Failed, store.Cancelled}

func (c *Console) jobFrame(ctx context.Context, v *web.Visit) (f frame, err error) {
	q := v.URL.Query()
	list := jobList{}
	chosen := store.State("")
	for _, s := range states {
		l := link{Name: string(s), Path: "/jobs?state=" + string(s)}
		if s == "" {
			l.Name, l.Path = "all", "/jobs"
		}
		if l.Here = string(s) == q.Get("state"); l.Here {
			chosen = s
		}
		list.Filters = append(list.Filters, l)
	}
	p := part(v)
	all, err := c.Store.Jobs(ctx, chosen, p)
	if err != nil {
		return f, err
	}
	list.Jobs = viewJobs(all)
	if p.After > 0 {
		list.First = "/jobs?" + url.Values{"state": {string(chosen)}}.Encode()
	}
	v.URL.Path = strings.TrimSuffix(v.URL.Path, "/events")
	list.Next = next(v, all, func(j store.Job) int64 { return j.ID })
	return frame{Title: "Preheat", Page: "jobs", Live: "/jobs/events?" + q.Encode(), Body: list}, nil
}

func (c *Console) jobs(v *web.Visit) error {
	f, err := c.jobFrame(v.Context(), v)
	if err != nil {
		return err
	}
	return c.show(v, http.StatusOK, f)
}

func (c *Console) jobsEvents(v *web.Visit) error {
	return c.live(v, func(ctx context.Context) (frame, bool, error) {
		f, err := c.jobFrame(ctx, v)
		return f, false, err
	})
}

// jobDetail is a job with its blobs.
type jobDetail struct {
	Job       jobView
	Blobs     []store.JobBlob
	Size, Got int64
	Ready     int // blobs that are in place
	Hosts     []string
	May       bool   // the visitor may order
	Repeat    string // where the form for the same is
	In        string // its cluster; "": the default one
	Scope     job.Scope
	Where     []store.HostSum // some of the hosts of that
	At        int             // how many hosts there are
}

// Removes reports whether it is about taking away.
func (d jobDetail) Removes() bool { return d.Job.Kind == job.Remove }

// File is what a job for a file says of it; nil: it is for none.
func (d jobDetail) File() *job.FileOptions { return job.FileOf(d.Job.Job) }

// Removal is where what the job has brought can be removed; "": nowhere.
func (d jobDetail) Removal() string {
	switch {
	case d.Job.Kind == job.Image:
		return d.Repeat + "&remove=image"
	case d.Job.Kind == job.File && d.Job.Digest != "":
		return "/jobs/new?" + url.Values{"remove": {d.Job.Digest}, "cluster": {strconv.FormatInt(d.Job.Cluster, 10)}}.Encode()
	}
	return ""
}

// Percent is how much is in place; never 100 before all is.
func (d jobDetail) Percent() int {
	if d.Removes() && len(d.Blobs) > 0 {
		return d.Ready * 100 / len(d.Blobs)
	}
	if d.Size == 0 {
		return 0
	}
	return int(d.Got * 100 / d.Size)
}

// idOf is the number in the path. What is not one does not exist.
func idOf(v *web.Visit, name string) (int64, error) {
	n, err := strconv.ParseInt(v.PathValue(name), 10, 64)
	if err != nil || n <= 0 {
		return 0, store.ErrNotFound
	}
	return n, nil
}

func (c *Console) jobDetail(ctx context.Context, v *web.Visit) (f frame, final bool, err error) {
	id, err := idOf(v, "id")
	if err != nil {
		return f, false, err
	}
	j, err := c.Store.Job(ctx, id)
	if err != nil {
		return f, false, err
	}
	d := jobDetail{Job: viewJob(j), Repeat: "/jobs/new?from=" + strconv.FormatInt(id, 10)}
	if k, err := c.Store.Cluster(ctx, j.Cluster); err == nil {
		d.In = k.Name
	} else if !errors.Is(err, store.ErrNotFound) {
		return f, false, err
	}
	if d.Blobs, err = c.Store.JobBlobs(ctx, id); err != nil {
		return f, false, err
	}
	d.Scope = job.ScopeOf(j.Scope)
	if d.Where, d.At, err = c.Store.HostSums(ctx, id, maxRows); err != nil {
		return f, false, err
	}
	seen := map[string]bool{}
	for _, b := range d.Blobs {
		d.Size += b.Size
		d.Got += b.Got
		if b.State == store.Succeeded {
			d.Ready++
		}
		if b.Host != "" && !seen[b.Host] {
			seen[b.Host] = true
			d.Hosts = append(d.Hosts, b.Host)
		}
	}
	f = frame{Title: d.Job.Image, Page: "job", Body: d}
	if !j.State.Done() {
		f.Live = "/jobs/" + strconv.FormatInt(id, 10) + "/events"
	}
	return f, j.State.Done(), nil
}

func (c *Console) job(v *web.Visit) error {
	f, _, err := c.jobDetail(v.Context(), v)
	if err != nil {
		return err
	}
	return c.show(v, http.StatusOK, f)
}

func (c *Console) jobEvents(v *web.Visit) error {
	return c.live(v, func(ctx context.Context) (frame, bool, error) { return c.jobDetail(ctx, v) })
}

func (c *Console) cancelJob(v *web.Visit) error {
	id, err := idOf(v, "id")
	if err != nil {
		return err
	}
	if _, err := c.Store.CancelJob(v.Context(), v.By(), id); err != nil && !errors.Is(err, store.ErrState) {
		return err // one that has ended is shown as it is
	}
	return see(v, "/jobs/"+strconv.FormatInt(id, 10))
}

// jobForm is what is typed to have an image preheated, but for secrets.
type jobForm struct {
	Image, Platforms, User string
	Cron                   string // "": once, now
	Cluster                int64
	Clusters               []store.Cluster
	Scope                  job.Scope
	Kinds                  []string
	Hosts                  string // of the scope
	File                   *fileForm
	Remove                 bool   // in place of preheating
	Blob                   string // to be removed
	Find                   bool   // it is only looked for
	Plain                  bool
	Problem                string
	Fields                 field.Errors
	Ready                  bool // there is a scheduler
}

func (c *Console) newJob(v *web.Visit) error {
	form := jobForm{}
	if id, err := strconv.ParseInt(v.URL.Query().Get("from"), 10, 64); err == nil {
		j, err := c.Store.Job(v.Context(), id)
		if err != nil {
			return err
		}
		again := viewJob(j)
		form.Image, form.Plain, form.Platforms = again.Image, again.Plain, strings.Join(j.Platforms, " ")
		form.Cluster, form.Scope, form.Remove = j.Cluster, job.ScopeOf(j.Scope), j.Kind == job.Remove
		form.Hosts = strings.Join(form.Scope.Hosts, " ")
		if o := job.FileOf(j); o != nil {
			form.Image, form.File = "", &fileForm{URL: j.URL, Digest: string(o.Digest), Tag: o.Tag, Filter: strings.Join(o.Filter, " ")}
		}
		if form.Remove && p2p.ValidateDigest(digest.Digest(j.URL)) == nil {
			form.Image, form.Blob = "", j.URL
		}
	}
	if v.URL.Query().Get("kind") == job.File {
		form.File = &fileForm{}
	}
	switch what := v.URL.Query().Get("remove"); what {
	case "":
	case job.Image:
		form.Remove = true
	default:
		form.Remove, form.Blob = true, what
		form.Cluster, _ = strconv.ParseInt(v.URL.Query().Get("cluster"), 10, 64) // what is no number is the default one
	}
	return c.showNewJob(v, http.StatusOK, form)
}

func (c *Console) showNewJob(v *web.Visit, status int, form jobForm) (err error) {
	if form.Clusters, err = c.Store.AllClusters(v.Context()); err != nil {
		return err
	}
	form.Ready, form.Kinds = len(c.Schedulers()) > 0, job.Kinds
	title := "Preheat an image"
	switch {
	case form.Remove:
		title = "Remove from all hosts"
	case form.File != nil:
		title = "Preheat a file"
	}
	return c.show(v, status, frame{Title: title, Page: "new-job", Body: form})
}

// orders takes from the form what is to be done, and where.
func (f *jobForm) orders(v *web.Visit, o *job.Order) {
	number := func(name string) int {
		text := strings.TrimSpace(v.PostFormValue(name))
		n, err := strconv.Atoi(text)
		if err != nil && text != "" {
			n = -1 // which is refused
		}
		return n
	}
	f.Hosts = v.PostFormValue("hosts")
	f.Scope = job.Scope{Kind: v.PostFormValue("scope"), Percent: number("percentage"), Hosts: typed(f.Hosts), Concurrent: number("concurrent_hosts"), Seconds: number("timeout_minutes") * 60, Layers: typed(v.PostFormValue("layers"))}
	f.Remove, f.Blob = v.PostFormValue("kind") == job.Remove, v.PostFormValue("blob")
	if o.Scope = f.Scope; f.Remove {
		o.Kind, o.Blob, o.Scope.Kind = job.Remove, f.Blob, ""
	}
}

// Layers are those that are brought there; "": all.
func (f jobForm) Layers() string { return strings.Join(f.Scope.Layers, " ") }

// Minutes is for how long the job is tried; 0: as configured.
func (f jobForm) Minutes() int { return f.Scope.Seconds / 60 }

// typedOrder is what was typed of an image, or of a file.
func typedOrder(v *web.Visit) (jobForm, job.Order) {
	form := jobForm{
		Image: strings.TrimSpace(v.PostFormValue("image")), Platforms: v.PostFormValue("platforms"),
		User: v.PostFormValue("registry_user"), Cron: strings.TrimSpace(v.PostFormValue("cron")), Plain: v.PostFormValue("plain_http") != "",
	}
	form.Cluster, _ = strconv.ParseInt(v.PostFormValue("cluster_id"), 10, 64) // what is no number is the default one
	if v.PostFormValue("kind") == job.File {
		form.File = typedFile(v)
		return form, form.File.order(v, form.Cluster)
	}
	o := job.Order{
		Cluster: form.Cluster, Image: form.Image, PlainHTTP: form.Plain, User: form.User, Password: v.PostFormValue("registry_password"),
		Platforms: typed(form.Platforms),
	}
	if strings.Contains(form.Image, "://") {
		o.Image, o.URL = "", form.Image
	}
	return form, o
}

// named has the errors of what was typed into the field for an image under its name.
func (f *jobForm) named(wrong field.Errors) field.Errors {
	if f.File != nil {
		return wrong
	}
	for _, of := range []string{"url", "blob", "kind"} {
		if why, ok := wrong[of]; ok {
			wrong["image"] = why
		}
	}
	return wrong
}

func (c *Console) createJob(v *web.Visit) error {
	form, o := typedOrder(v)
	form.orders(v, &o)
	q, err := o.Request()
	var wrong field.Errors
	if errors.As(err, &wrong) {
		form.Fields = form.named(wrong)
		return c.showNewJob(v, http.StatusBadRequest, form)
	}
	if form.Cron != "" {
		return c.createSchedule(v, form, o)
	}
	j, err := c.Jobs.Create(v.Context(), v.By(), q)
	switch {
	case errors.As(err, &wrong):
		form.Fields = wrong
		return c.showNewJob(v, http.StatusBadRequest, form)
	case errors.Is(err, store.ErrFull):
		form.Problem = err.Error()
		return c.showNewJob(v, http.StatusConflict, form)
	case err != nil:
		return err
	}
	return see(v, "/jobs/"+strconv.FormatInt(j.ID, 10))
}
