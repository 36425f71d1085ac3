package main

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/hsm"
	"hallmark/provisioner"
	"hallmark/web"
	"hallmark/web/webtest"
)

// cli is the command line against the real door over TLS.
type cli struct {
	*webtest.Service
	t    *testing.T
	args []string
}

func newCLI(t *testing.T) *cli {
	t.Helper()
	s := webtest.New(t, nil)
	s.Fake.Fill(t)
	h, err := web.NewPeople(web.PeopleConfig{Backend: s.Backend(), Access: s.Access, Trail: s.Fake, Cursors: web.NewCursors(nil)})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &cli{s, t, []string{"--server", srv.URL, "--ca-file", ca}}
}

func (c *cli) run(role access.Role, input string, args ...string) (code int, out, errOut string) {
	c.t.Setenv("HALLMARK_TOKEN", c.Tokens[webtest.Tenant][role])
	var o, e bytes.Buffer
	code = run(c.t.Context(), append(args, c.args...), strings.NewReader(input), &o, &e)
	return code, o.String(), e.String()
}

func TestAdminCommands_ShowAndDo(t *testing.T) {
	c := newCLI(t)
	for _, x := range []struct {
		role  access.Role
		args  string
		code  int
		shows string
	}{
		{access.CMManager, "order list", 0, webtest.OpenOrder},
		{access.CMManager, "order list --state draft", 0, webtest.Draft},
		{access.CMManager, "order list --limit 2", 0, "there are more"},
		{access.CMManager, "order show " + webtest.OpenOrder, 0, "1237 of 5000"},
		{access.CMManager, "order units " + webtest.OpenOrder + " --limit 0", 0, "LMP-000060"},
		{access.CMManager, "order open " + webtest.Draft, 0, "Order " + webtest.Draft},
		{access.CMManager, "order close " + webtest.OpenOrder, 0, "Order " + webtest.OpenOrder},
		{access.CMManager, "order create --id PO-9 --product lamp --quantity 5 --prefix L --first 1 --last 5 --width 3 --key-origin claimed --until 2027-01-31", 0, "hallmark order approve PO-9"},
		{access.Auditor, "cert list --status revoked", 0, webtest.Serial(2)},
		{access.Auditor, "cert search lmp-00000", 0, webtest.Serial(9)},
		{access.Auditor, "cert show " + webtest.Serial(2), 0, "privilegeWithdrawn"},
		{access.Auditor, "cert show " + webtest.Serial(1) + " --pem", 0, "-----BEGIN CERTIFICATE-----"},
		{access.SecurityOfficer, "cert revoke " + webtest.Serial(3) + " --reason superseded --allow-reenrol=false", 0, "Revoked: " + webtest.Serial(3)},
		{access.Auditor, "device show " + webtest.Unit, 0, "installed"},
		{access.SecurityOfficer, "device revoke " + webtest.Unit + " --reason keyCompromise --note x", 0, "is blocked"},
		{access.Platform, "principal list", 0, "a-auditor"},
		{access.Platform, "principal create ci --role auditor --days 3", 0, "hmk_"},
		{access.Platform, "principal disable ci", 0, "ci is disabled"},
		{access.CMManager, "station-code create --station st-9 --site here", 0, "HMK1-TEST"},
		{access.CMManager, "enrol password create --unit LMP-9 --profile ldevid", 0, "test-password"},
		{access.CMManager, "enrol password create --unit LMP-9 --profile ldevid --json", 0, `"reference": "a2b3c4d5e6f7g8h9"`},
		{access.SecurityOfficer, "enrol acme-key create --profile ldevid --name LMP-9", 0, "test-secret"},
		{access.SecurityOfficer, "enrol acme-key list", 0, webtest.Unit},
		{access.SecurityOfficer, "enrol acme-key revoke a2b3c4d5e6f7g8h9", 0, "is revoked"},
		{access.CMManager, "stations list", 0, webtest.Station},
		{access.CMManager, "stations revoke " + webtest.Station + " --note stolen", 0, "Station " + webtest.Station},
		{access.FleetOperator, "thing list --attribute model --value LMP", 0, webtest.Unit},
		{access.FleetOperator, "thing show " + webtest.Unit, 0, "attribute"},
		{access.Auditor, "crl list", 0, "devices-1"},
		{access.Auditor, "crl show devices-1", 0, "covers log up to"},
		{access.Auditor, "crl destinations", 0, "disk full"},
		{access.Auditor, "crl imports", 0, "maker"},
		{access.SecurityOfficer, "crl publish --ca devices-1", 0, "devices-1"},
		{access.Auditor, "crl publish --ca devices-1", 1, "action-forbidden"},
		// Refusals say what to do next and end with 1, mistakes with 2.
		{access.Auditor, "order open " + webtest.Draft, 1, "action-forbidden"},
		{access.CMManager, "order show none", 1, "next:"},
		{access.CMManager, "order list --state nonsense", 1, "request-invalid"},
		{"nobody", "order list", 1, "cli-no-server"},
		{access.CMManager, "order show", 2, "accepts 1 arg"},
		{access.CMManager, "order create --id PO-9", 2, "required flag"},
		{access.CMManager, "order create --id PO-9 --product l --quantity 1 --key-origin claimed --until tomorrow", 2, "is not a time"},
		{access.FleetOperator, "thing list --value x", 2, "--attribute"},
	} {
		code, out, errOut := c.run(x.role, "", strings.Fields(x.args)...)
		if code != x.code || !strings.Contains(out+errOut, x.shows) {
			t.Errorf("%s: code %d\n%s%s", x.args, code, out, errOut)
		}
		if x.code != 0 || strings.Contains(x.args, "--pem") {
			continue
		}
		if strings.HasPrefix(x.args, "principal create") || strings.HasPrefix(x.args, "principal disable") {
			continue // not twice
		}
		code, out, errOut = c.run(x.role, "", append(strings.Fields(x.args), "--json")...)
		if code != 0 || !json.Valid([]byte(out)) {
			t.Errorf("%s --json: code %d\n%s%s", x.args, code, out, errOut)
		}
	}
}

