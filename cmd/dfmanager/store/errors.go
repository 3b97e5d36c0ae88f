package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	lite "modernc.org/sqlite"
)

// What callers decide by.
var (
	// ErrNotFound: there is no such thing, or it is somebody else's.
	ErrNotFound = errors.New("not found")
	// ErrExists: the name is taken.
	ErrExists = errors.New("exists already")
	// ErrLastRoot: nobody would be left who may do everything.
	ErrLastRoot = errors.New("it is the last user with role root who can sign in")
	// ErrLost: the job is another runner's by now; what this one does no longer counts.
	ErrLost = errors.New("the job is not this runner's any more")
	// ErrState: the thing is in a state in which that cannot be done.
	ErrState = errors.New("not possible in this state")
	// ErrFull: there are too many already.
	ErrFull = errors.New("there are too many already")
	// ErrUnavailable: the database cannot be reached just now. Trying again helps.
	ErrUnavailable = errors.New("the database is not available")
)

// The result codes of SQLite that count here, and SQLSTATEs of PostgreSQL.
const (
	sqliteBusy, sqliteLocked       = 5, 6
	sqlitePrimaryKey, sqliteUnique = 1555, 2067
	pgUnique                       = "23505"
)

// known turns the databases' own errors into ours.
func known(err error) error {
	var pg *pgconn.PgError
	var le *lite.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return ErrNotFound
	case errors.As(err, &pg) && pg.Code == pgUnique, errors.As(err, &le) && (le.Code() == sqlitePrimaryKey || le.Code() == sqliteUnique):
		return ErrExists
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case passing(err):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// passing reports whether an error goes away by itself: the database is being
// restarted, is not reachable, or others were faster.
func passing(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		for _, class := range []string{"08", "53", "57P", "40"} { // connection, resources, shutdown, rollback
			if strings.HasPrefix(pg.Code, class) {
				return true
			}
		}
		return false
	}
	var le *lite.Error
	if errors.As(err, &le) {
		code := le.Code() & 0xff
		return code == sqliteBusy || code == sqliteLocked
	}
	var refused *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &refused) || errors.As(err, &network) || errors.Is(err, driver.ErrBadConn) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err)
}
