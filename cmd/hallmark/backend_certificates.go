package main

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/store"
	"hallmark/web"
)

func (b *backend) summaryView(r *ca.Record) adminapi.CertificateSummary {
	return adminapi.CertificateSummary{
		Serial: r.Serial.String(), Authority: r.Authority, Holder: r.Shown, Profile: r.Profile, Slot: r.Slot, Status: r.Status(b.now()),
		NotBefore: r.NotBefore, NotAfter: r.NotAfter, IssuedAt: r.IssuedAt, Account: r.Account,
	}
}

func (b *backend) certificateView(r *ca.Record) adminapi.Certificate {
	v := adminapi.Certificate{
		Serial: r.Serial.String(), Authority: r.Authority, Holder: r.Shown, Profile: r.Profile, Slot: r.Slot, Status: r.Status(b.now()),
		NotBefore: r.NotBefore, NotAfter: r.NotAfter, IssuedAt: r.IssuedAt, Account: r.Account,
		Requester: r.Requester, Operator: r.Operator, Tool: r.Tool, Origin: r.Origin, Shard: r.Shard, Leaf: max(r.Leaf, 0),
	}
	if !r.RevokedAt.IsZero() {
		v.Revocation = revocationView(r)
	}
	if r.DER == nil {
		return v
	}
	v.Certificate, v.Fingerprint = pemText("CERTIFICATE", r.DER), fingerprint(r.DER)
	if c, err := x509.ParseCertificate(r.DER); err == nil {
		v.Subject, v.Issuer = c.Subject.String(), c.Issuer.String()
	}
	return v
}

func revocationView(r *ca.Record) adminapi.Revocation {
	return adminapi.Revocation{
		Serial: r.Serial.String(), Authority: r.Authority, Holder: r.Shown, Reason: crl.Reason(r.Reason).String(),
		RevokedAt: r.RevokedAt, RevokedBy: r.RevokedBy, Note: r.Note, ReleasedAt: r.ReleasedAt,
	}
}

func recordPosition(r *ca.Record) string { return strconv.FormatInt(r.ID, 10) }

// records reads pages of a query.
func (b *backend) records(ctx context.Context, q ca.RecordQuery) func(after string, n int) ([]ca.Record, error) {
	return func(after string, n int) (_ []ca.Record, err error) {
		q.After, q.Limit = 0, n
		if after != "" {
			if q.After, err = strconv.ParseInt(after, 10, 64); err != nil {
				return nil, web.ErrCursor.Wrap(err, "")
			}
		}
		return b.db.Records(ctx, q)
	}
}

// Certificates implements [web.Certificates].
func (b *backend) Certificates(ctx context.Context, s access.Scope, q web.CertificateQuery, p web.Page) ([]adminapi.CertificateSummary, string, error) {
	if q.Serial != "" {
		items, err := b.bySerial(ctx, s, q)
		return items, "", err
	}
	var keep func(*ca.Record) bool
	if q.Status != "" {
		now := b.now()
		keep = func(r *ca.Record) bool { return inStatus(r, q.Status, now) }
	}
	query := ca.RecordQuery{Tenant: s.Tenant, Prefix: q.Holder, Account: q.Order, Profile: q.Profile, Authority: q.Authority}
	rows, next, err := collect(p.After, p.Limit, b.records(ctx, query), recordPosition, keep)
	return mapped(rows, b.summaryView), next, err
}

// inStatus compares a record with the word of a search. A certificate on hold is one of
// the revoked, and can be looked for alone, since it can be released.
func inStatus(r *ca.Record, status string, now time.Time) bool {
	if status == "hold" {
		return r.Revoked() && crl.Reason(r.Reason) == crl.CertificateHold
	}
	return r.Status(now) == status
}

