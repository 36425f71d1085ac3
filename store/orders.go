package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/provisioner"
)

var (
	_ provisioner.OrderStore = (*DB)(nil)
	_ provisioner.UnitStore  = (*DB)(nil)
)

// CreateOrder implements [provisioner.OrderStore].
func (db *DB) CreateOrder(ctx context.Context, o provisioner.Order) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		o.Envelope = []byte{}
		mac := db.orderMAC(&o)
		n, err := db.exec(ctx, `INSERT INTO orders (tenant, id, product, state, body, envelope, created_by, created_at, changed_at, mac) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (tenant, id) DO NOTHING`,
			o.Tenant, o.ID, o.Product, string(o.State), o.Canonical, o.Envelope, o.CreatedBy, millis(o.CreatedAt), millis(o.ChangedAt), mac)
		if err == nil && n == 0 {
			return ErrExists.New("Order %s.", o.ID)
		}
		txFrom(ctx).reseal("orders", pair(o.Tenant, o.ID), nil, mac)
		return err
	})
}

// orderMAC covers the row but for its counter, which moves with every batch and
// is held against the log instead. The quantity is in what the approvers signed;
// the MAC keeps a closed order closed and a draft a draft.
func (db *DB) orderMAC(o *provisioner.Order) []byte {
	return db.cfg.Seal.MAC("orders", []byte(o.Tenant), []byte(o.ID), []byte(o.Product), []byte(o.State), o.Canonical, o.Envelope, []byte(o.CreatedBy), number(millis(o.CreatedAt)), number(millis(o.ChangedAt)))
}

const orderColumns = `tenant, id, product, state, used, body, envelope, created_by, created_at, changed_at, mac`

func (db *DB) scanOrder(r row) (o provisioner.Order, err error) {
	var created, changed int64
	var tenant, id string
	var mac []byte
	if err := r.Scan(&tenant, &id, &o.Product, (*string)(&o.State), &o.Used, &o.Canonical, &o.Envelope, &o.CreatedBy, &created, &changed, &mac); err != nil {
		return o, err
	}
	o.Tenant, o.ID, o.CreatedAt, o.ChangedAt = tenant, id, timeOf(created), timeOf(changed)
	if err := db.cfg.Seal.Verify(mac, "orders", []byte(tenant), []byte(id), []byte(o.Product), []byte(o.State), o.Canonical, o.Envelope, []byte(o.CreatedBy), number(created), number(changed)); err != nil {
		return o, ErrRowTampered.Wrap(err, "Table orders, row %s.", id)
	}
	b, err := provisioner.ParseBody(o.Canonical)
	if err != nil {
		return o, ErrRowTampered.Wrap(err, "Table orders, row %s.", id)
	}
	if b.ID != id || b.Tenant != tenant {
		return o, ErrRowTampered.New("Table orders, row %s.", id)
	}
	o.Body = *b
	return o, nil
}

// Order implements [provisioner.OrderStore].
func (db *DB) Order(ctx context.Context, s access.Scope, id string) (provisioner.Order, error) {
	o, err := db.scanOrder(db.queryRow(ctx, `SELECT `+orderColumns+` FROM orders WHERE tenant = $1 AND id = $2`, s.Tenant, id))
	if errors.Is(err, sql.ErrNoRows) {
		return o, provisioner.ErrOrderUnknown.New("%s.", id)
	}
	return o, err
}

// Orders implements [provisioner.OrderStore].
func (db *DB) Orders(ctx context.Context, s access.Scope, after string, limit int) (out []provisioner.Order, err error) {
	rows, err := db.query(ctx, `SELECT `+orderColumns+` FROM orders WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3`, s.Tenant, after, page(limit))
	err = each(rows, err, func(r row) error {
		o, err := db.scanOrder(r)
		out = append(out, o)
		return err
	})
	return out, err
}

