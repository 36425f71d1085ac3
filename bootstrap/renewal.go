package bootstrap

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net/http"
	"strconv"
	"time"

	"hallmark/access"
	"hallmark/api/deviceapi"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet/campaign"
	"hallmark/fleet/registry"
	"hallmark/fleet/rotation"
)

// Withdrawer revokes what nobody proved; [crl.Service] does.
type Withdrawer interface {
	Revoke(ctx context.Context, by access.Actor, w crl.Withdrawal) (crl.Result, error)
}

func windowOf(c *x509.Certificate) renewWindow {
	w := rotation.WindowOf(sha256.Sum256(c.Raw), c.NotBefore, c.NotAfter)
	return renewWindow{w.Start, w.End}
}

// HandleRenewal is GET /bootstrap/v1/renewal: when the certificate of the connection
// is to be renewed, and why then. The device asks again after Retry-After at the latest:
// the window moves when the authority is replaced or the certificate compromised.
func (s *Service) HandleRenewal(w http.ResponseWriter, r *http.Request) error {
	id, err := s.identify(r.Context(), facts(r))
	if err != nil {
		return err
	}
	advice := rotation.Advice{Window: rotation.WindowOf(sha256.Sum256(id.Certificate.Raw), id.Certificate.NotBefore, id.Certificate.NotAfter), Reason: campaign.Expiry}
	if s.cfg.Advise != nil && id.Profile == profile.LDevID {
		if advice, err = s.cfg.Advise(r.Context(), id.Tenant, id.Authority, id.Certificate); err != nil {
			return err
		}
	}
	w.Header().Set("Retry-After", strconv.Itoa(int(advice.Again(s.now())/time.Second)))
	return reply(w, deviceapi.RenewalWindow{Start: advice.Start, End: advice.End, Reason: string(advice.Reason), ExplanationURL: advice.Explanation})
}

// slot chooses where a new certificate goes. Unlike [ca.PickSlot] alone it never
// supersedes the certificate that asks: until the new one has connected, that one is
// what the device lives on.
func (s *Service) slot(id *Identity, held []ca.Record, now time.Time) (slot string, supersedes bool) {
	slot, supersedes = ca.PickSlot(ca.TwoSlots, held, now)
	if !supersedes {
		return slot, false
	}
	for i := range held {
		h := &held[i]
		if h.Slot == slot && h.State != "" && h.Authority == id.Authority && h.Serial == id.Serial {
			for _, other := range ca.TwoSlots {
				if other != slot {
					return other, true
				}
			}
		}
	}
	return slot, true
}

// clearHeld revokes what rotation put on hold, since it was never confirmed, and the
// device now replaces by another key: a hold would keep its slot for ever, and the
// device from every renewal. Anybody else's hold stays and refuses.
func (s *Service) clearHeld(ctx context.Context, id *Identity, held []ca.Record) (changed bool, err error) {
	by := rotation.Actor(id.Tenant)
	for i := range held {
		h := &held[i]
		if h.State == "" || !h.Revoked() || h.Reason != int(crl.CertificateHold) || h.RevokedBy != by.String() || s.cfg.Withdrawer == nil {
			continue
		}
		_, err := s.cfg.Withdrawer.Revoke(ctx, by, crl.Withdrawal{Authority: h.Authority, Serial: h.Serial, Reason: crl.Superseded, Note: "replaced by a new key; it was never confirmed"})
		if err != nil && !errors.Is(err, crl.ErrRevoked) {
			return changed, err
		}
		changed = true
	}
	return changed, nil
}

// tell says that a device got a certificate over another one.
func (s *Service) tell(ctx context.Context, id *Identity, issued *ca.Issued, thing *registry.Thing) {
	if s.cfg.Renewed == nil || issued.Replayed {
		return
	}
	over := "https"
	if id.way != nil {
		over = id.way.tool
	}
	s.cfg.Renewed(ctx, id.Tenant, thing.Name, registry.CertificateID(id.Certificate.Raw), registry.CertificateID(issued.DER), over)
}
