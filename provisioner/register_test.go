package provisioner_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca/catest"
	"hallmark/provisioner"
	"hallmark/provisioner/hook"
	"hallmark/provisioner/template"
)

const subjectTemplate = `{
 "Parameters": {"AWS::IoT::Certificate::Id": {"Type":"String"}, "AWS::IoT::Certificate::CommonName": {"Type":"String"}, "AWS::IoT::Certificate::SerialNumber": {"Type":"String"},
   "AWS::IoT::Certificate::Country": {"Type":"String","Default":"none"}, "Site": {"Type":"String","Default":"x"}},
 "Mappings": {"Endpoints": {"none": {"url": "mqtts://default.example.com"}}},
 "Resources": {
   "t": {"Type":"AWS::IoT::Thing","Properties":{"ThingName":{"Fn::Sub":"t-${AWS::IoT::Certificate::CommonName}"},"AttributePayload":{"s":{"Ref":"AWS::IoT::Certificate::SerialNumber"}}}},
   "c": {"Type":"AWS::IoT::Certificate","Properties":{"CertificateId":{"Ref":"AWS::IoT::Certificate::Id"}}},
   "p": {"Type":"AWS::IoT::Policy","Properties":{"PolicyName":"fleet"}}},
 "DeviceConfiguration": {"url": {"Fn::FindInMap":["Endpoints",{"Ref":"AWS::IoT::Certificate::Country"},"url"]}, "site": {"Ref":"Site"}}}`

func planner(t *testing.T) (*catest.Fixture, *provisioner.Planner, *x509.Certificate) {
	f := catest.New(t)
	p := provisioner.NewPlanner(provisioner.PlannerConfig{Store: f.DB})
	t.Cleanup(p.Close)
	c, _ := f.IssueIDevID(t, "SN-1")
	return f, p, c
}

func set(t *testing.T, p *provisioner.Planner, body, hookName string, enabled bool) {
	t.Helper()
	ctx := context.Background()
	if err := p.PutTemplate(ctx, provisioner.TemplateDocument{Tenant: access.DefaultTenant, Name: "t", Body: []byte(body)}); err != nil {
		t.Fatal(err)
	}
	if err := p.PutRegistration(ctx, provisioner.Registration{Tenant: access.DefaultTenant, Authority: catest.Device, Template: "t", Hook: hookName, Enabled: enabled}); err != nil {
		t.Fatal(err)
	}
}

func TestPlan_TakesTheSubjectAndTheDevicesParameters(t *testing.T) {
	_, p, c := planner(t)
	set(t, p, subjectTemplate, "", true)
	in := provisioner.PlanInput{Tenant: access.DefaultTenant, Authority: catest.Device, Certificate: c, Parameters: map[string]string{"Site": "Hall"}}
	plan, err := p.Plan(t.Context(), in)
	if err != nil || plan.Thing.Name != "t-SN-1" || plan.Thing.Attributes["s"] != "SN-1" || !plan.Active || plan.TakeOver ||
		fmt.Sprint(plan.Configuration) != "map[site:Hall url:mqtts://default.example.com]" || len(plan.Policies) != 1 || plan.Policies[0].Name != "fleet" {
		t.Errorf("%+v %v", plan, err)
	}
	in.Tenant = "other"
	if _, err := p.Plan(t.Context(), in); !errors.Is(err, provisioner.ErrRegistrationNone) {
		t.Errorf("another tenant: %v", err)
	}
	in.Tenant = access.DefaultTenant
	set(t, p, subjectTemplate, "", false)
	if _, err := p.Plan(t.Context(), in); !errors.Is(err, provisioner.ErrRegistrationNone) {
		t.Errorf("disabled: %v", err)
	}
	// A48: the template demands a field that the subject lacks.
	set(t, p, strings.Replace(subjectTemplate, `,"Default":"none"`, ``, 1), "", true)
	if _, err := p.Plan(t.Context(), in); !errors.Is(err, template.ErrParameterMissing) {
		t.Errorf("a missing field: %v", err)
	}
}

