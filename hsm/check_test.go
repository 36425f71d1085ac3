package hsm_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
)

// A22: keys that other tools made with their defaults, or that were imported.
func TestCheckCAKey_RefusesUnsafeKeysOfARealToken(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	k := open(t, hsm.Config{})
	generate(t, k, tok.URI("good"), hsm.P256)
	p11tool(t, tok, "--keypairgen", "--key-type", "EC:prime256v1", "--label", "defaults", "--id", "01")
	p11tool(t, tok, "--keypairgen", "--key-type", "EC:prime256v1", "--label", "readable", "--id", "02", "--sensitive", "--extractable")
	p11tool(t, tok, "--keypairgen", "--key-type", "rsa:2048", "--label", "decrypts", "--id", "03", "--sensitive", "--usage-decrypt", "--usage-sign")
	imported(t, tok, "imported", "04")

	for _, c := range []struct{ name, why string }{
		{"readable", "extractable is yes"},
		{"decrypts", "decrypt is yes"},
		{"imported", "local is no"},
	} {
		a, err := k.Attributes(t.Context(), tok.URI(c.name))
		if err != nil {
			t.Fatal(err)
		}
		err = hsm.CheckCAKey(a, false)
		is(t, err, hsm.ErrKeyUnsafe)
		if !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: the fault does not say %q: %v", c.name, c.why, err)
		}
		if err := hsm.CheckCAKey(a, true); err != nil {
			t.Errorf("%s: development refuses: %v", c.name, err)
		}
	}
	a, err := k.Attributes(t.Context(), tok.URI("defaults"))
	if err != nil {
		t.Fatal(err)
	}
	is(t, hsm.CheckCAKey(a, false), hsm.ErrKeyUnsafe)
	a, err = k.Attributes(t.Context(), tok.URI("good"))
	if err != nil {
		t.Fatal(err)
	}
	if err := hsm.CheckCAKey(a, false); err != nil {
		t.Error(err)
	}
}

func imported(t testing.TB, tok hsmtest.Token, label, id string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "k.pem")
	writePEM(t, file, "PRIVATE KEY", der)
	cmd := exec.Command("softhsm2-util", "--import", file, "--token", tok.Label, "--label", label, "--id", id, "--pin", hsmtest.PIN)
	cmd.Env = append(os.Environ(), tok.Env()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// A22: each single fact that a token tells, or does not tell, counts.
func TestCheckCAKey_EachFactCounts(t *testing.T) {
	good := hsm.Attributes{
		URI: "pkcs11:token=t;object=ca", Scheme: "pkcs11", Algorithm: hsm.P256,
		OnToken: hsm.Yes, Private: hsm.Yes, Sensitive: hsm.Yes, AlwaysSensitive: hsm.Yes, Extractable: hsm.No,
		NeverExtractable: hsm.Yes, Local: hsm.Yes, Sign: hsm.Yes, Decrypt: hsm.No, Unwrap: hsm.No, Derive: hsm.No,
	}
	if err := hsm.CheckCAKey(good, false); err != nil {
		t.Fatal(err)
	}
	for name, fact := range map[string]func(*hsm.Attributes) *hsm.Tri{
		"private":           func(a *hsm.Attributes) *hsm.Tri { return &a.Private },
		"sensitive":         func(a *hsm.Attributes) *hsm.Tri { return &a.Sensitive },
		"always-sensitive":  func(a *hsm.Attributes) *hsm.Tri { return &a.AlwaysSensitive },
		"extractable":       func(a *hsm.Attributes) *hsm.Tri { return &a.Extractable },
		"never-extractable": func(a *hsm.Attributes) *hsm.Tri { return &a.NeverExtractable },
		"local":             func(a *hsm.Attributes) *hsm.Tri { return &a.Local },
		"sign":              func(a *hsm.Attributes) *hsm.Tri { return &a.Sign },
		"decrypt":           func(a *hsm.Attributes) *hsm.Tri { return &a.Decrypt },
		"unwrap":            func(a *hsm.Attributes) *hsm.Tri { return &a.Unwrap },
		"derive":            func(a *hsm.Attributes) *hsm.Tri { return &a.Derive },
	} {
		t.Run(name, func(t *testing.T) {
			bad := good
			opposite := hsm.Yes
			if *fact(&good) == hsm.Yes {
				opposite = hsm.No
			}
			for _, v := range []hsm.Tri{opposite, hsm.Unknown} {
				*fact(&bad) = v
				err := hsm.CheckCAKey(bad, false)
				is(t, err, hsm.ErrKeyUnsafe)
				if !strings.Contains(err.Error(), name+" is "+v.String()) {
					t.Errorf("the fault does not name it: %v", err)
				}
			}
		})
	}
	file := good
	file.Scheme = "file"
	is(t, hsm.CheckCAKey(file, false), hsm.ErrKeyUnsafe)
}

// A21: EC keys on cards with firmware below 5.7.0.
func TestCheckFirmware_RefusesECOnOldCards(t *testing.T) {
	a := hsm.Attributes{URI: "piv:serial=1;slot=9c", Scheme: "piv", Algorithm: hsm.P384}
	for version, ok := range map[string]bool{"5.4.3": false, "5.6.9": false, "5.7.0": true, "5.10.1": true, "6.0.0": true, "4.9.9": false, "": false, "5.7": false, "x.7.1": false} {
		a.Token.Firmware = version
		if err := hsm.CheckFirmware(a, false); (err == nil) != ok {
			t.Errorf("%q: %v", version, err)
		}
		if err := hsm.CheckFirmware(a, true); err != nil {
			t.Errorf("%q: override: %v", version, err)
		}
	}
	a.Token.Firmware, a.Algorithm = "5.4.3", hsm.RSA2048
	if err := hsm.CheckFirmware(a, false); err != nil {
		t.Errorf("RSA: %v", err)
	}
}

// A22: what the token itself says when somebody tries to read or change the key.
func TestGenerate_TokenKeepsTheKey(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	k := open(t, hsm.Config{Direct: true})
	generate(t, k, tok.URI("ca"), hsm.P256)
	ctx := p11.New(tok.Module) // the keyring has initialised and logged in
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	sess, err := ctx.OpenSession(slots[0], p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	defer ctx.CloseSession(sess)
	if err := ctx.FindObjectsInit(sess, []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY)}); err != nil {
		t.Fatal(err)
	}
	h, _, err := ctx.FindObjects(sess, 2)
	if err != nil || len(h) != 1 {
		t.Fatal(h, err)
	}
	if err := ctx.FindObjectsFinal(sess); err != nil {
		t.Fatal(err)
	}
	if v, err := ctx.GetAttributeValue(sess, h[0], []*p11.Attribute{p11.NewAttribute(p11.CKA_VALUE, nil)}); err == nil {
		t.Errorf("the private value can be read: %d bytes", len(v[0].Value))
	}
	for _, a := range []*p11.Attribute{p11.NewAttribute(p11.CKA_SENSITIVE, false), p11.NewAttribute(p11.CKA_EXTRACTABLE, true), p11.NewAttribute(p11.CKA_DECRYPT, true)} {
		if err := ctx.SetAttributeValue(sess, h[0], []*p11.Attribute{a}); err == nil {
			t.Errorf("attribute %#x can be changed", a.Type)
		}
	}
}
