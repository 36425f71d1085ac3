package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"strings"
	"testing"

	"hallmark/api/adminapi"
	"hallmark/api/deviceapi"
	"hallmark/api/factoryapi"
	"hallmark/ca/csr"
	"hallmark/station/adapter"
	"hallmark/station/uplink"
)

// simple posts a CSR as curl does: the unit in a header, the bare request in the body.
// The certificate, the nonce of the commit and the unit come back.
func (a *asker) simple(name string, request []byte) (r reply, der, nonce []byte) {
	a.t.Helper()
	q := must(http.NewRequestWithContext(context.Background(), "POST", "https://"+a.door("factory")+"/factory/v1/orders/"+siteOrder+"/issue", bytes.NewReader(request)))
	q.Header.Set("Hallmark-Unit", name)
	res, err := a.client.Do(q)
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(res.Body); err != nil {
		a.t.Fatal(err)
	}
	r = reply{status: res.StatusCode, body: b.Bytes()}
	if r.status != http.StatusOK {
		var p struct{ Code string }
		if err := json.Unmarshal(r.body, &p); err != nil {
			a.t.Fatalf("%d %s", r.status, r.body)
		}
		r.code = p.Code
		return r, nil, nil
	}
	return r, r.body, must(hex.DecodeString(res.Header.Get("Hallmark-Nonce")))
}

// boots is a first boot with a birth certificate.
func (s *site) boots(u unit, birth []byte) reply {
	s.t.Helper()
	r, err := call(context.Background(), s.client(&tls.Certificate{Certificate: [][]byte{birth}, PrivateKey: u.key}, 1), "POST", "https://"+s.door("device")+"/bootstrap/v1/register",
		deviceapi.RegisterRequest{Csr: must(csr.Create(newUnit(s.t, u.name).key, "", ""))})
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *site) unitsOf(order string) map[string]adminapi.Unit {
	s.t.Helper()
	a, err := s.api("ann").ListUnitsWithResponse(context.Background(), order, nil)
	if err != nil || a.JSON200 == nil {
		s.t.Fatalf("%v %s", err, a.Body)
	}
	out := map[string]adminapi.Unit{}
	for _, u := range a.JSON200.Items {
		out[u.Unit] = u
	}
	return out
}

// TestS11_ASecondScanRevokesNoDeviceThatBooted: a unit that curl got its certificate for
// has booted, and nobody committed it. Another request for its label, with another key,
// is refused at both doors of the factory, and the device stays as it is. curl may still
// commit.
func TestS11_ASecondScanRevokesNoDeviceThatBooted(t *testing.T) {
	s := newSite(t, "software", "", anyName(5))
	a := newAsker(t, s)
	u := newUnit(t, "CURL-1")
	r, birth, nonce := a.simple("CURL-1", u.csr)
	a.wants("curl", r, "200")
	if got := s.unitsOf(siteOrder)["CURL-1"]; got.State != "issued" {
		t.Fatalf("before its first boot: %+v", got)
	}
	a.wants("first boot", s.boots(u, birth), "200")

	r, _, _ = a.simple("CURL-1", newUnit(t, "CURL-1").csr)
	a.wants("a second scan by curl", r, "409 identity-rework-required")
	r, _ = a.issueUnit(newUnit(t, "CURL-1"))
	a.wants("a second scan at the station", r, "409 identity-rework-required")
	pair := tls.Certificate{Certificate: [][]byte{birth}, PrivateKey: u.key}
	r, err := call(t.Context(), s.client(&pair, 1), "GET", "https://"+s.door("device")+"/bootstrap/v1/whoami", nil)
	if err != nil || r.status != http.StatusOK {
		t.Errorf("the device that booted: %v %s", err, r)
	}
	if got := s.unitsOf(siteOrder)["CURL-1"]; got.State != "installed" || got.Proven {
		t.Errorf("after its first boot: %+v", got)
	}
	r, again, _ := a.simple("CURL-1", u.csr)
	if r.status != http.StatusOK || !bytes.Equal(again, birth) {
		t.Errorf("its own request again: %s", r)
	}
	leaf := must(x509.ParseCertificate(birth))
	sig := must(uplink.SignCommit(u.key, uplink.CommitMessage(nonce, "CURL-1", birth)))
	r, err = call(t.Context(), a.client, "POST", "https://"+s.door("factory")+"/factory/v1/units/commit",
		factoryapi.CommitRequest{Order: siteOrder, Unit: "CURL-1", Serial: hex.EncodeToString(leaf.SerialNumber.Bytes()), Signature: sig})
	if err != nil || r.status != http.StatusOK {
		t.Errorf("a commit after the first boot: %v %s", err, r)
	}
	if got := s.unitsOf(siteOrder)["CURL-1"]; !got.Proven {
		t.Errorf("after the commit: %+v", got)
	}
	if o := s.order(siteOrder); o.Used != 1 || o.Installed != 1 {
		t.Errorf("the order used %d and installed %d", o.Used, o.Installed)
	}
	s.clean()
}

