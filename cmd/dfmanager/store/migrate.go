package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

// migrations are the steps by which the tables came to be, NNNN_name.sql. One
// that has been released is never changed.
//
//go:embed migrations/*.sql
var migrations embed.FS

// step is one migration.
type step struct {
	version int
	text    string
}

// startFor is how long a database that is not there yet is waited for.
const startFor = 30 * time.Second

// migrate does the steps that the database has not seen, all or none. Managers
// that start at the same time do so one after the other.
func (db *DB) migrate(ctx context.Context) error {
	steps, err := stepsOf(migrations, "migrations", db.engine)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startFor)
	defer cancel()
	for {
		err := db.tx(ctx, func(t *sql.Tx) error { return db.apply(ctx, t, steps) })
		if !errors.Is(err, ErrUnavailable) {
			return err
		}
		select {
		case <-time.After(readAgain):
		case <-ctx.Done():
			return err
		}
	}
}

func (db *DB) apply(ctx context.Context, t *sql.Tx, steps []step) error {
	if db.engine.lock != "" {
		if _, err := t.ExecContext(ctx, db.engine.lock); err != nil {
			return err
		}
	}
	if _, err := t.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)"); err != nil {
		return err
	}
	var have int
	if err := t.QueryRowContext(ctx, "SELECT COALESCE(MAX(version), 0) FROM schema_version").Scan(&have); err != nil {
		return err
	}
	if newest := steps[len(steps)-1].version; have > newest {
		return fmt.Errorf("its tables have version %d and this program knows %d at most: start a newer one", have, newest)
	}
	for _, s := range steps {
		if s.version <= have {
			continue
		}
		if _, err := t.ExecContext(ctx, s.text); err != nil {
			return fmt.Errorf("migration %d: %w", s.version, err)
		}
		if _, err := t.ExecContext(ctx, "INSERT INTO schema_version (version) VALUES ($1)", s.version); err != nil {
			return err
		}
	}
	return nil
}

// stepsOf reads the migrations, which are numbered from 1 on without a gap.
func stepsOf(files fs.FS, dir string, e engine) ([]step, error) {
	entries, err := fs.ReadDir(files, dir) // sorted by name
	if err != nil {
		return nil, err
	}
	var steps []step
	for i, f := range entries {
		number, _, _ := strings.Cut(f.Name(), "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %s is not number %d", f.Name(), i+1)
		}
		text, err := fs.ReadFile(files, dir+"/"+f.Name())
		if err != nil {
			return nil, err
		}
		steps = append(steps, step{version, strings.NewReplacer("$ID", e.id, "$BYTES", e.bytes).Replace(string(text))})
	}
	return steps, nil
}
