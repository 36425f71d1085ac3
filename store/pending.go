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
	steps := insertSteps(`public_keys (spki, tenant, holder, state)`, "", "", 4, len(ps), func(i int, args []any) []any {
		c := ps[i].claim
		return append(args, c.SPKI[:], c.Tenant, fold(c.Holder), "bound")
	})
	for _, s := range insertSteps(`reservations (`+reservationColumns+`)`, "", ` RETURNING id, serial`, 19, len(ps), func(i int, args []any) []any {
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
	return append(steps, insertSteps(`identities (tenant, holder, profile, slot, shown, account, station, state, reservation)`, `(SELECT id FROM reservations WHERE serial = ?)`, "", 9, len(ps), func(i int, args []any) []any {
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
	return insertSteps(`certificates (reservation, der, issued_at, leaf)`, "", "", 4, len(tx.certList), func(i int, args []any) []any {
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

// insertSteps are statements that write n rows in pieces.
func insertSteps(into, last, tail string, columns, n int, row func(i int, args []any) []any) (steps []step) {
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
