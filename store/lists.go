package store

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"time"

	"hallmark/ca"
	"hallmark/ca/tlog"
	"hallmark/crl"
)

var (
	_ crl.ListStore   = (*DB)(nil)
	_ crl.StatusStore = (*DB)(nil)
	_ crl.FsckStore   = (*DB)(nil)
)

// ListHeads implements [crl.ListStore].
func (db *DB) ListHeads(ctx context.Context) (out []crl.ListHead, err error) {
	rows, err := db.query(ctx, `SELECT authority, shard, number, this_update, next_update, leaf, mac FROM crls ORDER BY authority, shard`)
	err = each(rows, err, func(r row) error {
		h, err := db.scanListHead(r)
		if errors.Is(err, ErrRowTampered) {
			err = nil
		}
		out = append(out, h)
		return err
	})
	return out, err
}

func listKey(authority string, shard int) string { return authority + "/" + strconv.Itoa(shard) }

// listMAC covers the row; the list itself is signed.
func (db *DB) listMAC(h *crl.ListHead) []byte {
	return db.cfg.Seal.MAC("crls", []byte(h.Authority), number(int64(h.Shard)), number(h.Number), number(millis(h.ThisUpdate)), number(millis(h.NextUpdate)), number(h.Leaf))
}

// scanListHead gives, with a row that was changed, a leaf from which everything
// is looked at again: one that is too high would leave revocations out.
func (db *DB) scanListHead(r row, more ...any) (h crl.ListHead, err error) {
	var this, next int64
	var mac []byte
	if err := r.Scan(append([]any{&h.Authority, &h.Shard, &h.Number, &this, &next, &h.Leaf, &mac}, more...)...); err != nil {
		return h, err
	}
	h.ThisUpdate, h.NextUpdate = timeOf(this), timeOf(next)
	if !hmac.Equal(mac, db.listMAC(&h)) {
		h.Leaf = math.MinInt64
		return h, ErrRowTampered.New("Table crls, row %s.", listKey(h.Authority, h.Shard))
	}
	return h, nil
}

// List implements [crl.ListStore]. Where pieces are missing, or are named by
// nothing that can be read, the list comes without its DER.
func (db *DB) List(ctx context.Context, authority string, shard int, have int64) (*crl.StoredList, error) {
	seen := int64(-1)
	for {
		l := &crl.StoredList{}
		var err error
		l.ListHead, err = db.scanListHead(db.queryRow(ctx, `SELECT c.authority, c.shard, c.number, c.this_update, c.next_update, c.leaf, c.mac, CASE WHEN c.number > $3 THEN c.der END, d.der
			FROM crls c LEFT JOIN crl_deltas d ON d.authority = c.authority AND d.shard = c.shard AND d.number = c.number WHERE c.authority = $1 AND c.shard = $2`, authority, shard, have), &l.DER, &l.Delta)
		if errors.Is(err, sql.ErrNoRows) {
			return nil, nil
		}
		if err != nil && !errors.Is(err, ErrRowTampered) {
			return nil, err
		}
		if len(l.DER) == 0 || l.DER[0] != inPieces {
			return l, nil
		}
		whole, err := db.joinPieces(ctx, l)
		if err != nil && !errors.Is(err, ErrRowTampered) {
			return nil, err
		}
		if whole {
			return l, nil
		}
		// Another node published meanwhile, and what the row named is gone; or the row
		// says so again, and somebody took a piece.
		if err != nil || seen == l.Number {
			l.DER, l.Cuts = nil, nil
			return l, nil
		}
		seen = l.Number
	}
}

// inPieces is the first octet of crls.der where it only names the pieces of a
// list. A list starts with the tag of a sequence.
const inPieces = 0x00

// pieceNames is crls.der of a list in pieces.
func pieceNames(p *crl.Pieces) []byte {
	b := []byte{inPieces}
	put := func(v []byte) { b = append(binary.AppendUvarint(b, uint64(len(v))), v...) }
	put(p.Front)
	put(p.Back)
	for _, c := range p.All {
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(c.ID)), uint64(c.Len))
	}
	return b
}

