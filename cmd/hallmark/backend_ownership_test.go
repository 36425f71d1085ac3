package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/ca/tlog"
	"hallmark/crl"
	"hallmark/fleet/ownership"
	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
	"hallmark/web"
)

// TestOwnership_S36_ManyUnitsTakeASecondPerson: over the configured number a release is
// asked for; who approves it gets the code, and nobody else does.
func TestOwnership_S36_ManyUnitsTakeASecondPerson(t *testing.T) {
	n := newBench(t, func(c *Config) {
		c.OnePerson = false
		if err := c.Fleet.Ownership.complete(); err != nil {
			t.Fatal(err)
		}
		*c.Fleet.Ownership.TwoPeopleOver = 1
	})
	ctx, pat := t.Context(), n.plat()
	n.backend.ownership = ownership.New(ownership.Config{Store: n.db, Registry: n.reg, Revoker: crl.New(crl.Config{Store: n.db})})
	for _, u := range []string{"U-1", "U-2", "U-3"} {
		n.f.IssueIDevID(t, u)
	}
	// One may do it with one.
	one := ok[adminapi.OwnershipAct](t)(n.backend.ReleaseUnits(ctx, pat, adminapi.OwnershipRequest{Name: "one", Units: []string{"U-3"}}))
	if one.Code == "" || one.State != "open" || one.By != "pat" || one.ExpiresAt.Sub(one.At).Hours() != 168 {
		t.Fatalf("%+v", one)
	}
	if again := ok[adminapi.OwnershipAct](t)(n.backend.ReleaseUnits(ctx, pat, adminapi.OwnershipRequest{Name: "one", Units: []string{"U-3"}})); again.Code != "" {
		t.Error("the code is told twice")
	}
	// Nobody with two.
	two := adminapi.OwnershipRequest{Name: "two", Units: []string{"U-1", "U-2"}, Note: "sold"}
	_, err := n.backend.ReleaseUnits(ctx, pat, two)
	if !errors.Is(err, errSecondPerson) {
		t.Fatalf("%v", err)
	}
	if u := ok[adminapi.OwnershipUnit](t)(n.backend.OwnershipOf(ctx, n.scope, "U-1")); u.State != "owned" || len(u.History) > 0 || n.backend.ownership.Stats.Released.Load() != 0 {
		t.Fatalf("asking released it: %+v", u)
	}
	request := fault.From(err).Members["request"].(string)
	if _, err := n.approveRequest(t, pat, request); err == nil {
		t.Fatal("who asked approved it")
	}
	done := ok[adminapi.ApprovalRequest](t)(n.approveRequest(t, n.quinn(), request))
	if len(done.Plan.Items) != 1 || len(done.Plan.Items[0].Secret) < 32 {
		t.Fatalf("%+v", done)
	}
	code := done.Plan.Items[0].Secret
	a := ok[adminapi.OwnershipAct](t)(n.backend.OwnershipAct(ctx, n.scope, "two"))
	if a.State != "open" || a.Code != "" || a.By != "quinn" || a.Note != "sold" {
		t.Errorf("%+v", a)
	}
	if items, _, err := n.backend.OwnershipActs(ctx, n.stranger, web.Page{Limit: 10}); err != nil || len(items) > 0 {
		t.Errorf("another tenant sees %+v %v", items, err)
	}
	// Taken back, it is worth nothing.
	w := ok[adminapi.OwnershipAct](t)(n.backend.WithdrawRelease(ctx, pat, "two", adminapi.CampaignNote{Comment: "no"}))
	them := access.Actor{Tenant: "other", Kind: access.KindPrincipal, Name: "eve", Role: access.Platform}
	if _, err := n.backend.AcceptUnits(ctx, them, adminapi.OwnershipAcceptance{Code: code, Template: "x"}); w.State != "withdrawn" || !errors.Is(err, ownership.ErrCode) {
		t.Errorf("%+v, accepted: %v", w, err)
	}
	if u := ok[adminapi.OwnershipUnit](t)(n.backend.OwnershipOf(ctx, n.scope, "u-1")); u.State != "owned" || len(u.History) != 2 || u.Unit != "U-1" {
		t.Errorf("%+v", u)
	}
}

