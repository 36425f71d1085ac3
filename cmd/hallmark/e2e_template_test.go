package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/fxamacker/cbor/v2"

	"hallmark/access"
	"hallmark/ca/catest"
	"hallmark/ca/csr"
	"hallmark/device/mqtt"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/provisioner"
	"hallmark/provisioner/hook"
)

// fullTemplate has every section and every function of the language.
const fullTemplate = `{
  "Parameters": {
    "SerialNumber": {"Type": "String"},
    "Model": {"Type": "String", "Default": "basic-1"},
    "Site": {"Type": "String", "Default": "berlin"},
    "Area": {"Type": "String", "Default": "hall"},
    "AWS::IoT::Certificate::Id": {"Type": "String"}},
  "Mappings": {"Sites": {
    "berlin":  {"Zone": "eu-1", "Group": "site-berlin"},
    "hamburg": {"Zone": "eu-2", "Group": "site-hamburg"}}},
  "Resources": {
    "thing": {"Type": "AWS::IoT::Thing",
      "Properties": {
        "ThingName": {"Fn::Join": ["-", ["lamp", {"Ref": "SerialNumber"}]]},
        "AttributePayload": {
          "family": {"Fn::Select": ["0", {"Fn::Split": ["-", {"Ref": "Model"}]}]},
          "zone": {"Fn::FindInMap": ["Sites", {"Ref": "Site"}, "Zone"]},
          "label": {"Fn::Sub": ["${s}/${Model}", {"s": {"Fn::Join": ["", ["SN", {"Ref": "SerialNumber"}]]}}]},
          "maker": "acme"},
        "ThingTypeName": {"Fn::Sub": "lamp"},
        "ThingGroups": ["lamps", {"Fn::FindInMap": ["Sites", {"Ref": "Site"}, "Group"]}],
        "BillingGroup": "cost-1"},
      "OverrideSettings": {"AttributePayload": "MERGE", "ThingTypeName": "REPLACE", "ThingGroups": "DO_NOTHING"}},
    "certificate": {"Type": "AWS::IoT::Certificate",
      "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "Active"},
      "OverrideSettings": {"Status": "REPLACE"}},
    "named": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": {"Fn::Join": ["-", ["demo", "device"]]}}},
    "own": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": {"Fn::Sub":
      "{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":\"iot:Publish\",\"Resource\":\"arn:aws:iot:*:*:topic/site/${Site}/${Area}/${iot:Connection.Thing.ThingName}\"}]}"}}}
  },
  "DeviceConfiguration": {
    "endpoint": {"Fn::Join": [".", ["mqtt", {"Fn::FindInMap": ["Sites", {"Ref": "Site"}, "Zone"]}, "example"]]},
    "model": {"Ref": "Model"},
    "greeting": {"Fn::Sub": "hello ${SerialNumber}"},
    "interval": "300"}
}`

// hookServer is a hook's operator: what it answers follows from the path.
type hookServer struct {
	*httptest.Server
	secret hook.Secret
	mu     sync.Mutex
	asked  map[string][]hook.Request
	bad    []error
}

// The hooks by their paths, and what they answer.
var hookAnswers = map[string]string{
	"/override": `{"allowProvisioning":true,"parameterOverrides":{"Model":"pro-9","Site":"hamburg"}}`,
	"/allow":    `{"allowProvisioning":true}`,
	"/refuse":   `{"allowProvisioning":false,"parameterOverrides":{"Model":"pro-9"}}`,
	"/garbage":  `<html>we are down for maintenance</html>`,
	"/text":     `{"allowProvisioning":"true"}`,
	"/silent":   `{}`,
	"/unsigned": `{"allowProvisioning":true}`,
	"/error":    `{"allowProvisioning":true}`,
	"/other":    `{"allowProvisioning":true,"parameterOverrides":{"AWS::IoT::Certificate::Id":"%s"}}`,
	"/victim":   `{"allowProvisioning":true,"parameterOverrides":{"SerialNumber":"victim"}}`,
	"/slow":     `{"allowProvisioning":true}`,
}

