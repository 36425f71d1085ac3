package store

import (
	"hallmark/ca"
	"hallmark/migrations"
)

// A node that writes alone finds, batch after batch, what its own last commit
// left, and claims for units that nobody knows. On PostgreSQL finding out costs a
// round trip each time. So after some batches like that a writer takes it for
// granted, and sends with the batch's end what must hold: constraints, and
// statements that divide by zero if it does not. Whatever is not so undoes the
// batch, which then is run again, and asks (decision 0010).

// memory is what a writer's connection remembers of its batches.
type memory struct {
	head    int64 // the log's size as its last commit left it
	alone   int   // commits in a row that found it so
	news    int   // batches in a row whose claims were for unknown units, from good requesters
	trusted map[requester]struct{}
	orders  map[accountKey]quotaState // as its last commits left them
}

const (
	guessAfter  = 8    // batches in a row that must have been as expected
	memoryLimit = 1024 // requesters and orders remembered
)

// newcomer is what is known of a unit that nobody knows.
var newcomer = &holderRow{}

// assume takes it that the claims are for unknown units with unknown keys, that
// their requesters are still good, and their orders as they were. It reports
// whether there is reason to.
func (tx *txn) assume(claims []*ca.Claim) bool {
	m := tx.memory
	if m.news < guessAfter {
		return false
	}
	for _, c := range claims {
		_, trusted := m.trusted[requesterOf(c)]
		_, known := m.orders[accountKey{c.Tenant, c.Account}]
		if !trusted || c.Account != "" && !known {
			return false
		}
	}
	tx.guessed = true
	tx.assumed = claims
	tx.ahead = make(map[*ca.Claim]*holderRow, len(claims))
	tx.trust = map[requester]error{}
	tx.quotas = map[accountKey]*quotaState{}
	for _, c := range claims {
		tx.ahead[c] = newcomer
		tx.trust[requesterOf(c)] = nil
		if k := (accountKey{c.Tenant, c.Account}); c.Account != "" && tx.quotas[k] == nil {
			q := m.orders[k]
			tx.quotas[k] = &q
			tx.assumedOrders = append(tx.assumedOrders, assumedOrder{k, q})
		}
	}
	return true
}

type assumedOrder struct {
	accountKey
	was quotaState
}

// noteAhead learns from what was read ahead whether the next batches may be assumed.
func (tx *txn) noteAhead(claims []*ca.Claim) {
	m := tx.memory
	m.news++
	if len(m.trusted) > memoryLimit || m.trusted == nil {
		m.trusted = map[requester]struct{}{}
	}
	for _, c := range claims {
		h, k := tx.ahead[c], requesterOf(c)
		if h == nil || h.blocked.Valid || h.keyState.Valid || h.shown.Valid || tx.trust[k] != nil {
			m.news = 0
			delete(m.trusted, k)
			continue
		}
		m.trusted[k] = struct{}{}
	}
}

// remember keeps, once the batch is committed, what it left.
func (tx *txn) remember() {
	m := tx.memory
	if tx.db.engine != migrations.Postgres {
		return
	}
	if len(m.orders) > memoryLimit || m.orders == nil {
		m.orders = map[accountKey]quotaState{}
	}
	for k, q := range tx.quotas {
		if delete(m.orders, k); q.checked && q.state == "open" {
			left := *q
			left.used, left.delta = q.used+q.delta, 0
			m.orders[k] = left
		}
	}
}

// assumedSteps prove what was assumed, apart from the units and keys: their rows
// are new, or a constraint says that they are not.
func (tx *txn) assumedSteps() []step {
	if len(tx.assumed) == 0 {
		return nil
	}
	var who requesters
	var what orders
	asked := map[requester]struct{}{}
	tenants, holders := make([]string, len(tx.assumed)), make([]string, len(tx.assumed))
	for i, c := range tx.assumed {
		tenants[i], holders[i] = c.Tenant, fold(c.Holder)
		k := requesterOf(c)
		if _, ok := asked[k]; ok || k.authority == "" && k.station == "" {
			continue
		}
		asked[k] = struct{}{}
		who.add(k)
	}
	for _, o := range tx.assumedOrders {
		what.add(o)
	}
	return []step{{sql: assumedSQL, args: []any{who.authority, who.serial, who.tenant, who.station,
		what.tenant, what.id, what.state, what.changedAt, what.mac, what.used, tenants, holders}}}
}

