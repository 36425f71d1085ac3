package bootstrap_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/ca/catest"
	"hallmark/fleet"
	"hallmark/fleet/registry"
)

// proof signs for a leaf as its device does.
func proof(t testing.TB, s *site, tenant string, der []byte, key crypto.Signer) []byte {
	t.Helper()
	code := s.Registry.RegistrationCode(access.Scope{Tenant: tenant})
	digest := sha256.Sum256(bootstrap.LeafMessage(tenant, code, der))
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	must(t, err)
	return sig
}

// TestS23_ALeafWithoutItsCANeedsASignatureByItsKey of this tenant's message.
func TestS23_ALeafWithoutItsCANeedsASignatureByItsKey(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		ctx := t.Context()
		a := s.newCA(t, "Maker CA")
		key := catest.NewKey(t)
		c := a.deviceFor(t, "press-1", "SN-1", key.Public())
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		other := proof(t, s, "other", c.Raw, key)
		stranger := proof(t, s, access.DefaultTenant, c.Raw, catest.NewKey(t))
		for name, p := range map[string][]byte{"none": nil, "for another tenant": other, "by another key": stranger, "garbage": {1, 2}} {
			if _, err := s.byoc.RegisterCertificateWithoutCA(ctx, s.owner, bootstrap.LeafRegistration{Certificate: text, Active: true, Proof: p}); !errors.Is(err, bootstrap.ErrLeafProof) {
				t.Errorf("%s: %v", name, err)
			}
		}
		s.refused(t, c, bootstrap.ErrUnknown)
		good := bootstrap.LeafRegistration{Certificate: text, Proof: proof(t, s, access.DefaultTenant, c.Raw, key)}
		rec, err := s.byoc.RegisterCertificateWithoutCA(ctx, s.owner, good)
		if err != nil || rec.Status != fleet.Inactive || rec.How != registry.HowBYOC || rec.CA != "" {
			t.Fatalf("%+v %v", rec, err)
		}
		// Another tenant that proves the key too has it as well; its door needs the name.
		eve := access.Actor{Tenant: "other", Kind: access.KindPrincipal, Name: "eve"}
		if _, err := s.byoc.RegisterCertificateWithoutCA(ctx, eve, bootstrap.LeafRegistration{Certificate: text, Proof: other, Active: true}); err != nil {
			t.Error(err)
		}
		if got, err := s.connect(c, "other.example.com"); err != nil || got.Tenant != "other" {
			t.Errorf("%+v %v", got, err)
		}
	})
}

func TestBYOC_ACertificateIsRegisteredUnderItsCA(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		ctx := t.Context()
		a := s.register(t, "Maker CA", "")
		c := a.device(t, "press-1", "SN-1")
		rec, err := s.byoc.RegisterCertificate(ctx, s.owner, bootstrap.LeafRegistration{Certificate: c.Raw, CA: catest.PEM(a.cert), Active: true})
		if err != nil || rec.CA != a.rec.ID || rec.Status != fleet.Active {
			t.Fatalf("%+v %v", rec, err)
		}
		if got, err := s.connect(c); err != nil || got.How != registry.HowBYOC {
			t.Errorf("%+v %v", got, err)
		}
		unknown := s.newCA(t, "Maker CA")
		forged := unknown.device(t, "press-2", "SN-2")
		if _, err := s.byoc.RegisterCertificate(ctx, s.owner, bootstrap.LeafRegistration{Certificate: forged.Raw}); !errors.Is(err, registry.ErrCAUnknown) {
			t.Errorf("%v", err)
		}
		if _, err := s.byoc.RegisterCertificate(ctx, s.owner, bootstrap.LeafRegistration{Certificate: forged.Raw, CA: a.cert.Raw}); !errors.Is(err, bootstrap.ErrLeafInvalid) {
			t.Errorf("%v", err)
		}
		if _, err := s.byoc.RegisterCertificate(ctx, s.owner, bootstrap.LeafRegistration{Certificate: a.cert.Raw}); !errors.Is(err, bootstrap.ErrLeafInvalid) {
			t.Errorf("a CA as a leaf: %v", err)
		}
		own, _ := s.IssueIDevID(t, "SN-1")
		if _, err := s.byoc.RegisterCertificate(ctx, s.owner, bootstrap.LeafRegistration{Certificate: own.Raw}); !errors.Is(err, registry.ErrCertificateOwn) {
			t.Errorf("%v", err)
		}
		// S23: a CA in the mode DEFAULT needs its proof, and ours are not to be had.
		if _, err := s.byoc.RegisterCA(ctx, s.owner, registry.CARegistration{Certificate: unknown.cert}); !errors.Is(err, registry.ErrPossession) {
			t.Errorf("%v", err)
		}
		eve := access.Actor{Tenant: "other", Kind: access.KindPrincipal, Name: "eve"}
		if _, err := s.byoc.RegisterCA(ctx, eve, registry.CARegistration{Certificate: s.Device, Mode: registry.ModeSNIOnly}); !errors.Is(err, registry.ErrCAElsewhere) {
			t.Errorf("%v", err)
		}
		inactive := registry.CAInactive
		_, err = s.Registry.UpdateCA(ctx, scope, a.rec.ID, registry.CAChange{Status: &inactive})
		must(t, err)
		if _, err := s.byoc.RegisterCertificate(ctx, s.owner, bootstrap.LeafRegistration{Certificate: a.device(t, "press-3", "SN-3").Raw}); !errors.Is(err, registry.ErrCAStatus) {
			t.Errorf("%v", err)
		}
	})
}

