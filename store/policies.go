package store

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"time"

	"hallmark/access"
	"hallmark/fleet/registry"
)

func policyMissing(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return registry.ErrPolicyUnknown.New("")
	}
	return err
}

const policyColumns = `tenant, folded, name, default_version, latest_version, created_at, updated_at, version, mac`

func policyFields(p *registry.PolicyHead, created, updated int64) [][]byte {
	return append([][]byte{[]byte(p.Tenant), []byte(fold(p.Name)), []byte(p.Name)}, decimals(int64(p.Default), int64(p.Latest), created, updated, p.Version)...)
}

func (db *DB) scanPolicy(row row) (p registry.PolicyHead, err error) {
	var folded string
	var created, updated int64
	var mac []byte
	if err := row.Scan(&p.Tenant, &folded, &p.Name, &p.Default, &p.Latest, &created, &updated, &p.Version, &mac); err != nil {
		return p, err
	}
	p.CreatedAt, p.UpdatedAt = timeOf(created), timeOf(updated)
	if err := db.cfg.Seal.Verify(mac, "policies", policyFields(&p, created, updated)...); err != nil || folded != fold(p.Name) {
		return p, ErrRowTampered.Wrap(err, "Table policies, row %s/%s.", p.Tenant, folded)
	}
	return p, nil
}

// PolicyHead implements [registry.PolicyStore].
func (db *DB) PolicyHead(ctx context.Context, s access.Scope, name string) (registry.PolicyHead, error) {
	p, err := db.scanPolicy(db.queryRow(ctx, `SELECT `+policyColumns+` FROM policies WHERE tenant = $1 AND folded = $2`, s.Tenant, fold(name)))
	return p, policyMissing(err)
}

// PolicyHeads implements [registry.PolicyStore].
func (db *DB) PolicyHeads(ctx context.Context, s access.Scope, after string, limit int) (out []registry.PolicyHead, err error) {
	rows, err := db.query(ctx, `SELECT `+policyColumns+` FROM policies WHERE tenant = $1 AND folded > $2 ORDER BY folded LIMIT $3`, s.Tenant, fold(after), limit)
	err = each(rows, err, func(r row) error {
		p, err := db.scanPolicy(r)
		out = append(out, p)
		return err
	})
	return out, err
}

