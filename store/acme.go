package store

import (
	"context"
	"crypto/hmac"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"hallmark/bootstrap/acme/state"
	"hallmark/ca"
	"hallmark/ca/profile"
)

// Acme is the memory of the ACME server.
func (db *DB) Acme() Acme { return Acme{db} }

// Acme implements [state.Store] on the database.
type Acme struct{ db *DB }

var _ state.Store = Acme{}

// SpendNonce implements [state.Store]: of all who insert the row one does.
func (s Acme) SpendNonce(ctx context.Context, nonce []byte, now, until time.Time) error {
	db := s.db
	return db.Atomic(ctx, func(ctx context.Context) error {
		if _, err := db.exec(ctx, `DELETE FROM acme_nonces WHERE expires_at < $1`, millis(now)); err != nil {
			return err
		}
		n, err := db.exec(ctx, `INSERT INTO acme_nonces (nonce, expires_at) VALUES ($1, $2) ON CONFLICT (nonce) DO NOTHING`, nonce, millis(until))
		if err == nil && n == 0 {
			return state.ErrNonceSpent.New("")
		}
		return err
	})
}

const acmeKeyColumns = `tenant, id, profile, account, names, created_by, created_at, expires_at, bound_to, bound_at, revoked_by, revoked_at, mac`

func (db *DB) acmeKeyMAC(k *state.Key, names []byte) []byte {
	return db.cfg.Seal.MAC("acme_keys", append([][]byte{[]byte(k.Tenant), []byte(k.ID), []byte(k.Profile), []byte(k.Order), names, []byte(k.CreatedBy), []byte(k.Account), []byte(k.RevokedBy)},
		decimals(millis(k.CreatedAt), millis(k.ExpiresAt), millis(k.BoundAt), millis(k.RevokedAt))...)...)
}

func (db *DB) scanAcmeKey(r row) (k state.Key, mac []byte, err error) {
	var name, names string
	var created, expires, bound, revoked int64
	if err := r.Scan(&k.Tenant, &k.ID, &name, &k.Order, &names, &k.CreatedBy, &created, &expires, &k.Account, &bound, &k.RevokedBy, &revoked, &mac); err != nil {
		return k, nil, err
	}
	k.Profile, k.CreatedAt, k.ExpiresAt, k.BoundAt, k.RevokedAt = profile.Name(name), timeOf(created), timeOf(expires), timeOf(bound), timeOf(revoked)
	if !hmac.Equal(mac, db.acmeKeyMAC(&k, []byte(names))) {
		return k, mac, ErrRowTampered.New("Table acme_keys, row %s.", pair(k.Tenant, k.ID))
	}
	return k, mac, json.Unmarshal([]byte(names), &k.Names)
}

func absent(err error, otherwise error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return otherwise
	}
	return err
}

// CreateKey implements [state.Store].
func (s Acme) CreateKey(ctx context.Context, k state.Key) error {
	db := s.db
	names, err := json.Marshal(k.Names)
	if err != nil {
		return err
	}
	mac := db.acmeKeyMAC(&k, names)
	return db.Atomic(ctx, func(ctx context.Context) error {
		_, err := db.exec(ctx, `INSERT INTO acme_keys (`+acmeKeyColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
			k.Tenant, k.ID, string(k.Profile), k.Order, string(names), k.CreatedBy, millis(k.CreatedAt), millis(k.ExpiresAt), k.Account, millis(k.BoundAt), k.RevokedBy, millis(k.RevokedAt), mac)
		if err == nil {
			txFrom(ctx).reseal("acme_keys", pair(k.Tenant, k.ID), nil, mac)
		}
		return err
	})
}

// Key implements [state.Store].
func (s Acme) Key(ctx context.Context, tenant, id string) (state.Key, error) {
	k, _, err := s.db.scanAcmeKey(s.db.queryRow(ctx, `SELECT `+acmeKeyColumns+` FROM acme_keys WHERE tenant = $1 AND id = $2`, tenant, id))
	return k, absent(err, state.ErrNoKey.New(""))
}

