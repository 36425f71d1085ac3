package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/device/mqtt"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/fleet/shadow"
)

// curled is what curl got.
type curled struct {
	status string
	class  string // X-Amzn-ErrorType
	body   string
	doc    map[string]any
}

func (c curled) text(member string) string { s, _ := c.doc[member].(string); return s }

// curl asks the device door as a device, without any code of ours.
func (s *site) curl(name, method, path string, more ...string) curled {
	s.t.Helper()
	args := []string{"--silent", "--show-error", "--request", method, "--cacert", s.path("pki", "root.pem"), "--include", "--path-as-is", "--max-time", "50"}
	if name != "" {
		args = append(args, "--cert", s.path("devices", name, "ldevid.pem"), "--key", s.path("devices", name, "ldevid.key"))
	}
	out, err := tool(s.t, nil, "curl", append(append(args, more...), "https://"+s.door("device")+path)...)
	if err != nil {
		s.t.Fatalf("curl %s %s: %v %s", method, path, err, out)
	}
	var c curled
	r := bufio.NewReader(strings.NewReader(out))
	for {
		a, err := http.ReadResponse(r, nil)
		if err != nil {
			s.t.Fatalf("curl %s %s: %v: %s", method, path, err, out)
		}
		if a.StatusCode == http.StatusContinue {
			continue
		}
		b, err := io.ReadAll(a.Body)
		if err != nil {
			s.t.Fatal(err)
		}
		c.status, c.class, c.body = a.Status[:3], a.Header.Get("X-Amzn-ErrorType"), string(b)
		json.Unmarshal(b, &c.doc)
		return c
	}
}

// refuses checks an answer's status, our code and the reference's class.
func (s *site) refuses(what string, c curled, status, code, class string) {
	s.t.Helper()
	if c.status != status || c.text("code") != code || c.class != class || c.text("message") == "" || c.text("traceId") == "" {
		s.t.Errorf("%s: %s %s %s, want %s %s %s: %s", what, c.status, c.text("code"), c.class, status, code, class, c.body)
	}
}

// listener is a device on MQTT that keeps what it hears.
func (s *site) listener(name string, filters ...string) chan mqtt.Message {
	s.t.Helper()
	got := make(chan mqtt.Message, 64)
	c, err := s.connect(name, name, mqtt.V5, func(m mqtt.Message) { got <- m })
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Abort() })
	for _, f := range filters {
		if err := c.Subscribe(s.t.Context(), mqtt.Subscription{Filter: f, QoS: 1}); err != nil {
			s.t.Fatal(err)
		}
	}
	return got
}

// hears waits for a message with a topic and a payload, and lets others pass.
func hears(t testing.TB, from chan mqtt.Message, topic, payload string) {
	t.Helper()
	var others []string
	for end := time.After(20 * time.Second); ; {
		select {
		case m := <-from:
			if m.Topic == topic && strings.Contains(string(m.Payload), payload) {
				return
			}
			others = append(others, m.Topic+" "+string(m.Payload))
		case <-end:
			t.Fatalf("no message %s with %s, but %q", topic, payload, others)
		}
	}
}

