package main

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/ceremony"
	"hallmark/ca/profile"
	"hallmark/device"
	"hallmark/device/mqtt"
	"hallmark/hsm"
)

// neighbour gives the tenant "other" an issuing authority under the same root, and a
// way to register what it accepts.
func (s *site) neighbour(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	api := s.outsider(access.Platform)
	pending, err := api.CreateAuthorityWithResponse(ctx, adminapi.AuthorityRequest{Name: "device-other", Duty: "device", CommonName: "Other Device CA", KeyUri: s.keyURI("device-other")})
	csr := got(t, pending.JSON201, pending.StatusCode(), pending.Body, err).Csr
	ring := hsm.Open(hsm.Config{})
	defer ring.Close()
	step, err := ceremony.New(ceremony.Config{Keys: ring, Previous: s.newestTranscript(), Development: true})
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.server.db.Authorities(ctx)
	if err != nil {
		t.Fatal(err)
	}
	named := func(name string) ca.Authority {
		return all[slices.IndexFunc(all, func(a ca.Authority) bool { return a.Name == name })]
	}
	root, a := named("root-1"), named("device-other")
	signed, err := step.SignIntermediate(ctx, ceremony.SignRequest{RootCert: root.Certificate, KeyURI: s.keyURI("root"), CSR: []byte(csr), Name: "device-other", Duty: profile.DutyDevice,
		Subject: profile.Subject{Organization: "Other", CommonName: "Other Device CA"}, RootName: "root-1", BaseURL: s.cfg.BaseURL})
	if err != nil {
		t.Fatal(err)
	}
	// The root is of the tenant that runs the service; whoever runs it installs this.
	a.State, a.Certificate = ca.StateActive, signed.CertificateDER
	if err := s.server.db.InstallAuthority(ctx, a); err != nil {
		t.Fatal(err)
	}
	if err := s.server.ca.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.server.authoritiesChanged(ctx); err != nil {
		t.Fatal(err)
	}
	made, err := api.PutTemplateWithResponse(ctx, "accepted", adminapi.TemplateRequest{Body: `{
  "Parameters": {"AWS::IoT::Certificate::SerialNumber": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}},
  "Resources": {
    "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Fn::Join": ["-", ["NEW", {"Ref": "AWS::IoT::Certificate::SerialNumber"}]]}, "AttributePayload": {"owner": "other"}}},
    "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"}},
    "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": {"Version": "2012-10-17", "Statement": [
      {"Effect": "Allow", "Action": "iot:Connect", "Resource": "arn:aws:iot:*:*:client/${iot:Connection.Thing.ThingName}"},
      {"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/new/${iot:Connection.Thing.ThingName}"}]}}}},
  "DeviceConfiguration": {"owner": "other"}}`})
	got(t, made.JSON200, made.StatusCode(), made.Body, err)
}

