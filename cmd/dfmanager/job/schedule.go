package job

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/adhocore/gronx"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// Plan is an image or file to be preheated again and again.
type Plan struct {
	Order
	Cron string `json:"cron"` // minute, hour, day, month and weekday, or @daily; in UTC
}

// errCron says what a time is.
var errCron = errors.New("must be five fields, such as 30 4 * * 1-5 (minute, hour, day, month, weekday; UTC), or @hourly, @daily, @weekly or @monthly")

// nextAt is when a cron expression says, after a time.
func nextAt(cron string, after time.Time) (time.Time, error) {
	if n := len(strings.Fields(cron)); n != 5 && (n != 1 || !strings.HasPrefix(cron, "@")) || !gronx.IsValid(cron) {
		return time.Time{}, errCron
	}
	t, err := gronx.NextTickAfter(cron, after.UTC(), false)
	if err != nil || !t.After(after) {
		return time.Time{}, errors.New("is a time that never comes")
	}
	return t, nil
}

// CreateSchedule makes a job of an order each time that its plan says. What is wrong
// with it are field.Errors.
func (r *Runner) CreateSchedule(ctx context.Context, by store.By, p Plan) (k store.Schedule, err error) {
	q, err := p.Request()
	wrong := field.Errors{}
	if err != nil && !errors.As(err, &wrong) {
		return k, err
	}
	p.Cron = strings.Join(strings.Fields(p.Cron), " ")
	j := q.job(0)
	k = store.Schedule{Cron: p.Cron, Kind: j.Kind, URL: j.URL, File: j.File, Platforms: j.Platforms, Scope: j.Scope, Cluster: j.Cluster}
	k.Due, err = nextAt(p.Cron, time.Now())
	wrong.Check("cron", err)
	if q.Remove {
		wrong["kind"] = "must be image or file, again and again"
	}
	if strings.HasPrefix(q.Credential.Authorization, "Bearer") {
		wrong["registry_token"] = "expires before long: give a user and password"
	}
	if err := wrong.Err(); err != nil {
		return k, err
	}
	if err := r.check(ctx, q); err != nil {
		return k, err
	}
	if k.Secret, err = r.seal(q.secret()); err != nil {
		return k, err
	}
	return r.Store.CreateSchedule(ctx, by, k)
}

// fire makes jobs of the schedules that are due.
func (r *Runner) fire() {
	t := time.NewTicker(r.Pace.Poll)
	defer t.Stop()
	for {
		for r.fireOne() {
		}
		select {
		case <-t.C:
		case <-r.ctx.Done():
			return
		}
	}
}

// fireOne makes a job of a schedule that is due, and reports whether there was one.
func (r *Runner) fireOne() bool {
	now := time.Now()
	j, err := r.Store.Fire(r.ctx, now, func(k store.Schedule) time.Time { return now.Add(ScopeOf(k.Scope).timeout(r.Timeout)) }, func(k store.Schedule) time.Time {
		next, err := nextAt(k.Cron, now)
		if err != nil { // it was checked, by a version that knew more
			r.Log.Error("a schedule cannot be read", "schedule", k.ID, "cron", k.Cron, "err", err)
			next = now.AddDate(1, 0, 0)
		}
		return next
	})
	switch {
	case err == nil:
		r.Log.Info("a schedule makes a job", "job", j.ID, "image", j.URL)
		r.look()
		return true
	case !errors.Is(err, store.ErrNotFound) && r.ctx.Err() == nil:
		r.Log.Warn("schedules cannot be looked for", "err", err)
	}
	return false
}
