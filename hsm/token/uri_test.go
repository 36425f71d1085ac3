package token

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func TestParseURI_AcceptsWhatItShould(t *testing.T) {
	for in, want := range map[string]URI{
		"pkcs11:token=My%20HSM;object=ca;type=private?module-path=/usr/lib/x.so&pin-source=file:/run/pin": {
			Scheme: "pkcs11", Token: "My HSM", Object: "ca", Type: "private", ModulePath: "/usr/lib/x.so", PINSource: "file:/run/pin"},
		"PKCS11:serial=0a;id=%01%ff%00":                        {Scheme: "pkcs11", Serial: "0a", ID: []byte{1, 255, 0}},
		"pkcs11:token=a%3bb;manufacturer=M;model=X;object=a=b": {Scheme: "pkcs11", Token: "a;b", Manufacturer: "M", Model: "X", Object: "a=b"},
		"pkcs11:token=t?pin-value=1234":                        {Scheme: "pkcs11", Token: "t", PINValue: NewSecret([]byte("1234"))},
		"piv:serial=0123;slot=9c?pin-source=env:PIN":           {Scheme: "piv", Serial: "123", Slot: 0x9c, PINSource: "env:PIN"},
		"yubikey:slot=82;serial=7":                             {Scheme: "piv", Serial: "7", Slot: 0x82},
		"file:/a/./b%20c.pem?passphrase-source=env:P":          {Scheme: "file", Path: "/a/b c.pem", PINSource: "env:P"},
		"file:///a/key.pem":                                    {Scheme: "file", Path: "/a/key.pem"},
	} {
		got, err := ParseURI(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
		} else if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %#v\nwant %#v", in, got, want)
		}
	}
}

func TestParseURI_RefusesWhatItMust(t *testing.T) {
	for name, in := range map[string]string{
		"nothing":             "",
		"no scheme":           "key.pem",
		"another scheme":      "http://host/key",
		"no token":            "pkcs11:object=ca",
		"slot-id":             "pkcs11:token=t;slot-id=1",
		"unknown attribute":   "pkcs11:token=t;colour=red",
		"unknown query":       "pkcs11:token=t?max-sessions=1",
		"repeated":            "pkcs11:token=t;object=a;object=b",
		"empty value":         "pkcs11:token=t;object=",
		"no value":            "pkcs11:token=t;object",
		"empty part":          "pkcs11:token=t;;object=a",
		"half an escape":      "pkcs11:token=t%4",
		"no hex":              "pkcs11:token=t%zz",
		"space":               "pkcs11:token=my hsm",
		"slash in path":       "pkcs11:token=a/b",
		"zero byte":           "pkcs11:token=a%00b",
		"secret key":          "pkcs11:token=t;type=secret-key",
		"module in path":      "pkcs11:token=t;module-path=%2Fx.so",
		"relative module":     "pkcs11:token=t?module-path=x.so",
		"two PINs":            "pkcs11:token=t?pin-value=1&pin-source=env:P",
		"control character":   "pkcs11:token=t\n",
		"piv without slot":    "piv:serial=1",
		"piv without serial":  "piv:slot=9c",
		"piv attestation key": "piv:serial=1;slot=f9",
		"piv serial":          "piv:serial=-1;slot=9c",
		"relative file":       "file:key.pem",
		"file on a host":      "file://host/key.pem",
		"file query":          "file:/k?pin-source=env:P",
		"too long":            "file:/" + strings.Repeat("a", maxURI),
	} {
		if u, err := ParseURI(in); !Fault(err, ErrURIInvalid) {
			t.Errorf("%s: %+v, %v", name, u, err)
		}
	}
}

func TestURI_NeverPrintsThePIN(t *testing.T) {
	u, err := ParseURI("pkcs11:token=t;object=o?pin-value=s3cret")
	if err != nil {
		t.Fatal(err)
	}
	if s := u.String() + u.Key(); strings.Contains(s, "s3cret") || strings.Contains(s, "pin-value") {
		t.Error(s)
	}
}

// What is printed parses to the same URI and prints the same again.
func FuzzParseURI(f *testing.F) {
	for _, s := range []string{
		"pkcs11:token=My%20HSM;serial=1;object=ca;id=%01%02;type=private?module-path=/usr/lib/x.so&pin-source=file:/run/pin",
		"pkcs11:token=t?pin-value=1", "piv:serial=1;slot=9c?pin-source=env:P", "yubikey:serial=1;slot=9a",
		"file:/a/b.pem?passphrase-source=env:P", "file:///a%3Fb", "pkcs11:", "file:/%2e%2e/x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURI(s)
		if err != nil {
			if !Fault(err, ErrURIInvalid) {
				t.Fatalf("not a fault of ours: %v", err)
			}
			return
		}
		if !u.PINValue.Empty() {
			u.PINValue = Secret{} // not printed, on purpose
		}
		again, err := ParseURI(u.String())
		if err != nil {
			t.Fatalf("%q prints as %q: %v", s, u.String(), err)
		}
		if !reflect.DeepEqual(u, again) || u.String() != again.String() || !bytes.Equal(u.ID, again.ID) {
			t.Fatalf("%q: %#v then %#v", s, u, again)
		}
	})
}
