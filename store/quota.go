package store

import (
	"database/sql"
	"errors"
	"time"

	"hallmark/ca"
)

type accountKey struct{ tenant, account string }

// quotaState is an account's counter during one batch: read once, moved once.
type quotaState struct {
	state       string
	changedAt   int64
	used, delta int64
	mac         []byte
	checked     bool // the row was held against its MAC and the log
	quota       int64
}

// account reads an account's row once per batch.
func (tx *txn) account(k accountKey) (*quotaState, error) {
	if tx.quotas[k] == nil {
		s := tx.accountStep(k)
		if err := s.row(tx.rawQueryRow(s.sql, s.args...)); errors.Is(err, sql.ErrNoRows) {
			return nil, ca.ErrAccountClosed.New("There is no order %s.", k.account)
		} else if err != nil {
			return nil, err
		}
	}
	q := tx.quotas[k]
	return q, tx.checkOrder(k, q)
}

// accountStep reads an account's row into the batch.
func (tx *txn) accountStep(k accountKey) step {
	return step{`SELECT state, used, changed_at, mac FROM orders WHERE tenant = $1 AND id = $2`, []any{k.tenant, k.account}, func(r row) error {
		q := &quotaState{}
		if err := r.Scan(&q.state, &q.used, &q.changedAt, &q.mac); err != nil {
			return err
		}
		if tx.quotas == nil {
			tx.quotas = map[accountKey]*quotaState{}
		}
		tx.quotas[k] = q
		return nil
	}}
}

// closedGrace is how long after an order was closed its stations may still fetch
// what was reserved for units that they had started (S9).
const closedGrace = 72 * time.Hour

// checkAccount refuses when the account does not take requests now. A unit that
// was started with this key may be finished for a while after the end.
func (tx *txn) checkAccount(c *ca.Claim, started bool) (*quotaState, error) {
	q, err := tx.account(accountKey{c.Tenant, c.Account})
	if err != nil {
		return nil, err
	}
	if started && q.state == "closed" && millis(c.Now)-q.changedAt < closedGrace.Milliseconds() {
		return q, nil
	}
	if q.state != "open" {
		return nil, ca.ErrAccountClosed.New("Order %s is %s.", c.Account, q.state).With("order", c.Account)
	}
	return q, nil
}

// takeQuota takes one unit. The limit comes from the signed order (S32), never
// from a column that a database writer could raise.
func (tx *txn) takeQuota(c *ca.Claim, q *quotaState) error {
	if q.used+q.delta >= c.Quota {
		return ca.ErrQuota.New("Order %s has used all %d units.", c.Account, c.Quota).With("order", c.Account).With("remaining", 0)
	}
	q.delta++
	q.quota = c.Quota
	tx.undo = append(tx.undo, func() { q.delta-- })
	return nil
}

// forgetAccount makes the next look read the row again, after a job of this
// batch changed it.
func (tx *txn) forgetAccount(tenant, account string) {
	k := accountKey{tenant, account}
	if q := tx.quotas[k]; q != nil && q.delta == 0 {
		delete(tx.quotas, k)
	} else if q != nil {
		q.state = "" // filled again below; the delta must not be lost
		tx.rawQueryRow(`SELECT state, changed_at FROM orders WHERE tenant = $1 AND id = $2`, tenant, account).Scan(&q.state, &q.changedAt)
	}
}

// quotaSteps move each counter once. The limit is repeated, so that two nodes
// together cannot pass it: the loser writes NULL where none may be, and its
// batch is run again singly.
func (tx *txn) quotaSteps() (steps []step) {
	for k, q := range tx.quotas {
		if q.delta != 0 {
			tx.after = append(tx.after, func() { tx.db.guard.took(k, q.used+q.delta) })
			steps = append(steps, step{sql: `UPDATE orders SET used = CASE WHEN state = 'open' AND used + $1 <= $4 THEN used + $1 END WHERE tenant = $2 AND id = $3`, args: []any{q.delta, k.tenant, k.account, q.quota}})
		}
	}
	return steps
}
