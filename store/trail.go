package store

import (
	"context"
	"crypto/hmac"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"hallmark/access"
	"hallmark/internal/lane"
)

var _ access.TrailWriter = (*DB)(nil)

const trailColumns = `seq, tenant, at, actor, action, entry, hash, mac`

// trailMAC keeps a database writer from adding rows: the hash needs no key.
func (db *DB) trailMAC(seq int64, hash []byte) []byte {
	return db.cfg.Seal.MAC("trail", number(seq), hash)
}

// trailName is a row's name in its table's seal.
func trailName(seq int64) string { return fmt.Sprintf("entry %d", seq) }

// recorded makes a transaction of an action take the action's entry along, if it
// changes anything. settle is told how the transaction ended.
func (db *DB) recorded(r *access.Record, fn func(ctx context.Context) error) (with func(ctx context.Context) error, settle func(err error)) {
	mine := false
	with = func(ctx context.Context) error {
		tx := txFrom(ctx)
		reservations, certs := len(tx.reservations), len(tx.certList)
		if err := fn(ctx); err != nil {
			return err
		}
		if !tx.dirty && len(tx.reservations) == reservations && len(tx.certList) == certs {
			return nil
		}
		if mine = mine || r.Take(); mine {
			tx.appendTrail(r.Entry())
		}
		return nil
	}
	return with, func(err error) {
		if mine {
			r.Settle(err == nil)
		}
	}
}

// appendTrail adds an entry to the batch, which gives it its place at its end.
func (tx *txn) appendTrail(e access.TrailEntry) {
	tx.dirty = true
	if e.At.IsZero() {
		e.At = tx.db.now()
	}
	e.At = e.At.UTC().Truncate(time.Millisecond)
	tx.trail = append(tx.trail, e)
}

// AppendTrail implements [access.TrailWriter].
func (db *DB) AppendTrail(ctx context.Context, e access.TrailEntry) error {
	return db.Atomic(lane.With(ctx, lane.Status), func(ctx context.Context) error {
		txFrom(ctx).appendTrail(e)
		return nil
	})
}

// moveTrail writes the batch's entries. Two nodes that give out the same number are
// in conflict, and the later one runs its jobs again.
func (tx *txn) moveTrail() error {
	if len(tx.trail) == 0 {
		return nil
	}
	head, err := readTrailHead(tx.rawQueryRow(trailHeadSQL))
	if err != nil {
		return err
	}
	for i := range tx.trail {
		e := &tx.trail[i]
		entry, err := json.Marshal(e)
		if err != nil {
			return err
		}
		head = head.Next(entry)
		mac := tx.db.trailMAC(head.Seq, head.Hash[:])
		if _, err := tx.rawExec(`INSERT INTO trail (`+trailColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			head.Seq, e.Tenant, millis(e.At), e.Actor, string(e.Action), entry, head.Hash[:], mac); err != nil {
			return err
		}
		tx.reseal("trail", trailName(head.Seq), nil, mac)
	}
	return nil
}

const trailHeadSQL = `SELECT seq, hash FROM trail ORDER BY seq DESC LIMIT 1`

func readTrailHead(r row) (h access.TrailHead, err error) {
	var hash []byte
	if err := r.Scan(&h.Seq, &hash); errors.Is(err, sql.ErrNoRows) {
		return access.TrailHead{}, nil
	} else if err != nil {
		return h, err
	}
	if len(hash) != len(h.Hash) {
		return h, ErrRowTampered.New("Table trail, entry %d.", h.Seq)
	}
	copy(h.Hash[:], hash)
	return h, nil
}

// TrailHead is the newest row of the trail.
func (db *DB) TrailHead(ctx context.Context) (access.TrailHead, error) {
	return readTrailHead(db.queryRow(ctx, trailHeadSQL))
}

// trailRow is a row as the table has it.
type trailRow struct {
	access.TrailRow
	tenant, actor, action string
	at                    int64
	mac                   []byte
}

func scanTrail(r row) (t trailRow, err error) {
	var hash []byte
	err = r.Scan(&t.Seq, &t.tenant, &t.at, &t.actor, &t.action, &t.Entry, &hash, &t.mac)
	copy(t.Hash[:], hash)
	if err == nil && t.Entry == nil {
		t.Entry = []byte{}
	}
	return t, err
}