func newHookServer(t *testing.T, victim string) *hookServer {
	h := &hookServer{secret: newHookSecret(), asked: map[string][]hook.Request{}}
	h.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		id, err := hook.Verify(r.Header, h.URL+r.URL.Path, body, []hook.Secret{h.secret}, time.Now())
		var q hook.Request
		if err == nil {
			err = json.Unmarshal(body, &q)
		}
		h.mu.Lock()
		if err != nil {
			h.bad = append(h.bad, err)
		}
		h.asked[r.URL.Path] = append(h.asked[r.URL.Path], q)
		h.mu.Unlock()
		answer := []byte(strings.ReplaceAll(hookAnswers[r.URL.Path], "%s", victim))
		switch r.URL.Path {
		case "/slow":
			<-r.Context().Done() // the caller has had enough
			return
		case "/unsigned":
		case "/error":
			hook.SignReply(w.Header(), id, answer, h.secret)
			w.WriteHeader(http.StatusInternalServerError)
		default:
			hook.SignReply(w.Header(), id, answer, h.secret)
		}
		w.Write(answer)
	}))
	t.Cleanup(h.Close)
	return h
}

// templateSite is a service with the full template under one name for each hook,
// each with a claim certificate.
type templateSite struct {
	*site
	hooks *hookServer
	main  access.Scope
}

func newTemplateSite(t *testing.T) *templateSite {
	w := &templateSite{site: newFleetSite(t, "M-1"), main: access.Scope{Tenant: access.DefaultTenant}}
	ctx, s := t.Context(), w.server
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w.hooks = newHookServer(t, registry.CertificateID(readCert(t, w.path("devices", "M-1", "ldevid.pem")).Raw))
	_, err := s.reged.CreateType(ctx, registry.Type{Tenant: w.main.Tenant, Name: "lamp"})
	must(err)
	for _, g := range []string{"lamps", "site-berlin", "site-hamburg", "others"} {
		_, err := s.reged.CreateGroup(ctx, registry.Group{Tenant: w.main.Tenant, Class: registry.ThingGroup, Name: g})
		must(err)
	}
	_, err = s.reged.CreateGroup(ctx, registry.Group{Tenant: w.main.Tenant, Class: registry.BillingGroup, Name: "cost-1"})
	must(err)
	w.template("plain", fullTemplate, "")
	for path := range hookAnswers {
		w.hook(strings.TrimPrefix(path, "/"), w.hooks.URL+path)
		w.template("t-"+strings.TrimPrefix(path, "/"), fullTemplate, strings.TrimPrefix(path, "/"))
	}
	return w
}

func (w *templateSite) hook(name, url string) {
	w.t.Helper()
	roots := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.hooks.Certificate().Raw})
	if err := w.server.planner.PutHook(w.t.Context(), provisioner.HookDocument{Tenant: w.main.Tenant, Name: name, URL: url, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
		Secrets: []hook.Secret{w.hooks.secret}, Roots: roots}); err != nil {
		w.t.Fatal(err)
	}
}