// TestOwnership_ADeviceIsSoldAndScrapped_S25_S43: on the real service a device goes from
// one tenant to another, whose people end it, with proof that verifies offline.
func TestOwnership_ADeviceIsSoldAndScrapped_S25_S43(t *testing.T) {
	w := newFleetSite(t, "O-1", "O-2")
	w.neighbour(t)
	ctx, dir := t.Context(), w.path("devices", "O-1")
	boot := func() (device.Result, error) {
		return device.FirstBoot(ctx, device.Config{Dir: dir, Server: "https://" + w.door("device"), Roots: w.roots})
	}
	conn, err := w.connect("O-1", "O-1", mqtt.V5, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	old := w.pair("O-1")
	birth := loadPair(t, filepath.Join(dir, "idevid.pem"), filepath.Join(dir, "idevid.key"))

	// Released: off the broker, and refused at both doors.
	done := said[[]adminapi.OwnershipAct](w, "owner", "release", "sale-1", "--thing", "O-1", "--to", "other", "--note", "contract 7")
	if len(done) != 1 || done[0].Code == "" {
		t.Fatalf("%+v", done)
	}
	eventually(t, "the session ends", func() bool {
		select {
		case <-conn.Done():
			return true
		default:
			return false
		}
	})
	if c, err := w.dialWith(old, "O-1", mqtt.V5); err == nil {
		c.Close()
		t.Error("the old certificate is let in")
	}
	for want, cert := range map[string]*tls.Certificate{"403 device-revoked": &old, "503 device-released": &birth} {
		r, err := call(ctx, w.client(cert, 1), http.MethodGet, "https://"+w.door("device")+"/bootstrap/v1/whoami", nil)
		if err != nil || r.String() != want {
			t.Errorf("%s %v, want %s", r, err, want)
		}
	}
	said[map[string]any](w, "device-agent", "reset", dir, "--yes")
	if _, err := boot(); err == nil || !strings.Contains(err.Error(), "agent-later") {
		t.Errorf("a first boot before the acceptance: %v", err)
	}

	// Accepted: it boots there, by their template, and lives there.
	theirs := w.outsider(access.SecurityOfficer)
	taken, err := theirs.AcceptUnitsWithResponse(ctx, adminapi.OwnershipAcceptance{Code: done[0].Code, Template: "accepted", Groups: []string{"bought"}})
	got(t, taken.JSON200, taken.StatusCode(), taken.Body, err)
	if r, err := boot(); err != nil || r.Thing != "NEW-O-1" {
		t.Fatalf("%+v %v", r, err)
	}
	conn, err = w.connect("O-1", "NEW-O-1", mqtt.V5, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Publish(ctx, mqtt.Message{Topic: "new/NEW-O-1", Payload: []byte("1"), QoS: 1}); err != nil {
		t.Errorf("its new policy: %v", err)
	}
	conn.Close()
	thing, err := theirs.GetThingWithResponse(ctx, "NEW-O-1")
	if v := got(t, thing.JSON200, thing.StatusCode(), thing.Body, err); v.Attributes["owner"] != "other" || strings.Join(v.Groups, " ") != "bought" {
		t.Errorf("%+v", v)
	}

	// Each has its own history.
	ours := said[adminapi.OwnershipUnit](w, "owner", "show", "O-1")
	if ours.State != "elsewhere" || len(ours.History) != 2 || len(ours.History[0].Archive) != 1 || ours.History[0].Archive[0].Attributes["serial"] != "O-1" || ours.Birth.Serial != "" {
		t.Errorf("%+v", ours)
	}
	if out := w.plain("owner", "history", "O-1"); !strings.Contains(out, "contract 7") || !strings.Contains(out, "serial=O-1") || strings.Contains(out, "other") {
		t.Errorf("%s", out)
	}
	seen, err := theirs.GetOwnershipWithResponse(ctx, "O-1")
	if v := got(t, seen.JSON200, seen.StatusCode(), seen.Body, err); v.State != "owned" || v.Home != "main" || v.Birth.Authority != "device-1" || len(v.History) != 1 || strings.Contains(string(seen.Body), "contract 7") {
		t.Errorf("%s", seen.Body)
	}

	// Scrapped by its owner: nobody else may; the proof holds, and holds for nothing else.
	w.refusedBy("ownership-state", "owner", "reset", "back-1", "--unit", "O-1")
	ended, err := theirs.DecommissionUnitsWithResponse(ctx, adminapi.OwnershipRequest{Name: "scrap-1", Units: []string{"O-1"}, Note: "shredded"})
	got(t, ended.JSON201, ended.StatusCode(), ended.Body, err)
	if _, err := boot(); err == nil {
		t.Error("it boots again")
	}
	var env adminapi.Envelope
	eventually(t, "the checkpoint", func() bool {
		a, err := theirs.GetDecommissionStatementWithResponse(ctx, "O-1")
		if err != nil {
			t.Fatal(err)
		}
		if a.JSON200 == nil && a.StatusCode() != http.StatusServiceUnavailable {
			t.Fatalf("%d %s", a.StatusCode(), a.Body)
		}
		if a.JSON200 != nil {
			env = *a.JSON200
		}
		return a.JSON200 != nil
	})
	key, err := os.ReadFile(w.path("state", "log.pub"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "o-1.json")
	verify := func(e adminapi.Envelope) (out, errOut string, exit int) {
		b, err := json.Marshal(e)
		if err == nil {
			err = os.WriteFile(file, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return w.cli("owner", "verify", file, "--log-key", strings.TrimSpace(string(key)))
	}
	out, errOut, exit := verify(env)
	if exit != exitOK || !strings.Contains(out, `"profile": "idevid"`) || !strings.Contains(out, `"profile": "ldevid"`) || !strings.Contains(out, "shredded") {
		t.Errorf("exit %d %s %s", exit, out, errOut)
	}
	for what, altered := range map[string]adminapi.Envelope{
		"another unit": {PayloadType: env.PayloadType, Payload: []byte(strings.ReplaceAll(string(env.Payload), "O-1", "O-2")), Signatures: env.Signatures},
		"another type": {PayloadType: reportType, Payload: env.Payload, Signatures: env.Signatures},
		"unsigned":     {PayloadType: env.PayloadType, Payload: env.Payload, Signatures: []adminapi.EnvelopeSignature{{Keyid: "ab", Sig: make([]byte, 64)}}},
	} {
		if _, errOut, exit := verify(altered); exit != exitFault || !strings.Contains(errOut, "decommission-statement-invalid") {
			t.Errorf("%s: exit %d %s", what, exit, errOut)
		}
	}
	w.clean()
}
