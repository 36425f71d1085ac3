package bootstrap

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/registry"
)

// DarkLane lets devices that slept past the end of their operational certificate
// come back (S33). It is a way in for keys that nobody renewed in time, so it is
// off unless configured, bounded, and leads into quarantine.
type DarkLane struct {
	Store  DarkStore
	Within time.Duration // since the end of the certificate
	PerDay int64         // devices of one tenant on one day, UTC
	// Policy is what a device may do in quarantine, and nothing else. It must exist.
	Policy string
	// Groups are those of which a thing must be in one; none means all things.
	Groups []string
	// Profiles may have expired: ldevid alone means that a birth certificate must
	// still be in force where there is one; idevid lifts that.
	Profiles []profile.Name
}

// DarkEntry records one device that came back.
type DarkEntry struct {
	Tenant      string
	Day, Number int64
	Holder      string
	Authority   string // of the expired certificate
	Serial      ca.Serial
	SPKI        [32]byte // of the new key
	Policy      string
	At          time.Time
}

// DarkStore keeps the entries. Contract: EnterDark writes an entry under the next
// number of its day unless that is above perDay (ErrDarkSpent); the same holder,
// serial number and key again changes nothing. Withdrawn asks the permanent table
// of revocations and the log, not a list.
type DarkStore interface {
	EnterDark(ctx context.Context, e DarkEntry, perDay int64) error
	DarkEntries(ctx context.Context, s access.Scope, holder string) ([]DarkEntry, error)
	Withdrawn(ctx context.Context, tenant, authority string, serial ca.Serial) (reason crl.Reason, withdrawn bool, err error)
}

// knock is identify for what an expired certificate may ask for where there is a lane.
func (s *Service) knock(ctx context.Context, f Facts) (Identity, error) {
	id, err := s.identify(ctx, f)
	if err == nil || s.cfg.Dark == nil || !errors.Is(err, ErrExpired) {
		return id, err
	}
	return s.dark(ctx, f.Certificate)
}

// dark decides who comes into the lane: an expired operational certificate that
// would be let in if it had not expired, within the bounds.
func (s *Service) dark(ctx context.Context, c *x509.Certificate) (Identity, error) {
	d := s.cfg.Dark
	// 1. Everything that the gate asks, at the certificate's last moment.
	id, _, err := s.cfg.Gate.admit(ctx, c, c.NotAfter.Add(-time.Second))
	if err != nil {
		return Identity{}, err
	}
	// 2. The bounds.
	ago := s.now().Sub(c.NotAfter)
	if id.Profile != profile.LDevID || !slices.Contains(d.Profiles, profile.LDevID) || ago < 0 || ago > d.Within {
		return Identity{}, ErrDarkBounds.New("It ended at %s.", c.NotAfter.UTC().Format(time.RFC3339))
	}
	scope := access.Scope{Tenant: id.Tenant}
	if len(d.Groups) > 0 {
		t, err := s.cfg.Registry.Get(ctx, scope, id.Thing)
		if err != nil {
			return Identity{}, err
		}
		in := func(g string) bool {
			return slices.ContainsFunc(d.Groups, func(x string) bool { return strings.EqualFold(x, g) })
		}
		if !slices.ContainsFunc(t.Groups, in) {
			return Identity{}, ErrDarkBounds.New("Its thing is in no group that may.")
		}
	}
	// 3. The permanent record: lists and the set in memory forget what expired.
	if err := s.withdrawn(ctx, id.Tenant, id.Authority, id.Serial); err != nil {
		return Identity{}, err
	}
	// A certificate whose slot was filled again does not know how its holder's name
	// is written; one that fills it does.
	held, err := s.records(ctx, &id, profile.LDevID)
	if err != nil {
		return Identity{}, err
	}
	for i := range held {
		if held[i].State != "" {
			id.Holder = held[i].Shown
		}
	}
	id.dark = true
	return id, nil
}

func (s *Service) withdrawn(ctx context.Context, tenant, authority string, serial ca.Serial) error {
	reason, withdrawn, err := s.cfg.Dark.Store.Withdrawn(ctx, tenant, authority, serial)
	switch {
	case err != nil:
		return err
	case withdrawn && reason == crl.CertificateHold:
		return ErrHeld.New("")
	case withdrawn:
		return ErrRevoked.New("")
	}
	return nil
}