// readPieceNames is the reverse of pieceNames; front and back point into der.
func readPieceNames(der []byte) (p crl.Pieces, ok bool) {
	in := der[1:]
	number := func() (uint64, bool) {
		v, n := binary.Uvarint(in)
		if n <= 0 {
			return 0, false
		}
		in = in[n:]
		return v, true
	}
	take := func() ([]byte, bool) {
		n, ok := number()
		if !ok || n > uint64(len(in)) {
			return nil, false
		}
		v := in[:n]
		in = in[n:]
		return v, true
	}
	var ok1, ok2 bool
	if p.Front, ok1 = take(); !ok1 {
		return p, false
	}
	if p.Back, ok2 = take(); !ok2 {
		return p, false
	}
	size := len(p.Front) + len(p.Back)
	for len(in) > 0 {
		id, ok1 := number()
		n, ok2 := number()
		if !ok1 || !ok2 || n > maxListPiece || size > maxListOctets {
			return p, false
		}
		size += int(n)
		p.All = append(p.All, crl.Cut{ID: int64(id), Len: int(n)})
	}
	return p, true
}

// joinPieces puts a list together; false if a piece is missing. What comes out is
// for the caller to verify, since it is signed.
func (db *DB) joinPieces(ctx context.Context, l *crl.StoredList) (bool, error) {
	p, ok := readPieceNames(l.DER)
	if !ok {
		return false, ErrRowTampered.New("Table crls, row %s.", listKey(l.Authority, l.Shard))
	}
	size := len(p.Front)
	at, lens := map[int64]int{}, map[int64]int{} // where each piece belongs, and how long it is
	for _, c := range p.All {
		at[c.ID], lens[c.ID] = size, c.Len
		size += c.Len
	}
	out := make([]byte, size+len(p.Back))
	copy(out, p.Front)
	copy(out[size:], p.Back)
	found := 0
	rows, err := db.query(ctx, `SELECT id, der FROM crl_pieces WHERE authority = $1 AND shard = $2`, l.Authority, l.Shard)
	err = each(rows, err, func(r row) error {
		var id int64
		var der sql.RawBytes
		if err := r.Scan(&id, &der); err != nil {
			return err
		}
		if n, ok := lens[id]; ok && n == len(der) {
			copy(out[at[id]:], der)
			found++
		}
		return nil
	})
	if err != nil || found != len(p.All) {
		return false, err
	}
	l.DER, l.Cuts = out, p.All
	return true, nil
}

const (
	maxListPiece  = 1 << 20
	maxListOctets = 256 << 20 // of a whole list
)

// PutList implements [crl.ListStore]: the condition on the old number lets one
// of two nodes win (A32). A list of a time that is not yet would outlive the
// mistake, so a clock that jumped publishes nothing (A74).
func (db *DB) PutList(ctx context.Context, l crl.StoredList, old int64) error {
	if err := db.CheckClock(); errors.Is(err, ErrClockAhead) {
		return err
	}
	der := l.DER
	if l.Pieces != nil {
		der = pieceNames(l.Pieces)
	}
	return db.Atomic(ctx, func(ctx context.Context) error {
		var n int64
		var err error
		mac := db.listMAC(&l.ListHead)
		if old == 0 {
			n, err = db.exec(ctx, `INSERT INTO crls (authority, shard, number, this_update, next_update, leaf, der, mac) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (authority, shard) DO NOTHING`,
				l.Authority, l.Shard, l.Number, millis(l.ThisUpdate), millis(l.NextUpdate), l.Leaf, der, mac)
			if err == nil && n == 1 {
				txFrom(ctx).reseal("crls", listKey(l.Authority, l.Shard), nil, keyOnly)
			}
		} else {
			n, err = db.exec(ctx, `UPDATE crls SET number = $1, this_update = $2, next_update = $3, leaf = $4, der = $5, mac = $6 WHERE authority = $7 AND shard = $8 AND number = $9 AND number < $1`,
				l.Number, millis(l.ThisUpdate), millis(l.NextUpdate), l.Leaf, der, mac, l.Authority, l.Shard, old)
		}
		if err == nil && n == 0 {
			return crl.ErrListMoved.New("Authority %s, shard %d.", l.Authority, l.Shard)
		}
		if err != nil {
			return err
		}
		return errors.Join(db.putPieces(ctx, &l), db.putDelta(ctx, &l))
	})
}

