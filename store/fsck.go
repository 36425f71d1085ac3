package store

import (
	"context"
	"crypto/hmac"
	"database/sql"
	"errors"
	"fmt"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/provisioner"
)

var (
	_ ca.FsckStore          = (*DB)(nil)
	_ provisioner.FsckStore = (*DB)(nil)
)

// chunk is how many rows a check reads at a time: no reader holds a snapshot
// for the whole of a large table.
const chunk = 2000

// chunks calls read with the key after which to go on until it reads no more.
func chunks(read func(after int64) (last int64, n int, err error)) error {
	after := int64(-1)
	for {
		last, n, err := read(after)
		if err != nil || n == 0 {
			return err
		}
		after = last
	}
}

// EachRecord implements [ca.FsckStore].
func (db *DB) EachRecord(ctx context.Context, f func(ca.FsckRow) error) error {
	return chunks(func(after int64) (last int64, n int, err error) {
		var page []ca.FsckRow
		rows, err := db.query(ctx, recordSelect+`WHERE r.id > $1 ORDER BY r.id LIMIT $2`, after, chunk)
		err = each(rows, err, func(r row) error {
			rec, err := scanRecord(r)
			page = append(page, ca.FsckRow{Record: rec})
			return err
		})
		if err != nil {
			return 0, 0, err
		}
		for i := range page {
			p := &page[i]
			last = p.ID
			if p.DER != nil {
				l, err := db.leafAt(ctx, p.Record.Leaf)
				if err != nil {
					return 0, 0, err
				}
				if l != nil {
					p.Leaf, p.LeafOf, p.LeafAt = &l.Leaf, l.serial, timeOf(l.at)
				}
			}
			err := db.queryRow(ctx, `SELECT holder, state FROM public_keys WHERE spki = $1 AND tenant = $2`, p.SPKI[:], p.Tenant).Scan(&p.KeyHolder, &p.KeyState)
			if err != nil && err != sql.ErrNoRows {
				return 0, 0, err
			}
			p.Broken = db.scanReservation(db.queryRow(ctx, `SELECT `+reservationColumns+` FROM reservations WHERE id = $1`, p.ID))
			if p.KeyState != "bound" {
				// A key that was left behind when its holder was blocked has no
				// revocation of its own.
				if err := db.queryRow(ctx, `SELECT EXISTS (SELECT 1 FROM blocks WHERE tenant = $1 AND holder = $2) OR EXISTS (SELECT 1 FROM reservations r JOIN revocations v ON v.authority = r.authority AND v.serial = r.serial WHERE r.tenant = $1 AND r.holder = $2 AND r.spki = $3 AND v.reason = 1)`,
					p.Tenant, p.Holder, p.SPKI[:]).Scan(&p.KeyWhy); err != nil {
					return 0, 0, err
				}
			}
			p.HasIdentity = p.State != ""
			if !p.HasIdentity {
				if p.HasIdentity, err = db.known(ctx, p.Identity); err != nil {
					return 0, 0, err
				}
			}
			if err := f(*p); err != nil {
				return 0, 0, err
			}
		}
		return last, len(page), nil
	})
}

// EachIssueLeaf implements [ca.FsckStore].
func (db *DB) EachIssueLeaf(ctx context.Context, f func(ca.FsckLeaf) error) error {
	return chunks(func(after int64) (last int64, n int, err error) {
		last = after
		rows, err := db.query(ctx, `SELECT `+leafColumns+`, (SELECT c.der FROM reservations r JOIN certificates c ON c.reservation = r.id WHERE r.serial = log_leaves.serial) FROM log_leaves
			WHERE idx > $1 AND type = 'issue' ORDER BY idx LIMIT $2`, after, chunk)
		err = each(rows, err, func(r row) error {
			var der []byte
			l, err := scanLeaf(r, &der)
			if err != nil {
				return err
			}
			last = l.Index
			n++
			return f(ca.FsckLeaf{Leaf: l.Leaf, Serial: l.serial, DER: der, Genuine: db.salted(&l)})
		})
		return last, n, err
	})
}

// EachIdentity implements [ca.FsckStore].
func (db *DB) EachIdentity(ctx context.Context, f func(ca.FsckIdentity) error) error {
	var list []ca.FsckIdentity
	tenant, holder, profile, slot := "", "", "", ""
	for {
		list = list[:0]
		rows, err := db.query(ctx, `SELECT tenant, holder, profile, slot, shown, account, station, state, reservation, installed_at, evidence, mac, rekeys,
			(SELECT COUNT(*) - 1 FROM reservations r WHERE r.tenant = identities.tenant AND r.holder = identities.holder AND r.profile = identities.profile AND r.slot = identities.slot) FROM identities
			WHERE (tenant, holder, profile, slot) > ($1, $2, $3, $4) ORDER BY tenant, holder, profile, slot LIMIT $5`, tenant, holder, profile, slot, chunk)
		err = each(rows, err, func(r row) error {
			var i ca.FsckIdentity
			var installed int64
			var mac []byte
			err := r.Scan(&i.Tenant, &i.Holder, &i.Profile, &i.Slot, &i.Shown, &i.Account, &i.Station, &i.State, &i.Reservation, &installed, &i.Evidence, &mac, &i.Rekeys, &i.Replaced)
			i.InstalledAt = timeOf(installed)
			i.Genuine = mac == nil && installed == 0 && i.Evidence == nil
			if i.State == "installed" {
				i.Genuine = hmac.Equal(mac, db.installedMAC(i.Identity, i.Reservation, i.Station, installed, i.Evidence))
			}
			list = append(list, i)
			return err
		})
		if err != nil || len(list) == 0 {
			return err
		}
		for _, i := range list {
			rec, err := scanRecord(db.queryRow(ctx, recordSelect+`WHERE r.id = $1`, i.Reservation))
			if err == nil {
				i.Record = &rec
			} else if err != sql.ErrNoRows {
				return err
			}
			if err := f(i); err != nil {
				return err
			}
			tenant, holder, profile, slot = i.Tenant, i.Holder, i.Profile, i.Slot
		}
	}
}

