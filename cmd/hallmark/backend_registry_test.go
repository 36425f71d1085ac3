package main

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	merkle "golang.org/x/mod/sumdb/tlog"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/ca/tlog"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
	"hallmark/provisioner"
	"hallmark/web"
)

func TestBackend_AProofOfTheLogVerifies(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	if s := ok[adminapi.LogState](t)(n.api.Log.LogState(ctx, n.scope)); s.Size != 0 || s.Checkpoint != "" {
		t.Errorf("empty log: %+v", s)
	}
	for i := range 5 {
		n.f.IssueIDevID(t, fmt.Sprintf("SN%d", i))
	}
	leaf, _ := n.f.IssueIDevID(t, "SN9")
	serial, _ := ca.SerialFromInt(leaf.SerialNumber)
	_, err := n.api.Log.Proof(ctx, n.scope, serial.String())
	wants(t, err, tlog.ErrPending)
	ok[tlog.Checkpoint](t)(n.tlog.Integrate(ctx))
	s := ok[adminapi.LogState](t)(n.api.Log.LogState(ctx, n.scope))
	p := ok[adminapi.LogProof](t)(n.api.Log.Proof(ctx, n.scope, serial.String()))
	c := ok[tlog.Checkpoint](t)(tlog.ParseCheckpoint([]byte(p.Checkpoint), n.tlog.VerifierKey()))
	var hashes []merkle.Hash
	for _, h := range p.Hashes {
		hashes = append(hashes, merkle.Hash(h))
	}
	if err := merkle.CheckRecord(hashes, p.Size, c.Root, p.Index, merkle.RecordHash(p.Leaf)); err != nil {
		t.Error(err)
	}
	if s.Size != 6 || p.Size != 6 || string(s.Root) != string(c.Root[:]) || s.Checkpoint != p.Checkpoint {
		t.Errorf("state %+v, proof of %d", s, p.Size)
	}
	_, err = n.api.Log.Proof(ctx, n.stranger, serial.String())
	if fault.KindOf(err) != fault.NotFound {
		t.Errorf("another tenant gets a proof: %v", err)
	}
}