// page bounds the size of a page.
func page(limit int) int {
	if limit <= 0 || limit > 1000 {
		return 100
	}
	return limit
}

// SetOrder implements [provisioner.OrderStore].
func (db *DB) SetOrder(ctx context.Context, s access.Scope, id string, from []provisioner.OrderState, to provisioner.OrderState, envelope []byte, now time.Time) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		o, err := db.Order(ctx, s, id)
		if err != nil {
			return err
		}
		ok := false
		for _, f := range from {
			ok = ok || o.State == f
		}
		if !ok {
			return provisioner.ErrOrderState.New("Order %s is %s.", id, o.State).With("order", id).With("state", string(o.State))
		}
		if envelope == nil {
			envelope = append([]byte{}, o.Envelope...) // never NULL
		}
		old := db.orderMAC(&o)
		o.State, o.Envelope, o.ChangedAt = to, envelope, now
		mac := db.orderMAC(&o)
		n, err := db.exec(ctx, `UPDATE orders SET state = $1, envelope = $2, changed_at = $3, mac = $4 WHERE tenant = $5 AND id = $6 AND mac = $7`, string(to), envelope, millis(now), mac, s.Tenant, id, old)
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrChanged.New("Order %s.", id)
		}
		txFrom(ctx).reseal("orders", pair(s.Tenant, id), old, mac)
		txFrom(ctx).forgetAccount(s.Tenant, id)
		return nil
	})
}

// Commit implements [provisioner.UnitStore].
func (db *DB) Commit(ctx context.Context, id ca.Identity, reservation int64, station string, evidence []byte, now time.Time) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		at := millis(now)
		mac := db.installedMAC(id, reservation, station, at, evidence)
		n, err := db.exec(ctx, `UPDATE identities SET state = 'installed', installed_at = $1, evidence = $2, mac = $3
			WHERE tenant = $4 AND holder = $5 AND profile = $6 AND slot = $7 AND reservation = $8 AND station = $9 AND installed_at = 0`,
			at, evidence, mac, id.Tenant, fold(id.Holder), id.Profile, id.Slot, reservation, station)
		if err != nil || n == 1 {
			return err
		}
		// It is installed already: the first time stays, a proof may come later.
		var have []byte
		err = db.queryRow(ctx, `SELECT installed_at, evidence, mac FROM identities WHERE tenant = $1 AND holder = $2 AND profile = $3 AND slot = $4 AND reservation = $5 AND station = $6`,
			id.Tenant, fold(id.Holder), id.Profile, id.Slot, reservation, station).Scan(&at, &have, &mac)
		if errors.Is(err, sql.ErrNoRows) {
			return provisioner.ErrUnitUnknown.New("Unit %s.", id.Holder)
		}
		if err != nil || have != nil || evidence == nil {
			return err
		}
		n, err = db.exec(ctx, `UPDATE identities SET evidence = $1, mac = $2 WHERE tenant = $3 AND holder = $4 AND profile = $5 AND slot = $6 AND mac = $7`,
			evidence, db.installedMAC(id, reservation, station, at, evidence), id.Tenant, fold(id.Holder), id.Profile, id.Slot, db.installedMAC(id, reservation, station, at, nil))
		if err == nil && n == 0 {
			return ErrRowTampered.New("Table identities, unit %s.", id.Holder)
		}
		return err
	})
}

