package bootstrap

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/keycheck"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
	"hallmark/internal/lane"
	"hallmark/provisioner"
)

// ClaimPlanner plans the registration of a claim; [provisioner.Planner] does.
type ClaimPlanner interface {
	PlanClaim(ctx context.Context, in provisioner.ClaimInput) (provisioner.Plan, error)
}

// Revoker holds, releases and revokes; [crl.Service] does, and joins the
// transaction of its context.
type Revoker interface {
	Revoke(ctx context.Context, by access.Actor, w crl.Withdrawal) (crl.Result, error)
	Release(ctx context.Context, by access.Actor, authority string, serial ca.Serial, text string) error
}

// ClaimsConfig makes Claims.
type ClaimsConfig struct {
	Issuer    Issuer
	Planner   ClaimPlanner
	Templates provisioner.FleetTemplateStore
	Registry  *registry.Registry
	Records   ca.Records
	Grants    Grants
	Revoker   Revoker
	// TokenKey authenticates ownership tokens, at least 32 octets; all nodes need
	// the same. nil draws one, which is good for one process.
	TokenKey []byte
	// ServerKeys switches CreateKeysAndCertificate on: the service makes keys for
	// devices, which is off by default (S17).
	ServerKeys bool
	// Organization stands in the subject of the certificates; may be empty.
	Organization string
	Keys         keycheck.Policy // of the issuer, asked before a budget is drawn on
	Log          *slog.Logger
	Now          func() time.Time
}

// claimLife is how long a certificate can be claimed, and its token is good.
const claimLife = time.Hour

// Claims is fleet provisioning: devices that hold a claim certificate get one of
// their own, and become things. It is safe for concurrent use.
type Claims struct {
	// Foreign counts requests from outside a claim's networks.
	Foreign atomic.Int64

	cfg    ClaimsConfig
	now    func() time.Time
	log    *slog.Logger
	tokens tokens
	seed   maphash.Seed
	locks  [64]sync.Mutex // by certificate: one hook call at a time for one token
}

