package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"net/http"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/cmp"
	"hallmark/bootstrap/est"
	"hallmark/web"
)

// EnrolmentConfig says which standard protocols devices may enrol with. All are
// off unless they are switched on.
type EnrolmentConfig struct {
	// EST is RFC 7030, at the device door and at the enrol door.
	EST ESTConfig `yaml:"est"`
	// CMP is RFC 9810, at the public door.
	CMP CMPConfig `yaml:"cmp"`
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

// complete checks the rates.
func (c *EnrolmentConfig) complete() error {
	for _, r := range []struct {
		name string
		rate *int
	}{{"est", &c.EST.PerMinute}, {"cmp", &c.CMP.PerMinute}} {
		if *r.rate == 0 {
			*r.rate = 600
		}
		if *r.rate < 1 || *r.rate > 1_000_000 {
			return errConfig.New("enrolment.%s.per_minute: %d is not 1 to 1000000.", r.name, *r.rate)
		}
	}
	return nil
}

// enrolment is the protocols that are switched on; the others are nil.
type enrolment struct {
	passwords *bootstrap.Enroller // makes one-time passwords, whatever is on
	est       *est.Server
	cmp       *cmp.Server
}

func (s *Server) openEnrolment() {
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
	chain := []*x509.Certificate{c.leaf}
	for _, raw := range c.chain[1:] {
		x, err := x509.ParseCertificate(raw)
		if err != nil {
			return nil, nil, err
		}
		chain = append(chain, x)
	}
	return c.key, chain, nil
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
	return out
}

var _ web.Enrolment = enrolAPI{}
