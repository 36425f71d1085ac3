package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/api/adminapi"
	"hallmark/api/factoryapi"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/internal/lane"
	"hallmark/station/uplink"
)

// asker sends requests as the enrolled station.
type asker struct {
	*site
	t      testing.TB
	client *http.Client
}

func newAsker(t testing.TB, s *site) *asker {
	cert := s.stationPair()
	return &asker{s, t, s.client(&cert, 8)}
}

func (a *asker) issueUnit(u unit) (reply, factoryapi.IssueAnswer) {
	a.t.Helper()
	r, err := call(context.Background(), a.client, "POST", "https://"+a.door("factory")+"/factory/v1/units/issue", u.request())
	if err != nil {
		a.t.Fatal(err)
	}
	var v factoryapi.IssueAnswer
	if r.status == http.StatusOK {
		if err := json.Unmarshal(r.body, &v); err != nil {
			a.t.Fatal(err)
		}
	}
	return r, v
}

func (a *asker) wants(what string, got reply, want string) {
	a.t.Helper()
	if got.String() != want {
		a.t.Errorf("%s: %s, want %s: %s", what, got, want, got.body)
	}
}

// TestS9_ARequestIsItsIdentity covers S9, A41 and S5: tenant, order, profile, unit
// and key are the idempotency key. The same gives the same octets, also after a
// restart and a day; another key replaces before installation, counted, and is
// rework after it; what was taken back is not handed out again.
func TestS9_ARequestIsItsIdentity(t *testing.T) {
	o := anyName(20)
	o.Serials.Pattern = "[A-Za-z0-9-]+"
	s := newSite(t, "software", "", o)
	a := newAsker(t, s)
	u := newUnit(t, "SN-1")
	r, first := a.issueUnit(u)
	a.wants("the first time", r, "200")
	same := func(when string) {
		t.Helper()
		r, v := a.issueUnit(u)
		a.wants(when, r, "200")
		if !bytes.Equal(v.Certificate, first.Certificate) || !v.Replayed || v.Leaf != first.Leaf {
			t.Errorf("%s: other octets", when)
		}
	}
	same("again")
	again := u // the same key in another CSR is the same request
	again.csr = asRequestOf(t, u.key, "SOMETHING-ELSE")
	if r, v := a.issueUnit(again); r.status != http.StatusOK || !bytes.Equal(v.Certificate, first.Certificate) {
		t.Errorf("the same key in another CSR: %s", r)
	}
	s.again2()
	same("after a restart")
	begun := newUnit(t, "SN-0") // until the end
	kept := s.issueAnswer(begun)

	// S5: where the key comes from is in the certificate, the record and the log.
	leaf := must(x509.ParseCertificate(first.Certificate))
	arc := fmt.Sprintf("%s.2.%d", profile.DefaultArc, profile.OriginClaimed.Arc())
	if !slices.ContainsFunc(leaf.PolicyIdentifiers, func(o asn1.ObjectIdentifier) bool { return o.String() == arc }) {
		t.Errorf("no policy of %v is %s", leaf.PolicyIdentifiers, arc)
	}
	c, err := s.api("bob").GetCertificateWithResponse(t.Context(), first.Serial)
	if err != nil || c.JSON200 == nil || c.JSON200.Origin != "claimed" {
		t.Errorf("the record: %v %s", err, c.Body)
	}
	if r, err := s.api("ann").CreateOrderWithResponse(t.Context(), adminapi.OrderRequest{Id: "NO-ORIGIN", Product: "p", Quantity: 1, Serials: adminapi.SerialRule{Pattern: ".*"}}); err != nil || r.StatusCode() != http.StatusBadRequest {
		t.Errorf("an order that does not say where keys come from: %v %d", err, r.StatusCode())
	}

	// Another key before installation: it replaces, as often as is allowed.
	used := s.order(siteOrder).Used
	rekeys := 0
	last := unit{}
	for ; rekeys < 20; rekeys++ {
		k := newUnit(t, u.name)
		r, _ := a.issueUnit(k)
		if r.status != http.StatusOK {
			a.wants("one key too many", r, "429 identity-rekeys-exhausted")
			break
		}
		if last = k; rekeys == 0 {
			r, _ = a.issueUnit(u)
			a.wants("a replaced key", r, "409 identity-revoked")
		}
	}
	if rekeys == 0 || rekeys == 20 {
		t.Errorf("%d keys were taken", rekeys)
	}
	if now := s.order(siteOrder).Used; now != used {
		t.Errorf("new keys took %d units", now-used)
	}
	if r, v := a.issueUnit(last); r.status != http.StatusOK || !v.Replayed {
		t.Errorf("the last key: %s", r)
	}
	// One key, two units (A15).
	r, _ = a.issueUnit(unit{"SN-2", last.key, last.csr})
	a.wants("another unit's key", r, "409 key-in-use")

	// After installation a new key is rework.
	done := newUnit(t, "SN-3")
	s.commits(t, done)
	r, _ = a.issueUnit(newUnit(t, "SN-3"))
	a.wants("a new key on an installed unit", r, "409 identity-rework-required")
	if r, v := a.issueUnit(done); r.status != http.StatusOK || !v.Replayed {
		t.Errorf("an installed unit's own request: %s", r)
	}
	// SN-3 and sn-3 are one (A51).
	r, _ = a.issueUnit(newUnit(t, "sn-3"))
	a.wants("the name in another case", r, "409 identity-elsewhere")

	// What was revoked is not handed out again, nor what is of no order.
	v := s.issueAnswer(newUnit(t, "SN-4"))
	gone := newUnit(t, "SN-5")
	g := s.issueAnswer(gone)
	if out, errOut, exit := s.cli("cert", "revoke", g.Serial, "--reason", "superseded"); exit != exitOK {
		t.Fatalf("cert revoke: %s%s", out, errOut)
	}
	r, _ = a.issueUnit(gone)
	a.wants("a revoked certificate", r, "409 identity-revoked")
	// A commit with the signature of another unit, or of another certificate (A13, S12).
	digest := sha256.Sum256(uplink.CommitMessage(v.Nonce, "SN-4", v.Certificate))
	sig, err := gone.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	r, err = call(t.Context(), a.client, "POST", "https://"+s.door("factory")+"/factory/v1/units/commit", factoryapi.CommitRequest{Order: siteOrder, Unit: "SN-4", Serial: v.Serial, Signature: sig})
	if err != nil || r.status < 400 || r.status >= 500 {
		t.Errorf("a commit that another device signed: %v %s", err, r)
	}
	if r, err := s.api("ann").CloseOrderWithResponse(t.Context(), siteOrder); err != nil || r.JSON200 == nil {
		t.Fatalf("close: %v %s", err, r.Body)
	}
	r, _ = a.issueUnit(newUnit(t, "SN-9"))
	a.wants("a closed order", r, "409 account-closed")
	if serial, err := ca.ParseSerial(g.Serial); err != nil || !s.listed(serial) {
		t.Errorf("the revoked certificate is on no list: %v", err)
	}
	s.clean()
	s.halt()
	s.g.Now = func() time.Time { return time.Now().Add(25 * time.Hour) }
	s.again()
	if r, v := a.issueUnit(begun); r.status != http.StatusOK || !bytes.Equal(v.Certificate, kept.Certificate) {
		t.Errorf("a day later, in the grace of a closed order: %s", r)
	}
}