// requesters and orders are columns of what one statement asks about.
type (
	requesters struct {
		authority       []string
		serial          [][]byte
		tenant, station []string
	}
	orders struct {
		tenant, id, state []string
		changedAt         []int64
		mac               [][]byte
		used              []int64
	}
)

func (r *requesters) add(k requester) {
	r.authority, r.serial = append(r.authority, k.authority), append(r.serial, k.serial[:])
	r.tenant, r.station = append(r.tenant, k.tenant), append(r.station, k.station)
}

func (o *orders) add(a assumedOrder) {
	o.tenant, o.id, o.state = append(o.tenant, a.tenant), append(o.id, a.account), append(o.state, a.was.state)
	o.changedAt, o.mac, o.used = append(o.changedAt, a.was.changedAt), append(o.mac, a.was.mac), append(o.used, a.was.used)
}

// assumedSQL divides by zero if a requester is revoked or its station not active,
// an order is not as it was, or a unit is blocked.
const assumedSQL = `SELECT 1 / (CASE WHEN
	EXISTS (SELECT 1 FROM unnest($1::text[], $2::bytea[], $3::text[], $4::text[]) AS q (authority, serial, tenant, station)
		LEFT JOIN revocations v ON v.authority = q.authority AND v.serial = q.serial
		LEFT JOIN stations s ON s.tenant = q.tenant AND s.id = q.station
		WHERE v.released_at = 0 OR q.station <> '' AND s.state IS DISTINCT FROM 'active')
	OR EXISTS (SELECT 1 FROM unnest($5::text[], $6::text[], $7::text[], $8::bigint[], $9::bytea[], $10::bigint[]) AS q (tenant, id, state, changed_at, mac, used)
		LEFT JOIN orders o ON o.tenant = q.tenant AND o.id = q.id AND o.state = q.state AND o.changed_at = q.changed_at AND o.mac = q.mac AND o.used = q.used
		WHERE o.id IS NULL)
	OR EXISTS (SELECT 1 FROM unnest($11::text[], $12::text[]) AS q (tenant, holder) JOIN blocks b ON b.tenant = q.tenant AND b.holder = q.holder)
	THEN 0 ELSE 1 END)`

// ownHead tells where the batch's leaves will begin if no other node writes, and
// whether to rely on it: then the batch's whole end is one round trip. Events
// other than certificates write rows that name their leaf, so they wait for it.
func (tx *txn) ownHead() (first int64, ok bool) {
	m := tx.memory
	return m.head, tx.db.engine == migrations.Postgres && !tx.direct && m.alone >= guessAfter &&
		len(tx.leaves) > 0 && len(tx.leaves) == len(tx.certList) && len(tx.seals) == 0 && len(tx.trail) == 0 && !tx.clockDue()
}

// headSteps append the leaves at first, with their certificates, and refuse if
// the head is elsewhere or gone, or a certificate was revoked before it was
// recorded. Whoever moved the head has it until the commit, so a revocation that
// is not seen here comes after this batch.
func (tx *txn) headSteps(first int64) ([]step, error) {
	n := int64(len(tx.leaves))
	tx.guessed = true
	tx.moved(first, first+n)
	if err := tx.placeLeaves(first); err != nil {
		return nil, err
	}
	steps := []step{{sql: `UPDATE log_head SET size = CASE WHEN size = $1 THEN $2::bigint END WHERE id = 1`, args: []any{first, first + n}}}
	for _, s := range tx.revokedSteps(new(int)) {
		s.row, s.sql = nil, `SELECT 1 / COUNT(*) FROM log_head WHERE id = 1 AND (`+s.sql+`) = 0`
		steps = append(steps, s)
	}
	return append(append(steps, tx.leafSteps()...), tx.certSteps()...), nil
}

// moved notes how the batch moves the log's head, once it is committed.
func (tx *txn) moved(from, to int64) {
	m := tx.memory
	if m.head != from {
		m.alone = 0
	}
	tx.after = append(tx.after, func() {
		m.head = to
		m.alone++
	})
}

// forget makes the next batches ask, after a guess was wrong.
func (m *memory) forget() { m.alone, m.news = 0, 0 }