func TestBackend_TemplatesHooksAndRegistrations(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	r := n.api.Registry
	const body = `{"Parameters":{"AWS::IoT::Certificate::SerialNumber":{"Type":"String"}},"Resources":{
		"thing":{"Type":"AWS::IoT::Thing","Properties":{"ThingName":{"Ref":"AWS::IoT::Certificate::SerialNumber"}}},
		"certificate":{"Type":"AWS::IoT::Certificate","Properties":{"CertificateId":{"Ref":"AWS::IoT::Certificate::Id"}}}}}`
	_, err := r.PutRegistration(ctx, n.officer, catest.Device, adminapi.RegistrationRequest{Template: "t1", Enabled: true})
	wants(t, err, provisioner.ErrRegistrationInvalid) // there is no such template
	if _, err := r.PutTemplate(ctx, n.officer, "t1", adminapi.TemplateRequest{Body: `{"Resources":{}}`}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a template without a thing: %v", err)
	}
	if v := ok[adminapi.Template](t)(r.PutTemplate(ctx, n.officer, "t1", adminapi.TemplateRequest{Body: body})); v.Body != body || v.Kind != provisioner.FirstBootTemplate || v.UpdatedAt.IsZero() {
		t.Errorf("%+v", v)
	}
	if l := ok[[]adminapi.Template](t)(r.Templates(ctx, n.scope)); len(l) != 1 || l[0].Body != "" {
		t.Errorf("%+v", l)
	}

	first := ok[adminapi.Hook](t)(r.PutHook(ctx, n.officer, "h1", adminapi.HookRequest{Url: "https://hook.example.com/x", Allow: []string{"10.1.2.3", "10.2.255.0/16"}}))
	key, err := base64.StdEncoding.DecodeString(first.Secret)
	if err != nil || len(key) != hookKeySize || len(first.KeyIds) != 1 || fmt.Sprint(first.Allow) != "[10.1.2.3/32 10.2.0.0/16]" {
		t.Errorf("%+v", first)
	}
	same := ok[adminapi.Hook](t)(r.PutHook(ctx, n.officer, "h1", adminapi.HookRequest{Url: "https://hook.example.com/y"}))
	if same.Secret != "" || !slices.Equal(same.KeyIds, first.KeyIds) || len(same.Allow) != 0 {
		t.Errorf("changed: %+v", same)
	}
	second := ok[adminapi.Hook](t)(r.PutHook(ctx, n.officer, "h1", adminapi.HookRequest{Url: "https://hook.example.com/y", Rotate: true}))
	third := ok[adminapi.Hook](t)(r.PutHook(ctx, n.officer, "h1", adminapi.HookRequest{Url: "https://hook.example.com/y", Rotate: true}))
	if second.Secret == "" || second.Secret == first.Secret || len(third.KeyIds) != 2 || third.KeyIds[1] != second.KeyIds[0] || third.KeyIds[0] == second.KeyIds[0] {
		t.Errorf("rotated: %+v, %+v", second.KeyIds, third.KeyIds)
	}
	if l := ok[[]adminapi.Hook](t)(r.Hooks(ctx, n.scope)); len(l) != 1 || l[0].Secret != "" {
		t.Errorf("%+v", l)
	}
	_, err = r.PutHook(ctx, n.officer, "h2", adminapi.HookRequest{Url: "https://hook.example.com/x", Allow: []string{"everywhere"}})
	wants(t, err, web.ErrInput)

	_, err = r.PutRegistration(ctx, n.officer, catest.Device, adminapi.RegistrationRequest{Template: "t1", TakeOver: true}) // S22: nobody would decide
	wants(t, err, provisioner.ErrRegistrationInvalid)
	v := ok[adminapi.RegistrationRule](t)(r.PutRegistration(ctx, n.officer, catest.Device, adminapi.RegistrationRequest{Template: "t1", Hook: "h1", TakeOver: true, Enabled: true}))
	if v.Authority != catest.Device || v.Template != "t1" || v.Hook != "h1" || !v.Enabled || !v.TakeOver {
		t.Errorf("%+v", v)
	}
	_, err = r.PutRegistration(ctx, n.officer, catest.Infra, adminapi.RegistrationRequest{Template: "t1", Enabled: true})
	wants(t, err, ca.ErrNoAuthority)
	_, err = r.PutRegistration(ctx, access.Actor{Tenant: "other", Kind: access.KindPrincipal, Name: "eve"}, catest.Device, adminapi.RegistrationRequest{Template: "t1", Enabled: true}) // S23
	wants(t, err, ca.ErrAuthorityUnknown)
	if l := ok[[]adminapi.RegistrationRule](t)(r.Registrations(ctx, n.stranger)); len(l) != 0 {
		t.Errorf("another tenant sees %+v", l)
	}

	leaf, _ := n.f.Issue(t, profile.LDevID, "SN1", "A", profile.Names{})
	serial, _ := ca.SerialFromInt(leaf.SerialNumber)
	if err := n.registerThing(ctx, "SN1", serial); err != nil {
		t.Fatal(err)
	}
	found, next, err := r.Things(ctx, n.scope, "site", "no", web.Page{Limit: 10})
	if err != nil || next != "" || len(found) != 1 || found[0].Attributes["site"] != "north" || found[0].Principals[0].Serial != serial.String() {
		t.Errorf("%+v, %q, %v", found, next, err)
	}
	if th := ok[adminapi.Thing](t)(r.Thing(ctx, n.scope, "pump-2")); th.Version != 1 || th.RegisteredBy != catest.Device {
		t.Errorf("%+v", th)
	}
	_, err = r.Thing(ctx, n.stranger, "pump-2")
	wants(t, err, registry.ErrThingUnknown)
}

