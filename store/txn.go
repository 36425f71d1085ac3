package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/migrations"
)

// txn is one transaction: a batch of jobs.
type txn struct {
	db    *DB
	ctx   context.Context
	conn  *sql.Conn
	stmts map[string]*sql.Stmt // of the connection

	begun  bool
	dirty  bool // the current job wrote something
	broken bool // the engine refuses more statements (PostgreSQL after an error)

	// What the batch does at its end. A job that fails cuts back its share.
	leaves             []*pendingLeaf
	quotas             map[accountKey]*quotaState
	certs              map[int64]*pendingCert // by reservation
	certList           []*pendingCert
	reservations       []*pendingReservation
	waitingIdentities  map[identityKey]struct{}
	waitingKeys        map[[32]byte]struct{}
	direct             bool // one job alone: nothing waits
	memory             *memory
	guessed            bool // something was not asked; if it is not so, the batch is run again
	assumed            []*ca.Claim
	assumedOrders      []assumedOrder
	inJob, savepointed bool
	lost               error                    // why rows that waited could not be written
	trust              map[requester]error      // requesters found good or bad in this batch
	ahead              map[*ca.Claim]*holderRow // what was read before the jobs ran; forgotten once one writes
	seals              map[string]*tableSeal    // by how much they change
	trail              []access.TrailEntry      // of people's actions, to be chained
	undo               []func()
	after              []func()
}

type txKey struct{}

func txFrom(ctx context.Context) *txn {
	tx, _ := ctx.Value(txKey{}).(*txn)
	return tx
}

func (tx *txn) stmt(query string) (*sql.Stmt, error) {
	if s := tx.stmts[query]; s != nil {
		return s, nil
	}
	s, err := tx.conn.PrepareContext(tx.ctx, query)
	if err != nil {
		return nil, err
	}
	tx.stmts[query] = s
	return s, nil
}

// exec changes rows for a job: first what waits is written, so that the job
// sees it, then on SQLite its savepoint is set, which only jobs that write need.
func (tx *txn) exec(query string, args ...any) (int64, error) {
	if err := tx.settle(true); err != nil {
		return 0, err
	}
	return tx.rawExec(query, args...)
}

// settle prepares for a statement of a job.
func (tx *txn) settle(write bool) error {
	if !tx.inJob {
		return nil
	}
	if err := tx.flush(); err != nil {
		tx.lost = err // the rows were other jobs' too: the batch is undone and its members run alone
		return err
	}
	if write {
		tx.dirty = true
		tx.ahead = nil
		if !tx.savepointed && tx.db.engine == migrations.SQLite {
			tx.savepointed = true
			if _, err := tx.rawExec("SAVEPOINT job"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (tx *txn) rawExec(query string, args ...any) (int64, error) {
	if err := tx.begin(); err != nil {
		return 0, err
	}
	s, err := tx.stmt(query)
	if err != nil {
		return 0, tx.fail(err)
	}
	r, err := s.ExecContext(tx.ctx, args...)
	if err != nil {
		return 0, tx.fail(err)
	}
	return r.RowsAffected()
}

// queryRow reads one row for a job, after what waits was written.
func (tx *txn) queryRow(query string, args ...any) row {
	if err := tx.settle(false); err != nil {
		return errRow{err}
	}
	return tx.rawQueryRow(query, args...)
}

// queryRowWrite is queryRow for a statement that writes and returns a row.
func (tx *txn) queryRowWrite(query string, args ...any) row {
	if err := tx.settle(true); err != nil {
		return errRow{err}
	}
	return tx.rawQueryRow(query, args...)
}

// rawQueryRow reads one row as the database has it, without what waits.
func (tx *txn) rawQueryRow(query string, args ...any) row {
	if err := tx.begin(); err != nil {
		return errRow{err}
	}
	s, err := tx.stmt(query)
	if err != nil {
		return errRow{tx.fail(err)}
	}
	return txRow{tx, s.QueryRowContext(tx.ctx, args...)}
}

type txRow struct {
	tx *txn
	r  *sql.Row
}

func (r txRow) Scan(dest ...any) error {
	err := r.r.Scan(dest...)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return r.tx.fail(err)
	}
	return err
}

func (tx *txn) query(query string, args ...any) (*sql.Rows, error) {
	if err := tx.settle(false); err != nil {
		return nil, err
	}
	return tx.rawQuery(query, args...)
}

func (tx *txn) rawQuery(query string, args ...any) (*sql.Rows, error) {
	if err := tx.begin(); err != nil {
		return nil, err
	}
	s, err := tx.stmt(query)
	if err != nil {
		return nil, tx.fail(err)
	}
	rows, err := s.QueryContext(tx.ctx, args...)
	if err != nil {
		return nil, tx.fail(err)
	}
	return rows, nil
}

// errEngine marks an error of the engine, as against a refusal by a rule.
type errEngine struct{ error }

func (e errEngine) Unwrap() error { return e.error }

func (tx *txn) fail(err error) error {
	if tx.db.engine == migrations.Postgres {
		tx.broken = true
	}
	return errEngine{err}
}

// retryable tells whether the engine asks to run the transaction again.
func retryable(err error) bool {
	s := err.Error()
	return strings.Contains(s, "SQLSTATE 40001") || strings.Contains(s, "SQLSTATE 40P01") || errors.Is(err, errStale) || conflicts(err)
}

// errStale says that what a batch assumed was changed by another node; running
// its jobs singly reads it anew.
var errStale = errors.New("store: another node moved the counter")

// errGuess says that what a batch took for granted is not so. It is run again,
// and asks.
var errGuess = fmt.Errorf("%w: it was not as expected", errStale)
