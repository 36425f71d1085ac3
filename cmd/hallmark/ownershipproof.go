package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/ca/tlog"
	"hallmark/crl"
	"hallmark/fleet/ownership"
	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
)

// disposalType is the DSSE payload type of a statement of decommissioning.
const disposalType = "application/vnd.hallmark.decommission+json"

var (
	errDisposal     = fault.Define(fault.Invalid, "decommission-statement-invalid", "The statement of decommissioning does not hold.", "Ask the service for it again; if it stays like this, keep it and report it.")
	errDisposalNone = fault.Define(fault.Conflict, "decommission-statement-none", "There is no statement: the unit was not decommissioned here.", "Decommission it with hallmark owner decommission.")
	errDisposalSoon = fault.Define(fault.Unavailable, "decommission-statement-pending", "There is no checkpoint over the unit's revocation yet.", "Ask again in a few seconds.")
)

// disposal says that a unit was taken out of use. Its canonical form (RFC 8785) is
// signed with the key of the log's checkpoints, and every leaf that it names is proven
// to be in the log: that the certificates were revoked, and the name blocked.
type disposal struct {
	Unit         string                `json:"unit"`
	Tenant       string                `json:"tenant"` // the last owner
	At           time.Time             `json:"decommissioned_at"`
	By           string                `json:"by"`
	Note         string                `json:"note,omitempty"`
	Certificates []disposedCertificate `json:"certificates"`
	Blocks       []tlog.Receipt        `json:"blocks"`
	Checkpoint   string                `json:"checkpoint"` // covers all leaves
	MadeAt       time.Time             `json:"made_at"`
}

// disposedCertificate is one that was in force, or would have been.
type disposedCertificate struct {
	Profile    string        `json:"profile"`
	Authority  string        `json:"authority"`
	Serial     string        `json:"serial"`
	SHA256     string        `json:"sha256,omitempty"` // of the DER; none was made of a reservation
	NotAfter   time.Time     `json:"not_after"`
	Reason     string        `json:"reason,omitempty"`
	RevokedAt  time.Time     `json:"revoked_at,omitzero"`
	Revocation *tlog.Receipt `json:"revocation,omitempty"` // under the statement's checkpoint
	// Issuance is of a birth certificate that ended by itself before the unit was taken out
	// of use, and so could not be revoked; it carries the certificate.
	Issuance *tlog.Receipt `json:"issuance,omitempty"`
}

// endings are the certificates of a statement that had ended by themselves when it was
// made, and those that have ended since: neither could be used any more, and neither is
// wrong with the statement, which is about its time.
type endings struct {
	Before []string `json:"before"` // serial numbers
	Since  []string `json:"since"`
}

func (d *disposal) ended(now time.Time) endings {
	out := endings{Before: []string{}, Since: []string{}}
	for i := range d.Certificates {
		switch e := &d.Certificates[i]; {
		case !e.NotAfter.After(d.MadeAt):
			out.Before = append(out.Before, e.Serial)
		case !e.NotAfter.After(now):
			out.Since = append(out.Since, e.Serial)
		}
	}
	return out
}

// DecommissionStatement implements [web.Ownership]. It is for who decommissioned the
// unit, and names no certificate of another owner but the birth certificate.
func (b *backend) DecommissionStatement(ctx context.Context, s access.Scope, unit string) (v adminapi.Envelope, err error) {
	u, events, err := b.ownership.Show(ctx, s, unit)
	if err != nil {
		return v, err
	}
	if u.Tenant != s.Tenant || u.State != ownership.Decommissioned || len(events) == 0 || b.logs == nil {
		return v, errDisposalNone.New("Unit %s is %s.", unit, ownershipView(&u, s.Tenant, nil, nil).State)
	}
	signed, err := b.logs.note(ctx)
	if err != nil {
		return v, errDisposalSoon.Wrap(err, "")
	}
	c, err := tlog.ParseCheckpoint(signed, b.tlog.VerifierKey())
	if err != nil {
		return v, err
	}
	last := &events[len(events)-1]
	d := disposal{Unit: u.Shown, Tenant: u.Tenant, At: last.At, By: last.By, Note: last.Note, Certificates: []disposedCertificate{}, Blocks: []tlog.Receipt{}, Checkpoint: string(signed), MadeAt: b.now().UTC().Truncate(time.Second)}
	tenants := []string{u.Home}
	if u.Foreign() {
		tenants = append(tenants, u.Tenant)
	}
	receipt := func(tenant string, leaf int64) (*tlog.Receipt, error) {
		row, err := b.db.LogLeaf(ctx, access.Scope{Tenant: tenant}, leaf)
		if err != nil {
			return nil, err
		}
		if row == nil {
			return nil, tlog.ErrCorrupt.New("Leaf %d is missing.", leaf)
		}
		r, err := b.tlog.ReceiptUnder(ctx, row.Leaf, c)
		if err != nil {
			return nil, errDisposalSoon.Wrap(err, "")
		}
		r.Checkpoint = "" // the statement has it once
		return r, nil
	}
	for _, tenant := range tenants {
		stories, err := b.db.Stories(ctx, tenant, u.Holder, time.Time{})
		if err != nil {
			return v, err
		}
		for i := range stories {
			st := &stories[i]
			birth := st.Profile == string(profile.IDevID)
			revoked := st.Revocation != nil && st.Revocation.ReleasedAt.IsZero()
			if !revoked && (!birth || !st.Issued) || u.Foreign() && tenant == u.Home && !birth {
				continue // it had ended by itself, or belonged to another owner
			}
			e := disposedCertificate{Profile: st.Profile, Authority: st.Authority, Serial: st.Serial.String(), NotAfter: st.NotAfter}
			if st.Issued {
				r, err := b.db.RecordBySerial(ctx, tenant, st.Authority, st.Serial)
				if err != nil {
					return v, err
				}
				sum := sha256.Sum256(r.DER)
				e.SHA256 = hex.EncodeToString(sum[:])
				if !revoked { // it had ended by itself, and says so
					if e.Issuance, err = receipt(tenant, r.Leaf); err != nil {
						return v, err
					}
					e.Issuance.Certificate = r.DER
				}
			}
			if revoked {
				e.Reason, e.RevokedAt = st.Revocation.Reason.String(), st.Revocation.At
				if e.Revocation, err = receipt(tenant, st.Revocation.Leaf); err != nil {
					return v, err
				}
			}
			d.Certificates = append(d.Certificates, e)
		}
		leaf, err := b.db.BlockLeaf(ctx, access.Scope{Tenant: tenant}, u.Holder)
		if fault.KindOf(err) == fault.NotFound && tenant != u.Home {
			continue // it never booted for its last owner
		}
		if err != nil {
			return v, err
		}
		r, err := receipt(tenant, leaf)
		if err != nil {
			return v, err
		}
		d.Blocks = append(d.Blocks, *r)
	}
	return b.logs.signStatement(disposalType, d)
}

