package ceremony_test

import (
	"bytes"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"hallmark/ca"
	"hallmark/ca/ceremony"
	"hallmark/ca/profile"
	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
)

func hsmtestToken(t testing.TB) hsmtest.Token { return hsmtest.SoftHSMLabel(t, "online") }

func serialOf(t testing.TB, der []byte) ca.Serial {
	t.Helper()
	s, ok := ca.SerialFromInt(parse(t, der).SerialNumber)
	if !ok {
		t.Fatal("not one of our serial numbers (S4)")
	}
	return s
}

// A32, S32: numbers rise, entries stay, and the distribution points agree.
func TestA32_RootListFollowsTheListBefore(t *testing.T) {
	c := onToken(t, hsm.P384)
	first, err := x509.ParseRevocationList(c.list.ListDER)
	if err != nil || first.Number.Int64() != 1 || len(first.RevokedCertificateEntries) != 0 {
		t.Fatal(first, err)
	}
	// The IDP is critical and holds the octets of the CDP.
	point := profile.AppendDistributionPointName(nil, baseURL+"/crl/acme-root/0.crl")
	idp, cdp := false, false
	for _, e := range first.Extensions {
		idp = idp || e.Id.String() == "2.5.29.28" && e.Critical && bytes.HasSuffix(e.Value, point)
	}
	for _, e := range parse(t, c.device.CertificateDER).Extensions {
		cdp = cdp || e.Id.String() == "2.5.29.31" && !e.Critical && bytes.HasSuffix(e.Value, point)
	}
	if !idp || !cdp {
		t.Errorf("IDP %t, CDP %t", idp, cdp)
	}

	step := start(t, c.cfg(c.list.TranscriptJSON))
	req := ceremony.ListRequest{RootCert: c.root.CertificateDER, KeyURI: c.rootKey, Previous: c.list.ListPEM, Life: 30 * 24 * time.Hour,
		Revoke: []ceremony.Revocation{{Serial: serialOf(t, c.infra.CertificateDER), Reason: 4}}}
	second := must(t)(step.SignRootCRL(t.Context(), req))
	if n := second.Transcript.Script.ListNumber; n != "2" {
		t.Errorf("number %s", n)
	}
	root, list := write(t, "root.pem", c.root.CertificatePEM), write(t, "list.pem", second.ListPEM)
	verify := func(r *ceremony.Result) string {
		out, _ := tool(t, "openssl", "verify", "-x509_strict", "-CAfile", root, "-CRLfile", list, "-crl_check", "-extended_crl", write(t, "c.pem", r.CertificatePEM))
		return out
	}
	if out := verify(c.infra); !strings.Contains(out, "certificate revoked") {
		t.Errorf("openssl: %s", out)
	}
	if out := verify(c.device); !strings.HasSuffix(out, ": OK") {
		t.Errorf("openssl: %s", out)
	}

	// The third list keeps the entry and adds one.
	step = start(t, c.cfg(second.TranscriptJSON))
	req.Previous = second.ListDER
	_, err = step.SignRootCRL(t.Context(), req)
	refused(t, err, ceremony.ErrList) // twice
	req.Revoke = []ceremony.Revocation{{Serial: serialOf(t, c.device.CertificateDER), Reason: 2}}
	req.Number = 9
	third := must(t)(step.SignRootCRL(t.Context(), req))
	l, err := x509.ParseRevocationList(third.ListDER)
	if err != nil || l.Number.Int64() != 9 || len(l.RevokedCertificateEntries) != 2 {
		t.Fatal(l, err)
	}
	if d := third.Transcript.Shown; strings.Count(d, "as before") != 1 || strings.Count(d, "NEW") != 1 || !strings.Contains(d, "cACompromise") {
		t.Errorf("description:\n%s", d)
	}
	if _, err := ceremony.VerifyChain(append(c.files(), second.TranscriptJSON, third.TranscriptJSON), parse(t, c.root.CertificateDER)); err != nil {
		t.Error(err)
	}
}

func TestPlanRootCRL_RefusesWhatContradicts(t *testing.T) {
	c, other := onToken(t, hsm.P256), onToken(t, hsm.P256)
	good := ceremony.ListRequest{RootCert: c.root.CertificateDER, KeyURI: c.rootKey, RootName: "acme-root", BaseURL: baseURL, Previous: c.list.ListDER}
	device := serialOf(t, c.device.CertificateDER)
	for _, k := range []struct {
		name   string
		want   error
		change func(*ceremony.ListRequest)
	}{
		{"neither first nor previous", ceremony.ErrRequest, func(r *ceremony.ListRequest) { r.Previous = nil }},
		{"first and previous", ceremony.ErrRequest, func(r *ceremony.ListRequest) { r.First = true }},
		{"number does not rise", ceremony.ErrList, func(r *ceremony.ListRequest) { r.Number = 1 }},
		{"list of another root", ceremony.ErrInput, func(r *ceremony.ListRequest) { r.Previous = other.list.ListDER }},
		{"hold", ceremony.ErrRequest, func(r *ceremony.ListRequest) {
			r.Revoke = []ceremony.Revocation{{Serial: device, Reason: 6}}
		}},
		{"reason 7 (A33)", ceremony.ErrRequest, func(r *ceremony.ListRequest) {
			r.Revoke = []ceremony.Revocation{{Serial: device, Reason: 7}}
		}},
		{"in the future", ceremony.ErrRequest, func(r *ceremony.ListRequest) {
			r.Revoke = []ceremony.Revocation{{Serial: device, At: time.Now().Add(time.Hour)}}
		}},
		{"the root itself", ceremony.ErrRequest, func(r *ceremony.ListRequest) {
			r.Revoke = []ceremony.Revocation{{Serial: serialOf(t, c.root.CertificateDER)}}
		}},
		{"ten years", ceremony.ErrLifetime, func(r *ceremony.ListRequest) { r.Life = 10 * 365 * 24 * time.Hour }},
		{"key of another root", ceremony.ErrKey, func(r *ceremony.ListRequest) { r.KeyURI = other.rootKey }},
		{"certificate that is no root", ceremony.ErrInput, func(r *ceremony.ListRequest) { r.RootCert = c.device.CertificateDER }},
	} {
		t.Run(k.name, func(t *testing.T) {
			req := good
			k.change(&req)
			_, err := start(t, ceremony.Config{Keys: c.keys}).PlanRootCRL(t.Context(), req)
			refused(t, err, k.want)
		})
	}
	// The clock went back behind the list before.
	_, err := start(t, ceremony.Config{Keys: c.keys, Now: func() time.Time { return time.Now().Add(-5 * time.Minute) }}).PlanRootCRL(t.Context(), good)
	refused(t, err, ceremony.ErrClock)
}
