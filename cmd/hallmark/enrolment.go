package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"net/http"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/acme"
	"hallmark/bootstrap/cmp"
	"hallmark/bootstrap/est"
	"hallmark/bootstrap/scep"
	"hallmark/web"
)

// EnrolmentConfig says which standard protocols devices may enrol with. All are
// off unless they are switched on.
type EnrolmentConfig struct {
	// EST is RFC 7030, at the device door and at the enrol door.
	EST ESTConfig `yaml:"est"`
	// CMP is RFC 9810, at the public door.
	CMP CMPConfig `yaml:"cmp"`
	// SCEP is RFC 8894, at the public door.
	SCEP SCEPConfig `yaml:"scep"`
	// ACME is RFC 8555, at the enrol door.
	ACME ACMEConfig `yaml:"acme"`
}

// ESTConfig configures EST.
type ESTConfig struct {
	Enabled   bool `yaml:"enabled"`
	PerMinute int  `yaml:"per_minute"` // enrolments on this node; default 600
	// RequireBinding refuses a CSR that does not carry its connection's channel
	// binding; csrattrs says so.
	RequireBinding bool `yaml:"require_binding"`
	// ServerKeys switches serverkeygen on (S17). Production mode refuses it.
	ServerKeys bool `yaml:"server_keys"`
}

// CMPConfig configures CMP.
type CMPConfig struct {
	Enabled   bool `yaml:"enabled"`
	PerMinute int  `yaml:"per_minute"` // enrolments and revocations on this node; default 600
}

// SCEPConfig configures SCEP.
type SCEPConfig struct {
	Enabled   bool `yaml:"enabled"`
	PerMinute int  `yaml:"per_minute"` // enrolments on this node; default 600
	// Hook names a stored hook that vouches for challenges which are no one-time
	// passwords of ours; empty refuses them.
	Hook string `yaml:"hook"`
}

// complete checks the rates, and what ACME takes for a proof; own are the names of
// the service.
func (c *EnrolmentConfig) complete(dir string, own []string) error {
	for _, r := range []struct {
		name string
		rate *int
	}{{"est", &c.EST.PerMinute}, {"cmp", &c.CMP.PerMinute}, {"scep", &c.SCEP.PerMinute}, {"acme", &c.ACME.PerMinute}} {
		if *r.rate == 0 {
			*r.rate = 600
		}
		if *r.rate < 1 || *r.rate > 1_000_000 {
			return errConfig.New("enrolment.%s.per_minute: %d is not 1 to 1000000.", r.name, *r.rate)
		}
	}
	return c.ACME.complete(dir, own)
}

// enrolment is the protocols that are switched on; the others are nil.
type enrolment struct {
	passwords *bootstrap.Enroller // makes one-time passwords, whatever is on
	est       *est.Server
	cmp       *cmp.Server
	scep      *scep.Server
	acme      *acme.Server
}

func (s *Server) openEnrolment() (err error) {
	base := bootstrap.EnrollerConfig{Service: s.boot, Units: s.prov, Passwords: s.db, Revoker: s.crl, Log: s.log, Now: s.now,
		Secret: func(id string) []byte { return s.box.MAC("enrol-password", []byte(id)) }}
	with := func(r bootstrap.Rules) *bootstrap.Enroller {
		c := base
		c.Rules = r
		return bootstrap.NewEnroller(c)
	}
	s.enrolment.passwords = with(bootstrap.Rules{Protocol: "password"})
	if c := s.cfg.Enrolment.EST; c.Enabled {
		rules := bootstrap.Rules{Protocol: "est", PerMinute: c.PerMinute, RequireProof: c.RequireBinding, ServerKeys: c.ServerKeys}
		s.enrolment.est = est.New(est.Config{Enroller: with(rules), Tenant: access.DefaultTenant, Log: s.log})
	}
	if c := s.cfg.Enrolment.CMP; c.Enabled {
		s.enrolment.cmp = cmp.New(cmp.Config{Enroller: with(bootstrap.Rules{Protocol: "cmp", PerMinute: c.PerMinute}), Tenant: access.DefaultTenant,
			Key: s.messageKey, NonceKey: s.box.MAC("cmp-nonce"), Log: s.log, Now: s.now})
	}
	if c := s.cfg.Enrolment.SCEP; c.Enabled {
		s.enrolment.scep = s.newSCEP(with(bootstrap.Rules{Protocol: "scep", PerMinute: c.PerMinute}))
	}
	if c := &s.cfg.Enrolment.ACME; c.Enabled {
		s.enrolment.acme, err = s.newACME(c, with(bootstrap.Rules{Protocol: "acme", PerMinute: c.PerMinute}))
	}
	return err
}

// messageKey signs what the service says outside TLS: it is that of the doors.
func (s *Server) messageKey(ctx context.Context) (crypto.Signer, []*x509.Certificate, error) {
	if !s.tls.Load().ready {
		return nil, nil, errNoInfra.New("")
	}
	c, err := s.certs.get(ctx, "doors", serverRequest(access.DefaultTenant, s.cfg.ServerNames))
	if err != nil {
		return nil, nil, err
	}
	chain, err := c.certificates()
	return c.key, chain, err
}

// mountEST puts EST on a door, if it is switched on.
func (s *Server) mountEST(mux *http.ServeMux, door est.Door) {
	if s.enrolment.est != nil {
		mux.Handle(est.Prefix, s.enrolment.est.Handler(door))
	}
}

// messages is what the public door has of protocols whose messages prove
// themselves; nil without any.
func (s *Server) messages() map[string]http.Handler {
	out := map[string]http.Handler{}
	if s.enrolment.cmp != nil {
		out[cmp.Prefix], out[cmp.Prefix+"/"] = s.enrolment.cmp, s.enrolment.cmp
	}
	if s.enrolment.scep != nil {
		out[scep.Prefix], out[scep.Prefix+"/"] = s.enrolment.scep, s.enrolment.scep
	}
	return out
}

var _ web.Enrolment = enrolAPI{}
