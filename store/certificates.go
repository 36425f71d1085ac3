package store

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"encoding/hex"
	"errors"
	"strconv"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/fleet"
	"hallmark/fleet/registry"
)

const (
	certificateColumns = `c.tenant, c.id, c.der, c.ca, c.authority, c.serial, c.status, c.how, c.holder, c.common_name, c.not_before, c.not_after, c.transfer_to, c.registered_at, c.updated_at, c.version, c.mac`
	certificateSelect  = `SELECT ` + certificateColumns + `, COALESCE(r.profile, ''), COALESCE(r.slot, ''), k.der, COALESCE(v.revoked_at, 0), COALESCE(v.released_at, 0) FROM device_certificates c
		LEFT JOIN reservations r ON r.serial = c.serial AND r.authority = c.authority
		LEFT JOIN certificates k ON k.reservation = r.id
		LEFT JOIN revocations v ON v.authority = c.authority AND v.serial = c.serial `
)

// certificateRow is a device certificate in its columns.
type certificateRow struct {
	c      registry.Certificate
	serial []byte
	mac    []byte
	nb, na int64
	reg    int64
	upd    int64
}

func (r *certificateRow) dest() []any {
	c := &r.c
	return []any{&c.Tenant, &c.ID, &c.DER, &c.CA, &c.Authority, &r.serial, (*string)(&c.Status), (*string)(&c.How), &c.Holder, &c.CommonName, &r.nb, &r.na, &c.TransferTo, &r.reg, &r.upd, &c.Version, &r.mac}
}

// fields is what the MAC covers: the row.
func (r *certificateRow) fields() [][]byte {
	c := &r.c
	return append([][]byte{[]byte(c.Tenant), []byte(c.ID), c.DER, []byte(c.CA), []byte(c.Authority), r.serial, []byte(c.Status), []byte(c.How), []byte(c.Holder), []byte(c.CommonName), []byte(c.TransferTo)},
		decimals(r.nb, r.na, r.reg, r.upd, c.Version)...)
}

func (db *DB) certificateRow(c registry.Certificate) (certificateRow, error) {
	r := certificateRow{c: c, nb: millis(c.NotBefore), na: millis(c.NotAfter), reg: millis(c.RegisteredAt), upd: millis(c.UpdatedAt)}
	if c.Authority != "" {
		r.c.DER, r.serial = []byte{}, c.Serial[:]
	} else {
		var err error
		if r.serial, err = hex.DecodeString(c.ID); err != nil {
			return r, registry.ErrCertificateID.Wrap(err, "")
		}
	}
	r.mac = db.cfg.Seal.MAC("device_certificates", r.fields()...)
	return r, nil
}

// verify holds the columns against the MAC and gives the domain's value.
func (db *DB) verifyCertificate(r *certificateRow) (registry.Certificate, error) {
	c := r.c
	copy(c.Serial[:], r.serial)
	if c.Authority == "" {
		c.Serial = ca.Serial{}
	}
	c.NotBefore, c.NotAfter, c.RegisteredAt, c.UpdatedAt = timeOf(r.nb), timeOf(r.na), timeOf(r.reg), timeOf(r.upd)
	if err := db.cfg.Seal.Verify(r.mac, "device_certificates", r.fields()...); err != nil {
		return c, ErrRowTampered.Wrap(err, "Table device_certificates, row %s/%s.", c.Tenant, c.ID)
	}
	return c, nil
}

func (db *DB) scanCertificate(row row) (registry.Certificate, error) {
	var r certificateRow
	var profile, slot string
	var der []byte
	var revoked, released int64
	if err := row.Scan(append(r.dest(), &profile, &slot, &der, &revoked, &released)...); err != nil {
		return registry.Certificate{}, err
	}
	c, err := db.verifyCertificate(&r)
	if err != nil {
		return c, err
	}
	c.Profile, c.Slot, c.Revoked = profile, slot, revoked != 0 && released == 0
	if c.Authority != "" {
		c.DER = der
	}
	return c, nil
}

func certificateMissing(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return registry.ErrCertificateUnknown.New("")
	}
	return err
}

