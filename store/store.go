package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite" // driver "sqlite"

	"hallmark/fleet/registry"
	"hallmark/internal/seal"
	"hallmark/migrations"
)

// Config opens a database.
type Config struct {
	// URL is a file name or "sqlite:FILE" for SQLite, or "postgres://…".
	URL string
	// Seal makes and checks the MACs of rows and seals secrets (S32, S39). Its
	// key must live outside the database.
	Seal *seal.Box
	// ReadOnly opens without migrating and refuses Atomic: for fsck.
	ReadOnly bool
	// Patience is after which a batch on PostgreSQL that does not come back counts
	// as lost; 0 means a minute.
	Patience time.Duration
	// AcceptClock takes the clock for right, whatever the database remembers:
	// somebody looked at it after a jump (A74).
	AcceptClock bool
	// SecondClock refuses a clock that another source contradicts (S38); nil means
	// that there is none. It is asked with every reservation and must not wait.
	SecondClock func() error
	// ClockBack and ClockForward are the limits of [DB.CheckClock]; 0 means the
	// constants of the same names.
	ClockBack, ClockForward time.Duration
	Log                     *slog.Logger
	Now                     func() time.Time
}

// DB is an open database.
type DB struct {
	cfg    Config
	engine migrations.Engine
	read   *sql.DB
	write  *sql.DB
	lock   *os.File // SQLite: held while open, so that a second service refuses to start (A78)
	log    *slog.Logger
	now    func() time.Time

	queue   queue
	run     context.Context // ends when the database closes
	stop    context.CancelFunc
	prepMu  sync.RWMutex
	prep    map[string]*sql.Stmt
	waiters notifier

	authorityWaiters notifier
	clock            clock
	guard            guard
	Stats            Stats

	patience time.Duration // for one batch on PostgreSQL
	upTo     int           // of a backup that is loaded: no later migration; 0 means all
	loading  bool          // a whole backup: what breaks off is thrown away

	listenMu  sync.RWMutex
	listeners []func(registry.Change)
}

// Open opens the database, upgrades its schema, and starts the writers.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	db := &DB{cfg: cfg, log: cfg.Log, now: cfg.Now, prep: map[string]*sql.Stmt{}, patience: cmp.Or(cfg.Patience, time.Minute)}
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	if db.now == nil {
		db.now = time.Now
	}
	db.queue.init()
	db.waiters.init()
	db.authorityWaiters.init()
	db.clock.init(cfg)
	var err error
	if strings.HasPrefix(cfg.URL, "postgres://") || strings.HasPrefix(cfg.URL, "postgresql://") {
		db.engine = migrations.Postgres
		err = db.openPostgres(ctx)
	} else {
		db.engine = migrations.SQLite
		err = db.openSQLite(strings.TrimPrefix(cfg.URL, "sqlite:"))
	}
	if err != nil {
		db.closeHandles()
		return nil, err
	}
	upgraded, err := db.migrate(ctx)
	if err != nil {
		db.closeHandles()
		return nil, err
	}
	db.run, db.stop = context.WithCancel(context.WithoutCancel(ctx))
	if cfg.ReadOnly {
		return db, nil
	}
	// One group commit at a time, on PostgreSQL too: the log's head is one row, so two
	// would wait for each other, and each would carry half as many.
	db.queue.start(db, 1)
	for _, open := range []func() error{
		func() error { return db.openSeals(ctx, upgraded) },
		func() error { return db.openClock(ctx) },
		func() error { return db.openGuard(ctx) },
	} {
		if err := open(); err != nil {
			db.Close()
			return nil, err
		}
	}
	return db, nil
}

func (db *DB) openSQLite(file string) error {
	if file == "" {
		return ErrOpen.New("The database file has no name.")
	}
	if !db.cfg.ReadOnly {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return ErrOpen.Wrap(err, "")
		}
		lock, err := os.OpenFile(file+".lock", os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return ErrOpen.Wrap(err, "")
		}
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			lock.Close()
			return ErrInUse.Wrap(err, "")
		}
		db.lock = lock
	} else if _, err := os.Stat(file); err != nil {
		return ErrOpen.Wrap(err, "There is no database file.")
	}
	q := url.Values{}
	q.Add("_pragma", "busy_timeout(10000)")
	q.Add("_pragma", "foreign_keys(1)")
	q.Add("_pragma", "cache_size(-65536)")
	if db.cfg.ReadOnly {
		q.Add("_pragma", "query_only(1)")
	} else if db.loading {
		q.Add("_pragma", "synchronous(OFF)")
		q.Add("_pragma", "journal_mode(MEMORY)")
		q.Add("_pragma", "cache_size(-524288)")
	} else {
		// FULL, since WAL with NORMAL loses committed rows when the power goes.
		q.Add("_pragma", "journal_mode(WAL)")
		q.Add("_pragma", "synchronous(FULL)")
		// A page that many commits touch is copied to the file once in 64 MiB of log
		// and not once in 4.
		q.Add("_pragma", "wal_autocheckpoint(16384)")
	}
	dsn := "file:" + (&url.URL{Path: file}).EscapedPath() + "?" + q.Encode()
	var err error
	if db.write, err = sql.Open("sqlite", dsn); err != nil {
		return ErrOpen.Wrap(err, "")
	}
	db.write.SetMaxOpenConns(1)
	if db.read, err = sql.Open("sqlite", dsn); err != nil {
		return ErrOpen.Wrap(err, "")
	}
	db.read.SetMaxOpenConns(4)
	db.read.SetMaxIdleConns(4)
	return nil
}