// NewClaims makes Claims.
func NewClaims(cfg ClaimsConfig) (*Claims, error) {
	if len(cfg.TokenKey) == 0 {
		cfg.TokenKey = make([]byte, 32)
		rand.Read(cfg.TokenKey)
	}
	if len(cfg.TokenKey) < 32 {
		return nil, ErrClaimConfig.New("The token key has %d octets, at least 32 are needed.", len(cfg.TokenKey))
	}
	c := &Claims{cfg: cfg, now: cfg.Now, log: cfg.Log, tokens: newTokens(cfg.TokenKey), seed: maphash.MakeSeed()}
	if c.now == nil {
		c.now = time.Now
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Caller is who provisions: a claim certificate that a connection proved.
type Caller struct {
	Tenant      string
	Certificate string // id of the claim certificate
	Client      string // MQTT client identifier; empty over HTTPS
	Address     netip.Addr
}

// NewDevice is a certificate that waits to be claimed.
type NewDevice struct {
	CertificateID  string
	CertificatePEM string // the leaf alone
	PrivateKeyPEM  string // only if the service made the key; nobody else ever has it
	Token          string
}

// claimant is a claim certificate that is good now.
type claimant struct {
	scope  access.Scope
	cert   registry.Certificate
	budget Budget
}

// claim finds the claim certificate behind a request. Whatever else a
// certificate may do, without a budget it provisions nothing (A47).
func (c *Claims) claim(ctx context.Context, who Caller) (*claimant, error) {
	out := &claimant{scope: access.Scope{Tenant: who.Tenant}}
	var err error
	if out.cert, err = c.cfg.Registry.Certificate(ctx, out.scope, who.Certificate); err != nil {
		if errors.Is(err, registry.ErrCertificateUnknown) {
			err = ErrClaim.New("")
		}
		return nil, err
	}
	if out.cert.How != registry.HowClaimCert || !out.cert.Usable(c.now()) {
		return nil, ErrClaim.New("")
	}
	if out.budget, err = c.cfg.Grants.Budget(ctx, out.scope, ClaimBudget(out.cert.ID)); errors.Is(err, ErrBudgetUnknown) {
		err = ErrClaim.New("It has no budget.")
	}
	if err == nil && !out.budget.at(who.Address) {
		// Its key is in every device of the line: elsewhere it is a copy (A47).
		c.Foreign.Add(1)
		c.log.WarnContext(ctx, "claim certificate used outside its networks", "tenant", who.Tenant, "certificate", who.Certificate, "address", who.Address, "networks", out.budget.Networks)
		return nil, ErrClaimSite.New("%s is in none of them.", who.Address)
	}
	return out, err
}

// template finds the claim's template, which has to be enabled.
func (c *Claims) template(ctx context.Context, s access.Scope, name string) (provisioner.FleetTemplate, error) {
	t, err := c.cfg.Templates.FleetTemplate(ctx, s, name)
	if err == nil && !t.Enabled {
		err = provisioner.ErrFleetTemplate.New("")
	}
	return t, err
}

// CreateFromCSR makes a certificate for the key of a request. The same key over
// the same claim certificate gets the same certificate and token again.
func (c *Claims) CreateFromCSR(ctx context.Context, who Caller, request []byte) (NewDevice, error) {
	ctx = lane.With(ctx, lane.Claim)
	by, err := c.claim(ctx, who)
	if err != nil {
		return NewDevice{}, err
	}
	req, err := csr.Parse(request)
	if err != nil {
		return NewDevice{}, err
	}
	return c.create(ctx, by, req, profile.OriginClaimed)
}

// CreateKeys makes a key and its certificate. The key leaves in the answer and is
// kept nowhere; a lost answer costs a certificate of the budget.
func (c *Claims) CreateKeys(ctx context.Context, who Caller) (NewDevice, error) {
	ctx = lane.With(ctx, lane.Claim)
	by, err := c.claim(ctx, who)
	if err != nil {
		return NewDevice{}, err
	}
	if !c.cfg.ServerKeys {
		return NewDevice{}, ErrClaimKeys.New("")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return NewDevice{}, err
	}
	raw, err := csr.Create(key, "", "")
	if err != nil {
		return NewDevice{}, err
	}
	req, err := csr.Parse(raw)
	if err != nil {
		return NewDevice{}, err
	}
	out, err := c.create(ctx, by, req, profile.OriginServerMade)
	if err != nil {
		return NewDevice{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return NewDevice{}, err
	}
	out.PrivateKeyPEM = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	clear(der)
	return out, nil
}

// holderOf names the identity of a key whose device is not known yet.
func holderOf(spki [32]byte) string { return "claim-" + hex.EncodeToString(spki[:20]) }

// create makes the certificate. The order makes the promises true:
//
//  1. check: the key, before anything is counted.
//  2. grant: one transaction draws on the budget and writes down for what.
//  3. issue: a crash from here on leaves a grant that the sweep ends.
//  4. register: PENDING_ACTIVATION, on hold for everybody who asks (S17).
func (c *Claims) create(ctx context.Context, by *claimant, req *csr.Request, origin profile.Origin) (NewDevice, error) {
	tmpl, err := c.template(ctx, by.scope, by.budget.Template)
	if err != nil {
		return NewDevice{}, err
	}
	// 1. check
	if err := c.cfg.Keys.Check(req.PublicKey); err != nil {
		return NewDevice{}, err
	}
	// 2. grant
	g, err := c.grant(ctx, by, holderOf(req.SPKIHash), origin)
	if err != nil {
		return NewDevice{}, err
	}
	if g.Certificate == "" {
		if g, err = c.issue(ctx, by, &tmpl, g, req, origin); err != nil {
			return NewDevice{}, discreet(err)
		}
	}
	cert, err := c.cfg.Registry.Certificate(ctx, by.scope, g.Certificate)
	if err != nil {
		return NewDevice{}, err
	}
	return NewDevice{
		CertificateID: cert.ID, CertificatePEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.DER})),
		Token: c.tokens.make(by.scope.Tenant, by.cert.ID, cert.ID, g.ExpiresAt),
	}, nil
}

// grant draws on the budget, or finds what the same key was granted.
func (c *Claims) grant(ctx context.Context, by *claimant, holder string, origin profile.Origin) (g Grant, err error) {
	now := c.now().UTC().Truncate(time.Millisecond)
	err = retry(func() error {
		return c.cfg.Grants.Atomic(ctx, func(ctx context.Context) error {
			have, err := c.cfg.Grants.Grant(ctx, by.scope, holder)
			if err == nil {
				g = have
				if g.Budget != by.budget.Name || g.State == GrantVoid || !now.Before(g.ExpiresAt) {
					return ErrClaimSpent.New("")
				}
				return nil
			}
			if !errors.Is(err, ErrGrantUnknown) {
				return err
			}
			if err := drawOn(ctx, c.cfg.Grants, by.scope, by.budget.Name, now, false); err != nil {
				return err
			}
			g = Grant{Tenant: by.scope.Tenant, Holder: holder, Budget: by.budget.Name, State: GrantReserved, Origin: string(origin), CreatedAt: now, ExpiresAt: now.Add(claimLife), Version: 1}
			return c.cfg.Grants.PutGrant(ctx, g, 0)
		})
	})
	return g, err
}

