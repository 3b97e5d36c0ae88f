package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"
)

// Schedule makes a job again and again.
type Schedule struct {
	ID        int64
	Cron      string // when, in UTC
	Kind      string // of its jobs
	URL       string // likewise
	File      string // likewise
	Platforms []string
	Scope     string // of its jobs
	Cluster   int64  // 0: the standard one
	Secret    []byte // sealed
	Actor     string
	Created   time.Time
	Due       time.Time // when there is to be a job next
	Job       int64     // the last one; 0: there was none
}

const scheduleColumns = "id, cron, url, platforms, cluster_id, secret, actor, created, due, job_id, scope, kind, file"

func scanSchedule(s scanner) (k Schedule, err error) {
	var platforms string
	var created, due int64
	err = s.Scan(&k.ID, &k.Cron, &k.URL, &platforms, &k.Cluster, &k.Secret, &k.Actor, &created, &due, &k.Job, &k.Scope, &k.Kind, &k.File)
	k.Platforms, k.Created, k.Due = strings.Fields(platforms), fromMillis(created), fromMillis(due)
	return k, err
}

// maxSchedules is how many there may be.
const maxSchedules = 1000

// CreateSchedule adds a schedule: Cron, Kind, URL, File, Platforms, Scope, Cluster, Secret and Due of k
// count. ErrFull says that there are too many.
func (db *DB) CreateSchedule(ctx context.Context, by By, k Schedule) (Schedule, error) {
	err := db.change(ctx, by, "schedule.create", k.URL, k.Cron, func(t *sql.Tx) error {
		var n int
		if err := t.QueryRowContext(ctx, "SELECT COUNT(*) FROM schedules").Scan(&n); err != nil {
			return err
		}
		if n >= maxSchedules {
			return ErrFull
		}
		var err error
		k, err = scanSchedule(t.QueryRowContext(ctx, `INSERT INTO schedules (cron, url, platforms, cluster_id, secret, actor, created, due, job_id, scope, kind, file)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9, $10, $11) RETURNING `+scheduleColumns,
			k.Cron, k.URL, strings.Join(k.Platforms, " "), k.Cluster, k.Secret, by.Actor, millis(time.Now()), millis(k.Due), k.Scope, k.Kind, k.File))
		return err
	})
	return k, err
}

// Schedules returns a page of all schedules, in the order in which they were
// created.
func (db *DB) Schedules(ctx context.Context, p Page) ([]Schedule, error) {
	return list(ctx, db, scanSchedule, "SELECT "+scheduleColumns+" FROM schedules WHERE id > $1 ORDER BY id LIMIT $2", p.After, p.Limit)
}

// DeleteSchedule removes a schedule; its jobs stay.
func (db *DB) DeleteSchedule(ctx context.Context, by By, id int64) error {
	return db.tx(ctx, func(t *sql.Tx) error {
		k, err := scanSchedule(t.QueryRowContext(ctx, "DELETE FROM schedules WHERE id = $1 RETURNING "+scheduleColumns, id))
		if err != nil {
			return err
		}
		return note(ctx, t, by, "schedule.delete", k.URL, k.Cron)
	})
}

// Fire makes a job of one schedule that is due, which next makes due again; for a
// time that has passed while nobody looked there is one job, however many it would
// have been. Whoever else fires at the same time gets another schedule. ErrNotFound
// says that none is due.
func (db *DB) Fire(ctx context.Context, now time.Time, deadline, next func(Schedule) time.Time) (j Job, err error) {
	err = db.tx(ctx, func(t *sql.Tx) error {
		k, err := scanSchedule(t.QueryRowContext(ctx, "SELECT "+scheduleColumns+" FROM schedules WHERE due <= $1 ORDER BY due, id LIMIT 1"+db.engine.skip, millis(now)))
		if err != nil {
			return err
		}
		j, err = insertJob(ctx, t, k.Actor, Job{Kind: k.Kind, URL: k.URL, File: k.File, Platforms: k.Platforms, Scope: k.Scope, Cluster: k.Cluster, Secret: k.Secret, Deadline: deadline(k)})
		if err != nil {
			return err
		}
		if err := note(ctx, t, By{Actor: k.Actor}, "job.create", k.URL, fmt.Sprintf("by schedule %d", k.ID)); err != nil {
			return err
		}
		return one(t.ExecContext(ctx, "UPDATE schedules SET due = $2, job_id = $3 WHERE id = $1", k.ID, millis(next(k)), j.ID))
	})
	return j, err
}