// TestS5_AStationCertifiesNoOriginThatNobodyShowed: what a station sends attests nothing,
// so an order for attested keys, or for those of a manifest, is not worked there.
func TestS5_AStationCertifiesNoOriginThatNobodyShowed(t *testing.T) {
	for _, origin := range []string{"attested", "manifest"} {
		t.Run(origin, func(t *testing.T) {
			o := anyName(5)
			o.KeyOrigin = origin
			s := newSite(t, "software", "", o)
			a := newAsker(t, s)
			r, _ := a.issueUnit(newUnit(t, "SOFT-1"))
			a.wants("at the station", r, "403 order-station")
			r, _, _ = a.simple("SOFT-2", newUnit(t, "SOFT-2").csr)
			a.wants("by curl", r, "403 order-station")
			// A station learns it before it touches a device.
			out, errOut, exit := s.cli("station", "run", "--dir", s.path("station"), "--order", siteOrder, "--adapter", "simulate:"+s.path("devices"), "--count", "1")
			if exit == exitOK || !strings.Contains(out+errOut, "order-station") {
				t.Errorf("a run: %d %s%s", exit, out, errOut)
			}
			if boards, err := os.ReadDir(s.path("devices")); err != nil && !os.IsNotExist(err) || len(boards) > 0 {
				t.Errorf("%d devices were touched: %v", len(boards), err)
			}
			if o := s.order(siteOrder); o.Used != 0 {
				t.Errorf("%d units were used", o.Used)
			}
			for _, c := range s.everyRecord() {
				if c.Profile == "idevid" {
					t.Errorf("%s has a certificate", c.Holder)
				}
			}
		})
	}
}

// TestS9_AClosedOrderLetsItsStationsFinish: a unit whose installation failed is finished
// after its order was closed, by the station as by curl, with the certificate that it
// has. Nothing else is begun, and no new certificate is made.
func TestS9_AClosedOrderLetsItsStationsFinish(t *testing.T) {
	s := newSite(t, "software", "", lamps(5))
	a := newAsker(t, s)
	run := func(options string, units ...string) (string, int) {
		t.Helper()
		list := s.path("scan.txt")
		if err := os.WriteFile(list, []byte(strings.Join(units, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		out, errOut, exit := s.cli("station", "run", "--dir", s.path("station"), "--order", siteOrder, "--adapter", "simulate:"+s.path("devices")+options, "--serials", list)
		return out + errOut, exit
	}
	if out, exit := run("?fail=install", "LMP-000001"); exit == exitOK {
		t.Fatalf("the installation did not fail: %s", out)
	}
	begun := newUnit(t, "LMP-000002")
	r, kept, nonce := a.simple(begun.name, begun.csr)
	a.wants("curl before the end", r, "200")
	before := s.everyRecord()
	if r, err := s.api("ann").CloseOrderWithResponse(t.Context(), siteOrder); err != nil || r.JSON200 == nil {
		t.Fatalf("close: %v %s", err, r.Body)
	}

	r, _, _ = a.simple("LMP-000003", newUnit(t, "LMP-000003").csr)
	a.wants("curl begins another unit", r, "409 account-closed")
	r, _, _ = a.simple(begun.name, newUnit(t, begun.name).csr)
	a.wants("curl comes with another key", r, "409 account-closed")
	if out, exit := run("", "LMP-000004"); exit == exitOK || !strings.Contains(out, "station-order-not-open") {
		t.Errorf("the station begins another unit: %d %s", exit, out)
	}
	if _, err := os.Stat(s.path("devices", "LMP-000004")); !os.IsNotExist(err) {
		t.Errorf("a device was touched for it: %v", err)
	}

	r, same, _ := a.simple(begun.name, begun.csr)
	if r.status != http.StatusOK || !bytes.Equal(same, kept) {
		t.Errorf("curl asks again: %s", r)
	}
	sig := must(uplink.SignCommit(begun.key, uplink.CommitMessage(nonce, begun.name, kept)))
	r, err := call(t.Context(), a.client, "POST", "https://"+s.door("factory")+"/factory/v1/units/commit",
		factoryapi.CommitRequest{Order: siteOrder, Unit: begun.name, Serial: hex.EncodeToString(must(x509.ParseCertificate(kept)).SerialNumber.Bytes()), Signature: sig})
	if err != nil || r.status != http.StatusOK {
		t.Errorf("curl commits: %v %s", err, r)
	}
	if out, exit := run("", "LMP-000001"); exit != exitOK {
		t.Errorf("the station finishes: %d %s", exit, out)
	}
	if raw, err := os.ReadFile(s.path("devices", "LMP-000001", adapter.CertificateFile)); err != nil {
		t.Error(err)
	} else if b, _ := pem.Decode(raw); b == nil {
		t.Errorf("%.80q", raw)
	}
	if now := s.everyRecord(); len(now) != len(before) {
		t.Errorf("%d certificates, %d before the order was closed", len(now), len(before))
	}
	if o := s.order(siteOrder); o.Used != 2 || o.Installed != 2 {
		t.Errorf("the order used %d and installed %d", o.Used, o.Installed)
	}
	s.clean()
}