// template stores and enables a fleet template, and makes its claim certificate.
func (w *templateSite) template(name, body, hook string) {
	w.t.Helper()
	ctx, s := w.t.Context(), w.server
	err := s.planner.PutTemplate(ctx, provisioner.TemplateDocument{Tenant: w.main.Tenant, Name: name, Kind: provisioner.FleetKind, Body: []byte(body)})
	if err == nil {
		err = s.planner.PutFleetTemplate(ctx, s.db, provisioner.FleetTemplate{Tenant: w.main.Tenant, Name: name, Hook: hook, Enabled: true})
	}
	if err == nil {
		err = w.claim(ctx, name, name)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// newcomer is a device with a claim certificate that speaks JSON or CBOR with
// somebody else's MQTT client and subscribes to nothing.
type newcomer struct {
	t      *testing.T
	w      *templateSite
	client paho.Client
	in     chan paho.Message
	format string

	key   *ecdsa.PrivateKey
	cert  *x509.Certificate
	pem   string
	token string
}

func (w *templateSite) newcomer(t *testing.T, template, format string) *newcomer {
	t.Helper()
	n := w.site.newcomer(t, template, format)
	n.w = w
	return n
}

// newcomer has a certificate, and is not registered yet. claim names the files of
// its claim certificate.
func (s *site) newcomer(t *testing.T, claim, format string) *newcomer {
	t.Helper()
	pair := loadPair(t, s.path("fleet", claim+".pem"), s.path("fleet", claim+".key"))
	n := &newcomer{t: t, in: make(chan paho.Message, 16), format: format}
	o := paho.NewClientOptions().AddBroker("ssl://" + s.door("mqtt")).SetClientID("setup-" + claim + "-" + format + "-" + fmt.Sprint(time.Now().UnixNano())).SetAutoReconnect(false).SetConnectTimeout(20 * time.Second)
	o.SetTLSConfig(&tls.Config{RootCAs: s.roots, NextProtos: []string{"x-amzn-mqtt-ca"}, Certificates: []tls.Certificate{pair}})
	o.SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { n.in <- m })
	n.client = paho.NewClient(o)
	if tok := n.client.Connect(); !tok.WaitTimeout(30*time.Second) || tok.Error() != nil {
		t.Fatalf("connect with the claim certificate %s: %v", claim, tok.Error())
	}
	t.Cleanup(func() { n.client.Disconnect(0) })
	n.key = catest.NewKey(t)
	raw, err := csr.Create(n.key, "", "")
	if err != nil {
		t.Fatal(err)
	}
	answer := n.accepted("$aws/certificates/create-from-csr/", map[string]any{"certificateSigningRequest": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: raw}))})
	n.pem, n.token = answer["certificatePem"].(string), answer["certificateOwnershipToken"].(string)
	block, _ := pem.Decode([]byte(n.pem))
	if n.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	if id := fmt.Sprintf("%x", sha256.Sum256(n.cert.Raw)); answer["certificateId"] != id || len(n.token) > 512 {
		t.Errorf("certificate %v, want %s; a token of %d characters", answer["certificateId"], id, len(n.token))
	}
	return n
}

