package store

import (
	"database/sql"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"hallmark/ca"
	"hallmark/migrations"
)

// step is one statement of several that go to the database together. What must
// hold is in its constraints, so that a step that does not fit is an error of
// the engine and nothing has to be looked at between two steps.
type step struct {
	sql  string
	args []any
	row  func(row) error // for each row; nil when the statement returns none
}

// pipe runs steps in their order: one after the other on SQLite, in one round
// trip on PostgreSQL, where the round trips are what a batch costs.
func (tx *txn) pipe(steps ...step) error {
	if tx.db.engine == migrations.Postgres {
		if !tx.begun {
			steps = append([]step{{sql: "BEGIN"}}, steps...)
		}
		if len(steps) > 1 {
			return tx.pipeline(steps)
		}
	}
	for _, s := range steps {
		if s.row == nil {
			if _, err := tx.rawExec(s.sql, s.args...); err != nil {
				return err
			}
			continue
		}
		rows, err := tx.rawQuery(s.sql, s.args...)
		if err := each(rows, err, s.row); err != nil {
			return err
		}
	}
	return nil
}

func (tx *txn) pipeline(steps []step) error {
	tx.begun = true
	var batch pgx.Batch
	for _, s := range steps {
		batch.Queue(s.sql, s.args...)
	}
	var failed error
	err := tx.conn.Raw(func(c any) error {
		r := c.(*stdlib.Conn).Conn().SendBatch(tx.ctx, &batch)
		for _, s := range steps {
			if failed = s.read(r); failed != nil {
				break
			}
		}
		if err := r.Close(); failed == nil {
			failed = err
		}
		return nil
	})
	if err = errors.Join(failed, err); err != nil {
		return tx.fail(err)
	}
	return nil
}

