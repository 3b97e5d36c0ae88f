package web

import (
	"net/http"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

func (s *Server) scheduleRoutes() []route {
	return []route{
		{method: "GET", path: "/api/v1/schedules", access: look, summary: "Images and files that are preheated again and again", out: list[oneSchedule]{}, page: true, do: s.schedules},
		{method: "POST", path: "/api/v1/schedules", access: order, summary: "Preheat an image, or a file, again and again, when cron says (UTC)", in: job.Plan{}, out: oneSchedule{}, status: http.StatusCreated, do: s.createSchedule},
		{method: "DELETE", path: "/api/v1/schedules/{id}", access: order, summary: "Delete a schedule; its jobs stay", do: s.deleteSchedule},
	}
}

type oneSchedule struct {
	ID        int64     `json:"id"`
	Cron      string    `json:"cron"`
	Kind      string    `json:"kind"`
	Image     string    `json:"image"`
	URL       string    `json:"url"`
	Platforms []string  `json:"platforms"`
	Cluster   int64     `json:"cluster_id"` // 0: the default one
	Actor     string    `json:"created_by"`
	Created   time.Time `json:"created_at"`
	Due       time.Time `json:"next_at"`
	Job       int64     `json:"last_job_id"` // 0: there was none
	job.Scope
}

func showSchedule(k store.Schedule) oneSchedule {
	return oneSchedule{k.ID, k.Cron, k.Kind, registry.Name(k.URL), k.URL, append([]string{}, k.Platforms...), k.Cluster, k.Actor, k.Created, k.Due, k.Job, job.ScopeOf(k.Scope)}
}

func (s *Server) schedules(c *call) (any, error) {
	p, err := c.part()
	if err != nil {
		return nil, err
	}
	all, err := s.Store.Schedules(c.Context(), p)
	return page(p, all, func(k store.Schedule) int64 { return k.ID }, showSchedule), err
}

func (s *Server) createSchedule(c *call) (any, error) {
	in, err := body[job.Plan](c)
	if err != nil {
		return nil, err
	}
	k, err := s.Jobs.CreateSchedule(c.Context(), c.by(), in)
	return showSchedule(k), err
}

func (s *Server) deleteSchedule(c *call) (any, error) {
	id, err := c.id("id")
	if err != nil {
		return nil, err
	}
	return nil, s.Store.DeleteSchedule(c.Context(), c.by(), id)
}
