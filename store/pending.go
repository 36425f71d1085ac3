package store

import (
	"bytes"
	"database/sql"
	"slices"
	"strconv"
	"strings"
	"sync"

	"hallmark/ca"
	"hallmark/migrations"
)

// On the hot path a batch writes its new rows together: a statement for each
// kind of row and not for each request. A request whose rows wait here has
// decided from what it read; the conditions are repeated where the rows are
// written, and if one of them fails (another node was faster), the whole batch
// is undone and its members run alone, on the direct path.

// pendingReservation is a reservation that the batch will write. It is always
// the first of its identity and key: everything else takes the direct path.
type pendingReservation struct {
	claim *ca.Claim
	mac   []byte
	id    int64 // given when it is written
}

// pendingCert is a certificate that the end of the batch writes with its leaf.
type pendingCert struct {
	r    ca.Reservation
	der  []byte
	at   int64
	leaf int64
}

type identityKey struct{ tenant, holder, profile, slot string }

func identityOf(c *ca.Claim) identityKey {
	return identityKey{c.Tenant, fold(c.Holder), c.Profile, c.Slot}
}

// waits tells whether rows that a claim depends on have not been written yet.
func (tx *txn) waits(c *ca.Claim) bool {
	_, identity := tx.waitingIdentities[identityOf(c)]
	_, key := tx.waitingKeys[c.SPKI]
	return identity || key
}

// later queues a first reservation.
func (tx *txn) later(c *ca.Claim, mac []byte) *pendingReservation {
	p := &pendingReservation{claim: c, mac: mac}
	tx.reservations = append(tx.reservations, p)
	if tx.waitingIdentities == nil {
		tx.waitingIdentities, tx.waitingKeys = map[identityKey]struct{}{}, map[[32]byte]struct{}{}
	}
	tx.waitingIdentities[identityOf(c)] = struct{}{}
	tx.waitingKeys[c.SPKI] = struct{}{}
	return p
}

// flush writes the reservations that wait, so that what follows in the batch
// sees them.
func (tx *txn) flush() error {
	steps := tx.flushSteps()
	if len(steps) == 0 {
		return nil
	}
	return tx.pipe(steps...)
}

// flushSteps are the statements that write the reservations that wait. Their
// ids are learnt by serial number.
func (tx *txn) flushSteps() []step {
	ps := tx.reservations
	if len(ps) == 0 {
		return nil
	}
	tx.reservations = nil
	clear(tx.waitingIdentities)
	clear(tx.waitingKeys)
	tx.ahead = nil
	steps := tx.insertSteps(`public_keys (spki, tenant, holder, state)`, "", "", 4, len(ps), func(i int, args []any) []any {
		c := ps[i].claim
		return append(args, c.SPKI[:], c.Tenant, fold(c.Holder), "bound")
	})
	for _, s := range tx.insertSteps(`reservations (`+reservationColumns+`)`, "", ` RETURNING id, serial`, 19, len(ps), func(i int, args []any) []any {
		return reservationArgs(args, ps[i].claim, ps[i].mac)
	}) {
		s.row = func(r row) error {
			var id int64
			var serial []byte
			if err := r.Scan(&id, &serial); err != nil {
				return err
			}
			for _, p := range ps {
				if bytes.Equal(p.claim.Serial[:], serial) {
					p.id = id
				}
			}
			return nil
		}
		steps = append(steps, s)
	}
	return append(steps, tx.insertSteps(`identities (tenant, holder, profile, slot, shown, account, station, state, reservation)`, `(SELECT id FROM reservations WHERE serial = ?)`, "", 9, len(ps), func(i int, args []any) []any {
		c := ps[i].claim
		return append(args, c.Tenant, fold(c.Holder), c.Profile, c.Slot, c.Holder, c.Account, c.Requester.Station, "reserved", c.Serial[:])
	})...)
}

const reservationColumns = `authority, serial, tenant, account, profile, version, holder, slot, spki, tbs, shard, not_before, not_after, requester, operator, tool, origin, reserved_at, mac`

func reservationArgs(args []any, c *ca.Claim, mac []byte) []any {
	return append(args, c.Authority, c.Serial[:], c.Tenant, c.Account, c.Profile, c.Version, fold(c.Holder), c.Slot, c.SPKI[:], c.TBS, c.Shard,
		millis(c.NotBefore), millis(c.NotAfter), c.Requester.Actor, c.Operator, c.Tool, c.Origin, millis(c.Now), mac)
}

// certSteps write the batch's certificates; their leaves have indexes by now. A
// certificate that another node recorded first is a conflict.
func (tx *txn) certSteps() []step {
	return tx.insertSteps(`certificates (reservation, der, issued_at, leaf)`, "", "", 4, len(tx.certList), func(i int, args []any) []any {
		p := tx.certList[i]
		return append(args, p.r.ID, p.der, p.at, p.leaf)
	})
}

// revokedSteps count the reservations that were voided since their signatures
// were made.
func (tx *txn) revokedSteps(revoked *int) (steps []step) {
	for ps := tx.certList; len(ps) > 0; {
		k := piece(len(ps))
		args := make([]any, 0, 2*k)
		for _, p := range ps[:k] {
			args = append(args, p.r.Authority, p.r.Serial[:])
		}
		steps = append(steps, step{revokedSQL[k], args, func(r row) error {
			var n int
			err := r.Scan(&n)
			*revoked += n
			return err
		}})
		ps = ps[k:]
	}
	return steps
}

