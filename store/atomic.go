package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync/atomic"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/internal/fault"
	"hallmark/internal/lane"
	"hallmark/migrations"
)

// Stats counts what the writers did.
type Stats struct {
	Commits atomic.Int64 // group commits
	Jobs    atomic.Int64 // calls of Atomic that were committed
	Reruns  atomic.Int64 // calls rerun singly after a neighbour aborted their batch (PostgreSQL)
	Guessed atomic.Int64 // commits that took something for granted (PostgreSQL)
	Wrong   atomic.Int64 // batches run again because it was not so
}

const (
	maxBatch  = 256              // calls per commit; bounds how long the first waits for the last
	gatherFor = time.Millisecond // see queue.take
	manyJobs  = 12               // of so many each one's share of a wait is small: it is longer, up to three times
	// singleTries is how often a call that runs alone is run again because another
	// node was faster. Two that are always at the same row lose every other time.
	singleTries = 32
	// enoughJobs is how many are worth waiting for: ten certificates, which take two
	// calls each, so that 32 clients have one sync for eight requests or more. Waiting
	// for more of them, with the processors idle, cost a tenth of the rate.
	enoughJobs = 20
	maxQueue   = 16384 // calls waiting; beyond it the caller is told to come back
)

// Atomic runs fn in a transaction that ctx carries, and returns when it is
// durable. A call inside a transaction joins it.
//
// Contract for fn: it does nothing but compute and call methods of this
// package; it uses no key and no network; it can be run again (a neighbour that
// breaks the batch on PostgreSQL makes it so), so it sets what it returns anew
// each time. An error from fn undoes what fn did and nothing else. Work is
// taken in the order of its [lane.Lane].
func (db *DB) Atomic(ctx context.Context, fn func(ctx context.Context) error) error {
	return db.atomic(ctx, nil, fn)
}

// atomic is Atomic; a reservation names its claim, so that what it will look at
// can be read ahead.
func (db *DB) atomic(ctx context.Context, c *ca.Claim, fn func(ctx context.Context) error) (err error) {
	if txFrom(ctx) != nil {
		return fn(ctx)
	}
	if db.cfg.ReadOnly {
		return ErrWrite.New("The database is open for reading only.")
	}
	if r := access.RecordFrom(ctx); r != nil && !r.Written() {
		var settle func(error)
		fn, settle = db.recorded(r, fn)
		defer func() { settle(err) }()
	}
	j := &job{ctx: ctx, fn: fn, claim: c}
	q := &db.queue
	lead, err := q.put(lane.From(ctx), j)
	if err != nil {
		return err
	}
	// The outcome is awaited even if the caller is gone: a commit cannot be
	// taken back. A job that has not started yet sees the dead context itself.
	for {
		if lead != nil {
			db.runBatch(lead, q.take(lead))
			q.pass(lead)
		}
		t := <-j.wake
		if t.lead == nil {
			return t.err
		}
		lead = t.lead
	}
}

// connection is a writer's own connection with its prepared statements; it is
// opened again after an error.
type connection struct {
	db     *DB
	conn   *sql.Conn
	stmts  map[string]*sql.Stmt
	batch  []*job // the jobs of the batch that runs
	expect int    // about how many jobs come together now
	memory memory
}

func (w *connection) open(ctx context.Context) error {
	if w.conn != nil {
		return nil
	}
	c, err := w.db.write.Conn(ctx)
	if err != nil {
		return err
	}
	w.conn, w.stmts = c, map[string]*sql.Stmt{}
	return nil
}

func (w *connection) close() {
	if w.conn == nil {
		return
	}
	for _, s := range w.stmts {
		s.Close()
	}
	// The connection may be inside a transaction: it must not go back to the pool.
	w.conn.Raw(func(any) error { return driver.ErrBadConn })
	w.conn.Close()
	w.conn, w.stmts = nil, nil
}

func (db *DB) runBatch(w *connection, jobs []*job) {
	live := jobs[:0]
	for _, j := range jobs {
		if err := j.ctx.Err(); err != nil {
			j.wake <- turn{err: err}
			continue
		}
		live = append(live, j)
	}
	if len(live) == 0 {
		return
	}
	results, err := db.tryBatch(w, live, false)
	if errors.Is(err, errGuess) {
		results, err = db.tryBatch(w, live, false)
	}
	if err == nil {
		for i, j := range live {
			j.wake <- turn{err: results[i]}
		}
		return
	}
	if len(live) == 1 {
		live[0].wake <- turn{err: db.single(w, live[0], err)}
		return
	}
	// Something broke the batch as a whole: each member alone, so that one
	// failing request does not poison its neighbours.
	for _, j := range live {
		db.Stats.Reruns.Add(1)
		j.wake <- turn{err: db.single(w, j, errStale)}
	}
}

// single runs one job in its own transaction, again if the engine asks for it.
func (db *DB) single(w *connection, j *job, first error) error {
	err := first
	for try := range singleTries {
		if !retryable(err) {
			break
		}
		if try >= 4 { // somebody else is at the same rows: whoever waits longer lets the other pass
			time.Sleep(time.Duration(rand.Int64N(int64(try) * int64(time.Millisecond))))
		}
		var results []error
		results, err = db.tryBatch(w, []*job{j}, true)
		if err == nil {
			return results[0]
		}
	}
	if errors.Is(err, errStale) {
		return ErrBusy.Wrap(err, "").After(time.Second)
	}
	var own *refusal
	if errors.As(err, &own) {
		return own.error
	}
	var f *fault.Fault
	if errors.As(err, &f) {
		return err
	}
	return ErrWrite.Wrap(err, "").After(time.Second)
}