// Booted implements [provisioner.UnitStore].
func (db *DB) Booted(ctx context.Context, id ca.Identity, reservation int64, now time.Time) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		var current int64
		var station, state string
		err := db.queryRow(ctx, `SELECT reservation, station, state FROM identities WHERE tenant = $1 AND holder = $2 AND profile = $3 AND slot = $4`,
			id.Tenant, fold(id.Holder), id.Profile, id.Slot).Scan(&current, &station, &state)
		switch {
		case err != nil && !errors.Is(err, sql.ErrNoRows):
			return err
		case err != nil || current != reservation || state == stateVoid:
			return ca.ErrHolderRevoked.New("Unit %s has another key by now.", id.Holder)
		case state == "installed":
			return nil
		}
		at := millis(now)
		n, err := db.exec(ctx, `UPDATE identities SET state = 'installed', installed_at = $1, evidence = NULL, mac = $2
			WHERE tenant = $3 AND holder = $4 AND profile = $5 AND slot = $6 AND reservation = $7 AND station = $8 AND state = $9`,
			at, db.installedMAC(id, reservation, station, at, nil), id.Tenant, fold(id.Holder), id.Profile, id.Slot, reservation, station, state)
		if err == nil && n != 1 {
			return errStale
		}
		return err
	})
}

// installedMAC covers what a commit says. What comes before it is held against
// the reservations.
func (db *DB) installedMAC(id ca.Identity, reservation int64, station string, at int64, evidence []byte) []byte {
	return db.cfg.Seal.MAC("identities", []byte(id.Tenant), []byte(fold(id.Holder)), []byte(id.Profile), []byte(id.Slot), number(reservation), []byte(station), number(at), evidence)
}

// HolderOfKey implements [provisioner.UnitStore].
func (db *DB) HolderOfKey(ctx context.Context, tenant, order string, spki [32]byte) (holder string, err error) {
	err = db.queryRow(ctx, `SELECT i.shown FROM public_keys k JOIN identities i ON i.tenant = k.tenant AND i.holder = k.holder WHERE k.spki = $1 AND k.tenant = $2 AND i.profile = $3 AND i.account = $4`, spki[:], tenant, string(profile.IDevID), order).Scan(&holder)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return holder, err
}

// Taken implements [provisioner.UnitStore].
func (db *DB) Taken(ctx context.Context, id ca.Identity) (bool, error) {
	var n int
	err := db.queryRow(ctx, `SELECT (SELECT COUNT(*) FROM identities WHERE tenant = $1 AND holder = $2 AND profile = $3 AND slot = $4 AND state <> '`+stateVoid+`')
		+ (SELECT COUNT(*) FROM ownership WHERE owner = $1 AND holder = $2 AND home <> $1 AND $3 = 'idevid')`, id.Tenant, fold(id.Holder), id.Profile, id.Slot).Scan(&n)
	return n > 0, err
}

// Units implements [provisioner.UnitStore].
func (db *DB) Units(ctx context.Context, s access.Scope, order, after string, limit int) (out []provisioner.Unit, err error) {
	rows, err := db.query(ctx, `SELECT i.shown, i.account, i.station, i.state, i.rekeys, i.installed_at, i.evidence, r.serial, c.issued_at, v.revoked_at, v.released_at
		FROM identities i JOIN reservations r ON r.id = i.reservation LEFT JOIN certificates c ON c.reservation = i.reservation
		LEFT JOIN revocations v ON v.authority = r.authority AND v.serial = r.serial
		WHERE i.tenant = $1 AND i.account = $2 AND i.profile = $3 AND i.holder > $4 ORDER BY i.holder LIMIT $5`, s.Tenant, order, string(profile.IDevID), fold(after), page(limit))
	err = each(rows, err, func(r row) error {
		var u provisioner.Unit
		var installed int64
		var evidence, serial []byte
		var issued, revoked, released sql.NullInt64
		if err := r.Scan(&u.Unit, &u.Order, &u.Station, &u.State, &u.Rekeys, &installed, &evidence, &serial, &issued, &revoked, &released); err != nil {
			return err
		}
		copy(u.Serial[:], serial)
		u.InstalledAt, u.Proven = timeOf(installed), len(evidence) > 0
		if u.State == "reserved" && issued.Valid {
			u.State = "issued"
		}
		if revoked.Valid && released.Int64 == 0 {
			u.State = "revoked"
		}
		out = append(out, u)
		return nil
	})
	return out, err
}