// reenter gives a dark device its new certificate, in quarantine.
func (s *Service) reenter(ctx context.Context, id *Identity, req *csr.Request, proven bool) (Registration, error) {
	d, scope := s.cfg.Dark, access.Scope{Tenant: id.Tenant}
	if !proven { // a key that proves itself later would be one more thing to wait for
		return Registration{}, ErrBinding.New("With an expired certificate the request must be bound.")
	}
	record, err := s.cfg.Records.RecordBySerial(ctx, id.Tenant, id.Authority, id.Serial)
	if err != nil {
		return Registration{}, err
	}
	unlock := s.lock(id.Tenant, record.Holder)
	defer unlock()
	if err := s.darkBirth(ctx, id); err != nil {
		return Registration{}, err
	}
	if err := s.darkNewest(ctx, id, req); err != nil {
		return Registration{}, err
	}
	// The policy is looked for before a certificate is made.
	if _, err := s.cfg.Registry.PolicyHead(ctx, scope, d.Policy); err != nil {
		return Registration{}, err
	}
	now := s.now().UTC().Truncate(time.Millisecond)
	err = d.Store.EnterDark(ctx, DarkEntry{Tenant: id.Tenant, Day: now.Unix() / 86400, Holder: record.Holder, Authority: id.Authority, Serial: id.Serial, SPKI: req.SPKIHash, Policy: d.Policy, At: now}, d.PerDay)
	if err != nil {
		return Registration{}, err
	}
	id.way = &way{tool: "dark-lane"}
	issued, err := s.issue(ctx, id, string(id.Thing), profile.Origin(record.Origin), req)
	if err != nil {
		return Registration{}, discreet(err)
	}
	thing, principal, err := s.cfg.Registry.ReEnter(ctx, scope, registry.CertificateID(id.Certificate.Raw),
		registry.Attachment{Authority: issued.Authority, Serial: issued.Serial, Status: fleet.Active}, d.Policy)
	if err != nil {
		return Registration{}, err
	}
	if !issued.Replayed {
		s.log.WarnContext(ctx, "device came back with an expired certificate, into quarantine", "holder", id.Holder, "thing", string(thing.Name), "expired", id.NotAfter, "old", id.Serial.String(), "serial", issued.Serial.String(), "policy", d.Policy)
	}
	return s.answer(ctx, issued, &thing, &principal)
}

// darkBirth asks for the birth certificate behind the device, if it has one: it
// must be good, and in force unless the lane says otherwise.
func (s *Service) darkBirth(ctx context.Context, id *Identity) error {
	all, err := s.births(ctx, id)
	if err != nil {
		return err
	}
	for i := range all {
		r := &all[i]
		if r.State == "" || r.DER == nil {
			continue // replaced, or never made
		}
		at := s.now()
		if slices.Contains(s.cfg.Dark.Profiles, profile.IDevID) && at.After(r.NotAfter) {
			at = r.NotAfter.Add(-time.Second)
		}
		if err := s.cfg.Gate.usable(ctx, r, at); err != nil {
			return noBirth(err)
		}
		if err := s.withdrawn(ctx, r.Tenant, r.Authority, r.Serial); err != nil {
			return noBirth(err)
		}
	}
	return nil
}

// darkNewest refuses a certificate that the device has replaced since: whoever
// comes with an older key may be somebody who found it. What the lane itself made
// of this very certificate does not count, so that a lost answer can be asked for again.
func (s *Service) darkNewest(ctx context.Context, id *Identity, req *csr.Request) error {
	held, err := s.records(ctx, id, profile.LDevID)
	if err != nil {
		return err
	}
	entries, err := s.cfg.Dark.Store.DarkEntries(ctx, access.Scope{Tenant: id.Tenant}, id.Holder)
	if err != nil {
		return err
	}
	for i := range held {
		r := &held[i]
		if r.DER == nil || r.Serial == id.Serial || !r.NotAfter.After(id.NotAfter) || r.SPKI == req.SPKIHash {
			continue
		}
		if !slices.ContainsFunc(entries, func(e DarkEntry) bool { return e.Serial == id.Serial && e.SPKI == r.SPKI }) {
			return ErrDarkNewer.New("")
		}
	}
	return nil
}

// quarantined refuses a certificate of the lane whose device nobody let out yet:
// a renewal would take it out by itself.
func (s *Service) quarantined(ctx context.Context, id *Identity) error {
	if id.How != registry.HowDarkLane {
		return nil
	}
	scope := access.Scope{Tenant: id.Tenant}
	attached, err := s.cfg.Registry.AttachedPolicies(ctx, scope, registry.CertificateTarget(registry.CertificateID(id.Certificate.Raw)), false)
	if err != nil {
		return err
	}
	if s.cfg.Dark == nil {
		return ErrDarkQuarantine.New("The lane is off now.")
	}
	entries, err := s.cfg.Dark.Store.DarkEntries(ctx, scope, id.Holder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if slices.ContainsFunc(attached, func(p string) bool { return strings.EqualFold(p, e.Policy) }) {
			return ErrDarkQuarantine.New("")
		}
	}
	return nil
}
