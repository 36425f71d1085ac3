package ceremony_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/ceremony"
	"hallmark/ca/profile"
	"hallmark/hsm/hsmtest"
)

// TestConstraints_ComeFromTheScriptAndAreInTheCertificate goes from the CSR, which
// asks for them, to the check of the installation.
func TestConstraints_ComeFromTheScriptAndAreInTheCertificate(t *testing.T) {
	tok, keys := hsmtest.SoftHSM(t), ring(t)
	c := start(t, ceremony.Config{Keys: keys})
	root := must(t)(c.CreateRoot(t.Context(), ceremony.RootRequest{Name: "r", BaseURL: baseURL, KeyURI: tok.URI("root"), Generate: true, Subject: name("R")}))
	asked := profile.Constraints{Permitted: []string{"dns:devices.example.com"}, Excluded: []string{"ip:0.0.0.0/0"}, Purposes: []string{"client-auth", "ocsp-signing"}}
	ask := ceremony.CSRRequest{Name: "d", Duty: profile.DutyDevice, KeyURI: tok.URI("d"), Generate: true, Subject: name("D"), Constraints: asked}
	ask.Constraints.Purposes = []string{"client-auth"} // nobody could answer for its certificates
	_, err := c.MakeCSR(t.Context(), ask)
	refused(t, err, ceremony.ErrRequest)
	ask.Constraints = asked
	csr := must(t)(c.MakeCSR(t.Context(), ask))
	sign := ceremony.SignRequest{RootCert: root.CertificateDER, KeyURI: tok.URI("root"), CSR: csr.TranscriptJSON, RootName: "r", BaseURL: baseURL}

	other := sign
	other.Constraints = &profile.Constraints{Permitted: []string{"dns:example.com"}}
	_, err = c.SignIntermediate(t.Context(), other)
	refused(t, err, ceremony.ErrRequest)

	after := start(t, ceremony.Config{Keys: keys, Previous: root.TranscriptJSON})
	plan, err := after.PlanIntermediate(t.Context(), sign)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"dns:devices.example.com", "ip:0.0.0.0/0", "client-auth ocsp-signing", "2.5.29.30 (critical)"} {
		if !strings.Contains(plan.Describe(), want) {
			t.Errorf("people are not told of %s:\n%s", want, plan.Describe())
		}
	}
	device := must(t)(after.Execute(t.Context(), plan, "test"))
	cert := parse(t, device.CertificateDER)
	if len(cert.PermittedDNSDomains) != 1 || cert.PermittedDNSDomains[0] != "devices.example.com" || !cert.PermittedDNSDomainsCritical || len(cert.ExcludedIPRanges) != 1 || len(cert.ExtKeyUsage) != 2 {
		t.Errorf("the certificate permits %v, excludes %v, has %v", cert.PermittedDNSDomains, cert.ExcludedIPRanges, cert.ExtKeyUsage)
	}
	if _, err := ceremony.VerifyChain([][]byte{root.TranscriptJSON, device.TranscriptJSON}, parse(t, root.CertificateDER)); err != nil {
		t.Error(err)
	}
	install := func(der []byte) (*ceremony.Result, error) {
		return c.CheckInstall(t.Context(), ceremony.InstallRequest{
			Authority:   ca.Authority{Name: "d", Tenant: access.DefaultTenant, Duty: profile.DutyDevice, State: ca.StatePending, KeyURI: tok.URI("d"), CSR: csr.CSRDER, CreatedAt: time.Now()},
			Certificate: der, RootCert: root.CertificateDER, RootName: "r", BaseURL: baseURL,
		})
	}
	if r := must(t)(install(device.CertificateDER)); r.Transcript.Script.Constraints == nil || !r.Transcript.Script.Constraints.Equal(asked) {
		t.Errorf("installed with %+v", r.Transcript.Script.Constraints)
	}
	// What the transcript asks for is what has to be there; the order of names is not.
	asks := func(asked, has *profile.Constraints) error {
		ask.Constraints, ask.Generate = *asked, false
		csr = must(t)(c.MakeCSR(t.Context(), ask))
		bare := sign
		bare.CSR, bare.Name, bare.Duty, bare.Subject, bare.Constraints = csr.CSRDER, "d", profile.DutyDevice, name("D"), has
		made := must(t)(c.SignIntermediate(t.Context(), bare))
		_, err := c.CheckInstall(t.Context(), ceremony.InstallRequest{
			Authority:   ca.Authority{Name: "d", Tenant: access.DefaultTenant, Duty: profile.DutyDevice, State: ca.StatePending, KeyURI: tok.URI("d"), CSR: csr.TranscriptJSON, CreatedAt: time.Now()},
			Certificate: made.CertificateDER, RootCert: root.CertificateDER, RootName: "r", BaseURL: baseURL,
		})
		return err
	}
	two := profile.Constraints{Permitted: []string{"dns:a.example", "ip:2001:DB8::/32"}, Purposes: []string{"ocsp-signing", "client-auth"}}
	zero := 0
	turned := profile.Constraints{PathLength: &zero, Permitted: []string{"ip:2001:db8::/32", "dns:a.example"}, Purposes: []string{"client-auth", "ocsp-signing"}}
	for _, x := range []struct{ asked, has *profile.Constraints }{{&two, &turned}, {&turned, &two}, {&profile.Constraints{}, &two}} {
		if err := asks(x.asked, x.has); err != nil {
			t.Errorf("%s, asked for %s: %v", x.has, x.asked, err)
		}
	}
	for _, has := range []*profile.Constraints{{}, {Permitted: two.Permitted}, {Purposes: two.Purposes}, {Permitted: two.Permitted[:1], Purposes: two.Purposes}, {Excluded: two.Permitted, Purposes: two.Purposes}} {
		refused(t, asks(&two, has), ca.ErrConstraintsDiffer)
	}
	// S29: what the doors of the service could not verify is not installed.
	plain := must(t)(c.MakeCSR(t.Context(), ceremony.CSRRequest{Name: "d", Duty: profile.DutyDevice, KeyURI: tok.URI("d"), Subject: name("D")}))
	sign.CSR, sign.Constraints = plain.TranscriptJSON, &profile.Constraints{Permitted: []string{"directory:O=Acme Devices"}}
	if plan, err = c.PlanIntermediate(t.Context(), sign); err != nil || !strings.Contains(plan.Describe(), "programs in Go refuse") {
		t.Errorf("people are not warned: %v", err)
	}
	_, err = install(must(t)(c.SignIntermediate(t.Context(), sign)).CertificateDER)
	refused(t, err, ca.ErrAuthorityMismatch)
}