// ask sends a request and gives the one answer; prefix ends before the format.
func (n *newcomer) ask(prefix string, request map[string]any) (ok bool, answer map[string]any) {
	n.t.Helper()
	var body []byte
	var err error
	if n.format == "cbor" {
		body, err = cbor.Marshal(request)
	} else {
		body, err = json.Marshal(request)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return n.askRaw(prefix, body)
}

func (n *newcomer) askRaw(prefix string, body []byte) (ok bool, answer map[string]any) {
	n.t.Helper()
	topic := prefix + n.format
	if tok := n.client.Publish(topic, 1, false, body); !tok.WaitTimeout(30*time.Second) || tok.Error() != nil {
		n.t.Fatalf("publish to %s: %v", topic, tok.Error())
	}
	select {
	case m := <-n.in:
		if n.format == "cbor" {
			if err := cbor.Unmarshal(m.Payload(), &answer); err != nil {
				n.t.Fatalf("%s: %x: %v", m.Topic(), m.Payload(), err)
			}
		} else if err := json.Unmarshal(m.Payload(), &answer); err != nil {
			n.t.Fatalf("%s: %s: %v", m.Topic(), m.Payload(), err)
		}
		switch m.Topic() {
		case topic + "/accepted":
			return true, answer
		case topic + "/rejected":
			return false, answer
		}
		n.t.Fatalf("an answer on %s", m.Topic())
	case <-time.After(60 * time.Second):
		n.t.Fatalf("no answer to %s", topic)
	}
	return false, nil
}

func (n *newcomer) accepted(prefix string, request map[string]any) map[string]any {
	n.t.Helper()
	ok, answer := n.ask(prefix, request)
	if !ok {
		n.t.Fatalf("%s was rejected: %v", prefix, answer)
	}
	return answer
}

// register asks RegisterThing of a template.
func (n *newcomer) register(template string, parameters map[string]string) (bool, map[string]any) {
	n.t.Helper()
	return n.ask("$aws/provisioning-templates/"+template+"/provision/", map[string]any{"certificateOwnershipToken": n.token, "parameters": parameters})
}

// rejected asks RegisterThing and compares the whole answer: three members, the
// message word for word. Nothing has come into being.
func (n *newcomer) rejected(template string, parameters map[string]string, status int, code, message string) {
	n.t.Helper()
	ok, answer := n.register(template, parameters)
	if ok || fmt.Sprint(answer["statusCode"]) != fmt.Sprint(status) || answer["errorCode"] != code || answer["errorMessage"] != message || len(answer) != 3 {
		n.t.Errorf("accepted: %v, %v, want %d %s %q", ok, answer, status, code, message)
	}
	n.nothing(parameters["SerialNumber"])
}

// nothing tells that neither thing nor certificate changed.
func (n *newcomer) nothing(serial string) {
	n.t.Helper()
	if serial != "" && serial != "victim" {
		if _, err := n.w.server.reged.Get(n.t.Context(), n.w.main, fleet.ThingName("lamp-"+serial)); !errors.Is(err, registry.ErrThingUnknown) {
			n.t.Errorf("lamp-%s: %v", serial, err)
		}
	}
	c, err := n.w.server.reged.Certificate(n.t.Context(), n.w.main, registry.CertificateID(n.cert.Raw))
	if err != nil || c.Status != fleet.PendingActivation {
		n.t.Errorf("the certificate is %s, %v", c.Status, err)
	}
}

// TestTemplate_EverythingAndItsHooks: a template with every function and every
// section, and hooks of every temper, as a device at the broker sees them, in
// JSON and CBOR.
func TestTemplate_EverythingAndItsHooks(t *testing.T) {
	w := newTemplateSite(t)
	victim := w.victim(t)
	const no, broken = "The provisioning hook refused the device.", "The provisioning hook's answer cannot be trusted. "
	t.Run("answers", func(t *testing.T) {
		for _, format := range []string{"json", "cbor"} {
			t.Run(format, func(t *testing.T) {
				t.Parallel()
				w.everything(t, format)
				w.overrides(t, format)
				w.parameters(t, format)
			})
			for _, c := range []struct {
				hook    string
				status  int
				code    string
				message string
			}{
				{"refuse", 403, "AccessDenied", no},
				{"slow", 403, "AccessDenied", "The provisioning hook did not answer. It took too long."},
				{"garbage", 403, "AccessDenied", broken + "Line 1, column 1, in the document: '<' where a value is expected."},
				{"text", 403, "AccessDenied", broken + "Line 1, column 28, in allowProvisioning: want true or false."},
				{"silent", 403, "AccessDenied", broken + "It does not say allowProvisioning."},
				{"unsigned", 403, "AccessDenied", broken + "The header Hallmark-Hook-Reply-Signature must stand there once."},
				{"error", 403, "AccessDenied", "The provisioning hook did not answer. It answered with status 500."},
				{"other", 403, "AccessDenied", broken + "It overrides \"AWS::IoT::Certificate::Id\", which is the service's."},
				{"victim", 409, "ResourceConflict", "The thing has a live certificate of another device."},
			} {
				t.Run(format+" a hook: "+c.hook, func(t *testing.T) {
					t.Parallel()
					n := w.newcomer(t, "t-"+c.hook, format)
					began := time.Now()
					n.rejected("t-"+c.hook, map[string]string{"SerialNumber": c.hook + "-" + format}, c.status, c.code, c.message)
					if took := time.Since(began); c.hook == "slow" && took < 4*time.Second {
						t.Errorf("a slow hook had only %s", took)
					}
				})
			}
		}
	})
	w.hooks.mu.Lock()
	for _, err := range w.hooks.bad {
		t.Errorf("a hook was asked without a good signature: %v", err)
	}
	for path := range hookAnswers {
		if len(w.hooks.asked[path]) == 0 && path != "/allow" {
			t.Errorf("nobody asked %s", path)
		}
	}
	w.hooks.mu.Unlock()
	if after := w.victim(t); after != victim {
		t.Errorf("the victim was %s and is %s", victim, after)
	}
	w.halt()
	w.clean()
}

// victim registers lamp-victim at first, with the hook that names everybody so,
// and tells its state.
func (w *templateSite) victim(t *testing.T) string {
	t.Helper()
	thing, err := w.server.reged.Get(t.Context(), w.main, "lamp-victim")
	if errors.Is(err, registry.ErrThingUnknown) {
		n := w.newcomer(t, "t-victim", "json")
		if ok, answer := n.register("t-victim", map[string]string{"SerialNumber": "whatever"}); !ok || answer["thingName"] != "lamp-victim" {
			t.Fatalf("%v", answer)
		}
		thing, err = w.server.reged.Get(t.Context(), w.main, "lamp-victim")
	}
	if err != nil {
		t.Fatal(err)
	}
	principals, err := w.server.reged.Principals(t.Context(), w.main, "lamp-victim")
	if err != nil || len(principals) != 1 {
		t.Fatalf("%v %v", principals, err)
	}
	other, err := w.server.reged.Principals(t.Context(), w.main, "M-1")
	if err != nil || len(other) != 1 {
		t.Fatalf("%v %v", other, err)
	}
	return fmt.Sprintf("%+v %+v %+v", thing, principals, other)
}

// everything is what comes of the template without a hook.
func (w *templateSite) everything(t *testing.T, format string) {
	serial := "0001" + format
	name := fleet.ThingName("lamp-" + serial)
	// A thing that was made by hand: what the template says about what differs.
	made := registry.Thing{Tenant: w.main.Tenant, Name: name, Attributes: map[string]string{"maker": "other", "colour": "red"}, Groups: []string{"others"}}
	if _, err := w.server.reged.CreateThing(t.Context(), made); err != nil {
		t.Fatal(err)
	}
	n := w.newcomer(t, "plain", format)
	ok, answer := n.register("plain", map[string]string{"SerialNumber": serial, "Model": "pro-7", "Ignored": "x"})
	if want := fmt.Sprint(map[string]any{"thingName": name, "deviceConfiguration": map[string]any{"endpoint": "mqtt.eu-1.example", "model": "pro-7", "greeting": "hello " + serial, "interval": "300"}}); !ok || fmt.Sprint(answer) != want {
		t.Errorf("%v %v, want %s", ok, answer, want)
	}
	n.is(name, map[string]string{"family": "pro", "zone": "eu-1", "label": "SN" + serial + "/pro-7", "maker": "acme", "colour": "red"}, []string{"others"}, "berlin")
}

// overrides is what comes of a hook that changes parameters, and what it was asked.
func (w *templateSite) overrides(t *testing.T, format string) {
	serial := "0002" + format
	n := w.newcomer(t, "t-override", format)
	ok, answer := n.register("t-override", map[string]string{"SerialNumber": serial, "Model": "basic-3", "Order": "4711"})
	if want := fmt.Sprint(map[string]any{"thingName": "lamp-" + serial, "deviceConfiguration": map[string]any{"endpoint": "mqtt.eu-2.example", "model": "pro-9", "greeting": "hello " + serial, "interval": "300"}}); !ok || fmt.Sprint(answer) != want {
		t.Errorf("%v %v, want %s", ok, answer, want)
	}
	n.is(fleet.ThingName("lamp-"+serial), map[string]string{"family": "pro", "zone": "eu-2", "label": "SN" + serial + "/pro-9", "maker": "acme"}, []string{"lamps", "site-hamburg"}, "hamburg")
	w.hooks.mu.Lock()
	defer w.hooks.mu.Unlock()
	asked := slices.IndexFunc(w.hooks.asked["/override"], func(q hook.Request) bool { return q.CertificateID == registry.CertificateID(n.cert.Raw) })
	if asked < 0 {
		t.Fatal("the hook was not asked about this certificate")
	}
	q := w.hooks.asked["/override"][asked]
	claim := registry.CertificateID(readCert(t, w.path("fleet", "t-override.pem")).Raw)
	if q.ClaimCertificateID != claim || q.CertificatePEM != n.pem || q.TemplateARN != provisioner.TemplateARN(w.main.Tenant, "t-override") || !strings.HasPrefix(q.ClientID, "setup-t-override-"+format) ||
		!maps.Equal(q.Parameters, map[string]string{"SerialNumber": serial, "Model": "basic-3", "Order": "4711"}) {
		t.Errorf("the hook was asked %+v", q)
	}
}

// is compares a registered device with what it should be, and has it speak.
func (n *newcomer) is(name fleet.ThingName, attributes map[string]string, groups []string, place string) {
	n.t.Helper()
	ctx, reg := n.t.Context(), n.w.server.reged
	thing, err := reg.Get(ctx, n.w.main, name)
	if err != nil {
		n.t.Fatal(err)
	}
	slices.Sort(thing.Groups)
	if !maps.Equal(thing.Attributes, attributes) || !slices.Equal(thing.Groups, groups) || thing.Type != "lamp" || thing.BillingGroup != "cost-1" {
		n.t.Errorf("the thing is %+v, want %v in %v", thing, attributes, groups)
	}
	id := registry.CertificateID(n.cert.Raw)
	if c, err := reg.Certificate(ctx, n.w.main, id); err != nil || c.Status != fleet.Active {
		n.t.Errorf("the certificate is %s, %v", c.Status, err)
	}
	policies, err := reg.AttachedPolicies(ctx, n.w.main, registry.CertificateTarget(id), false)
	if err != nil || len(policies) != 2 || !slices.Contains(policies, demoPolicy) {
		n.t.Errorf("policies %v, %v", policies, err)
	}
	for _, p := range policies {
		if p == demoPolicy {
			continue
		}
		doc, err := reg.Policy(ctx, n.w.main, p)
		if err != nil || !strings.Contains(doc.Document, "topic/site/"+place+"/hall/${iot:Connection.Thing.ThingName}") {
			n.t.Errorf("%+v %v", doc, err)
		}
	}
	// The policies are the device's from its first connection on.
	dir := n.w.path("devices", string(name))
	der, err := x509.MarshalPKCS8PrivateKey(n.key)
	if err != nil {
		n.t.Fatal(err)
	}
	writePEM(n.t, dir, "ldevid.key", "PRIVATE KEY", der)
	if err := os.WriteFile(dir+"/ldevid.pem", []byte(n.pem), 0o600); err != nil {
		n.t.Fatal(err)
	}
	c, err := n.w.connect(string(name), string(name), mqtt.V5, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	defer c.Close()
	for topic, may := range map[string]bool{"site/" + place + "/hall/" + string(name): true, "dt/" + string(name) + "/x": true, "site/elsewhere/hall/" + string(name): false, "site/" + place + "/hall/M-1": false} {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		if err := c.Publish(ctx, mqtt.Message{Topic: topic, Payload: []byte("x"), QoS: 1}); (err == nil) != may {
			n.t.Errorf("publish to %s: %v", topic, err)
		}
		cancel()
	}
}

// parameters is what devices send that no template can take. The token is good
// for the right ones afterwards.
func (w *templateSite) parameters(t *testing.T, format string) {
	n := w.newcomer(t, "plain", format)
	serial := "0003" + format
	const plain = "$aws/provisioning-templates/plain/provision/"
	for _, c := range []struct {
		parameters map[string]string
		message    string
	}{
		{map[string]string{"Model": "x-1"}, "A parameter of the template was not given and has no default. Parameters.SerialNumber: the parameter \"SerialNumber\" is missing."},
		{map[string]string{"SerialNumber": serial, "Site": "munich"}, "A function of the template has no result for these parameters. Resources.thing.Properties.AttributePayload.zone[\"Fn::FindInMap\"]: there is no \"Zone\" in \"munich\" of mapping \"Sites\"."},
		{map[string]string{"SerialNumber": "a b"}, "The template gives a value that is not acceptable there. Resources.thing.Properties.ThingName: \"lamp-a b\" is no name: it has 1 to 128 of a-z A-Z 0-9 : _ -."},
		{map[string]string{"SerialNumber": serial, "Area": "*"}, "A parameter would widen a policy. Resources.own.Properties.PolicyDocument[\"Fn::Sub\"]: the parameter \"Area\" holds a character that widens a policy."},
		{map[string]string{"SerialNumber": serial, "AWS::IoT::Certificate::Id": registry.CertificateID(n.cert.Raw)}, "A parameter has a name that only the service gives. The device gave \"AWS::IoT::Certificate::Id\"."},
	} {
		n.rejected("plain", c.parameters, 400, "InvalidParameters", c.message)
	}
	for what, body := range map[string][]byte{"garbage": []byte("\xff\x00garbage"), "a list": {0x80}, "a number for a text": []byte(`{"certificateOwnershipToken":7}`)} {
		if ok, answer := n.askRaw(plain, body); ok || fmt.Sprint(answer["statusCode"]) != "400" || answer["errorCode"] != "InvalidPayload" {
			t.Errorf("%s: %v %v", what, ok, answer)
		}
	}
	if ok, answer := n.ask(plain, map[string]any{"parameters": map[string]string{"SerialNumber": serial}}); ok || answer["errorCode"] != "InvalidCertificateOwnershipToken" || answer["errorMessage"] != "Certificate ownership token cannot be empty." {
		t.Errorf("no token: %v", answer)
	}
	if ok, answer := n.register("plain", map[string]string{"SerialNumber": serial}); !ok || answer["thingName"] != "lamp-"+serial {
		t.Errorf("%v", answer)
	}
}