// OrphanCertificates implements [ca.FsckStore].
func (db *DB) OrphanCertificates(ctx context.Context, f func(int64) error) error {
	rows, err := db.query(ctx, `SELECT c.reservation FROM certificates c LEFT JOIN reservations r ON r.id = c.reservation WHERE r.id IS NULL ORDER BY c.reservation`)
	return each(rows, err, func(r row) error {
		var id int64
		if err := r.Scan(&id); err != nil {
			return err
		}
		return f(id)
	})
}

// EachOrder implements [provisioner.FsckStore].
func (db *DB) EachOrder(ctx context.Context, f func(provisioner.FsckOrder) error) error {
	var keys [][2]string
	rows, err := db.query(ctx, `SELECT tenant, id FROM orders ORDER BY tenant, id`)
	err = each(rows, err, func(r row) error {
		var k [2]string
		err := r.Scan(&k[0], &k[1])
		keys = append(keys, k)
		return err
	})
	if err != nil {
		return err
	}
	// An identity or leaf may name an order that is gone: that is its own finding.
	rows, err = db.query(ctx, `SELECT DISTINCT i.tenant, i.account FROM identities i LEFT JOIN orders o ON o.tenant = i.tenant AND o.id = i.account WHERE i.account <> '' AND o.id IS NULL`)
	err = each(rows, err, func(r row) error {
		var tenant, id string
		if err := r.Scan(&tenant, &id); err != nil {
			return err
		}
		return f(provisioner.FsckOrder{ID: id, Err: fmt.Errorf("the order is missing, its units are there")})
	})
	if err != nil {
		return err
	}
	for _, k := range keys {
		o := provisioner.FsckOrder{ID: k[1]}
		o.Order, o.Err = db.Order(ctx, access.Scope{Tenant: k[0]}, k[1])
		if err := db.queryRow(ctx, `SELECT COUNT(*) FROM identities WHERE tenant = $1 AND account = $2 AND state <> '`+stateVoid+`'`, k[0], k[1]).Scan(&o.Identities); err != nil {
			return err
		}
		if err := db.queryRow(ctx, `SELECT COUNT(DISTINCT holder) FROM log_leaves WHERE tenant = $1 AND account = $2 AND type = 'issue'`, k[0], k[1]).Scan(&o.Logged); err != nil {
			return err
		}
		if err := f(o); err != nil {
			return err
		}
	}
	return nil
}

// BrokenRows implements [provisioner.FsckStore].
func (db *DB) BrokenRows(ctx context.Context, report func(object string, err error)) error {
	var used bool
	if err := db.queryRow(ctx, `SELECT EXISTS (SELECT 1 FROM log_leaves)`).Scan(&used); err != nil {
		return err
	}
	if _, err := db.clockMark(ctx); err != nil && (used || !errors.Is(err, sql.ErrNoRows)) {
		report("clock mark", err)
	}
	if err := db.checkSchema(ctx, report); err != nil {
		return err
	}
	return db.checkSeals(ctx, report)
}

// LogSize gives the size that the head of the log says, after holding it against
// the leaves.
func (db *DB) LogSize(ctx context.Context) (int64, error) {
	var heads, leaves, last int64
	var size sql.NullInt64
	err := db.queryRow(ctx, `SELECT (SELECT COUNT(*) FROM log_head), (SELECT size FROM log_head WHERE id = 1), (SELECT COUNT(*) FROM log_leaves), (SELECT COALESCE(MAX(idx), -1) FROM log_leaves)`).Scan(&heads, &size, &leaves, &last)
	if err != nil {
		return 0, err
	}
	if heads != 1 || !size.Valid || size.Int64 != leaves || last != leaves-1 {
		return size.Int64, ErrRowTampered.New("Table log_head has %d rows and says %d; there are %d leaves, the last is %d.", heads, size.Int64, leaves, last)
	}
	return leaves, nil
}

// CountCertificates counts the recorded certificates.
func (db *DB) CountCertificates(ctx context.Context) (n int64, err error) {
	err = db.queryRow(ctx, `SELECT COUNT(*) FROM certificates`).Scan(&n)
	return n, err
}
