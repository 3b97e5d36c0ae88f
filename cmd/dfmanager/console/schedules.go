package console

import (
	"errors"
	"net/http"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
)

// scheduleList is images that are preheated again and again.
type scheduleList struct {
	Schedules []store.Schedule
	Clusters  map[int64]string
	Next      string
}

func (c *Console) schedules(v *web.Visit) error {
	all, err := c.Store.Schedules(v.Context(), part(v))
	if err != nil {
		return err
	}
	clusters, err := c.Store.AllClusters(v.Context())
	if err != nil {
		return err
	}
	l := scheduleList{all, map[int64]string{}, next(v, all, func(k store.Schedule) int64 { return k.ID })}
	for _, k := range clusters {
		l.Clusters[k.ID] = k.Name
	}
	return c.show(v, http.StatusOK, frame{Title: "Schedules", Page: "schedules", Body: l})
}

// createSchedule has an image preheated again and again, as the form for a job says.
func (c *Console) createSchedule(v *web.Visit, form jobForm, o job.Order) error {
	_, err := c.Jobs.CreateSchedule(v.Context(), v.By(), job.Plan{Order: o, Cron: form.Cron})
	var wrong field.Errors
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
	return see(v, "/schedules")
}

func (c *Console) deleteSchedule(v *web.Visit) error {
	id, err := idOf(v, "id")
	if err != nil {
		return err
	}
	if err := c.Store.DeleteSchedule(v.Context(), v.By(), id); err != nil {
		return err
	}
	return see(v, "/schedules")
}