func (s *step) read(r pgx.BatchResults) error {
	if s.row == nil {
		_, err := r.Exec()
		return err
	}
	rows, err := r.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := s.row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// conflicts tells whether an error is a constraint that another node's write, or
// a neighbour of the batch, made fail.
func conflicts(err error) bool {
	s := err.Error()
	return strings.Contains(s, "SQLSTATE 23505") || strings.Contains(s, "SQLSTATE 23502") || strings.Contains(s, "constraint failed")
}

// refusedStatement tells whether PostgreSQL refused a statement before the
// COMMIT: data, integrity, transaction, syntax, resources, limits (SQLSTATE classes).
func refusedStatement(err error) bool {
	var p *pgconn.PgError
	if !errors.As(err, &p) || len(p.Code) < 2 {
		return false
	}
	switch p.Code[:2] {
	case "22", "23", "40", "42", "53", "54":
		return true
	}
	return false
}

// readAhead asks in one round trip for what the reservations of a batch will
// look at. It is only for PostgreSQL; on SQLite a look costs no round trip.
func (tx *txn) readAhead(jobs []*job) error {
	if tx.direct || tx.db.engine != migrations.Postgres {
		return nil
	}
	var claims []*ca.Claim
	for _, j := range jobs {
		if j.claim != nil {
			claims = append(claims, j.claim)
		}
	}
	if len(claims) == 0 || tx.assume(claims) {
		return nil
	}
	var steps []step
	requesters, accounts := map[requester]bool{}, map[accountKey]bool{}
	for _, c := range claims {
		if k := requesterOf(c); !requesters[k] {
			requesters[k] = true
			steps = append(steps, tx.trustStep(k))
		}
		if k := (accountKey{c.Tenant, c.Account}); c.Account != "" && !accounts[k] {
			accounts[k] = true
			steps = append(steps, tx.accountStep(k))
		}
	}
	if err := tx.pipe(append(steps, tx.holdersStep(claims))...); err != nil {
		return err
	}
	tx.noteAhead(claims)
	return nil
}

// holdersStep is holderSQL for many claims at once.
func (tx *txn) holdersStep(claims []*ca.Claim) step {
	n := len(claims)
	tenants, holders, profiles, slots, keys := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([][]byte, n)
	for i, c := range claims {
		tenants[i], holders[i], profiles[i], slots[i], keys[i] = c.Tenant, fold(c.Holder), c.Profile, c.Slot, c.SPKI[:]
	}
	tx.ahead = make(map[*ca.Claim]*holderRow, n)
	return step{holdersSQL, []any{tenants, holders, profiles, slots, keys}, func(r row) error {
		h, i := &holderRow{}, 0
		if err := r.Scan(append([]any{&i}, h.fields()...)...); err != nil {
			return err
		}
		tx.ahead[claims[i-1]] = h
		return nil
	}}
}

// begin starts the transaction with the batch's first statement.
func (tx *txn) begin() error {
	if tx.begun {
		return nil
	}
	tx.begun = true
	q := "BEGIN"
	if tx.db.engine == migrations.SQLite {
		q = "BEGIN IMMEDIATE"
	}
	_, err := tx.rawExec(q)
	return err
}

// finish does what a batch does once: write the rows that wait, move the
// accounts' counters, append the leaves, move the clock's mark. Then it commits.
// sent says that a COMMIT may have reached the engine, so that an error leaves
// the outcome open.
func (tx *txn) finish() (sent bool, err error) {
	steps := append(append(tx.assumedSteps(), tx.flushSteps()...), tx.quotaSteps()...)
	tx.after = append(tx.after, tx.remember)
	var size int64
	n := int64(len(tx.leaves))
	if first, ok := tx.ownHead(); ok {
		rest, err := tx.headSteps(first)
		if err != nil {
			return false, err
		}
		return true, tx.pipe(append(append(steps, rest...), step{sql: "COMMIT"})...)
	}
	if n > 0 {
		// Whoever moved the head has it until the commit, so a revocation that
		// the next steps do not see comes after this batch.
		steps = append(steps, step{`UPDATE log_head SET size = size + $1 WHERE id = 1 RETURNING size`, []any{n}, func(r row) error { return r.Scan(&size) }})
		revoked := 0
		steps = append(steps, tx.revokedSteps(&revoked)...)
		if err := tx.pipe(steps...); err != nil {
			return false, err
		}
		if steps = nil; size == 0 {
			return false, ErrRowTampered.New("Table log_head is empty.")
		}
		if revoked > 0 {
			return false, errStale // the direct path says of whom
		}
		tx.moved(size-n, size)
		if err := tx.placeLeaves(size - n); err != nil {
			return false, err
		}
		steps = append(tx.leafSteps(), tx.certSteps()...)
	}
	if err := tx.moveTrail(); err != nil {
		return false, err
	}
	if err := tx.moveSeals(); err != nil {
		return false, err
	}
	if tx.db.engine == migrations.Postgres && (tx.begun || len(steps) > 0) && !tx.clockDue() {
		return true, tx.pipe(append(steps, step{sql: "COMMIT"})...)
	}
	if err := tx.pipe(steps...); err != nil {
		return false, err
	}
	if err := tx.moveClock(); err != nil {
		return false, err
	}
	if !tx.begun {
		return false, nil
	}
	_, err = tx.rawExec("COMMIT")
	return true, err
}

// holderSQL asks for everything that is known of an identity and a key, and
// holdersSQL of many.
var holderSQL = `SELECT ` + holderColumns + ` FROM (SELECT 1 AS one) o ` +
	strings.NewReplacer("o.tenant", "$1", "o.holder", "$2", "o.profile", "$3", "o.slot", "$4", "o.spki", "$5").Replace(holderJoins)

const (
	holdersSQL = `SELECT o.n, ` + holderColumns + ` FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[]) WITH ORDINALITY AS o (tenant, holder, profile, slot, spki, n) ` + holderJoins

	holderColumns = `b.blocked_at, k.state, i.shown, i.station, i.account, i.state, i.rekeys, r.id, r.authority, r.serial, r.spki, r.tbs, r.shard, r.not_after,
	c.der, c.issued_at, c.leaf, v.reason, v.revoked_at, v.released_at, w.home`
	holderJoins = `LEFT JOIN blocks b ON b.tenant = o.tenant AND b.holder = o.holder
	LEFT JOIN public_keys k ON k.spki = o.spki
	LEFT JOIN identities i ON i.tenant = o.tenant AND i.holder = o.holder AND i.profile = o.profile AND i.slot = o.slot
	LEFT JOIN reservations r ON r.id = i.reservation
	LEFT JOIN certificates c ON c.reservation = i.reservation
	LEFT JOIN revocations v ON v.authority = r.authority AND v.serial = r.serial
	LEFT JOIN ownership w ON o.profile = 'idevid' AND w.owner = o.tenant AND w.holder = o.holder AND w.home <> o.tenant`
)

func holderArgs(c *ca.Claim) []any {
	return []any{c.Tenant, fold(c.Holder), c.Profile, c.Slot, c.SPKI[:]}
}

// holderRow is an answer to holderSQL.
type holderRow struct {
	blocked, rekeys, id, shard, notAfter, issuedAt, leaf, reason, revokedAt, freed sql.NullInt64
	shown, station, account, state, authority, keyState                            sql.NullString
	home                                                                           sql.NullString // of a unit of that name which the tenant has from another one
	serial, spki, tbs, der                                                         []byte
}

func (h *holderRow) fields() []any {
	return []any{&h.blocked, &h.keyState, &h.shown, &h.station, &h.account, &h.state, &h.rekeys, &h.id, &h.authority, &h.serial, &h.spki, &h.tbs, &h.shard, &h.notAfter,
		&h.der, &h.issuedAt, &h.leaf, &h.reason, &h.revokedAt, &h.freed, &h.home}
}
