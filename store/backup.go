package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"hallmark/migrations"
)

// A snapshot is written as chunks, which are the same whichever engine they come
// from, so that a backup moves between engines. A chunk is
//
//	version (1) || table || number of columns || columns || number of rows || rows
//
// where a text is its length and its octets, numbers are unsigned varints, and a
// value is a tag and what the tag says.
const chunkVersion = 1

// The tags of values.
const (
	tagNull  = 0
	tagInt   = 1 // a signed varint
	tagText  = 2
	tagBlob  = 3
	tagFloat = 4 // 8 octets
)

const (
	chunkOctets = 1 << 20 // about what a chunk has
	chunkRows   = 4096    // at most
	// maxChunk bounds what a reader takes: one row of a backup can be a long list.
	maxChunk = maxListOctets + chunkOctets
)

// Chunk is some rows of a table, and their octets.
type Chunk struct {
	Table string
	Rows  int64
	Data  []byte
}

// Snapshot is the database as it is at one moment. The service goes on writing
// beside it; close it soon, since meanwhile no engine can clean up behind it.
type Snapshot struct {
	db   *DB
	conn *sql.Conn
	tx   *sql.Tx
}

// SnapshotFacts is what a snapshot says of itself, to be compared after it was
// restored.
type SnapshotFacts struct {
	Engine  string     `json:"engine"`
	Version int        `json:"version"` // of the schema
	Log     int64      `json:"log"`     // leaves
	Signed  int64      `json:"signed"`  // of them under the checkpoint
	Root    []byte     `json:"root"`
	Note    string     `json:"checkpoint"`
	Lists   []ListFact `json:"lists"`
	// LastReservation and LastSerial are the high-water marks of issuance.
	LastReservation int64     `json:"last_reservation"`
	LastSerial      []byte    `json:"last_serial"`
	Clock           time.Time `json:"clock"` // when the database was last written
}

// ListFact is the number of a list.
type ListFact struct {
	Authority string `json:"authority"`
	Shard     int    `json:"shard"`
	Number    int64  `json:"number"`
}

// Snapshot begins one.
func (db *DB) Snapshot(ctx context.Context) (*Snapshot, error) {
	conn, err := db.read.Conn(ctx)
	if err != nil {
		return nil, ErrOpen.Wrap(err, "")
	}
	s := &Snapshot{db: db, conn: conn}
	opt := &sql.TxOptions{ReadOnly: true}
	if db.engine == migrations.Postgres {
		opt.Isolation = sql.LevelRepeatableRead
	}
	if s.tx, err = conn.BeginTx(ctx, opt); err == nil {
		// Both engines take the snapshot with the first look and not before.
		err = s.tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM schema_version`).Scan(new(int))
	}
	if err != nil {
		s.Close()
		return nil, ErrOpen.Wrap(err, "")
	}
	return s, nil
}

// Close ends it.
func (s *Snapshot) Close() {
	if s.tx != nil {
		s.tx.Rollback()
	}
	s.conn.Close()
}

// Facts reads what the snapshot says of itself.
func (s *Snapshot) Facts(ctx context.Context) (f SnapshotFacts, err error) {
	f.Engine = string(s.db.engine)
	one := func(query string, dest ...any) {
		if err == nil {
			if err = s.tx.QueryRowContext(ctx, query).Scan(dest...); errors.Is(err, sql.ErrNoRows) {
				err = nil
			}
		}
	}
	var clock int64
	one(`SELECT COALESCE(MAX(version), 0) FROM schema_version`, &f.Version)
	one(`SELECT size FROM log_head WHERE id = 1`, &f.Log)
	one(`SELECT size, root, note FROM log_checkpoint WHERE id = 1`, &f.Signed, &f.Root, &f.Note)
	one(`SELECT id, serial FROM reservations ORDER BY id DESC LIMIT 1`, &f.LastReservation, &f.LastSerial)
	one(`SELECT at FROM clock_high WHERE id = 1`, &clock)
	if err != nil {
		return f, ErrOpen.Wrap(err, "")
	}
	f.Clock = timeOf(clock)
	rows, err := s.tx.QueryContext(ctx, `SELECT authority, shard, number FROM crls ORDER BY authority, shard`)
	err = each(rows, err, func(r row) error {
		var l ListFact
		err := r.Scan(&l.Authority, &l.Shard, &l.Number)
		f.Lists = append(f.Lists, l)
		return err
	})
	return f, err
}

// tables lists them in the order of their names.
func tables(ctx context.Context, e migrations.Engine, q interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}) (names []string, err error) {
	query := `SELECT name FROM sqlite_master WHERE type = 'table' AND substr(name, 1, 7) <> 'sqlite_'`
	if e == migrations.Postgres {
		query = `SELECT CAST(table_name AS TEXT) FROM information_schema.tables WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'`
	}
	rows, err := q.QueryContext(ctx, query)
	err = each(rows, err, func(r row) error {
		var n string
		err := r.Scan(&n)
		names = append(names, n)
		return err
	})
	slices.Sort(names)
	return names, err
}

