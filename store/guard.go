package store

import (
	"context"
	"crypto/hmac"
	"database/sql"
	"errors"
	"sync"

	"hallmark/ca"
	"hallmark/provisioner"
)

// guard is what this process knows better than rows that a database writer can
// change behind its back (S32). It costs the hot path a look into a map.
type guard struct {
	mu   sync.RWMutex
	keys map[[32]byte]struct{}    // compromised for sure, whatever public_keys says
	used map[accountKey]int64     // the least that an order's counter can say
	seen map[accountKey]orderSeen // rows whose MAC was right
}

// orderSeen is as much of an order's row as a batch reads.
type orderSeen struct {
	state     string
	changedAt int64
	mac       string
}

func (g *guard) compromise(spki [32]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.keys == nil {
		g.keys = map[[32]byte]struct{}{}
	}
	g.keys[spki] = struct{}{}
}

func (g *guard) isCompromised(spki [32]byte) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	_, ok := g.keys[spki]
	return ok
}

// took notes what a committed batch left in an order's counter.
func (g *guard) took(k accountKey, used int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.used == nil {
		g.used = map[accountKey]int64{}
	}
	g.used[k] = max(g.used[k], used)
}

// counted replaces what was noted by what was counted.
func (g *guard) counted(k accountKey, used int64) {
	g.mu.Lock()
	delete(g.used, k)
	g.mu.Unlock()
	g.took(k, used)
}

// returned notes that an abandoned unit went back to its order.
func (g *guard) returned(k accountKey) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.used[k] > 0 {
		g.used[k]--
	}
}

func (g *guard) least(k accountKey) (used int64, known bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	used, known = g.used[k]
	return used, known
}

func (g *guard) knows(k accountKey, s orderSeen) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.seen[k] == s
}

func (g *guard) learn(k accountKey, s orderSeen) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.seen == nil {
		g.seen = map[accountKey]orderSeen{}
	}
	g.seen[k] = s
}

// checkOrder holds an order's row against its MAC, and its counter against what
// was counted before. A counter that fell is counted anew from identities and
// log, which must agree with what it said (S32).
func (tx *txn) checkOrder(k accountKey, q *quotaState) error {
	if q.checked {
		return nil
	}
	g := &tx.db.guard
	if s := (orderSeen{q.state, q.changedAt, string(q.mac)}); !g.knows(k, s) {
		o, err := tx.db.scanOrder(tx.rawQueryRow(`SELECT `+orderColumns+` FROM orders WHERE tenant = $1 AND id = $2`, k.tenant, k.account))
		if err != nil {
			return err
		}
		q.state, q.changedAt = string(o.State), millis(o.ChangedAt)
		g.learn(k, orderSeen{q.state, q.changedAt, string(tx.db.orderMAC(&o))})
	}
	if least, known := g.least(k); !known || q.used < least {
		used, least, err := countUnits(tx.rawQueryRow, k)
		if err != nil {
			return err
		}
		if used < least {
			tx.db.log.ErrorContext(tx.ctx, "an order's counter was set back; it is put right", "order", k.account, "counter", used, "units", least)
			if _, err := tx.rawExec(`UPDATE orders SET used = $1 WHERE tenant = $2 AND id = $3 AND used < $1`, least, k.tenant, k.account); err != nil {
				return err
			}
		}
		q.used = max(used, least)
		g.counted(k, q.used)
	}
	q.checked = true
	return nil
}

// countUnits gives an order's counter and the least that it must be: the units
// that have an identity, and those that have a leaf of issuance. A unit that was
// made twice has two leaves, so only many leaves are looked at one by one.
func countUnits(read func(query string, args ...any) row, k accountKey) (used, least int64, err error) {
	var identities, leaves int64
	err = read(`SELECT o.used, (SELECT COUNT(*) FROM identities i WHERE i.tenant = o.tenant AND i.account = o.id AND i.state <> '`+stateVoid+`'),
		(SELECT COUNT(*) FROM log_leaves l WHERE l.tenant = o.tenant AND l.account = o.id AND l.type = 'issue') FROM orders o WHERE o.tenant = $1 AND o.id = $2`, k.tenant, k.account).Scan(&used, &identities, &leaves)
	if err == nil && leaves > max(used, identities) {
		err = read(`SELECT o.used, (SELECT COUNT(DISTINCT l.holder) FROM log_leaves l WHERE l.tenant = o.tenant AND l.account = o.id AND l.type = 'issue') FROM orders o WHERE o.tenant = $1 AND o.id = $2`, k.tenant, k.account).Scan(&used, &leaves)
	} else {
		leaves = 0
	}
	return used, max(identities, leaves), err
}