func TestDeviceHTTP_ADeviceLivesOnHTTPS(t *testing.T) {
	w := newFleetSite(t, "C-1", "C-2", "C-3")
	ctx, f := t.Context(), w.server.fleet
	got := w.listener("C-1", "dt/C-1/#", "$aws/things/C-1/shadow/update/delta", "$aws/things/C-1/jobs/notify-next")

	t.Run("publish", func(t *testing.T) {
		for path, topic := range map[string]string{"/topics/dt/C-1/plain?qos=1": "dt/C-1/plain", "/topics/dt%2FC-1%2Fa%20b?qos=0": "dt/C-1/a b", "/topics/dt/C-1/%2e%2e//x": "dt/C-1/..//x"} {
			c := w.curl("C-1", "POST", path, "--data-binary", "hello "+topic)
			if c.status != "200" || c.text("message") != "OK" || c.text("traceId") == "" {
				t.Fatalf("%s: %s %s", path, c.status, c.body)
			}
			hears(t, got, topic, "hello "+topic)
		}
		// A reserved topic works too, and what is answered directly has nobody to go to.
		if c := w.curl("C-1", "POST", "/topics/$aws/things/C-1/shadow/name/viatopic/update?qos=1", "--data", `{"state":{"reported":{"a":1}}}`); c.status != "200" {
			t.Errorf("a reserved topic: %s", c.body)
		}
		if _, err := f.shadows.Get(ctx, shadow.Key{Tenant: access.DefaultTenant, Thing: "C-1", Name: "viatopic"}); err != nil {
			t.Errorf("what was published did nothing: %v", err)
		}
		w.refuses("a QoS that is not offered", w.curl("C-1", "POST", "/topics/dt/C-1/x?qos=2"), "400", "device-request-invalid", "InvalidRequestException")
		w.refuses("a wildcard", w.curl("C-1", "POST", "/topics/dt/C-1/%2B"), "400", "broker-topic-invalid", "InvalidRequestException")
		w.refuses("a topic of nobody", w.curl("C-1", "POST", "/topics/"), "400", "broker-topic-invalid", "InvalidRequestException")
		w.refuses("retain without the right", w.curl("C-1", "POST", "/topics/dt/C-1/x?retain=true", "--data", "x"), "403", "broker-forbidden", "ForbiddenException")
		w.refuses("another's topic", w.curl("C-1", "POST", "/topics/dt/C-2/x", "--data", "x"), "403", "broker-forbidden", "ForbiddenException")
		w.refuses("another method", w.curl("C-1", "GET", "/topics/dt/C-1/x"), "405", "method-not-allowed", "MethodNotAllowedException")
		w.refuses("bad user properties", w.curl("C-1", "POST", "/topics/dt/C-1/x", "--header", "x-amz-mqtt5-user-properties: !"), "400", "device-request-invalid", "InvalidRequestException")
		for n, code := range map[int]string{140_000: "broker-quota", 250_000: "device-request-large"} {
			file := w.path("large")
			if err := os.WriteFile(file, bytes.Repeat([]byte("x"), n), 0o600); err != nil {
				t.Fatal(err)
			}
			w.refuses("a large payload", w.curl("C-1", "POST", "/topics/dt/C-1/x", "--data-binary", "@"+file), "413", code, "RequestEntityTooLargeException")
		}
		properties := base64.StdEncoding.EncodeToString([]byte(`[{"a":"1"},{"a":"2"}]`))
		if c := w.curl("C-1", "POST", "/topics/dt/C-1/props?qos=1&contentType=text%2Fplain&messageExpiry=60", "--header", "x-amz-mqtt5-user-properties: "+properties, "--header", "x-amz-mqtt5-payload-format-indicator: UTF8_DATA", "--data", "é"); c.status != "200" {
			t.Errorf("with properties: %s", c.body)
		}
		hears(t, got, "dt/C-1/props", "é")
	})

	t.Run("shadow", func(t *testing.T) {
		none := w.curl("C-1", "GET", "/things/C-1/shadow")
		w.refuses("a shadow that is not there", none, "404", "shadow-unknown", "ResourceNotFoundException")
		if none.text("message") != "No shadow exists with name: 'C-1'" {
			t.Errorf("its text is %q", none.text("message"))
		}
		c := w.curl("C-1", "POST", "/things/C-1/shadow", "--data", `{"state":{"desired":{"lamp":"on"},"reported":{"lamp":"off"}},"clientToken":"t1"}`)
		if c.status != "200" || c.text("clientToken") != "t1" || c.doc["version"] != 1.0 {
			t.Errorf("update: %s %s", c.status, c.body)
		}
		hears(t, got, "$aws/things/C-1/shadow/update/delta", `"state":{"lamp":"on"}`)
		if c = w.curl("C-1", "GET", "/things/C-1/shadow"); c.status != "200" || !strings.Contains(c.body, `"delta":{"lamp":"on"}`) {
			t.Errorf("get: %s", c.body)
		}
		w.refuses("an old version", w.curl("C-1", "POST", "/things/C-1/shadow", "--data", `{"state":{},"version":7}`), "409", "shadow-version-conflict", "ConflictException")
		w.refuses("not JSON", w.curl("C-1", "POST", "/things/C-1/shadow", "--data", `{`), "400", "shadow-json-invalid", "InvalidRequestException")
		w.refuses("not UTF-8", w.curl("C-1", "POST", "/things/C-1/shadow", "--data", "{\"state\":\"\xff\"}"), "415", "shadow-encoding", "UnsupportedDocumentEncodingException")
		w.refuses("too large", w.curl("C-1", "POST", "/things/C-1/shadow", "--data", `{"state":{"desired":{"a":"`+strings.Repeat("x", 9000)+`"}}}`), "413", "shadow-size", "RequestEntityTooLargeException")
		w.refuses("a name that is none", w.curl("C-1", "GET", "/things/C-1/shadow?name=a%20b"), "400", "shadow-name-invalid", "InvalidRequestException")
		if c = w.curl("C-1", "POST", "/things/C-1/shadow?name=config", "--data", `{"state":{"reported":{"interval":5}}}`); c.status != "200" {
			t.Errorf("a named shadow: %s", c.body)
		}
		if c = w.curl("C-1", "GET", "/things/C-1/shadow?name=config"); !strings.Contains(c.body, `"interval":5`) {
			t.Errorf("a named shadow: %s", c.body)
		}
		if c = w.curl("C-1", "DELETE", "/things/C-1/shadow?name=config"); c.status != "200" || c.doc["version"] != 1.0 {
			t.Errorf("delete: %s", c.body)
		}
		// The list has an action without a resource, which the demo's policy has not.
		w.refuses("the list without the right", w.curl("C-1", "GET", "/api/things/shadow/ListNamedShadowsForThing/C-1"), "403", "device-forbidden", "ForbiddenException")
		w.allow("C-1", "lister", `"iot:ListNamedShadowsForThing"`, `"*"`)
		if c = w.curl("C-1", "GET", "/api/things/shadow/ListNamedShadowsForThing/C-1?pageSize=5"); c.status != "200" || !strings.Contains(c.body, `"results":["viatopic"]`) {
			t.Errorf("list: %s %s", c.status, c.body)
		}
		for what, c := range map[string]curled{
			"read": w.curl("C-2", "GET", "/things/C-1/shadow"), "write": w.curl("C-2", "POST", "/things/C-1/shadow", "--data", `{"state":{"reported":{"lamp":"hacked"}}}`),
			"remove": w.curl("C-2", "DELETE", "/things/C-1/shadow"), "other case": w.curl("C-2", "GET", "/things/c-1/shadow"),
		} {
			w.refuses("another's shadow, "+what, c, "403", "device-forbidden", "ForbiddenException")
		}
		if c = w.curl("C-1", "GET", "/things/C-1/shadow"); c.doc["version"] != 1.0 || strings.Contains(c.body, "hacked") {
			t.Errorf("it changed: %s", c.body)
		}
	})

	t.Run("jobs", func(t *testing.T) {
		if c := w.curl("C-1", "GET", "/things/C-1/jobs/%24next"); c.status != "200" || c.body != "{}" {
			t.Errorf("nothing to do: %s %s", c.status, c.body)
		}
		said[adminapi.Job](w, "job", "create", "--id", "https-1", "--thing", "C-1", "--document", `{"operation":"x"}`, "--timeout-minutes", "5")
		eventually(t, "the job is queued", func() bool {
			return strings.Contains(w.curl("C-1", "GET", "/things/C-1/jobs").body, `"queuedJobs":[{"jobId":"https-1"`)
		})
		hears(t, got, "$aws/things/C-1/jobs/notify-next", "https-1")
		c := w.curl("C-1", "PUT", "/things/C-1/jobs/$next", "--data", `{"statusDetails":{"step":"1"}}`)
		if c.status != "200" || !strings.Contains(c.body, `"jobDocument":"{\"operation\":\"x\"}"`) || !strings.Contains(c.body, `"status":"IN_PROGRESS"`) || !strings.Contains(c.body, `"approximateSecondsBeforeTimedOut":`) {
			t.Errorf("start: %s", c.body)
		}
		if c = w.curl("C-1", "GET", "/things/C-1/jobs/https-1?includeJobDocument=false&executionNumber=1"); strings.Contains(c.body, "jobDocument") || !strings.Contains(c.body, `"statusDetails":{"step":"1"}`) {
			t.Errorf("describe: %s", c.body)
		}
		stale := w.curl("C-1", "POST", "/things/C-1/jobs/https-1", "--data", `{"status":"SUCCEEDED","expectedVersion":"9"}`)
		w.refuses("an old version", stale, "409", "job-execution-version", "ConflictException")
		if !strings.Contains(stale.body, `"executionState":{"status":"IN_PROGRESS"`) {
			t.Errorf("without the state: %s", stale.body)
		}
		if c = w.curl("C-1", "POST", "/things/C-1/jobs/https-1", "--data", `{"status":"SUCCEEDED","expectedVersion":"2","includeJobExecutionState":true}`); c.status != "200" || !strings.Contains(c.body, `"status":"SUCCEEDED"`) {
			t.Errorf("update: %s %s", c.status, c.body)
		}
		w.refuses("a second end", w.curl("C-1", "POST", "/things/C-1/jobs/https-1", "--data", `{"status":"FAILED"}`), "409", "job-execution-state", "InvalidStateTransitionException")
		w.refuses("an unknown job", w.curl("C-1", "GET", "/things/C-1/jobs/nothing"), "404", "job-execution-unknown", "ResourceNotFoundException")
		w.refuses("a status that is none", w.curl("C-1", "POST", "/things/C-1/jobs/https-1", "--data", `{"status":"DONE"}`), "400", "job-request-invalid", "InvalidRequestException")
		for what, c := range map[string]curled{
			"list": w.curl("C-2", "GET", "/things/C-1/jobs"), "read": w.curl("C-2", "GET", "/things/C-1/jobs/https-1"), "start": w.curl("C-2", "PUT", "/things/C-1/jobs/$next"),
			"report": w.curl("C-2", "POST", "/things/C-1/jobs/https-1", "--data", `{"status":"FAILED"}`),
		} {
			w.refuses("another's jobs, "+what, c, "403", "device-forbidden", "ForbiddenException")
		}
	})

	t.Run("S18 S25 who is at the door", func(t *testing.T) {
		if err := w.registerFleet(ctx); err != nil {
			t.Fatal(err)
		}
		base := "https://" + w.door("device")
		claim := loadPair(t, w.path("fleet", "claim.pem"), w.path("fleet", "claim.key"))
		birth := loadPair(t, w.path("devices", "C-1", "idevid.pem"), w.path("devices", "C-1", "idevid.key"))
		station, person := w.stationPair(), w.certified(profile.Server, "service:x", nil)
		for _, c := range []struct {
			what string
			cert *tls.Certificate
			want string
		}{{"nobody", nil, "401 device-certificate-missing"}, {"a station", &station, "403 device-role"}, {"a server", &person, "403 device-role"}, {"a birth certificate", &birth, "403 device-registration-off"}, {"a claim certificate", &claim, "403 device-role"}} {
			for _, path := range []string{"/topics/dt/C-1/x", "/things/C-1/shadow", "/things/C-1/jobs/x"} {
				if o := w.outcome(c.cert, 9, "POST", base+path, map[string]any{"state": map[string]any{}}); o != c.want {
					t.Errorf("%s at %s: %s, want %s", c.what, path, o, c.want)
				}
			}
		}
		// The claim certificate's own door is open.
		c := w.client(&claim, 1)
		u := newUnit(t, "C-9")
		der, err := csr.Create(u.key, "C-9", "")
		if err != nil {
			t.Fatal(err)
		}
		pem := "-----BEGIN CERTIFICATE REQUEST-----\n" + base64.StdEncoding.EncodeToString(der) + "\n-----END CERTIFICATE REQUEST-----\n"
		r, err := call(ctx, c, "POST", base+"/provisioning/v1/certificates/from-csr", map[string]any{"certificateSigningRequest": pem})
		if err != nil || r.status != 200 {
			t.Fatalf("from-csr: %v %s %s", err, r, r.body)
		}
		var made struct{ CertificateOwnershipToken string }
		json.Unmarshal(r.body, &made)
		r, err = call(ctx, c, "POST", base+"/provisioning/v1/templates/"+demoFleet, map[string]any{"certificateOwnershipToken": made.CertificateOwnershipToken, "parameters": map[string]string{"SerialNumber": "C-9"}})
		if err != nil || r.status != 200 || !strings.Contains(string(r.body), `"thingName":"C-9"`) {
			t.Errorf("register: %v %s %s", err, r, r.body)
		}
		device := w.pair("C-2")
		if o := w.outcome(&device, 9, "POST", base+"/provisioning/v1/certificates", map[string]any{}); o != "403 claim-refused" {
			t.Errorf("a device asks for claims: %s", o)
		}
	})

	t.Run("S24 a device of another tenant with the same name and every right", func(t *testing.T) {
		stranger := w.foreignDevice("C-1")
		c := w.client(&stranger, 1)
		base := "https://" + w.door("device")
		for _, path := range []string{"/things/C-1/shadow", "/things/C-1/jobs/https-1"} {
			if r, err := call(ctx, c, "GET", base+path, nil); err != nil || r.status != 404 {
				t.Errorf("%s: %v %s %s", path, err, r, r.body)
			}
		}
		if r, err := call(ctx, c, "GET", base+"/things/C-1/jobs", nil); err != nil || r.status != 200 || strings.Contains(string(r.body), "jobId") {
			t.Errorf("jobs: %v %s", err, r.body)
		}
		if r, err := call(ctx, c, "GET", base+"/api/things/shadow/ListNamedShadowsForThing/C-1", nil); err != nil || r.status != 200 || strings.Contains(string(r.body), "viatopic") {
			t.Errorf("shadows: %v %s", err, r.body)
		}
		if r, err := call(ctx, c, "POST", base+"/topics/dt/C-1/theirs?qos=1", "x"); err != nil || r.status != 200 {
			t.Errorf("publish: %v %s", err, r)
		}
		if c := w.curl("C-1", "POST", "/topics/dt/C-1/ours?qos=1", "--data", "mark"); c.status != "200" {
			t.Error(c.body)
		}
		for {
			m := <-got
			if m.Topic == "dt/C-1/theirs" {
				t.Error("a message of another tenant arrived")
			}
			if m.Topic == "dt/C-1/ours" {
				break
			}
		}
	})

	// Issue 6: a device without MQTT gets another certificate, and a request with it is
	// the proof. The requests are curl's, the key and its CSR openssl's.
	t.Run("A50 a rotation without MQTT", func(t *testing.T) {
		made, err := w.token("platform").CreateCampaignWithResponse(ctx, adminapi.CampaignRequest{Id: "https", Kind: "rotate-certificate", Reason: "expiry", Targets: []string{"thing/C-2"}, SoakSeconds: 3600})
		if err != nil || made.JSON201 == nil {
			t.Fatalf("%v %s", err, made.Body)
		}
		w.allow("C-2", "rotates", `["iot:StartNextPendingJobExecution","iot:UpdateJobExecution"]`, `"*"`)
		eventually(t, "the job is offered", func() bool {
			c := w.curl("C-2", "PUT", "/things/C-2/jobs/$next")
			return c.status == "200" && strings.Contains(c.body, "rotate-certificate")
		})
		dir, a := w.path("devices", "C-2"), w.pair("C-2")
		out, err := tool(t, nil, "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", filepath.Join(dir, "b.key"), "-outform", "DER", "-out", filepath.Join(dir, "b.csr"), "-subj", "/CN=C-2")
		if err != nil {
			t.Fatalf("%v %s", err, out)
		}
		csr, err := os.ReadFile(filepath.Join(dir, "b.csr"))
		if err != nil {
			t.Fatal(err)
		}
		c := w.curl("C-2", "POST", "/bootstrap/v1/register", "--raw", "--header", "Content-Type: application/json", "--data", `{"csr":"`+base64.StdEncoding.EncodeToString(csr)+`"}`)
		der, err := base64.StdEncoding.DecodeString(c.text("certificate"))
		if err != nil || c.status != "200" || c.text("status") != "PENDING_ACTIVATION" {
			t.Fatalf("%s %s %v", c.status, c.body, err)
		}
		id := registry.CertificateID(der)
		if c := w.curl("C-2", "POST", "/things/C-2/jobs/campaign-https", "--data", `{"status":"SUCCEEDED","statusDetails":{"certificateId":"`+id+`"}}`); c.status != "200" {
			t.Fatalf("%s %s", c.status, c.body)
		}
		member := func() *adminapi.CampaignMember {
			a, err := w.api("bob").ListCampaignMembersWithResponse(ctx, "https", nil)
			if err != nil || a.JSON200 == nil || len(a.JSON200.Items) != 1 {
				t.Fatalf("%v %s", err, a.Body)
			}
			return &a.JSON200.Items[0]
		}
		eventually(t, "it is judged", func() bool { return member().State == "proving" })
		if err := os.WriteFile(filepath.Join(dir, "ldevid.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "b.key"), filepath.Join(dir, "ldevid.key")); err != nil {
			t.Fatal(err)
		}
		if c := w.curl("C-2", "GET", "/bootstrap/v1/whoami"); c.status != "200" || c.text("status") != "ACTIVE" {
			t.Fatalf("%s %s", c.status, c.body)
		}
		eventually(t, "it is proven", func() bool { return member().State == "soaking" })
		if m := member(); m.After != id || m.Before != registry.CertificateID(a.Certificate[0]) {
			t.Errorf("%+v", m)
		}
	})

	t.Run("the name in ALPN that existing firmware offers", func(t *testing.T) {
		conf := w.tlsConfig(nil)
		pair := w.pair("C-1")
		conf.Certificates, conf.NextProtos, conf.ServerName = []tls.Certificate{pair}, []string{"x-amzn-http-ca"}, "localhost"
		conf.MaxVersion = tls.VersionTLS12
		conn, err := tls.Dial("tcp", w.door("device"), conf)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "POST /topics/dt%2FC-1%2Falpn?qos=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi")
		a, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || a.StatusCode != 200 {
			t.Fatalf("%v %v", err, a)
		}
		hears(t, got, "dt/C-1/alpn", "hi")
	})

	// S41: more than the broker lets a connection send is refused, and says for how long.
	t.Run("S41 a device that sends too much", func(t *testing.T) {
		pair := w.pair("C-2")
		c := w.client(&pair, 4)
		var mu sync.Mutex
		seen, wait := map[int]int{}, ""
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 10 {
					a, err := c.Post("https://"+w.door("device")+"/topics/dt/C-2/much", "application/octet-stream", bytes.NewReader(make([]byte, 120_000)))
					if err != nil {
						t.Error(err)
						return
					}
					io.Copy(io.Discard, a.Body)
					a.Body.Close()
					mu.Lock()
					if seen[a.StatusCode]++; a.StatusCode == 429 {
						wait = a.Header.Get("Retry-After")
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if seen[200] < 4 || seen[429] < 1 || len(seen) != 2 || wait == "" {
			t.Errorf("%v, Retry-After %q", seen, wait)
		}
		if c := w.curl("C-1", "POST", "/topics/dt/C-1/x", "--data", "x"); c.status != "200" {
			t.Errorf("another device meanwhile: %s", c.body)
		}
	})

	t.Run("S19 a revoked device is refused on its open connection", func(t *testing.T) {
		pair := w.pair("C-3")
		c := w.client(&pair, 1)
		at := "https://" + w.door("device") + "/topics/dt/C-3/x?qos=1"
		if r, err := call(ctx, c, "POST", at, "x"); err != nil || r.status != 200 {
			t.Fatalf("%v %s", err, r)
		}
		r, err := w.api("bob").RevokeDeviceWithResponse(ctx, "C-3", adminapi.DeviceRevokeRequest{Reason: "keyCompromise"})
		if err != nil || r.StatusCode() >= 300 {
			t.Fatalf("%v %s", err, r.Body)
		}
		eventually(t, "the refusal", func() bool {
			r, err := call(ctx, c, "POST", at, "x")
			return err == nil && r.String() == "403 device-revoked"
		})
	})
	w.halt()
	w.clean()
}

// allow gives a device's operational certificate one more policy.
func (s *site) allow(name, policy, action, resource string) {
	s.t.Helper()
	main := access.Scope{Tenant: access.DefaultTenant}
	if _, err := s.server.reged.CreatePolicy(s.t.Context(), registry.Policy{Tenant: main.Tenant, Name: policy,
		Document: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":` + action + `,"Resource":` + resource + `}]}`}); err != nil {
		s.t.Fatal(err)
	}
	sum := sha256.Sum256(readCert(s.t, s.path("devices", name, "ldevid.pem")).Raw)
	if err := s.server.reged.AttachPolicy(s.t.Context(), main, registry.CertificateTarget(hex.EncodeToString(sum[:])), policy); err != nil {
		s.t.Fatal(err)
	}
}

// foreignDevice is a device of the tenant "other" with a certificate of its own,
// a thing of the given name, and a policy that allows everything.
func (s *site) foreignDevice(thing string) tls.Certificate {
	s.t.Helper()
	ctx, other, reg := s.t.Context(), access.Scope{Tenant: "other"}, s.server.reged
	c := forged(s.t, readCert(s.t, s.path("devices", "C-2", "ldevid.pem")), nil, nil, s.pair("C-2").Leaf.SerialNumber)
	id := registry.CertificateID(c.Leaf.Raw)
	steps := []func() error{
		func() error {
			_, err := reg.PutCertificate(ctx, registry.Certificate{Tenant: other.Tenant, ID: id, DER: c.Leaf.Raw, NotBefore: c.Leaf.NotBefore, NotAfter: c.Leaf.NotAfter, How: registry.HowBYOC, Status: fleet.Active}, true)
			return err
		},
		func() error {
			_, err := reg.CreateThing(ctx, registry.Thing{Tenant: other.Tenant, Name: fleet.ThingName(thing)})
			return err
		},
		func() error { return reg.Attach(ctx, other, fleet.ThingName(thing), id, registry.Exclusive, false) },
		func() error {
			_, err := reg.CreatePolicy(ctx, registry.Policy{Tenant: other.Tenant, Name: "all", Document: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`})
			return err
		},
		func() error { return reg.AttachPolicy(ctx, other, registry.CertificateTarget(id), "all") },
	}
	for i, do := range steps {
		if err := do(); err != nil {
			s.t.Fatalf("the other tenant's device, step %d: %v", i, err)
		}
	}
	return c
}

func TestDeviceHTTP_MQTTOverWebSocket(t *testing.T) {
	w := newFleetSite(t, "W-1", "W-2")
	got := w.listener("W-2", "dt/W-2/#")
	w.allow("W-2", "second", `"iot:Connect"`, `"arn:aws:iot:*:*:client/W-2-2"`)
	// dial opens a WebSocket as a device, or as nobody.
	dial := func(name, protocol string) (net.Conn, *http.Response, error) {
		var cert *tls.Certificate
		if name != "" {
			p := w.pair(name)
			cert = &p
		}
		u := url.URL{Scheme: "wss", Host: w.door("device"), Path: "/mqtt"}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		ws, a, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: w.tlsConfig(cert)}}, Subprotocols: []string{protocol}})
		if err != nil {
			return nil, a, err
		}
		t.Cleanup(func() { ws.CloseNow() })
		return websocket.NetConn(t.Context(), ws, websocket.MessageBinary), a, nil
	}
	// open sends a CONNECT of MQTT 3.1.1 and gives the first answer.
	open := func(c net.Conn, client string) []byte {
		t.Helper()
		b := []byte{0x10, byte(12 + len(client)), 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, byte(len(client))}
		if _, err := c.Write(append(b, client...)); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		answer := make([]byte, 4)
		n, _ := io.ReadFull(c, answer)
		return answer[:n]
	}
	c, a, err := dial("W-2", "mqtt")
	if err != nil || a.Header.Get("Sec-WebSocket-Protocol") != "mqtt" {
		t.Fatalf("%v %v", err, a)
	}
	// A second session beside the listener's, as the thing's second client.
	if connack := open(c, "W-2-2"); !bytes.Equal(connack, []byte{0x20, 2, 0, 0}) {
		t.Fatalf("CONNACK % x", connack)
	}
	publish := append([]byte{0x32, 0, 0, 8}, "dt/W-2/w\x00\x01over a socket"...)
	publish[1] = byte(len(publish) - 2)
	if _, err := c.Write(publish); err != nil {
		t.Fatal(err)
	}
	puback := make([]byte, 4)
	if _, err := io.ReadFull(c, puback); err != nil || !bytes.Equal(puback, []byte{0x40, 2, 0, 1}) {
		t.Errorf("PUBACK % x %v", puback, err)
	}
	hears(t, got, "dt/W-2/w", "over a socket")

	// S25: the certificate says who it is here too.
	if c, _, err := dial("W-1", "mqtt"); err != nil {
		t.Error(err)
	} else if connack := open(c, "W-2"); len(connack) == 4 && connack[3] == 0 {
		t.Error("W-1 is W-2")
	}
	if c, _, err := dial("", "mqtt"); err == nil {
		if connack := open(c, "W-1"); len(connack) == 4 && connack[3] == 0 {
			t.Error("nobody is W-1")
		}
	}
	if c, _, err := dial("W-1", "soap"); err == nil {
		if connack := open(c, "W-1"); len(connack) > 0 {
			t.Error("a subprotocol that is not mqtt is served")
		}
	}
	if r, err := call(t.Context(), w.client(nil, 1), "GET", "https://"+w.door("device")+"/mqtt", nil); err != nil || r.status != http.StatusUpgradeRequired {
		t.Errorf("a plain request: %v %s", err, r)
	}
}