func (db *DB) putPieces(ctx context.Context, l *crl.StoredList) error {
	p := l.Pieces
	if p == nil || p.Fresh { // a list that became short leaves none behind
		if _, err := db.exec(ctx, `DELETE FROM crl_pieces WHERE authority = $1 AND shard = $2`, l.Authority, l.Shard); err != nil || p == nil {
			return err
		}
	}
	for _, id := range p.Gone {
		if _, err := db.exec(ctx, `DELETE FROM crl_pieces WHERE authority = $1 AND shard = $2 AND id = $3`, l.Authority, l.Shard, id); err != nil {
			return err
		}
	}
	for _, c := range p.All {
		der, ok := p.Put[c.ID]
		if !ok {
			continue
		}
		if _, err := db.exec(ctx, `INSERT INTO crl_pieces (authority, shard, id, der) VALUES ($1, $2, $3, $4) ON CONFLICT (authority, shard, id) DO UPDATE SET der = excluded.der`, l.Authority, l.Shard, c.ID, der); err != nil {
			return err
		}
	}
	return nil
}

func (db *DB) putDelta(ctx context.Context, l *crl.StoredList) error {
	if l.Delta == nil {
		return nil
	}
	_, err := db.exec(ctx, `INSERT INTO crl_deltas (authority, shard, number, der) VALUES ($1, $2, $3, $4) ON CONFLICT (authority, shard) DO UPDATE SET number = excluded.number, der = excluded.der`,
		l.Authority, l.Shard, l.Number, l.Delta)
	return err
}

// ShardRevocations implements [crl.ListStore].
func (db *DB) ShardRevocations(ctx context.Context, authority string, shard int, endFrom time.Time, f func(crl.Revocation, error) error) error {
	rows, err := db.query(ctx, `SELECT `+revocationColumns+` FROM revocations WHERE authority = $1 AND shard = $2 AND released_at = 0 AND not_after >= $3 ORDER BY serial`,
		authority, shard, millis(endFrom))
	return each(rows, err, func(r row) error {
		v, err := db.scanRevocation(r)
		return f(v, err)
	})
}

// ShardChanges implements [crl.ListStore].
func (db *DB) ShardChanges(ctx context.Context, authority string, shard int, fromLeaf int64, f func(crl.Revocation, error) error) error {
	rows, err := db.query(ctx, `SELECT `+revocationColumns+` FROM revocations WHERE leaf >= $1 AND authority || '' = $2 AND shard + 0 = $3 ORDER BY serial`, fromLeaf, authority, shard)
	return each(rows, err, func(r row) error {
		v, err := db.scanRevocation(r)
		return f(v, err)
	})
}

// Evidence implements [crl.ListStore].
func (db *DB) Evidence(ctx context.Context, authority string, serial ca.Serial) (e crl.Evidence, err error) {
	var end int64
	var der []byte
	var released, leaf sql.NullInt64
	err = db.queryRow(ctx, `SELECT r.not_after, c.der, v.released_at, v.leaf FROM reservations r
		LEFT JOIN certificates c ON c.reservation = r.id
		LEFT JOIN revocations v ON v.authority = r.authority AND v.serial = r.serial
		WHERE r.serial = $1 AND r.authority = $2`, serial[:], authority).Scan(&end, &der, &released, &leaf)
	if errors.Is(err, sql.ErrNoRows) {
		return e, nil
	}
	if err != nil {
		return e, err
	}
	e.NotAfter = timeOf(end)
	if der != nil { // what the CA signed counts more than a column
		if c, err := x509.ParseCertificate(der); err == nil {
			e.NotAfter = c.NotAfter
		}
	}
	if released.Int64 == 0 {
		return e, nil
	}
	l, err := db.leafAt(ctx, leaf.Int64)
	if err != nil || l == nil {
		return e, err
	}
	e.Released = l.Type == tlog.Release && string(l.serial) == string(serial[:]) && l.Subject == sha256.Sum256(serial[:]) && l.Compute() == l.Entry && db.salted(l)
	return e, nil
}

