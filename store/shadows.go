package store

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/fleet/shadow"
)

var _ shadow.Store = (*DB)(nil)

const shadowColumns = `tenant, thing, name, version, deleted, document, updated_at, mac`

func shadowFields(r *shadow.Row, deleted int, at int64) [][]byte {
	return [][]byte{[]byte(r.Tenant), []byte(r.Thing), []byte(r.Name), []byte(strconv.FormatInt(r.Version, 10)), []byte(strconv.Itoa(deleted)), r.Document, []byte(strconv.FormatInt(at, 10))}
}

func (db *DB) scanShadow(row row) (r shadow.Row, err error) {
	var deleted int
	var at int64
	var mac []byte
	if err := row.Scan(&r.Tenant, (*string)(&r.Thing), &r.Name, &r.Version, &deleted, &r.Document, &at, &mac); err != nil {
		return r, err
	}
	if err := db.cfg.Seal.Verify(mac, "shadows", shadowFields(&r, deleted, at)...); err != nil {
		return r, ErrRowTampered.Wrap(err, "Table shadows, row %s/%s/%s.", r.Tenant, r.Thing, r.Name)
	}
	r.Deleted, r.UpdatedAt = deleted == 1, timeOf(at)
	return r, nil
}

// Shadow implements [shadow.Store].
func (db *DB) Shadow(ctx context.Context, s access.Scope, k shadow.Key) (shadow.Row, error) {
	r, err := db.scanShadow(db.queryRow(ctx, `SELECT `+shadowColumns+` FROM shadows WHERE tenant = $1 AND thing = $2 AND name = $3`, s.Tenant, string(k.Thing), k.Name))
	if errors.Is(err, sql.ErrNoRows) {
		return shadow.Row{Key: k}, nil
	}
	return r, err
}

