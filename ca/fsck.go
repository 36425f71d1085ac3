package ca

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"hallmark/ca/lint"
	"hallmark/ca/profile"
	"hallmark/ca/tlog"
	"hallmark/internal/fsck"
)

// FsckRow is a record with everything that must agree with it.
type FsckRow struct {
	Record
	Leaf      *tlog.Leaf // that the certificate names; nil if there is none
	LeafOf    []byte     // serial number that the leaf's row names
	LeafAt    time.Time  // when the leaf was made
	KeyHolder string     // who has the key, "" if nobody
	KeyState  string     // of the key: bound, compromised
	KeyWhy    bool       // there is a reason for a key that is not bound
	// Broken tells that the reservation is not as it was written.
	Broken error
	// HasIdentity tells whether the identity that it was made for is there.
	HasIdentity bool
}

// FsckLeaf is a leaf of issuance and what it is about.
type FsckLeaf struct {
	tlog.Leaf
	Serial []byte
	DER    []byte // of the certificate with that serial number; nil if there is none
	// Genuine tells whether serial number and time are those it was made with.
	Genuine bool
}

// FsckIdentity is an identity and the reservation it names.
type FsckIdentity struct {
	Identity
	Shown       string
	Account     string
	Station     string
	State       string
	Reservation int64
	InstalledAt time.Time
	Evidence    []byte
	Rekeys      int
	Replaced    int     // reservations before the current one
	Genuine     bool    // what its commit says, or that there was none, is as written
	Record      *Record // nil if the reservation does not exist
}

// FsckStore is what [Fsck] reads. Contract: every method streams in the order
// of the key, in pages, from one moment or a later one; rows that were inserted
// meanwhile may be missing.
type FsckStore interface {
	Authorities(ctx context.Context) ([]Authority, error)
	EachRecord(ctx context.Context, each func(FsckRow) error) error
	EachIssueLeaf(ctx context.Context, each func(FsckLeaf) error) error
	EachIdentity(ctx context.Context, each func(FsckIdentity) error) error
	// OrphanCertificates gives the reservation ids of certificates whose
	// reservation is missing.
	OrphanCertificates(ctx context.Context, each func(id int64) error) error
}

// Fsck proves from what is stored what this package promises:
//
//   - every serial number has its story: a reservation with its TBS, and a
//     certificate, or a void, or a young age
//   - every certificate is the reserved TBS with a signature that verifies, and
//     passes the lints
//   - every certificate is in the log, and every leaf of issuance has its certificate
//   - no identity has two live certificates, and one key has one holder
//   - every installed unit's proof still proves it, if proof is not nil
//   - nothing else wrote in the rows
func Fsck(ctx context.Context, s FsckStore, now time.Time, proof Proof) ([]fsck.Finding, error) {
	l, err := lint.New()
	if err != nil {
		return nil, err
	}
	f := &issuanceCheck{now: now, proof: proof, linter: l, auth: map[string]*x509.Certificate{}, alg: map[string][]byte{}, live: map[string]string{}}
	rows, err := s.Authorities(ctx)
	if err != nil {
		f.add("authority", "table authorities", "%v", err)
	}
	for _, a := range rows {
		f.authority(a)
	}
	if err := s.EachRecord(ctx, f.record); err != nil {
		return f.found, err
	}
	if err := s.EachIssueLeaf(ctx, f.leaf); err != nil {
		return f.found, err
	}
	if err := s.EachIdentity(ctx, f.identity); err != nil {
		return f.found, err
	}
	err = s.OrphanCertificates(ctx, func(id int64) error {
		f.add("certificate-reservation", fmt.Sprintf("certificate of reservation %d", id), "its reservation is missing")
		return nil
	})
	return f.found, err
}

// Proof verifies the signature that a device gave when its certificate was
// installed (S12).
type Proof func(unit string, serial Serial, certificate, evidence []byte) error

