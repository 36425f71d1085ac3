package bootstrap_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/fleet/registry"
)

var listAll = registry.Query{}

func TestGate_WithoutACertificateIs401(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	for path, body := range map[string]any{whoami: nil, nonce: []byte("{}"), register: []byte("{}")} {
		if a := d.Dial(t, nil, nil).Do(t, path, body); a.Status != 401 || a.Code != "device-certificate-missing" {
			t.Errorf("%s: %d %s", path, a.Status, a.Code)
		}
	}
}

func TestGate_RefusalsHaveTheirOwnCodes(t *testing.T) {
	clock := bootstraptest.NewClock()
	d := bootstraptest.New(t, bootstraptest.Options{Clock: clock})
	type device struct {
		c   *x509.Certificate
		key crypto.Signer
	}
	issue := func(unit string) device { c, k := d.IssueIDevID(t, unit); return device{c, k} }
	revoked, held, blocked := issue("R-1"), issue("H-1"), issue("B-1")
	d.Revoke(t, revoked.c, 1)
	d.Revoke(t, held.c, 6)
	stolen := catest.NewKey(t)
	c, _ := mustBoot(t, d, blocked.c, blocked.key, stolen)
	d.Revoke(t, c, 1) // a compromised operational key blocks the whole device (S16)
	expired := issue("E-1")
	ldev := catest.NewKey(t)
	expiredL, _ := mustBoot(t, d, expired.c, expired.key, ldev)
	clock.Add(2*365*24*time.Hour + time.Hour)
	if err := d.CA.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	for code, dev := range map[string]device{
		"device-revoked": revoked, "device-on-hold": held, "device-blocked": blocked, "device-expired": {expiredL, ldev},
	} {
		for _, path := range []string{whoami, register} {
			conn := d.Dial(t, dev.c, dev.key, loose)
			var body any
			if path == register {
				body = request(t, catest.NewKey(t), conn.Challenge(t))
			}
			if a := conn.Do(t, path, body); a.Status != 403 || a.Code != code {
				t.Errorf("%s at %s: %d %s", code, path, a.Status, a.Code)
			}
		}
	}
}

// loose lets a client connect although the server's certificate is too old for
// the test's clock; the door is what is tested.
func loose(c *tls.Config) { c.Time = nil }

// chosen shows some of a CA's authorities.
type chosen struct {
	*ca.CA
	show func(ca.Info) bool
	more []ca.Info
}

func (c *chosen) Authorities() []ca.Info {
	return append(slices.DeleteFunc(c.CA.Authorities(), func(a ca.Info) bool { return !c.show(a) }), c.more...)
}

