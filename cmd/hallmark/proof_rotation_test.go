package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/device"
	"hallmark/device/mqtt"
	"hallmark/device/simulate"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/provisioner"
)

// herd is a fleet of reference agents in this process, for a service that runs as the
// real program.
type herd struct {
	s         *site
	connected atomic.Int64
	cancel    context.CancelFunc
	ended     chan simulate.Result
}

// template registers the authority of the birth certificates.
func (s *site) template() {
	s.t.Helper()
	ctx := s.t.Context()
	for _, err := range []error{
		s.devicePolicy(ctx),
		func() error {
			_, err := s.server.reged.CreateGroup(ctx, registry.Group{Tenant: access.DefaultTenant, Class: registry.ThingGroup, Name: demoGroup})
			return err
		}(),
		s.server.planner.PutTemplate(ctx, provisioner.TemplateDocument{Tenant: access.DefaultTenant, Name: "first", Body: []byte(fmt.Sprintf(demoTemplate, s.server.publicAddr("mqtt")))}),
		s.server.planner.PutRegistration(ctx, provisioner.Registration{Tenant: access.DefaultTenant, Authority: "device-1", Template: "first", Enabled: true}),
	} {
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// born makes units with their birth certificates, and has them boot once.
func (s *site) born(prefix string, n int) []simulate.Device {
	s.t.Helper()
	began, dir := time.Now(), filepath.Join(s.t.TempDir(), prefix)
	cert := s.stationPair()
	client := s.client(&cert, 8)
	var wg sync.WaitGroup
	var failed atomic.Pointer[string]
	turns := make(chan struct{}, 8)
	for i := range n {
		u := newUnit(s.t, fmt.Sprintf("%s-%05d", prefix, i))
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			home := filepath.Join(dir, u.name)
			err := s.birth(client, u, home)
			if err == nil {
				_, err = device.FirstBoot(context.Background(), device.Config{Dir: home, Server: "https://" + s.door("device"), Roots: s.roots})
			}
			if err != nil {
				words := fmt.Sprintf("%s: %v", u.name, err)
				failed.Store(&words)
			}
		})
	}
	wg.Wait()
	if words := failed.Load(); words != nil {
		s.t.Fatal(*words)
	}
	devices, _, err := simulate.LoadDir(dir, 0)
	if err != nil || len(devices) != n {
		s.t.Fatalf("%d devices: %v", len(devices), err)
	}
	s.t.Logf("%d devices made and booted in %s", n, time.Since(began).Round(time.Millisecond))
	return devices
}

func (s *site) birth(client *http.Client, u unit, home string) error {
	r, err := call(context.Background(), client, "POST", "https://"+s.door("factory")+"/factory/v1/units/issue", u.request())
	if err == nil && r.status != http.StatusOK {
		err = fmt.Errorf("issue: %s", r)
	}
	var a struct {
		Certificate []byte
		Chain       [][]byte
	}
	if err == nil {
		err = json.Unmarshal(r.body, &a)
	}
	if err == nil {
		err = os.MkdirAll(home, 0o700)
	}
	if err != nil {
		return err
	}
	chain := []byte{}
	for _, der := range append([][]byte{a.Certificate}, a.Chain...) {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(u.key)
	if err == nil {
		err = os.WriteFile(filepath.Join(home, "idevid.pem"), chain, 0o600)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(home, "idevid.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
	}
	return err
}

// used is how much time of the processors a service took, and its most memory, in KB.
func (p *process) used() (cpu time.Duration, memory int) {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if _, rest, ok := strings.Cut(string(stat), ") "); ok {
		if f := strings.Fields(rest); len(f) > 12 {
			user, _ := strconv.Atoi(f[11])
			system, _ := strconv.Atoi(f[12])
			cpu = time.Duration(user+system) * (time.Second / 100)
		}
	}
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if _, rest, ok := strings.Cut(string(status), "VmHWM:"); ok {
		fmt.Sscan(rest, &memory)
	}
	return cpu, memory
}

// herd lets devices live.
func (s *site) herd(devices []simulate.Device, rate, probe float64) *herd {
	s.t.Helper()
	h := &herd{s: s, ended: make(chan simulate.Result, 1)}
	var ctx context.Context
	ctx, h.cancel = context.WithCancel(context.Background())
	s.t.Cleanup(h.cancel)
	cfg := simulate.Config{Endpoint: s.door("mqtt"), Roots: s.roots, Devices: devices, Rate: rate, QoS: 1, Stages: []int{100}, Dials: 48, Patience: 30 * time.Minute,
		Backoff: device.Backoff{Min: 100 * time.Millisecond, Max: 10 * time.Second}, Agents: &simulate.Agents{Server: "https://" + s.door("device"), Probe: probe}}
	last := ""
	cfg.Progress = func(f simulate.Figures) {
		h.connected.Store(int64(f.Connected))
		if line := figuresLine(f); long() && f.Elapsed/time.Second%20 == 0 && line != last {
			last = line
			fmt.Fprintln(os.Stderr, line)
		}
	}
	go func() {
		out, err := simulate.Run(ctx, cfg)
		if err != nil {
			s.t.Error(err)
		}
		h.ended <- out
	}()
	h.wait(len(devices))
	return h
}

func (h *herd) wait(n int) {
	h.s.t.Helper()
	for end := time.Now().Add(20 * time.Minute); h.connected.Load() < int64(n); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			h.s.t.Fatalf("%d of %d devices are connected", h.connected.Load(), n)
		}
	}
}