// S32: what an approver signs is the canonical body, and the service's verifier
// takes the signature of every kind of key.
func TestOrderApprove_SignsTheCanonicalBody(t *testing.T) {
	c := newCLI(t)
	body := provisioner.Body{ID: webtest.Draft, Tenant: "main", Product: "lamp", Quantity: 3, Serials: provisioner.SerialRule{List: []string{"A", "B", "C"}}, KeyOrigin: "claimed", CreatedBy: "wei"}
	canonical, err := body.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	for i := range c.Fake.Order_ {
		if c.Fake.Order_[i].Id == webtest.Draft {
			c.Fake.Order_[i].Body = canonical
		}
	}
	keys := hsm.Open(hsm.Config{})
	t.Cleanup(func() { keys.Close() })
	newKey := func(a hsm.Algorithm) (string, crypto.Signer) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "pass"), []byte("correct horse battery"), 0o600); err != nil {
			t.Fatal(err)
		}
		uri := "file:" + filepath.Join(dir, "key.pem") + "?passphrase-source=file:" + filepath.Join(dir, "pass")
		key, err := keys.Generate(t.Context(), uri, hsm.Spec{Algorithm: a})
		if err != nil {
			t.Fatal(err)
		}
		return uri, key
	}
	annaURI, anna := newKey(hsm.P256)
	boURI, bo := newKey(hsm.P384)

	if code, _, errOut := c.run(access.SecurityOfficer, "no\n", "order", "approve", webtest.Draft, "--key", annaURI); code != 1 || !strings.Contains(errOut, "cli-not-confirmed") || len(c.Fake.Approved.Signatures) != 0 {
		t.Fatalf("without a yes: %d %s", code, errOut)
	}
	half := filepath.Join(t.TempDir(), "half.json")
	if code, _, errOut := c.run(access.SecurityOfficer, "yes\n", "order", "approve", webtest.Draft, "--key", annaURI, "--out", half); code != 0 || len(c.Fake.Approved.Signatures) != 0 || !strings.Contains(errOut, `"quantity": 3`) {
		t.Fatalf("the first: %d %s", code, errOut)
	}
	if code, out, errOut := c.run(access.SecurityOfficer, "", "order", "approve", webtest.Draft, "--key", boURI, "--in", half, "--yes"); code != 0 {
		t.Fatalf("the second: %d %s %s", code, out, errOut)
	}
	verifier, err := provisioner.NewOrders([]provisioner.Approver{{Name: "anna", Key: anna.Public()}, {Name: "bo", Key: bo.Public()}}, 2)
	if err != nil {
		t.Fatal(err)
	}
	e := provisioner.Envelope{PayloadType: c.Fake.Approved.PayloadType, Payload: base64.StdEncoding.EncodeToString(c.Fake.Approved.Payload)}
	for _, s := range c.Fake.Approved.Signatures {
		e.Signatures = append(e.Signatures, provisioner.Signature{KeyID: s.Keyid, Sig: base64.StdEncoding.EncodeToString(s.Sig)})
	}
	raw, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := verifier.Verify(raw); err != nil || got.ID != webtest.Draft || got.Quantity != 3 {
		t.Errorf("%+v %v", got, err)
	}
	if code, _, errOut := c.run(access.SecurityOfficer, "", "order", "approve", webtest.OpenOrder, "--key", annaURI, "--yes"); code == 0 {
		t.Errorf("a body that is no order is signed: %s", errOut)
	}
	if err := os.WriteFile(half, []byte(`{"payloadType":"application/vnd.hallmark.order+json","payload":"e30=","signatures":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errOut := c.run(access.SecurityOfficer, "", "order", "approve", webtest.Draft, "--key", annaURI, "--in", half, "--yes"); code != 1 || !strings.Contains(errOut, "cli-envelope-other") {
		t.Errorf("signatures of another order are added: %s", errOut)
	}
}

// A55: what a device is called does not drive the terminal.
func TestTable_ShowsControlCharactersAsMarks(t *testing.T) {
	var b bytes.Buffer
	table(&b, []string{"A", "B"}, [][]string{{"x\x1b[31m", "y\u202ez"}}, "")
	if strings.ContainsAny(b.String(), "\x1b\u202e") {
		t.Errorf("%q", b.String())
	}
}