// asRequestOf makes a CSR of a key with another name in it.
func asRequestOf(t testing.TB, key crypto.Signer, cn string) []byte {
	t.Helper()
	out, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: named(cn), DNSNames: []string{"other.example"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestS11_TheSimpleEndpointDoesNoMoreThanIssue: the unit comes from the header or,
// where the order says so, from the CSR; both agree; there is no rework and no
// revocation, and no unit in a URL.
func TestS11_TheSimpleEndpointDoesNoMoreThanIssue(t *testing.T) {
	for _, cn := range []bool{true, false} {
		t.Run(fmt.Sprintf("cn_is_unit %t", cn), func(t *testing.T) {
			o := anyName(20)
			o.CnIsUnit = cn
			s := newSite(t, "software", "", o)
			cert := s.stationPair()
			client := s.client(&cert, 1)
			simple := func(path, header string, body []byte) (reply, string) {
				t.Helper()
				q := must(http.NewRequestWithContext(t.Context(), "POST", "https://"+s.door("factory")+path, bytes.NewReader(body)))
				if header != "" {
					q.Header.Set("Hallmark-Unit", header)
				}
				a, err := client.Do(q)
				if err != nil {
					t.Fatal(err)
				}
				defer a.Body.Close()
				r := reply{status: a.StatusCode}
				var b bytes.Buffer
				b.ReadFrom(a.Body)
				r.body = b.Bytes()
				var p struct{ Code string }
				if json.Unmarshal(r.body, &p) == nil {
					r.code = p.Code
				}
				return r, a.Header.Get("Hallmark-Unit")
			}
			a := newAsker(t, s)
			path := "/factory/v1/orders/" + siteOrder + "/issue"
			u := newUnit(t, "CN-1")
			r, unit := simple(path, "", u.csr)
			if cn && (r.status != http.StatusOK || unit != "CN-1") || !cn && r.String() != "400 unit-unnamed" {
				t.Errorf("only a common name: %s for %q", r, unit)
			}
			r, unit = simple(path, "HEAD-1", u.csr)
			if cn {
				a.wants("two names", r, "400 unit-mismatch")
			} else if r.status != http.StatusOK || unit != "HEAD-1" { // the CSR's name is no name
				t.Errorf("a named unit: %s for %q", r, unit)
			}
			name := map[bool]string{true: "CN-1", false: "HEAD-1"}[cn]
			if r, unit = simple(path, name, u.csr); r.status != http.StatusOK || unit != name {
				t.Errorf("again: %s for %q", r, unit)
			}
			if c, err := x509.ParseCertificate(r.body); err != nil || c.Subject.CommonName != name {
				t.Errorf("the certificate: %v", err)
			}
			// PEM in, PEM out.
			r, _ = simple(path, name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: u.csr}))
			if b, _ := pem.Decode(r.body); b == nil || b.Type != "CERTIFICATE" {
				t.Errorf("PEM: %s %.40q", r, r.body)
			}
			// Never rework: an installed unit keeps its key.
			done := newUnit(t, "CN-2")
			s.commits(t, done)
			r, _ = simple(path, "CN-2", newUnit(t, "CN-2").csr)
			a.wants("rework", r, "409 identity-rework-required")
			r, _ = simple(path, "a/b", newUnit(t, "a/b").csr)
			a.wants("a unit that is no name", r, "400 unit-invalid")
			for _, p := range []string{"/factory/v1/orders/" + siteOrder + "/units/CN-3/issue", "/factory/v1/orders/" + siteOrder + "/issue/CN-3", "/factory/v1/orders/" + siteOrder + "/revoke"} {
				r, _ = simple(p, "", newUnit(t, "CN-3").csr)
				a.wants(p, r, "404 route-unknown")
			}
			s.clean()
		})
	}
}

