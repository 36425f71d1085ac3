package ceremony_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"hallmark/ca"
	"hallmark/ca/ceremony"
	"hallmark/ca/lint"
	"hallmark/ca/profile"
	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
)

// onToken is a ceremony by production rules on SoftHSM.
func onToken(t testing.TB, algorithm hsm.Algorithm) *chain {
	tok := hsmtest.SoftHSM(t)
	return run(t, &chain{keys: ring(t), tok: tok, rootKey: tok.URI("root")}, algorithm)
}

func checkChain(t *testing.T, c *chain) {
	t.Helper()
	root := parse(t, c.root.CertificateDER)
	steps, err := ceremony.VerifyChain(c.files(), root)
	if err != nil {
		t.Fatalf("%v after %v", err, steps)
	}
	if len(steps) < 20 {
		t.Errorf("only %d steps: %v", len(steps), steps)
	}
	linter, err := lint.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*ceremony.Result{c.root, c.device, c.infra} {
		if found := linter.Full(r.CertificateDER); len(found) > 0 {
			t.Errorf("%s: %v", r.Name, found)
		}
	}
	if found := linter.List(c.list.ListDER, true); len(found) > 0 {
		t.Error(found)
	}
	rootFile, listFile := write(t, "root.pem", c.root.CertificatePEM), write(t, "list.pem", c.list.ListPEM)
	scope := "-crl_check_all"
	if len(root.CRLDistributionPoints) == 0 {
		// OpenSSL holds the trust anchor to the list too and then finds it out of
		// the scope of a list with a distribution point.
		scope = "-crl_check"
	}
	for _, r := range []*ceremony.Result{c.device, c.infra} {
		out, err := tool(t, "openssl", "verify", "-x509_strict", "-CAfile", rootFile, "-CRLfile", listFile, scope, "-extended_crl", write(t, "ca.pem", r.CertificatePEM))
		if err != nil {
			t.Errorf("openssl: %s", out)
		}
	}
	if out, err := tool(t, "openssl", "crl", "-in", listFile, "-CAfile", rootFile, "-noout", "-verify"); err != nil || !strings.Contains(out, "verify OK") {
		t.Errorf("openssl crl: %s", out)
	}
}

func TestCeremony_RunsOnATokenByProductionRules(t *testing.T) {
	for _, alg := range []hsm.Algorithm{hsm.P384, hsm.RSA3072, hsm.Ed25519} {
		t.Run(string(alg), func(t *testing.T) {
			c := onToken(t, alg)
			checkChain(t, c)
			if len(c.root.Transcript.Exceptions)+len(c.device.Transcript.Exceptions) != 0 {
				t.Errorf("exceptions: %v %v", c.root.Transcript.Exceptions, c.device.Transcript.Exceptions)
			}
			k := c.root.Transcript.Key
			if !k.Generated || k.Token.Serial == "" || k.Attributes.NeverExtractable != "yes" || strings.Contains(k.URI, "pin") || strings.Contains(k.URI, "module") {
				t.Errorf("key facts: %+v", k)
			}
		})
	}
}

func TestCeremony_RunsOnAFileKeyInDevelopmentAndSaysSo(t *testing.T) {
	c := run(t, &chain{keys: ring(t), tok: hsmtest.SoftHSM(t), rootKey: fileURI(t, "root"), dev: true}, hsm.P256)
	checkChain(t, c)
	for _, r := range []*ceremony.Result{c.root, c.device, c.list} {
		if r.Transcript.Mode != "development" || !strings.Contains(strings.Join(r.Transcript.Exceptions, " "), "key rules not enforced") {
			t.Errorf("%s: mode %s, exceptions %v", r.Kind, r.Transcript.Mode, r.Transcript.Exceptions)
		}
	}
	// The same file is refused by production rules (A22).
	_, err := start(t, ceremony.Config{Keys: c.keys}).PlanRootCRL(t.Context(), ceremony.ListRequest{RootCert: c.root.CertificateDER, KeyURI: c.rootKey, RootName: "acme-root", BaseURL: baseURL, First: true})
	refused(t, err, hsm.ErrKeyUnsafe)
}