// quoted is a name in SQL. Names come from the catalogue or were found there.
func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// Tables names the tables and tells about how many rows all of them have.
func (s *Snapshot) Tables(ctx context.Context) (names []string, rows int64, err error) {
	if names, err = tables(ctx, s.db.engine, s.tx); err != nil {
		return nil, 0, ErrOpen.Wrap(err, "")
	}
	for _, n := range names {
		var c int64
		if err := s.tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM `+quoted(n)).Scan(&c); err != nil {
			return nil, 0, ErrOpen.Wrap(err, "Table %s.", n)
		}
		rows += c
	}
	return names, rows, nil
}

// Read gives a table in chunks. A chunk belongs to emit only while it runs.
func (s *Snapshot) Read(ctx context.Context, table string, emit func(Chunk) error) error {
	rows, err := s.tx.QueryContext(ctx, `SELECT * FROM `+quoted(table))
	if err != nil {
		return ErrOpen.Wrap(err, "Table %s.", table)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return ErrOpen.Wrap(err, "Table %s.", table)
	}
	values := make([]any, len(columns))
	dest := make([]any, len(columns))
	for i := range values {
		dest[i] = &values[i]
	}
	var body []byte
	n := int64(0)
	flush := func() error {
		if n == 0 {
			return nil
		}
		data := chunkHead(table, columns, n)
		err := emit(Chunk{table, n, append(data, body...)})
		body, n = body[:0], 0
		return err
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return ErrOpen.Wrap(err, "Table %s.", table)
		}
		for i, v := range values {
			if body, err = appendValue(body, v); err != nil {
				return fmt.Errorf("store: table %s, column %s: %w", table, columns[i], err)
			}
		}
		if n++; n == chunkRows || len(body) >= chunkOctets {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := rows.Err(); err != nil {
		return ErrOpen.Wrap(err, "Table %s.", table)
	}
	return flush()
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func chunkHead(table string, columns []string, rows int64) []byte {
	b := appendText([]byte{chunkVersion}, table)
	b = binary.AppendUvarint(b, uint64(len(columns)))
	for _, c := range columns {
		b = appendText(b, c)
	}
	return binary.AppendUvarint(b, uint64(rows))
}

func appendValue(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(b, tagNull), nil
	case int64:
		return binary.AppendVarint(append(b, tagInt), v), nil
	case int32:
		return binary.AppendVarint(append(b, tagInt), int64(v)), nil
	case string:
		return appendText(append(b, tagText), v), nil
	case []byte:
		return append(binary.AppendUvarint(append(b, tagBlob), uint64(len(v))), v...), nil
	case float64:
		return binary.BigEndian.AppendUint64(append(b, tagFloat), math.Float64bits(v)), nil
	}
	return b, fmt.Errorf("a value of type %T", v)
}

// chunkReader reads a chunk.
type chunkReader struct {
	table   string
	columns []string
	rows    int64
	in      []byte
}

var errChunk = errors.New("store: the chunk is malformed")

// readChunk reads the head of a chunk.
func readChunk(in []byte) (*chunkReader, error) {
	if len(in) == 0 || in[0] != chunkVersion || len(in) > maxChunk {
		return nil, errChunk
	}
	r := &chunkReader{in: in[1:]}
	table, ok := r.octets()
	n, ok2 := r.uvarint()
	if !ok || !ok2 || n == 0 || n > 1000 {
		return nil, errChunk
	}
	r.table = string(table)
	for range n {
		c, ok := r.octets()
		if !ok {
			return nil, errChunk
		}
		r.columns = append(r.columns, string(c))
	}
	rows, ok := r.uvarint()
	if !ok || rows == 0 || rows > chunkRows {
		return nil, errChunk
	}
	r.rows = int64(rows)
	return r, nil
}

func (r *chunkReader) uvarint() (uint64, bool) {
	v, n := binary.Uvarint(r.in)
	if n <= 0 {
		return 0, false
	}
	r.in = r.in[n:]
	return v, true
}

func (r *chunkReader) octets() ([]byte, bool) {
	n, ok := r.uvarint()
	if !ok || n > uint64(len(r.in)) {
		return nil, false
	}
	v := r.in[:n:n]
	r.in = r.in[n:]
	return v, true
}

// values reads all rows, one behind the other.
func (r *chunkReader) values() ([]any, error) {
	n := int(r.rows) * len(r.columns)
	if n > len(r.in) { // a value has an octet at least
		return nil, errChunk
	}
	out := make([]any, 0, n)
	for range n {
		if len(r.in) == 0 {
			return nil, errChunk
		}
		tag := r.in[0]
		r.in = r.in[1:]
		switch tag {
		case tagNull:
			out = append(out, nil)
		case tagInt:
			v, n := binary.Varint(r.in)
			if n <= 0 {
				return nil, errChunk
			}
			r.in = r.in[n:]
			out = append(out, v)
		case tagText, tagBlob:
			v, ok := r.octets()
			if !ok {
				return nil, errChunk
			}
			if tag == tagText {
				out = append(out, string(v))
			} else {
				out = append(out, v)
			}
		case tagFloat:
			if len(r.in) < 8 {
				return nil, errChunk
			}
			out = append(out, math.Float64frombits(binary.BigEndian.Uint64(r.in)))
			r.in = r.in[8:]
		default:
			return nil, errChunk
		}
	}
	if len(r.in) > 0 {
		return nil, errChunk
	}
	return out, nil
}

// Loader puts a snapshot into an empty database. Nothing of it is there before
// [Loader.Commit].
type Loader struct {
	db    *DB
	conn  *sql.Conn
	tx    *sql.Tx
	file  string // SQLite
	again []string
	have  map[string][]string // columns by table
	Rows  map[string]int64    // loaded, by table
}

// NewLoader makes an empty database ready for a snapshot of a schema's version.
// A database that has any table is refused.
func NewLoader(ctx context.Context, cfg Config, version int) (l *Loader, err error) {
	db := &DB{cfg: cfg, log: cfg.Log, now: cfg.Now, prep: map[string]*sql.Stmt{}, upTo: version, loading: true}
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	if db.now == nil {
		db.now = time.Now
	}
	steps, err := migrations.For(migrations.SQLite)
	if err != nil {
		return nil, err
	}
	if last := steps[len(steps)-1].Number; version < 1 || version > last {
		return nil, ErrNewer.New("The backup has schema version %d; this program knows %d.", version, last)
	}
	l = &Loader{db: db, have: map[string][]string{}, Rows: map[string]int64{}}
	made := l
	defer func() {
		if err != nil {
			made.Close()
		}
	}()
	if isPostgres(cfg.URL) {
		db.engine = migrations.Postgres
		err = db.openPostgres(ctx)
	} else {
		db.engine = migrations.SQLite
		file := strings.TrimPrefix(cfg.URL, "sqlite:")
		if _, serr := os.Stat(file); !errors.Is(serr, fs.ErrNotExist) {
			return nil, ErrNotEmpty.New("There is a file %s.", file)
		}
		l.file = file
		err = db.openSQLite(file)
	}
	if err != nil {
		return nil, err
	}
	there, err := tables(ctx, db.engine, db.write)
	if err != nil {
		return nil, ErrOpen.Wrap(err, "")
	}
	if len(there) > 0 {
		return nil, ErrNotEmpty.New("It has %d tables, such as %s.", len(there), there[0])
	}
	if _, err := db.migrate(ctx); err != nil {
		return nil, err
	}
	if l.conn, err = db.write.Conn(ctx); err != nil {
		return nil, ErrOpen.Wrap(err, "")
	}
	if l.tx, err = l.conn.BeginTx(ctx, nil); err != nil {
		return nil, ErrOpen.Wrap(err, "")
	}
	if err := l.clear(ctx); err != nil {
		return nil, ErrOpen.Wrap(err, "")
	}
	return l, nil
}

// clear removes what the migrations wrote, and the indexes, which are made
// faster afterwards.
func (l *Loader) clear(ctx context.Context) error {
	names, err := tables(ctx, l.db.engine, l.tx)
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, err := l.tx.ExecContext(ctx, `DELETE FROM `+quoted(n)); err != nil {
			return err
		}
		rows, err := l.tx.QueryContext(ctx, `SELECT * FROM `+quoted(n)+` WHERE 1 = 0`)
		if err != nil {
			return err
		}
		l.have[n], err = rows.Columns()
		rows.Close()
		if err != nil {
			return err
		}
	}
	query := `SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name`
	if l.db.engine == migrations.Postgres {
		query = `SELECT CAST(indexname AS TEXT), indexdef FROM pg_indexes WHERE schemaname = current_schema() AND indexname NOT IN (SELECT conname FROM pg_constraint) ORDER BY indexname`
	}
	var drop []string
	rows, err := l.tx.QueryContext(ctx, query)
	if err := each(rows, err, func(r row) error {
		var name, text string
		err := r.Scan(&name, &text)
		drop, l.again = append(drop, name), append(l.again, text)
		return err
	}); err != nil {
		return err
	}
	for _, n := range drop {
		if _, err := l.tx.ExecContext(ctx, `DROP INDEX `+quoted(n)); err != nil {
			return err
		}
	}
	return nil
}

// Load takes a chunk.
func (l *Loader) Load(ctx context.Context, data []byte) error {
	c, err := readChunk(data)
	if err != nil {
		return ErrLoad.Wrap(err, "")
	}
	have := l.have[c.table]
	if have == nil {
		return ErrLoad.New("There is no table %.80q.", c.table)
	}
	names := make([]string, len(c.columns))
	for i, n := range c.columns {
		if !slices.Contains(have, n) || slices.Contains(c.columns[:i], n) {
			return ErrLoad.New("Table %s has no column %.80q.", c.table, n)
		}
		names[i] = quoted(n)
	}
	values, err := c.values()
	if err != nil {
		return ErrLoad.Wrap(err, "Table %s.", c.table)
	}
	if l.db.engine == migrations.Postgres {
		err = l.copy(ctx, c, values)
	} else {
		err = l.insert(ctx, c, names, values)
	}
	if err != nil {
		return ErrLoad.Wrap(err, "Table %s.", c.table)
	}
	l.Rows[c.table] += c.rows
	return nil
}

// copy uses PostgreSQL's own protocol for many rows.
func (l *Loader) copy(ctx context.Context, c *chunkReader, values []any) error {
	return l.conn.Raw(func(dc any) error {
		at := -len(c.columns)
		_, err := dc.(*stdlib.Conn).Conn().CopyFrom(ctx, pgx.Identifier{c.table}, c.columns, pgx.CopyFromFunc(func() ([]any, error) {
			if at += len(c.columns); at >= len(values) {
				return nil, nil
			}
			return values[at : at+len(c.columns)], nil
		}))
		return err
	})
}

// maxLoadValues is how many values a statement of SQLite takes.
const maxLoadValues = 2000

func (l *Loader) insert(ctx context.Context, c *chunkReader, names []string, values []any) error {
	width := len(names)
	most := max(maxLoadValues/width, 1)
	head := `INSERT INTO ` + quoted(c.table) + ` (` + strings.Join(names, ", ") + `) VALUES `
	one := `(?` + strings.Repeat(`, ?`, width-1) + `)`
	var st *sql.Stmt
	for rows := 0; len(values) > 0; {
		n := min(most, len(values)/width)
		if st == nil || n != rows {
			if st != nil {
				st.Close()
			}
			var err error
			if st, err = l.tx.PrepareContext(ctx, head+one+strings.Repeat(`, `+one, n-1)); err != nil {
				return err
			}
			rows = n
		}
		if _, err := st.ExecContext(ctx, values[:n*width]...); err != nil {
			st.Close()
			return err
		}
		values = values[n*width:]
	}
	return st.Close()
}

// jump is by how much the numbers of a restored database's rows go on above
// those that the lost part may have used.
const jump = 1 << 20

// Commit makes the indexes and everything durable. The database is then as the
// snapshot was; on PostgreSQL new rows get numbers far above.
func (l *Loader) Commit(ctx context.Context) error {
	for _, text := range l.again {
		if _, err := l.tx.ExecContext(ctx, text); err != nil {
			return ErrLoad.Wrap(err, "")
		}
	}
	if l.db.engine == migrations.Postgres {
		var set []string
		rows, err := l.tx.QueryContext(ctx, `SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT) FROM information_schema.columns WHERE table_schema = current_schema() AND column_default LIKE 'nextval(%'`)
		if err := each(rows, err, func(r row) error {
			var table, column string
			err := r.Scan(&table, &column)
			set = append(set, fmt.Sprintf(`SELECT setval(pg_get_serial_sequence('%s', '%s'), (SELECT COALESCE(MAX(%s), 0) FROM %s) + %d)`, quoted(table), column, quoted(column), quoted(table), jump))
			return err
		}); err != nil {
			return ErrLoad.Wrap(err, "")
		}
		for _, q := range set {
			if _, err := l.tx.ExecContext(ctx, q); err != nil {
				return ErrLoad.Wrap(err, "")
			}
		}
	}
	if err := l.tx.Commit(); err != nil {
		return ErrLoad.Wrap(err, "")
	}
	l.tx = nil
	if l.file == "" {
		l.Close()
		return nil
	}
	l.Close()
	f, err := os.OpenFile(l.file, os.O_RDWR, 0)
	if err != nil {
		return ErrLoad.Wrap(err, "")
	}
	return errors.Join(f.Sync(), f.Close())
}

// Close ends it; without a Commit nothing was loaded.
func (l *Loader) Close() {
	if l.tx != nil {
		l.tx.Rollback()
		l.tx = nil
	}
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
	l.db.closeHandles()
}

func isPostgres(url string) bool {
	return strings.HasPrefix(url, "postgres://") || strings.HasPrefix(url, "postgresql://")
}

// CheckChunk reads a chunk and keeps nothing, for whoever verifies a backup.
func CheckChunk(data []byte) (Chunk, error) {
	c, err := readChunk(data)
	if err != nil {
		return Chunk{}, ErrLoad.Wrap(err, "")
	}
	if _, err := c.values(); err != nil {
		return Chunk{}, ErrLoad.Wrap(err, "Table %.80s.", c.table)
	}
	return Chunk{Table: c.table, Rows: c.rows}, nil
}
