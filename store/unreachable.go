package store

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"hallmark/internal/fault"
)

// unreachable makes a fault of an error of the connection: who looks something
// up while the database fails over is told to come again, not that something is
// wrong inside (A80).
func unreachable(err error) error {
	var f *fault.Fault
	if err == nil || errors.Is(err, sql.ErrNoRows) || errors.As(err, &f) {
		return err
	}
	var n net.Error
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, driver.ErrBadConn), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &n):
	case errors.As(err, &pg) && len(pg.Code) == 5 && (pg.Code[:2] == "08" || pg.Code[:2] == "53" || pg.Code[:2] == "57"): // connection, resources, operator
	default:
		return err
	}
	return ErrOpen.Wrap(err, "").After(time.Second)
}

// readRow is a row that is looked up outside a transaction.
type readRow struct{ *sql.Row }

func (r readRow) Scan(dest ...any) error { return unreachable(r.Row.Scan(dest...)) }
