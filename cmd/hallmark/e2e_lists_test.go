package main

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/api/adminapi"
	"hallmark/device/mqtt"
	"hallmark/provisioner"
)

// TestLists_AreOperated is the day of whoever runs revocation, against one service:
// a list of another CA takes that CA's device off within seconds (S19), lists are
// published on demand and reach another place after it came back, metrics and
// health say how it goes, and the practice statement says what is configured.
func TestLists_AreOperated_S19(t *testing.T) {
	their := newTheirCA(t, "Their CA")
	var down atomic.Bool
	place := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(place.Close)
	file := filepath.Join(t.TempDir(), "their.crl")
	number := int64(0)
	list := func(revoked ...*big.Int) {
		t.Helper()
		number++
		l := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour)}
		for _, s := range revoked {
			l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: l.ThisUpdate, ReasonCode: 4})
		}
		der, err := x509.CreateRevocationList(rand.Reader, l, their.cert, their.key)
		if err == nil {
			err = os.WriteFile(file+".new", der, 0o600)
		}
		if err == nil {
			err = os.Rename(file+".new", file)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	list()
	w := newChangedSite(t, quickHSM(), "", anyName(1), func(s *site) {
		name := s.path("hallmark.yaml")
		text, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(s.path("their.pem"), []byte(their.pem), 0o600)
		}
		if err == nil {
			lists := fmt.Sprintf("\nlists:\n  deltas: true\n  filters: 24h\n  destinations: [{url: %q}]\n  import: [{name: theirs, ca: their.pem, file: %q, every: 1s}]\n", place.URL, file)
			err = os.WriteFile(name, append(text, lists...), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	ctx, platform, bob := t.Context(), w.platform(), w.api("bob")
	metric := func(name string) string {
		t.Helper()
		text, err := fetch("http://" + w.door("metrics") + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta("hallmark_"+name) + ` (\S+)$`).FindSubmatch(text)
		if m == nil {
			return ""
		}
		return string(m[1])
	}

	p, err := bob.CreatePolicyWithResponse(ctx, adminapi.DevicePolicyRequest{Name: "own-topics", Document: ownTopics})
	if err != nil || p.StatusCode() >= 300 {
		t.Fatalf("%v %s", err, p.Body)
	}
	tm, err := platform.PutTemplateWithResponse(ctx, "their-lamps", adminapi.TemplateRequest{Kind: provisioner.JITPKind, Body: jitpBody})
	got(t, tm.JSON200, tm.StatusCode(), tm.Body, err)
	code, err := bob.GetRegistrationCodeWithResponse(ctx)
	word := got(t, code.JSON200, code.StatusCode(), code.Body, err)
	ca, err := bob.RegisterCAWithResponse(ctx, adminapi.RegisteredCARequest{Certificate: their.pem, Verification: pemCert(their.sign(word.Code).Certificate[0]), Active: true, AutoRegistration: true, Template: "their-lamps"})
	got(t, ca.JSON201, ca.StatusCode(), ca.Body, err)
	conns := map[string]*mqtt.Conn{}
	lamps := map[string]*big.Int{}
	for _, name := range []string{"L-1", "L-2"} {
		lamp := their.sign(name)
		lamps[name] = lamp.Leaf.SerialNumber
		eventually(t, name, func() bool {
			c, err := w.dialWith(lamp, name, mqtt.V311)
			conns[name] = c
			return err == nil
		})
		defer conns[name].Close()
		if name == "L-1" {
			defer func() {
				if c, err := w.dialWith(lamp, name, mqtt.V311); err == nil {
					c.Close()
					t.Error("the revoked device is back")
				}
			}()
		}
	}
	if n := metric("revoked_still_connected"); n != "0" {
		t.Errorf("revoked and connected: %s", n)
	}
	start := time.Now()
	list(lamps["L-1"])
	select {
	case <-conns["L-1"].Done():
		t.Logf("taken off after %s", time.Since(start).Round(time.Millisecond))
	case <-time.After(20 * time.Second):
		t.Fatal("the revoked device is still connected")
	}
	eventually(t, "nobody revoked is connected", func() bool { return metric("revoked_still_connected") == "0" })
	select {
	case <-conns["L-2"].Done():
		t.Errorf("the other device was taken off: %v", conns["L-2"].Err())
	default:
	}

	// On demand, and to a place that is away for a while.
	run := func(want int, args ...string) string {
		t.Helper()
		args = append(args, "--server", "https://"+w.door("people"), "--ca-file", w.path("state", "ca.pem"))
		out, errOut, exit := w.cli(args...)
		if exit != want {
			t.Fatalf("%v: %d %s%s", args, exit, out, errOut)
		}
		return out
	}
	var made, before []adminapi.List
	decode := func(text string, v any) {
		t.Helper()
		if err := json.Unmarshal([]byte(text), v); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	decode(run(0, "crl", "list"), &before)
	decode(run(0, "crl", "publish", "--ca", "device-1", "--wait", "--timeout", "30s"), &made)
	if len(made) != 1 || made[0].Authority != "device-1" || made[0].Size == 0 {
		t.Fatalf("%+v", made)
	}
	for _, l := range before {
		if l.Authority == "device-1" && made[0].Number <= l.Number {
			t.Errorf("list %d after %d", made[0].Number, l.Number)
		}
	}
	down.Store(true)
	run(1, "crl", "publish", "--ca", "infra-1", "--wait", "--timeout", "300ms")
	var places []adminapi.ListDestination
	decode(run(0, "crl", "destinations"), &places)
	if len(places) != 1 || places[0].Pending == 0 || places[0].Sent == 0 || places[0].Failed == 0 || places[0].LastSuccess.IsZero() || !strings.Contains(places[0].Fault, "503") {
		t.Errorf("%+v", places)
	}
	var sum adminapi.Summary
	a, err := bob.GetSummaryWithResponse(ctx)
	sum = *got(t, a.JSON200, a.StatusCode(), a.Body, err)
	seen := map[string]string{}
	for _, c := range sum.Checks {
		seen[c.Name] = c.Status
	}
	if seen["lists to "+place.URL] != "warning" || seen["list of theirs"] != "ok" {
		t.Errorf("health: %v", seen)
	}
	down.Store(false)
	run(0, "crl", "publish", "--wait") // of all authorities, when the place is tried again
	places = nil                       // what is absent does not replace what was there
	if decode(run(0, "crl", "destinations"), &places); places[0].Pending != 0 || places[0].Fault != "" {
		t.Errorf("%+v", places)
	}
	run(0, "crl", "show", "device-1")
	run(1, "crl", "show", "device-1", "--shard", "5")
	run(1, "crl", "publish", "--ca", "nobody")
	run(1, "crl", "publish", "--ca", "root-1")
	var imports []adminapi.ListImport
	decode(run(0, "crl", "imports"), &imports)
	if len(imports) != 1 || imports[0].Number != "2" || imports[0].Entries != 1 || !imports[0].Current {
		t.Errorf("%+v", imports)
	}
	label := func(name, label, value string) string { return name + `{` + label + `="` + value + `"}` }
	for name, want := range map[string]string{
		label("crl_import_current", "source", "theirs"): "1", label("crl_import_entries", "source", "theirs"): "1", label("crl_destination_pending", "destination", place.URL): "0",
		label("crl_destination_behind_seconds", "destination", place.URL): "0", label("crl_entries", "authority", "device-1"): "0", label("crl_deltas", "authority", "device-1"): "1", "crl_rollbacks_total": "0",
	} {
		if got := metric(name); got != want {
			t.Errorf("%s is %q, want %s", name, got, want)
		}
	}
	for _, name := range []string{label("crl_age_seconds", "authority", "device-1"), label("crl_expiry_seconds", "authority", "device-1"), label("crl_bytes", "authority", "infra-1"), label("crl_delta_bytes", "authority", "device-1"),
		label("crl_destination_age_seconds", "destination", place.URL), label("crl_destination_failures_total", "destination", place.URL), label("crl_import_age_seconds", "source", "theirs"), label("crl_import_expiry_seconds", "source", "theirs")} {
		if metric(name) == "" {
			t.Errorf("there is no %s", name)
		}
	}
	eventually(t, "a filter", func() bool { return metric(label("crl_filter_bytes", "authority", "device-1")) != "" })
	// The alert rules are about metrics that there are.
	rules, err := os.ReadFile("../../docs/alerts-revocation.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all, err := fetch("http://" + w.door("metrics") + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`hallmark_\w+`).FindAllString(string(rules), -1) {
		if !regexp.MustCompile(`(?m)^` + name + `[{ ]`).Match(all) {
			t.Errorf("an alert is about %s, which there is not", name)
		}
	}
	w.statement(run)
}

// statement has the practice statement written, and holds it against the service.
func (s *site) statement(run func(want int, args ...string) string) {
	s.t.Helper()
	text := map[string]string{}
	for _, name := range []string{"cps.md", "cps.html"} {
		run(0, "cps", "--out", s.path(name))
		b, err := os.ReadFile(s.path(name))
		if err != nil {
			s.t.Fatal(err)
		}
		text[name] = string(b)
	}
	root := readCert(s.t, s.path("pki", "root.pem"))
	for name, t := range text {
		for i, chapter := range cpsOutline { // RFC 3647, Section 6
			if !strings.Contains(t, fmt.Sprintf("%d. %s", i+1, chapter.title)) {
				s.t.Errorf("%s lacks the chapter %s", name, chapter.title)
			}
		}
		for _, want := range []string{"device-1", "infra-1", root.Subject.CommonName, "ECDSA P-256", "lists, delta lists, compact filters", "every 1 day; its changes every 1 hour", "half of its 7 days", "security-officer", "order.approve",
			"ldevid", "2 years", "certificateHold", "bob", "To be written:", s.server.cfg.PolicyArc + ".1.5"} {
			if name == "cps.md" {
				want = strings.ReplaceAll(want, "To be written:", "**To be written:**")
			}
			if !strings.Contains(t, want) {
				s.t.Errorf("%s does not say %q", name, want)
			}
		}
	}
	for _, number := range []string{"1.1", "4.12", "5.8", "9.17"} {
		if !strings.Contains(text["cps.md"], "\n### "+number+" ") || !strings.Contains(text["cps.html"], ">"+number+" ") {
			s.t.Errorf("section %s is missing", number)
		}
	}
	if out := run(0, "cps", "--out", "-"); !strings.HasPrefix(out, "# Certificate policy") {
		s.t.Errorf("%.100s", out)
	}
	run(2, "cps", "--out", "x", "--format", "pdf")
	// What people wrote into it since is not written over.
	if err := os.WriteFile(s.path("cps.md"), []byte("our text"), 0o644); err != nil {
		s.t.Fatal(err)
	}
	run(1, "cps", "--out", s.path("cps.md"))
	if b, err := os.ReadFile(s.path("cps.md")); err != nil || string(b) != "our text" {
		s.t.Errorf("the text of the operator: %q %v", b, err)
	}
}