// openGuard puts right at start what a database writer could have changed to
// gain something while nothing ran, as far as the log knows better.
func (db *DB) openGuard(ctx context.Context) error {
	for _, open := range []func(context.Context) error{db.mendBlocks, db.mendCounters, db.missRevocations} {
		if err := open(ctx); err != nil {
			return err
		}
	}
	return nil
}

// sealedRows gives the number of rows of a table and how many its seal says.
func (db *DB) sealedRows(ctx context.Context, table string) (have, want int64, err error) {
	var sealed []byte
	if err := db.queryRow(ctx, `SELECT state, (SELECT COUNT(*) FROM `+table+`) FROM seals WHERE name = $1`, table).Scan(&sealed, &have); errors.Is(err, sql.ErrNoRows) {
		return 0, 0, ErrRowTampered.New("Table seals, row %s is missing.", table)
	} else if err != nil {
		return 0, 0, err
	}
	_, s, err := db.openSeal(table, given{sealed})
	if err != nil {
		return 0, 0, err
	}
	return have, s.Rows, nil
}

// given is a row of one value that was read already.
type given struct{ value []byte }

func (g given) Scan(dest ...any) error {
	*dest[0].(*[]byte) = g.value
	return nil
}

// mendBlocks writes blocks again whose row is gone. One that the log does not
// have either is gone for good, and without it a blocked device could come back:
// then nothing starts.
func (db *DB) mendBlocks(ctx context.Context) error {
	var lost []storedLeaf
	rows, err := db.query(ctx, `SELECT l.idx, l.type, l.tenant, l.account, l.holder, l.subject, l.salt, l.entry, l.serial, l.at FROM log_leaves l LEFT JOIN blocks b ON b.tenant = l.tenant AND b.holder = l.holder WHERE l.type <> 'issue' AND l.type = 'block' AND b.holder IS NULL`)
	err = each(rows, err, func(r row) error {
		l, err := scanLeaf(r)
		if err == nil && l.Compute() == l.Entry && db.salted(&l) {
			lost = append(lost, l)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, l := range lost {
		b := blockRow{tenant: l.Tenant, holder: l.Holder, at: l.at, by: "service:", note: "restored from the log", leaf: l.Index}
		err := db.Atomic(ctx, func(ctx context.Context) error {
			_, err := db.exec(ctx, `INSERT INTO blocks (`+blockColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, holder) DO NOTHING`, b.tenant, b.holder, b.at, b.by, b.note, b.leaf, db.blockMAC(&b))
			return err
		})
		if err != nil {
			return err
		}
		db.log.ErrorContext(ctx, "a block was missing; it is restored from the log", "holder", b.holder, "leaf", b.leaf)
	}
	have, want, err := db.sealedRows(ctx, "blocks")
	if err != nil {
		return err
	}
	if have < want {
		return ErrRowTampered.New("Table blocks had %d rows and has %d, and the log does not know the others.", want, have)
	}
	return nil
}

// mendCounters raises the counters of open orders that say less than was made.
func (db *DB) mendCounters(ctx context.Context) error {
	var open []accountKey
	rows, err := db.query(ctx, `SELECT tenant, id FROM orders WHERE state = $1`, string(provisioner.OrderOpen))
	err = each(rows, err, func(r row) error {
		var k accountKey
		err := r.Scan(&k.tenant, &k.account)
		open = append(open, k)
		return err
	})
	if err != nil {
		return err
	}
	for _, k := range open {
		used, least, err := countUnits(func(query string, args ...any) row { return db.queryRow(ctx, query, args...) }, k)
		if err != nil {
			return err
		}
		db.guard.counted(k, max(used, least))
		if used >= least {
			continue
		}
		db.log.ErrorContext(ctx, "an order's counter was set back; it is put right", "order", k.account, "counter", used, "units", least)
		if err := db.Atomic(ctx, func(ctx context.Context) error {
			_, err := db.exec(ctx, `UPDATE orders SET used = $1 WHERE tenant = $2 AND id = $3 AND used < $1`, least, k.tenant, k.account)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// missRevocations notices rows of revocations that are gone. The signed lists
// keep those serial numbers revoked; why, they may not say any more, so their
// keys count as compromised.
func (db *DB) missRevocations(ctx context.Context) error {
	have, want, err := db.sealedRows(ctx, "revocations")
	if err == nil && have >= want {
		return nil
	}
	db.log.ErrorContext(ctx, "revocations are missing; their keys are refused", "rows", have, "written", want, "error", err)
	rows, err := db.query(ctx, `SELECT r.spki FROM log_leaves l JOIN reservations r ON r.serial = l.serial LEFT JOIN revocations v ON v.authority = r.authority AND v.serial = r.serial
		WHERE l.type <> 'issue' AND l.type <> 'block' AND v.serial IS NULL`)
	return each(rows, err, func(r row) error { return db.scanCompromised(r) })
}

// compromised refuses the keys of serial numbers from now on.
func (db *DB) compromised(ctx context.Context, serials []ca.Serial) error {
	for _, s := range serials {
		if err := db.scanCompromised(db.queryRow(ctx, `SELECT spki FROM reservations WHERE serial = $1`, s[:])); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	return nil
}

func (db *DB) scanCompromised(r row) error {
	var spki []byte
	if err := r.Scan(&spki); err != nil {
		return err
	}
	var k [32]byte
	copy(k[:], spki)
	db.guard.compromise(k)
	return nil
}

// reservationMAC covers the whole row: a TBS that waits for its signature is
// signed as it stands there, and who asked is nowhere else.
func (db *DB) reservationMAC(c *ca.Claim) []byte {
	return db.cfg.Seal.MAC("reservations", []byte(c.Authority), c.Serial[:], []byte(c.Tenant), []byte(c.Account), []byte(c.Profile), number(int64(c.Version)), []byte(fold(c.Holder)), []byte(c.Slot),
		c.SPKI[:], c.TBS, number(int64(c.Shard)), number(millis(c.NotBefore)), number(millis(c.NotAfter)), []byte(c.Requester.Actor), []byte(c.Operator), []byte(c.Tool), []byte(c.Origin), number(millis(c.Now)))
}

// scanReservation reads reservationColumns and holds them against the MAC.
func (db *DB) scanReservation(r row) error {
	var c ca.Claim
	var serial, spki, mac []byte
	var from, to, at int64
	if err := r.Scan(&c.Authority, &serial, &c.Tenant, &c.Account, &c.Profile, &c.Version, &c.Holder, &c.Slot, &spki, &c.TBS, &c.Shard, &from, &to, &c.Requester.Actor, &c.Operator, &c.Tool, &c.Origin, &at, &mac); err != nil {
		return err
	}
	copy(c.Serial[:], serial)
	copy(c.SPKI[:], spki)
	c.NotBefore, c.NotAfter, c.Now = timeOf(from), timeOf(to), timeOf(at)
	if len(serial) != len(c.Serial) || len(spki) != len(c.SPKI) || c.Holder != fold(c.Holder) || !hmac.Equal(mac, db.reservationMAC(&c)) {
		return ErrRowTampered.New("Table reservations, serial number %x.", serial)
	}
	return nil
}

// checkReservation refuses a reservation that somebody else wrote, before its TBS
// is handed to the key.
func (tx *txn) checkReservation(id int64) error {
	return tx.db.scanReservation(tx.rawQueryRow(`SELECT `+reservationColumns+` FROM reservations WHERE id = $1`, id))
}
