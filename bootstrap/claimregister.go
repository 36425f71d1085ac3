package bootstrap

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash/maphash"
	"maps"
	"slices"
	"time"

	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/internal/lane"
	"hallmark/provisioner"
)

// Claimed is a device that was registered.
type Claimed struct {
	Thing         string            `json:"thingName" cbor:"thingName"`
	Configuration map[string]string `json:"deviceConfiguration" cbor:"deviceConfiguration"`
}

// RegisterThing makes a thing of the device whose certificate the token is for,
// and activates the certificate. A token is used once; the identical request over
// the same claim certificate gets the answer again. The order:
//
//  1. token, before anything else is looked at.
//  2. plan: hook and template, outside of any transaction (S20).
//  3. claim: grant, thing, policies, certificate in one transaction.
func (c *Claims) RegisterThing(ctx context.Context, who Caller, name, token string, parameters map[string]string) (out Claimed, err error) {
	ctx = lane.With(ctx, lane.Claim)
	by, err := c.claim(ctx, who)
	if err != nil {
		return out, err
	}
	if by.budget.Template != name {
		return out, ErrClaim.New("It is for another template.")
	}
	// 1. token
	id, err := c.tokens.check(token, who.Tenant, who.Certificate, c.now())
	if err != nil {
		return out, err
	}
	mu := &c.locks[maphash.String(c.seed, id)%uint64(len(c.locks))]
	mu.Lock()
	defer mu.Unlock()
	request := requestHash(name, token, parameters)
	g, done, err := c.open(ctx, by, id, request, &out)
	if err != nil || done {
		return out, err
	}
	tmpl, err := c.template(ctx, by.scope, name)
	if err != nil {
		return out, err
	}
	cert, err := c.cfg.Registry.Certificate(ctx, by.scope, id)
	if err != nil {
		return out, err
	}
	parsed, err := x509.ParseCertificate(cert.DER)
	if err != nil {
		return out, err
	}
	// 2. plan
	plan, err := c.cfg.Planner.PlanClaim(ctx, provisioner.ClaimInput{Tenant: who.Tenant, Template: tmpl, Certificate: parsed, ClaimID: who.Certificate, ClientID: who.Client, Parameters: parameters})
	if err != nil {
		return out, err
	}
	// 3. claim
	reg := registrationFrom(who.Tenant, ClaimedBy(name), g.Holder, &plan)
	status := fleet.Active
	if !plan.Active {
		status = fleet.Inactive
	}
	err = retry(func() error {
		return c.cfg.Grants.Atomic(ctx, func(ctx context.Context) error {
			// The claim certificate again, inside: it may have been revoked
			// while the hook thought.
			claim, err := c.cfg.Registry.Certificate(ctx, by.scope, by.cert.ID)
			if err != nil {
				return err
			}
			if !claim.Usable(c.now()) {
				return ErrClaim.New("")
			}
			g, done, err := c.open(ctx, by, id, request, &out)
			if err != nil || done {
				return err
			}
			if err := c.cfg.Revoker.Release(ctx, sweeper(who.Tenant), cert.Authority, cert.Serial, "claimed"); err != nil {
				if errors.Is(err, crl.ErrNotHeld) {
					err = ErrClaimToken.New("Its certificate was revoked.")
				}
				return err
			}
			thing, p, err := c.cfg.Registry.Register(ctx, reg, registry.Attachment{Certificate: id, Status: status})
			if err != nil {
				return err
			}
			if p.Status != status {
				return ErrClaimToken.New("Its certificate is %s.", p.Status)
			}
			out = Claimed{Thing: string(thing.Name), Configuration: thing.Configuration}
			if out.Configuration == nil {
				out.Configuration = map[string]string{}
			}
			result, err := json.Marshal(out)
			if err != nil {
				return err
			}
			was := g.Version
			g.State, g.Request, g.Result, g.Version = GrantClaimed, request, string(result), was+1
			return c.cfg.Grants.PutGrant(ctx, g, was)
		})
	})
	if err != nil {
		return Claimed{}, discreet(err)
	}
	c.log.InfoContext(ctx, "device registered by claim", "tenant", who.Tenant, "template", name, "claim", who.Certificate, "certificate", id, "thing", out.Thing)
	return out, nil
}

// ClaimedBy is what registers the things of a fleet template.
func ClaimedBy(template string) string { return "claim:" + template }

// open finds the grant of a token's certificate while it can be claimed, or the
// answer that the same request got before.
func (c *Claims) open(ctx context.Context, by *claimant, id, request string, out *Claimed) (g Grant, done bool, err error) {
	*out = Claimed{}
	g, err = c.cfg.Grants.GrantByCertificate(ctx, by.scope, id)
	switch {
	case errors.Is(err, ErrGrantUnknown):
		return g, false, ErrClaimToken.New("")
	case err != nil:
		return g, false, err
	case g.Budget != by.budget.Name:
		return g, false, ErrClaimToken.New("")
	case g.State == GrantClaimed && g.Request == request && g.Result != "":
		return g, true, json.Unmarshal([]byte(g.Result), out)
	case g.State != GrantPending:
		return g, false, ErrClaimToken.New("It was used.")
	case !c.now().Before(g.ExpiresAt):
		return g, false, ErrClaimToken.New("It ended at %s.", g.ExpiresAt.Format(time.RFC3339))
	}
	return g, false, nil
}

// requestHash is what makes two requests identical.
func requestHash(template, token string, parameters map[string]string) string {
	h := sha256.New()
	all := []string{template, token}
	for _, k := range slices.Sorted(maps.Keys(parameters)) {
		all = append(all, k, parameters[k])
	}
	text, err := json.Marshal(all)
	if err != nil {
		return ""
	}
	h.Write(text)
	return hex.EncodeToString(h.Sum(nil))
}