// Keys implements [state.Store].
func (s Acme) Keys(ctx context.Context, tenant string) (out []state.Key, err error) {
	rows, err := s.db.query(ctx, `SELECT `+acmeKeyColumns+` FROM acme_keys WHERE tenant = $1 ORDER BY created_at, id`, tenant)
	err = each(rows, err, func(r row) error {
		k, _, err := s.db.scanAcmeKey(r)
		out = append(out, k)
		return err
	})
	return out, err
}

// RevokeKey implements [state.Store].
func (s Acme) RevokeKey(ctx context.Context, tenant, id, by string, now time.Time) (k state.Key, err error) {
	err = s.db.Atomic(ctx, func(ctx context.Context) error {
		k, err = s.db.moveAcmeKey(ctx, tenant, id, func(k *state.Key) error {
			if k.RevokedAt.IsZero() {
				k.RevokedBy, k.RevokedAt = by, now
			}
			return nil
		})
		return err
	})
	return k, err
}

// moveAcmeKey changes a key, in the transaction that ctx has. The condition on
// the MAC lets one of two nodes win.
func (db *DB) moveAcmeKey(ctx context.Context, tenant, id string, decide func(k *state.Key) error) (state.Key, error) {
	k, old, err := db.scanAcmeKey(db.queryRow(ctx, `SELECT `+acmeKeyColumns+` FROM acme_keys WHERE tenant = $1 AND id = $2`, tenant, id))
	if err != nil {
		return k, absent(err, state.ErrNoKey.New(""))
	}
	if err := decide(&k); err != nil {
		return k, err
	}
	names, err := json.Marshal(k.Names)
	if err != nil {
		return k, err
	}
	mac := db.acmeKeyMAC(&k, names)
	n, err := db.exec(ctx, `UPDATE acme_keys SET bound_to = $1, bound_at = $2, revoked_by = $3, revoked_at = $4, mac = $5 WHERE tenant = $6 AND id = $7 AND mac = $8`,
		k.Account, millis(k.BoundAt), k.RevokedBy, millis(k.RevokedAt), mac, tenant, id, old)
	if err == nil && n == 0 {
		return k, errStale
	}
	if err == nil {
		txFrom(ctx).reseal("acme_keys", pair(tenant, id), old, mac)
	}
	return k, err
}

const acmeAccountColumns = `tenant, id, print, revision, body, mac`

func (db *DB) acmeAccountMAC(a *state.Account, body []byte) []byte {
	return db.cfg.Seal.MAC("acme_accounts", []byte(a.Tenant), []byte(a.ID), []byte(a.Print), number(a.Revision), body)
}

func (db *DB) scanAcmeAccount(r row) (a state.Account, mac []byte, err error) {
	var head state.Account
	var body []byte
	if err := r.Scan(&head.Tenant, &head.ID, &head.Print, &head.Revision, &body, &mac); err != nil {
		return a, nil, err
	}
	if !hmac.Equal(mac, db.acmeAccountMAC(&head, body)) {
		return head, mac, ErrRowTampered.New("Table acme_accounts, row %s.", pair(head.Tenant, head.ID))
	}
	return a, mac, json.Unmarshal(body, &a)
}

// CreateAccount implements [state.Store].
func (s Acme) CreateAccount(ctx context.Context, a state.Account) error {
	db := s.db
	a.Revision = 1
	body, err := json.Marshal(a)
	if err != nil {
		return err
	}
	mac := db.acmeAccountMAC(&a, body)
	return db.Atomic(ctx, func(ctx context.Context) error {
		if a.Key != "" {
			if _, err := db.moveAcmeKey(ctx, a.Tenant, a.Key, func(k *state.Key) error {
				if k.Account != "" || !k.RevokedAt.IsZero() || !db.clock.steady(a.CreatedAt).Before(k.ExpiresAt) {
					return state.ErrKeyBound.New("")
				}
				k.Account, k.BoundAt = a.ID, a.CreatedAt
				return nil
			}); err != nil {
				return err
			}
		}
		n, err := db.exec(ctx, `INSERT INTO acme_accounts (`+acmeAccountColumns+`) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant, print) DO NOTHING`, a.Tenant, a.ID, a.Print, a.Revision, body, mac)
		if err == nil && n == 0 {
			return state.ErrTaken.New("")
		}
		if err == nil {
			txFrom(ctx).reseal("acme_accounts", pair(a.Tenant, a.ID), nil, mac)
		}
		return err
	})
}