func TestBackend_TheSummaryCountsAndNamesWhatIsWrong(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	n.open(t, "Lot", 3)
	n.unit(t, "Lot", "Lot-001")
	born := n.unit(t, "Lot", "Lot-002")
	ok[adminapi.Revocation](t)(n.api.Trust.RevokeCertificate(ctx, n.officer, born.Serial.String(), adminapi.RevokeRequest{Reason: "superseded"}))
	v := ok[adminapi.Summary](t)(n.api.Health.Summary(ctx, n.scope))
	if v.OrdersOpen != 1 || v.UnitsOrdered != 3 || v.UnitsUsed != 2 || v.Stations != 1 || v.Certificates != 3 || v.Revoked != 1 || v.Things != 0 || v.LogSize != 4 {
		t.Errorf("%+v", v)
	}
	check := func(name string) adminapi.HealthCheck {
		t.Helper()
		v := ok[adminapi.Summary](t)(n.api.Health.Summary(ctx, n.scope))
		i := slices.IndexFunc(v.Checks, func(c adminapi.HealthCheck) bool { return c.Name == name })
		if i < 0 {
			t.Fatalf("no check %q in %+v", name, v.Checks)
		}
		return v.Checks[i]
	}
	if c := check("authority " + catest.Device); c.Status != "ok" {
		t.Errorf("%+v", c)
	}
	if c := check("lists of " + catest.Root); c.Status != "warning" || c.Next == "" { // an offline root's list has to be brought
		t.Errorf("%+v", c)
	}
	if v.Status != "warning" {
		t.Errorf("status %s", v.Status)
	}
	// A pending authority, and time that passes (A9).
	n.certs = &certifier{ca: n.f.CA, db: n.f.DB, vault: vault{dir: t.TempDir(), box: n.f.Box}, now: time.Now, have: map[string]*serviceCert{}}
	ok[*serviceCert](t)(n.certs.get(ctx, "doors", serverRequest(access.DefaultTenant, []string{"localhost"})))
	ok[*serviceCert](t)(n.certs.get(ctx, "ocsp-"+catest.Device, responderRequest(ok[ca.Info](t)(n.f.CA.Authority(catest.Device)))))
	ok[adminapi.Authority](t)(n.api.Authorities.CreateAuthority(ctx, n.officer, adminapi.AuthorityRequest{Name: "line-9", Duty: "device", KeyUri: keyFile(t, "line"), CommonName: "Line 9"}))
	if c := check("authority line-9"); c.Status != "warning" {
		t.Errorf("%+v", c)
	}
	for _, c := range []struct {
		after        time.Duration
		name, status string
	}{
		{6 * 24 * time.Hour, "lists of " + catest.Infra, "warning"},
		{8 * 24 * time.Hour, "lists of " + catest.Infra, "failing"},
		{8 * 24 * time.Hour, "authority " + catest.Infra, "ok"},
		{time.Until(n.f.Infra.NotAfter) - 91*24*time.Hour, "authority " + catest.Infra, "ok"},
		{time.Until(n.f.Infra.NotAfter) - 89*24*time.Hour, "authority " + catest.Infra, "warning 90"},
		{time.Until(n.f.Infra.NotAfter) - 29*24*time.Hour, "authority " + catest.Infra, "warning 30"},
		{time.Until(n.f.Infra.NotAfter) - 6*24*time.Hour, "authority " + catest.Infra, "failing 7"},
		{7 * time.Hour, "certificate doors", "ok"},
		{69 * 24 * time.Hour, "certificate doors", "warning"},
		{91 * 24 * time.Hour, "certificate doors", "failing"},
		{11 * 24 * time.Hour, "certificate ocsp-" + catest.Device, "warning"},
		{15 * 24 * time.Hour, "certificate ocsp-" + catest.Device, "failing"},
		{time.Until(n.f.Infra.NotAfter) + 24*time.Hour, "authority " + catest.Infra, "failing"},
		{time.Until(n.f.Infra.NotAfter) + 24*time.Hour, "duty infrastructure", "warning"},
	} {
		n.now = func() time.Time { return time.Now().Add(c.after) }
		status, days, _ := strings.Cut(c.status, " ")
		if got := check(c.name); got.Status != status || days != "" && !strings.Contains(got.Detail, "less than "+days+" days") {
			t.Errorf("after %s: %+v, want %s", c.after, got, c.status)
		}
	}
}