const leafColumns = `idx, type, tenant, account, holder, subject, salt, entry, serial, at`

// storedLeaf is a leaf as its row has it.
type storedLeaf struct {
	tlog.Leaf
	serial []byte
	at     int64 // milliseconds
}

// scanLeaf reads leafColumns, and more after them.
func scanLeaf(r row, more ...any) (l storedLeaf, err error) {
	var subject, salt, entry []byte
	err = r.Scan(append([]any{&l.Index, (*string)(&l.Type), &l.Tenant, &l.Account, &l.Holder, &subject, &salt, &entry, &l.serial, &l.at}, more...)...)
	copy(l.Subject[:], subject)
	copy(l.Salt[:], salt)
	copy(l.Entry[:], entry)
	l.At = l.at / 1000
	return l, err
}

// leafAt reads one leaf, nil if there is none.
func (db *DB) leafAt(ctx context.Context, index int64) (*storedLeaf, error) {
	l, err := scanLeaf(db.queryRow(ctx, `SELECT `+leafColumns+` FROM log_leaves WHERE idx = $1`, index))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return &l, err
}

// Status implements [crl.StatusStore].
func (db *DB) Status(ctx context.Context, authority string, serial ca.Serial) (s crl.Status, err error) {
	var issued, reason, at, released sql.NullInt64
	err = db.queryRow(ctx, `SELECT c.issued_at, v.reason, v.revoked_at, v.released_at FROM reservations r
		LEFT JOIN certificates c ON c.reservation = r.id
		LEFT JOIN revocations v ON v.authority = r.authority AND v.serial = r.serial
		WHERE r.serial = $1 AND r.authority = $2`, serial[:], authority).Scan(&issued, &reason, &at, &released)
	if errors.Is(err, sql.ErrNoRows) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	s.Issued = issued.Valid
	if at.Valid && released.Int64 == 0 {
		s.Revoked, s.Reason, s.At = true, crl.Reason(reason.Int64), timeOf(at.Int64)
	}
	return s, nil
}

// EachRevocation implements [crl.FsckStore].
func (db *DB) EachRevocation(ctx context.Context, f func(crl.Revocation, error) error) error {
	rows, err := db.query(ctx, `SELECT `+revocationColumns+` FROM revocations ORDER BY leaf`)
	return each(rows, err, func(r row) error {
		v, err := db.scanRevocation(r)
		return f(v, err)
	})
}

// EachStatusLeaf implements [crl.FsckStore].
func (db *DB) EachStatusLeaf(ctx context.Context, f func(crl.StatusLeaf) error) error {
	return chunks(func(after int64) (last int64, n int, err error) {
		rows, err := db.query(ctx, `SELECT `+leafColumns+` FROM log_leaves WHERE idx > $1 AND type <> 'issue' AND type <> 'lost' ORDER BY idx LIMIT $2`, after, chunk)
		err = each(rows, err, func(r row) error {
			l, err := scanLeaf(r)
			if err != nil {
				return err
			}
			last, n = l.Index, n+1
			return f(crl.StatusLeaf{Leaf: l.Leaf, Serial: l.serial, Genuine: db.salted(&l)})
		})
		return last, n, err
	})
}