// verifyDisposal checks a statement without asking anybody: the signature, the
// checkpoint, and that the log has a revocation of every certificate and a block. What
// had ended by itself when the statement was made is not revoked: on hold it stays as it
// is, and a birth certificate is shown.
func verifyDisposal(env adminapi.Envelope, policy tlog.Policy) (*disposal, []tlog.Cosignature, error) {
	if env.PayloadType != disposalType {
		return nil, nil, errDisposal.New("It is a %.80q.", env.PayloadType)
	}
	if good, err := signedByLog(env, policy.Log); err != nil {
		return nil, nil, err
	} else if !good {
		return nil, nil, errDisposal.New("The log's key did not sign it.")
	}
	var d disposal
	if err := strictjson.Decode(env.Payload, &d); err != nil {
		return nil, nil, errDisposal.Wrap(err, "It cannot be read.")
	}
	c, seen, err := policy.Open([]byte(d.Checkpoint))
	if err != nil {
		return nil, seen, err
	}
	births := 0
	for i := range d.Certificates {
		e := &d.Certificates[i]
		serial, err := ca.ParseSerial(e.Serial)
		if err != nil {
			return nil, seen, errDisposal.Wrap(err, "")
		}
		birth, over := e.Profile == string(profile.IDevID), !e.NotAfter.After(d.MadeAt)
		if birth {
			births++
		}
		if birth && over && e.Revocation == nil {
			if err := d.born(e, c); err != nil {
				return nil, seen, errDisposal.Wrap(err, "The log does not prove that %s was the birth certificate and had ended.", e.Serial)
			}
			continue
		}
		events := []tlog.Event{tlog.Revoke, tlog.Void}
		if over && e.Reason == crl.CertificateHold.String() {
			events = append(events, tlog.Hold)
		}
		if err := d.holds(e.Revocation, c, sha256.Sum256(serial[:]), events...); err != nil {
			return nil, seen, errDisposal.Wrap(err, "The log does not prove that %s is revoked.", e.Serial)
		}
	}
	for i := range d.Blocks {
		if err := d.holds(&d.Blocks[i], c, sha256.Sum256([]byte(strings.ToLower(d.Unit))), tlog.Block); err != nil {
			return nil, seen, errDisposal.Wrap(err, "The log does not prove that the name is blocked.")
		}
	}
	if births == 0 || len(d.Blocks) == 0 {
		return nil, seen, errDisposal.New("It names %d birth certificates and %d blocks.", births, len(d.Blocks))
	}
	return &d, seen, nil
}

// born checks that a birth certificate is the one that the log has, and ends when the
// statement says.
func (d *disposal) born(e *disposedCertificate, c tlog.Checkpoint) error {
	if e.Issuance == nil {
		return tlog.ErrReceipt.New("There is none.")
	}
	cert, err := x509.ParseCertificate(e.Issuance.Certificate)
	if err != nil {
		return tlog.ErrReceipt.Wrap(err, "It has no certificate.")
	}
	sum := sha256.Sum256(cert.Raw)
	if serial, ok := ca.SerialFromInt(cert.SerialNumber); !ok || serial.String() != e.Serial || hex.EncodeToString(sum[:]) != e.SHA256 || !cert.NotAfter.Equal(e.NotAfter) {
		return tlog.ErrReceipt.New("It is about another certificate.")
	}
	return d.holds(e.Issuance, c, sum, tlog.Issue)
}

// holds checks one leaf: it is in the log, of one of these events, about this subject
// of this unit.
func (d *disposal) holds(r *tlog.Receipt, c tlog.Checkpoint, subject [32]byte, events ...tlog.Event) error {
	if r == nil {
		return tlog.ErrReceipt.New("There is none.")
	}
	if err := r.VerifyUnder(c); err != nil {
		return err
	}
	for _, e := range events {
		if r.Leaf.Type == e && r.Leaf.Subject == subject && r.Leaf.Holder == strings.ToLower(d.Unit) {
			return nil
		}
	}
	return tlog.ErrReceipt.New("Leaf %d is about something else.", r.Leaf.Index)
}
