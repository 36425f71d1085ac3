package store

import (
	"bytes"
	"strconv"
	"strings"
	"sync"

	"hallmark/ca"
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
func (tx *txn) later(c *ca.Claim) *pendingReservation {
	p := &pendingReservation{claim: c}
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
	ps := tx.reservations
	if len(ps) == 0 {
		return nil
	}
	tx.reservations = nil
	clear(tx.waitingIdentities)
	clear(tx.waitingKeys)
	n, err := tx.insertMany(`public_keys (spki, tenant, holder, state)`, ` ON CONFLICT (spki) DO NOTHING`, 4, len(ps), func(i int, args []any) []any {
		c := ps[i].claim
		return append(args, c.SPKI[:], c.Tenant, fold(c.Holder), "bound")
	})
	if err == nil && n != int64(len(ps)) {
		err = errStale
	}
	if err != nil {
		return err
	}
	if err := tx.flushReservations(ps); err != nil {
		return err
	}
	n, err = tx.insertMany(`identities (tenant, holder, profile, slot, shown, account, station, reservation, state)`, ` ON CONFLICT (tenant, holder, profile, slot) DO NOTHING`, 9, len(ps), func(i int, args []any) []any {
		c := ps[i].claim
		return append(args, c.Tenant, fold(c.Holder), c.Profile, c.Slot, c.Holder, c.Account, c.Requester.Station, ps[i].id, "reserved")
	})
	if err == nil && n != int64(len(ps)) {
		err = errStale
	}
	return err
}

const reservationColumns = `authority, serial, tenant, account, profile, version, holder, slot, spki, tbs, shard, not_before, not_after, requester, operator, tool, origin, reserved_at`

func reservationArgs(args []any, c *ca.Claim) []any {
	return append(args, c.Authority, c.Serial[:], c.Tenant, c.Account, c.Profile, c.Version, fold(c.Holder), c.Slot, c.SPKI[:], c.TBS, c.Shard,
		millis(c.NotBefore), millis(c.NotAfter), c.Requester.Actor, c.Operator, c.Tool, c.Origin, millis(c.Now))
}

// flushReservations writes them and learns their ids, by serial number.
func (tx *txn) flushReservations(ps []*pendingReservation) error {
	for len(ps) > 0 {
		k := piece(len(ps))
		args := make([]any, 0, 18*k)
		for _, p := range ps[:k] {
			args = reservationArgs(args, p.claim)
		}
		rows, err := tx.rawQuery(manySQL(`reservations (`+reservationColumns+`)`, ` ON CONFLICT (serial) DO NOTHING RETURNING id, serial`, 18, k), args...)
		found := 0
		err = each(rows, err, func(r row) error {
			var id int64
			var serial []byte
			if err := r.Scan(&id, &serial); err != nil {
				return err
			}
			for _, p := range ps[:k] {
				if bytes.Equal(p.claim.Serial[:], serial) {
					p.id = id
					found++
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if found != k {
			return errStale // a serial number exists already: the direct path says so
		}
		ps = ps[k:]
	}
	return nil
}

// finishCerts writes the batch's certificates; their leaves have indexes by now.
func (tx *txn) finishCerts() error {
	ps := tx.certList
	if len(ps) == 0 {
		return nil
	}
	if err := tx.noneRevoked(ps); err != nil {
		return err
	}
	n, err := tx.insertMany(`certificates (reservation, der, issued_at, leaf)`, ` ON CONFLICT (reservation) DO NOTHING`, 4, len(ps), func(i int, args []any) []any {
		return append(args, ps[i].r.ID, ps[i].der, ps[i].at, ps[i].leaf)
	})
	if err == nil && n != int64(len(ps)) {
		err = errStale // another node recorded first: read it on the direct path
	}
	return err
}

// noneRevoked makes the batch run singly if a reservation was voided meanwhile.
func (tx *txn) noneRevoked(ps []*pendingCert) error {
	for len(ps) > 0 {
		k := piece(len(ps))
		var q strings.Builder
		q.WriteString(`SELECT COUNT(*) FROM revocations WHERE released_at = 0 AND (`)
		args := make([]any, 0, 2*k)
		for i, p := range ps[:k] {
			if i > 0 {
				q.WriteString(` OR `)
			}
			q.WriteString(`(authority = $` + strconv.Itoa(2*i+1) + ` AND serial = $` + strconv.Itoa(2*i+2) + `)`)
			args = append(args, p.r.Authority, p.r.Serial[:])
		}
		q.WriteString(`)`)
		var n int
		if err := tx.rawQueryRow(q.String(), args...).Scan(&n); err != nil {
			return err
		}
		if n > 0 {
			return errStale
		}
		ps = ps[k:]
	}
	return nil
}

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

// manySQL is INSERT INTO into VALUES (…), (…) with rows times columns parameters.
func manySQL(into, tail string, columns, rows int) string {
	k := manyKey{into + tail, rows}
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
			q.WriteString(`$` + strconv.Itoa(r*columns+c+1))
		}
		q.WriteString(`)`)
	}
	q.WriteString(tail)
	manyMu.Lock()
	manyTexts[k] = q.String()
	manyMu.Unlock()
	return q.String()
}

// insertMany writes n rows in pieces and tells how many were written.
func (tx *txn) insertMany(into, tail string, columns, n int, row func(i int, args []any) []any) (written int64, err error) {
	for i := 0; i < n; {
		k := piece(n - i)
		args := make([]any, 0, columns*k)
		for j := i; j < i+k; j++ {
			args = row(j, args)
		}
		m, err := tx.rawExec(manySQL(into, tail, columns, k), args...)
		if err != nil {
			return written, err
		}
		written += m
		i += k
	}
	return written, nil
}