// bySerial is a search by serial number, which finds one or nothing.
func (b *backend) bySerial(ctx context.Context, s access.Scope, q web.CertificateQuery) ([]adminapi.CertificateSummary, error) {
	serial, err := ca.ParseSerial(q.Serial)
	if err != nil {
		return nil, err
	}
	r, err := b.db.RecordBySerial(ctx, s.Tenant, q.Authority, serial)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if v := b.summaryView(&r); (q.Status == "" || inStatus(&r, q.Status, b.now())) && (q.Order == "" || v.Account == q.Order) && (q.Profile == "" || v.Profile == q.Profile) &&
		strings.HasPrefix(strings.ToLower(v.Holder), strings.ToLower(q.Holder)) {
		return []adminapi.CertificateSummary{v}, nil
	}
	return nil, nil
}

func (b *backend) record(ctx context.Context, s access.Scope, text string) (ca.Record, error) {
	serial, err := ca.ParseSerial(text)
	if err != nil {
		return ca.Record{}, err
	}
	return b.db.RecordBySerial(ctx, s.Tenant, "", serial)
}

// Certificate implements [web.Certificates].
func (b *backend) Certificate(ctx context.Context, s access.Scope, serial string) (adminapi.Certificate, error) {
	r, err := b.record(ctx, s, serial)
	if err != nil {
		return adminapi.Certificate{}, err
	}
	return b.certificateView(&r), nil
}

// held is every record of a holder, oldest first; never none.
func (b *backend) held(ctx context.Context, s access.Scope, holder string) (rows []ca.Record, shown string, err error) {
	if rows, err = readAll(b.records(ctx, ca.RecordQuery{Tenant: s.Tenant, Holder: holder}), recordPosition); err != nil {
		return nil, "", err
	}
	if len(rows) == 0 {
		return nil, "", crl.ErrHolderUnknown.New("%.80s.", holder)
	}
	shown = rows[0].Shown
	for _, r := range rows { // only current reservations know how the name was written
		if r.State != "" {
			shown = r.Shown
			break
		}
	}
	return rows, shown, nil
}

// Device implements [web.Certificates].
func (b *backend) Device(ctx context.Context, s access.Scope, holder string) (adminapi.Device, error) {
	rows, shown, err := b.held(ctx, s, holder)
	if err != nil {
		return adminapi.Device{}, err
	}
	d := adminapi.Device{Holder: shown, Identities: []adminapi.DeviceIdentity{}, Certificates: mapped(rows, b.summaryView)}
	slices.Reverse(d.Certificates)
	for i := range rows {
		if rows[i].State == "" {
			continue
		}
		id, err := b.identity(ctx, s, &rows[i])
		if err != nil {
			return adminapi.Device{}, err
		}
		d.Identities = append(d.Identities, id)
	}
	block, blocked, err := b.db.BlockOf(ctx, s, holder)
	if err != nil {
		return adminapi.Device{}, err
	}
	d.Blocked, d.BlockedAt, d.BlockedBy, d.Note = blocked, block.At, block.By, block.Note
	things, err := b.reg.ByHolder(ctx, s, holder)
	if err != nil {
		return adminapi.Device{}, err
	}
	for i := range things { // it was renamed if there are several; the newest counts
		if i == 0 || things[i].UpdatedAt.After(d.Thing.UpdatedAt) {
			if d.Thing, err = b.thingView(ctx, s, &things[i]); err != nil {
				return adminapi.Device{}, err
			}
		}
	}
	return d, nil
}

// identity is what a current reservation says, and for a unit of an order how
// far the line came with it.
func (b *backend) identity(ctx context.Context, s access.Scope, r *ca.Record) (adminapi.DeviceIdentity, error) {
	v := adminapi.DeviceIdentity{Profile: r.Profile, Slot: r.Slot, State: r.State, Account: r.Account, Serial: r.Serial.String()}
	if v.State == "reserved" && r.DER != nil {
		v.State = "issued"
	}
	if name, ok := strings.CutPrefix(r.Requester, string(access.KindStation)+":"); ok {
		v.Station = name
	}
	if r.Profile != string(profile.IDevID) || r.Account == "" {
		return v, nil
	}
	units, err := b.prov.Units(ctx, s, r.Account, before(r.Holder), 1)
	if err != nil {
		return v, err
	}
	if len(units) == 1 && strings.EqualFold(units[0].Unit, r.Holder) {
		v.Rekeys, v.InstalledAt, v.Proven = units[0].Rekeys, units[0].InstalledAt, units[0].Proven
	}
	return v, nil
}