// PutShadow implements [shadow.Store].
func (db *DB) PutShadow(ctx context.Context, r, was shadow.Row) error {
	deleted, at := flag(r.Deleted), millis(r.UpdatedAt)
	if r.Document == nil {
		r.Document = []byte{}
	}
	mac := db.cfg.Seal.MAC("shadows", shadowFields(&r, deleted, at)...)
	return db.Atomic(ctx, func(ctx context.Context) error {
		var n int64
		var err error
		if was.Version == 0 {
			n, err = db.exec(ctx, `INSERT INTO shadows (`+shadowColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (tenant, thing, name) DO NOTHING`,
				r.Tenant, string(r.Thing), r.Name, r.Version, deleted, r.Document, at, mac)
		} else {
			// A deletion keeps the version, so the version alone does not tell.
			n, err = db.exec(ctx, `UPDATE shadows SET version = $1, deleted = $2, document = $3, updated_at = $4, mac = $5
				WHERE tenant = $6 AND thing = $7 AND name = $8 AND version = $9 AND deleted = $10`,
				r.Version, deleted, r.Document, at, mac, r.Tenant, string(r.Thing), r.Name, was.Version, flag(was.Deleted))
		}
		if err == nil && n != 1 {
			err = shadow.ErrChanged.New("")
		}
		if err != nil {
			return err
		}
		return db.indexShadow(ctx, &r)
	})
}

// indexShadow lets queries find a thing by its shadow.
func (db *DB) indexShadow(ctx context.Context, r *shadow.Row) error {
	prefix, fields, err := shadowIndex(r)
	if err != nil {
		return err
	}
	return db.Index(ctx, r.Tenant, r.Thing, prefix, fields)
}

// shadowIndex is what queries find of a shadow.
func shadowIndex(r *shadow.Row) (prefix string, fields map[string]any, err error) {
	prefix = registry.PrefixShadow
	if r.Name != "" {
		prefix += ".name." + r.Name
	}
	if r.Deleted {
		return prefix, nil, nil
	}
	d, err := shadow.UnmarshalDocument(r.Document)
	if err != nil {
		return prefix, nil, err
	}
	delta := d.Delta()
	return prefix, map[string]any{"desired": d.Desired, "reported": d.Reported, "delta": delta, "hasDelta": len(delta) > 0}, nil
}

// shadowsOf reads all shadows of a thing.
func (db *DB) shadowsOf(ctx context.Context, tenant string, thing fleet.ThingName) (out []shadow.Row, err error) {
	rows, err := db.query(ctx, `SELECT `+shadowColumns+` FROM shadows WHERE tenant = $1 AND thing = $2 ORDER BY name`, tenant, string(thing))
	err = each(rows, err, func(r row) error {
		s, err := db.scanShadow(r)
		out = append(out, s)
		return err
	})
	return out, err
}

// ForgetShadows implements [shadow.Store].
func (db *DB) ForgetShadows(ctx context.Context, before time.Time, registered bool, limit int) (n int64, err error) {
	err = db.Atomic(ctx, func(ctx context.Context) error {
		n = 0
		var gone []shadow.Key
		query := `SELECT tenant, thing, name FROM shadows s WHERE updated_at < $1`
		if !registered {
			query += ` AND NOT EXISTS (SELECT 1 FROM things t WHERE t.tenant = s.tenant AND t.name = s.thing)`
		}
		rows, err := db.query(ctx, query+` LIMIT $2`, millis(before), limit)
		err = each(rows, err, func(r row) error {
			var k shadow.Key
			err := r.Scan(&k.Tenant, (*string)(&k.Thing), &k.Name)
			gone = append(gone, k)
			return err
		})
		if err != nil {
			return err
		}
		for _, k := range gone {
			if _, err := db.exec(ctx, `DELETE FROM shadows WHERE tenant = $1 AND thing = $2 AND name = $3`, k.Tenant, string(k.Thing), k.Name); err != nil {
				return err
			}
			if err := db.indexShadow(ctx, &shadow.Row{Key: k, Deleted: true}); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	return n, err
}

// ShadowNames implements [shadow.Store].
func (db *DB) ShadowNames(ctx context.Context, s access.Scope, thing fleet.ThingName, after string, limit int) (out []string, err error) {
	rows, err := db.query(ctx, `SELECT name FROM shadows WHERE tenant = $1 AND thing = $2 AND name > $3 AND deleted = 0 ORDER BY name LIMIT $4`, s.Tenant, string(thing), after, limit)
	err = each(rows, err, func(r row) error {
		var name string
		err := r.Scan(&name)
		out = append(out, name)
		return err
	})
	return out, err
}

// DropShadows implements [shadow.Store].
func (db *DB) DropShadows(ctx context.Context, s access.Scope, thing fleet.ThingName) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		rows, err := db.shadowsOf(ctx, s.Tenant, thing)
		if err != nil && !errors.Is(err, ErrRowTampered) { // which goes too
			return err
		}
		if _, err := db.exec(ctx, `DELETE FROM shadows WHERE tenant = $1 AND thing = $2`, s.Tenant, string(thing)); err != nil {
			return err
		}
		for i := range rows {
			rows[i].Deleted = true
			if err := db.indexShadow(ctx, &rows[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// EachShadow implements [shadow.Store].
func (db *DB) EachShadow(ctx context.Context, f func(r shadow.Row, broken error) error) error {
	type found struct {
		row    shadow.Row
		broken error
	}
	var page []found
	tenant, thing, name := "", "", ""
	for {
		page = page[:0]
		rows, err := db.query(ctx, `SELECT `+shadowColumns+` FROM shadows WHERE (tenant, thing, name) > ($1, $2, $3) ORDER BY tenant, thing, name LIMIT $4`, tenant, thing, name, chunk)
		err = each(rows, err, func(r row) error {
			got, err := db.scanShadow(r)
			if err != nil && !errors.Is(err, ErrRowTampered) {
				return err
			}
			page = append(page, found{got, err})
			return nil
		})
		if err != nil || len(page) == 0 {
			return err
		}
		for _, p := range page {
			tenant, thing, name = p.row.Tenant, string(p.row.Thing), p.row.Name
			if err := f(p.row, p.broken); err != nil {
				return err
			}
		}
	}
}