// Account implements [state.Store].
func (s Acme) Account(ctx context.Context, tenant, id string) (state.Account, error) {
	a, _, err := s.db.scanAcmeAccount(s.db.queryRow(ctx, `SELECT `+acmeAccountColumns+` FROM acme_accounts WHERE tenant = $1 AND id = $2`, tenant, id))
	return a, absent(err, state.ErrNoAccount.New(""))
}

// AccountByPrint implements [state.Store].
func (s Acme) AccountByPrint(ctx context.Context, tenant, print string) (state.Account, error) {
	a, _, err := s.db.scanAcmeAccount(s.db.queryRow(ctx, `SELECT `+acmeAccountColumns+` FROM acme_accounts WHERE tenant = $1 AND print = $2`, tenant, print))
	return a, absent(err, state.ErrNoAccount.New(""))
}

// UpdateAccount implements [state.Store].
func (s Acme) UpdateAccount(ctx context.Context, a *state.Account) error {
	db := s.db
	next := *a
	next.Revision++
	body, err := json.Marshal(next)
	if err != nil {
		return err
	}
	mac := db.acmeAccountMAC(&next, body)
	err = db.Atomic(ctx, func(ctx context.Context) error {
		var other string
		err := db.queryRow(ctx, `SELECT id FROM acme_accounts WHERE tenant = $1 AND print = $2`, a.Tenant, a.Print).Scan(&other)
		if err == nil && other != a.ID {
			return state.ErrTaken.New("")
		}
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		old, err := db.oldMAC(ctx, `SELECT mac FROM acme_accounts WHERE tenant = $1 AND id = $2`, a.Tenant, a.ID)
		if err != nil {
			return err
		}
		n, err := db.exec(ctx, `UPDATE acme_accounts SET print = $1, revision = $2, body = $3, mac = $4 WHERE tenant = $5 AND id = $6 AND revision = $7`, next.Print, next.Revision, body, mac, a.Tenant, a.ID, a.Revision)
		if err == nil && n == 0 {
			return state.ErrChanged.New("")
		}
		if err == nil {
			txFrom(ctx).reseal("acme_accounts", pair(a.Tenant, a.ID), old, mac)
		}
		return err
	})
	if err == nil {
		*a = next
	}
	return err
}

const acmeOrderColumns = `tenant, id, account, serial, kept_until, revision, body, mac`

// acmeSerial is the serial number of an order's certificate, nil before there is
// one.
func acmeSerial(o *state.Order) []byte {
	if o.Leaf == nil {
		return nil
	}
	return o.Serial[:]
}

func (db *DB) acmeOrderMAC(tenant, id string, body []byte) []byte {
	return db.cfg.Seal.MAC("acme_orders", []byte(tenant), []byte(id), body)
}

// scanAcmeOrder takes everything from the body; the other columns are how a row
// is found.
func (db *DB) scanAcmeOrder(r row) (o state.Order, mac []byte, err error) {
	var tenant, id, account string
	var serial, body []byte
	var kept, revision int64
	if err := r.Scan(&tenant, &id, &account, &serial, &kept, &revision, &body, &mac); err != nil {
		return o, nil, err
	}
	if !hmac.Equal(mac, db.acmeOrderMAC(tenant, id, body)) {
		return state.Order{Tenant: tenant, ID: id}, mac, ErrRowTampered.New("Table acme_orders, row %s.", pair(tenant, id))
	}
	if err := json.Unmarshal(body, &o); err != nil {
		return o, mac, err
	}
	if o.Account != account || string(acmeSerial(&o)) != string(serial) || millis(o.KeptUntil) != kept || o.Revision != revision {
		return state.Order{Tenant: tenant, ID: id}, mac, ErrRowTampered.New("Table acme_orders, row %s.", pair(tenant, id))
	}
	return o, mac, nil
}

