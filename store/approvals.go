package store

import (
	"context"
	"crypto/hmac"
	"database/sql"
	"encoding/json"
	"errors"

	"hallmark/access"
	"hallmark/provisioner/declare"
)

var _ declare.RequestStore = (*DB)(nil)

const requestColumns = `tenant, id, hash, state, body, decision, version, mac`

func (db *DB) requestMAC(tenant, id, hash, state string, body, decision []byte, version int64) []byte {
	return db.cfg.Seal.MAC("approval_requests", []byte(tenant), []byte(id), []byte(hash), []byte(state), body, decision, number(version))
}

// scanRequest reads an approval request; the row is believed only as written (S32).
func (db *DB) scanRequest(r row) (q declare.Request, err error) {
	var tenant, id, hash string
	var decision, mac []byte
	if err := r.Scan(&tenant, &id, &hash, (*string)(&q.State), &q.Body, &decision, &q.Version, &mac); err != nil {
		return q, err
	}
	err = json.Unmarshal(q.Body, &q.RequestBody)
	if err == nil {
		err = json.Unmarshal(decision, &q.Decision)
	}
	if err == nil && (q.Tenant != tenant || q.ID != id || q.Hash != hash || !hmac.Equal(mac, db.requestMAC(tenant, id, hash, string(q.State), q.Body, decision, q.Version))) {
		err = errors.New("the MAC is another's")
	}
	if err != nil {
		return declare.Request{}, ErrRowTampered.Wrap(err, "Table approval_requests, row %s.", pair(tenant, id))
	}
	return q, nil
}

// PutRequest implements [declare.RequestStore]. What was asked for is written once.
func (db *DB) PutRequest(ctx context.Context, q declare.Request, was int64) error {
	decision, err := json.Marshal(&q.Decision)
	if err != nil {
		return err
	}
	mac := db.requestMAC(q.Tenant, q.ID, q.Hash, string(q.State), q.Body, decision, q.Version)
	return db.put(ctx, sealedRow{table: "approval_requests", name: pair(q.Tenant, q.ID), mac: mac, find: `SELECT mac FROM approval_requests WHERE tenant = $1 AND id = $2`, key: []any{q.Tenant, q.ID}, changed: declare.ErrRequestMoved}, was,
		`INSERT INTO approval_requests (`+requestColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`, []any{q.Tenant, q.ID, q.Hash, string(q.State), q.Body, decision, q.Version, mac},
		`UPDATE approval_requests SET state = $1, decision = $2, version = $3, mac = $4 WHERE tenant = $5 AND id = $6 AND version = $7`, []any{string(q.State), decision, q.Version, mac, q.Tenant, q.ID, was})
}

// Request implements [declare.RequestStore].
func (db *DB) Request(ctx context.Context, s access.Scope, id string) (declare.Request, error) {
	q, err := db.scanRequest(db.queryRow(ctx, `SELECT `+requestColumns+` FROM approval_requests WHERE tenant = $1 AND id = $2`, s.Tenant, id))
	if errors.Is(err, sql.ErrNoRows) {
		return q, declare.ErrRequestUnknown.New("%.80s.", id)
	}
	return q, err
}

// Requests implements [declare.RequestStore].
func (db *DB) Requests(ctx context.Context, s access.Scope, before string, limit int) ([]declare.Request, error) {
	if before == "" {
		before = "~" // behind every id
	}
	return db.requests(ctx, `SELECT `+requestColumns+` FROM approval_requests WHERE tenant = $1 AND id < $2 ORDER BY id DESC LIMIT $3`, s.Tenant, before, limit)
}

// OpenRequests implements [declare.RequestStore].
func (db *DB) OpenRequests(ctx context.Context, s access.Scope) ([]declare.Request, error) {
	return db.requests(ctx, `SELECT `+requestColumns+` FROM approval_requests WHERE tenant = $1 AND state = 'open' ORDER BY id`, s.Tenant)
}

func (db *DB) requests(ctx context.Context, query string, args ...any) (out []declare.Request, err error) {
	rows, err := db.query(ctx, query, args...)
	err = each(rows, err, func(r row) error {
		q, err := db.scanRequest(r)
		out = append(out, q)
		return err
	})
	return out, err
}
