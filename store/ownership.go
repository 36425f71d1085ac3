package store

import (
	"context"
	"crypto/hmac"
	"database/sql"
	"encoding/json"
	"errors"
	"strconv"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/fleet/ownership"
	"hallmark/fleet/registry"
)

var _ ownership.Store = (*DB)(nil)

const (
	ownershipColumns = `home, holder, owner, body, version, mac`
	eventsColumns    = `tenant, holder, seq, home, what, body, mac`
	actColumns       = `tenant, name, code, unswept, body, version, mac`
)

func (db *DB) unitMAC(u *ownership.Unit, body []byte) []byte {
	return db.cfg.Seal.MAC("ownership", []byte(u.Home), []byte(u.Holder), []byte(u.Tenant), body, number(u.Version))
}

// scanUnit reads a row; it is believed only as it was written (S32).
func (db *DB) scanUnit(r row) (u ownership.Unit, mac []byte, err error) {
	var home, holder, owner string
	var body []byte
	var version int64
	if err := r.Scan(&home, &holder, &owner, &body, &version, &mac); err != nil {
		return u, nil, err
	}
	err = json.Unmarshal(body, &u)
	u.Version = version
	if err == nil && (u.Home != home || u.Holder != holder || u.Tenant != owner || !hmac.Equal(mac, db.unitMAC(&u, body))) {
		err = errors.New("the MAC is another's")
	}
	if err != nil {
		u = ownership.Unit{Home: home, Holder: holder, Tenant: owner}
		err = ErrRowTampered.Wrap(err, "Table ownership, row %s.", pair(home, holder))
	}
	return u, mac, err
}

// Unit implements [ownership.Store]. That there is no row says who owns the device,
// so it is believed only if nothing else knows of one.
func (db *DB) Unit(ctx context.Context, home, holder string) (ownership.Unit, error) {
	u, _, err := db.scanUnit(db.queryRow(ctx, `SELECT `+ownershipColumns+` FROM ownership WHERE home = $1 AND holder = $2`, home, fold(holder)))
	if !errors.Is(err, sql.ErrNoRows) {
		return u, err
	}
	var known, emptied bool
	err = db.queryRow(ctx, `SELECT EXISTS (SELECT 1 FROM ownership_events WHERE home = $1 AND holder = $2), EXISTS (SELECT 1 FROM things WHERE tenant = $1 AND holder = $2 AND registered_by = $3)`,
		home, fold(holder), registry.Released).Scan(&known, &emptied)
	if err == nil && emptied && !known {
		// A unit of another home that this tenant had, and gave on, left it so.
		_, err = db.scanOwnershipEvent(db.queryRow(ctx, `SELECT `+eventsColumns+` FROM ownership_events WHERE tenant = $1 AND holder = $2 AND home <> $1 ORDER BY seq LIMIT 1`, home, fold(holder)))
		if known = errors.Is(err, sql.ErrNoRows); known {
			err = nil
		}
	}
	if err == nil && known {
		err = ErrRowTampered.New("Table ownership, row %s is missing.", pair(home, fold(holder)))
	}
	if err == nil {
		err = ownership.ErrUnknown.New("")
	}
	return ownership.Unit{}, err
}

// Holds implements [ownership.Store].
func (db *DB) Holds(ctx context.Context, s access.Scope, holder string) (ownership.Unit, error) {
	u, _, err := db.scanUnit(db.queryRow(ctx, `SELECT `+ownershipColumns+` FROM ownership WHERE owner = $1 AND holder = $2`, s.Tenant, fold(holder)))
	if errors.Is(err, sql.ErrNoRows) {
		return u, ownership.ErrUnknown.New("")
	}
	return u, err
}

// PutUnit implements [ownership.Store].
func (db *DB) PutUnit(ctx context.Context, u ownership.Unit, was int64) error {
	u.Holder, u.Version = fold(u.Holder), was+1
	body, err := json.Marshal(&u)
	if err != nil {
		return err
	}
	mac := db.unitMAC(&u, body)
	return db.put(ctx, sealedRow{table: "ownership", name: pair(u.Home, u.Holder), mac: mac, find: `SELECT mac FROM ownership WHERE home = $1 AND holder = $2`, key: []any{u.Home, u.Holder}, changed: ownership.ErrChanged}, was,
		`INSERT INTO ownership (`+ownershipColumns+`) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`, []any{u.Home, u.Holder, u.Tenant, body, u.Version, mac},
		`UPDATE ownership SET owner = $1, body = $2, version = $3, mac = $4 WHERE home = $5 AND holder = $6 AND version = $7`, []any{u.Tenant, body, u.Version, mac, u.Home, u.Holder, was})
}