// issue is the steps 3 and 4.
func (c *Claims) issue(ctx context.Context, by *claimant, tmpl *provisioner.FleetTemplate, g Grant, req *csr.Request, origin profile.Origin) (Grant, error) {
	issued, err := c.cfg.Issuer.Issue(ctx, c.request(by, tmpl, req, g.Holder, origin))
	if err == nil {
		return c.pend(ctx, by, g, issued)
	}
	if errors.Is(err, ca.ErrHolderRevoked) {
		// The same request, sent twice, may have put it on hold meanwhile.
		if have, gerr := c.cfg.Grants.Grant(ctx, by.scope, g.Holder); gerr == nil && have.Certificate != "" && have.State != GrantVoid {
			return have, nil
		}
	}
	c.refund(ctx, by, g, err)
	return g, err
}

func (c *Claims) request(by *claimant, tmpl *provisioner.FleetTemplate, req *csr.Request, holder string, origin profile.Origin) ca.Request {
	return ca.Request{
		Identity: ca.Identity{Tenant: by.scope.Tenant, Holder: holder, Profile: string(profile.LDevID), Slot: ca.TwoSlots[0]},
		Subject:  profile.Subject{Organization: c.cfg.Organization, CommonName: holder, SerialNumber: holder},
		SPKI:     req.SPKI, Key: req.PublicKey, Origin: origin, Authority: tmpl.Issuer,
		Requester: ca.Requester{Actor: "device:claim/" + by.cert.ID[:16], Authority: by.cert.Authority, Serial: by.cert.Serial},
		Tool:      "fleet-provisioning",
	}
}

// refund gives back what came to nothing for good. After trouble of our own the
// grant stays: the same key resumes it.
func (c *Claims) refund(ctx context.Context, by *claimant, g Grant, cause error) {
	if k := fault.KindOf(cause); k == fault.Unavailable || k == fault.Internal || k == fault.Exhausted || g.State != GrantReserved {
		return
	}
	err := retry(func() error {
		return c.cfg.Grants.Atomic(ctx, func(ctx context.Context) error {
			have, err := c.cfg.Grants.Grant(ctx, by.scope, g.Holder)
			if err != nil || have.State != GrantReserved {
				return err
			}
			b, err := c.cfg.Grants.Budget(ctx, by.scope, have.Budget)
			if err != nil {
				return err
			}
			was := b.Version
			b.back()
			b.Version++
			if err := c.cfg.Grants.PutBudget(ctx, b, was); err != nil {
				return err
			}
			was = have.Version
			have.State, have.Version = GrantVoid, was+1
			return c.cfg.Grants.PutGrant(ctx, have, was)
		})
	})
	if err != nil {
		c.log.ErrorContext(ctx, "a claim was not given back to its budget", "budget", g.Budget, "err", err)
	}
}

// sweeper is the service acting for itself.
func sweeper(tenant string) access.Actor {
	return access.Actor{Tenant: tenant, Kind: access.KindService, Name: "fleet-provisioning"}
}

// pend registers what was issued. Of concurrent calls for one key one does.
func (c *Claims) pend(ctx context.Context, by *claimant, g Grant, issued ca.Issued) (out Grant, err error) {
	parsed, err := x509.ParseCertificate(issued.DER)
	if err != nil {
		return g, err
	}
	cert := registry.NewCertificate(g.Tenant, parsed, registry.HowClaim, fleet.PendingActivation)
	cert.Authority, cert.Serial, cert.Holder = issued.Authority, issued.Serial, g.Holder
	err = retry(func() error {
		return c.cfg.Grants.Atomic(ctx, func(ctx context.Context) error {
			have, err := c.cfg.Grants.Grant(ctx, by.scope, g.Holder)
			if err != nil {
				return err
			}
			out = have
			switch have.State {
			case GrantVoid:
				return ErrClaimSpent.New("")
			case GrantPending, GrantClaimed:
				return nil
			}
			if _, err := c.cfg.Registry.PutCertificate(ctx, cert, true); err != nil {
				return err
			}
			was := have.Version
			out.Certificate, out.State, out.Version = cert.ID, GrantPending, was+1
			if err := c.cfg.Grants.PutGrant(ctx, out, was); err != nil {
				return err
			}
			_, err = c.cfg.Revoker.Revoke(ctx, sweeper(g.Tenant), crl.Withdrawal{Authority: issued.Authority, Serial: issued.Serial, Reason: crl.CertificateHold, Note: "waits to be claimed"})
			return err
		})
	})
	return out, err
}
