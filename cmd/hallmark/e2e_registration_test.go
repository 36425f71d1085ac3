package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/bootstrap"
	"hallmark/ca/catest"
	"hallmark/ca/csr"
	"hallmark/device/mqtt"
	"hallmark/provisioner"
)

// stranger is a person of another tenant with every right of a role there.
func (s *site) stranger(role access.Role) *adminapi.ClientWithResponses {
	s.t.Helper()
	auth := access.NewAuthenticator(access.Config{Store: s.server.db})
	maker := access.Actor{Tenant: "other", Kind: access.KindPrincipal, Name: "maker", Role: access.Platform}
	_, token, err := auth.Create(s.t.Context(), maker, "eve-"+string(role), role, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := adminClient("https://"+s.door("people"), token.Reveal(), s.path("state", "ca.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// got gives the good answer of a call of the client, or fails.
func got[T any](t *testing.T, v *T, status int, body []byte, err error) *T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if v == nil {
		t.Fatalf("%d %s", status, body)
	}
	return v
}

// refusedWith fails unless the body is a problem with that code.
func refusedWith(t *testing.T, what, code string, body []byte, err error) {
	t.Helper()
	var p struct{ Code string }
	if err != nil || json.Unmarshal(body, &p) != nil || p.Code != code {
		t.Errorf("%s: want %s, got %s %v", what, code, body, err)
	}
}

// theirCA is a CA that somebody brings along.
type theirCA struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  string
}

func pemCert(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func newTheirCA(t *testing.T, name string) *theirCA {
	t.Helper()
	key := catest.NewKey(t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &theirCA{t, key, c, pemCert(der)}
}

// sign makes an end-entity certificate.
func (c *theirCA) sign(name string) tls.Certificate {
	c.t.Helper()
	key := catest.NewKey(c.t)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		c.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, c.cert, key.Public(), c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// dialWith connects with any certificate.
func (s *site) dialWith(cert tls.Certificate, client string, version byte) (*mqtt.Conn, error) {
	host, _, _ := net.SplitHostPort(s.door("mqtt"))
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	return mqtt.Dial(ctx, mqtt.Config{Addr: s.door("mqtt"), TLS: mqtt.TLS(cert, s.roots, host), ClientID: client, Version: version})
}

// platform is the API as the first principal.
func (s *site) platform() *adminapi.ClientWithResponses {
	s.t.Helper()
	c, err := s.as("platform")
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// ofThing is the id of a device's certificate.
func (s *site) ofThing(api *adminapi.ClientWithResponses, name string) string {
	s.t.Helper()
	a, err := api.CheckPolicyWithResponse(s.t.Context(), adminapi.PolicyQuestion{Thing: name, Action: "iot:Connect", Resource: name})
	if err != nil || a.JSON200 == nil {
		s.t.Fatalf("%v %s", err, a.Body)
	}
	return a.JSON200.Certificate
}

const jitpBody = `{"Parameters":{"AWS::IoT::Certificate::CommonName":{"Type":"String"},"AWS::IoT::Certificate::Id":{"Type":"String"}},"Resources":{
	"thing":{"Type":"AWS::IoT::Thing","Properties":{"ThingName":{"Ref":"AWS::IoT::Certificate::CommonName"}}},
	"certificate":{"Type":"AWS::IoT::Certificate","Properties":{"CertificateId":{"Ref":"AWS::IoT::Certificate::Id"},"Status":"ACTIVE"}},
	"policy":{"Type":"AWS::IoT::Policy","Properties":{"PolicyName":"own-topics"}}}}`

const fleetBody = `{"Parameters":{"SerialNumber":{"Type":"String"},"AWS::IoT::Certificate::Id":{"Type":"String"}},"Resources":{
	"thing":{"Type":"AWS::IoT::Thing","Properties":{"ThingName":{"Ref":"SerialNumber"}}},
	"certificate":{"Type":"AWS::IoT::Certificate","Properties":{"CertificateId":{"Ref":"AWS::IoT::Certificate::Id"},"Status":"ACTIVE"}},
	"policy":{"Type":"AWS::IoT::Policy","Properties":{"PolicyName":"own-topics"}}}}`

const bulkBody = `{"Parameters":{"Name":{"Type":"String"},"Request":{"Type":"String"}},"Resources":{
	"thing":{"Type":"AWS::IoT::Thing","Properties":{"ThingName":{"Ref":"Name"}}},
	"certificate":{"Type":"AWS::IoT::Certificate","Properties":{"CertificateSigningRequest":{"Ref":"Request"},"Status":"ACTIVE"}}}}`

const ownTopics = `{"Version":"2012-10-17","Statement":[
	{"Sid":"connect","Effect":"Allow","Action":"iot:Connect","Resource":"arn:aws:iot:*:*:client/${iot:Connection.Thing.ThingName}"},
	{"Sid":"own","Effect":"Allow","Action":["iot:Publish","iot:Receive"],"Resource":"arn:aws:iot:*:*:topic/own/${iot:Connection.Thing.ThingName}/*"}]}`

const notOwn = `{"Version":"2012-10-17","Statement":[{"Sid":"quiet","Effect":"Deny","Action":"iot:Publish","Resource":"arn:aws:iot:*:*:topic/own/*"}]}`

// TestRegistration_OverTheAPI is the administration of who comes in and what
// devices may do, against the real service: good input, bad input with its code,
// and a person of another tenant, who gets nothing.
func TestRegistration_OverTheAPI(t *testing.T) {
	w := newFleetSite(t, "M-1", "M-2")
	ctx, bob, platform := t.Context(), w.api("bob"), w.platform()
	eve := w.stranger(access.SecurityOfficer)

	t.Run("policies have versions, one of which counts", func(t *testing.T) {
		a, err := bob.CreatePolicyWithResponse(ctx, adminapi.DevicePolicyRequest{Name: "own-topics", Document: ownTopics})
		if p := got(t, a.JSON201, a.StatusCode(), a.Body, err); p.DefaultVersion != 1 || p.Document != ownTopics || len(p.Versions) != 1 {
			t.Errorf("%+v", p)
		}
		a, err = bob.CreatePolicyWithResponse(ctx, adminapi.DevicePolicyRequest{Name: "own-topics", Document: notOwn})
		refusedWith(t, "another document of the same name", "device-policy-exists", a.Body, err)
		a, err = bob.CreatePolicyWithResponse(ctx, adminapi.DevicePolicyRequest{Name: "bad", Document: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:Publsh","Resource":"*"}]}`})
		refusedWith(t, "a misspelt action", "policy-action-unknown", a.Body, err)
		a, err = bob.CreatePolicyWithResponse(ctx, adminapi.DevicePolicyRequest{Name: "a b", Document: ownTopics})
		refusedWith(t, "a name with a space", "device-policy-name", a.Body, err)

		v, err := bob.CreatePolicyVersionWithResponse(ctx, "own-topics", adminapi.DevicePolicyVersionRequest{Document: notOwn})
		if p := got(t, v.JSON201, v.StatusCode(), v.Body, err); p.DefaultVersion != 1 || p.LatestVersion != 2 {
			t.Errorf("%+v", p)
		}
		one, err := bob.GetPolicyVersionWithResponse(ctx, "own-topics", 2)
		if p := got(t, one.JSON200, one.StatusCode(), one.Body, err); p.Document != notOwn || p.Default {
			t.Errorf("%+v", p)
		}
		d, err := bob.DeletePolicyVersionWithResponse(ctx, "own-topics", 1)
		refusedWith(t, "deleting the default", "device-policy-in-use", d.Body, err)
		l, err := bob.ListPoliciesWithResponse(ctx, &adminapi.ListPoliciesParams{Limit: optional(1)})
		if p := got(t, l.JSON200, l.StatusCode(), l.Body, err); len(p.Items) != 1 || p.Next == "" {
			t.Errorf("a page of one: %+v", p)
		}
		none, err := eve.ListPoliciesWithResponse(ctx, nil)
		if p := got(t, none.JSON200, none.StatusCode(), none.Body, err); len(p.Items) != 0 {
			t.Errorf("another tenant sees %+v", p)
		}
		g, err := eve.GetPolicyWithResponse(ctx, "own-topics")
		refusedWith(t, "another tenant's look", "device-policy-unknown", g.Body, err)
		v, err = eve.CreatePolicyVersionWithResponse(ctx, "own-topics", adminapi.DevicePolicyVersionRequest{Document: notOwn, Default: true})
		refusedWith(t, "another tenant's version", "device-policy-unknown", v.Body, err)
	})

	t.Run("a decision is explained, and a group's policy counts at once", func(t *testing.T) {
		id := w.ofThing(bob, "M-1")
		check := func(want, topic string) *adminapi.PolicyDecision {
			t.Helper()
			a, err := bob.CheckPolicyWithResponse(ctx, adminapi.PolicyQuestion{Thing: "M-1", Action: "iot:Publish", Resource: topic})
			d := got(t, a.JSON200, a.StatusCode(), a.Body, err)
			if d.Result != want || !d.Usable || d.Thing != "M-1" || d.Certificate != id {
				t.Errorf("%s: %+v", topic, d)
			}
			return d
		}
		check("IMPLICIT_DENY", "own/M-1/heat")
		at, err := bob.AttachPolicyToCertificateWithResponse(ctx, "own-topics", id)
		got(t, at.JSON200, at.StatusCode(), at.Body, err)
		if d := check("ALLOWED", "own/M-1/heat"); d.DecidedBy.Policy != "own-topics" || d.DecidedBy.Sid != "own" || d.DecidedBy.Statement != 1 || d.DecidedBy.Version != 1 || d.DecidedBy.From.Name != id {
			t.Errorf("decided by %+v", d.DecidedBy)
		}
		if d := check("IMPLICIT_DENY", "own/M-2/heat"); len(d.Matches) != 0 {
			t.Errorf("%+v", d)
		}
		whole, err := bob.CheckPolicyWithResponse(ctx, adminapi.PolicyQuestion{Certificate: id, Action: "iot:Publish", Resource: "arn:aws:iot:eu-west-1:1:topic/own/M-1/heat", ClientId: "M-1"})
		if d := got(t, whole.JSON200, whole.StatusCode(), whole.Body, err); d.Result != "ALLOWED" || d.Resource != "own/M-1/heat" {
			t.Errorf("%+v", d)
		}
		bad, err := bob.CheckPolicyWithResponse(ctx, adminapi.PolicyQuestion{Thing: "M-1", Action: "iot:Publsh"})
		refusedWith(t, "an action that does not exist", "policy-action-unknown", bad.Body, err)
		bad, err = bob.CheckPolicyWithResponse(ctx, adminapi.PolicyQuestion{Thing: "M-9", Action: "iot:Publish"})
		refusedWith(t, "a thing that does not exist", "thing-unknown", bad.Body, err)
		bad, err = eve.CheckPolicyWithResponse(ctx, adminapi.PolicyQuestion{Certificate: id, Action: "iot:Publish", Resource: "x"})
		refusedWith(t, "another tenant's question", "device-certificate-unregistered", bad.Body, err)

		// A device that is connected follows the change without a new connection.
		c, err := w.connect("M-1", "M-1", mqtt.V5, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		say := func() error {
			return c.Publish(ctx, mqtt.Message{Topic: "own/M-1/heat", Payload: []byte("1"), QoS: 1})
		}
		if err := say(); err != nil {
			t.Fatalf("its own topic: %v", err)
		}
		q, err := bob.CreatePolicyWithResponse(ctx, adminapi.DevicePolicyRequest{Name: "quiet", Document: notOwn})
		got(t, q.JSON201, q.StatusCode(), q.Body, err)
		g, err := bob.AttachPolicyToGroupWithResponse(ctx, "quiet", "demo")
		got(t, g.JSON200, g.StatusCode(), g.Body, err)
		if d := check("EXPLICIT_DENY", "own/M-1/heat"); d.DecidedBy.Policy != "quiet" || d.DecidedBy.Effect != "Deny" || d.DecidedBy.From.Name != "demo" || len(d.Matches) != 2 {
			t.Errorf("%+v", d)
		}
		if err := say(); err == nil {
			t.Error("the group's Deny does not reach the connection")
		}
		targets, err := bob.ListPolicyTargetsWithResponse(ctx, "quiet", nil)
		if p := got(t, targets.JSON200, targets.StatusCode(), targets.Body, err); len(p.Items) != 1 || p.Items[0].Kind != "group" {
			t.Errorf("%+v", p)
		}
		list, err := bob.ListAttachedPoliciesWithResponse(ctx, &adminapi.ListAttachedPoliciesParams{Group: optional("demo")})
		if p := got(t, list.JSON200, list.StatusCode(), list.Body, err); len(p.Items) != 1 || p.Items[0].Policy != "quiet" {
			t.Errorf("%+v", p)
		}
		gone, err := eve.DetachPolicyFromGroupWithResponse(ctx, "quiet", "demo")
		refusedWith(t, "another tenant's detaching", "device-policy-unknown", gone.Body, err)
		none, err := bob.AttachPolicyToGroupWithResponse(ctx, "quiet", "none")
		refusedWith(t, "a group that does not exist", "thing-group-unknown", none.Body, err)

		// S36: whoever may not attach to groups changes no policy that a group has.
		made, err := platform.CreatePrincipalWithResponse(ctx, adminapi.PrincipalRequest{Name: "fay", Role: "fleet-operator"})
		token := got(t, made.JSON201, made.StatusCode(), made.Body, err).Token
		fay, err := adminClient("https://"+w.door("people"), token, w.path("state", "ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		g, err = fay.AttachPolicyToGroupWithResponse(ctx, "own-topics", "demo")
		refusedWith(t, "a fleet operator and a group", "action-forbidden", g.Body, err)
		v, err := fay.CreatePolicyVersionWithResponse(ctx, "quiet", adminapi.DevicePolicyVersionRequest{Document: ownTopics, Default: true})
		refusedWith(t, "a fleet operator and a group's policy", "action-forbidden", v.Body, err)
		v, err = fay.CreatePolicyVersionWithResponse(ctx, "quiet", adminapi.DevicePolicyVersionRequest{Document: ownTopics})
		got(t, v.JSON201, v.StatusCode(), v.Body, err)
		s, err := fay.SetDefaultPolicyVersionWithResponse(ctx, "quiet", 2)
		refusedWith(t, "a fleet operator and the default of a group's policy", "action-forbidden", s.Body, err)
		gone, err = bob.DetachPolicyFromGroupWithResponse(ctx, "quiet", "demo")
		got(t, gone.JSON200, gone.StatusCode(), gone.Body, err)
		if err := say(); err != nil {
			t.Errorf("after detaching: %v", err)
		}
	})

	t.Run("INACTIVE closes the connection and stands until ACTIVE", func(t *testing.T) {
		id := w.ofThing(bob, "M-2")
		set := func(status string) {
			t.Helper()
			a, err := bob.SetFleetCertificateStatusWithResponse(ctx, id, adminapi.FleetCertificateStatus{Status: status})
			if c := got(t, a.JSON200, a.StatusCode(), a.Body, err); c.Status != status || c.Usable != (status == "ACTIVE") || len(c.Things) != 1 {
				t.Errorf("%+v", c)
			}
		}
		c, err := w.connect("M-2", "M-2", mqtt.V5, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Abort()
		no, err := eve.SetFleetCertificateStatusWithResponse(ctx, id, adminapi.FleetCertificateStatus{Status: "INACTIVE"})
		refusedWith(t, "another tenant's change", "device-certificate-unregistered", no.Body, err)
		no, err = bob.SetFleetCertificateStatusWithResponse(ctx, id, adminapi.FleetCertificateStatus{Status: "INACTIVE", Reason: "superseded"})
		refusedWith(t, "a reason without a revocation", "input-invalid", no.Body, err)
		set("INACTIVE")
		at := time.Now()
		select {
		case <-c.Done():
		case <-time.After(20 * time.Second):
			t.Fatal("still connected")
		}
		t.Logf("off after %v: %v", time.Since(at), c.Err())
		if d := time.Since(at); d > 5*time.Second { // a second is promised
			t.Errorf("off after %v", d)
		}
		if err := c.Err(); err == nil || !strings.Contains(err.Error(), "98") && !strings.Contains(strings.ToLower(err.Error()), "administrative") {
			t.Errorf("the device is told %v", err)
		}
		if c, err := w.connect("M-2", "M-2", mqtt.V5, nil); err == nil {
			c.Close()
			t.Error("it came back while INACTIVE")
		}
		d, err := bob.CheckPolicyWithResponse(ctx, adminapi.PolicyQuestion{Thing: "M-2", Action: "iot:Connect", Resource: "M-2"})
		if p := got(t, d.JSON200, d.StatusCode(), d.Body, err); p.Usable || p.Result != "IMPLICIT_DENY" || p.Status != "INACTIVE" {
			t.Errorf("%+v", p)
		}
		// A service that ends between the commit and the closing has nothing to close;
		// the next one refuses.
		w.halt()
		w.again()
		if c, err := w.connect("M-2", "M-2", mqtt.V5, nil); err == nil {
			c.Close()
			t.Error("it came back to the next service while INACTIVE")
		}
		bob = w.api("bob")
		set("ACTIVE")
		eventually(t, "connecting when ACTIVE again", func() bool {
			c, err := w.connect("M-2", "M-2", mqtt.V5, nil)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
		// REVOKED goes where the record of issuance is.
		r, err := bob.SetFleetCertificateStatusWithResponse(ctx, id, adminapi.FleetCertificateStatus{Status: "REVOKED", Reason: "superseded"})
		cert := got(t, r.JSON200, r.StatusCode(), r.Body, err)
		rec, err := bob.GetCertificateWithResponse(ctx, cert.Serial)
		if v := got(t, rec.JSON200, rec.StatusCode(), rec.Body, err); v.Status != "revoked" || v.Revocation.Reason != "superseded" || cert.Usable || !cert.Revoked {
			t.Errorf("%+v %+v", v.Revocation, cert)
		}
		r, err = bob.SetFleetCertificateStatusWithResponse(ctx, id, adminapi.FleetCertificateStatus{Status: "ACTIVE"})
		refusedWith(t, "back from REVOKED", "thing-principal-status", r.Body, err)
	})
	eve, platform = w.stranger(access.Platform), w.platform()

	t.Run("a CA that is brought along proves its key, and its devices wait or become things", func(t *testing.T) {
		their := newTheirCA(t, "Their CA")
		code, err := bob.GetRegistrationCodeWithResponse(ctx)
		word := got(t, code.JSON200, code.StatusCode(), code.Body, err)
		proof := pemCert(their.sign(word.Code).Certificate[0])
		a, err := bob.RegisterCAWithResponse(ctx, adminapi.RegisteredCARequest{Certificate: their.pem})
		refusedWith(t, "no proof", "registered-ca-possession", a.Body, err)
		a, err = bob.RegisterCAWithResponse(ctx, adminapi.RegisteredCARequest{Certificate: their.pem, Verification: pemCert(their.sign("another word").Certificate[0])})
		refusedWith(t, "another word", "registered-ca-possession", a.Body, err)
		a, err = bob.RegisterCAWithResponse(ctx, adminapi.RegisteredCARequest{Certificate: proof, Verification: proof})
		refusedWith(t, "no CA", "registered-ca-invalid", a.Body, err)
		a, err = eve.RegisterCAWithResponse(ctx, adminapi.RegisteredCARequest{Certificate: their.pem, Verification: proof})
		refusedWith(t, "our proof in another tenant", "registered-ca-possession", a.Body, err)
		a, err = bob.RegisterCAWithResponse(ctx, adminapi.RegisteredCARequest{Certificate: their.pem, Verification: proof, Active: true, AutoRegistration: true})
		made := got(t, a.JSON201, a.StatusCode(), a.Body, err)
		if !made.Proven || made.Status != "ACTIVE" || !made.AutoRegistration || made.Subject != "CN=Their CA" {
			t.Errorf("%+v", made)
		}
		seen, err := eve.GetRegisteredCAWithResponse(ctx, made.Id)
		refusedWith(t, "another tenant's look", "registered-ca-unknown", seen.Body, err)
		none, err := eve.ListRegisteredCAsWithResponse(ctx, nil)
		if p := got(t, none.JSON200, none.StatusCode(), none.Body, err); len(p.Items) != 0 {
			t.Errorf("another tenant sees %+v", p)
		}

		// Without a template the device waits until somebody activates it.
		waits := their.sign("J-1")
		if c, err := w.dialWith(waits, "J-1", mqtt.V311); err == nil {
			c.Close()
			t.Fatal("it was let in")
		}
		list, err := bob.ListFleetCertificatesWithResponse(ctx, &adminapi.ListFleetCertificatesParams{Ca: &made.Id, Status: optional("PENDING_ACTIVATION")})
		pending := got(t, list.JSON200, list.StatusCode(), list.Body, err)
		if len(pending.Items) != 1 || pending.Items[0].CommonName != "J-1" || pending.Items[0].How != "jitr" {
			t.Fatalf("%+v", pending)
		}
		s, err := bob.SetFleetCertificateStatusWithResponse(ctx, pending.Items[0].Id, adminapi.FleetCertificateStatus{Status: "ACTIVE"})
		if c := got(t, s.JSON200, s.StatusCode(), s.Body, err); !c.Usable {
			t.Errorf("%+v", c)
		}

		// With one it becomes a thing: the first connection ends, the second works.
		for name, body := range map[string][2]string{"their-lamps": {provisioner.JITPKind, jitpBody}, "claims": {provisioner.FleetKind, fleetBody}, "bulk": {provisioner.BulkKind, bulkBody}} {
			p, err := platform.PutTemplateWithResponse(ctx, name, adminapi.TemplateRequest{Kind: body[0], Body: body[1]})
			got(t, p.JSON200, p.StatusCode(), p.Body, err)
		}
		u, err := bob.UpdateRegisteredCAWithResponse(ctx, made.Id, adminapi.RegisteredCAChange{Template: optional("claims")})
		refusedWith(t, "a template of another kind", "provisioning-template-kind", u.Body, err)
		u, err = eve.UpdateRegisteredCAWithResponse(ctx, made.Id, adminapi.RegisteredCAChange{Status: optional("INACTIVE")})
		refusedWith(t, "another tenant's change", "registered-ca-unknown", u.Body, err)
		u, err = bob.UpdateRegisteredCAWithResponse(ctx, made.Id, adminapi.RegisteredCAChange{Template: optional("their-lamps")})
		if v := got(t, u.JSON200, u.StatusCode(), u.Body, err); v.Template != "their-lamps" {
			t.Errorf("%+v", v)
		}
		lamp := their.sign("J-2")
		eventually(t, "the second connection", func() bool {
			c, err := w.dialWith(lamp, "J-2", mqtt.V311)
			if err == nil {
				err = c.Publish(ctx, mqtt.Message{Topic: "own/J-2/heat", Payload: []byte("1"), QoS: 1})
				c.Close()
			}
			return err == nil
		})
		b, err := bob.PutCABudgetWithResponse(ctx, made.Id, adminapi.BudgetRequest{Most: 2})
		if v := got(t, b.JSON200, b.StatusCode(), b.Body, err); v.Used != 2 || v.Most != 2 {
			t.Errorf("%+v", v)
		}
		if c, err := w.dialWith(their.sign("J-3"), "J-3", mqtt.V311); err == nil {
			c.Close()
			t.Error("the budget does not end")
		}
		off := false
		u, err = bob.UpdateRegisteredCAWithResponse(ctx, made.Id, adminapi.RegisteredCAChange{Status: optional("INACTIVE"), AutoRegistration: &off, Template: new(string)})
		if v := got(t, u.JSON200, u.StatusCode(), u.Body, err); v.Template != "" || v.Status != "INACTIVE" || v.AutoRegistration {
			t.Errorf("%+v", v)
		}
		del, err := bob.DeleteRegisteredCAWithResponse(ctx, made.Id)
		refusedWith(t, "deleting a CA with certificates", "registered-ca-in-use", del.Body, err)
		a, err = bob.RegisterCAWithResponse(ctx, adminapi.RegisteredCARequest{Certificate: newTheirCA(t, "Unused CA").pem, Mode: "SNI_ONLY", Template: "their-lamps"})
		unused := got(t, a.JSON201, a.StatusCode(), a.Body, err)
		if unused.Proven || unused.Template != "their-lamps" || unused.Status != "INACTIVE" {
			t.Errorf("%+v", unused)
		}
		del, err = eve.DeleteRegisteredCAWithResponse(ctx, unused.Id)
		refusedWith(t, "another tenant's deletion", "registered-ca-unknown", del.Body, err)
		del, err = bob.DeleteRegisteredCAWithResponse(ctx, unused.Id)
		got(t, del.JSON200, del.StatusCode(), del.Body, err)
		del, err = bob.DeleteRegisteredCAWithResponse(ctx, unused.Id)
		refusedWith(t, "deleting it twice", "registered-ca-unknown", del.Body, err)

		// One of ours needs no proof, and only those that certify devices are taken.
		a, err = bob.RegisterCAWithResponse(ctx, adminapi.RegisteredCARequest{Authority: "device-1", Active: true})
		if v := got(t, a.JSON201, a.StatusCode(), a.Body, err); v.Authority != "device-1" || !v.Proven {
			t.Errorf("%+v", v)
		} else if u, err := bob.UpdateRegisteredCAWithResponse(ctx, v.Id, adminapi.RegisteredCAChange{Template: optional("their-lamps")}); err == nil {
			refusedWith(t, "a template in place of first boot's", "registration-invalid", u.Body, err)
		}
		a, err = bob.RegisterCAWithResponse(ctx, adminapi.RegisteredCARequest{Authority: "infra-1"})
		refusedWith(t, "the infrastructure's", "registered-ca-invalid", a.Body, err)
		a, err = eve.RegisterCAWithResponse(ctx, adminapi.RegisteredCARequest{Authority: "device-1"})
		refusedWith(t, "ours in another tenant", "ca-authority-unknown", a.Body, err)
	})

	t.Run("S23 a certificate is registered with its CA, or by its own key", func(t *testing.T) {
		their := newTheirCA(t, "Another CA")
		leaf := their.sign("B-1")
		dir := t.TempDir()
		writePEM(t, dir, "b.pem", "CERTIFICATE", leaf.Certificate[0])
		key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		writePEM(t, dir, "b.key", "PRIVATE KEY", key)
		a, err := bob.RegisterFleetCertificateWithResponse(ctx, adminapi.FleetCertificateRequest{Certificate: pemCert(leaf.Certificate[0])})
		refusedWith(t, "its CA is not registered", "registered-ca-unknown", a.Body, err)
		a, err = bob.RegisterFleetCertificateWithResponse(ctx, adminapi.FleetCertificateRequest{Certificate: pemCert(leaf.Certificate[0]), WithoutCa: true})
		refusedWith(t, "without a proof", "device-certificate-proof", a.Body, err)
		a, err = bob.RegisterFleetCertificateWithResponse(ctx, adminapi.FleetCertificateRequest{Certificate: "nonsense", WithoutCa: true, Proof: []byte("x")})
		refusedWith(t, "no certificate", "device-certificate-invalid", a.Body, err)
		out, errOut, exit := w.cli("fleet-cert", "register", filepath.Join(dir, "b.pem"), "--without-ca", "--key", filepath.Join(dir, "b.key"), "--active")
		var c adminapi.FleetCertificate
		if err := json.Unmarshal([]byte(out), &c); err != nil || exit != exitOK || c.How != "byoc" || !c.Usable || c.CommonName != "B-1" {
			t.Fatalf("%d %s %s", exit, out, errOut)
		}
		g, err := eve.GetFleetCertificateWithResponse(ctx, c.Id)
		refusedWith(t, "another tenant's look", "device-certificate-unregistered", g.Body, err)

		code, err := bob.GetRegistrationCodeWithResponse(ctx)
		word := got(t, code.JSON200, code.StatusCode(), code.Body, err)
		r, err := bob.RegisterCAWithResponse(ctx, adminapi.RegisteredCARequest{Certificate: their.pem, Verification: pemCert(their.sign(word.Code).Certificate[0]), Active: true})
		got(t, r.JSON201, r.StatusCode(), r.Body, err)
		a, err = bob.RegisterFleetCertificateWithResponse(ctx, adminapi.FleetCertificateRequest{Certificate: pemCert(their.sign("B-2").Certificate[0]), Ca: their.pem})
		second := got(t, a.JSON201, a.StatusCode(), a.Body, err)
		if second.Status != "INACTIVE" || second.Ca == "" {
			t.Errorf("%+v", second)
		}
		s, err := bob.SetFleetCertificateStatusWithResponse(ctx, second.Id, adminapi.FleetCertificateStatus{Status: "REVOKED"})
		if v := got(t, s.JSON200, s.StatusCode(), s.Body, err); v.Status != "REVOKED" {
			t.Errorf("%+v", v)
		}
	})

	t.Run("S17 claims have budgets, and their keys stay where they are made", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "claim")
		_, errOut, exit := w.cli("claim", "create", "lamps", "--template", "claims", "--most", "3", "--out", dir)
		if exit != exitFault || !strings.Contains(errOut, "fleet-template-unknown") {
			t.Errorf("a template that is not enabled: %d %s", exit, errOut)
		}
		f, err := platform.PutFleetTemplateWithResponse(ctx, "their-lamps", adminapi.FleetTemplateRequest{Enabled: true})
		refusedWith(t, "a template of another kind", "provisioning-template-kind", f.Body, err)
		f, err = platform.PutFleetTemplateWithResponse(ctx, "claims", adminapi.FleetTemplateRequest{Enabled: true, TakeOver: true})
		refusedWith(t, "a take-over without a hook", "registration-invalid", f.Body, err)
		f, err = platform.PutFleetTemplateWithResponse(ctx, "claims", adminapi.FleetTemplateRequest{Enabled: true, Issuer: "infra-1"})
		refusedWith(t, "an issuer of no devices", "registration-invalid", f.Body, err)
		f, err = eve.PutFleetTemplateWithResponse(ctx, "claims", adminapi.FleetTemplateRequest{Enabled: true})
		refusedWith(t, "another tenant's", "not-found", f.Body, err)
		f, err = platform.PutFleetTemplateWithResponse(ctx, "claims", adminapi.FleetTemplateRequest{Enabled: true})
		if v := got(t, f.JSON200, f.StatusCode(), f.Body, err); !v.Enabled {
			t.Errorf("%+v", v)
		}
		out, errOut, exit := w.cli("claim", "create", "lamps", "--template", "claims", "--most", "3", "--out", dir) // with the key of the first try
		var c adminapi.ClaimCertificate
		if err := json.Unmarshal([]byte(out), &c); err != nil || exit != exitOK || c.PrivateKey != "" || c.Policy != "claim-claims" {
			t.Fatalf("%d %s %s", exit, out, errOut)
		}
		pair := loadPair(t, filepath.Join(dir, "claim.pem"), filepath.Join(dir, "claim.key"))
		for _, name := range []string{"claim.pem", "claim.key"} {
			if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v %v", name, st.Mode(), err)
			}
		}
		if _, _, exit := w.cli("claim", "create", "lamps", "--template", "claims", "--most", "3", "--out", dir); exit != exitUsage {
			t.Errorf("a claim is written over: %d", exit)
		}
		k, err := bob.CreateClaimWithResponse(ctx, adminapi.ClaimRequest{Name: "x y", Template: "claims", Most: 1})
		refusedWith(t, "a bad name", "claim-config-invalid", k.Body, err)
		k, err = eve.CreateClaimWithResponse(ctx, adminapi.ClaimRequest{Name: "lamps", Template: "claims", Most: 1})
		refusedWith(t, "another tenant's claim", "fleet-template-unknown", k.Body, err)

		// A claim certificate gets no other policy.
		p, err := bob.AttachPolicyToCertificateWithResponse(ctx, "own-topics", c.Id)
		refusedWith(t, "a policy for a claim", "device-policy-target", p.Body, err)
		con, err := w.dialWith(pair, "any-client", mqtt.V5)
		if err != nil {
			t.Fatalf("the claim does not connect: %v", err)
		}
		defer con.Abort()
		device := bootstrap.Caller{Tenant: access.DefaultTenant, Certificate: c.Id}
		request := func() []byte {
			raw, err := csr.Create(catest.NewKey(t), "", "")
			if err != nil {
				t.Fatal(err)
			}
			return raw
		}
		if _, err := w.server.fleet.claims.CreateFromCSR(ctx, device, request()); err != nil {
			t.Fatal(err)
		}
		one, err := bob.GetClaimWithResponse(ctx, c.Id)
		if v := got(t, one.JSON200, one.StatusCode(), one.Body, err); v.Budget.Used != 1 || v.Budget.Open != 1 || v.Budget.Most != 3 || v.Template != "claims" || !v.Usable {
			t.Errorf("%+v", v)
		}
		list, err := bob.ListClaimsWithResponse(ctx, nil)
		if v := got(t, list.JSON200, list.StatusCode(), list.Body, err); len(v.Items) != 1 || v.Items[0].Certificate != c.Id {
			t.Errorf("%+v", v)
		}
		none, err := eve.ListClaimsWithResponse(ctx, nil)
		if v := got(t, none.JSON200, none.StatusCode(), none.Body, err); len(v.Items) != 0 {
			t.Errorf("another tenant sees %+v", v)
		}
		nb, err := eve.PutClaimBudgetWithResponse(ctx, c.Id, adminapi.BudgetRequest{Most: 1})
		refusedWith(t, "another tenant's budget", "registration-budget-unknown", nb.Body, err)
		b, err := bob.PutClaimBudgetWithResponse(ctx, c.Id, adminapi.BudgetRequest{Most: 1})
		if v := got(t, b.JSON200, b.StatusCode(), b.Body, err); v.Used != 1 || v.Most != 1 {
			t.Errorf("%+v", v)
		}
		if _, err := w.server.fleet.claims.CreateFromCSR(ctx, device, request()); err == nil {
			t.Error("the budget does not end")
		}
		if _, errOut, exit := w.cli("claim", "deactivate", c.Id); exit != exitOK {
			t.Fatal(errOut)
		}
		select {
		case <-con.Done():
		case <-time.After(5 * time.Second):
			t.Error("a claim that was switched off stays connected")
		}
		b, err = bob.PutClaimBudgetWithResponse(ctx, c.Id, adminapi.BudgetRequest{Most: 10})
		got(t, b.JSON200, b.StatusCode(), b.Body, err)
		if _, err := w.server.fleet.claims.CreateFromCSR(ctx, device, request()); err == nil {
			t.Error("a claim that was switched off provisions")
		}

		// A trusted user's is for five minutes.
		phone := filepath.Join(t.TempDir(), "phone")
		out, errOut, exit = w.cli("claim", "user", "claims", "--out", phone)
		var u adminapi.ClaimCertificate
		if err := json.Unmarshal([]byte(out), &u); err != nil || exit != exitOK {
			t.Fatalf("%d %s %s", exit, out, errOut)
		}
		if left := time.Until(u.ExpiresAt); left > 5*time.Minute || left < 3*time.Minute {
			t.Errorf("it is good for %v", left)
		}
		loadPair(t, filepath.Join(phone, "claim.pem"), filepath.Join(phone, "claim.key"))
	})

	t.Run("a file of devices is registered, and goes on where it ended", func(t *testing.T) {
		dir := t.TempDir()
		file := filepath.Join(dir, "lamps.jsonl")
		var text bytes.Buffer
		for i := range 12 {
			raw, err := csr.Create(catest.NewKey(t), "", "")
			if err != nil {
				t.Fatal(err)
			}
			line, err := json.Marshal(map[string]string{"Name": fmt.Sprintf("K-%02d", i), "Request": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: raw}))})
			if err != nil {
				t.Fatal(err)
			}
			if i == 5 {
				line = []byte(`{"Name":"K-05"}`)
			}
			text.Write(append(line, '\n'))
		}
		if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		_, errOut, exit := w.cli("bulk", "register", file, "--template", "claims")
		if exit != exitFault || !strings.Contains(errOut, "provisioning-template-kind") {
			t.Errorf("a template of another kind: %d %s", exit, errOut)
		}
		register := func() (sum bulkSummary) {
			t.Helper()
			out, errOut, exit := w.cli("bulk", "register", file, "--template", "bulk")
			if err := json.Unmarshal([]byte(out), &sum); err != nil || exit != exitFault { // one line is refused
				t.Fatalf("%d %s %s", exit, out, errOut)
			}
			return sum
		}
		if sum := register(); sum.Lines != 12 || sum.Registered != 11 || sum.Refused != 1 || sum.Resumed != 0 {
			t.Errorf("%+v", sum)
		}
		results, err := os.ReadFile(file + ".results")
		if err != nil {
			t.Fatal(err)
		}
		lines := bytes.SplitAfter(results, []byte("\n"))
		var fifth adminapi.BulkResult
		if len(lines) != 13 || json.Unmarshal(lines[5], &fifth) != nil || fifth.Line != 6 || fifth.Code == "" || fifth.Message == "" {
			t.Errorf("%d lines, %s", len(lines)-1, lines[5])
		}
		// A run that died in the middle of a line.
		half := append(bytes.Join(lines[:7], nil), lines[7][:20]...)
		if err := os.WriteFile(file+".results", half, 0o600); err != nil {
			t.Fatal(err)
		}
		if sum := register(); sum.Registered != 11 || sum.Refused != 1 || sum.Resumed != 7 {
			t.Errorf("%+v", sum)
		}
		again, err := os.ReadFile(file + ".results")
		if err != nil || !reflect.DeepEqual(again, results) {
			t.Errorf("the results differ: %v\n%s\n%s", err, again, results)
		}
		if err := os.WriteFile(file+".results", []byte("something else\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, errOut, exit := w.cli("bulk", "register", file, "--template", "bulk"); exit != exitFault || !strings.Contains(errOut, "cli-bulk-results") {
			t.Errorf("another file's results: %d %s", exit, errOut)
		}
		a, err := eve.RegisterInBulkWithResponse(ctx, adminapi.BulkRequest{Template: "bulk", Lines: []string{"{}"}})
		if a.JSON200 != nil || err != nil {
			t.Errorf("another tenant's file: %s %v", a.Body, err)
		}
		a, err = bob.RegisterInBulkWithResponse(ctx, adminapi.BulkRequest{Template: "bulk", Lines: []string{"{}\n{}"}})
		refusedWith(t, "two lines in one", "input-invalid", a.Body, err)
	})
	w.halt()
	w.clean()
}