// before is a position such that the next unit in the order of octets is the
// given one: no unit lies between "SN0~" and "SN1", since units have no tilde
// and nothing above it.
func before(unit string) string {
	u := strings.ToLower(unit)
	last := len(u) - 1
	return u[:last] + string(rune(u[last]-1)) + "~"
}

// RevokeCertificate implements [web.Trust].
func (b *backend) RevokeCertificate(ctx context.Context, by access.Actor, serial string, r adminapi.RevokeRequest) (adminapi.Revocation, error) {
	reason, err := crl.ParseReason(r.Reason)
	if err != nil {
		return adminapi.Revocation{}, err
	}
	rec, err := b.record(ctx, by.Scope(), serial)
	if err != nil {
		return adminapi.Revocation{}, err
	}
	w := crl.Withdrawal{Authority: rec.Authority, Serial: rec.Serial, Reason: reason, Note: r.Note}
	if r.AllowReenrol != nil {
		if *r.AllowReenrol && reason == crl.KeyCompromise {
			return adminapi.Revocation{}, crl.ErrReason.New("After keyCompromise the identity is blocked (S16).")
		}
		w.Reenrol = crl.ReenrolRefused
		if *r.AllowReenrol {
			w.Reenrol = crl.ReenrolAllowed
		}
	}
	done, err := b.crl.Revoke(ctx, by, w)
	if err != nil {
		return adminapi.Revocation{}, err
	}
	if rec, err = b.record(ctx, by.Scope(), serial); err != nil {
		return adminapi.Revocation{}, err
	}
	v := revocationView(&rec)
	v.Blocked, v.Already = done.Blocked, !slices.Contains(done.Revoked, rec.Serial)
	return v, nil
}

// deviceProfiles are what makes a holder a device.
var deviceProfiles = []string{string(profile.IDevID), string(profile.LDevID), string(profile.Claim)}

// RevokeDevice implements [web.Trust]. Stations and the service itself are
// holders too; they are not devices, so that a slip of the pen does not block them.
func (b *backend) RevokeDevice(ctx context.Context, by access.Actor, holder string, r adminapi.DeviceRevokeRequest) (adminapi.DeviceRevocation, error) {
	reason, err := crl.ParseReason(r.Reason)
	if err != nil {
		return adminapi.DeviceRevocation{}, err
	}
	rows, shown, err := b.held(ctx, by.Scope(), holder)
	if err != nil {
		return adminapi.DeviceRevocation{}, err
	}
	for _, rec := range rows {
		if !slices.Contains(deviceProfiles, rec.Profile) {
			return adminapi.DeviceRevocation{}, crl.ErrHolderUnknown.New("%.80s has a %s certificate and is no device.", shown, rec.Profile)
		}
	}
	done, err := b.crl.BlockDevice(ctx, by, holder, reason, r.Note)
	if err != nil {
		return adminapi.DeviceRevocation{}, err
	}
	if rows, shown, err = b.held(ctx, by.Scope(), holder); err != nil {
		return adminapi.DeviceRevocation{}, err
	}
	out := adminapi.DeviceRevocation{Device: shown, Revoked: []adminapi.Revocation{}}
	for i := range rows {
		if rows[i].Revoked() {
			v := revocationView(&rows[i])
			v.Blocked, v.Already = true, !slices.Contains(done.Revoked, rows[i].Serial)
			out.Revoked = append(out.Revoked, v)
		}
	}
	return out, nil
}