type issuanceCheck struct {
	now    time.Time
	proof  Proof
	linter *lint.Linter
	found  []fsck.Finding
	auth   map[string]*x509.Certificate
	alg    map[string][]byte
	live   map[string]string // identity → serial number of its live certificate
}

func (f *issuanceCheck) add(check, object, detail string, args ...any) {
	f.found = append(f.found, fsck.Finding{Check: check, Object: object, Detail: fmt.Sprintf(detail, args...)})
}

func (f *issuanceCheck) authority(a Authority) {
	if a.State == StatePending {
		return
	}
	c, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		f.add("authority", a.Name, "its certificate does not parse: %v", err)
		return
	}
	alg, _, err := profile.SignatureAlgorithm(c.PublicKey)
	if err != nil {
		f.add("authority", a.Name, "%v", err)
		return
	}
	if !c.IsCA {
		f.add("authority", a.Name, "its certificate is not a CA's")
	}
	f.auth[a.Name], f.alg[a.Name] = c, alg
}

func (f *issuanceCheck) record(r FsckRow) error {
	object := fmt.Sprintf("%s %s (%s)", r.Authority, r.Serial, r.Shown)
	issuer := f.auth[r.Authority]
	if issuer == nil {
		f.add("serial-authority", object, "there is no authority %s", r.Authority)
		return nil
	}
	draft, err := x509.ParseCertificate(profile.Assemble(r.TBS, f.alg[r.Authority], []byte{0}))
	if err != nil {
		f.add("reservation-tbs", object, "the reserved TBS does not parse: %v", err)
		return nil
	}
	if !bytes.Equal(draft.SerialNumber.FillBytes(make([]byte, SerialLen)), r.Serial[:]) || sha256.Sum256(draft.RawSubjectPublicKeyInfo) != r.SPKI ||
		!draft.NotBefore.Equal(r.NotBefore) || !draft.NotAfter.Equal(r.NotAfter) || !bytes.Equal(draft.RawIssuer, issuer.RawSubject) {
		f.add("reservation-tbs", object, "the row says something else than its TBS")
	}
	if r.Broken != nil {
		f.add("reservation-row", object, "%v", r.Broken)
	}
	switch compromised := r.Revoked() && r.Reason == 1; {
	case r.KeyState != "bound" && r.KeyState != "compromised" && r.KeyHolder != "":
		f.add("key-state", object, "the state of its public key is %q", r.KeyState)
	case compromised && r.KeyState == "bound":
		f.add("key-state", object, "it was revoked for keyCompromise and its public key is %s", r.KeyState)
	case r.KeyState == "compromised" && !r.KeyWhy:
		f.add("key-state", object, "its public key is compromised and nothing was revoked for that")
	}
	if !r.HasIdentity {
		f.add("identity-missing", object, "the identity %s/%s/%s is gone", r.Holder, r.Profile, r.Slot)
	}
	if r.KeyHolder != strings.ToLower(r.Holder) {
		f.add("key-holder", object, "its public key belongs to %q", r.KeyHolder)
	}
	if r.DER == nil {
		if !r.Revoked() && f.now.Sub(r.ReservedAt) > 25*time.Hour {
			f.add("serial-story", object, "it was reserved at %s and has neither a certificate nor a void", r.ReservedAt.Format(time.RFC3339))
		}
		return nil
	}
	f.certificate(object, issuer, &r)
	if !r.Revoked() && f.now.Before(r.NotAfter) {
		id := strings.Join([]string{r.Tenant, r.Holder, r.Profile, r.Slot}, "\x00")
		if other, ok := f.live[id]; ok { // S10
			f.add("one-live-certificate", object, "%s is live for the same identity", other)
		}
		f.live[id] = r.Serial.String()
		if r.State == "" {
			f.add("one-live-certificate", object, "it is live but the identity points elsewhere")
		}
	}
	return nil
}