// failing stops after some lines, as a full disk does.
type failing struct {
	io.Writer
	left int
}

func (f *failing) Write(p []byte) (int, error) {
	if f.left--; f.left < 0 {
		return 0, io.ErrShortWrite
	}
	return f.Writer.Write(p)
}

func TestBulk_RegistersAFileAndResumes(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		var in bytes.Buffer
		const n = 12
		for i := range n {
			csr := string(s.request(t, catest.NewKey(t)))
			if i == 3 {
				csr = "garbage"
			}
			if i == 7 {
				fmt.Fprintln(&in, `{"Name": 1}`)
				continue
			}
			line, err := json.Marshal(map[string]string{"Name": fmt.Sprintf("press-%d", i), "CSR": csr})
			must(t, err)
			in.Write(append(line, '\n'))
		}
		file := in.String()
		var out bytes.Buffer
		// It dies in the middle: the line that was not reported is done again.
		p, err := s.bulk.Run(t.Context(), s.owner, bootstrap.BulkTask{Template: "bulk", Lines: strings.NewReader(file), Results: &failing{&out, 5}})
		if !errors.Is(err, bootstrap.ErrBulk) || p.Lines != 6 {
			t.Fatalf("%+v %v", p, err)
		}
		done, length, err := bootstrap.CountResults(strings.NewReader(out.String() + `{"line":6,"thi`))
		if err != nil || done != 5 || length != int64(out.Len()) {
			t.Fatalf("%d %d %v", done, length, err)
		}
		seen := 0
		p, err = s.bulk.Run(t.Context(), s.owner, bootstrap.BulkTask{Template: "bulk", Lines: strings.NewReader(file), Results: &out, Done: done, Progress: func(bootstrap.BulkProgress) { seen++ }})
		if err != nil || p.Lines != n || p.Registered != n-done-1 || p.Failed != 1 || p.Offset != int64(len(file)) || seen != n-int(done) {
			t.Errorf("%+v %d %v", p, seen, err)
		}
		results := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(results) != n {
			t.Fatalf("%d results", len(results))
		}
		for i, text := range results {
			var r bootstrap.BulkResult
			must(t, json.Unmarshal([]byte(text), &r))
			bad := i == 3 || i == 7
			if r.Line != int64(i+1) || bad != (r.Code != "") {
				t.Errorf("%s", text)
				continue
			}
			if bad {
				continue
			}
			c := leafOf(t, r.CertificatePEM)
			if got, err := s.connect(c); err != nil || got.CertificateID != r.CertificateID || string(got.Thing) != r.Thing || got.How != registry.HowBulk {
				t.Errorf("%+v %v", got, err)
			}
		}
		all, err := s.Registry.Certificates(context.Background(), scope, registry.CertificateQuery{})
		if err != nil || len(all) != n-2 {
			t.Errorf("%d certificates, %v", len(all), err)
		}
		clean(t, s.Door)
	})
}