// end stops the devices and checks what is true of every run: what a device had in
// use always let it in, and everything that it published was taken.
func (h *herd) end() simulate.Result {
	h.s.t.Helper()
	h.cancel()
	out := <-h.ended
	h.s.t.Logf("agents %+v; %d publishes, ack p50 %.0f ms, p99 %.0f ms, %d connects, %d connections ended, errors %v, %.0f KB of heap a device", *out.Agents, out.Publishes, out.Ack.P50, out.Ack.P99, out.Connects, out.Lost, out.Errors, out.KBDevice)
	if out.Agents.Locked > 0 || out.Agents.Unsent > 0 {
		h.s.t.Errorf("the probe was refused %d times (%q); %d messages were never acknowledged", out.Agents.Locked, out.Agents.Refused, out.Agents.Unsent)
	}
	return out
}

// Issue 6, acceptance 1 (A50): 5,000 devices get new certificates in stages while they
// publish. No device is without one that works, no message is lost, every old one is
// retired, and fsck is clean. The short form is that of package simulate.
func TestA50_FiveThousandRotateWhileTheyPublish(t *testing.T) {
	if !long() {
		t.Skip("make proof runs it; its short form is in package simulate")
	}
	n := 5000
	if v := os.Getenv("HALLMARK_PROOF_DEVICES"); v != "" {
		fmt.Sscan(v, &n)
	}
	s := newSite(t, "software", "", anyName(n+10))
	s.template()
	ear := s.born("EAR", 1)[0]
	ctx := t.Context()
	if _, err := s.server.reged.CreatePolicy(ctx, registry.Policy{Tenant: access.DefaultTenant, Name: "ear", Document: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["iot:Subscribe","iot:Receive"],"Resource":["arn:aws:iot:*:*:topicfilter/dt/*","arn:aws:iot:*:*:topic/dt/*"]}]}`}); err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(ear.Certificate.Certificate[0])
	if err == nil {
		err = s.server.reged.AttachPolicy(ctx, access.Scope{Tenant: access.DefaultTenant}, registry.CertificateTarget(registry.CertificateID(leaf.Raw)), "ear")
	}
	if err == nil { // it listens, and does no jobs
		err = s.server.reged.RemoveFromGroup(ctx, access.Scope{Tenant: access.DefaultTenant}, registry.ThingGroup, demoGroup, fleet.ThingName(ear.Thing))
	}
	if err != nil {
		t.Fatal(err)
	}
	s.halt()
	p := s.service("hallmark.yaml", "state")
	devices := s.born("SN", n)
	// What arrives, by device and number.
	var mu sync.Mutex
	got, total := map[string]map[int]bool{}, 0
	listener, err := mqtt.Dial(ctx, mqtt.Config{Addr: s.door("mqtt"), TLS: mqtt.TLS(ear.Certificate, s.roots, ""), ClientID: ear.Thing, OnMessage: func(m mqtt.Message) {
		var v struct {
			Thing string
			N     int
		}
		if json.Unmarshal(m.Payload, &v) != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if got[v.Thing] == nil {
			got[v.Thing] = map[int]bool{}
		}
		if !got[v.Thing][v.N] {
			got[v.Thing][v.N] = true
			total++
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := listener.Subscribe(ctx, mqtt.Subscription{Filter: "dt/+/telemetry", QoS: 0}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	h := s.herd(devices, min(0.05, 100/float64(n)), 50) // what two cores bear beside it
	t.Logf("%d devices connected in %s", n, time.Since(began).Round(time.Second))
	busy, _ := p.used()
	began = time.Now()
	api := s.api("bob")
	made, err := s.token("platform").CreateCampaignWithResponse(ctx, adminapi.CampaignRequest{Id: "march", Kind: "rotate-certificate", Reason: "expiry", Targets: []string{"thinggroup/" + demoGroup}, SoakSeconds: 20, TimeoutSeconds: 900,
		Stages: []adminapi.CampaignStage{{Name: "first", Percent: 5}, {Name: "half", Percent: 50}}, Rollout: adminapi.JobRollout{MaxPerMinute: 1000}})
	if err != nil || made.JSON201 == nil {
		t.Fatalf("%v %s", err, made.Body)
	}
	for state, last := "", ""; state != "completed"; time.Sleep(2 * time.Second) {
		a, err := api.GetCampaignWithResponse(ctx, "march")
		if err != nil || a.JSON200 == nil {
			t.Fatalf("%v %s", err, a.Body)
		}
		state = a.JSON200.State
		if line := fmt.Sprintf("%s %+v", state, a.JSON200.Members); line != last {
			last = line
			fmt.Fprintf(os.Stderr, "%6.0f s  %s\n", time.Since(began).Seconds(), line)
		}
		if state == "stopped" || time.Since(began) > 30*time.Minute {
			t.Fatalf("%s", a.Body)
		}
	}
	took := time.Since(began)
	cpu, memory := p.used()
	t.Logf("%d devices rotated in %s; the service used %.0f %% of a core and %d MB at most", n, took.Round(time.Second), 100*(cpu-busy).Seconds()/took.Seconds(), memory>>10)
	out := h.end()
	if out.Agents.Jobs["SUCCEEDED connected"] != uint64(n) {
		t.Errorf("%d devices said that they rotated: %v", out.Agents.Jobs["SUCCEEDED connected"], out.Agents.Jobs)
	}
	eventuallyIs(t, "what was acknowledged arrived", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return uint64(total) >= out.Publishes
	})
	mu.Lock()
	for thing, list := range got {
		for i := 1; i <= len(list); i++ {
			if !list[i] {
				t.Errorf("%s: message %d did not arrive", thing, i)
			}
		}
	}
	mu.Unlock()
	a, err := api.GetCampaignWithResponse(ctx, "march")
	if err != nil || a.JSON200 == nil {
		t.Fatal(err)
	}
	t.Logf("at the end: %+v; %d messages arrived", a.JSON200.Members, total)
	var retired atomic.Int64
	var wg sync.WaitGroup
	turns := make(chan struct{}, 8)
	for _, d := range devices {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			leaf, err := x509.ParseCertificate(d.Certificate.Certificate[0])
			if err != nil {
				t.Error(err)
				return
			}
			r, err := api.GetCertificateWithResponse(ctx, fmt.Sprintf("%040x", leaf.SerialNumber))
			if err == nil && r.JSON200 != nil && r.JSON200.Status == "revoked" {
				retired.Add(1)
			}
		})
	}
	wg.Wait()
	if retired.Load() != int64(n) {
		t.Errorf("%d of %d old certificates are retired", retired.Load(), n)
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	s.clean()
}

// Issue 6, acceptance 5: the key of the authority that makes operational certificates
// leaked. Devices that are connected get new certificates of another authority while
// they publish, and the service is killed in the middle of it; the others are put on
// hold, and come back as their birth certificates once the old ones are revoked. S36
func TestS36_ACompromisedIssuerIsRotatedAway(t *testing.T) {
	if !long() {
		t.Skip("half a minute: a part of make proof")
	}
	n, rate, probe := 10_000, 0.05, 100.0
	if v := os.Getenv("HALLMARK_PROOF_DEVICES"); v != "" {
		fmt.Sscan(v, &n)
	}
	awake := n * 7 / 10
	s := newSite(t, "software", "", anyName(n+10))
	s.template()
	platform := s.token("platform")
	made, err := platform.CreatePrincipalWithResponse(t.Context(), adminapi.PrincipalRequest{Name: "carol", Role: "security-officer", Days: 1})
	if err != nil || made.JSON201 == nil {
		t.Fatalf("%v %s", err, made.Body)
	}
	s.successor("device-2", "Example Device CA 2")
	s.decided("ca", "serve", "set", "--serves", "ldevid", "--authority", "device-2")
	devices := s.born("SN", n)
	s.successor("device-3", "Example Device CA 3")
	issuer := func(d simulate.Device) string {
		raw, err := os.ReadFile(filepath.Join(d.Dir, "ldevid.pem"))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(raw)
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return c.Issuer.CommonName
	}
	if got := issuer(devices[0]); got != "Example Device CA 2" {
		t.Fatalf("the devices' certificates are of %s", got)
	}
	// The time line.
	t0 := time.Now()
	var line []string
	mark := func(format string, args ...any) {
		line = append(line, fmt.Sprintf("%7.1f s  %s", time.Since(t0).Seconds(), fmt.Sprintf(format, args...)))
		fmt.Fprintln(os.Stderr, line[len(line)-1])
	}
	bob := func() *adminapi.ClientWithResponses { return s.api("bob") }
	carol := func() *adminapi.ClientWithResponses {
		c, err := adminClient("https://"+s.door("people"), made.JSON201.Token, s.path("state", "ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	plan := func(status int, body []byte, v *adminapi.RevocationPlan, err error) *adminapi.RevocationPlan {
		t.Helper()
		if err != nil || v == nil {
			t.Fatalf("%d %s %v", status, body, err)
		}
		return v
	}
	ask := adminapi.RevocationPlanRequest{Authority: "device-2", Reason: "cessationOfOperation", Note: "issuing key leaked", Rotate: true, RotateTimeoutSeconds: 900, RotateSoakSeconds: 1}
	first, err := bob().MakeRevocationPlanWithResponse(t.Context(), ask)
	v := plan(first.StatusCode(), first.Body, first.JSON200, err)
	approve := func(stage, hash string) {
		t.Helper()
		a, err := carol().ApproveRevocationPlanWithResponse(t.Context(), v.Id, adminapi.RevocationPlanApprovalRequest{Stage: stage, Hash: hash})
		plan(a.StatusCode(), a.Body, a.JSON200, err)
		mark("%s approved by a second person", stage)
	}
	start := func(stage string, want int) string {
		t.Helper()
		a, err := bob().RunRevocationPlanWithResponse(t.Context(), v.Id, adminapi.RevocationPlanRun{Stage: stage})
		if err != nil || a.StatusCode() != want {
			t.Fatalf("stage %s: %d, want %d: %s %v", stage, a.StatusCode(), want, a.Body, err)
		}
		if want == http.StatusOK {
			mark("stage %s started", stage)
		}
		return string(a.Body)
	}
	await := func(what string, ready func(*adminapi.RevocationPlan) bool) *adminapi.RevocationPlan {
		t.Helper()
		var x *adminapi.RevocationPlan
		for end := time.Now().Add(30 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			a, err := bob().GetRevocationPlanWithResponse(t.Context(), v.Id)
			if x = plan(a.StatusCode(), a.Body, a.JSON200, err); ready(x) {
				return x
			}
		}
		t.Fatalf("not in time: %s: %+v", what, x)
		return nil
	}
	over := func(x *adminapi.RevocationPlan) bool { return x.State != "running" }
	// While the authority still issues, new certificates would be no better; and
	// nothing is rotated that nobody else has seen.
	if body := start("rotate", http.StatusConflict); !strings.Contains(body, "rotation-same-authority") {
		t.Errorf("%s", body)
	}
	s.decided("ca", "serve", "set", "--serves", "ldevid", "--authority", "device-3")
	start("rotate", http.StatusForbidden)
	s.halt()
	p := s.service("hallmark.yaml", "state")
	h := s.herd(devices[:awake], rate, probe)
	// The last of them may not be in the database yet.
	ask.DryRun = true
	eventuallyIs(t, "the service knows who is connected", func() bool {
		a, err := bob().MakeRevocationPlanWithResponse(t.Context(), ask)
		return plan(a.StatusCode(), a.Body, a.JSON200, err).Counts.Live == int64(awake)
	})
	t0 = time.Now()
	mark("planned: %d certificates of %d devices, %d connected", v.Counts.Certificates, v.Counts.Devices, awake)

	start("hold", http.StatusOK)
	x := await("hold", over)
	mark("stage hold ended: %d on hold, %d connected devices left alone", x.Reports[0].Changed, x.Reports[0].Already)
	others := v.Counts.Certificates - int64(n) // the authority's responder has one too
	if r := x.Reports[0]; r.Changed != int64(n-awake)+others || r.Already != int64(awake) {
		t.Errorf("hold: %+v, want %d", r, int64(n-awake)+others)
	}
	approve("rotate", v.RotateHash)
	start("rotate", http.StatusOK)
	await("devices rotate", func(x *adminapi.RevocationPlan) bool { return x.Reports[1].Waiting > 0 || x.State != "running" })
	p.kill()
	mark("the service is killed")
	p = s.service("hallmark.yaml", "state")
	mark("the service is back")
	for quarter, done := int64(1), false; !done; {
		x = await("rotate", func(x *adminapi.RevocationPlan) bool {
			return x.State != "running" || x.Reports[1].Rotated*4 >= quarter*int64(awake)
		})
		mark("%d devices rotated, %d under way", x.Reports[1].Rotated, x.Reports[1].Waiting)
		quarter = x.Reports[1].Rotated*4/int64(awake) + 1
		if done = quarter > 4 || over(x); done && !over(x) {
			x = await("rotate ends", over)
		}
	}
	mark("stage rotate ended: %d devices rotated, %d certificates put on hold", x.Reports[1].Rotated, x.Reports[1].Held)
	if r := x.Reports[1]; x.State != "ready" || r.Rotated != int64(awake) || r.Held != 0 || r.Failed != 0 {
		t.Errorf("rotate: %+v", x)
	}
	approve("revoke", v.RevokeHash)
	start("revoke", http.StatusOK)
	x = await("revoke", over)
	mark("stage revoke ended: %d revoked, %d were retired already", x.Reports[2].Changed, x.Reports[2].Already)
	if r := x.Reports[2]; x.State != "done" || r.Changed != int64(n-awake)+others || r.Already != int64(awake) || r.Late != 0 || r.Blocked != 0 {
		t.Errorf("revoke: %+v", x)
	}
	h.wait(awake)
	h.end()
	for _, d := range devices[:awake] {
		if got := issuer(d); got != "Example Device CA 3" {
			t.Fatalf("%s has a certificate of %s", d.Thing, got)
		}
	}
	// Who slept wakes up, is refused, and comes back as its birth certificate.
	asleep := s.herd(devices[awake:], 0, 0)
	mark("%d devices that slept are back", n-awake)
	asleep.end()
	for _, d := range devices[awake:] {
		if got := issuer(d); got != "Example Device CA 3" {
			t.Fatalf("%s has a certificate of %s", d.Thing, got)
		}
	}
	t.Logf("the time line:\n%s", strings.Join(line, "\n"))
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	s.clean()
}
