package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"hallmark/api/adminapi"
	"hallmark/ca/csr"
)

// TestEnrolment_ESTAndCMPAreServedAtTheirDoors: switched on in the configuration, a
// unit enrols over each with the password that a person made.
func TestEnrolment_ESTAndCMPAreServedAtTheirDoors(t *testing.T) {
	s := newChangedSite(t, "software", "", anyName(5), func(s *site) {
		f, err := os.OpenFile(s.path("hallmark.yaml"), os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString("\nenrolment:\n  est: {enabled: true}\n  cmp: {enabled: true}\n")
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	password := func(unit string) adminapi.EnrolPassword {
		t.Helper()
		a, err := s.api("ann").CreateEnrolPasswordWithResponse(t.Context(), adminapi.EnrolPasswordRequest{Unit: unit, Profile: "idevid", Order: siteOrder})
		if err != nil || a.JSON201 == nil {
			t.Fatalf("%v %s", err, a.Body)
		}
		return *a.JSON201
	}
	// EST at the enrol door; the door of devices wants a certificate.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := csr.Create(key, "EST-1", "")
	if err != nil {
		t.Fatal(err)
	}
	p := password("EST-1")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots}}}
	defer client.CloseIdleConnections()
	for door, want := range map[string]int{"enrol": http.StatusOK, "device": http.StatusForbidden} {
		r, err := http.NewRequest("POST", "https://"+s.door(door)+"/.well-known/est/simpleenroll", bytes.NewReader([]byte(base64.StdEncoding.EncodeToString(raw))))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/pkcs10")
		r.SetBasicAuth(p.Unit, p.Password)
		a, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		if a.StatusCode != want {
			t.Errorf("EST at the %s door: %d", door, a.StatusCode)
		}
	}
	// CMP at the public door, by password and by certificate.
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"birth.key", "next.key"} {
		if out, err := tool(t, nil, "openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", file(name)); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	p = password("CMP-1")
	ask := func(args ...string) {
		t.Helper()
		if out, err := tool(t, nil, "openssl", append([]string{"cmp", "-config", "", "-server", s.door("public"), "-path", ".well-known/cmp", "-cmd", "ir"}, args...)...); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	ask("-ref", p.Id, "-secret", "pass:"+p.Password, "-newkey", file("birth.key"), "-subject", "/CN=CMP-1", "-certout", file("birth.pem"))
	ask("-cert", file("birth.pem"), "-key", file("birth.key"), "-trusted", s.path("state", "ca.pem"), "-newkey", file("next.key"), "-subject", "/CN=x", "-certout", file("next.pem"))
	if c := readCert(t, file("next.pem")); c.Subject.SerialNumber != "CMP-1" {
		t.Errorf("%v", c.Subject)
	}
}
