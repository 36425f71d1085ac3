package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/api/adminapi"
	"hallmark/ca/ceremony"
	"hallmark/ca/profile"
	"hallmark/device"
	"hallmark/hsm"
)

// as runs a command as a person and reads what it prints.
func as[T any](s *site, person string, args ...string) (v T) {
	s.t.Helper()
	code, out, errOut := s.person(person, "", append(args, "--json")...)
	if code != exitOK || json.Unmarshal([]byte(out), &v) != nil {
		s.t.Fatalf("hallmark %s by %s: exit %d\n%s%s", strings.Join(args, " "), person, code, out, errOut)
	}
	return v
}

// before waits for what a command says; each look costs a whole command.
func (s *site) before(what string, is func() bool) {
	s.t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("not within a minute: %s", what)
		}
	}
}

// two has bob approve what platform asked for; who asked cannot.
func (s *site) two(request string) {
	s.t.Helper()
	if code, _, errOut := s.person("platform", "", "approval", "approve", request, "--yes", "--json"); code != exitFault || !strings.Contains(errOut, "approval-self") {
		s.t.Errorf("who asked approves (S36): exit %d %s", code, errOut)
	}
	if code, out, errOut := s.person("bob", "", "approval", "approve", request, "--yes", "--json"); code != exitOK {
		s.t.Fatalf("approve: exit %d\n%s%s", code, out, errOut)
	}
}

// otherRoot holds the ceremony of a second root, which the first one certifies and the
// other way round, and stores all of it with the commands.
func (s *site) otherRoot() {
	s.t.Helper()
	ctx := s.t.Context()
	ring := hsm.Open(hsm.Config{})
	defer ring.Close()
	must := func(r *ceremony.Result, err error) *ceremony.Result {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
		return r
	}
	offline := func(before []byte) *ceremony.Ceremony {
		c, err := ceremony.New(ceremony.Config{Keys: ring, Previous: before, Development: true})
		if err != nil {
			s.t.Fatal(err)
		}
		return c
	}
	base, key := s.cfg.BaseURL, s.keyURI("root-2")
	root := must(offline(nil).CreateRoot(ctx, ceremony.RootRequest{Name: "root-2", BaseURL: base, KeyURI: key, Generate: true, Algorithm: hsm.P256, Subject: profile.Subject{Organization: "Hallmark Demo", CommonName: "Hallmark Demo Root 2"}}))
	list := must(offline(root.TranscriptJSON).SignRootCRL(ctx, ceremony.ListRequest{RootCert: root.CertificateDER, KeyURI: key, RootName: "root-2", BaseURL: base, First: true}))
	cross := func(name, uri, signer string, by, of []byte) []byte {
		c := offline(nil)
		p, err := c.PlanCross(ctx, ceremony.CrossRequest{RootCert: by, KeyURI: uri, RootName: signer, BaseURL: base, Other: of, Name: name})
		if err != nil {
			s.t.Fatal(err)
		}
		return must(c.Execute(ctx, p, "yes")).CertificatePEM
	}
	put := func(name string, b []byte) string {
		if err := os.WriteFile(s.path("pki", name), b, 0o644); err != nil {
			s.t.Fatal(err)
		}
		return s.path("pki", name)
	}
	for _, args := range [][]string{
		{"ca", "root", "--name", "root-2", "--certificate", put("root-2.pem", root.CertificatePEM), "--list", put("root-2.crl", list.ListPEM)},
		{"ca", "cross", "add", "--name", "root-2-by-root-1", "--certificate", put("2-by-1.pem", cross("root-2-by-root-1", s.keyURI("root"), "root-1", s.rootPEM, root.CertificatePEM))},
	} {
		if code, out, errOut := s.person("platform", "", args...); code != exitOK {
			s.t.Fatalf("%v: exit %d\n%s%s", args, code, out, errOut)
		}
	}
	put("1-by-2.pem", cross("root-1-by-root-2", key, "root-2", root.CertificatePEM, s.rootPEM)) // of the switch
}

