package provisioner

import (
	"context"
	"crypto/sha256"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/internal/lane"
)

// CodeLife is how long an enrolment code is good (S14).
const CodeLife = time.Hour

// MaxCodeAttempts is how often a code may be shown with wrong facts.
const MaxCodeAttempts = 5

// Station is an enrolled station.
type Station struct {
	ID         string
	Tenant     string
	Site       string
	State      string // active, revoked
	SPKI       [32]byte
	EnrolledAt time.Time
}

// StationCode is a one-time enrolment code as it is stored: hashed.
type StationCode struct {
	Hash       [32]byte
	Tenant     string
	Station    string
	Site       string
	CreatedBy  string
	ExpiresAt  time.Time
	Attempts   int
	SPKI       *[32]byte // of whoever redeemed it
	RedeemedAt time.Time
}

// StationStore persists stations and their codes. Contract: Redeem is one
// transaction that binds the code to the first key that shows it and makes the
// station; the same key may repeat it until the code expires, so that a crash
// between redemption and certificate is not the end (A40); anything else is
// ErrStationCode, and a wrong station counts as an attempt, which is kept.
//
// A station that there is gets a code, and is made anew by it with a new key, only
// when it cannot come back as it was: it was revoked, or its certificates are over;
// none of them is good, on hold or still to be signed, and its name is not blocked. Both steps
// check it. The enrolment and a revocation end all other codes of the station that
// nobody redeemed, and the former key cannot repeat its own. The entry in the trail
// names both keys.
type StationStore interface {
	CreateStationCode(ctx context.Context, c StationCode) error
	Redeem(ctx context.Context, hash [32]byte, station string, spki [32]byte, now time.Time) (Station, error)
	Station(ctx context.Context, s access.Scope, id string) (Station, error)
	Stations(ctx context.Context, s access.Scope) ([]Station, error)
	RevokeStation(ctx context.Context, s access.Scope, id string) error
}

// CreateStationCode stores a new code; the caller drew it and shows it once.
func (p *Provisioner) CreateStationCode(ctx context.Context, actor access.Actor, station, site string, code []byte) (StationCode, error) {
	if ValidUnit(station) != nil || ValidUnit(site) != nil {
		return StationCode{}, ErrStationName.New("Station %q, site %q.", station, site)
	}
	c := StationCode{Hash: sha256.Sum256(code), Tenant: actor.Tenant, Station: station, Site: site, CreatedBy: actor.Name, ExpiresAt: p.now().Add(CodeLife)}
	return c, p.cfg.Stations.CreateStationCode(ctx, c)
}

// StationCertificate is what an enrolled or renewed station gets.
type StationCertificate struct {
	Station Station
	DER     []byte
	Chain   [][]byte
	Roots   [][]byte
}

// EnrolStation redeems a code and issues the station's certificate.
func (p *Provisioner) EnrolStation(ctx context.Context, station string, code, request []byte) (StationCertificate, error) {
	req, err := csr.Parse(request)
	if err != nil {
		return StationCertificate{}, err
	}
	access.RecordFrom(ctx).Note(func(e *access.TrailEntry) {
		e.Actor, e.On = access.Actor{Kind: access.KindStation, Name: station}.String(), "station "+station
	})
	st, err := p.cfg.Stations.Redeem(ctx, sha256.Sum256(code), station, sha256.Sum256(req.SPKI), p.now())
	if err != nil {
		return StationCertificate{}, err
	}
	return p.stationCertificate(ctx, st, req, "A", ca.RekeyRefuse, ca.Requester{Actor: "station:" + st.ID, Station: st.ID})
}