// checkTrail says whether the columns that are searched are the entry's, and the row ours.
func (db *DB) checkTrail(t *trailRow) error {
	e, _, err := t.Read()
	if err == nil && (e.Tenant != t.tenant || e.Actor != t.actor || string(e.Action) != t.action || millis(e.At) != t.at) {
		err = errors.New("its columns are not those of its content")
	}
	if err == nil && !hmac.Equal(t.mac, db.trailMAC(t.Seq, t.Hash[:])) {
		err = errors.New("the MAC is another's")
	}
	if err != nil {
		return ErrRowTampered.Wrap(err, "Table trail, entry %d.", t.Seq)
	}
	return nil
}

func (db *DB) trailRows(ctx context.Context, query string, args ...any) (out []trailRow, err error) {
	rows, err := db.query(ctx, `SELECT `+trailColumns+` FROM trail `+query, args...)
	err = each(rows, err, func(r row) error {
		t, err := scanTrail(r)
		out = append(out, t)
		return err
	})
	return out, err
}

// TrailQuery selects entries; empty fields do not filter.
type TrailQuery struct {
	Actor, Action string
	Since, Until  time.Time
}

// Trail lists the entries of a tenant newest first, those before an entry; 0 for the
// newest.
func (db *DB) Trail(ctx context.Context, s access.Scope, q TrailQuery, before int64, limit int) (out []access.TrailRow, err error) {
	const end = int64(1) << 62
	if before == 0 {
		before = end
	}
	since, until := millis(q.Since), end
	if !q.Until.IsZero() {
		until = millis(q.Until)
	}
	rows, err := db.trailRows(ctx, `WHERE tenant = $1 AND seq < $2 AND at >= $3 AND at < $4 AND (actor = $5 OR $5 = '') AND (action = $6 OR $6 = '') ORDER BY seq DESC LIMIT $7`,
		s.Tenant, before, since, until, q.Actor, q.Action, page(limit))
	for i := range rows {
		if err := db.checkTrail(&rows[i]); err != nil {
			return nil, err
		}
		out = append(out, rows[i].TrailRow)
	}
	return out, err
}

// TrailRows gives the rows of the whole chain from a number on as they are, those of
// other tenants without their content. Nothing is judged: [access.Chain] does that.
func (db *DB) TrailRows(ctx context.Context, s access.Scope, from int64, limit int) (out []access.TrailRow, err error) {
	rows, err := db.trailRows(ctx, `WHERE seq >= $1 ORDER BY seq LIMIT $2`, from, page(limit))
	for i := range rows {
		r := rows[i].TrailRow
		if rows[i].tenant != s.Tenant {
			r = r.Hide()
		}
		out = append(out, r)
	}
	return out, err
}

// VerifyTrail reads the whole trail and names the first entry that is not as it was
// written, or not as a checkpoint signed it.
func (db *DB) VerifyTrail(ctx context.Context, signed ...access.TrailHead) (head access.TrailHead, err error) {
	chain := access.NewChain(signed...)
	err = chunks(func(after int64) (last int64, n int, err error) {
		rows, err := db.trailRows(ctx, `WHERE seq > $1 ORDER BY seq LIMIT $2`, after, chunk)
		for i := range rows {
			r := &rows[i]
			if err := chain.Add(r.TrailRow); err != nil {
				return 0, 0, err
			}
			if err := db.checkTrail(r); err != nil {
				return 0, 0, err
			}
			last = r.Seq
		}
		return last, len(rows), err
	})
	if err == nil {
		err = chain.End()
	}
	return chain.Head(), err
}

// CheckTrailAgainst says whether the trail still has what a checkpoint signed,
// without reading all of it.
func (db *DB) CheckTrailAgainst(ctx context.Context, signed access.TrailHead) error {
	if signed.Seq == 0 {
		return nil
	}
	var hash []byte
	err := db.queryRow(ctx, `SELECT hash FROM trail WHERE seq = $1`, signed.Seq).Scan(&hash)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if err != nil || !hmac.Equal(hash, signed.Hash[:]) {
		return access.ErrTrailBroken.New("Entry %d is not the one that a checkpoint signed; the database was set back or rewritten.", signed.Seq).With("entry", signed.Seq)
	}
	return nil
}

// sealTrail is the row of [sealedTables].
func sealTrail(db *DB, r row) (name string, mac []byte, err error) {
	t, err := scanTrail(r)
	if err != nil {
		return "", nil, err
	}
	return trailName(t.Seq), t.mac, db.checkTrail(&t)
}
