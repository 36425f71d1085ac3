package bootstrap

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/keycheck"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/internal/lane"
	"hallmark/provisioner"
)

// Voucher is what a protocol with proofs of its own knows of a device: which unit
// it is, and what it may have. The key of the request was proven.
type Voucher struct {
	Tenant  string
	Unit    string
	Profile profile.Name
	Order   string // that a birth certificate counts on
	By      string // who vouches, for the record
	// Attested says that hardware vouches for the key, freshly: the key is attested
	// (S5) and proven (S15).
	Attested bool
}

// CheckVoucher tells whether people may promise this to somebody.
func (e *Enroller) CheckVoucher(ctx context.Context, v Voucher) error {
	switch {
	case provisioner.ValidUnit(v.Unit) != nil:
		return ErrEnrolConfig.New("The unit %.80q is not 1 to 64 characters of A-Z a-z 0-9 . _ : -", v.Unit)
	case v.Profile == profile.LDevID && v.Order == "":
		return nil
	case v.Profile != profile.IDevID || v.Order == "":
		return ErrEnrolConfig.New("A birth certificate (idevid) counts on an order, and no other does.")
	}
	return e.cfg.Units.CheckAttested(ctx, v.Tenant, v.Order, v.Unit)
}

// EnrolVouched makes the certificate of a device that the protocol identified. As
// everywhere the same key gets the same certificate again.
func (e *Enroller) EnrolVouched(ctx context.Context, v Voucher, req *csr.Request) (Enrolled, error) {
	ctx = lane.With(ctx, lane.Renewal)
	s := e.cfg.Service
	if err := keycheck.Check(req.PublicKey); err != nil {
		return Enrolled{}, err
	}
	if v.Profile == profile.LDevID {
		id, err := e.born(ctx, &Password{Tenant: v.Tenant, Unit: v.Unit})
		if err != nil {
			return Enrolled{}, err
		}
		if bytes.Equal(req.SPKI, id.Certificate.RawSubjectPublicKeyInfo) {
			return Enrolled{}, ErrKeyReused.New("")
		}
		id.way = &way{tool: e.cfg.Protocol, actor: access.Actor{Kind: access.KindService, Name: v.By}.String()}
		if v.Attested {
			id.way.origin = profile.OriginAttested
		}
		r, err := s.enter(ctx, id, req, v.Attested, nil)
		return enrolled(r), err
	}
	got, err := e.cfg.Units.EnrolUnit(ctx, provisioner.UnitEnrolment{Tenant: v.Tenant, Order: v.Order, Unit: v.Unit, Request: req, By: v.By, Tool: e.cfg.Protocol, Attested: v.Attested})
	if err != nil {
		return Enrolled{}, discreet(err)
	}
	return Enrolled{Profile: profile.IDevID, Certificate: got.DER, Chain: got.Chain}, nil
}

// SiteServer is a server at a site whose names were proven.
type SiteServer struct {
	Tenant string
	Names  []string // of the DNS, in lower case
	By     string   // who proved them, for the record
}

// holder is whose certificate it is: that of the names together.
func (s *SiteServer) holder() string {
	if len(s.Names) == 1 {
		return "site:" + s.Names[0]
	}
	sum := sha256.Sum256([]byte(strings.Join(s.Names, ",")))
	return "site:" + s.Names[0] + "+" + hex.EncodeToString(sum[:8])
}

// EnrolSite makes the certificate of a server at a site. Two of one set of names
// overlap; a third supersedes the older.
func (e *Enroller) EnrolSite(ctx context.Context, site SiteServer, req *csr.Request) (Enrolled, error) {
	ctx = lane.With(ctx, lane.Renewal)
	s := e.cfg.Service
	site.Names = slices.Compact(slices.Sorted(slices.Values(site.Names)))
	r := ca.Request{
		Identity:  ca.Identity{Tenant: site.Tenant, Holder: site.holder(), Profile: string(profile.Site)},
		Subject:   profile.Subject{CommonName: "site server"},
		Names:     profile.Names{DNS: site.Names},
		SPKI:      req.SPKI,
		Key:       req.PublicKey,
		Requester: ca.Requester{Actor: access.Actor{Kind: access.KindService, Name: site.By}.String()},
		Tool:      e.cfg.Protocol,
	}
	if i := slices.IndexFunc(site.Names, func(n string) bool { return len(n) <= 64 }); i >= 0 {
		r.Subject.CommonName = site.Names[i] // some clients still look there
	}
	for try := 0; ; try++ {
		held, err := s.records(ctx, &Identity{Tenant: site.Tenant, Holder: r.Holder}, profile.Site)
		if err != nil {
			return Enrolled{}, err
		}
		now := e.now()
		known := slices.IndexFunc(held, func(h ca.Record) bool { return h.State != "" && h.SPKI == req.SPKIHash })
		r.Rekey = ca.RekeyRefuse
		if known >= 0 {
			r.Slot = held[known].Slot
		} else {
			if err := s.budget(held, now); err != nil {
				return Enrolled{}, err
			}
			var supersedes bool
			if r.Slot, supersedes = ca.PickSlot(ca.TwoSlots, held, now); supersedes {
				r.Rekey = ca.RekeySupersede
			}
		}
		issued, err := s.cfg.Issuer.Issue(ctx, r)
		if errors.Is(err, ca.ErrRework) && try < 3 {
			continue // another node filled the slot meanwhile
		}
		if err != nil {
			return Enrolled{}, discreet(err)
		}
		a, err := s.cfg.Issuer.Authority(issued.Authority)
		if err != nil {
			return Enrolled{}, err
		}
		return Enrolled{Profile: profile.Site, Certificate: issued.DER, Chain: [][]byte{a.Cert.Raw}}, nil
	}
}

// Withdraw revokes a certificate for its holder, who was proven to ask. changed is
// false if it was revoked already.
func (e *Enroller) Withdraw(ctx context.Context, tenant string, serial ca.Serial, reason crl.Reason, note string) (changed bool, err error) {
	if reason == crl.CertificateHold || !reason.Valid() {
		return false, crl.ErrReason.New("A holder does not hold or release.")
	}
	r, err := e.cfg.Service.cfg.Records.RecordBySerial(ctx, tenant, "", serial)
	if err != nil {
		return false, err
	}
	if r.Revoked() && r.Reason != int(crl.CertificateHold) {
		return false, nil
	}
	w := crl.Withdrawal{Authority: r.Authority, Serial: serial, Reason: reason, Note: note}
	if r.Profile == string(profile.Site) {
		w.Reenrol = crl.ReenrolAllowed // a name is proven anew each time; a lost key is not taken again
	}
	out, err := e.cfg.Revoker.Revoke(ctx, access.Actor{Tenant: tenant, Kind: access.KindDevice, Name: r.Holder}, w)
	return out.Changed, err
}

// Take takes one of what the protocol may do in this minute.
func (e *Enroller) Take() error { return e.pace.take(e.now()) }

// Derive is a secret of an id under the key outside the database (S39).
func (e *Enroller) Derive(id string) []byte { return bytes.Clone(e.cfg.Secret(id)) }