// TestRun_ConstraintsOfAScriptAreVerified runs a script with constraints, and
// changes them in the transcript.
func TestRun_ConstraintsOfAScriptAreVerified(t *testing.T) {
	s := newStage(t)
	const narrow = "    constraints: {permitted: [\"dns:devices.example.com\"], purposes: [client-auth, ocsp-signing]}\n"
	for _, bad := range []string{
		"    constraints: {permitted: [\"dns:*.example.com\"]}\n", "    constraints: {path_length: 1}\n", "    constraints: {purposes: [client-auth]}\n", "    constraints: {names: [a]}\n",
	} {
		if _, err := ceremony.ParseAgenda([]byte(strings.Replace(string(s.script), "    duty: device\n", "    duty: device\n"+bad, 1))); err == nil {
			t.Errorf("taken: %s", bad)
		}
	}
	s.script = []byte(strings.Replace(string(s.script), "    duty: device\n", "    duty: device\n"+narrow, 1))
	s.must()
	if shown := s.room.shown.String(); !strings.Contains(shown, "dns:devices.example.com") {
		t.Errorf("people are not told:\n%s", shown)
	}
	b, err := os.ReadFile(filepath.Join(s.dir, "devices-1.cer"))
	if err != nil {
		t.Fatal(err)
	}
	if c := parse(t, b); len(c.PermittedDNSDomains) != 1 {
		t.Errorf("the certificate permits %v", c.PermittedDNSDomains)
	}
}
