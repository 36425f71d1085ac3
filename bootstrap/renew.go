package bootstrap

import (
	"context"
	"hash/maphash"

	"hallmark/access"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/fleet"
	"hallmark/fleet/registry"
)

// standalone tells whether an operational certificate stands on no birth
// certificate: its device got it by claim or in bulk, or renewed such a one.
func (i *Identity) standalone() bool {
	return i.Profile == profile.LDevID && (i.How == registry.HowClaim || i.How == registry.HowBulk || i.How == registry.HowRenewal || i.How == registry.HowDarkLane)
}

// renew gives a device without a birth certificate its next operational one, over
// the one that it has. The rules are those of every renewal (S15, S16, S17): the
// new key is bound to the connection or has to prove itself, at most two
// certificates are live and the older one is superseded, a day has its limit, and
// what was revoked or blocked renews nothing. No template runs again: thing and
// policies are those of the certificate that is renewed.
func (s *Service) renew(ctx context.Context, id *Identity, req *csr.Request, proven bool) (Registration, error) {
	scope := access.Scope{Tenant: id.Tenant}
	record, err := s.cfg.Records.RecordBySerial(ctx, id.Tenant, id.Authority, id.Serial)
	if err != nil {
		return Registration{}, err
	}
	unlock := s.lock(id.Tenant, record.Holder)
	defer unlock()
	issued, err := s.issue(ctx, id, string(id.Thing), profile.Origin(record.Origin), req)
	if err != nil {
		return Registration{}, discreet(err)
	}
	status := fleet.PendingActivation
	if proven {
		status = fleet.Active
	}
	how := registry.HowRenewal
	if !id.standalone() {
		how = id.How // its next one stands on the birth certificate too
	}
	thing, principal, err := s.cfg.Registry.Renew(ctx, scope, registry.CertificateID(id.Certificate.Raw),
		registry.Attachment{Authority: issued.Authority, Serial: issued.Serial, Status: status, How: how})
	if err != nil {
		return Registration{}, err
	}
	s.tell(ctx, id, &issued, &thing)
	if !issued.Replayed {
		s.log.InfoContext(ctx, "device renewed its certificate", "holder", id.Holder, "thing", string(thing.Name), "serial", issued.Serial.String(), "status", string(principal.Status))
	}
	return s.answer(ctx, issued, &thing, &principal)
}

// subject is that of an operational certificate: the thing, and the identity that
// it belongs to; or neither, if subjects are pseudonyms (S43).
func (s *Service) subject(id *Identity, thing string) profile.Subject {
	if s.cfg.Pseudonym != nil {
		name := s.cfg.Pseudonym(id.Tenant, id.Holder)
		return profile.Subject{CommonName: name, SerialNumber: name}
	}
	if len(thing) > maxCommonName {
		thing = id.Holder // of a claim; a birth certificate's template is refused for it
	}
	return profile.Subject{Organization: s.cfg.Organization, CommonName: thing, SerialNumber: id.Holder}
}

// maxCommonName is ub-common-name (RFC 5280, Appendix A.1).
const maxCommonName = 64

// lock holds up other registrations of one device in this process.
func (s *Service) lock(tenant, holder string) (unlock func()) {
	mu := &s.locks[maphash.String(s.seed, tenant+"\x00"+holder)%uint64(len(s.locks))]
	mu.Lock()
	return mu.Unlock
}