// revokedSQL has the texts by number of serial numbers.
var revokedSQL = func() map[int]string {
	out := map[int]string{}
	for k := 1; k <= maxPiece; k *= 2 {
		var q strings.Builder
		q.WriteString(`SELECT COUNT(*) FROM revocations WHERE released_at = 0 AND (`)
		for i := range k {
			if i > 0 {
				q.WriteString(` OR `)
			}
			q.WriteString(`(authority = $` + strconv.Itoa(2*i+1) + ` AND serial = $` + strconv.Itoa(2*i+2) + `)`)
		}
		q.WriteString(`)`)
		out[k] = q.String()
	}
	return out
}()

// maxPiece is the most rows of one statement. Pieces are powers of two, so that
// a writer prepares few statements.
const maxPiece = 32

func piece(n int) int {
	k := maxPiece
	for k > n {
		k /= 2
	}
	return k
}

// manyTexts keeps the texts of multi-row statements: a few tables times the
// sizes of pieces.
var (
	manyMu    sync.RWMutex
	manyTexts = map[manyKey]string{}
)

type manyKey struct {
	statement string
	rows      int
}

// manySQL is INSERT INTO into VALUES (…), (…) with rows times columns
// parameters. last is what stands for the last column, around its parameter ?.
func manySQL(into, last, tail string, columns, rows int) string {
	k := manyKey{into + last + tail, rows}
	manyMu.RLock()
	text := manyTexts[k]
	manyMu.RUnlock()
	if text != "" {
		return text
	}
	var q strings.Builder
	q.WriteString(`INSERT INTO ` + into + ` VALUES `)
	for r := range rows {
		if r > 0 {
			q.WriteString(`, `)
		}
		for c := range columns {
			q.WriteByte("(,"[min(c, 1)])
			p := `$` + strconv.Itoa(r*columns+c+1)
			if c == columns-1 && last != "" {
				p = strings.Replace(last, "?", p, 1)
			}
			q.WriteString(p)
		}
		q.WriteString(`)`)
	}
	q.WriteString(tail)
	manyMu.Lock()
	manyTexts[k] = q.String()
	manyMu.Unlock()
	return q.String()
}

// insertSteps are statements that write n rows: one on PostgreSQL, which takes
// each column as an array, since a statement costs more there than a row; pieces
// on SQLite.
func (tx *txn) insertSteps(into, last, tail string, columns, n int, row func(i int, args []any) []any) (steps []step) {
	if tx.db.engine == migrations.Postgres && n > 0 {
		return []step{columnStep(into, last, tail, columns, n, row)}
	}
	for i := 0; i < n; {
		k := piece(n - i)
		args := make([]any, 0, columns*k)
		for j := i; j < i+k; j++ {
			args = row(j, args)
		}
		steps = append(steps, step{sql: manySQL(into, last, tail, columns, k), args: args})
		i += k
	}
	return steps
}

// columnStep is the one statement of insertSteps.
func columnStep(into, last, tail string, columns, n int, row func(i int, args []any) []any) step {
	cells := make([]any, 0, columns*n)
	for i := range n {
		cells = row(i, cells)
	}
	args, types := make([]any, columns), make([]string, columns)
	for c := range columns {
		args[c], types[c] = column(cells[c:], columns, n)
	}
	return step{sql: columnSQL(into, last, tail, types), args: args}
}

// column is each stride-th of cells as an array, and its type in PostgreSQL.
func column(cells []any, stride, n int) (any, string) {
	switch cells[0].(type) {
	case string:
		return array(cells, stride, make([]string, n), func(v any) string { return v.(string) }), "text"
	case []byte:
		return array(cells, stride, make([][]byte, n), func(v any) []byte { return v.([]byte) }), "bytea"
	case int:
		return array(cells, stride, make([]int64, n), func(v any) int64 { return int64(v.(int)) }), "bigint"
	case int64:
		return array(cells, stride, make([]int64, n), func(v any) int64 { return v.(int64) }), "bigint"
	case sql.NullFloat64:
		return array(cells, stride, make([]sql.NullFloat64, n), func(v any) sql.NullFloat64 { return v.(sql.NullFloat64) }), "double precision"
	}
	return cells[0], "unknown" // which the engine refuses
}

func array[T any](cells []any, stride int, out []T, as func(any) T) []T {
	for i := range out {
		out[i] = as(cells[i*stride])
	}
	return out
}

// columnSQL is INSERT INTO into SELECT … FROM unnest($1::text[], …).
func columnSQL(into, last, tail string, types []string) string {
	k := manyKey{into + last + tail, 0}
	manyMu.RLock()
	text := manyTexts[k]
	manyMu.RUnlock()
	if text != "" {
		return text
	}
	names, arrays := make([]string, len(types)), make([]string, len(types))
	for i, t := range types {
		names[i] = "c" + strconv.Itoa(i+1)
		arrays[i] = "$" + strconv.Itoa(i+1) + "::" + t + "[]"
	}
	wanted := slices.Clone(names)
	if last != "" {
		wanted[len(wanted)-1] = strings.Replace(last, "?", "a."+names[len(names)-1], 1)
	}
	text = `INSERT INTO ` + into + ` SELECT ` + strings.Join(wanted, ", ") + ` FROM unnest(` + strings.Join(arrays, ", ") + `) AS a (` + strings.Join(names, ", ") + `)` + tail
	manyMu.Lock()
	manyTexts[k] = text
	manyMu.Unlock()
	return text
}