// TestS6_TwoRootsFromTheFirstDay: a trust bundle carries two independent roots, so
// that losing one is not losing everything.
func TestS6_TwoRootsFromTheFirstDay(t *testing.T) {
	s := newSite(t, "software", "", anyName(2))
	f := catest.New(t) // somebody else's root, as far as this site knows
	platform, err := s.as("platform")
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Root.Raw}))
	if r, err := platform.CreateRootWithResponse(t.Context(), adminapi.RootRequest{Name: "root-2", Certificate: text}); err != nil || r.JSON201 == nil {
		t.Fatalf("the second root: %v %s", err, r.Body)
	}
	bundle := must(os.ReadFile(s.path("state", "ca.pem")))
	var roots []*x509.Certificate
	for b, rest := pem.Decode(bundle); b != nil; b, rest = pem.Decode(rest) {
		roots = append(roots, must(x509.ParseCertificate(b.Bytes)))
	}
	if len(roots) != 2 || !slices.ContainsFunc(roots, f.Root.Equal) {
		t.Fatalf("the bundle has %d roots", len(roots))
	}
	// A station that enrols now gets both; who knows the first goes on.
	code, err := s.api("ann").CreateStationCodeWithResponse(t.Context(), adminapi.StationCodeRequest{Station: "station-2", Site: "x"})
	if err != nil || code.JSON201 == nil {
		t.Fatalf("%v %s", err, code.Body)
	}
	r, err := call(t.Context(), s.client(nil, 1), "POST", "https://"+s.door("enrol")+"/enrol/v1/station", factoryapi.EnrolRequest{Station: "station-2", Code: code.JSON201.Code, Csr: newUnit(t, "station-2").csr})
	var got factoryapi.StationCertificate
	if err != nil || r.status != http.StatusOK || json.Unmarshal(r.body, &got) != nil || len(got.Roots) != 2 {
		t.Errorf("the station gets %d roots: %v %s", len(got.Roots), err, r)
	}
	s.commits(t, newUnit(t, "SN-1"))
	s.clean()
}

