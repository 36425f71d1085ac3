package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/web/webtest"
)

func TestRegistrationCommands_ShowAndDo(t *testing.T) {
	c := newCLI(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	doc, pem, lines := file("p.json", ownTopics), file("c.pem", "PEM"), file("lamps.jsonl", "{K-1}\n{K-2}\n")
	body := file("t.json", fleetBody)
	broad := file("broad.json", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"}]}`)
	id, out := webtest.FleetID, func(name string) string { return filepath.Join(dir, name) }
	for _, x := range []struct {
		role  access.Role
		args  string
		code  int
		shows string
	}{
		{access.Auditor, "policy list", 0, webtest.Policy},
		{access.Auditor, "policy show " + webtest.Policy, 0, "1 (default), 2"},
		{access.Auditor, "policy show " + webtest.Policy + " --version 2 --document", 0, "2012-10-17"},
		{access.FleetOperator, "policy create p-9 " + doc, 0, "p-9"},
		{access.FleetOperator, "policy version " + webtest.Policy + " " + doc + " --default", 0, webtest.Policy},
		{access.FleetOperator, "policy default " + webtest.Policy + " 2", 0, webtest.Policy},
		{access.FleetOperator, "policy delete-version " + webtest.Policy + " 2", 0, webtest.Policy},
		{access.FleetOperator, "policy delete " + webtest.Policy, 0, "is deleted"},
		{access.FleetOperator, "policy attach " + webtest.Policy + " --certificate " + id, 0, "attached to the certificate"},
		{access.SecurityOfficer, "policy attach " + webtest.Policy + " --group lamps", 0, "attached to the group lamps"},
		{access.SecurityOfficer, "policy detach " + webtest.Policy + " --group lamps", 0, "detached from the group lamps"},
		{access.FleetOperator, "policy detach " + webtest.Policy + " --certificate " + id, 0, "detached from"},
		{access.Auditor, "policy targets " + webtest.Policy, 0, "lamps"},
		{access.Auditor, "policy attached --thing LMP-000001", 0, webtest.Policy},
		{access.Auditor, "policy attached --group lamps --inherited", 0, webtest.Policy},
		{access.Auditor, "policy check --thing LMP-000001 --action Publish --topic dt/LMP-000001/x --expect allowed", 0, "Allow by statement 0 (own) of " + webtest.Policy + " version 1, from the group lamps"},
		{access.Auditor, "fleet-cert list --status pending_activation", 0, id},
		{access.Auditor, "fleet-cert show " + id, 0, "lamp-7"},
		{access.FleetOperator, "fleet-cert activate " + id, 0, "ACTIVE"},
		{access.FleetOperator, "fleet-cert deactivate " + id + " --note lost", 0, "INACTIVE"},
		{access.SecurityOfficer, "fleet-cert revoke " + id + " --reason keyCompromise", 0, "REVOKED"},
		{access.FleetOperator, "fleet-cert register " + pem + " --active", 0, id},
		{access.Auditor, "registered-ca code", 0, "Y29kZSBvZi"},
		{access.Auditor, "registered-ca list", 0, "CN=Their CA"},
		{access.Auditor, "registered-ca show " + id, 0, "automatic registration"},
		{access.SecurityOfficer, "registered-ca register " + pem + " --verification " + pem + " --active --auto-registration", 0, "CN=Their CA"},
		{access.SecurityOfficer, "registered-ca register --authority devices-1", 0, "CN=Their CA"},
		{access.SecurityOfficer, "registered-ca deactivate " + id, 0, id},
		{access.SecurityOfficer, "registered-ca activate " + id, 0, id},
		{access.SecurityOfficer, "registered-ca auto-registration " + id + " off", 0, id},
		{access.SecurityOfficer, "registered-ca template " + id + " lamps", 0, id},
		{access.SecurityOfficer, "registered-ca template " + id + " --none", 0, id},
		{access.SecurityOfficer, "registered-ca budget " + id + " --most 10 --per-minute 5", 0, "0 of 10"},
		{access.SecurityOfficer, "registered-ca delete " + id, 0, "is forgotten"},
		{access.Auditor, "template list", 0, "There is no template"},
		{access.Auditor, "template show lamp --body", 0, "{}"},
		{access.Platform, "template put lamp " + body + " --kind fleet", 0, "is stored"},
		{access.Platform, "template enable lamps --hook erp", 0, "hallmark claim create"},
		{access.Platform, "template disable lamps", 0, "no"},
		{access.Auditor, "template check " + body + " --kind fleet", 0, "good template"},
		{access.Auditor, "claim list", 0, "12 of 1000"},
		{access.Auditor, "claim show " + id, 0, "claims-lamps"},
		{access.SecurityOfficer, "claim budget " + id + " --most 20", 0, "0 of 20"},
		{access.SecurityOfficer, "claim deactivate " + id, 0, "INACTIVE"},
		{access.SecurityOfficer, "claim create lamps --template lamps --most 10 --out " + out("a"), 0, "claim.key"},
		{access.FleetOperator, "claim user lamps --out " + out("b"), 0, "claim.key"},
		{access.FleetOperator, "bulk register " + lines + " --template lamps", 0, "registered"},
		// Refusals end with 1, mistakes with 2.
		{access.FleetOperator, "policy attach " + webtest.Policy + " --group lamps", 1, "action-forbidden"},
		{access.Auditor, "claim create lamps --template lamps --most 10 --out " + out("c"), 1, "action-forbidden"},
		{access.Auditor, "policy show none", 1, "next:"},
		{access.Auditor, "policy check --thing LMP-000001 --action Publish --topic x --expect denied", 1, "cli-policy-decision"},
		{access.Auditor, "fleet-cert show 5e", 1, "request-invalid"},
		{access.FleetOperator, "fleet-cert register " + pem + " --without-ca --key " + pem, 1, "device-certificate-invalid"},
		{access.Auditor, "template check " + doc + " --kind fleet", 1, "next:"},
		{access.Auditor, "policy lint " + broad, 1, "ALLOWS_BROAD_ACCESS"},
		{access.Auditor, "policy attached", 2, "--certificate"},
		{access.FleetOperator, "policy attach " + webtest.Policy, 2, "--certificate"},
		{access.FleetOperator, "policy default " + webtest.Policy + " x", 2, "not the number"},
		{access.Auditor, "policy check --thing a --file b --action Publish", 2, "--thing"},
		{access.Auditor, "policy check --thing a --action Publish --var x=y", 2, "--var"},
		{access.SecurityOfficer, "registered-ca register", 2, "--authority"},
		{access.SecurityOfficer, "registered-ca auto-registration " + id + " perhaps", 2, "neither on nor off"},
		{access.SecurityOfficer, "registered-ca template " + id, 2, "--none"},
		{access.SecurityOfficer, "claim create lamps --template lamps --most 10 --out " + out("a"), 2, "claim.pem already"},
		{access.SecurityOfficer, "claim create lamps --template lamps", 2, "required flag"},
		{access.Platform, "template put lamp " + body, 2, "required flag"},
		{access.Auditor, "template check " + body + " --kind other", 2, "--kind"},
	} {
		code, said, errOut := c.run(x.role, "", strings.Fields(x.args)...)
		if code != x.code || !strings.Contains(said+errOut, x.shows) {
			t.Errorf("%s: code %d\n%s%s", x.args, code, said, errOut)
		}
		if x.code != 0 || strings.HasPrefix(x.args, "claim create") || strings.HasPrefix(x.args, "claim user") {
			continue
		}
		if code, said, errOut = c.run(x.role, "", append(strings.Fields(x.args), "--json")...); code != 0 || !json.Valid([]byte(said)) {
			t.Errorf("%s --json: code %d\n%s%s", x.args, code, said, errOut)
		}
	}
}

// Without a service the same documents give the same decisions.
func TestPolicyCheck_OfFilesNeedsNoService(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"own.json": ownTopics, "quiet.json": notOwn, "bad.json": `{"Version":"2012-10-17"}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HALLMARK_SERVER", "")
	t.Setenv("HALLMARK_DIR", "")
	for _, x := range []struct {
		files, args string
		code        int
		shows       string
	}{
		{"own.json", "--action iot:Publish --topic own/L1/x --var iot:Connection.Thing.ThingName=L1 --expect allowed", 0, "statement 1 (own) of own.json"},
		{"own.json", "--action iot:Publish --topic own/L2/x --var iot:Connection.Thing.ThingName=L1 --expect denied", 0, "no statement allows it"},
		{"own.json", "--action iot:Publish --topic own/L1/x", 0, "iot:Connection.Thing.ThingName"},
		{"own.json quiet.json", "--action iot:Publish --resource arn:aws:iot:a:b:topic/own/L1/x --var iot:Connection.Thing.ThingName=L1", 0, "Deny by statement 0 (quiet) of quiet.json"},
		{"own.json", "--action iot:Publish --topic x --expect allowed", 1, "cli-policy-decision"},
		{"bad.json", "--action iot:Publish --topic x", 1, "policy-structure-invalid"},
		{"own.json", "--action iot:Nothing --topic x", 1, "policy-action-unknown"},
		{"own.json", "--action iot:Publish --topic x --var iot:Nothing=1", 1, "policy-variable-invalid"},
		{"own.json", "--action iot:Publish --topic x --var nothing", 2, "NAME=VALUE"},
		{"own.json", "--action iot:Publish --topic x --expect maybe", 2, "--expect"},
	} {
		args := []string{"policy", "check"}
		for _, f := range strings.Fields(x.files) {
			args = append(args, "--file", filepath.Join(dir, f))
		}
		var o, e strings.Builder
		if code := run(t.Context(), append(args, strings.Fields(x.args)...), strings.NewReader(""), &o, &e); code != x.code || !strings.Contains(o.String()+e.String(), x.shows) {
			t.Errorf("%s: %d\n%s%s", x.args, code, o.String(), e.String())
		}
	}
}