// PutPolicyHead implements [registry.PolicyStore].
func (db *DB) PutPolicyHead(ctx context.Context, p registry.PolicyHead, was int64) error {
	created, updated, folded := millis(p.CreatedAt), millis(p.UpdatedAt), fold(p.Name)
	mac := db.cfg.Seal.MAC("policies", policyFields(&p, created, updated)...)
	return db.Atomic(ctx, func(ctx context.Context) error {
		db.tellRegistry(ctx, registry.Change{Tenant: p.Tenant})
		return db.put(ctx, sealedRow{table: "policies", name: pair(p.Tenant, folded), mac: mac, changed: registry.ErrPolicyChanged,
			find: `SELECT mac FROM policies WHERE tenant = $1 AND folded = $2`, key: []any{p.Tenant, folded}}, was,
			`INSERT INTO policies (`+policyColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (tenant, folded) DO NOTHING`,
			[]any{p.Tenant, folded, p.Name, p.Default, p.Latest, created, updated, p.Version, mac},
			`UPDATE policies SET default_version = $1, latest_version = $2, updated_at = $3, version = $4, mac = $5 WHERE tenant = $6 AND folded = $7 AND version = $8`,
			[]any{p.Default, p.Latest, updated, p.Version, mac, p.Tenant, folded, was})
	})
}

// DropPolicy implements [registry.PolicyStore].
func (db *DB) DropPolicy(ctx context.Context, tenant string, name string) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		all, err := db.PolicyVersions(ctx, access.Scope{Tenant: tenant}, name)
		if err != nil {
			return err
		}
		for _, v := range all {
			if err := db.DropPolicyVersion(ctx, tenant, name, v.Number); err != nil {
				return err
			}
		}
		folded := fold(name)
		db.tellRegistry(ctx, registry.Change{Tenant: tenant})
		_, err = db.drop(ctx, sealedRow{table: "policies", name: pair(tenant, folded), find: `SELECT mac FROM policies WHERE tenant = $1 AND folded = $2`, key: []any{tenant, folded}},
			`DELETE FROM policies WHERE tenant = $1 AND folded = $2`)
		return err
	})
}

const policyVersionColumns = `tenant, policy, number, document, created_at, mac`

func versionFields(v *registry.PolicyVersion, folded string, created int64) [][]byte {
	return append([][]byte{[]byte(v.Tenant), []byte(folded), []byte(v.Document)}, decimals(int64(v.Number), created)...)
}

func versionName(tenant, folded string, number int) string {
	return pair(tenant, folded) + "/" + strconv.Itoa(number)
}

func (db *DB) scanPolicyVersion(row row) (v registry.PolicyVersion, err error) {
	var created int64
	var mac []byte
	if err := row.Scan(&v.Tenant, &v.Policy, &v.Number, &v.Document, &created, &mac); err != nil {
		return v, err
	}
	v.CreatedAt = timeOf(created)
	if err := db.cfg.Seal.Verify(mac, "policy_versions", versionFields(&v, v.Policy, created)...); err != nil {
		return v, ErrRowTampered.Wrap(err, "Table policy_versions, row %s.", versionName(v.Tenant, v.Policy, v.Number))
	}
	return v, nil
}

// PolicyVersion implements [registry.PolicyStore].
func (db *DB) PolicyVersion(ctx context.Context, s access.Scope, name string, number int) (registry.PolicyVersion, error) {
	v, err := db.scanPolicyVersion(db.queryRow(ctx, `SELECT `+policyVersionColumns+` FROM policy_versions WHERE tenant = $1 AND policy = $2 AND number = $3`, s.Tenant, fold(name), number))
	return v, policyMissing(err)
}

// PolicyVersions implements [registry.PolicyStore].
func (db *DB) PolicyVersions(ctx context.Context, s access.Scope, name string) (out []registry.PolicyVersion, err error) {
	rows, err := db.query(ctx, `SELECT `+policyVersionColumns+` FROM policy_versions WHERE tenant = $1 AND policy = $2 ORDER BY number`, s.Tenant, fold(name))
	err = each(rows, err, func(r row) error {
		v, err := db.scanPolicyVersion(r)
		out = append(out, v)
		return err
	})
	return out, err
}

// AddPolicyVersion implements [registry.PolicyStore].
func (db *DB) AddPolicyVersion(ctx context.Context, v registry.PolicyVersion) error {
	created, folded := millis(v.CreatedAt), fold(v.Policy)
	mac := db.cfg.Seal.MAC("policy_versions", versionFields(&v, folded, created)...)
	return db.put(ctx, sealedRow{table: "policy_versions", name: versionName(v.Tenant, folded, v.Number), mac: mac, changed: registry.ErrPolicyChanged,
		find: `SELECT mac FROM policy_versions WHERE tenant = $1 AND policy = $2 AND number = $3`, key: []any{v.Tenant, folded, v.Number}}, 0,
		`INSERT INTO policy_versions (`+policyVersionColumns+`) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant, policy, number) DO NOTHING`,
		[]any{v.Tenant, folded, v.Number, v.Document, created, mac}, "", nil)
}

// DropPolicyVersion implements [registry.PolicyStore].
func (db *DB) DropPolicyVersion(ctx context.Context, tenant string, name string, number int) error {
	folded := fold(name)
	dropped, err := db.drop(ctx, sealedRow{table: "policy_versions", name: versionName(tenant, folded, number),
		find: `SELECT mac FROM policy_versions WHERE tenant = $1 AND policy = $2 AND number = $3`, key: []any{tenant, folded, number}},
		`DELETE FROM policy_versions WHERE tenant = $1 AND policy = $2 AND number = $3`)
	if err == nil && !dropped {
		err = registry.ErrPolicyUnknown.New("")
	}
	return err
}

const grantColumns = `a.tenant, a.target, a.policy, a.attached_at, a.mac`

// grantRow says that a policy is attached to a target.
type grantRow struct {
	tenant, target, policy string
	at                     int64
	mac                    []byte
}

func (r *grantRow) fields() [][]byte {
	return append([][]byte{[]byte(r.tenant), []byte(r.target), []byte(r.policy)}, decimals(r.at)...)
}

func (r *grantRow) name() string { return pair(r.tenant, r.target) + "/" + r.policy }

func (r *grantRow) dest() []any { return []any{&r.tenant, &r.target, &r.policy, &r.at, &r.mac} }

func (db *DB) verifyGrant(r *grantRow) error {
	if err := db.cfg.Seal.Verify(r.mac, "policy_attachments", r.fields()...); err != nil {
		return ErrRowTampered.Wrap(err, "Table policy_attachments, row %s.", r.name())
	}
	return nil
}

func (r *grantRow) sealed() sealedRow {
	return sealedRow{table: "policy_attachments", name: r.name(), mac: r.mac,
		find: `SELECT mac FROM policy_attachments WHERE tenant = $1 AND target = $2 AND policy = $3`, key: []any{r.tenant, r.target, r.policy}}
}

// grantChanged tells whom it concerns: one certificate, or with a group everybody.
func (db *DB) grantChanged(ctx context.Context, r *grantRow) {
	c := registry.Change{Tenant: r.tenant}
	if prefix := registry.CertificateTarget(""); len(r.target) > len(prefix) && r.target[:len(prefix)] == prefix {
		c.Certificate = r.target[len(prefix):]
	}
	db.tellRegistry(ctx, c)
}

// AttachPolicy implements [registry.PolicyStore].
func (db *DB) AttachPolicy(ctx context.Context, tenant string, target, name string, at time.Time) error {
	r := grantRow{tenant: tenant, target: target, policy: fold(name), at: millis(at)}
	r.mac = db.cfg.Seal.MAC("policy_attachments", r.fields()...)
	return db.Atomic(ctx, func(ctx context.Context) error {
		n, err := db.exec(ctx, `INSERT INTO policy_attachments (tenant, target, policy, attached_at, mac) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, target, policy) DO NOTHING`, r.tenant, r.target, r.policy, r.at, r.mac)
		if err != nil || n == 0 {
			return err
		}
		txFrom(ctx).reseal("policy_attachments", r.name(), nil, r.mac)
		db.grantChanged(ctx, &r)
		return nil
	})
}

// DetachPolicy implements [registry.PolicyStore].
func (db *DB) DetachPolicy(ctx context.Context, tenant string, target, name string) error {
	r := grantRow{tenant: tenant, target: target, policy: fold(name)}
	return db.Atomic(ctx, func(ctx context.Context) error {
		dropped, err := db.drop(ctx, r.sealed(), `DELETE FROM policy_attachments WHERE tenant = $1 AND target = $2 AND policy = $3`)
		if err == nil && dropped {
			db.grantChanged(ctx, &r)
		}
		return err
	})
}

// AttachedPolicies implements [registry.PolicyStore].
func (db *DB) AttachedPolicies(ctx context.Context, s access.Scope, target string) (out []string, err error) {
	rows, err := db.query(ctx, `SELECT `+grantColumns+`, COALESCE(p.name, a.policy) FROM policy_attachments a LEFT JOIN policies p ON p.tenant = a.tenant AND p.folded = a.policy
		WHERE a.tenant = $1 AND a.target = $2 ORDER BY a.policy`, s.Tenant, target)
	err = each(rows, err, func(row row) error {
		var r grantRow
		var name string
		if err := row.Scan(append(r.dest(), &name)...); err != nil {
			return err
		}
		out = append(out, name)
		return db.verifyGrant(&r)
	})
	return out, err
}

// PolicyTargets implements [registry.PolicyStore].
func (db *DB) PolicyTargets(ctx context.Context, s access.Scope, name, after string, limit int) (out []string, err error) {
	rows, err := db.query(ctx, `SELECT target FROM policy_attachments WHERE tenant = $1 AND policy = $2 AND target > $3 ORDER BY target LIMIT $4`, s.Tenant, fold(name), after, limit)
	err = each(rows, err, func(r row) error {
		var t string
		err := r.Scan(&t)
		out = append(out, t)
		return err
	})
	return out, err
}
