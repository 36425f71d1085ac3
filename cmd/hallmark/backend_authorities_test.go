package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/ceremony"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/hsm"
	"hallmark/internal/fault"
)

func keyFile(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	pass := filepath.Join(dir, "passphrase")
	if err := os.WriteFile(pass, []byte("correct horse battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return "file:" + filepath.Join(dir, name+".pem") + "?passphrase-source=file:" + pass
}

// TestBackend_AnAuthorityFromItsKeyToItsFirstCertificate goes the way of an
// installation: root, key and CSR, ceremony, installation.
func TestBackend_AnAuthorityFromItsKeyToItsFirstCertificate(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	rootURI := keyFile(t, "root")
	offline := ok[*ceremony.Ceremony](t)(ceremony.New(ceremony.Config{Keys: n.keys, Development: true}))
	root := ok[*ceremony.Result](t)(offline.CreateRoot(ctx, ceremony.RootRequest{Name: "acme-root", BaseURL: catest.BaseURL, KeyURI: rootURI, Generate: true, Subject: profile.Subject{CommonName: "Acme Root"}}))

	stored := ok[adminapi.Authority](t)(n.api.Authorities.CreateRoot(ctx, n.officer, adminapi.RootRequest{Name: "acme-root", Certificate: string(root.CertificatePEM)}))
	if stored.State != "active" || stored.KeyUri != "" || stored.Issuer != "acme-root" || stored.Fingerprint == "" || stored.BaseUrl != catest.BaseURL {
		t.Errorf("root: %+v", stored)
	}
	_, err := n.api.Authorities.CreateRoot(ctx, n.officer, adminapi.RootRequest{Name: "acme-root-2", Certificate: string(root.CertificatePEM)})
	wants(t, err, errSharedKey)

	uri := keyFile(t, "line")
	request := adminapi.AuthorityRequest{Name: "line-1", Duty: "device", KeyUri: uri, Algorithm: "P-384", CommonName: "Acme Line 1", IssueUntil: time.Now().AddDate(1, 0, 0)}
	pending := ok[adminapi.Authority](t)(n.api.Authorities.CreateAuthority(ctx, n.officer, request))
	block, _ := pem.Decode([]byte(pending.Csr))
	if pending.State != "pending" || pending.Shards != 2 || block == nil || strings.Contains(pending.KeyUri, "passphrase") || pending.Certificate != "" {
		t.Fatalf("pending: %+v", pending)
	}
	if req := ok[*csr.Request](t)(csr.Parse(block.Bytes)); req.PublicKey.(*ecdsa.PublicKey).Curve != elliptic.P384() {
		t.Error("the key is not of the algorithm that was asked")
	}
	again := request
	_, err = n.api.Authorities.CreateAuthority(ctx, n.officer, again)
	wants(t, err, ca.ErrAuthorityPending)
	again.Name = "line-2"
	_, err = n.api.Authorities.CreateAuthority(ctx, n.officer, again) // the key is there, and is taken
	wants(t, err, errSharedKey)
	if _, err := n.f.CA.Authority("line-1"); err == nil {
		t.Error("a pending authority is loaded")
	}

	transcript := ok[[]byte](t)(os.ReadFile(filepath.Join(n.cfg.State, "ceremony", "line-1.csr.transcript.json")))
	signed := ok[*ceremony.Result](t)(offline.SignIntermediate(ctx, ceremony.SignRequest{RootCert: root.CertificateDER, KeyURI: rootURI, CSR: transcript, RootName: "acme-root", BaseURL: catest.BaseURL}))
	install := adminapi.InstallRequest{Certificate: string(signed.CertificatePEM), Root: "acme-root"}
	for _, bad := range []adminapi.InstallRequest{
		{Certificate: install.Certificate, Root: catest.Root},                           // another root
		{Certificate: install.Certificate, Root: catest.Infra},                          // no root
		{Certificate: string(catest.PEM(n.f.Device)), Root: catest.Root},                // another key
		{Certificate: string(root.CertificatePEM), Root: "acme-root"},                   // the root itself
		{Certificate: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END", Root: "acme-root"}, // nothing
	} {
		if _, err := n.api.Authorities.InstallAuthority(ctx, n.officer, "line-1", bad); fault.KindOf(err) != fault.Invalid {
			t.Errorf("installed from %q: %v", bad.Root, err)
		}
	}
	if n.reloads != 1 {
		t.Errorf("%d reloads before the installation", n.reloads)
	}
	for range 2 { // the second repeats what follows an installation
		active := ok[adminapi.Authority](t)(n.api.Authorities.InstallAuthority(ctx, n.officer, "line-1", install))
		if active.State != "active" || active.Issuer != "acme-root" || active.Csr != "" || active.Serial == "" || !active.IssueUntil.Equal(request.IssueUntil.Truncate(time.Millisecond)) {
			t.Errorf("active: %+v", active)
		}
	}
	if n.reloads != 3 {
		t.Errorf("%d reloads", n.reloads)
	}
	lists := ok[[]adminapi.List](t)(n.api.Trust.Lists(ctx, n.scope))
	if !slices.ContainsFunc(lists, func(l adminapi.List) bool {
		return l.Authority == "line-1" && l.Shard == 1 && l.Url == catest.BaseURL+"/crl/line-1/1.crl" && l.Size > 0 && l.NextUpdate.After(time.Now())
	}) {
		t.Errorf("the new authority has no list: %+v", lists)
	}
	if leaf, _ := n.f.IssueIDevID(t, "SN1"); leaf.Issuer.CommonName != catest.Device {
		t.Errorf("an authority that is not declared issued: %s", leaf.Issuer)
	}
	for _, have := range ok[[]ca.Serving](t)(n.db.Servings(ctx)) {
		if have.Serves == "device" {
			have.Authorities = append([]string{"line-1"}, have.Authorities...)
			if err := n.db.PutServing(ctx, have, have.Version); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := n.ca.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	leaf, _ := n.f.IssueIDevID(t, "SN2")
	if leaf.Issuer.CommonName != "Acme Line 1" {
		t.Errorf("issued by %s", leaf.Issuer)
	}
	_, err = n.api.Authorities.InstallAuthority(ctx, access.Actor{Tenant: "other", Kind: access.KindPrincipal, Name: "eve"}, "line-1", install)
	wants(t, err, ca.ErrAuthorityUnknown)
}

// TestS44_ProductionTakesNoKeyFromAFile also covers what a request must not carry.
func TestS44_ProductionTakesNoKeyFromAFile(t *testing.T) {
	n, ctx := newBench(t, func(c *Config) { c.Production, c.Tokens.Modules = true, []string{"/nowhere.so"} }), t.Context()
	uri := keyFile(t, "line")
	r := adminapi.AuthorityRequest{Name: "line-1", Duty: "device", KeyUri: uri, CommonName: "Acme Line 1"}
	_, err := n.api.Authorities.CreateAuthority(ctx, n.officer, r)
	wants(t, err, hsm.ErrKeyUnsafe)
	if made, _ := filepath.Glob(filepath.Join(filepath.Dir(strings.TrimPrefix(uri, "file:")), "*.pem")); len(made) > 0 {
		t.Error("a key was made before it was refused")
	}
	r.KeyUri = "pkcs11:token=ca;object=line?module-path=/nowhere.so&pin-value=1234"
	_, err = n.api.Authorities.CreateAuthority(ctx, n.officer, r)
	wants(t, err, hsm.ErrURIInvalid)
	r.KeyUri, r.BaseUrl = "pkcs11:token=ca;object=line?module-path=/nowhere.so", "http://10.0.0.1" // S3
	_, err = n.api.Authorities.CreateAuthority(ctx, n.officer, r)
	wants(t, err, ca.ErrInvalidRequest)
	r.KeyUri = "pkcs11:token=ca;object=line?module-path=/elsewhere.so"
	_, err = n.api.Authorities.CreateAuthority(ctx, n.officer, r)
	wants(t, err, errModule)
}