func TestPlan_NeedsAThingThatACertificateCanName(t *testing.T) {
	_, p, c := planner(t)
	in := provisioner.PlanInput{Tenant: access.DefaultTenant, Authority: catest.Device, Certificate: c}
	set(t, p, strings.Replace(subjectTemplate, `"t-$`, `"`+strings.Repeat("x", 60)+`-$`, 1), "", true)
	if _, err := p.Plan(t.Context(), in); !errors.Is(err, provisioner.ErrPlanThing) {
		t.Error(err)
	}
	set(t, p, `{"Parameters":{"AWS::IoT::Certificate::Id":{"Type":"String"}},"Resources":{"c":{"Type":"AWS::IoT::Certificate","Properties":{"CertificateId":{"Ref":"AWS::IoT::Certificate::Id"}}}}}`, "", true)
	if _, err := p.Plan(t.Context(), in); !errors.Is(err, provisioner.ErrPlanThing) {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"template name": p.PutTemplate(t.Context(), provisioner.TemplateDocument{Tenant: access.DefaultTenant, Name: "../x", Body: []byte(subjectTemplate)}),
		"kind":          p.PutTemplate(t.Context(), provisioner.TemplateDocument{Tenant: access.DefaultTenant, Name: "x", Kind: "y", Body: []byte(subjectTemplate)}),
		"no template":   p.PutRegistration(t.Context(), provisioner.Registration{Tenant: access.DefaultTenant, Authority: catest.Device, Template: "none"}),
		"no hook":       p.PutRegistration(t.Context(), provisioner.Registration{Tenant: access.DefaultTenant, Authority: catest.Device, Template: "t", Hook: "none"}),
	} {
		if !errors.Is(err, provisioner.ErrRegistrationInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// S39: secrets are sealed, and come back; a changed hook takes effect at once.
func TestPlan_ChangedHooksAreUsedAtOnce(t *testing.T) {
	f, p, c := planner(t)
	secrets := []hook.Secret{{KeyID: "old", Key: bytes.Repeat([]byte("secret-1"), 4)}, {KeyID: "new", Key: bytes.Repeat([]byte("secret-2"), 4)}}
	var used atomic.Value
	var srv *httptest.Server
	srv = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		body.ReadFrom(r.Body)
		id, err := hook.Verify(r.Header, srv.URL+"/", body.Bytes(), secrets, time.Now())
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		used.Store(r.Header.Get(hook.HeaderKeyID))
		answer := []byte(`{"allowProvisioning":true}`)
		hook.SignReply(w.Header(), id, answer, secrets[1])
		w.Write(answer)
	}))
	defer srv.Close()
	doc := provisioner.HookDocument{Tenant: access.DefaultTenant, Name: "h", URL: srv.URL + "/", Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Secrets: secrets, Roots: catest.PEM(srv.Certificate())}
	in := provisioner.PlanInput{Tenant: access.DefaultTenant, Authority: catest.Device, Certificate: c}
	for i, order := range [][]hook.Secret{secrets, {secrets[1], secrets[0]}, secrets[1:]} {
		doc.Secrets = order
		if err := p.PutHook(t.Context(), doc); err != nil {
			t.Fatal(err)
		}
		set(t, p, subjectTemplate, "h", true)
		if _, err := p.Plan(t.Context(), in); err != nil || used.Load() != order[0].KeyID {
			t.Errorf("rotation %d: %v, signed with %v", i, err, used.Load())
		}
		time.Sleep(2 * time.Millisecond) // the document's time has whole milliseconds
	}
	got, err := f.DB.Hook(t.Context(), access.Scope{Tenant: access.DefaultTenant}, "h")
	if err != nil || len(got.Secrets) != 1 || !bytes.Equal(got.Secrets[0].Key, secrets[1].Key) || len(got.Allow) != 1 {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := f.DB.Hook(t.Context(), access.Scope{Tenant: "other"}, "h"); err == nil {
		t.Error("another tenant sees the hook")
	}
	doc.Secrets[0].Key = []byte("short")
	if err := p.PutHook(t.Context(), doc); !errors.Is(err, hook.ErrConfig) {
		t.Error(err)
	}
}