// Certificate implements [registry.CertificateStore].
func (db *DB) Certificate(ctx context.Context, s access.Scope, id string) (registry.Certificate, error) {
	c, err := db.scanCertificate(db.queryRow(ctx, certificateSelect+`WHERE c.tenant = $1 AND c.id = $2`, s.Tenant, id))
	return c, certificateMissing(err)
}

// CertificateBySerial implements [registry.CertificateStore].
func (db *DB) CertificateBySerial(ctx context.Context, s access.Scope, authority string, serial ca.Serial) (registry.Certificate, error) {
	if authority == "" {
		return registry.Certificate{}, registry.ErrCertificateUnknown.New("")
	}
	c, err := db.scanCertificate(db.queryRow(ctx, certificateSelect+`WHERE c.authority = $1 AND c.serial = $2 AND c.tenant = $3`, authority, serial[:], s.Tenant))
	return c, certificateMissing(err)
}

func (db *DB) certificates(ctx context.Context, query string, args ...any) (out []registry.Certificate, err error) {
	rows, err := db.query(ctx, certificateSelect+query, args...)
	err = each(rows, err, func(r row) error {
		c, err := db.scanCertificate(r)
		out = append(out, c)
		return err
	})
	return out, err
}

// CertificatesByID implements [registry.CertificateStore]: the one look-up
// without a tenant, for the door, which learns the tenant from the certificate.
func (db *DB) CertificatesByID(ctx context.Context, id string) ([]registry.Certificate, error) {
	return db.certificates(ctx, `WHERE c.id = $1 ORDER BY c.tenant LIMIT 100`, id)
}

// Certificates implements [registry.CertificateStore].
func (db *DB) Certificates(ctx context.Context, s access.Scope, q registry.CertificateQuery) ([]registry.Certificate, error) {
	where, args := `WHERE c.tenant = $1 AND c.id > $2`, []any{s.Tenant, q.After}
	if q.CA != "" {
		args = append(args, q.CA)
		where += ` AND c.ca = $` + strconv.Itoa(len(args))
	}
	if q.Status != "" {
		args = append(args, string(q.Status))
		where += ` AND c.status = $` + strconv.Itoa(len(args))
	}
	return db.certificates(ctx, where+` ORDER BY c.id LIMIT $`+strconv.Itoa(len(args)+1), append(args, q.Limit)...)
}

// PutCertificate implements [registry.CertificateStore].
func (db *DB) PutCertificate(ctx context.Context, c registry.Certificate, was int64) error {
	r, err := db.certificateRow(c)
	if err != nil {
		return err
	}
	return db.Atomic(ctx, func(ctx context.Context) error {
		err := db.put(ctx, sealedRow{table: "device_certificates", name: pair(c.Tenant, c.ID), mac: r.mac, changed: registry.ErrCertificateChanged,
			find: `SELECT mac FROM device_certificates WHERE tenant = $1 AND id = $2`, key: []any{c.Tenant, c.ID}}, was,
			`INSERT INTO device_certificates (tenant, id, der, ca, authority, serial, status, how, holder, common_name, not_before, not_after, transfer_to, registered_at, updated_at, version, mac)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) ON CONFLICT (tenant, id) DO NOTHING`,
			[]any{c.Tenant, c.ID, r.c.DER, c.CA, c.Authority, r.serial, string(c.Status), string(c.How), c.Holder, c.CommonName, r.nb, r.na, c.TransferTo, r.reg, r.upd, c.Version, r.mac},
			`UPDATE device_certificates SET ca = $1, status = $2, how = $3, holder = $4, transfer_to = $5, updated_at = $6, version = $7, mac = $8 WHERE tenant = $9 AND id = $10 AND version = $11 AND (status <> 'REVOKED' OR $2 = 'REVOKED')`,
			[]any{c.CA, string(c.Status), string(c.How), c.Holder, c.TransferTo, r.upd, c.Version, r.mac, c.Tenant, c.ID, was})
		if err != nil {
			return err
		}
		return db.certificateChanged(ctx, c.Tenant, c.ID)
	})
}

