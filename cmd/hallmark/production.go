package main

import (
	"context"
	"net"
	"net/url"
	"path/filepath"
	"strings"

	"hallmark/ca"
	"hallmark/hsm"
	"hallmark/internal/clock"
	"hallmark/internal/fault"
)

var errProduction = fault.Define(fault.Forbidden, "production-refused", "Production mode refuses to start with conveniences of development.", "Correct everything that is listed, or take production out of the configuration.")

// refused is one fault that lists everything, nil if there is nothing.
func refused(list []string) error {
	if len(list) == 0 {
		return nil
	}
	return errProduction.New("(%d) %s.", len(list), strings.Join(list, "; ")).With("refused", list)
}

// conveniences lists what the program and its configuration show that production
// mode refuses (S44). It is empty outside production mode.
func (c *Config) conveniences() (list []string) {
	if !c.Production {
		return nil
	}
	add := func(what string) { list = append(list, what) }
	if clock.Test {
		add("this program was built with the tag testclock, so its clock can be moved (S38)")
	}
	if err := ca.ValidBaseURL(c.BaseURL, true); err != nil {
		add("base_url: " + strings.TrimSuffix(fault.From(err).Detail, "."))
	}
	if !lasting(c.ServerNames) {
		add("server_names: only this machine knows them; stations and devices need a name of the service")
	}
	if c.OnePerson {
		add("one_person: hooks, others' CAs and budgets take two people (S36)")
	}
	if len(c.Approvers) == 0 {
		add("approvers: empty, so nobody can approve an order (S32)")
	}
	if why := unprotected(c.Database); why != "" {
		add("database: " + why)
	}
	if list := c.Fabric.unprotected(); len(list) > 0 {
		add("fabric.servers: " + strings.Join(list, ", ") + " would be reached without TLS")
	}
	if c.Log.Key == "" && c.Log.SoftwareKey == "" {
		add("log.key: empty, so the key that signs checkpoints is in a file; name one in a token, or say under log.software_key why there is none (S34)")
	}
	if len(c.NTP) == 0 {
		add("ntp: empty, so nobody but this machine says what time it is (S38)")
	}
	if c.Fleet.JITP {
		add("fleet.jitp: whoever gets a certificate of a registered CA would be let in (S22)")
	}
	if c.Fleet.ServerKeys {
		add("fleet.server_keys: devices' keys would be made by the service and travel (S17)")
	}
	if c.Enrolment.EST.ServerKeys {
		add("enrolment.est.server_keys: devices' keys would be made by the service and travel (S17)")
	}
	if c.Enrolment.ACME.Enabled && c.Enrolment.ACME.OpenAccounts {
		add("enrolment.acme.open_accounts: whoever reaches the door could ask for certificates (S17)")
	}
	for _, m := range c.Tokens.Modules {
		if !filepath.IsAbs(m) {
			add("tokens.modules: " + m + " has no directory, so whatever is found first would be loaded")
		}
	}
	return list
}

// lasting tells whether a name is there that others can reach.
func lasting(names []string) bool {
	for _, n := range names {
		ip := net.ParseIP(n)
		if ip == nil && n != "localhost" || ip != nil && !ip.IsLoopback() && !ip.IsUnspecified() {
			return true
		}
	}
	return false
}

// unprotected says why the way to a database can be read or changed, or "".
func unprotected(database string) string {
	u, err := url.Parse(database)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return "" // a file
	}
	if _, ok := u.User.Password(); ok {
		return "the password stands in the configuration; use a passfile, a certificate or the socket"
	}
	host := u.Hostname()
	if h := u.Query().Get("host"); h != "" {
		host = h
	}
	ip := net.ParseIP(host)
	if host == "" || host == "localhost" || strings.HasPrefix(host, "/") || ip != nil && ip.IsLoopback() || u.Query().Get("sslmode") == "verify-full" {
		return ""
	}
	return host + " is reached without a verified certificate; add sslmode=verify-full"
}

// checkProduction lists, in production mode, everything that is refused: what
// the configuration shows and what the tokens say of the authorities' keys (A22).
func (s *Server) checkProduction(ctx context.Context) error {
	if !s.cfg.Production {
		return nil
	}
	list := s.cfg.conveniences()
	all, err := s.db.Authorities(ctx)
	if err != nil {
		return err
	}
	if c := s.cfg.Log.Key; c != "" {
		if err := s.checkKey(ctx, c); err != nil {
			f := fault.From(err)
			list = append(list, "log.key: "+f.What+" "+strings.TrimSuffix(f.Detail, "."))
		}
	}
	for _, a := range all {
		if err := ca.ValidBaseURL(a.BaseURL, true); err != nil {
			list = append(list, "authority "+a.Name+": "+strings.TrimSuffix(fault.From(err).Detail, "."))
		}
		if a.KeyURI == "" {
			continue // a root
		}
		if err := s.checkKey(ctx, a.KeyURI); err != nil {
			f := fault.From(err)
			list = append(list, "authority "+a.Name+": "+f.What+" "+strings.TrimSuffix(f.Detail, "."))
		}
	}
	return refused(list)
}

// checkKey refuses a CA key that could leave its token, or whose library the
// configuration does not allow.
func (s *Server) checkKey(ctx context.Context, uri string) error {
	u, err := hsm.ParseURI(uri)
	if err != nil {
		return err
	}
	if err := s.cfg.moduleAllowed(u.ModulePath); err != nil {
		return err
	}
	_, err = s.keys.CAKey(ctx, uri, s.cfg.exposedAllowed(uri))
	return err
}