// keyed makes PostgreSQL plan a writer's statements once and by index. All of
// them look rows up by key, but the first plan is made while the tables are
// empty, when reading all of one looks cheap, and planning anew each time costs
// more than the statement.
const keyed = `SELECT set_config('plan_cache_mode', 'force_generic_plan', false), set_config('enable_seqscan', 'off', false),
	set_config('enable_hashjoin', 'off', false), set_config('enable_mergejoin', 'off', false), set_config('jit', 'off', false)`

func (db *DB) openPostgres(ctx context.Context) error {
	cfg, err := pgx.ParseConfig(db.cfg.URL)
	if err != nil {
		return ErrOpen.Wrap(err, "The URL of the database is no good.")
	}
	db.read = stdlib.OpenDB(*cfg)
	db.read.SetMaxOpenConns(14)
	db.read.SetMaxIdleConns(14)
	db.write = stdlib.OpenDB(*cfg, stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, keyed)
		return err
	}))
	ping, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := db.write.PingContext(ping); err != nil {
		return ErrOpen.Wrap(err, "")
	}
	return nil
}

// migrate brings the schema up to date, one transaction a step, and refuses a
// database that a newer program has made unreadable for this one. It tells whether
// it took a step.
func (db *DB) migrate(ctx context.Context) (upgraded bool, err error) {
	steps, err := migrations.For(db.engine)
	if err != nil {
		return false, err
	}
	if db.upTo > 0 {
		for len(steps) > 0 && steps[len(steps)-1].Number > db.upTo {
			steps = steps[:len(steps)-1]
		}
	}
	newest := 0
	if len(steps) > 0 {
		newest = steps[len(steps)-1].Number
	}
	conn, err := db.write.Conn(ctx)
	if err != nil {
		return false, ErrOpen.Wrap(err, "")
	}
	defer conn.Close()
	if db.cfg.ReadOnly {
		return false, db.checkVersion(ctx, conn, newest)
	}
	if db.engine == migrations.Postgres {
		// Two services that start together migrate one after the other.
		if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock(4835112)`); err != nil {
			return false, ErrOpen.Wrap(err, "")
		}
		defer conn.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock(4835112)`)
	}
	octets := map[migrations.Engine]string{migrations.SQLite: "BLOB", migrations.Postgres: "BYTEA"}[db.engine]
	if _, err := conn.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL PRIMARY KEY, min_reader BIGINT NOT NULL, applied_at BIGINT NOT NULL, mac `+octets+`)`); err != nil {
		return false, ErrOpen.Wrap(err, "")
	}
	if err := db.checkVersion(ctx, conn, newest); err != nil {
		return false, err
	}
	// By its number and not by how many there were: numbers have gaps.
	have := map[int]bool{}
	rows, err := conn.QueryContext(ctx, `SELECT version FROM schema_version`)
	if err := each(rows, err, func(r row) error {
		var version int
		err := r.Scan(&version)
		have[version] = true
		return err
	}); err != nil {
		return false, ErrOpen.Wrap(err, "")
	}
	for _, m := range steps {
		if have[m.Number] {
			continue
		}
		tx, err := conn.BeginTx(ctx, nil)
		if err != nil {
			return false, ErrOpen.Wrap(err, "")
		}
		if _, err = tx.ExecContext(ctx, m.SQL); err == nil {
			at := db.now().UnixMilli()
			_, err = tx.ExecContext(ctx, `INSERT INTO schema_version (version, min_reader, applied_at, mac) VALUES ($1, $2, $3, $4)`, m.Number, migrations.MinReader, at, db.versionMAC(int64(m.Number), migrations.MinReader, at))
		}
		if err != nil {
			tx.Rollback()
			return false, ErrOpen.Wrap(err, "Migration %04d_%s failed and was rolled back.", m.Number, m.Name)
		}
		if err := tx.Commit(); err != nil {
			return false, ErrOpen.Wrap(err, "Migration %04d_%s failed.", m.Number, m.Name)
		}
		upgraded = true
		db.log.InfoContext(ctx, "schema migrated", "version", m.Number, "name", m.Name)
	}
	return upgraded, nil
}

func (db *DB) checkVersion(ctx context.Context, conn *sql.Conn, mine int) error {
	var version, minReader int
	if err := conn.QueryRowContext(ctx, `SELECT COALESCE(MAX(version),0), COALESCE(MAX(min_reader),0) FROM schema_version`).Scan(&version, &minReader); err != nil {
		return ErrOpen.Wrap(err, "This is not a database of hallmark.")
	}
	if version > mine && minReader > mine {
		return ErrNewer.New("Its schema has version %d and needs at least %d; this program knows %d.", version, minReader, mine).With("version", version)
	}
	return nil
}

// Engine tells which engine runs.
func (db *DB) Engine() migrations.Engine { return db.engine }

// Close lets queued work finish, then closes the database.
func (db *DB) Close() error {
	for _, w := range db.queue.close() {
		w.close()
	}
	if db.stop != nil {
		db.stop()
	}
	return db.closeHandles()
}

func (db *DB) closeHandles() error {
	var errs []error
	db.prepMu.Lock()
	for _, s := range db.prep {
		s.Close()
	}
	clear(db.prep)
	db.prepMu.Unlock()
	if db.read != nil {
		errs = append(errs, db.read.Close())
	}
	if db.write != nil {
		errs = append(errs, db.write.Close())
	}
	if db.lock != nil {
		errs = append(errs, db.lock.Close())
	}
	return errors.Join(errs...)
}

// Ping proves that the database answers.
func (db *DB) Ping(ctx context.Context) error {
	var one int
	if err := db.read.QueryRowContext(ctx, `SELECT 1`).Scan(&one); err != nil {
		return ErrOpen.Wrap(err, "")
	}
	return nil
}

// row is what a look-up of one row gives.
type row interface{ Scan(dest ...any) error }

// prepared finds or makes the statement for the read pool.
func (db *DB) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	db.prepMu.RLock()
	s := db.prep[query]
	db.prepMu.RUnlock()
	if s != nil {
		return s, nil
	}
	s, err := db.read.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	db.prepMu.Lock()
	defer db.prepMu.Unlock()
	if have := db.prep[query]; have != nil {
		s.Close()
		return have, nil
	}
	db.prep[query] = s
	return s, nil
}

type errRow struct{ err error }

func (r errRow) Scan(...any) error { return r.err }

// queryRow reads one row, inside the transaction of ctx if there is one.
func (db *DB) queryRow(ctx context.Context, query string, args ...any) row {
	if tx := txFrom(ctx); tx != nil {
		return tx.queryRow(query, args...)
	}
	s, err := db.prepared(ctx, query)
	if err != nil {
		return errRow{unreachable(err)}
	}
	return readRow{s.QueryRowContext(ctx, args...)}
}

// query reads rows, inside the transaction of ctx if there is one.
func (db *DB) query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if tx := txFrom(ctx); tx != nil {
		return tx.query(query, args...)
	}
	s, err := db.prepared(ctx, query)
	if err != nil {
		return nil, ErrOpen.Wrap(err, "")
	}
	rows, err := s.QueryContext(ctx, args...)
	if err != nil {
		return nil, ErrOpen.Wrap(err, "")
	}
	return rows, nil
}

// exec changes rows and tells how many. It needs a transaction: a write outside
// [DB.Atomic] is a programming error.
func (db *DB) exec(ctx context.Context, query string, args ...any) (int64, error) {
	tx := txFrom(ctx)
	if tx == nil {
		return 0, fmt.Errorf("store: write outside a transaction: %.40s", query)
	}
	return tx.exec(query, args...)
}

// each scans all rows of a query with one function.
func each(rows *sql.Rows, err error, scan func(row) error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return unreachable(rows.Err())
}

// notFound turns "no rows" into a fault and leaves other errors.
func notFound(err error, what string, args ...any) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound.New(what, args...)
	}
	return err
}

// millis is the stored form of a time: whole milliseconds UTC, 0 for the zero time.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// timeOf is the inverse of millis.
func timeOf(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// fold is the compared form of a name (A51): ASCII lower case, since names hold nothing else.
func fold(name string) string { return strings.ToLower(name) }
