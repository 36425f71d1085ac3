package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"io"
	"math/big"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"
	library "github.com/smallstep/scep"

	"hallmark/api/adminapi"
	"hallmark/ca/csr"
)

// TestEnrolment_ProtocolsAreServedAtTheirDoors: EST, CMP, SCEP and ACME, switched on
// in the configuration. A unit enrols over each of the first three with the password
// that a person made, and over ACME by what its hardware says (S17, S18, A64).
func TestEnrolment_ProtocolsAreServedAtTheirDoors(t *testing.T) {
	var world acmeWorld
	s := newChangedSite(t, "software", "", anyName(5), func(s *site) {
		s.configure("\nenrolment:\n  est: {enabled: true}\n  cmp: {enabled: true}\n  scep: {enabled: true}\n" + world.configured(t, s))
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
	ask("-ref", p.Reference, "-secret", "pass:"+p.Password, "-newkey", file("birth.key"), "-subject", "/CN=CMP-1", "-certout", file("birth.pem"))
	ask("-cert", file("birth.pem"), "-key", file("birth.key"), "-trusted", s.path("state", "ca.pem"), "-newkey", file("next.key"), "-subject", "/CN=x", "-certout", file("next.pem"))
	if c := readCert(t, file("next.pem")); c.Subject.SerialNumber != "CMP-1" {
		t.Errorf("%v", c.Subject)
	}
	// SCEP at the public door, under the service's own RA certificate.
	scep := "http://" + s.door("public") + "/scep?operation="
	res, err := http.Get(scep + "GetCACert")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	authorities, err := library.CACerts(body)
	if err != nil {
		t.Fatal(err)
	}
	p = password("SCEP-1")
	birth, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = csr.Create(birth, p.Unit, p.Password); err != nil {
		t.Fatal(err)
	}
	request, err := x509.ParseCertificateRequest(raw)
	if err != nil {
		t.Fatal(err)
	}
	self := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: p.Unit}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	if self.Raw, err = x509.CreateCertificate(rand.Reader, self, self, birth.Public(), birth); err == nil {
		self, err = x509.ParseCertificate(self.Raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	pkcs7.ContentEncryptionAlgorithm = pkcs7.EncryptionAlgorithmAES256CBC
	pkcs7.SetDefaultDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	message, err := library.NewCSRRequest(request, &library.PKIMessage{MessageType: library.PKCSReq, Recipients: authorities, SignerKey: birth, SignerCert: self}, library.WithCertsSelector(library.EnciphermentCertsSelector()))
	if err != nil {
		t.Fatal(err)
	}
	if res, err = http.Post(scep+"PKIOperation", "application/x-pki-message", bytes.NewReader(message.Raw)); err != nil {
		t.Fatal(err)
	}
	body, err = io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := library.ParsePKIMessage(body, library.WithCACerts(authorities))
	if err == nil {
		err = answer.DecryptPKIEnvelope(self, birth)
	}
	if err != nil || answer.PKIStatus != library.SUCCESS || answer.Certificate.Subject.SerialNumber != p.Unit {
		t.Errorf("SCEP: %v %s", err, body)
	}
	world.acme(t, s, "EST-1")
}