// TestOwnership_AStatementIsAboutItsTime: a certificate that had ended when the unit was
// taken out of use, on hold or by itself, could not be revoked any more and is none that
// the statement lacks; one that has ended since is named, and nothing is wrong with it.
func TestOwnership_AStatementIsAboutItsTime(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	began := time.Now()
	at := func(hours int) time.Time { return began.Add(time.Duration(hours) * time.Hour) }
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	n.tlog = ok[*tlog.Log](t)(tlog.New(tlog.Config{Store: n.db.Log(), Origin: "log.example.com", Key: key}))
	n.logs = ok[*logKeeper](t)(newLogKeeper(n.cfg, n.tlog, key, time.Now, slog.New(slog.DiscardHandler)))
	policy := tlog.Policy{Log: n.tlog.VerifierKey()}
	issue := func(p profile.Name, unit, slot string, end time.Time) ca.Issued {
		t.Helper()
		key := catest.NewKey(t)
		spki := ok[[]byte](t)(x509.MarshalPKIXPublicKey(key.Public()))
		return ok[ca.Issued](t)(n.f.CA.Issue(ctx, ca.Request{Identity: ca.Identity{Tenant: n.scope.Tenant, Holder: unit, Profile: string(p), Slot: slot}, Subject: profile.Subject{Organization: "Example", CommonName: unit, SerialNumber: unit},
			SPKI: spki, Key: key.Public(), Origin: profile.OriginClaimed, NotAfter: end, Requester: ca.Requester{Actor: "service:test"}, Tool: "test"}))
	}
	scrapped := func(unit string, when time.Time) adminapi.Envelope {
		t.Helper()
		clock := func() time.Time { return when }
		n.backend.now = clock
		n.backend.ownership = ownership.New(ownership.Config{Store: n.db, Registry: n.reg, Revoker: crl.New(crl.Config{Store: n.db, Now: clock}), Now: clock})
		ok[adminapi.OwnershipAct](t)(n.backend.DecommissionUnits(ctx, n.officer, adminapi.OwnershipRequest{Name: "scrap-" + unit, Units: []string{unit}}))
		ok[tlog.Checkpoint](t)(n.tlog.Integrate(ctx))
		return ok[adminapi.Envelope](t)(n.backend.DecommissionStatement(ctx, n.scope, unit))
	}
	words := func(d *disposal, now time.Time) string {
		var out bytes.Buffer
		d.ended(now).show(&out)
		return out.String()
	}

	// Its birth certificate had ended, and an operational one ended while it was on hold.
	birth, held := issue(profile.IDevID, "U-1", "", at(1)), issue(profile.LDevID, "U-1", "A", at(1))
	ok[crl.Result](t)(n.crl.Revoke(ctx, n.officer, crl.Withdrawal{Authority: catest.Device, Serial: held.Serial, Reason: crl.CertificateHold}))
	env := scrapped("U-1", at(2))
	d, _, err := verifyDisposal(env, policy)
	if err != nil {
		t.Fatalf("a unit whose certificates had ended: %v", err)
	}
	if said := words(d, at(3)); len(d.Certificates) != 2 || !strings.Contains(said, birth.Serial.String()) || !strings.Contains(said, held.Serial.String()) || !strings.Contains(said, "before the statement") || strings.Contains(said, "since") {
		t.Errorf("%+v\n%s", d.Certificates, said)
	}
	// What had not ended at the time of the statement has to be revoked; and the end of the
	// birth certificate is what the certificate says.
	for what, change := range map[string]func(d *disposal){
		"made while they were in force":  func(d *disposal) { d.MadeAt = at(0) },
		"made while the hold went on":    func(d *disposal) { d.Certificates[1].NotAfter = at(5) },
		"another end of the certificate": func(d *disposal) { d.Certificates[0].NotAfter = d.Certificates[0].NotAfter.Add(-time.Minute) },
		"a birth certificate by word":    func(d *disposal) { d.Certificates[0].Issuance = nil },
	} {
		var d disposal
		if err := strictjson.Decode(env.Payload, &d); err != nil {
			t.Fatal(err)
		}
		change(&d)
		_, _, err := verifyDisposal(ok[adminapi.Envelope](t)(n.logs.signStatement(disposalType, d)), policy)
		if !errors.Is(err, errDisposal) {
			t.Errorf("%s: %v", what, err)
		}
	}

	// Another was in force then, and has ended since.
	birth, held = issue(profile.IDevID, "U-2", "", at(4)), issue(profile.LDevID, "U-2", "A", at(4))
	if d, _, err = verifyDisposal(scrapped("U-2", at(2)), policy); err != nil {
		t.Fatal(err)
	}
	if said := words(d, at(3)); said != "" {
		t.Errorf("%s", said)
	}
	if said := words(d, at(5)); !strings.Contains(said, birth.Serial.String()) || !strings.Contains(said, held.Serial.String()) || !strings.Contains(said, "since") {
		t.Errorf("%s", said)
	}
}
