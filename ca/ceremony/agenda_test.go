package ceremony_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"hallmark/ca/ceremony"
	"hallmark/internal/fault"
)

// goodScript needs no token: the keys are made from seeds.
func goodScript(t testing.TB) string {
	t.Helper()
	var p []person
	for i, n := range []string{"Anna", "Bo", "Cem"} {
		seed := sha256.Sum256(fmt.Appendf(nil, "custodian %d of the tests", i))
		spki, err := x509.MarshalPKIXPublicKey(ed25519.NewKeyFromSeed(seed[:]).Public())
		if err != nil {
			t.Fatal(err)
		}
		p = append(p, person{name: n, key: base64.StdEncoding.EncodeToString(spki)})
	}
	return head("acme-2026", 2, p...) + "keys:\n  root: {uri: \"pkcs11:token=root;object=root\", generate: P-384}\n" + wholeSteps
}

func TestParseAgenda_TakesTheManualsScript(t *testing.T) {
	a, err := ceremony.ParseAgenda([]byte(goodScript(t)))
	if err != nil {
		t.Fatal(err)
	}
	d := a.Describe([]byte(goodScript(t)))
	for _, want := range []string{"2 of 3: Anna, Bo, Cem", "the root acme-root", "for ever", "the CSR devices-1.csr.transcript.json", "it is the first", "never to leave its token"} {
		if !strings.Contains(d, want) {
			t.Errorf("no %q in\n%s", want, d)
		}
	}
}

// The reader takes one meaning or nothing.
func TestParseAgenda_RefusesWhatIsNotOneScript_S37(t *testing.T) {
	good := goodScript(t)
	swap := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the script has no %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, bad := range map[string]string{
		"empty":                    "",
		"no YAML":                  "a: [",
		"two documents":            good + "---\na: 1\n",
		"unknown member":           good + "extensions: {ca: true}\n",
		"unknown member of a step": swap("    days: 365\n", "    days: 365\n    extensions: []\n"),
		"member twice":             good + "mode: development\n",
		"alias":                    swap("title: Test of a ceremony", "title: &a Test\nx: *a"),
		"anchor":                   swap("title: Test", "title: &a Test"),
		"tag":                      swap("title: Test", "title: !!str Test"),
		"empty value":              swap("title: Test of a ceremony", "title:"),
		"tab":                      swap("title: Test", "title: \tTest"),
		"reversed writing":         swap("title: Test", "title: \u202eTest"),
		"no UTF-8":                 swap("title: Test", "title: \xff"),
		"too large":                good + "#" + strings.Repeat("x", 70_000),
		"schema":                   swap("script/v1", "script/v2"),
		"one of three":             swap("threshold: 2", "threshold: 1"),
		"four of three":            swap("threshold: 2", "threshold: 4"),
		"mode":                     swap("mode: production", "mode: fast"),
		"a date":                   swap("run_until: 20", "run_until: 3x"),
		"a PIN in the URI":         swap("object=root\"", "object=root?pin-value=1234\""),
		"a key file":               swap("pkcs11:token=root;object=root", "file:/tmp/x.pem"),
		"algorithm":                swap("generate: P-384", "generate: P-224"),
		"unknown step":             swap("do: create-root", "do: make-tea"),
		"step twice":               swap("step: device-ca", "step: make-root"),
		"missing member":           swap("    csr: {file: devices-1.csr.transcript.json}\n", ""),
		"member of another step":   swap("    first: true\n", "    first: true\n    csr: {file: x}\n"),
		"a path":                   swap("file: devices-1.csr", "file: ../devices-1.csr"),
		"absolute path":            swap("file: devices-1.csr", "file: /devices-1.csr"),
		"unknown root":             swap("root: acme-root\n    name", "root: other\n    name"),
		"unknown key":              swap("key: root\n", "key: other\n"),
		"unused key":               swap("keys:\n", "keys:\n  spare: {uri: \"pkcs11:token=t;object=spare\"}\n"),
		"one key, two names":       swap("keys:\n", "keys:\n  spare: {uri: \"pkcs11:token=root;object=root\"}\n"),
		"base URL with a port":     swap("acme-devices.example", "acme-devices.example:8080"),
		"no common name":           swap(", common_name: Acme Device Root", ""),
		"duty":                     swap("duty: device", "duty: root"),
		"list of years":            swap("days: 365", "days: 3650"),
		"list without past":        swap("    first: true\n", ""),
		"reason":                   swap("    days: 365\n", "    revoke: [{serial_number: 40aa, reason: hold}]\n"),
		"one person twice":         swap("name: Cem", "name: anna"),
		"a witness that is none":   swap("keys:\n", "witnesses: [\"w+00000000+AAAA\"]\nkeys:\n"),
		"parts without a number":   swap("generate: P-384", "generate: P-384, pin: shares"),
		"more parts than people":   swap("generate: P-384", "generate: P-384, pin: shares, pin_shares: 4"),
	} {
		_, err := ceremony.ParseAgenda([]byte(bad))
		if fault.From(err).Code != ceremony.ErrScript.Code {
			t.Errorf("%s: %v", name, err)
		}
	}
	// One key with two names is one person.
	first := between([]byte(good), `{name: Anna, key: "`)
	third := between([]byte(good), `{name: Cem, key: "`)
	if _, err := ceremony.ParseAgenda([]byte(strings.Replace(good, third, first, 1))); fault.From(err).Code != ceremony.ErrScript.Code {
		t.Errorf("one key for two people: %v", err)
	}
}