// What lies above an issuer is verified once, and anew when the roots change: an
// issuer whose root is gone lets nobody in, however many it let in before.
func TestGate_AnIssuerStandsAndFallsWithItsRoot(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	root := func(a ca.Info) bool { return a.Duty == profile.DutyRoot }
	all, none := func(ca.Info) bool { return true }, func(a ca.Info) bool { return !root(a) }
	key := catest.NewKey(t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "another root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	other := ca.Info{Authority: ca.Authority{Name: "other", Duty: profile.DutyRoot}}
	if other.Cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	view := &chosen{CA: d.CA, show: all}
	gate := bootstrap.NewGate(bootstrap.GateConfig{CA: view, Records: d.DB, Registry: d.Registry, Revoked: d.Set})
	for i, step := range []struct {
		name string
		show func(ca.Info) bool
		more []ca.Info
		in   bool
	}{
		{"its root is there", all, nil, true},
		{"and still is", all, nil, true},
		{"its root is gone", none, nil, false},
		{"another root is in its place", none, []ca.Info{other}, false},
		{"its root is back beside the other one", all, []ca.Info{other}, true},
		{"the other one goes", all, nil, true},
		{"its root is gone again", none, nil, false},
	} {
		view.show, view.more = step.show, step.more
		c, _ := d.IssueIDevID(t, fmt.Sprint("SN-", i)) // one that was refused is remembered
		_, err := gate.AdmitCertificate(t.Context(), c)
		if step.in && err != nil || !step.in && !errors.Is(err, bootstrap.ErrUnknown) {
			t.Errorf("%s: %v", step.name, err)
		}
	}
}

// BenchmarkGate is what a device that comes back costs at the door, after its handshake.
func BenchmarkGate(b *testing.B) {
	d := bootstraptest.New(b, bootstraptest.Options{})
	c, _ := d.IssueIDevID(b, "SN-1")
	for b.Loop() {
		if _, err := d.Gate.AdmitCertificate(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

// S18: every profile is tried at the door; only a device's comes in.
func TestS18_OnlyDevicesComeIn(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	for _, p := range profile.All() {
		if p.CA {
			continue
		}
		slot := ""
		if p.Slots > 1 {
			slot = "A"
		}
		var key crypto.Signer = catest.NewKey(t)
		if p.Name == profile.SCEPRA { // messages are encrypted for it
			var err error
			key, err = rsa.GenerateKey(rand.Reader, 2048)
			must(t, err)
		}
		c := d.IssueFor(t, p.Name, "X-"+strings.ReplaceAll(string(p.Name), "-", ""), slot, profile.Names{}, key.Public())
		a := d.Dial(t, c, key).Do(t, whoami, nil)
		switch p.Name {
		case profile.IDevID:
			if a.Status != 200 || a.WhoAmI.Holder != "X-idevid" || a.WhoAmI.Profile != "idevid" {
				t.Errorf("%s: %d %s", p.Name, a.Status, a.Body)
			}
		case profile.LDevID: // of no thing
			if a.Status != 403 || a.Code != "device-inactive" {
				t.Errorf("%s: %d %s", p.Name, a.Status, a.Code)
			}
		default:
			if a.Status != 403 || a.Code != "device-role" && a.Code != "device-unknown" {
				t.Errorf("%s: %d %s", p.Name, a.Status, a.Code)
			}
		}
	}
	c, key := d.Issue(t, profile.Station, "station:st-1", "A", profile.Names{})
	if a := d.Dial(t, c, key).Do(t, whoami, nil); a.Status != 403 || a.Code != "device-role" {
		t.Errorf("a station: %d %s", a.Status, a.Code)
	}
}

// A12: subject, issuer name and serial number can be copied; the octets cannot.
func TestA12_ASelfMadeCertificateIsUnknown(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	real, _ := d.IssueIDevID(t, "SN-1")
	sign := func(parent *x509.Certificate, by crypto.Signer, serial *big.Int, key crypto.Signer) *x509.Certificate {
		tmpl := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{}, RawSubject: real.RawSubject, NotBefore: real.NotBefore, NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, Policies: real.Policies, BasicConstraintsValid: true}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	own := catest.NewKey(t)
	fakeCA := &x509.Certificate{SerialNumber: big.NewInt(7), RawSubject: d.Device.RawSubject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: d.Device.SubjectKeyId}
	deviceKey, err := d.Keys.Key(t.Context(), "test:"+catest.Device)
	if err != nil {
		t.Fatal(err)
	}
	drawn, err := ca.NewSerial(time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*x509.Certificate{
		"by a CA of the same name":                 sign(fakeCA, own, real.SerialNumber, own),
		"by the CA's key, with a known number":     sign(d.Device, deviceKey, real.SerialNumber, own),
		"by the CA's key, with a number of nobody": sign(d.Device, deviceKey, drawn.Int(), own),
		"by the CA's key, with a short number":     sign(d.Device, deviceKey, big.NewInt(5), own),
	} {
		for range 2 { // the second time from memory
			if a := d.Dial(t, c, own).Do(t, whoami, nil); a.Status != 403 || a.Code != "device-unknown" {
				t.Errorf("%s: %d %s", name, a.Status, a.Code)
			}
		}
	}
}

// S19: a resumed session does not outlive the revocation.
func TestS19_AResumedSessionIsRefusedAfterRevocation(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			d := bootstraptest.New(t, bootstraptest.Options{})
			c, key := d.IssueIDevID(t, "SN-1")
			cache := tls.NewLRUClientSessionCache(4)
			with := func(cfg *tls.Config) { cfg.ClientSessionCache, cfg.MaxVersion = cache, version }
			open := d.Dial(t, c, key, with)
			if a := open.Do(t, whoami, nil); a.Status != 200 {
				t.Fatalf("%d %s", a.Status, a.Code)
			}
			d.Revoke(t, c, 1)
			if a := open.Do(t, whoami, nil); a.Status != 403 || a.Code != "device-revoked" {
				t.Errorf("the open connection: %d %s", a.Status, a.Code)
			}
			a := d.Dial(t, c, key, with).Do(t, whoami, nil)
			if !a.TLS.DidResume {
				t.Error("the session was not resumed, so nothing was tested")
			}
			if a.Status != 403 || a.Code != "device-revoked" {
				t.Errorf("the resumed connection: %d %s", a.Status, a.Code)
			}
		})
	}
}

// A blocked device gets nothing new, whatever it still holds (S16).
func TestS16_BlockingEndsEverything(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	birth, key := d.IssueIDevID(t, "SN-1")
	fresh := catest.NewKey(t)
	c, _ := mustBoot(t, d, birth, key, fresh)
	d.Block(t, "sn-1")
	for _, a := range []bootstraptest.Answer{d.Dial(t, c, fresh).Do(t, whoami, nil), d.Dial(t, birth, key).Do(t, whoami, nil), boot(t, d, birth, key, catest.NewKey(t))} {
		if a.Status != 403 || a.Code != "device-revoked" {
			t.Errorf("%d %s", a.Status, a.Code)
		}
	}
	ps, err := d.Registry.Principals(context.Background(), scope, "thing-SN-1")
	if err != nil || len(ps) != 1 || ps[0].Status != "REVOKED" || !ps[0].Revoked {
		t.Errorf("%+v %v", ps, err)
	}
	clean(t, d)
}
