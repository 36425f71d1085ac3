package bootstrap

import (
	"context"
	"errors"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet"
)

// Sweep ends the grants that nobody claimed in time: their certificates are
// revoked and never deleted (S17). A certificate that a person activated or gave
// to a thing meanwhile stays. It returns how many it ended; call it every minute.
func (c *Claims) Sweep(ctx context.Context) (n int, err error) {
	due, err := c.cfg.Grants.DueGrants(ctx, c.now(), 500)
	if err != nil {
		return 0, err
	}
	for i := range due { // one that cannot end does not keep the others (A3)
		ended, e := c.end(ctx, &due[i])
		err = errors.Join(err, e)
		if ended {
			n++
		}
	}
	return n, err
}

func (c *Claims) end(ctx context.Context, due *Grant) (ended bool, err error) {
	scope := access.Scope{Tenant: due.Tenant}
	records, err := c.cfg.Records.Records(ctx, ca.RecordQuery{Tenant: due.Tenant, Holder: due.Holder, Profile: string(profile.LDevID), Limit: 100})
	if err != nil {
		return false, err
	}
	err = retry(func() error {
		return c.cfg.Grants.Atomic(ctx, func(ctx context.Context) error {
			ended = false
			g, err := c.cfg.Grants.Grant(ctx, scope, due.Holder)
			if err != nil || g.State != GrantReserved && g.State != GrantPending {
				return err
			}
			kept := false
			if g.Certificate != "" {
				cert, err := c.cfg.Registry.Certificate(ctx, scope, g.Certificate)
				if err != nil {
					return err
				}
				things, err := c.cfg.Registry.CertificateThings(ctx, scope, g.Certificate)
				if err != nil {
					return err
				}
				kept = cert.Status != fleet.PendingActivation && cert.Status != fleet.Revoked || len(things) > 0
			}
			was := g.Version
			g.State, g.Version = GrantVoid, was+1
			if kept {
				g.State = GrantClaimed
			} else {
				for i := range records {
					w := crl.Withdrawal{Authority: records[i].Authority, Serial: records[i].Serial, Reason: crl.CessationOfOperation, Note: "not claimed in time"}
					if _, err := c.cfg.Revoker.Revoke(ctx, sweeper(g.Tenant), w); err != nil {
						return err
					}
				}
				ended = true
			}
			return c.cfg.Grants.PutGrant(ctx, g, was)
		})
	})
	return ended && err == nil, err
}