// S1, S2: what openssl reads of root and issuing authorities.
func TestS1_S2_OpenSSLReadsPathLengthsAndEnds(t *testing.T) {
	c := onToken(t, hsm.P384)
	text := func(r *ceremony.Result) string {
		out, err := tool(t, "openssl", "x509", "-in", write(t, "c.pem", r.CertificatePEM), "-noout", "-text")
		if err != nil {
			t.Fatal(out)
		}
		return out
	}
	root, device, infra := text(c.root), text(c.device), text(c.infra)
	for _, f := range []struct{ in, want string }{
		{root, "CA:TRUE, pathlen:2"}, {root, "Not After : Dec 31 23:59:59 9999 GMT"}, {root, "Certificate Sign, CRL Sign"},
		{device, "CA:TRUE, pathlen:0"}, {device, "Not After : Dec 31 23:59:59 9999 GMT"}, {device, "URI:" + baseURL + "/crl/acme-root/0.crl"}, {device, "CA Issuers - URI:" + baseURL + "/ca/acme-root.cer"},
		{infra, "CA:TRUE, pathlen:0"}, {infra, "Subject: C = DE, O = Acme Devices, CN = Acme Infrastructure CA 1"},
	} {
		if !strings.Contains(f.in, f.want) {
			t.Errorf("no %q in\n%s", f.want, f.in)
		}
	}
	for _, f := range []struct{ in, not string }{{root, "Authority Information"}, {device, "OCSP"}, {infra, "9999"}} {
		if strings.Contains(f.in, f.not) {
			t.Errorf("%q in\n%s", f.not, f.in)
		}
	}
}

// A9: nothing outlives the root; the default is clipped, what was asked is refused.
func TestA9_NothingOutlivesTheRoot(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	c := start(t, ceremony.Config{Keys: ring(t)})
	end := time.Now().Add(5 * 365 * 24 * time.Hour).UTC().Truncate(time.Second)
	root := must(t)(c.CreateRoot(t.Context(), ceremony.RootRequest{Name: "r", BaseURL: baseURL, KeyURI: tok.URI("root"), Generate: true, Subject: name("R"), NotAfter: end}))
	csr := must(t)(c.MakeCSR(t.Context(), ceremony.CSRRequest{Name: "d", Duty: profile.DutyDevice, KeyURI: tok.URI("d"), Generate: true, Subject: name("D")}))
	req := ceremony.SignRequest{RootCert: root.CertificateDER, KeyURI: tok.URI("root"), CSR: csr.TranscriptJSON, RootName: "r", BaseURL: baseURL}
	if got := parse(t, must(t)(c.SignIntermediate(t.Context(), req)).CertificateDER).NotAfter; !got.Equal(end) {
		t.Errorf("ends %s, want %s", got, end)
	}
	req.NotAfter = end.Add(time.Second)
	_, err := c.SignIntermediate(t.Context(), req)
	refused(t, err, ceremony.ErrLint)
	req.NotAfter = profile.NoExpiry
	_, err = c.SignIntermediate(t.Context(), req)
	refused(t, err, ceremony.ErrLint)
	list := must(t)(c.SignRootCRL(t.Context(), ceremony.ListRequest{RootCert: root.CertificateDER, KeyURI: tok.URI("root"), RootName: "r", BaseURL: baseURL, First: true}))
	if l, err := x509.ParseRevocationList(list.ListDER); err != nil || l.NextUpdate.Sub(l.ThisUpdate) != 365*24*time.Hour {
		t.Errorf("the list does not run for a year: %v", err)
	}
	_, err = c.CreateRoot(t.Context(), ceremony.RootRequest{Name: "r2", BaseURL: baseURL, KeyURI: tok.URI("root"), Subject: name("R2"), NotAfter: time.Now().Add(-time.Hour)})
	refused(t, err, ceremony.ErrLifetime)
}