// rotation is a script that only turns a root, with steps before.
func rotation(t *testing.T, before string) string {
	t.Helper()
	good := goodScript(t)
	return good[:strings.Index(good, "keys:\n")] + `keys:
  old: {uri: "pkcs11:token=root;object=root"}
  new: {uri: "pkcs11:token=root;object=new", generate: P-384}
roots:
  acme-root: {certificate: acme-root.cer, sha256: ` + strings.Repeat("ab", 32) + `, key: old, base_url: "http://pki.acme-devices.example"}
steps:
` + before + `  - {step: turn, do: rotate, name: acme-root-2, root: acme-root, key: new, base_url: "http://pki.acme-devices.example", subject: {common_name: Acme Device Root 2}}
`
}

// The old root signs in a rotation: its key is used by it, and has to be there.
func TestParseAgenda_ARotationUsesTheOldKey(t *testing.T) {
	if _, err := ceremony.ParseAgenda([]byte(rotation(t, ""))); err != nil {
		t.Error(err)
	}
	gone := rotation(t, "  - {step: end, do: destroy, key: old, how: Break the card.}\n")
	if _, err := ceremony.ParseAgenda([]byte(gone)); fault.From(err).Code != ceremony.ErrScript.Code || !strings.Contains(fault.From(err).Detail, "The key old was destroyed before") {
		t.Errorf("the old key is destroyed before it signs: %v", err)
	}
	none := strings.Replace(rotation(t, ""), ", key: old, base_url", ", base_url", 1)
	none = strings.Replace(none, "  old: {uri: \"pkcs11:token=root;object=root\"}\n", "", 1)
	if _, err := ceremony.ParseAgenda([]byte(none)); fault.From(err).Code != ceremony.ErrScript.Code || !strings.Contains(fault.From(err).Detail, "no key") {
		t.Errorf("the old root has no key here: %v", err)
	}
}

func FuzzParseAgenda(f *testing.F) {
	good := goodScript(f)
	f.Add([]byte(good))
	f.Add([]byte(strings.Replace(good, "do: sign-crl", "do: rotate", 1)))
	f.Add([]byte("schema: " + ceremony.AgendaSchema + "\nsteps: [{step: a, do: destroy}]\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := ceremony.ParseAgenda(data)
		if err != nil {
			if a != nil || fault.From(err).Code != ceremony.ErrScript.Code {
				t.Errorf("%v beside %v", a, err)
			}
			return
		}
		// What is taken can be shown, and shows its hash.
		if d := a.Describe(data); !strings.Contains(d, ceremony.WordsOf(data)) {
			t.Error("the description does not name the script")
		}
	})
}

