package main

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/csr"
	"hallmark/fleet/trust"
	"hallmark/provisioner"
	"hallmark/provisioner/declare"
	"hallmark/station/uplink"
)

// TestCross_ALeafVerifiesUnderEitherRoot stores a cross certificate and has OpenSSL
// verify a leaf with what is served, once for who trusts the one root and once for
// who trusts the other. What is no cross certificate of stored roots is refused.
func TestCross_ALeafVerifiesUnderEitherRoot(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	otherKey, stranger := catest.NewKey(t), catest.NewKey(t)
	// crossed is how the other root certifies root-1.
	crossed := func(change func(*x509.Certificate), signer crypto.Signer, parent *x509.Certificate) *x509.Certificate {
		return foreign(t, "X", n.f.Root.PublicKey, parent, signer, func(c *x509.Certificate) {
			c.RawSubject, c.SubjectKeyId = n.f.Root.RawSubject, n.f.Root.SubjectKeyId
			if change != nil {
				change(c)
			}
		})
	}
	other := foreign(t, "Other Root", otherKey.Public(), nil, otherKey, func(c *x509.Certificate) { c.NotAfter = time.Now().AddDate(9, 0, 0) })
	good := crossed(nil, otherKey, other)
	add := func(name string, c *x509.Certificate) error {
		_, err := n.api.Authorities.AddCross(ctx, n.officer, adminapi.CrossRequest{Name: name, Certificate: string(catest.PEM(c))})
		return err
	}
	wants(t, add("x", good), ca.ErrCross) // the other root is not stored
	ok[adminapi.Authority](t)(n.api.Authorities.CreateRoot(ctx, n.officer, adminapi.RootRequest{Name: "other-root", Certificate: string(catest.PEM(other))}))
	unrelated := foreign(t, "Third Root", stranger.Public(), nil, stranger, nil)
	for what, c := range map[string]*x509.Certificate{
		"signed by a stranger": crossed(nil, stranger, unrelated),
		"of another key": foreign(t, "X", stranger.Public(), other, otherKey, func(c *x509.Certificate) {
			c.RawSubject, c.SubjectKeyId = n.f.Root.RawSubject, n.f.Root.SubjectKeyId
		}),
		"of another name":        foreign(t, "X", n.f.Root.PublicKey, other, otherKey, nil),
		"a root itself":          other,
		"nothing below it":       crossed(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }, otherKey, other),
		"no authority":           crossed(func(c *x509.Certificate) { c.IsCA, c.MaxPathLen = false, 0 }, otherKey, other),
		"cannot certify":         crossed(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }, otherKey, other),
		"another key identifier": crossed(func(c *x509.Certificate) { c.SubjectKeyId = []byte{1, 2, 3} }, otherKey, other),
		"for one purpose":        crossed(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, otherKey, other),
		"it outlives its root":   crossed(func(c *x509.Certificate) { c.NotAfter = other.NotAfter.AddDate(1, 0, 0) }, otherKey, other),
		"it ended":               crossed(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, otherKey, other),
		"a critical extension": crossed(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}, otherKey, other),
	} {
		if err := add("x", c); err == nil {
			t.Errorf("%s: it is taken", what)
		} else {
			wants(t, err, ca.ErrCross)
		}
	}
	wants(t, add(catest.Device, good), ca.ErrAuthorityExists)
	if err := add("root-1-by-other", good); err != nil {
		t.Fatal(err)
	}
	wants(t, add("root-1-by-other", good), ca.ErrAuthorityExists)
	if all := ok[[]adminapi.Cross](t)(n.api.Authorities.Crosses(ctx, n.scope)); len(all) != 1 || all[0].Root != "other-root" || all[0].Of != catest.Root {
		t.Errorf("%+v", all)
	}
	if all := ok[[]adminapi.Cross](t)(n.api.Authorities.Crosses(ctx, n.stranger)); len(all) != 0 {
		t.Errorf("another tenant sees %+v", all)
	}

	dir := t.TempDir()
	put := func(name string, b []byte) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	get := func(path string) []byte {
		t.Helper()
		w := httptest.NewRecorder()
		n.lists.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusOK {
			t.Fatalf("%s: %d", path, w.Code)
		}
		return w.Body.Bytes()
	}
	if string(get("/ca/root-1-by-other.cer")) != string(good.Raw) {
		t.Error("another cross certificate is served")
	}
	leaf, _ := n.f.IssueIDevID(t, "SN-1")
	chain, file := put("chain.pem", get("/ca/device-1.pem")), put("leaf.pem", catest.PEM(leaf))
	alone := put("alone.pem", catest.PEM(n.f.Device))
	for _, root := range []*x509.Certificate{n.f.Root, other} {
		anchor := put("root.pem", catest.PEM(root))
		if out, err := tool(t, nil, "openssl", "verify", "-x509_strict", "-CAfile", anchor, "-untrusted", chain, file); err != nil {
			t.Errorf("under %s: %v\n%s", root.Subject.CommonName, err, out)
		}
		if _, err := tool(t, nil, "openssl", "verify", "-CAfile", anchor, "-untrusted", alone, file); (err == nil) != (root == n.f.Root) {
			t.Errorf("without the cross certificate under %s: %v", root.Subject.CommonName, err)
		}
	}

	// A station that is told only the other root verifies what it makes, and itself.
	n.open(t, "o1", 1)
	a := n.unit(t, "o1", "o1-001")
	code, _, err := uplink.ParseCode(ok[adminapi.StationCode](t)(n.api.Stations.CreateStationCode(ctx, n.manager, adminapi.StationCodeRequest{Station: "st-2", Site: "plant"})).Code)
	if err != nil {
		t.Fatal(err)
	}
	station := ok[provisioner.StationCertificate](t)(n.prov.EnrolStation(ctx, "st-2", code[:], ok[[]byte](t)(csr.Create(catest.NewKey(t), "st-2", ""))))
	for what, ders := range map[string][][]byte{"unit": append([][]byte{a.DER}, a.Chain...), "station": append([][]byte{station.DER}, station.Chain...)} {
		var s trust.Shown
		for _, der := range ders {
			s.Chain = append(s.Chain, ok[*x509.Certificate](t)(x509.ParseCertificate(der)))
		}
		for _, root := range []*x509.Certificate{n.f.Root, other} {
			if !s.Accepted([]*x509.Certificate{root}, time.Now()) {
				t.Errorf("the certificate of the %s does not verify under %s", what, root.Subject.CommonName)
			}
		}
	}
}