// TestOTA_FirmwareAndRootsByCommands: firmware is signed, published, released and rolled
// out, a bad build goes no further than its first device, which runs the safe version
// again; then the root that devices trust is replaced through every gate. All of it with
// the commands that people type, two of them, against a service and devices that are
// processes of their own. S36 S40
func TestOTA_FirmwareAndRootsByCommands_S36_S40(t *testing.T) {
	var signer string
	s := newChangedSite(t, quickHSM(), "", anyName(2), func(s *site) {
		signer = s.keyURI("firmware")
		for _, args := range [][]string{{"hsm", "generate", signer}, {"ota", "key", signer, "--out", s.path("firmware-keys.pem")}} {
			if out, errOut, exit := s.cli(args...); exit != exitOK {
				t.Fatalf("%v: %s%s", args, out, errOut)
			}
		}
		text, err := os.ReadFile(s.path("hallmark.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.Replace(text, []byte("one_person: true\n"), nil, 1)
		text = bytes.Replace(text, []byte("fleet:\n"), []byte("fleet:\n  firmware: {trust: firmware-keys.pem}\n"), 1)
		if err := os.WriteFile(s.path("hallmark.yaml"), text, 0o644); err != nil {
			t.Fatal(err)
		}
	})
	check := s.path("check")
	if err := os.WriteFile(check, []byte("#!/bin/sh\n! head -c 3 \"$2\" | grep -q bad\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	names := []string{"F-1", "F-2"}
	for _, n := range names {
		dir := s.path("devices", n)
		writeDevice(t, dir, s.issue(newUnit(t, n)))
		if _, err := device.FirstBoot(t.Context(), device.Config{Dir: dir, Server: "https://" + s.door("device"), Roots: s.roots}); err != nil {
			t.Fatal(err)
		}
		s.spawn("device", "run", dir, "--endpoint", s.door("mqtt"), "--url", "https://"+s.door("device"), "--ca-file", s.path("pki", "root.pem"), "--json", "--max-backoff", "200ms",
			"--firmware-trust", s.path("firmware-keys.pem"), "--firmware-class", "lamp", "--firmware-hardware", "rev-a", "--firmware-version", "1.0", "--firmware-check", check)
	}

	// Firmware: a good build, then a bad one.
	publish := func(version, text string) {
		t.Helper()
		image, manifest := s.path("lamp-"+version), s.path("lamp-"+version+".manifest")
		if err := os.WriteFile(image, append([]byte(text), make([]byte, 2*uploadPart)...), 0o644); err != nil {
			t.Fatal(err)
		}
		as[struct{}](s, "platform", "ota", "sign", image, "--class", "lamp", "--version", version, "--floor", version, "--hardware", "rev-a", "--expires", "2099-12-31", "--key", signer, "--out", manifest)
		as[struct{}](s, "platform", "ota", "inspect", manifest, image, "--trust", s.path("firmware-keys.pem"))
		a := as[adminapi.Firmware](s, "platform", "ota", "publish", manifest, image)
		if a.State != "awaiting-approval" || a.Request == "" {
			t.Fatalf("published: %+v", a)
		}
		if code, _, errOut := s.person("platform", "", "ota", "rollout", "lamp", version, "--name", "too-early", "--thing", "F-1"); code != exitFault || !strings.Contains(errOut, "firmware-state") {
			t.Errorf("a roll-out of what is not released: exit %d %s", code, errOut)
		}
		s.two(a.Request)
	}
	rollout := func(version, name string, more ...string) {
		t.Helper()
		c := as[adminapi.Campaign](s, "platform", append([]string{"ota", "rollout", "lamp", version, "--name", name, "--thing", "F-1", "--thing", "F-2", "--healthy", "1s"}, more...)...)
		if c.State != "awaiting-approval" {
			t.Fatalf("one person rolls out: %s", c.State)
		}
		s.two(c.Request)
	}
	members := func(campaign, state string) (out []adminapi.CampaignMember) {
		return as[[]adminapi.CampaignMember](s, "platform", "campaign", "members", campaign, "--state", state)
	}
	publish("1.1", "good")
	rollout("1.1", "lamps-1-1")
	s.before("both devices run 1.1", func() bool { return len(members("lamps-1-1", "done")) == 2 })
	publish("1.2", "bad")
	rollout("1.2", "lamps-1-2", "--stage", "one:50:1h", "--stage", "all:100", "--abort", "FAILED:10:1")
	s.before("the bad build stops its campaign", func() bool {
		return as[adminapi.Campaign](s, "platform", "ota", "status", "lamps-1-2").State == "stopped"
	})
	if bad := members("lamps-1-2", "failed"); len(bad) != 1 || bad[0].Code != "firmware-not-healthy" {
		t.Errorf("%+v", bad)
	}
	if a := as[adminapi.Firmware](s, "platform", "ota", "withdraw", "lamp", "1.2"); a.State != "withdrawn" {
		t.Errorf("%+v", a)
	}
	for _, n := range names {
		var boots struct {
			Slot   string
			Images map[string]struct{ Version string }
		}
		b, err := os.ReadFile(s.path("devices", n, "firmware.json"))
		if err != nil || json.Unmarshal(b, &boots) != nil || boots.Images[boots.Slot].Version != "1.1" {
			t.Errorf("%s boots %s %v", n, b, err)
		}
	}
	s.refusedBy("firmware-url-foreign", "job", "create", "--id", "elsewhere", "--thing", "F-1", "--document", `{"url":"${aws:iot:s3-presigned-url:https://example.com/x}"}`)

	// The root.
	s.otherRoot()
	flags := []string{"--from", "root-1", "--to", "root-2", "--thing", "F-1", "--thing", "F-2"}
	as[adminapi.TrustRolloverPlan](s, "platform", append([]string{"trust", "rollover", "plan", "r2"}, flags...)...)
	plan := as[adminapi.Plan](s, "platform", append([]string{"trust", "rollover", "start", "r2", "--soak", "1s", "--wait", "1s", "--keep", "1h", "--added", "100", "--yes"}, flags...)...)
	if len(plan.Requests) != 1 {
		t.Fatalf("%+v", plan)
	}
	s.two(plan.Requests[0].Id)
	passes := func(phase string) {
		t.Helper()
		s.before("the gate to "+phase, func() bool {
			return as[adminapi.TrustRollover](s, "platform", "trust", "rollover", "status", "r2").Open
		})
		if r := as[adminapi.TrustRollover](s, "platform", "trust", "rollover", "advance", "r2"); r.Phase != phase {
			t.Fatalf("%s, not %s", r.Phase, phase)
		}
	}
	code, _, errOut := s.person("platform", "", "trust", "rollover", "advance", "r2")
	if code == exitOK || !strings.Contains(errOut, "trust-gate-closed") {
		t.Errorf("a gate that nobody confirmed: exit %d %s", code, errOut)
	}
	passes("switching")
	if code, _, errOut := s.person("platform", "", "trust", "rollover", "advance", "r2"); code == exitOK || !strings.Contains(errOut, "leads to root-2") {
		t.Errorf("a switch that was not made: exit %d %s", code, errOut)
	}
	if code, out, errOut := s.person("platform", "", "ca", "cross", "add", "--name", "root-1-by-root-2", "--certificate", s.path("pki", "1-by-2.pem")); code != exitOK {
		t.Fatalf("exit %d\n%s%s", code, out, errOut)
	}
	passes("waiting")
	passes("removing")
	metrics := func() string {
		r, err := http.Get("http://" + s.door("metrics") + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, want := range []string{`hallmark_trust_rollovers{phase="removing"} 1`, `hallmark_firmware_versions{state="released"} 1`, `hallmark_firmware_versions{state="withdrawn"} 1`, "hallmark_firmware_versions_below_floor 0",
		`hallmark_trust_rollover_gate_seconds{phase="removing",rollover="r2",tenant="main"} `} {
		if text := metrics(); !strings.Contains(text, want) {
			t.Errorf("the metrics do not say %s", want)
		}
	}
	// These are counted once a minute.
	counted := []string{`hallmark_trust_rollover_confirmed_ratio{phase="removing",rollover="r2",tenant="main"} 1`, `hallmark_trust_rollover_gate_open{phase="removing",rollover="r2",tenant="main"} 1`, "hallmark_firmware_devices_below_floor 0"}
	missing := func(text string) bool {
		return slices.ContainsFunc(counted, func(want string) bool { return !strings.Contains(text, want) })
	}
	for end := time.Now().Add(5 * time.Minute); missing(metrics()); time.Sleep(time.Second) {
		if time.Now().After(end) {
			t.Fatalf("the metrics do not say %q:\n%s", counted, metrics())
		}
	}
	passes("sleepers")
	passes("done")
	for _, n := range names {
		b := as[adminapi.TrustBundle](s, "platform", "trust", "show", n)
		state := as[adminapi.TrustState](s, "platform", "trust", "show")
		i := slices.IndexFunc(state.Roots, func(r adminapi.TrustRoot) bool { return r.Name == "root-2" })
		if i < 0 || !slices.Equal(b.Roots, []string{state.Roots[i].Id}) {
			t.Errorf("%s trusts %v", n, b.Roots)
		}
	}
	// A device that is new is told what the others trust.
	dir := s.path("devices", names[0])
	if _, err := device.FirstBoot(context.Background(), device.Config{Dir: dir, Server: "https://" + s.door("device"), Roots: s.roots, Renew: true}); err != nil {
		t.Fatal(err)
	}
	var told struct {
		Bundle [][]byte `json:"trust_bundle"`
	}
	b, err := os.ReadFile(filepath.Join(dir, "registration.json"))
	if err != nil || json.Unmarshal(b, &told) != nil || len(told.Bundle) != 1 {
		t.Errorf("a registration tells of %d roots: %v", len(told.Bundle), err)
	}
}