// EachUnit implements [ownership.Store].
func (db *DB) EachUnit(ctx context.Context, f func(u ownership.Unit, broken error) error) error {
	home, holder := "", ""
	for {
		type found struct {
			u   ownership.Unit
			err error
		}
		var page []found
		rows, err := db.query(ctx, `SELECT `+ownershipColumns+` FROM ownership WHERE home > $1 OR (home = $1 AND holder > $2) ORDER BY home, holder LIMIT 500`, home, holder)
		err = each(rows, err, func(r row) error {
			u, _, err := db.scanUnit(r)
			if err != nil && !errors.Is(err, ErrRowTampered) {
				return err
			}
			page = append(page, found{u, err})
			return nil
		})
		if err != nil || len(page) == 0 {
			return err
		}
		for i := range page {
			home, holder = page[i].u.Home, page[i].u.Holder
			if err := f(page[i].u, page[i].err); err != nil {
				return err
			}
		}
	}
}

func eventKey(e *ownership.Event) string {
	return pair(e.Tenant, e.Holder) + "/" + strconv.FormatInt(e.Seq, 10)
}

func (db *DB) ownershipEventMAC(e *ownership.Event, body []byte) []byte {
	return db.cfg.Seal.MAC("ownership_events", []byte(e.Tenant), []byte(e.Holder), number(e.Seq), []byte(e.Home), []byte(e.What), body)
}

// scanOwnershipEvent names the row by its own columns, so that fsck can name a broken one.
func (db *DB) scanOwnershipEvent(r row) (e ownership.Event, err error) {
	var k ownership.Event
	var body, mac []byte
	if err := r.Scan(&k.Tenant, &k.Holder, &k.Seq, &k.Home, (*string)(&k.What), &body, &mac); err != nil {
		return e, err
	}
	err = json.Unmarshal(body, &e)
	if err == nil && (e.Tenant != k.Tenant || e.Holder != k.Holder || e.Seq != k.Seq || e.Home != k.Home || e.What != k.What || !hmac.Equal(mac, db.ownershipEventMAC(&e, body))) {
		err = errors.New("the MAC is another's")
	}
	if err != nil {
		return k, ErrRowTampered.Wrap(err, "Table ownership_events, row %s.", eventKey(&k))
	}
	return e, nil
}

