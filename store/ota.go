package store

import (
	"context"
	"database/sql"
	"errors"

	"hallmark/access"
	"hallmark/fleet/ota"
	"hallmark/fleet/ota/manifest"
	"hallmark/fleet/registry"
)

var _ ota.Store = (*DB)(nil)

const (
	firmwareColumns = `tenant, name, class, version, state, manifest, digest, size, request, created_by, decided_by, created_at, updated_at, row_version, mac`
	firmwareSelect  = `SELECT ` + firmwareColumns + ` FROM firmware `
)

func firmwareFields(a *ota.Artifact) [][]byte {
	return append([][]byte{[]byte(a.Tenant), []byte(a.Name()), []byte(a.Class), []byte(a.Version), []byte(a.State), a.Manifest, []byte(a.Digest), []byte(a.Request), []byte(a.CreatedBy), []byte(a.DecidedBy)},
		decimals(a.Size, millis(a.CreatedAt), millis(a.UpdatedAt), a.Row)...)
}

// PutArtifact implements [ota.Store].
func (db *DB) PutArtifact(ctx context.Context, a ota.Artifact, was int64) error {
	changed := ota.ErrChanged
	if was == 0 {
		changed = ota.ErrExists
	}
	mac := db.cfg.Seal.MAC("firmware", firmwareFields(&a)...)
	return db.put(ctx, sealedRow{table: "firmware", name: pair(a.Tenant, a.Name()), mac: mac, find: `SELECT mac FROM firmware WHERE tenant = $1 AND name = $2`, key: []any{a.Tenant, a.Name()}, changed: changed}, was,
		`INSERT INTO firmware (`+firmwareColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) ON CONFLICT DO NOTHING`,
		[]any{a.Tenant, a.Name(), a.Class, string(a.Version), string(a.State), a.Manifest, a.Digest, a.Size, a.Request, a.CreatedBy, a.DecidedBy, millis(a.CreatedAt), millis(a.UpdatedAt), a.Row, mac},
		`UPDATE firmware SET state = $1, request = $2, decided_by = $3, updated_at = $4, row_version = $5, mac = $6 WHERE tenant = $7 AND name = $8 AND row_version = $9`,
		[]any{string(a.State), a.Request, a.DecidedBy, millis(a.UpdatedAt), a.Row, mac, a.Tenant, a.Name(), was})
}

func (db *DB) scanArtifact(row row) (a ota.Artifact, err error) {
	var name string
	var created, updated int64
	var mac []byte
	if err := row.Scan(&a.Tenant, &name, &a.Class, (*string)(&a.Version), (*string)(&a.State), &a.Manifest, &a.Digest, &a.Size, &a.Request, &a.CreatedBy, &a.DecidedBy, &created, &updated, &a.Row, &mac); err != nil {
		return a, err
	}
	a.CreatedAt, a.UpdatedAt = timeOf(created), timeOf(updated)
	if err := db.cfg.Seal.Verify(mac, "firmware", firmwareFields(&a)...); err != nil || name != a.Name() {
		return a, ErrRowTampered.Wrap(err, "Table firmware, row %s/%s.", a.Tenant, name)
	}
	return a, nil
}

// Artifact implements [ota.Store].
func (db *DB) Artifact(ctx context.Context, s access.Scope, class string, v manifest.Version) (ota.Artifact, error) {
	a, err := db.scanArtifact(db.queryRow(ctx, firmwareSelect+`WHERE tenant = $1 AND class = $2 AND version = $3`, s.Tenant, class, string(v)))
	if errors.Is(err, sql.ErrNoRows) {
		return a, ota.ErrUnknown.New("%.80s %.40s.", class, v)
	}
	return a, err
}

// Artifacts implements [ota.Store].
func (db *DB) Artifacts(ctx context.Context, s access.Scope, class, after string, limit int) (out []ota.Artifact, err error) {
	rows, err := db.query(ctx, firmwareSelect+`WHERE tenant = $1 AND name > $2 AND ($3 = '' OR class = $3) ORDER BY name LIMIT $4`, s.Tenant, after, class, limit)
	err = each(rows, err, func(r row) error {
		a, err := db.scanArtifact(r)
		out = append(out, a)
		return err
	})
	return out, err
}

// AllArtifacts implements [ota.Store].
func (db *DB) AllArtifacts(ctx context.Context) (out []ota.Artifact, err error) {
	rows, err := db.query(ctx, firmwareSelect+`ORDER BY tenant, name`)
	err = each(rows, err, func(r row) error {
		a, err := db.scanArtifact(r)
		out = append(out, a)
		return err
	})
	return out, err
}

// RunningVersions implements [ota.Store], by the index of the shadows.
func (db *DB) RunningVersions(ctx context.Context, tenant string) (out []ota.Running, err error) {
	const field = registry.PrefixShadow + ".reported.device.firmware."
	rows, err := db.query(ctx, `SELECT c.text, v.text, COUNT(*) FROM thing_index v JOIN thing_index c ON c.tenant = v.tenant AND c.thing = v.thing AND c.field = $3
		WHERE v.tenant = $1 AND v.field = $2 GROUP BY c.text, v.text ORDER BY c.text, v.text`, tenant, field+"version", field+"class")
	err = each(rows, err, func(r row) error {
		var v ota.Running
		err := r.Scan(&v.Class, &v.Version, &v.Devices)
		out = append(out, v)
		return err
	})
	return out, err
}
