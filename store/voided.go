package store

import (
	"context"
	"database/sql"
	"errors"

	"hallmark/ca"
)

// stateVoid is an identity whose only reservation was abandoned and is listed:
// its unit went back to the order's quota and is taken again with a new key.
const stateVoid = "void"

// voidedRow is a revocation on the way to its unit's return.
type voidedRow struct {
	leaf, id                               int64
	tenant, account, holder, profile, slot string
	open                                   bool // it can be returned
}

// ReturnQuota gives orders their units back whose reservation the service voided
// because nobody ever fetched a certificate (S8). It goes through revocations in
// the order of their leaves, at most limit of them after one, and stops at the
// first that is on no published list yet: first everybody can see that the
// serial number is void, then somebody else may have the unit. An identity that
// ever had a certificate keeps its unit. last is where to go on.
func (db *DB) ReturnQuota(ctx context.Context, after int64, limit int) (last int64, returned int, err error) {
	last = after
	var todo []voidedRow
	waiting := false
	rows, err := db.query(ctx, `SELECT v.leaf, r.id, r.tenant, r.account, r.holder, r.profile, r.slot,
		i.state = 'reserved' AND i.account <> '' AND v.revoked_by = 'service:' AND v.released_at = 0 AND NOT EXISTS (
			SELECT 1 FROM reservations o JOIN certificates c ON c.reservation = o.id WHERE o.tenant = r.tenant AND o.holder = r.holder AND o.profile = r.profile AND o.slot = r.slot),
		l.leaf IS NOT NULL AND l.leaf > v.leaf
		FROM revocations v JOIN reservations r ON r.authority = v.authority AND r.serial = v.serial
		LEFT JOIN identities i ON i.reservation = r.id AND i.tenant = r.tenant AND i.holder = r.holder AND i.profile = r.profile AND i.slot = r.slot
		LEFT JOIN crls l ON l.authority = v.authority AND l.shard = v.shard
		WHERE v.leaf > $1 ORDER BY v.leaf LIMIT $2`, after, limit)
	err = each(rows, err, func(r row) error {
		var v voidedRow
		var open sql.NullBool
		var listed bool
		if err := r.Scan(&v.leaf, &v.id, &v.tenant, &v.account, &v.holder, &v.profile, &v.slot, &open, &listed); err != nil {
			return err
		}
		if v.open = open.Bool; waiting || v.open && !listed {
			waiting = true
			return nil
		}
		todo = append(todo, v)
		return nil
	})
	if err != nil {
		return last, 0, err
	}
	for _, v := range todo {
		if v.open {
			err := db.Atomic(ctx, func(ctx context.Context) error {
				// The condition on the reservation: a new key may have come meanwhile.
				n, err := db.exec(ctx, `UPDATE identities SET state = '`+stateVoid+`' WHERE tenant = $1 AND holder = $2 AND profile = $3 AND slot = $4 AND reservation = $5 AND state = 'reserved'`,
					v.tenant, v.holder, v.profile, v.slot, v.id)
				if err != nil || n == 0 {
					return errors.Join(err, errNothing)
				}
				n, err = db.exec(ctx, `UPDATE orders SET used = used - 1 WHERE tenant = $1 AND id = $2 AND used > 0`, v.tenant, v.account)
				if err == nil && n == 0 {
					err = ErrRowTampered.New("Table orders, %s counts fewer units than it has.", v.account)
				}
				tx := txFrom(ctx)
				tx.after = append(tx.after, func() { db.guard.returned(accountKey{v.tenant, v.account}) })
				tx.forgetAccount(v.tenant, v.account)
				return err
			})
			switch {
			case err == nil:
				returned++
			case !errors.Is(err, errNothing):
				return last, returned, err
			}
		}
		last = v.leaf
	}
	return last, returned, nil
}

// known tells whether there is an identity, also one that is void.
func (db *DB) known(ctx context.Context, id ca.Identity) (bool, error) {
	var n int
	err := db.queryRow(ctx, `SELECT COUNT(*) FROM identities WHERE tenant = $1 AND holder = $2 AND profile = $3 AND slot = $4`, id.Tenant, fold(id.Holder), id.Profile, id.Slot).Scan(&n)
	return n > 0, err
}

// errNothing ends a transaction that found nothing to do.
var errNothing = errors.New("store: nothing to do")