// certificateChanged tells who asks for it and keeps the index of its things right.
func (db *DB) certificateChanged(ctx context.Context, tenant, id string) error {
	db.tellRegistry(ctx, registry.Change{Tenant: tenant, Certificate: id})
	var things []string
	rows, err := db.query(ctx, `SELECT thing FROM thing_principals WHERE tenant = $1 AND certificate = $2`, tenant, id)
	err = each(rows, err, func(r row) error {
		var t string
		err := r.Scan(&t)
		things = append(things, t)
		return err
	})
	for _, t := range things {
		if err == nil {
			err = db.reindex(ctx, tenant, t)
		}
	}
	return err
}

// DropCertificate implements [registry.CertificateStore].
func (db *DB) DropCertificate(ctx context.Context, tenant string, id string) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		dropped, err := db.drop(ctx, sealedRow{table: "device_certificates", name: pair(tenant, id),
			find: `SELECT mac FROM device_certificates WHERE tenant = $1 AND id = $2`, key: []any{tenant, id}}, `DELETE FROM device_certificates WHERE tenant = $1 AND id = $2`)
		if err == nil && !dropped {
			err = registry.ErrCertificateUnknown.New("")
		}
		db.tellRegistry(ctx, registry.Change{Tenant: tenant, Certificate: id})
		return err
	})
}

// Issued implements [registry.CertificateStore].
func (db *DB) Issued(ctx context.Context, s access.Scope, authority string, serial ca.Serial) (registry.Certificate, error) {
	c := registry.Certificate{Tenant: s.Tenant, Authority: authority, Serial: serial}
	var nb, na, revoked, released int64
	err := db.queryRow(ctx, `SELECT k.der, r.holder, r.profile, r.slot, r.not_before, r.not_after, COALESCE(v.revoked_at, 0), COALESCE(v.released_at, 0) FROM reservations r
		JOIN certificates k ON k.reservation = r.id LEFT JOIN revocations v ON v.authority = r.authority AND v.serial = r.serial
		WHERE r.serial = $1 AND r.authority = $2 AND r.tenant = $3`, serial[:], authority, s.Tenant).Scan(&c.DER, &c.Holder, &c.Profile, &c.Slot, &nb, &na, &revoked, &released)
	if err != nil {
		return c, certificateMissing(err)
	}
	c.ID, c.NotBefore, c.NotAfter, c.Revoked = registry.CertificateID(c.DER), timeOf(nb), timeOf(na), revoked != 0 && released == 0
	if parsed, err := x509.ParseCertificate(c.DER); err == nil {
		c.CommonName = parsed.Subject.CommonName
	}
	return c, nil
}

