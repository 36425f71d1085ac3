package bootstrap

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/registry"
)

// eventGap is how long the event of a certificate is not repeated (S41). The
// reference cloud repeats it with every connection of a pending certificate; here
// it is published when the certificate is registered, and again by a connection
// at least an hour later, so that a back end that missed it hears of the device
// and one in a loop is not a flood.
const eventGap = time.Hour

// registeredEvent is the event's body.
type registeredEvent struct {
	CertificateID string `json:"certificateId"`
	CACertificate string `json:"caCertificateId"`
	Timestamp     int64  `json:"timestamp"` // milliseconds
	Status        string `json:"certificateStatus"`
	Account       string `json:"awsAccountId"`
	Registered    string `json:"certificateRegistrationTimestamp"`
}

// park registers a certificate to wait for somebody to activate it, and says so
// to the tenant's back end. Its answer is always a refusal.
func (d *Door) park(ctx context.Context, cert registry.Certificate, issuer *registry.RegisteredCA, now time.Time) error {
	cert.How = registry.HowJITR
	rec, err := d.keep(ctx, cert, issuer, now)
	if err != nil {
		return err
	}
	if rec.Status != fleet.PendingActivation {
		return ErrRegistered.New("") // somebody activated it just now
	}
	first, err := d.cfg.Grants.NoteEvent(ctx, rec.Tenant, rec.ID, now, eventGap)
	if err != nil {
		return err
	}
	if first {
		d.log.InfoContext(ctx, "certificate waits to be activated", "tenant", rec.Tenant, "ca", issuer.ID, "certificate", rec.ID)
		d.announce(ctx, &rec, issuer, now)
	}
	return ErrParked.New("")
}

func (d *Door) announce(ctx context.Context, rec *registry.Certificate, issuer *registry.RegisteredCA, now time.Time) {
	if d.cfg.Publisher == nil {
		return
	}
	account := d.cfg.Account
	if account == "" {
		account = rec.Tenant
	}
	body, err := json.Marshal(registeredEvent{CertificateID: rec.ID, CACertificate: issuer.ID, Timestamp: now.UnixMilli(), Status: string(rec.Status),
		Account: account, Registered: strconv.FormatInt(rec.RegisteredAt.UnixMilli(), 10)})
	if err == nil {
		err = d.cfg.Publisher.Publish(ctx, fleet.Message{Tenant: rec.Tenant, Topic: "$aws/events/certificates/registered/" + issuer.ID, Payload: body, QoS: 1})
	}
	if err != nil {
		d.log.ErrorContext(ctx, "event of a registered certificate not published", "certificate", rec.ID, "err", err)
	}
}
