package main

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/bootstrap"
	"hallmark/bootstrap/acme"
	"hallmark/bootstrap/acme/state"
	"hallmark/ca/profile"
)

// ACMEConfig configures ACME.
type ACMEConfig struct {
	Enabled   bool `yaml:"enabled"`
	PerMinute int  `yaml:"per_minute"` // accounts, orders and revocations on this node; default 600
	// OpenAccounts lets anybody make an account, without a key from hallmark enrol
	// acme-key: a proof of the device, or of the name, is then all. Production mode
	// refuses it.
	OpenAccounts bool `yaml:"open_accounts"`
	// Attestation names, by format (step, tpm, apple), the PEM file of the roots that
	// vouch for devices; a format without one is off.
	Attestation map[string]string `yaml:"attestation"`
	// Sites are the servers that may prove their names.
	Sites ACMESites `yaml:"sites"`

	roots map[string]*x509.CertPool
	sites *acme.Sites
}

// ACMESites says which names servers may prove, and where they may be.
type ACMESites struct {
	Domains  []string `yaml:"domains"`  // names below them; empty switches http-01 and dns-01 off
	Networks []string `yaml:"networks"` // that http-01 may dial; empty means none
	Resolver string   `yaml:"resolver"` // ADDRESS:PORT of the DNS server of the sites; empty means this machine's
}

// complete reads the roots and checks the names.
func (c *ACMEConfig) complete(dir string, own []string) error {
	if !c.Enabled {
		return nil
	}
	c.roots = map[string]*x509.CertPool{}
	for format, file := range c.Attestation {
		if !slices.Contains(acme.Formats, format) {
			return errConfig.New("enrolment.acme.attestation: %.20q is none of %s.", format, strings.Join(acme.Formats, ", "))
		}
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, file)
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			return errConfig.Wrap(err, "enrolment.acme.attestation.%s: the file cannot be read.", format)
		}
		c.roots[format] = x509.NewCertPool()
		if !c.roots[format].AppendCertsFromPEM(raw) {
			return errConfig.New("enrolment.acme.attestation.%s: the file has no certificate.", format)
		}
	}
	if len(c.Sites.Domains) == 0 {
		if len(c.Attestation) == 0 {
			return errConfig.New("enrolment.acme: with neither attestation nor sites.domains nobody can prove anything.")
		}
		return nil
	}
	t := &acme.Sites{Suffixes: c.Sites.Domains}
	for _, text := range c.Sites.Networks {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return errConfig.Wrap(err, "enrolment.acme.sites.networks: %.60q is no prefix such as 10.1.0.0/16.", text)
		}
		t.Networks = append(t.Networks, p)
	}
	if r := c.Sites.Resolver; r != "" {
		if _, err := netip.ParseAddrPort(r); err != nil {
			return errConfig.Wrap(err, "enrolment.acme.sites.resolver: %.60q is not ADDRESS:PORT.", r)
		}
		t.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: 5 * time.Second}
			return d.DialContext(ctx, network, r)
		}}
	}
	if err := t.Check(); err != nil {
		return err
	}
	// Who proves a name of ours would be us to the stations (S18).
	for _, n := range own {
		if t.Allows(strings.ToLower(n)) {
			return errConfig.New("enrolment.acme.sites.domains: %s is a name of this service.", n)
		}
	}
	c.sites = t
	return nil
}

func (s *Server) newACME(c *ACMEConfig, e *bootstrap.Enroller) (*acme.Server, error) {
	return acme.New(acme.Config{Enroller: e, Store: s.db.Acme(), Tenant: access.DefaultTenant, Hosts: s.cfg.ServerNames, External: !c.OpenAccounts,
		Attestation: c.roots, Sites: c.sites, Log: s.log, Now: s.now})
}

// mountACME puts ACME on the enrol door, if it is switched on.
func (s *Server) mountACME(mux *http.ServeMux) {
	if s.enrolment.acme != nil {
		mux.Handle(acme.Prefix, s.enrolment.acme.Handler())
	}
}

// AcmeKeys implements [web.Enrolment].
func (b enrolAPI) AcmeKeys(ctx context.Context, s access.Scope) (out []adminapi.AcmeKey, err error) {
	if b.acme == nil {
		return nil, acme.ErrOff.New("")
	}
	keys, err := b.acme.Keys(ctx, s.Tenant)
	for i := range keys {
		out = append(out, b.acmeKey(&keys[i]))
	}
	return out, err
}

// CreateAcmeKey implements [web.Enrolment].
func (b enrolAPI) CreateAcmeKey(ctx context.Context, by access.Actor, r adminapi.AcmeKeyRequest) (adminapi.AcmeKey, error) {
	if b.acme == nil {
		return adminapi.AcmeKey{}, acme.ErrOff.New("")
	}
	k, secret, err := b.acme.CreateKey(ctx, by, acme.KeyRequest{Profile: profile.Name(r.Profile), Order: r.Order, Names: r.Names, Life: time.Duration(r.Hours) * time.Hour})
	if err != nil {
		return adminapi.AcmeKey{}, err
	}
	out := b.acmeKey(&k)
	out.Secret = secret.Reveal()
	return out, nil
}

// RevokeAcmeKey implements [web.Enrolment].
func (b enrolAPI) RevokeAcmeKey(ctx context.Context, by access.Actor, id string) (adminapi.AcmeKey, error) {
	if b.acme == nil {
		return adminapi.AcmeKey{}, acme.ErrOff.New("")
	}
	k, err := b.acme.RevokeKey(ctx, by, id)
	return b.acmeKey(&k), err
}

func (b enrolAPI) acmeKey(k *state.Key) adminapi.AcmeKey {
	out := adminapi.AcmeKey{Id: k.ID, Profile: string(k.Profile), Order: k.Order, CreatedBy: k.CreatedBy, CreatedAt: k.CreatedAt, ExpiresAt: k.ExpiresAt, Account: k.Account, State: "open"}
	switch {
	case !k.RevokedAt.IsZero():
		out.State = "revoked"
	case k.Account != "":
		out.State = "bound"
	case !b.now().Before(k.ExpiresAt):
		out.State = "expired"
	}
	for _, n := range k.Names {
		text := n.Identifier
		if n.Unit != "" {
			text += "=" + n.Unit
		}
		out.Names = append(out.Names, text)
	}
	return out
}