// A10, S37: of a CSR only its key is used.
func TestA10_S37_ACSRSmugglesNothing(t *testing.T) {
	c := onToken(t, hsm.P256)
	smuggled := func(ext string) []byte {
		key := write(t, "key.pem", nil)
		out := write(t, "csr.pem", nil)
		args := []string{"req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", out, "-subj", "/O=Evil/CN=Acme Device Root", "-addext", ext}
		if b, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		b, err := exec.Command("cat", out).Output()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	step := start(t, ceremony.Config{Keys: c.keys, Previous: c.root.TranscriptJSON})
	req := ceremony.SignRequest{RootCert: c.root.CertificateDER, KeyURI: c.rootKey, Name: "devices-2", Duty: profile.DutyDevice, Subject: name("Acme Devices CA 2")}
	req.CSR = smuggled("subjectAltName=DNS:evil.example,URI:spiffe://evil/x")
	plan, err := step.PlanIntermediate(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if d := plan.Describe(); !strings.Contains(d, "its subject  CN=Acme Device Root,O=Evil (not used)") || !strings.Contains(d, "1 extensions (not used)") || !strings.Contains(d, "unknown origin") {
		t.Errorf("the description hides what the CSR asked:\n%s", d)
	}
	cert := parse(t, must(t)(step.Execute(t.Context(), plan, "test")).CertificateDER)
	if len(cert.DNSNames)+len(cert.URIs) != 0 || cert.Subject.CommonName != "Acme Devices CA 2" || cert.Subject.Organization[0] != "Acme Devices" || len(cert.Extensions) != 7 {
		t.Errorf("smuggled: %s %v %v", cert.Subject, cert.DNSNames, cert.URIs)
	}
	for _, ext := range []string{"basicConstraints=critical,CA:TRUE,pathlen:5", "keyUsage=critical,keyCertSign", "extendedKeyUsage=OCSPSigning"} {
		req.CSR = smuggled(ext)
		_, err := step.PlanIntermediate(t.Context(), req)
		refused(t, err, ceremony.ErrInput)
	}
	req.CSR, req.Subject = smuggled("subjectAltName=DNS:evil.example"), profile.Subject{}
	_, err = step.PlanIntermediate(t.Context(), req)
	refused(t, err, ceremony.ErrRequest) // no subject from the CSR, not even by default
	req.Subject = name("Acme Device Root")
	_, err = step.PlanIntermediate(t.Context(), req)
	refused(t, err, ceremony.ErrRequest) // that of the root
}

// A22: an extractable key is refused by production rules, and excused only in
// development and then in writing.
func TestA22_AnExtractableKeyIsRefused(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	cmd := exec.Command("pkcs11-tool", "--module", tok.Module, "--login", "--pin", hsmtest.PIN, "--token-label", tok.Label, "--keypairgen", "--key-type", "EC:prime256v1", "--label", "loose", "--id", "77", "--extractable")
	cmd.Env = append(cmd.Environ(), tok.Env()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			hsmtest.Missing(t, "apt-get install -y opensc")
		}
		t.Fatalf("%v: %s", err, out)
	}
	keys := ring(t)
	req := ceremony.RootRequest{Name: "loose", BaseURL: baseURL, KeyURI: tok.URI("loose"), Subject: name("Loose")}
	_, err := start(t, ceremony.Config{Keys: keys}).CreateRoot(t.Context(), req)
	refused(t, err, hsm.ErrKeyUnsafe)
	r := must(t)(start(t, ceremony.Config{Keys: keys, Development: true}).CreateRoot(t.Context(), req))
	if e := strings.Join(r.Transcript.Exceptions, " "); !strings.Contains(e, "extractable is yes") {
		t.Errorf("exceptions: %s", e)
	}
	// The issuing key of another machine is held to the same rule.
	csr := must(t)(start(t, ceremony.Config{Keys: keys, Development: true}).MakeCSR(t.Context(), ceremony.CSRRequest{Name: "d", Duty: profile.DutyDevice, KeyURI: tok.URI("loose"), Subject: name("D")}))
	prod := start(t, ceremony.Config{Keys: keys})
	root := must(t)(prod.CreateRoot(t.Context(), ceremony.RootRequest{Name: "good", BaseURL: baseURL, KeyURI: tok.URI("good"), Generate: true, Subject: name("Good")}))
	_, err = prod.SignIntermediate(t.Context(), ceremony.SignRequest{RootCert: root.CertificateDER, KeyURI: tok.URI("good"), CSR: csr.TranscriptJSON, RootName: "good", BaseURL: baseURL})
	refused(t, err, hsm.ErrKeyUnsafe)
}

// S3: production takes no base URL that will not be there in ten years.
func TestS3_ProductionRefusesShortLivedURLsBeforeAKeyIsMade(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	keys := ring(t)
	req := ceremony.RootRequest{Name: "r", BaseURL: "http://127.0.0.1:8080", KeyURI: tok.URI("r"), Generate: true, Subject: name("R")}
	_, err := start(t, ceremony.Config{Keys: keys}).CreateRoot(t.Context(), req)
	refused(t, err, ca.ErrInvalidRequest)
	if _, err := keys.Signer(t.Context(), tok.URI("r")); !errors.Is(err, hsm.ErrKeyNotFound) {
		t.Errorf("a key was made: %v", err)
	}
	r := must(t)(start(t, ceremony.Config{Keys: keys, Development: true}).CreateRoot(t.Context(), req))
	if !strings.Contains(strings.Join(r.Transcript.Exceptions, " "), "127.0.0.1") {
		t.Errorf("exceptions: %v", r.Transcript.Exceptions)
	}
}

func TestExecute_SignsTheDescribedOctetsOnceAndOnlyConfirmed(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	c := start(t, ceremony.Config{Keys: ring(t)})
	req := ceremony.RootRequest{Name: "r", BaseURL: baseURL, KeyURI: tok.URI("r"), Generate: true, Subject: name("R\u202e")}
	plan, err := c.PlanRoot(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if d := plan.Describe(); strings.Contains(d, "\u202e") || !strings.Contains(d, ceremony.WordsOf(plan.TBS())) || !strings.Contains(d, "path length 2") {
		t.Errorf("description:\n%s", d)
	}
	if _, err := c.Execute(t.Context(), plan, ""); !errors.Is(err, ceremony.ErrNotConfirmed) {
		t.Fatal(err)
	}
	_, err = c.Execute(t.Context(), plan, "yes")
	refused(t, err, ceremony.ErrUsed)
	req.Generate = false
	if plan, err = c.PlanRoot(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	r := must(t)(c.Execute(t.Context(), plan, "typed yes"))
	if !bytes.Equal(parse(t, r.CertificateDER).RawTBSCertificate, plan.TBS()) || r.Transcript.Shown != plan.Describe() || r.Transcript.Confirmed != "typed yes" {
		t.Error("another thing was signed or recorded than was shown")
	}
}

func TestPrevious_FixesNamesAndOrder(t *testing.T) {
	c := onToken(t, hsm.P256)
	step := start(t, c.cfg(c.list.TranscriptJSON))
	req := ceremony.SignRequest{RootCert: c.root.CertificateDER, KeyURI: c.rootKey, CSR: c.csr.TranscriptJSON, BaseURL: "http://other.example"}
	_, err := step.PlanIntermediate(t.Context(), req)
	refused(t, err, ceremony.ErrRequest)
	cfg := c.cfg(c.list.TranscriptJSON)
	cfg.Now = func() time.Time { return time.Now().Add(-time.Hour) }
	req.BaseURL = ""
	_, err = start(t, cfg).PlanIntermediate(t.Context(), req)
	refused(t, err, ceremony.ErrClock)
	// The other root's key does not do.
	req.KeyURI = c.tok.URI("infra-1")
	_, err = step.PlanIntermediate(t.Context(), req)
	refused(t, err, ceremony.ErrKey)
	req.KeyURI, req.Duty = c.rootKey, profile.DutyInfrastructure
	_, err = step.PlanIntermediate(t.Context(), req)
	refused(t, err, ceremony.ErrRequest)
}

func TestCheckInstall_TakesWhatFitsAndNamesWhatDoesNot(t *testing.T) {
	c := onToken(t, hsm.P256)
	step := start(t, ceremony.Config{Keys: c.keys})
	req := ceremony.InstallRequest{
		Authority:   ca.Authority{Name: "devices-1", Tenant: "main", Duty: profile.DutyDevice, State: ca.StatePending, KeyURI: c.tok.URI("devices-1"), CSR: c.csr.CSRDER, BaseURL: baseURL},
		Certificate: c.device.TranscriptJSON, RootCert: c.root.CertificateDER, RootName: "acme-root", BaseURL: baseURL,
	}
	r := must(t)(step.CheckInstall(t.Context(), req))
	if !bytes.Equal(r.CertificateDER, c.device.CertificateDER) {
		t.Error("another certificate")
	}
	steps, err := ceremony.VerifyTranscript(r.TranscriptJSON, parse(t, c.root.CertificateDER))
	if err != nil {
		t.Fatal(err, steps)
	}
	req.Certificate = c.device.CertificatePEM
	must(t)(step.CheckInstall(t.Context(), req))
	bad := req
	bad.Certificate = c.infra.CertificateDER
	_, err = step.CheckInstall(t.Context(), bad)
	refused(t, err, ca.ErrAuthorityMismatch)
	bad = req
	bad.BaseURL = "http://other.example"
	_, err = step.CheckInstall(t.Context(), bad)
	refused(t, err, ca.ErrAuthorityMismatch)
	bad = req
	bad.Authority.KeyURI = c.tok.URI("infra-1")
	_, err = step.CheckInstall(t.Context(), bad)
	refused(t, err, ceremony.ErrKey)
	other := onToken(t, hsm.P256)
	bad = req
	bad.RootCert = other.root.CertificateDER
	_, err = step.CheckInstall(t.Context(), bad)
	refused(t, err, ca.ErrAuthorityMismatch)
	bad.Certificate = c.device.TranscriptJSON
	_, err = step.CheckInstall(t.Context(), bad)
	refused(t, err, ceremony.ErrAnchor)
}