// tryBatch runs jobs in one transaction. Its error is about the whole batch,
// of which then nothing happened; the results are the jobs' own refusals.
func (db *DB) tryBatch(w *connection, jobs []*job, direct bool) (results []error, err error) {
	// The batch runs on a caller's goroutine, whose edge may survive a panic: the
	// connection must be passed on and everybody answered all the same (A57).
	defer func() {
		if p := recover(); p != nil {
			w.close()
			results, err = nil, fmt.Errorf("store: panic in a batch: %v\n%s", p, debug.Stack())
		}
	}()
	// SQLite's driver starts a goroutine for each statement whose context can end.
	ctx := context.Background()
	if db.engine == migrations.Postgres {
		// A network that swallows everything must not hold the writer for ever.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(db.run, db.patience)
		defer cancel()
	}
	if err := w.open(ctx); err != nil {
		return nil, ErrWrite.Wrap(err, "").After(time.Second)
	}
	tx := &txn{db: db, ctx: ctx, conn: w.conn, stmts: w.stmts, memory: &w.memory, direct: direct}
	// SQLite takes the lock of the only writer at once; PostgreSQL begins with the
	// first statement, which saves a round trip.
	if db.engine == migrations.SQLite {
		err = tx.begin()
	}
	if err == nil {
		err = tx.readAhead(jobs)
	}
	if err != nil {
		w.close()
		return nil, ErrWrite.Wrap(err, "").After(time.Second)
	}
	rollback := func(cause error) error {
		if tx.begun {
			if _, rerr := tx.rawExec("ROLLBACK"); rerr != nil {
				w.close()
			}
		}
		return cause
	}
	results = make([]error, len(jobs))
	for i, j := range jobs {
		if results[i], err = tx.run(j); err != nil {
			return nil, rollback(err)
		}
	}
	if sent, err := tx.finish(); err != nil {
		if tx.guessed {
			w.memory.forget()
			if refusedStatement(err) {
				db.Stats.Wrong.Add(1)
				err = errGuess
			}
		}
		if !sent || retryable(err) {
			return nil, rollback(err)
		}
		// On PostgreSQL a broken connection leaves the outcome open. SQLite
		// says which it was: after an error the transaction is rolled back here.
		if db.engine == migrations.Postgres {
			w.close()
			if refusedStatement(err) {
				return nil, err
			}
			for i := range results {
				if results[i] == nil {
					results[i] = ErrUnknown.Wrap(err, "").After(time.Second)
				}
			}
			return results, nil
		}
		return nil, rollback(ErrWrite.Wrap(err, "").After(time.Second))
	}
	db.Stats.Commits.Add(1)
	db.Stats.Jobs.Add(int64(len(jobs)))
	if tx.guessed {
		db.Stats.Guessed.Add(1)
	}
	for _, f := range tx.after {
		f()
	}
	return results, nil
}

// run executes one job. result is the job's own; err breaks the whole batch.
func (tx *txn) run(j *job) (result, err error) {
	leaves, certs, trail, undo, after := len(tx.leaves), len(tx.certList), len(tx.trail), len(tx.undo), len(tx.after)
	tx.dirty, tx.savepointed, tx.inJob = false, false, true
	result = call(j, context.WithValue(j.ctx, txKey{}, tx))
	tx.inJob = false
	if result == nil && !tx.broken && tx.lost == nil {
		if tx.savepointed {
			if _, err := tx.rawExec("RELEASE job"); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}
	if result == nil {
		result = errors.New("store: a failed statement was ignored")
	}
	for _, f := range tx.undo[undo:] {
		f()
	}
	tx.leaves, tx.certList, tx.trail, tx.undo, tx.after = tx.leaves[:leaves], tx.certList[:certs], tx.trail[:trail], tx.undo[:undo], tx.after[:after]
	if tx.lost != nil {
		return nil, tx.lost
	}
	if tx.savepointed {
		for _, q := range [...]string{"ROLLBACK TO job", "RELEASE job"} {
			if _, err := tx.rawExec(q); err != nil {
				return nil, err
			}
		}
	} else if tx.db.engine == migrations.Postgres && (tx.dirty || tx.broken) {
		// PostgreSQL: no savepoints, they cost a round trip each; the batch is
		// rolled back and its members run alone, where this refusal stands.
		if !tx.broken {
			return nil, &refusal{result}
		}
		return nil, result
	}
	var e errEngine
	if errors.As(result, &e) {
		var f *fault.Fault
		if !errors.As(result, &f) {
			result = ErrWrite.Wrap(result, "").After(time.Second)
		}
	}
	return result, nil
}

// refusal carries a job's own refusal out of a batch that it broke by having
// written before it refused.
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

// call runs fn and turns a panic into an error, so that a bug in one request
// never ends the writer (A57).
func call(j *job, ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("store: panic in a transaction: %v\n%s", p, debug.Stack())
		}
	}()
	return j.fn(ctx)
}