func (f *issuanceCheck) certificate(object string, issuer *x509.Certificate, r *FsckRow) {
	c, err := x509.ParseCertificate(r.DER)
	if err != nil {
		f.add("certificate-parses", object, "%v", err)
		return
	}
	if !bytes.Equal(c.RawTBSCertificate, r.TBS) {
		f.add("certificate-reserved", object, "the certificate is not what was reserved")
	}
	if err := c.CheckSignatureFrom(issuer); err != nil {
		f.add("certificate-signature", object, "%v", err)
	}
	for _, l := range f.linter.Full(r.DER) {
		f.add("certificate-lint", object, "%s", l)
	}
	switch {
	case r.Leaf == nil:
		f.add("certificate-logged", object, "leaf %d is missing", r.Record.Leaf)
	case r.Leaf.Type != tlog.Issue || r.Leaf.Subject != sha256.Sum256(r.DER) || !bytes.Equal(r.LeafOf, r.Serial[:]) ||
		r.Leaf.Tenant != r.Tenant || r.Leaf.Account != r.Account || r.Leaf.Holder != r.Holder:
		f.add("certificate-logged", object, "leaf %d is about something else", r.Leaf.Index)
	case !r.IssuedAt.Equal(r.LeafAt):
		f.add("certificate-logged", object, "it was issued at %s and logged at %s", r.IssuedAt.Format(time.RFC3339Nano), r.LeafAt.Format(time.RFC3339Nano))
	}
}

func (f *issuanceCheck) leaf(l FsckLeaf) error {
	object := fmt.Sprintf("leaf %d (serial number %x, %s)", l.Index, l.Serial, l.Holder)
	if err := l.Check(); err != nil {
		f.add("leaf-entry", object, "its entry is not the hash of what it says")
	} else if !l.Genuine {
		f.add("leaf-entry", object, "its serial number or time was changed")
	}
	switch {
	case l.DER == nil:
		f.add("leaf-certificate", object, "the log has the certificate, the table certificates has not")
	case sha256.Sum256(l.DER) != l.Subject:
		f.add("leaf-certificate", object, "the certificate is not the logged one")
	}
	return nil
}

func (f *issuanceCheck) identity(i FsckIdentity) error {
	object := fmt.Sprintf("identity %s/%s/%s", i.Shown, i.Profile, i.Slot)
	switch r := i.Record; {
	case r == nil:
		f.add("identity-reservation", object, "reservation %d is missing", i.Reservation)
	case r.Tenant != i.Tenant || r.Holder != i.Holder || r.Profile != i.Profile || r.Slot != i.Slot || r.Account != i.Account:
		f.add("identity-reservation", object, "reservation %d is somebody else's", i.Reservation)
	case i.Holder != strings.ToLower(i.Shown):
		f.add("identity-name", object, "its compared name is %q", i.Holder)
	case i.State == "void" && (r.DER != nil || !r.Revoked()):
		f.add("identity-state", object, "it is void with a reservation that is not")
	case i.State != "reserved" && i.State != "installed" && i.State != "void":
		f.add("identity-state", object, "its state is %q", i.State)
	case i.State == "installed" && (r.DER == nil || i.InstalledAt.IsZero()):
		f.add("identity-state", object, "it is installed without a certificate")
	case !i.Genuine:
		f.add("identity-row", object, "what it says of its installation is not what was written")
	case i.Rekeys != i.Replaced:
		f.add("identity-rekeys", object, "it counts %d changes of its key, there are %d reservations before the current one", i.Rekeys, i.Replaced)
	case i.Station != stationOf(r.Requester):
		f.add("identity-station", object, "it names the station %q, and %s asked for it", i.Station, r.Requester)
	case f.proof != nil && i.State == "installed" && i.Evidence != nil:
		if err := f.proof(i.Shown, r.Serial, r.DER, i.Evidence); err != nil {
			f.add("identity-proof", object, "%v", err)
		}
	}
	return nil
}

// stationOf is the station that a requester is, "" for anybody else.
func stationOf(requester string) string {
	if name, ok := strings.CutPrefix(requester, "station:"); ok {
		return name
	}
	return ""
}