// revokeCertificates marks what certificates are registered as. A row that
// somebody else changed is marked too, and keeps its wrong MAC for fsck: nothing
// that a database writer does keeps a certificate from being revoked.
func (db *DB) revokeCertificates(ctx context.Context, where string, args ...any) error {
	tx := txFrom(ctx)
	var all []certificateRow
	rows, err := db.query(ctx, `SELECT `+certificateColumns+` FROM device_certificates c `+where, args...)
	err = each(rows, err, func(row row) error {
		var r certificateRow
		if row.Scan(r.dest()...) == nil {
			all = append(all, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range all {
		r := &all[i]
		if !hmac.Equal(r.mac, db.cfg.Seal.MAC("device_certificates", r.fields()...)) || r.c.Status == fleet.Revoked {
			continue
		}
		old := r.mac
		r.c.Status, r.c.TransferTo = fleet.Revoked, ""
		r.c.Version++
		r.mac = db.cfg.Seal.MAC("device_certificates", r.fields()...)
		if _, err := db.exec(ctx, `UPDATE device_certificates SET status = $1, transfer_to = '', version = $2, mac = $3 WHERE tenant = $4 AND id = $5`, string(fleet.Revoked), r.c.Version, r.mac, r.c.Tenant, r.c.ID); err != nil {
			return err
		}
		tx.reseal("device_certificates", pair(r.c.Tenant, r.c.ID), old, r.mac)
	}
	if _, err := db.exec(ctx, `UPDATE device_certificates AS c SET status = 'REVOKED' `+where+` AND c.status <> 'REVOKED'`, args...); err != nil {
		return err
	}
	for i := range all {
		if err := db.certificateChanged(ctx, all[i].c.Tenant, all[i].c.ID); err != nil {
			if tx.broken {
				return err
			}
			db.log.ErrorContext(ctx, "the index of a revoked certificate's things could not be brought up to date", "certificate", all[i].c.ID, "error", err)
		}
	}
	return nil
}

// ownChanged tells that a certificate of ours came on hold or off it.
func (db *DB) ownChanged(ctx context.Context, tenant, authority string, serial ca.Serial) error {
	var id string
	err := db.queryRow(ctx, `SELECT id FROM device_certificates WHERE authority = $1 AND serial = $2 AND tenant = $3`, authority, serial[:], tenant).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return db.certificateChanged(ctx, tenant, id)
}

const (
	attachmentColumns = `p.tenant, p.thing, p.certificate, p.kind, p.attached_at, p.mac`
	principalSelect   = `SELECT ` + attachmentColumns + `, t.name, ` + certificateColumns + `, COALESCE(r.profile, ''), COALESCE(r.slot, ''), COALESCE(v.revoked_at, 0), COALESCE(v.released_at, 0) FROM thing_principals p
		LEFT JOIN things t ON t.tenant = p.tenant AND t.folded = p.thing
		JOIN device_certificates c ON c.tenant = p.tenant AND c.id = p.certificate
		LEFT JOIN reservations r ON r.serial = c.serial AND r.authority = c.authority
		LEFT JOIN revocations v ON v.authority = c.authority AND v.serial = c.serial `
)

// attachmentRow is an attachment in its columns.
type attachmentRow struct {
	tenant, thing, certificate, kind string
	at                               int64
	mac                              []byte
}

func (r *attachmentRow) dest() []any {
	return []any{&r.tenant, &r.thing, &r.certificate, &r.kind, &r.at, &r.mac}
}

func (r *attachmentRow) fields() [][]byte {
	return append([][]byte{[]byte(r.tenant), []byte(r.thing), []byte(r.certificate), []byte(r.kind)}, decimals(r.at)...)
}

func (r *attachmentRow) name() string { return pair(r.tenant, r.certificate) + "/" + r.thing }

func (db *DB) scanAttachment(row row) (r attachmentRow, err error) {
	if err := row.Scan(r.dest()...); err != nil {
		return r, err
	}
	return r, db.verifyAttachment(&r)
}

func (db *DB) verifyAttachment(r *attachmentRow) error {
	if err := db.cfg.Seal.Verify(r.mac, "thing_principals", r.fields()...); err != nil {
		return ErrRowTampered.Wrap(err, "Table thing_principals, row %s.", r.name())
	}
	return nil
}

func (db *DB) principals(ctx context.Context, query string, args ...any) (out []registry.Principal, err error) {
	rows, err := db.query(ctx, principalSelect+query, args...)
	err = each(rows, err, func(row row) error {
		var a attachmentRow
		var name sql.NullString
		var r certificateRow
		var profile, slot string
		var revoked, released int64
		if err := row.Scan(append(append(append(a.dest(), &name), r.dest()...), &profile, &slot, &revoked, &released)...); err != nil {
			return err
		}
		if err := db.verifyAttachment(&a); err != nil {
			return err
		}
		c, err := db.verifyCertificate(&r)
		if err != nil {
			return err
		}
		p := registry.Principal{Tenant: a.tenant, Thing: fleet.ThingName(name.String), Certificate: a.certificate, Kind: registry.Kind(a.kind), AttachedAt: timeOf(a.at),
			Authority: c.Authority, Serial: c.Serial, Status: c.Status, How: c.How, NotAfter: c.NotAfter, Holder: c.Holder, Profile: profile, Slot: slot, Revoked: revoked != 0 && released == 0}
		if !name.Valid {
			p.Thing = fleet.ThingName(a.thing)
		}
		out = append(out, p)
		return nil
	})
	return out, err
}

// CertificateThings implements [registry.AttachmentStore].
func (db *DB) CertificateThings(ctx context.Context, s access.Scope, id string) ([]registry.Principal, error) {
	return db.principals(ctx, `WHERE p.tenant = $1 AND p.certificate = $2 ORDER BY p.attached_at, p.thing LIMIT 10000`, s.Tenant, id)
}

// ThingPrincipals implements [registry.AttachmentStore].
func (db *DB) ThingPrincipals(ctx context.Context, s access.Scope, folded string) ([]registry.Principal, error) {
	return db.principals(ctx, `WHERE p.tenant = $1 AND p.thing = $2 ORDER BY p.attached_at, p.certificate LIMIT 10000`, s.Tenant, fold(folded))
}

// PutAttachment implements [registry.AttachmentStore].
func (db *DB) PutAttachment(ctx context.Context, tenant, folded, id string, k registry.Kind, at time.Time) error {
	r := attachmentRow{tenant: tenant, thing: fold(folded), certificate: id, kind: string(k), at: millis(at)}
	r.mac = db.cfg.Seal.MAC("thing_principals", r.fields()...)
	return db.Atomic(ctx, func(ctx context.Context) error {
		old, err := db.oldMAC(ctx, `SELECT mac FROM thing_principals WHERE tenant = $1 AND certificate = $2 AND thing = $3`, tenant, id, r.thing)
		if err != nil {
			return err
		}
		n, err := db.exec(ctx, `INSERT INTO thing_principals (tenant, thing, certificate, kind, attached_at, mac) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (tenant, certificate, thing) DO UPDATE SET kind = excluded.kind, attached_at = excluded.attached_at, mac = excluded.mac WHERE thing_principals.mac = $7`,
			tenant, r.thing, id, r.kind, r.at, r.mac, notNull(old))
		if err == nil && n != 1 {
			return errStale
		}
		if err != nil {
			return err
		}
		txFrom(ctx).reseal("thing_principals", r.name(), old, r.mac)
		return db.attachmentChanged(ctx, &r)
	})
}

// DropAttachment implements [registry.AttachmentStore].
func (db *DB) DropAttachment(ctx context.Context, tenant string, folded, id string) error {
	r := attachmentRow{tenant: tenant, thing: fold(folded), certificate: id}
	return db.Atomic(ctx, func(ctx context.Context) error {
		_, err := db.drop(ctx, sealedRow{table: "thing_principals", name: r.name(), find: `SELECT mac FROM thing_principals WHERE tenant = $1 AND certificate = $2 AND thing = $3`,
			key: []any{tenant, id, r.thing}}, `DELETE FROM thing_principals WHERE tenant = $1 AND certificate = $2 AND thing = $3`)
		if err != nil {
			return err
		}
		return db.attachmentChanged(ctx, &r)
	})
}

func (db *DB) attachmentChanged(ctx context.Context, r *attachmentRow) error {
	db.tellRegistry(ctx, registry.Change{Tenant: r.tenant, Certificate: r.certificate})
	return db.reindex(ctx, r.tenant, r.thing)
}

const caColumns = `tenant, id, der, subject, authority, status, mode, auto, proven, registered_at, updated_at, version, mac`

// caRow is a registered CA in its columns.
type caRow struct {
	c            registry.RegisteredCA
	subject, mac []byte
	auto, proven int64
	reg, upd     int64
}

func (r *caRow) fields() [][]byte {
	c := &r.c
	return append([][]byte{[]byte(c.Tenant), []byte(c.ID), c.DER, r.subject, []byte(c.Authority), []byte(c.Status), []byte(c.Mode)}, decimals(r.auto, r.proven, r.reg, r.upd, c.Version)...)
}

func (db *DB) scanCA(row row) (registry.RegisteredCA, error) {
	var r caRow
	c := &r.c
	if err := row.Scan(&c.Tenant, &c.ID, &c.DER, &r.subject, &c.Authority, (*string)(&c.Status), (*string)(&c.Mode), &r.auto, &r.proven, &r.reg, &r.upd, &c.Version, &r.mac); err != nil {
		return *c, err
	}
	c.AutoRegistration, c.Proven, c.RegisteredAt, c.UpdatedAt = r.auto == 1, r.proven == 1, timeOf(r.reg), timeOf(r.upd)
	if err := db.cfg.Seal.Verify(r.mac, "registered_cas", r.fields()...); err != nil {
		return *c, ErrRowTampered.Wrap(err, "Table registered_cas, row %s/%s.", c.Tenant, c.ID)
	}
	return *c, nil
}

func (db *DB) registeredCAs(ctx context.Context, where string, args ...any) (out []registry.RegisteredCA, err error) {
	rows, err := db.query(ctx, `SELECT `+caColumns+` FROM registered_cas `+where, args...)
	err = each(rows, err, func(r row) error {
		c, err := db.scanCA(r)
		out = append(out, c)
		return err
	})
	return out, err
}

// CA implements [registry.CAStore].
func (db *DB) CA(ctx context.Context, s access.Scope, id string) (registry.RegisteredCA, error) {
	c, err := db.scanCA(db.queryRow(ctx, `SELECT `+caColumns+` FROM registered_cas WHERE tenant = $1 AND id = $2`, s.Tenant, id))
	if errors.Is(err, sql.ErrNoRows) {
		return c, registry.ErrCAUnknown.New("")
	}
	return c, err
}

// CAs implements [registry.CAStore].
func (db *DB) CAs(ctx context.Context, s access.Scope, after string, limit int) ([]registry.RegisteredCA, error) {
	return db.registeredCAs(ctx, `WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3`, s.Tenant, after, limit)
}

// CAsByID implements [registry.CAStore], for S23 in all tenants.
func (db *DB) CAsByID(ctx context.Context, id string) ([]registry.RegisteredCA, error) {
	return db.registeredCAs(ctx, `WHERE id = $1 ORDER BY tenant LIMIT 1000`, id)
}

// CAsBySubject implements [registry.CAStore], for the door in all tenants.
func (db *DB) CAsBySubject(ctx context.Context, subject [32]byte) ([]registry.RegisteredCA, error) {
	return db.registeredCAs(ctx, `WHERE subject = $1 ORDER BY tenant, id LIMIT 1000`, subject[:])
}

// PutCA implements [registry.CAStore].
func (db *DB) PutCA(ctx context.Context, c registry.RegisteredCA, subject [32]byte, was int64) error {
	r := caRow{c: c, subject: subject[:], auto: int64(flag(c.AutoRegistration)), proven: int64(flag(c.Proven)), reg: millis(c.RegisteredAt), upd: millis(c.UpdatedAt)}
	mac := db.cfg.Seal.MAC("registered_cas", r.fields()...)
	return db.Atomic(ctx, func(ctx context.Context) error {
		err := db.put(ctx, sealedRow{table: "registered_cas", name: pair(c.Tenant, c.ID), mac: mac, changed: registry.ErrCAChanged,
			find: `SELECT mac FROM registered_cas WHERE tenant = $1 AND id = $2`, key: []any{c.Tenant, c.ID}}, was,
			`INSERT INTO registered_cas (`+caColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT (tenant, id) DO NOTHING`,
			[]any{c.Tenant, c.ID, c.DER, r.subject, c.Authority, string(c.Status), string(c.Mode), r.auto, r.proven, r.reg, r.upd, c.Version, mac},
			`UPDATE registered_cas SET status = $1, auto = $2, updated_at = $3, version = $4, mac = $5 WHERE tenant = $6 AND id = $7 AND version = $8`,
			[]any{string(c.Status), r.auto, r.upd, c.Version, mac, c.Tenant, c.ID, was})
		db.tellRegistry(ctx, registry.Change{Tenant: c.Tenant})
		return err
	})
}

// DropCA implements [registry.CAStore].
func (db *DB) DropCA(ctx context.Context, tenant string, id string) error {
	dropped, err := db.drop(ctx, sealedRow{table: "registered_cas", name: pair(tenant, id), find: `SELECT mac FROM registered_cas WHERE tenant = $1 AND id = $2`, key: []any{tenant, id}},
		`DELETE FROM registered_cas WHERE tenant = $1 AND id = $2`)
	if err == nil && !dropped {
		err = registry.ErrCAUnknown.New("")
	}
	return err
}

// RegistrationCode implements [registry.CAStore]. Nothing is stored: the code
// follows from the tenant and the key outside of the database.
func (db *DB) RegistrationCode(tenant string) string {
	sum := sha256.Sum256(db.cfg.Seal.MAC("registration-code", []byte(tenant)))
	return hex.EncodeToString(sum[:])
}
