package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/ceremony"
	"hallmark/web"
	"hallmark/web/webtest"
)

// newServiceCLI is the command line against a door with a real backend behind it,
// in a directory of its own.
func newServiceCLI(t *testing.T) (*cli, *bench) {
	t.Helper()
	n, s := newBench(t, nil), webtest.New(t, nil)
	h, err := web.NewPeople(web.PeopleConfig{Backend: n.api, Access: s.Access, Trail: s.Fake, Cursors: web.NewCursors(nil)})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	t.Chdir(t.TempDir())
	anchor := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(anchor, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &cli{s, t, []string{"--server", srv.URL, "--ca-file", anchor}}, n
}

// good runs a command that has to succeed.
func (c *cli) good(args ...string) string {
	c.t.Helper()
	code, out, errOut := c.run(access.SecurityOfficer, "", args...)
	if code != 0 {
		c.t.Fatalf("hallmark %s: %d\n%s%s", strings.Join(args, " "), code, out, errOut)
	}
	return out
}

// bad runs a command that has to be refused with a code.
func (c *cli) bad(want string, args ...string) string {
	c.t.Helper()
	code, out, errOut := c.run(access.SecurityOfficer, "", args...)
	if code != 1 || !strings.Contains(errOut, "code: "+want+"\n") {
		c.t.Fatalf("hallmark %s: %d, want %s\n%s%s", strings.Join(args, " "), code, want, out, errOut)
	}
	return errOut
}

// offlineRoot makes a root and its first list at base, and gives its key's URI.
func offlineRoot(t *testing.T, name, base string) string {
	t.Helper()
	uri := keyFile(t, name)
	for _, step := range [][]string{
		{"root", "--name", name, "--base-url", base, "--generate", "--subject-cn", "Root " + name},
		{"crl", "--root", name + ".pem", "--first", "--previous", name + ".root.transcript.json"},
	} {
		if _, errOut, err := ceremonyCLI(t, "", append(step, "--key", uri, "--development", "--yes")...); err != nil {
			t.Fatalf("%v\n%s", err, errOut)
		}
	}
	return uri
}

// TestCACSR_WhatWasAskedForIsInTheCertificateOrItIsNotInstalled signs a bare CSR,
// which drops what was asked for, and then does what the command says.
func TestCACSR_WhatWasAskedForIsInTheCertificateOrItIsNotInstalled(t *testing.T) {
	c, n := newServiceCLI(t)
	key := offlineRoot(t, "acme-root", catest.BaseURL)
	c.good("ca", "root", "--name", "acme-root", "--certificate", "acme-root.pem", "--list", "acme-root-1.crl")
	out := c.good("ca", "csr", "--name", "narrow-1", "--duty", "device", "--cn", "Narrow 1", "--key", keyFile(t, "narrow"),
		"--permit", "dns:devices.example.com", "--permit", "ip:10.0.0.0/8", "--purpose", "client-auth", "--purpose", "ocsp-signing")

	bare := filepath.Join(t.TempDir(), "narrow-1.csr") // without what lies beside it
	b, err := os.ReadFile("narrow-1.csr")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bare, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("bare", 0o700); err != nil {
		t.Fatal(err)
	}
	sign := []string{"sign", "--key", key, "--root", "acme-root.pem", "--name", "narrow-1", "--duty", "device", "--subject-cn", "Narrow 1", "--root-name", "acme-root", "--base-url", catest.BaseURL, "--development", "--yes", "--out-dir", "bare"}
	if _, errOut, err := ceremonyCLI(t, "", append(sign, "--csr", bare)...); err != nil {
		t.Fatalf("%v\n%s", err, errOut)
	}
	said := c.bad("ca-constraints-differ", "ca", "install", "narrow-1", "--root", "acme-root", "--certificate", "bare/narrow-1.pem")
	if !strings.Contains(said, "dns:devices.example.com") {
		t.Errorf("it does not say what is missing: %s", said)
	}

	// The transcript can be had again, and says the same.
	was, err := os.ReadFile("narrow-1.csr.transcript.json")
	if err != nil {
		t.Fatal(err)
	}
	if again := c.good("ca", "transcript", "narrow-1", "--out", "again.csr"); !strings.Contains(again, "again.csr.transcript.json") {
		t.Errorf("again: %s", again)
	}
	if b, err := os.ReadFile("again.csr.transcript.json"); err != nil || !bytes.Equal(b, was) {
		t.Errorf("another transcript: %v", err)
	}
	c.bad("ca-authority-pending", "ca", "csr", "--name", "narrow-1", "--duty", "device", "--cn", "Narrow 1", "--key", keyFile(t, "other"))

	// The next step works as it is printed, once the places of the root are named.
	_, next, found := strings.Cut(out, "hallmark ceremony ")
	if !found {
		t.Fatalf("no next step: %s", out)
	}
	next, _, _ = strings.Cut(next, "\n")
	var args []string
	for _, a := range strings.Fields(next) {
		switch a {
		case "KEY-URI":
			a = key
		case "ROOT.pem":
			a = "acme-root.pem"
		case "NEWEST.transcript.json":
			a = "acme-root-1.crl.transcript.json"
		}
		args = append(args, a)
	}
	if _, errOut, err := ceremonyCLI(t, "yes\n", args...); err != nil {
		t.Fatalf("hallmark ceremony %s: %v\n%s", strings.Join(args, " "), err, errOut)
	}
	// The transcript of the signing installs like the certificate that is in it.
	c.good("ca", "install", "narrow-1", "--root", "acme-root", "--certificate", "narrow-1.sign.transcript.json")
	a := ok[adminapi.Authority](t)(n.api.Authorities.Authority(t.Context(), n.scope, "narrow-1"))
	block, _ := pem.Decode([]byte(a.Certificate))
	cert := ok[*x509.Certificate](t)(x509.ParseCertificate(block.Bytes))
	if a.State != "active" || len(cert.PermittedDNSDomains) != 1 || len(cert.PermittedIPRanges) != 1 || len(cert.ExtKeyUsage) != 2 {
		t.Errorf("%s with %v %v", a.State, cert.PermittedDNSDomains, cert.ExtKeyUsage)
	}
}

// TestCeremonySign_TakesTheTranscriptThatLiesBesideTheCSR covers who names the CSR
// and has brought both files.
func TestCeremonySign_TakesTheTranscriptThatLiesBesideTheCSR(t *testing.T) {
	c, _ := newServiceCLI(t)
	key := offlineRoot(t, "acme-root", catest.BaseURL)
	c.good("ca", "root", "--name", "acme-root", "--certificate", "acme-root.pem", "--list", "acme-root-1.crl")
	for _, name := range []string{"narrow-1", "narrow-2"} {
		c.good("ca", "csr", "--name", name, "--duty", "device", "--cn", "Narrow", "--key", keyFile(t, name), "--permit", "dns:devices.example.com")
	}
	sign := func(csr string) (string, error) {
		_, errOut, err := ceremonyCLI(t, "", "sign", "--key", key, "--root", "acme-root.pem", "--csr", csr, "--previous", "acme-root-1.crl.transcript.json", "--development", "--yes")
		return errOut, err
	}
	if said, err := sign("narrow-1.csr"); err != nil || !strings.Contains(said, "dns:devices.example.com") || !strings.Contains(said, "narrow-1.csr.transcript.json") {
		t.Fatalf("%v\n%s", err, said)
	}
	c.good("ca", "install", "narrow-1", "--root", "acme-root", "--certificate", "narrow-1.pem")
	// That of another CSR is not taken for it.
	if err := os.Rename("narrow-1.csr", "narrow-2.csr"); err != nil {
		t.Fatal(err)
	}
	if said, err := sign("narrow-2.csr"); err == nil || !strings.Contains(err.Error(), "another CSR") {
		t.Errorf("%v\n%s", err, said)
	}
}

// TestCARoot_AListThatDoesNotFitStoresNothing names a root without the base URL that
// its list was made for, and then with it.
func TestCARoot_AListThatDoesNotFitStoresNothing(t *testing.T) {
	c, n := newServiceCLI(t)
	const base = "http://pki.acme-devices.example"
	offlineRoot(t, "acme-root", base)
	root := []string{"ca", "root", "--name", "acme-root", "--certificate", "acme-root.pem", "--list", "acme-root-1.crl"}
	if said := c.bad("list-signature-wrong", root...); !strings.Contains(said, "made for the base URL "+base+",") || !strings.Contains(said, "--base-url") {
		t.Errorf("it does not say which base URL: %s", said)
	}
	if _, err := n.api.Authorities.Authority(t.Context(), n.scope, "acme-root"); err == nil {
		t.Fatal("the root is stored all the same")
	}
	for _, a := range n.ca.Authorities() {
		if a.Name == "acme-root" {
			t.Fatal("the root is trusted all the same")
		}
	}
	// A list of another root, and what is none.
	offlineRoot(t, "other-root", base)
	c.bad("list-signature-wrong", "ca", "root", "--name", "acme-root", "--certificate", "acme-root.pem", "--list", "other-root-1.crl", "--base-url", base)
	c.bad("list-malformed", "ca", "root", "--name", "acme-root", "--certificate", "acme-root.pem", "--list", "acme-root.cer", "--base-url", base)
	// A root of another name than in its list's URL.
	if said := c.bad("list-signature-wrong", "ca", "root", "--name", "acme", "--certificate", "acme-root.pem", "--list", "acme-root-1.crl", "--base-url", base); !strings.Contains(said, base+"/crl/acme-root/0.crl") {
		t.Errorf("another name: %s", said)
	}
	c.good(append(root, "--base-url", base)...)
	lists := ok[[]adminapi.List](t)(n.api.Trust.Lists(t.Context(), n.scope))
	found := false
	for _, l := range lists {
		found = found || l.Authority == "acme-root" && l.Url == base+"/crl/acme-root/0.crl"
	}
	if !found {
		t.Errorf("its list is not published: %+v", lists)
	}
}

// TestAuthorities_OfTenantsAreApart holds what docs/authorities.md says of tenants.
func TestAuthorities_OfTenantsAreApart(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	t.Chdir(t.TempDir())
	key := offlineRoot(t, "other-root", catest.BaseURL)
	root := ok[[]byte](t)(os.ReadFile("other-root.pem"))
	by := access.Actor{Tenant: "other", Kind: access.KindPrincipal, Name: "olaf", Role: access.SecurityOfficer}
	_, err := n.api.Authorities.CreateRoot(ctx, by, adminapi.RootRequest{Name: catest.Root, Certificate: string(root)})
	wants(t, err, ca.ErrAuthorityExists)
	_, err = n.api.Authorities.CreateRoot(ctx, by, adminapi.RootRequest{Name: "main-root", Certificate: string(catest.PEM(n.f.Root))})
	wants(t, err, errSharedKey)
	ok[adminapi.Authority](t)(n.api.Authorities.CreateRoot(ctx, by, adminapi.RootRequest{Name: "other-root", Certificate: string(root)}))

	made := ok[adminapi.Authority](t)(n.api.Authorities.CreateAuthority(ctx, by, adminapi.AuthorityRequest{Name: "other-1", Duty: "device", KeyUri: keyFile(t, "other"), CommonName: "Other 1"}))
	_, err = n.api.Authorities.CreateAuthority(ctx, n.officer, adminapi.AuthorityRequest{Name: "other-1", Duty: "device", KeyUri: keyFile(t, "main"), CommonName: "Main 1"})
	wants(t, err, ca.ErrAuthorityExists) // and not that it is pending
	offline := ok[*ceremony.Ceremony](t)(ceremony.New(ceremony.Config{Keys: n.keys, Development: true}))
	signed := ok[*ceremony.Result](t)(offline.SignIntermediate(ctx, ceremony.SignRequest{RootCert: root, KeyURI: key, CSR: []byte(made.Transcript), RootName: "other-root", BaseURL: catest.BaseURL}))
	install := adminapi.InstallRequest{Certificate: string(signed.CertificatePEM), Root: catest.Root}
	_, err = n.api.Authorities.InstallAuthority(ctx, by, "other-1", install)
	wants(t, err, ca.ErrAuthorityUnknown)
	install.Root = "other-root"
	_, err = n.api.Authorities.InstallAuthority(ctx, n.officer, "other-1", install)
	wants(t, err, ca.ErrAuthorityUnknown)
	ok[adminapi.Authority](t)(n.api.Authorities.InstallAuthority(ctx, by, "other-1", install))

	_, err = n.api.Authorities.Authority(ctx, n.scope, "other-1")
	wants(t, err, ca.ErrAuthorityUnknown)
	for tenant, want := range map[string]string{"other": "other-1", n.scope.Tenant: catest.Device} {
		found := ""
		for _, d := range ok[[]adminapi.Serving](t)(n.api.Authorities.Servings(ctx, access.Scope{Tenant: tenant})) {
			if d.Serves == "device" {
				found += strings.Join(d.Authorities, " ")
			}
		}
		if found != want {
			t.Errorf("devices of %s are served by %q, not by %s", tenant, found, want)
		}
	}
	if leaf, _ := n.f.IssueIDevID(t, "SN1"); leaf.Issuer.CommonName != catest.Device {
		t.Errorf("issued by %s", leaf.Issuer)
	}
}