// TestS34_ADatabaseThatWentBackIsNotServed: the newest checkpoint is held outside
// the database, and a database that is behind it does not start. So nothing that
// was revoked comes back with an older backup (A14).
func TestS34_ADatabaseThatWentBackIsNotServed(t *testing.T) {
	s := newSite(t, "software", "", anyName(20))
	s.issue(newUnit(t, "SN-1"))
	s.halt()
	file := s.path("state", "hallmark.db")
	old := must(os.ReadFile(file))
	s.again()
	bad := s.issueAnswer(newUnit(t, "SN-2"))
	if out, errOut, exit := s.cli("cert", "revoke", bad.Serial, "--reason", "keyCompromise"); exit != exitOK {
		t.Fatalf("cert revoke: %s%s", out, errOut)
	}
	s.halt()
	newest := must(os.ReadFile(file))
	write := func(b []byte) {
		t.Helper()
		for _, tail := range []string{"-wal", "-shm"} {
			os.Remove(file + tail)
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(old)
	if err := s.serve(t.Context()); err == nil {
		t.Error("a service runs on a database that went back")
		s.halt()
	} else if !strings.Contains(err.Error(), "checkpoint") && !strings.Contains(err.Error(), "log") {
		t.Errorf("it says %v", err)
	} else {
		t.Log(err)
	}
	s.server = nil
	write(newest)
	s.again()
	s.issue(newUnit(t, "SN-3"))
	s.clean()
}

// TestA8_ARevokedStationStopsWithItsRequestsOnTheWay: eight connections issue as
// fast as they can; within a second of the revocation the last certificate is
// made, and everything that the station made can be listed and taken back.
func TestA8_ARevokedStationStopsWithItsRequestsOnTheWay(t *testing.T) {
	s := newSite(t, "software", "", anyName(100_000))
	a := newAsker(t, s)
	var made, stopped atomic.Int64
	var last atomic.Int64 // when the last certificate was answered
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for i := range 8 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				u := newUnit(t, fmt.Sprintf("SN-%d-%d", i, n))
				r, err := call(ctx, a.client, "POST", "https://"+s.door("factory")+"/factory/v1/units/issue", u.request())
				if err != nil || r.status != http.StatusOK {
					if err == nil && r.status != http.StatusForbidden {
						t.Errorf("the thief is told %s", r)
					}
					stopped.Add(1)
					return
				}
				made.Add(1)
				last.Store(time.Now().UnixMilli())
			}
		})
	}
	for made.Load() < 40 && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond) // until it is at full speed
	}
	if r, err := s.api("bob").RevokeStationWithResponse(t.Context(), "station-1", adminapi.StationRevokeRequest{Note: "stolen"}); err != nil || r.JSON200 == nil {
		t.Fatalf("revoke: %v %s", err, r.Body)
	}
	revoked := time.Now()
	wg.Wait()
	if late := time.UnixMilli(last.Load()).Sub(revoked); late > time.Second || stopped.Load() != 8 {
		t.Errorf("the last certificate came %s after the revocation; %d of 8 were stopped", late, stopped.Load())
	}
	// All of it is listed under its name, and revoked in one go over the API.
	var serials []string
	var cursor *string
	for {
		a, err := s.api("bob").ListUnitsWithResponse(t.Context(), siteOrder, &adminapi.ListUnitsParams{Cursor: cursor})
		if err != nil || a.JSON200 == nil {
			t.Fatalf("%v %s", err, a.Body)
		}
		for _, u := range a.JSON200.Items {
			if u.Station == "station-1" {
				serials = append(serials, u.Serial)
			}
		}
		if cursor = &a.JSON200.Next; *cursor == "" {
			break
		}
	}
	if int64(len(serials)) < made.Load() {
		t.Errorf("%d certificates are listed, %d were answered", len(serials), made.Load())
	}
	for _, serial := range serials {
		if r, err := s.api("bob").RevokeCertificateWithResponse(t.Context(), serial, adminapi.RevokeRequest{Reason: "privilegeWithdrawn"}); err != nil || r.JSON200 == nil {
			t.Fatalf("%v %s", err, r.Body)
		}
	}
	for _, r := range s.everyRecord() {
		if r.Profile == "idevid" && r.Status != "revoked" && r.Status != "void" {
			t.Errorf("%s is %s", r.Holder, r.Status)
		}
	}
	if end, err := ca.ParseSerial(serials[len(serials)-1]); err != nil || !s.listed(end) {
		t.Errorf("the last one is not on the list: %v", err)
	}
	s.clean()
}

