package main

import (
	"crypto/x509"
	"encoding/pem"
	"slices"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/internal/fault"
	"hallmark/provisioner"
	"hallmark/station"
	"hallmark/station/uplink"
)

// TestStation_IsToldTheRootsOfItsTenantAndOfTheDoors_S14: a station of a tenant with a
// root of its own enrols and is let in at the doors, which are under another root; the
// root of a third tenant is none of its.
func TestStation_IsToldTheRootsOfItsTenantAndOfTheDoors_S14(t *testing.T) {
	s := newSite(t, "software", "", anyName(2))
	ctx, db := t.Context(), s.server.db
	theirs, strange := catest.New(t), catest.New(t)
	for name, f := range map[string]*catest.Fixture{"other": theirs, "third": strange} {
		err := db.CreateAuthority(ctx, ca.Authority{Name: "root-" + name, Tenant: name, Duty: profile.DutyRoot, State: ca.StateActive, BaseURL: s.cfg.BaseURL, Shards: 1, CreatedAt: time.Now(), Certificate: f.Root.Raw})
		if err != nil {
			t.Fatal(err)
		}
	}
	api := s.outsider(access.Platform)
	pending, err := api.CreateAuthorityWithResponse(ctx, adminapi.AuthorityRequest{Name: "infra-other", Duty: "infrastructure", CommonName: "Other Infrastructure CA", KeyUri: s.keyURI("infra-other")})
	made := got(t, pending.JSON201, pending.StatusCode(), pending.Body, err)
	block, _ := pem.Decode([]byte(made.Csr))
	csr := must(x509.ParseCertificateRequest(block.Bytes))
	all := must(db.Authorities(ctx))
	a := all[slices.IndexFunc(all, func(a ca.Authority) bool { return a.Name == "infra-other" })]
	a.State, a.Certificate = ca.StateActive, theirs.Certify(t, profile.DutyInfrastructure, "Other Infrastructure CA", csr.PublicKey).Raw
	if err := db.InstallAuthority(ctx, a); err != nil {
		t.Fatal(err)
	}
	if err := s.server.ca.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.server.authoritiesChanged(ctx); err != nil {
		t.Fatal(err)
	}

	root, _ := pem.Decode(s.rootPEM)
	doors := must(x509.ParseCertificate(root.Bytes))
	enrolled := func(api *adminapi.ClientWithResponses, name string, want ...*x509.Certificate) {
		t.Helper()
		code, err := api.CreateStationCodeWithResponse(ctx, adminapi.StationCodeRequest{Station: name, Site: "x"})
		text := got(t, code.JSON201, code.StatusCode(), code.Body, err).Code
		i, err := station.Enrol(ctx, station.EnrolConfig{Dir: s.path(name), Server: "https://" + s.door("enrol"), Code: text, Station: name, Factory: "https://" + s.door("factory"), Patience: -1})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(i.Roots()) != len(want) || slices.ContainsFunc(want, func(c *x509.Certificate) bool { return !slices.ContainsFunc(i.Roots(), c.Equal) }) {
			t.Errorf("%s is told %d roots, not the %d that are its", name, len(i.Roots()), len(want))
		}
		c, err := i.Client(ctx, uplink.Config{Patience: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err = c.Order(ctx, "no-such-order"); fault.From(err).Code != provisioner.ErrOrderUnknown.Code { // the doors know it, and it knows the doors
			t.Errorf("%s at the factory door: %v", name, err)
		}
	}
	enrolled(s.outsider(access.CMManager), "station-other", theirs.Root, doors)
	enrolled(s.api("ann"), "station-main", doors)
	s.clean()
}
