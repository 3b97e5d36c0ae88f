package store

import (
	"context"
	"database/sql"
	"time"
)

// JobHour is what came of the jobs that ended in one hour.
type JobHour struct {
	Start                        time.Time
	Succeeded, Failed, Cancelled int
	Bytes                        int64 // of blobs that they found, or brought, in place
}

const hour = int64(time.Hour / time.Millisecond)

// JobHours returns the last n hours, the current one last.
func (db *DB) JobHours(ctx context.Context, now time.Time, n int) ([]JobHour, error) {
	all := make([]JobHour, n)
	first := millis(now)/hour - int64(n) + 1
	for i := range all {
		all[i].Start = fromMillis((first + int64(i)) * hour)
	}
	at := func(h int64) *JobHour { return &all[min(max(h-first, 0), int64(n)-1)] } // a clock of another manager may be ahead
	err := db.read(ctx, func(q querier) error {
		for i := range all {
			all[i] = JobHour{Start: all[i].Start}
		}
		err := each(ctx, q, func(r *sql.Rows) error {
			var h int64
			var s State
			var count int
			if err := r.Scan(&h, &s, &count); err != nil {
				return err
			}
			switch s {
			case Succeeded:
				at(h).Succeeded += count
			case Failed:
				at(h).Failed += count
			default:
				at(h).Cancelled += count
			}
			return nil
		}, "SELECT finished / 3600000, state, COUNT(*) FROM jobs WHERE finished >= $1 GROUP BY 1, 2", first*hour)
		if err != nil {
			return err
		}
		return each(ctx, q, func(r *sql.Rows) error {
			var h, bytes int64
			if err := r.Scan(&h, &bytes); err != nil {
				return err
			}
			at(h).Bytes += bytes
			return nil
		}, `SELECT finished / 3600000, CAST(SUM(got) AS BIGINT) FROM jobs JOIN job_blobs ON job_blobs.job_id = jobs.id
			WHERE finished >= $1 AND job_blobs.state = $2 GROUP BY 1`, first*hour, Succeeded)
	})
	return all, err
}

// each reads the rows of a query.
func each(ctx context.Context, q querier, row func(*sql.Rows) error, query string, args ...any) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
