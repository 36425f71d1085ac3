package main

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/hsm"
)

// foreign makes an authority as others make them: a path length of their own, key
// identifiers of SHA-1, no policies.
func foreign(t *testing.T, cn string, key crypto.PublicKey, parent *x509.Certificate, signer crypto.Signer, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{Organization: []string{"Legacy"}, CommonName: cn}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(3, 0, 0),
		BasicConstraintsValid: true, IsCA: true, MaxPathLen: -1, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature}
	if parent == nil {
		parent = c
	}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, signer)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestImport_AnAuthorityInAFileIsMarkedExposed_S6 takes over what others made, and
// says in list, health and metric that copies of its key may exist.
func TestImport_AnAuthorityInAFileIsMarkedExposed_S6(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	n.exposed = &exposure{keys: n.keys}
	rootKey := catest.NewKey(t)
	root := foreign(t, "Legacy Root", rootKey.Public(), nil, rootKey, nil)
	ok[adminapi.Authority](t)(n.api.Authorities.CreateRoot(ctx, n.officer, adminapi.RootRequest{Name: "legacy-root", Certificate: string(catest.PEM(root))}))
	uri := keyFile(t, "legacy")
	key, err := n.keys.Generate(ctx, uri, hsm.Spec{Algorithm: hsm.P256}) // the file that there was
	if err != nil {
		t.Fatal(err)
	}
	cert := foreign(t, "Legacy Devices", key.Public(), root, rootKey, nil)
	r := adminapi.AuthorityRequest{Name: "legacy-1", Duty: "device", CommonName: "legacy-1", KeyUri: uri, Certificate: string(catest.PEM(cert)), Root: "legacy-root"}
	other := catest.NewKey(t)
	for name, bad := range map[string]func(*adminapi.AuthorityRequest){
		"another root": func(r *adminapi.AuthorityRequest) { r.Root = catest.Root },
		"no root":      func(r *adminapi.AuthorityRequest) { r.Root = catest.Device },
		"another key": func(r *adminapi.AuthorityRequest) {
			r.Certificate = string(catest.PEM(foreign(t, "X", other.Public(), root, rootKey, nil)))
		},
		"the root itself": func(r *adminapi.AuthorityRequest) { r.Certificate = string(catest.PEM(root)) },
		"no authority": func(r *adminapi.AuthorityRequest) {
			r.Certificate = string(catest.PEM(foreign(t, "X", key.Public(), root, rootKey, func(c *x509.Certificate) { c.IsCA, c.MaxPathLen = false, 0 })))
		},
		"cannot sign a list": func(r *adminapi.AuthorityRequest) {
			r.Certificate = string(catest.PEM(foreign(t, "X", key.Public(), root, rootKey, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign })))
		},
		"it ended": func(r *adminapi.AuthorityRequest) {
			r.Certificate = string(catest.PEM(foreign(t, "X", key.Public(), root, rootKey, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })))
		},
		"its purpose": func(r *adminapi.AuthorityRequest) {
			r.Certificate = string(catest.PEM(foreign(t, "X", key.Public(), root, rootKey, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })))
		},
	} {
		x := r
		bad(&x)
		if _, err := n.api.Authorities.CreateAuthority(ctx, n.officer, x); err == nil || !strings.Contains(err.Error(), ca.ErrAuthorityMismatch.Code) {
			t.Errorf("%s: %v", name, err)
		}
	}
	a := ok[adminapi.Authority](t)(n.api.Authorities.CreateAuthority(ctx, n.officer, r))
	if !a.Exposed || a.State != "active" || a.Issuer != "legacy-root" {
		t.Errorf("imported: %+v", a)
	}
	if leaf, _ := n.f.IssueIDevID(t, "SN-1"); leaf.Issuer.CommonName == "Legacy Devices" {
		t.Error("it issued before a declaration named it")
	}
	all := ok[[]adminapi.Authority](t)(n.api.Authorities.Authorities(ctx, n.scope))
	if !slices.ContainsFunc(all, func(a adminapi.Authority) bool { return a.Name == "legacy-1" && a.Exposed }) {
		t.Error("the list does not mark it")
	}
	c := &checks{status: "ok"}
	if err := n.checkAuthorities(ctx, n.scope, c); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(c.all, func(h adminapi.HealthCheck) bool { return h.Name == "key of legacy-1" && h.Status == "warning" }) {
		t.Errorf("health does not say it: %+v", c.all)
	}
	// The way out begins with a CSR for a key that is made in its token; what the
	// authority may sign is asked for there.
	next := ok[adminapi.Authority](t)(n.api.Authorities.CreateAuthority(ctx, n.officer, adminapi.AuthorityRequest{Name: "legacy-2", Duty: "device", CommonName: "Legacy Devices 2", KeyUri: keyFile(t, "next"), Permitted: []string{"dns:devices.example.com"}}))
	if b, _ := pem.Decode([]byte(next.Csr)); b == nil || next.State != "pending" || next.Exposed {
		t.Errorf("the next one: %+v", next)
	}
}

// TestS44_ProductionTakesAnExposedKeyOnlyByName also covers the key of an import.
func TestS44_ProductionTakesAnExposedKeyOnlyByName(t *testing.T) {
	uri := keyFile(t, "legacy")
	u := ok[hsm.URI](t)(hsm.ParseURI(uri))
	for _, allowed := range []bool{false, true} {
		n := newBench(t, func(c *Config) {
			c.Production, c.Tokens.Modules = true, []string{"/nowhere.so"}
			if allowed {
				c.Tokens.ExposedKeys = []string{u.Key()}
			}
		})
		if _, err := n.keyURI(uri); (err == nil) != allowed {
			t.Errorf("allowed is %t: %v", allowed, err)
		}
	}
}
