package store

import "context"

// SetVersion pretends that a newer program has been here.
func (db *DB) SetVersion(ctx context.Context, v int) error {
	_, err := db.write.ExecContext(ctx, "INSERT INTO schema_version (version) VALUES ($1)", v)
	return err
}