// CreateOrder implements [state.Store].
func (s Acme) CreateOrder(ctx context.Context, o state.Order) error {
	db := s.db
	o.Revision, o.KeptUntil = 1, timeOf(millis(o.KeptUntil))
	body, err := json.Marshal(o)
	if err != nil {
		return err
	}
	mac := db.acmeOrderMAC(o.Tenant, o.ID, body)
	return db.Atomic(ctx, func(ctx context.Context) error {
		// Old ones go, a few at a time.
		type gone struct {
			tenant, id string
			mac        []byte
		}
		var old []gone
		rows, err := db.query(ctx, `SELECT tenant, id, mac FROM acme_orders WHERE kept_until < $1 ORDER BY kept_until LIMIT 20`, millis(o.CreatedAt))
		if err := each(rows, err, func(r row) error {
			var g gone
			err := r.Scan(&g.tenant, &g.id, &g.mac)
			old = append(old, g)
			return err
		}); err != nil {
			return err
		}
		for _, g := range old {
			n, err := db.exec(ctx, `DELETE FROM acme_orders WHERE tenant = $1 AND id = $2 AND mac = $3`, g.tenant, g.id, g.mac)
			if err != nil {
				return err
			}
			if n == 1 { // not another node
				txFrom(ctx).reseal("acme_orders", pair(g.tenant, g.id), g.mac, nil)
			}
		}
		_, err = db.exec(ctx, `INSERT INTO acme_orders (`+acmeOrderColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			o.Tenant, o.ID, o.Account, acmeSerial(&o), millis(o.KeptUntil), o.Revision, body, mac)
		if err == nil {
			txFrom(ctx).reseal("acme_orders", pair(o.Tenant, o.ID), nil, mac)
		}
		return err
	})
}

// Order implements [state.Store].
func (s Acme) Order(ctx context.Context, tenant, id string) (state.Order, error) {
	o, _, err := s.db.scanAcmeOrder(s.db.queryRow(ctx, `SELECT `+acmeOrderColumns+` FROM acme_orders WHERE tenant = $1 AND id = $2`, tenant, id))
	return o, absent(err, state.ErrNoOrder.New(""))
}

// OrderBySerial implements [state.Store].
func (s Acme) OrderBySerial(ctx context.Context, tenant, account string, serial ca.Serial) (state.Order, error) {
	o, _, err := s.db.scanAcmeOrder(s.db.queryRow(ctx, `SELECT `+acmeOrderColumns+` FROM acme_orders WHERE serial = $1 AND tenant = $2 ORDER BY CASE WHEN account = $3 THEN 0 ELSE 1 END, id LIMIT 1`, serial[:], tenant, account))
	return o, absent(err, state.ErrNoOrder.New(""))
}

// Orders implements [state.Store].
func (s Acme) Orders(ctx context.Context, tenant, account string, limit int) (out []string, err error) {
	rows, err := s.db.query(ctx, `SELECT id FROM acme_orders WHERE tenant = $1 AND account = $2 ORDER BY id LIMIT $3`, tenant, account, limit)
	err = each(rows, err, func(r row) error {
		var id string
		err := r.Scan(&id)
		out = append(out, id)
		return err
	})
	return out, err
}

// UpdateOrder implements [state.Store].
func (s Acme) UpdateOrder(ctx context.Context, o *state.Order) error {
	db := s.db
	next := *o
	next.Revision++
	next.KeptUntil = timeOf(millis(next.KeptUntil))
	body, err := json.Marshal(next)
	if err != nil {
		return err
	}
	mac := db.acmeOrderMAC(o.Tenant, o.ID, body)
	err = db.Atomic(ctx, func(ctx context.Context) error {
		old, err := db.oldMAC(ctx, `SELECT mac FROM acme_orders WHERE tenant = $1 AND id = $2`, o.Tenant, o.ID)
		if err != nil {
			return err
		}
		n, err := db.exec(ctx, `UPDATE acme_orders SET serial = $1, kept_until = $2, revision = $3, body = $4, mac = $5 WHERE tenant = $6 AND id = $7 AND revision = $8`,
			acmeSerial(&next), millis(next.KeptUntil), next.Revision, body, mac, o.Tenant, o.ID, o.Revision)
		if err == nil && n == 0 {
			return state.ErrChanged.New("")
		}
		if err == nil {
			txFrom(ctx).reseal("acme_orders", pair(o.Tenant, o.ID), old, mac)
		}
		return err
	})
	if err == nil {
		*o = next
	}
	return err
}