// RenewStation issues a certificate for a station's new key while the old one
// lives; there are two slots, and the older certificate is superseded when both
// are taken.
func (p *Provisioner) RenewStation(ctx context.Context, station access.Actor, request []byte) (StationCertificate, error) {
	if station.Kind != access.KindStation || len(station.Serial) != ca.SerialLen {
		return StationCertificate{}, ErrNotStation.New("")
	}
	req, err := csr.Parse(request)
	if err != nil {
		return StationCertificate{}, err
	}
	st, err := p.cfg.Stations.Station(ctx, station.Scope(), station.Name)
	if err != nil {
		return StationCertificate{}, err
	}
	held, err := p.cfg.Records.Records(ctx, ca.RecordQuery{Tenant: st.Tenant, Holder: holderOfStation(st.ID), Profile: string(profile.Station), Limit: 1000})
	if err != nil {
		return StationCertificate{}, err
	}
	spki := sha256.Sum256(req.SPKI)
	slot, _ := ca.PickSlot(ca.TwoSlots, held, p.now())
	for _, h := range held {
		if h.SPKI == spki && h.State != "" { // a repeated request gets its own answer
			slot = h.Slot
		}
	}
	return p.stationCertificate(ctx, st, req, slot, ca.RekeySupersede, ca.Requester{Actor: station.String(), Station: st.ID, Authority: station.Authority, Serial: ca.Serial(station.Serial)})
}

// holderOfStation keeps stations and units apart in the identities.
func holderOfStation(id string) string { return "station:" + id }

func (p *Provisioner) stationCertificate(ctx context.Context, st Station, req *csr.Request, slot string, rekey ca.Rekey, by ca.Requester) (StationCertificate, error) {
	issued, err := p.cfg.CA.Issue(lane.With(ctx, lane.Renewal), ca.Request{
		Identity: ca.Identity{Tenant: st.Tenant, Holder: holderOfStation(st.ID), Profile: string(profile.Station), Slot: slot},
		Subject:  profile.Subject{OrganizationalUnit: st.Site, CommonName: st.ID},
		SPKI:     req.SPKI, Key: req.PublicKey, Rekey: rekey, Requester: by, Region: st.Site,
	})
	if err != nil {
		return StationCertificate{}, err
	}
	a, err := p.cfg.CA.Authority(issued.Authority)
	if err != nil {
		return StationCertificate{}, err
	}
	out := StationCertificate{Station: st, DER: issued.DER, Chain: p.chain(&a)}
	roots := p.cfg.CA.Roots()
	if p.cfg.Roots != nil {
		if roots, err = p.cfg.Roots(ctx, st.Tenant, roots); err != nil {
			return StationCertificate{}, err
		}
	}
	for _, r := range roots {
		out.Roots = append(out.Roots, r.Raw)
	}
	return out, nil
}

// chain is what goes with a certificate: its authority, and the cross certificates by
// which who trusts only another root accepts it too.
func (p *Provisioner) chain(a *ca.Info) [][]byte {
	out := [][]byte{a.Cert.Raw}
	for _, cross := range p.cfg.CA.CrossesOf(a.Cert) {
		out = append(out, cross.Raw)
	}
	return out
}

// StationOf finds the station that a certificate's record names, and refuses
// what is not a live station certificate (S18).
func (p *Provisioner) StationOf(ctx context.Context, authority string, serial ca.Serial, der []byte, tenant string) (access.Actor, error) {
	rec, err := p.cfg.Records.RecordBySerial(ctx, tenant, authority, serial)
	if err != nil || rec.Profile != string(profile.Station) || string(rec.DER) != string(der) {
		return access.Actor{}, ErrNotStation.New("")
	}
	if rec.Revoked() {
		return access.Actor{}, ca.ErrRequesterRevoked.New("Station %s.", rec.Shown)
	}
	return access.Actor{Tenant: rec.Tenant, Kind: access.KindStation, Name: rec.Shown[len("station:"):], Authority: rec.Authority, Serial: rec.Serial[:]}, nil
}

// Stations lists the stations of a tenant.
func (p *Provisioner) Stations(ctx context.Context, s access.Scope) ([]Station, error) {
	return p.cfg.Stations.Stations(ctx, s)
}

// RevokeStation stops a station at once; its certificates are revoked by the caller.
func (p *Provisioner) RevokeStation(ctx context.Context, s access.Scope, id string) error {
	return p.cfg.Stations.RevokeStation(ctx, s, id)
}

// StationHolder is the identity under which a station's certificates are kept.
func StationHolder(id string) string { return holderOfStation(id) }