// ListRows implements [crl.FsckStore].
func (db *DB) ListRows(ctx context.Context, authority string, shard int) (out crl.ListRows, err error) {
	for range 5 {
		out = crl.ListRows{}
		var der []byte
		err := db.queryRow(ctx, `SELECT number, der FROM crls WHERE authority = $1 AND shard = $2`, authority, shard).Scan(&out.Number, &der)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return out, err
		}
		if len(der) > 0 && der[0] == inPieces {
			p, ok := readPieceNames(der)
			out.Named, out.Front, out.Broken = p.All, len(p.Front), !ok
		}
		rows, err := db.query(ctx, `SELECT id, LENGTH(der) FROM crl_pieces WHERE authority = $1 AND shard = $2 ORDER BY id`, authority, shard)
		if err := each(rows, err, func(r row) error {
			var c crl.Cut
			err := r.Scan(&c.ID, &c.Len)
			out.Stored = append(out.Stored, c)
			return err
		}); err != nil {
			return out, err
		}
		var now int64
		if err := db.queryRow(ctx, `SELECT COALESCE(MAX(number), 0) FROM crls WHERE authority = $1 AND shard = $2`, authority, shard).Scan(&now); err != nil || now == out.Number {
			return out, err
		}
	}
	return out, nil
}

// PieceOwners implements [crl.FsckStore].
func (db *DB) PieceOwners(ctx context.Context, f func(authority string, shard int) error) error {
	rows, err := db.query(ctx, `SELECT DISTINCT authority, shard FROM crl_pieces ORDER BY authority, shard`)
	return each(rows, err, func(r row) error {
		var authority string
		var shard int
		if err := r.Scan(&authority, &shard); err != nil {
			return err
		}
		return f(authority, shard)
	})
}

// EachDelta implements [crl.FsckStore].
func (db *DB) EachDelta(ctx context.Context, f func(authority string, shard int, number int64, der []byte) error) error {
	rows, err := db.query(ctx, `SELECT authority, shard, number, der FROM crl_deltas ORDER BY authority, shard`)
	return each(rows, err, func(r row) error {
		var authority string
		var shard int
		var number int64
		var der []byte
		if err := r.Scan(&authority, &shard, &number, &der); err != nil {
			return err
		}
		return f(authority, shard, number, der)
	})
}

// EachFilter implements [crl.FsckStore].
func (db *DB) EachFilter(ctx context.Context, f func(crl.StoredFilter) error) error {
	var all []string
	rows, err := db.query(ctx, `SELECT authority FROM crl_filters ORDER BY authority`)
	if err := each(rows, err, func(r row) error {
		var a string
		err := r.Scan(&a)
		all = append(all, a)
		return err
	}); err != nil {
		return err
	}
	for _, a := range all {
		one, err := db.Filter(ctx, a)
		if err != nil {
			return err
		}
		if one == nil {
			continue
		}
		if err := f(*one); err != nil {
			return err
		}
	}
	return nil
}

// EachForeignCertificate gives the registered device certificates of CAs that are
// not ours, of every tenant.
func (db *DB) EachForeignCertificate(ctx context.Context, f func(tenant, id string, der []byte) error) error {
	tenant, id := "", ""
	for {
		type one struct {
			tenant, id string
			der        []byte
		}
		var page []one
		rows, err := db.query(ctx, `SELECT `+certificateColumns+` FROM device_certificates c WHERE (c.tenant, c.id) > ($1, $2) AND c.authority = '' ORDER BY c.tenant, c.id LIMIT $3`, tenant, id, chunk)
		err = each(rows, err, func(row row) error {
			var r certificateRow
			if err := row.Scan(r.dest()...); err != nil {
				return err
			}
			c, err := db.verifyCertificate(&r)
			if err != nil { // the door refuses it, and fsck names it
				db.log.ErrorContext(ctx, "device certificate is not as written", "error", err)
			}
			page = append(page, one{c.Tenant, c.ID, c.DER})
			return nil
		})
		if err != nil || len(page) == 0 {
			return err
		}
		for _, p := range page {
			if err := f(p.tenant, p.id, p.der); err != nil {
				return err
			}
			tenant, id = p.tenant, p.id
		}
	}
}