// TestCross_TakesTwoToRemove_S36: a cross certificate is taken away by two people,
// and then served no more; one that ended by one. What is not stored is not found.
func TestCross_TakesTwoToRemove_S36(t *testing.T) {
	n, ctx := newBench(t, func(c *Config) { c.OnePerson = false }), t.Context()
	key := catest.NewKey(t)
	other := foreign(t, "Other Root", key.Public(), nil, key, func(c *x509.Certificate) { c.NotAfter = time.Now().AddDate(9, 0, 0) })
	crossed := func(until time.Time) *x509.Certificate {
		return foreign(t, "X", n.f.Root.PublicKey, other, key, func(c *x509.Certificate) {
			c.RawSubject, c.SubjectKeyId, c.NotBefore, c.NotAfter = n.f.Root.RawSubject, n.f.Root.SubjectKeyId, time.Now().Add(-48*time.Hour), until
		})
	}
	ok[adminapi.Authority](t)(n.api.Authorities.CreateRoot(ctx, n.plat(), adminapi.RootRequest{Name: "other-root", Certificate: string(catest.PEM(other))}))
	stored := func(name string) bool {
		t.Helper()
		if err := n.ca.Reload(ctx); err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		n.lists.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/ca/"+name+".cer", nil))
		return w.Code == http.StatusOK
	}
	document := func(name string) string {
		return "apiVersion: " + declare.APIVersion + "\nkind: CrossCertificate\nmetadata: {name: " + name + "}\nspec: {state: removed}\n"
	}
	for range 2 { // its name is free again
		ok[adminapi.Cross](t)(n.api.Authorities.AddCross(ctx, n.plat(), adminapi.CrossRequest{Name: "x-1", Certificate: string(catest.PEM(crossed(time.Now().AddDate(1, 0, 0))))}))
		p := n.ask(t, n.plat(), document("x-1"))
		if len(p.Requests) != 1 || !stored("x-1") {
			t.Fatalf("one person took it away: %+v", p.Requests)
		}
		_, err := n.approveRequest(t, n.plat(), p.Requests[0].Id)
		wants(t, err, access.ErrSelfApproval)
		ok[adminapi.ApprovalRequest](t)(n.approveRequest(t, n.quinn(), p.Requests[0].Id))
		if stored("x-1") {
			t.Fatal("it is served still")
		}
	}
	over := ca.Cross{Tenant: n.scope.Tenant, Name: "x-2", Root: "other-root", Of: catest.Root, Certificate: crossed(time.Now().Add(-time.Hour)).Raw, AddedAt: time.Now().UTC()}
	if err := n.db.AddCross(ctx, over); err != nil {
		t.Fatal(err)
	}
	if !stored("x-2") {
		t.Fatal("it is not stored")
	}
	if p := n.ask(t, n.plat(), document("x-2")); len(p.Requests) != 0 || stored("x-2") {
		t.Errorf("one that ended waits for a second person: %+v", p.Requests)
	}
	_, err := n.api.Plans.MakePlan(ctx, n.plat(), adminapi.PlanRequest{Files: docFiles(document("x-3"))})
	if codes := n.findings(t, err); len(codes) != 1 || !strings.Contains(codes[0], "ca-authority-unknown") {
		t.Errorf("one that is not there: %v", codes)
	}
}
