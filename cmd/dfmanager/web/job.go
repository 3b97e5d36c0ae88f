package web

import (
	"errors"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/auth"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

var order = access{role: store.Operator, scope: auth.Preheat}

func (s *Server) jobRoutes() []route {
	return []route{
		{method: "POST", path: "/api/v1/jobs", access: order, summary: "Preheat an image, named by image or by url", in: newJob{}, out: oneJob{}, status: http.StatusCreated, do: s.createJob},
		{method: "GET", path: "/api/v1/jobs", access: look, summary: "All jobs, newest first; of one state, if asked for", out: list[oneJob]{}, page: true, query: []string{"state"}, do: s.jobs},
		{method: "GET", path: "/api/v1/jobs/{id}", access: look, summary: "A job", out: oneJob{}, do: s.job},
		{method: "GET", path: "/api/v1/jobs/{id}/blobs", access: look, summary: "The blobs of a job, largest first, and who has them", out: list[jobBlob]{}, do: s.jobBlobs},
		{method: "POST", path: "/api/v1/jobs/{id}/cancel", access: order, summary: "Cancel a job", out: oneJob{}, do: s.cancelJob},
	}
}

type newJob struct {
	Image     string   `json:"image,omitempty"`      // nginx:1.29
	URL       string   `json:"url,omitempty"`        // https://HOST/v2/…/manifests/…
	PlainHTTP bool     `json:"plain_http,omitempty"` // of the registry that image names
	Platforms []string `json:"platforms,omitempty"`  // linux/amd64
	User      string   `json:"registry_user,omitempty"`
	Password  string   `json:"registry_password,omitempty"`
	Token     string   `json:"registry_token,omitempty"`
}

type oneJob struct {
	ID        int64      `json:"id"`
	Kind      string     `json:"kind"`
	URL       string     `json:"url"`
	Platforms []string   `json:"platforms"`
	State     string     `json:"state"`
	Error     string     `json:"error"`
	Digest    string     `json:"digest"`
	Actor     string     `json:"created_by"`
	Created   time.Time  `json:"created_at"`
	Updated   time.Time  `json:"updated_at"`
	Started   *time.Time `json:"started_at"`
	Finished  *time.Time `json:"finished_at"`
	Deadline  time.Time  `json:"deadline"`
	Tries     int        `json:"failed_tries"`
	Cancel    bool       `json:"cancelled"`
}

func showJob(j store.Job) oneJob {
	platforms := j.Platforms
	if platforms == nil {
		platforms = []string{}
	}
	return oneJob{
		j.ID, j.Kind, j.URL, platforms, string(j.State), j.Error, j.Digest, j.Actor, j.Created, j.Updated,
		when(j.Started), when(j.Finished), j.Deadline, j.Tries, j.Cancel,
	}
}

var platform = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+(/[a-z0-9.]+)?$`)

func (s *Server) createJob(c *call) (any, error) {
	in, err := body[newJob](c)
	if err != nil {
		return nil, err
	}
	q := job.Request{Platforms: in.Platforms, Credential: registry.Credential{User: in.User, Password: in.Password}}
	fields := map[string]string{}
	field, parse := "image", func() (registry.Ref, error) { return registry.ParseName(in.Image, in.PlainHTTP) }
	if in.URL != "" {
		field, parse = "url", func() (registry.Ref, error) { return registry.ParseURL(in.URL) }
	}
	if q.Ref, err = parse(); err != nil {
		fields[field] = err.Error()
	}
	if in.URL != "" && in.Image != "" {
		fields["url"] = "must not be given together with image"
	}
	if slices.ContainsFunc(in.Platforms, func(p string) bool { return !platform.MatchString(p) }) || len(in.Platforms) > 20 {
		fields["platforms"] = "must be like linux/amd64 or linux/arm/v7, 20 at most"
	}
	if in.Token != "" {
		q.Credential = registry.Credential{Authorization: "Bearer " + in.Token}
		if in.User != "" || in.Password != "" || !printable(in.Token) {
			fields["registry_token"] = "must be printable, and not be given together with a user and password"
		}
	}
	if err := invalid(fields); err != nil {
		return nil, err
	}
	j, err := s.create(c, q)
	return showJob(j), err
}

// create adds a job.
func (s *Server) create(c *call, q job.Request) (store.Job, error) {
	j, err := s.Jobs.Create(c.Context(), c.by(), q)
	switch {
	case errors.Is(err, job.ErrNoCluster):
		return j, &Error{Status: http.StatusConflict, Code: "no_cluster", Message: err.Error()}
	case errors.Is(err, store.ErrFull):
		return j, &Error{Status: http.StatusTooManyRequests, Code: "too_many_jobs", Message: err.Error(), RetryAfter: 30 * time.Second}
	}
	return j, err
}

func (s *Server) jobs(c *call) (any, error) {
	p, err := c.part()
	if err != nil {
		return nil, err
	}
	state := store.State(c.URL.Query().Get("state"))
	if state != "" && state != store.Waiting && state != store.Running && !state.Done() {
		return nil, invalid(map[string]string{"state": "must be waiting, running, succeeded, failed or cancelled"})
	}
	all, err := s.Store.Jobs(c.Context(), state, p)
	return page(p, all, func(j store.Job) int64 { return j.ID }, showJob), err
}

func (s *Server) jobOf(c *call) (store.Job, error) {
	id, err := c.id("id")
	if err != nil {
		return store.Job{}, err
	}
	return s.Store.Job(c.Context(), id)
}

func (s *Server) job(c *call) (any, error) {
	j, err := s.jobOf(c)
	return showJob(j), err
}

type jobBlob struct {
	Digest  string    `json:"digest"`
	Kind    string    `json:"kind"`
	Size    int64     `json:"size"`
	Got     int64     `json:"in_place"`
	Host    string    `json:"host"`
	Address string    `json:"address"`
	State   string    `json:"state"`
	Error   string    `json:"error"`
	Updated time.Time `json:"updated_at"`
}

func (s *Server) jobBlobs(c *call) (any, error) {
	j, err := s.jobOf(c)
	if err != nil {
		return nil, err
	}
	all, err := s.Store.JobBlobs(c.Context(), j.ID)
	return page(store.Page{Limit: -1}, all, nil, func(b store.JobBlob) jobBlob {
		return jobBlob{b.Digest, b.Kind, b.Size, b.Got, b.Host, b.Address, string(b.State), b.Error, b.Updated}
	}), err
}

func (s *Server) cancelJob(c *call) (any, error) {
	id, err := c.id("id")
	if err != nil {
		return nil, err
	}
	j, err := s.Store.CancelJob(c.Context(), c.by(), id)
	if errors.Is(err, store.ErrState) {
		return nil, &Error{Status: http.StatusConflict, Code: "conflict", Message: "the job has ended"}
	}
	return showJob(j), err
}