// AddEvent implements [ownership.Store].
func (db *DB) AddEvent(ctx context.Context, e ownership.Event) error {
	e.Holder = fold(e.Holder)
	return db.Atomic(ctx, func(ctx context.Context) error {
		if err := db.queryRow(ctx, `SELECT COALESCE(MAX(seq), 0) + 1 FROM ownership_events WHERE tenant = $1 AND holder = $2`, e.Tenant, e.Holder).Scan(&e.Seq); err != nil {
			return err
		}
		body, err := json.Marshal(&e)
		if err != nil {
			return err
		}
		n, err := db.exec(ctx, `INSERT INTO ownership_events (`+eventsColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`, e.Tenant, e.Holder, e.Seq, e.Home, string(e.What), body, db.ownershipEventMAC(&e, body))
		if err == nil && n != 1 {
			return errStale
		}
		txFrom(ctx).reseal("ownership_events", eventKey(&e), nil, keyOnly)
		return err
	})
}

// OwnershipEvents implements [ownership.Store].
func (db *DB) OwnershipEvents(ctx context.Context, s access.Scope, holder string) (out []ownership.Event, err error) {
	rows, err := db.query(ctx, `SELECT `+eventsColumns+` FROM ownership_events WHERE tenant = $1 AND holder = $2 ORDER BY seq`, s.Tenant, fold(holder))
	err = each(rows, err, func(r row) error {
		e, err := db.scanOwnershipEvent(r)
		out = append(out, e)
		return err
	})
	return out, err
}

// mayHave refuses an operational certificate of a tenant for a unit that left it. The
// reservation asks it, so that nothing that was under way comes after the release.
func (tx *txn) mayHave(c *ca.Claim) error {
	if c.Profile != string(profile.LDevID) {
		return nil
	}
	e, err := tx.db.scanOwnershipEvent(tx.rawQueryRow(`SELECT `+eventsColumns+` FROM ownership_events WHERE tenant = $1 AND holder = $2 ORDER BY seq DESC LIMIT 1`, c.Tenant, fold(c.Holder)))
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil && e.What.Leaves() {
		err = ownership.ErrLeft.New("Unit %s.", c.Holder)
	}
	return err
}

func (db *DB) actMAC(a *ownership.Act, unswept int64, body []byte) []byte {
	return db.cfg.Seal.MAC("ownership_acts", []byte(a.Tenant), []byte(a.Name), []byte(a.Code), number(unswept), body, number(a.Version))
}

func (db *DB) scanAct(r row) (a ownership.Act, mac []byte, err error) {
	var k ownership.Act
	var body []byte
	var unswept, version int64
	if err := r.Scan(&k.Tenant, &k.Name, &k.Code, &unswept, &body, &version, &mac); err != nil {
		return a, nil, err
	}
	err = json.Unmarshal(body, &a)
	a.Version = version
	if err == nil && (a.Tenant != k.Tenant || a.Name != k.Name || a.Code != k.Code || !hmac.Equal(mac, db.actMAC(&a, unswept, body))) {
		err = errors.New("the MAC is another's")
	}
	if err != nil {
		return k, mac, ErrRowTampered.Wrap(err, "Table ownership_acts, row %s.", pair(k.Tenant, k.Name))
	}
	return a, mac, nil
}

func (db *DB) act(ctx context.Context, where string, args ...any) (ownership.Act, error) {
	a, _, err := db.scanAct(db.queryRow(ctx, `SELECT `+actColumns+` FROM ownership_acts `+where, args...))
	if errors.Is(err, sql.ErrNoRows) {
		return a, ownership.ErrAct.New("")
	}
	return a, err
}

// OwnershipAct implements [ownership.Store].
func (db *DB) OwnershipAct(ctx context.Context, s access.Scope, name string) (ownership.Act, error) {
	return db.act(ctx, `WHERE tenant = $1 AND name = $2`, s.Tenant, name)
}

// ActByCode implements [ownership.Store].
func (db *DB) ActByCode(ctx context.Context, hash string) (ownership.Act, error) {
	return db.act(ctx, `WHERE code = $1 AND code <> ''`, hash)
}

func (db *DB) acts(ctx context.Context, where string, args ...any) (out []ownership.Act, err error) {
	rows, err := db.query(ctx, `SELECT `+actColumns+` FROM ownership_acts `+where, args...)
	err = each(rows, err, func(r row) error {
		a, _, err := db.scanAct(r)
		out = append(out, a)
		return err
	})
	return out, err
}

// OwnershipActs implements [ownership.Store].
func (db *DB) OwnershipActs(ctx context.Context, s access.Scope, after string, limit int) ([]ownership.Act, error) {
	return db.acts(ctx, `WHERE tenant = $1 AND name > $2 ORDER BY name LIMIT $3`, s.Tenant, after, limit)
}

// UnsweptActs implements [ownership.Store].
func (db *DB) UnsweptActs(ctx context.Context, limit int) ([]ownership.Act, error) {
	return db.acts(ctx, `WHERE unswept = 1 ORDER BY tenant, name LIMIT $1`, limit)
}

// Releases implements [ownership.Store].
func (db *DB) Releases(ctx context.Context, tenant, name string, limit int) ([]ownership.Act, error) {
	return db.acts(ctx, `WHERE code <> '' AND (tenant > $1 OR tenant = $1 AND name > $2) ORDER BY tenant, name LIMIT $3`, tenant, name, limit)
}

// PutAct implements [ownership.Store].
func (db *DB) PutAct(ctx context.Context, a ownership.Act, was int64) error {
	a.Version = was + 1
	unswept := int64(flag(len(a.Left) > 0))
	body, err := json.Marshal(&a)
	if err != nil {
		return err
	}
	mac := db.actMAC(&a, unswept, body)
	return db.put(ctx, sealedRow{table: "ownership_acts", name: pair(a.Tenant, a.Name), mac: mac, find: `SELECT mac FROM ownership_acts WHERE tenant = $1 AND name = $2`, key: []any{a.Tenant, a.Name}, changed: ownership.ErrChanged}, was,
		`INSERT INTO ownership_acts (`+actColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`, []any{a.Tenant, a.Name, a.Code, unswept, body, a.Version, mac},
		`UPDATE ownership_acts SET code = $1, unswept = $2, body = $3, version = $4, mac = $5 WHERE tenant = $6 AND name = $7 AND version = $8`, []any{a.Code, unswept, body, a.Version, mac, a.Tenant, a.Name, was})
}

// BlockLeaf is the log leaf of an identity's block; a NotFound fault if it is not blocked.
func (db *DB) BlockLeaf(ctx context.Context, s access.Scope, holder string) (int64, error) {
	b, err := db.scanBlock(db.queryRow(ctx, `SELECT `+blockColumns+` FROM blocks WHERE tenant = $1 AND holder = $2`, s.Tenant, fold(holder)))
	return b.leaf, notFound(err, "%.80s is not blocked.", holder)
}