// everyRecord reads all certificates over the API.
func (s *site) everyRecord() (out []adminapi.CertificateSummary) {
	s.t.Helper()
	var cursor *string
	limit := 500
	for {
		a, err := s.api("bob").SearchCertificatesWithResponse(s.t.Context(), &adminapi.SearchCertificatesParams{Cursor: cursor, Limit: &limit})
		if err != nil || a.JSON200 == nil {
			s.t.Fatalf("%v %s", err, a.Body)
		}
		out = append(out, a.JSON200.Items...)
		if a.JSON200.Next == "" {
			return out
		}
		cursor = &a.JSON200.Next
	}
}

// TestS41_TheLineGoesFirst: work of the line that comes last is done first, on the
// one writer that there is.
func TestS41_TheLineGoesFirst(t *testing.T) {
	f := catest.New(t)
	gate, held := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { f.DB.Atomic(t.Context(), func(context.Context) error { close(held); <-gate; return nil }) })
	<-held
	var mu sync.Mutex
	var order []lane.Lane
	var queued atomic.Int64
	put := func(l lane.Lane) {
		wg.Go(func() {
			queued.Add(1)
			f.DB.Atomic(lane.With(t.Context(), l), func(context.Context) error {
				mu.Lock()
				defer mu.Unlock()
				order = append(order, l)
				return nil
			})
		})
	}
	for range 600 {
		put(lane.Status)
	}
	for range 20 {
		put(lane.Claim)
		put(lane.Renewal)
	}
	for queued.Load() < 640 {
		time.Sleep(time.Millisecond)
	}
	for range 20 {
		put(lane.Line)
	}
	for queued.Load() < 660 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond) // the last of them into the queue
	close(gate)
	wg.Wait()
	if len(order) != 660 || !slices.IsSorted(order) {
		t.Errorf("%d jobs ran, the first are %v", len(order), order[:min(80, len(order))])
	}
}

// enrolAtOnce is A40: one code and 200 stations' requests at once, over all nodes,
// make one certificate; who got it may come again, nobody else.
func (p *parallel) enrolAtOnce(t *testing.T) {
	code, err := p.api("ann").CreateStationCodeWithResponse(t.Context(), adminapi.StationCodeRequest{Station: "station-40", Site: "x"})
	if err != nil || code.JSON201 == nil {
		t.Fatalf("%v %s", err, code.Body)
	}
	urls := p.urls("enrol")
	const requests = 200
	units := make([]unit, requests)
	clients := make([]*http.Client, requests)
	for i := range units {
		units[i] = newUnit(t, "station-40")
		clients[i] = p.clientFrom(fmt.Sprintf("127.0.%d.%d", 40+i/200, 1+i%200)) // wrong codes are counted for each address
	}
	enrol := func(i int) (r reply, err error) {
		for range 10 { // a busy machine may give a connection up; asking again changes nothing
			r, err = call(t.Context(), clients[i], "POST", urls[i%len(urls)]+"/enrol/v1/station", factoryapi.EnrolRequest{Station: "station-40", Code: code.JSON201.Code, Csr: units[i].csr})
			if err == nil {
				break
			}
		}
		return r, err
	}
	winner := atomic.Int64{}
	outcomes, good := p.atOnce(t, requests, func(i int) (reply, error) {
		r, err := enrol(i)
		if err == nil && r.status == http.StatusOK {
			winner.Store(int64(i))
		}
		return r, err
	})
	if outcomes["200"] != 1 || outcomes["401 station-code-refused"] != requests-1 {
		t.Errorf("outcomes: %v", outcomes)
	}
	if len(good) == 0 {
		return
	}
	w := int(winner.Load())
	r, err := enrol(w)
	var first, again factoryapi.StationCertificate
	if json.Unmarshal(good[0], &first) != nil || err != nil || r.status != http.StatusOK || json.Unmarshal(r.body, &again) != nil || !bytes.Equal(first.Certificate, again.Certificate) {
		t.Errorf("the one who got it comes again: %v %s", err, r)
	}
	if r, err := enrol((w + 1) % requests); err != nil || r.status != http.StatusUnauthorized {
		t.Errorf("another comes again: %v %s", err, r)
	}
	stations := 0
	for _, c := range p.everyRecord() {
		if c.Holder == "station:station-40" {
			stations++
		}
	}
	if stations != 1 {
		t.Errorf("%d certificates of the station", stations)
	}
}