func FuzzVerifyRun(f *testing.F) {
	f.Add([]byte(`{"at":"2026-01-01T00:00:00Z","kind":"refused","previous":"","schema":"hallmark.ceremony-run/v1","step":"x","text":"y"}` + "\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		// Nobody makes a ceremony without keys.
		if _, err := ceremony.VerifyRun(data, ceremony.RunTrust{}); err == nil {
			t.Error("a ceremony that nobody held")
		}
	})
}

func FuzzReadExchange(f *testing.F) {
	b, err := ceremony.PackExchange("test", map[string][]byte{"a.cer": []byte("x"), "b.crl": nil})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"from":"x","items":[],"schema":"hallmark.exchange/v1"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := ceremony.ReadExchange(data)
		if err != nil {
			return
		}
		files := map[string][]byte{}
		for _, i := range e.Items {
			files[i.Name] = i.Data
		}
		if again, err := ceremony.PackExchange(e.From, files); err != nil || string(again) != string(data) {
			t.Errorf("another form of the same file was taken: %v", err)
		}
	})
}

func FuzzReadStatement(f *testing.F) {
	f.Add([]byte(`{"payload":"e30=","payloadType":"application/vnd.hallmark.ceremony-statement+json","signatures":[{"keyid":"","sig":""}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := ceremony.ReadStatement(data); err == nil {
			t.Errorf("a statement that nobody signed: %+v", s)
		}
	})
}

// S37: an exchange file has one form, and each flipped bit is seen.
func TestExchange_HasOneForm_S37(t *testing.T) {
	b, err := ceremony.PackExchange("air-gapped machine", map[string][]byte{"a.cer": []byte("certificate"), "list.crl": []byte("list")})
	if err != nil {
		t.Fatal(err)
	}
	words := map[string]bool{ceremony.WordsOf(b): true}
	for i := range b {
		bad := append([]byte{}, b...)
		bad[i] ^= 1 << (i % 8)
		// A name is not covered by the item's own hash; the words of the file are.
		if _, err := ceremony.ReadExchange(bad); err == nil && words[ceremony.WordsOf(bad)] {
			t.Fatalf("octet %d changed unseen", i)
		}
	}
	for _, n := range []string{"../x", "a/b", "", ".x", "a b", "a\nb"} {
		if _, err := ceremony.PackExchange("x", map[string][]byte{n: nil}); fault.From(err).Code != ceremony.ErrExchange.Code {
			t.Errorf("%q: %v", n, err)
		}
	}
	if _, err := ceremony.PackExchange("x", map[string][]byte{"big": make([]byte, 5<<20)}); fault.From(err).Code != ceremony.ErrExchange.Code {
		t.Errorf("too large: %v", err)
	}
}

// A35: the list of a sleeping root says early that it ends.
func TestLifeOfList_AlarmsBeforeItLapses_A35(t *testing.T) {
	c := onToken(t, "P-256")
	list, err := x509.ParseRevocationList(c.list.ListDER)
	if err != nil {
		t.Fatal(err)
	}
	whole := list.NextUpdate.Sub(list.ThisUpdate)
	for _, k := range []struct {
		left  float64
		alarm string
	}{{1, ""}, {0.51, ""}, {0.49, "50"}, {0.26, "50"}, {0.24, "25"}, {0.11, "25"}, {0.09, "10"}, {0.001, "10"}, {-0.001, "lapsed"}} {
		now := list.NextUpdate.Add(-time.Duration(k.left * float64(whole)))
		life, err := ceremony.LifeOfList(c.list.ListPEM, c.root.CertificatePEM, now)
		if err != nil || life.Alarm != k.alarm || (life.Next == "") != (k.alarm == "") {
			t.Errorf("%.3f left: %+v %v", k.left, life, err)
		}
	}
	other := onToken(t, "P-256")
	if _, err := ceremony.LifeOfList(c.list.ListPEM, other.root.CertificatePEM, time.Now()); fault.From(err).Code != ceremony.ErrInput.Code {
		t.Errorf("a list of another root: %v", err)
	}
}
