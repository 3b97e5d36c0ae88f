package web

import (
	"errors"
	"net/http"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/auth"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

var order = access{role: store.Operator, scope: auth.Preheat}

func (s *Server) jobRoutes() []route {
	return []route{
		{method: "POST", path: "/api/v1/jobs", access: order, summary: "Preheat an image, named by image or by url, or with kind file the file at url, on the hosts of a scope; or remove an image, or a blob, from all hosts", in: job.Order{}, out: oneJob{}, status: http.StatusCreated, do: s.createJob},
		{method: "GET", path: "/api/v1/jobs", access: look, summary: "All jobs, newest first; of one state, if asked for", out: list[oneJob]{}, page: true, query: []string{"state"}, do: s.jobs},
		{method: "GET", path: "/api/v1/jobs/{id}", access: look, summary: "A job", out: oneJob{}, do: s.job},
		{method: "GET", path: "/api/v1/jobs/{id}/blobs", access: look, summary: "The blobs of a job, largest first, and who has them", out: list[jobBlob]{}, do: s.jobBlobs},
		{method: "GET", path: "/api/v1/jobs/{id}/hosts", access: look, summary: "The hosts of a job whose scope is not one seed, each with each blob", out: list[jobHost]{}, page: true, do: s.jobHosts},
		{method: "POST", path: "/api/v1/jobs/{id}/cancel", access: order, summary: "Cancel a job", out: oneJob{}, do: s.cancelJob},
	}
}

type oneJob struct {
	ID        int64      `json:"id"`
	Kind      string     `json:"kind"`
	Cluster   int64      `json:"cluster_id"` // 0: the default one
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

	File *job.FileOptions `json:"file"` // null: it is for no file
	job.Scope
}

func showJob(j store.Job) oneJob {
	platforms := j.Platforms
	if platforms == nil {
		platforms = []string{}
	}
	return oneJob{
		j.ID, j.Kind, j.Cluster, j.URL, platforms, string(j.State), j.Error, j.Digest, j.Actor, j.Created, j.Updated,
		when(j.Started), when(j.Finished), j.Deadline, j.Tries, j.Cancel, job.FileOf(j), job.ScopeOf(j.Scope),
	}
}

func (s *Server) createJob(c *call) (any, error) {
	in, err := body[job.Order](c)
	if err != nil {
		return nil, err
	}
	q, err := in.Request()
	if err != nil {
		return nil, err
	}
	j, err := s.create(c, q)
	return showJob(j), err
}

// create adds a job.
func (s *Server) create(c *call, q job.Request) (store.Job, error) {
	return s.Jobs.Create(c.Context(), c.by(), q)
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

type jobHost struct {
	ID      int64     `json:"id"`
	Digest  string    `json:"digest"`
	Host    string    `json:"host"`
	Address string    `json:"address"`
	State   string    `json:"state"`
	Error   string    `json:"error"`
	Updated time.Time `json:"updated_at"`
}

func (s *Server) jobHosts(c *call) (any, error) {
	j, err := s.jobOf(c)
	if err != nil {
		return nil, err
	}
	p, err := c.part()
	if err != nil {
		return nil, err
	}
	all, err := s.Store.JobHosts(c.Context(), j.ID, p)
	return page(p, all, func(h store.JobHost) int64 { return h.ID }, func(h store.JobHost) jobHost {
		return jobHost{h.ID, h.Digest, h.Host, h.Address, string(h.State), h.Error, h.Updated}
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
