package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/asn1"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"hallmark/api/adminapi"
	"hallmark/ca/catest"
	"hallmark/internal/der"
	"hallmark/station/uplink"
)

// mark is in every hostile name, so that a stored one is found by its octets.
const mark = "Zq9x7"

// hostileNames are names that no person, unit, station or order has (A51, A52).
var hostileNames = []struct{ what, text string }{
	{"NUL", mark + "\x00A"}, {"CR", mark + "\rA"}, {"LF", mark + "\nlevel=error"}, {"CR LF", mark + "\r\nX-A: b"}, {"ESC", mark + "\x1b[2J"}, {"DEL", mark + "\x7f"},
	{"right to left", mark + "\u202eA"}, {"zero width", mark + "\u200bA"}, {"joiner", mark + "\u2060"}, {"BOM", "\ufeff" + mark}, {"fullwidth", mark + "ＳＮ１"},
	{"NFKC variant", mark + "①ﬁ"}, {"combining", mark + "e\u0301"}, {"Cyrillic", mark + "ЅＮ1"}, {"Kelvin sign", mark + "\u212a"}, {"dotless i", mark + "ı"}, {"emoji", mark + "😀"},
	{"invalid UTF-8", mark + "\xff\xfe"}, {"overlong", mark + "\xc0\xaf"}, {"surrogate", mark + "\xed\xa0\x80"},
	{"65 characters", mark + strings.Repeat("A", 60)}, {"leading space", " " + mark}, {"trailing space", mark + " "}, {"tab", mark + "\tA"}, {"no-break space", mark + "\u00a0"},
	{"+", mark + "+"}, {"#", mark + "#"}, {"/", mark + "/A"}, {"$", "$" + mark}, {"*", mark + "*"}, {"?", mark + "?"}, {"${", mark + "${iot:x}"}, {"{{", "{{" + mark + "}}"}, {"%", mark + "%n"}, {"percent encoded", mark + "%2e%2e"},
	{"backslash", mark + `\A`}, {"quote", mark + `","isCA":true,"x":"`}, {"apostrophe", mark + "' OR '1'='1"}, {"path", "../" + mark}, {"script", "<script>" + mark}, {"comma", mark + ",O=A"}, {"formula", "=" + mark + "()"},
}

// rawName is a subject with one common name of any octets.
func rawName(cn string) []byte {
	return der.Sequence(nil, func(b []byte) []byte {
		return der.Set(b, func(b []byte) []byte {
			return der.Sequence(b, func(b []byte) []byte {
				b = der.MustOID("2.5.4.3").Append(b)
				return der.Wrap(b, der.TagUTF8String, func(b []byte) []byte { return append(b, cn...) })
			})
		})
	})
}

func named(cn string) pkix.Name { return pkix.Name{CommonName: cn} }

// asRequest makes a CSR with crypto/x509.
func asRequest(t testing.TB, r x509.CertificateRequest) []byte {
	t.Helper()
	out, err := x509.CreateCertificateRequest(rand.Reader, &r, catest.NewKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestA51_HostileNamesAreRefusedEverywhere (A51, A52) gives every name to every place where
// the service takes one, and looks for it in the database afterwards.
func TestA51_HostileNamesAreRefusedEverywhere(t *testing.T) {
	o := anyName(100)
	o.Serials.Pattern, o.CnIsUnit = ".*", true // the order would take anything
	s := newSite(t, "software", "", o)
	a := newAssault(t, s)
	const js = "application/json"
	factory, people := "factory", "people"
	type m = map[string]any
	plain := newUnit(t, "OK-1")
	code, _ := uplink.NewCode(nil, [32]byte{})
	order := func(change m) []byte {
		b := m{"id": "O-1", "product": "p", "quantity": 1, "serials": m{"list": []string{"A"}}, "key_origin": "claimed"}
		for k, v := range change {
			b[k] = v
		}
		return toJSON(t, b)
	}
	platform := func(method, path string, body any) wire {
		return wire{door: people, person: "platform", method: method, path: path, media: js, body: toJSON(t, body)}
	}
	places := map[string]func(name string) wire{
		"JSON unit": func(n string) wire {
			return wire{door: factory, method: "POST", path: "/factory/v1/units/issue", media: js, body: rawJSON(t, m{"order": siteOrder, "csr": plain.csr}, "unit", n)}
		},
		"common name": func(n string) wire {
			return wire{door: factory, method: "POST", path: "/factory/v1/orders/" + siteOrder + "/issue", body: asRequest(t, x509.CertificateRequest{RawSubject: rawName(n)})}
		},
		"issue's order": func(n string) wire {
			return wire{door: factory, method: "POST", path: "/factory/v1/units/issue", media: js, body: rawJSON(t, m{"unit": "OK-1", "csr": plain.csr}, "order", n)}
		},
		"order in a path": func(n string) wire {
			return wire{door: factory, method: "GET", path: "/factory/v1/orders/" + url.PathEscape(n)}
		},
		"enrolled station": func(n string) wire {
			return wire{door: "enrol", method: "POST", path: "/enrol/v1/station", media: js, body: rawJSON(t, m{"code": code, "csr": plain.csr}, "station", n)}
		},
		"station of a code": func(n string) wire {
			return wire{door: people, person: "ann", method: "POST", path: "/api/v1/station-codes", media: js, body: rawJSON(t, m{"site": "s"}, "station", n)}
		},
		"order id": func(n string) wire {
			return wire{door: people, person: "ann", method: "POST", path: "/api/v1/orders", media: js, body: rawJSON(t, orderBody, "id", n)}
		},
		"serial in a list": func(n string) wire {
			return wire{door: people, person: "ann", method: "POST", path: "/api/v1/orders", media: js, body: bytes.ReplaceAll(order(m{"serials": m{"list": []string{"@"}}}), []byte(`"@"`), quoted(n))}
		},
		"serial prefix": func(n string) wire {
			return wire{door: people, person: "ann", method: "POST", path: "/api/v1/orders", media: js, body: bytes.ReplaceAll(order(m{"serials": m{"prefix": "@", "first": 1, "last": 9, "width": 2}}), []byte(`"@"`), quoted(n))}
		},
		"station of an order": func(n string) wire {
			return wire{door: people, person: "ann", method: "POST", path: "/api/v1/orders", media: js, body: bytes.ReplaceAll(order(m{"stations": []string{"@"}}), []byte(`"@"`), quoted(n))}
		},
		"principal": func(n string) wire {
			w := platform("POST", "/api/v1/principals", m{})
			w.body = rawJSON(t, m{"role": "operator"}, "name", n)
			return w
		},
		"authority": func(n string) wire {
			w := platform("POST", "/api/v1/authorities", m{})
			w.body = rawJSON(t, m{"duty": "device", "key_uri": s.keyURI("never"), "common_name": "X"}, "name", n)
			return w
		},
		"template": func(n string) wire {
			return platform("PUT", "/api/v1/templates/"+url.PathEscape(n), m{"body": fmt.Sprintf(demoTemplate, "x:1")})
		},
		"hook": func(n string) wire {
			return platform("PUT", "/api/v1/hooks/"+url.PathEscape(n), m{"url": "https://127.0.0.1:1/"})
		},
	}
	for place, make := range places {
		for _, n := range hostileNames {
			if place == "enrolled station" && n.what == "65 characters" {
				continue // the code is looked at first, and that is a wrong one
			}
			v := a.must(make(n.text))
			// An id that cannot exist may be answered as one that does not.
			inPath := place == "issue's order" || place == "order in a path" || place == "template" || place == "hook"
			if v.status != http.StatusBadRequest && !(inPath && v.status == http.StatusNotFound) && !(place == "enrolled station" && v.status == http.StatusUnauthorized) {
				t.Errorf("%s, %s: %s %.200s", place, n.what, v, v.body)
			}
		}
		if v := a.must(make("")); place != "serial prefix" && (v.status < 400 || v.status >= 500) {
			t.Errorf("%s, empty: %s", place, v)
		}
	}
	t.Run("unit header", func(t *testing.T) {
		for _, n := range hostileNames {
			if strings.TrimSpace(n.text) != n.text || n.what == "CR LF" {
				continue // HTTP takes spaces around a value away (RFC 9110, Section 5.5), and CR LF ends it
			}
			if status, code := s.rawHeader(t, n.text); status != http.StatusBadRequest || code == "" && !strings.ContainsAny(n.text, "\x00\r\n\x1b\x7f") {
				t.Errorf("%s: %d %s", n.what, status, code)
			}
		}
	})
	for _, field := range []string{"operator", "tool"} { // 64 characters that can be seen, as the contract says
		for _, text := range []string{mark + "\n", mark + "\u202e", mark + strings.Repeat("A", 60), strings.Repeat(mark, 5000)} {
			v := a.must(wire{door: factory, method: "POST", path: "/factory/v1/units/issue", media: js, body: rawJSON(t, m{"order": siteOrder, "unit": "OK-1", "csr": plain.csr}, field, text)})
			if v.status != http.StatusBadRequest {
				t.Errorf("%s %.80q: %s", field, text, v)
			}
		}
	}
	t.Run("organization", func(t *testing.T) {
		for _, n := range hostileNames {
			if utf8.ValidString(n.text) && !strings.ContainsFunc(n.text, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0x202e }) {
				continue // a company may be called almost anything
			}
			v := a.must(wire{door: people, person: "ann", method: "POST", path: "/api/v1/orders", media: js, body: bytes.ReplaceAll(order(m{"id": "O-2", "organization": "@"}), []byte(`"@"`), quoted(n.text))})
			if v.status != http.StatusBadRequest {
				t.Errorf("%s: %s", n.what, v)
			}
		}
	})
	t.Run("template parameter", func(t *testing.T) { s.hostileParameters(t, a) })
	s.halt()
	s.clean()
	// The trail names what was asked for and refused, quoted as JSON.
	db, err := sql.Open("sqlite", s.path("state", "hallmark.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{"DELETE FROM trail", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	db.Close()
	for _, part := range []string{"", "-wal"} {
		b, err := os.ReadFile(s.path("state", "hallmark.db") + part)
		if err == nil && bytes.Contains(b, []byte(mark)) {
			at := bytes.Index(b, []byte(mark))
			t.Errorf("the database%s holds a hostile name: %q", part, b[max(0, at-80):min(len(b), at+80)])
		}
	}
}

var orderBody = map[string]any{"product": "p", "quantity": 1, "serials": map[string]any{"list": []string{"A"}}, "key_origin": "claimed"}

// quoted is a JSON string of any octets.
func quoted(s string) []byte {
	b := []byte{'"'}
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c == '"' || c == '\\':
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// rawJSON is a JSON object with one string member of any octets.
func rawJSON(t testing.TB, doc map[string]any, name, value string) []byte {
	t.Helper()
	b := toJSON(t, doc)
	return append(append(fmt.Appendf(b[:len(b)-1], `,%q:`, name), quoted(value)...), '}')
}

// rawHeader sends a unit's name in the header as it is.
func (s *site) rawHeader(t testing.TB, unit string) (status int, code string) {
	t.Helper()
	cert := s.stationPair()
	conn, err := tls.Dial("tcp", s.door("factory"), s.tlsConfig(&cert))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := asRequest(t, x509.CertificateRequest{})
	if _, err := fmt.Fprintf(conn, "POST /factory/v1/orders/%s/issue HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\nHallmark-Unit: %s\r\n\r\n%s", siteOrder, len(body), unit, body); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil && len(answer) == 0 {
		t.Fatal(err)
	}
	fmt.Sscanf(string(answer), "HTTP/1.1 %d", &status)
	if _, doc, ok := bytes.Cut(answer, []byte("\r\n\r\n")); ok {
		var p struct{ Code string }
		json.Unmarshal(doc, &p)
		code = p.Code
	}
	return status, code
}

// hostileParameters lets a device name itself by a parameter (A53).
func (s *site) hostileParameters(t *testing.T, a *assault) {
	platform, err := s.as("platform")
	if err != nil {
		t.Fatal(err)
	}
	r, err := platform.PutTemplateWithResponse(t.Context(), "demo", adminapi.TemplateRequest{Body: `{
  "Parameters": {"Name": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}},
  "Resources": {
    "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "Name"}}},
    "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"}},
    "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "demo-device"}}}}`})
	if err != nil || r.JSON200 == nil {
		t.Fatalf("%v %s", err, r.Body)
	}
	a.as(s.issue(newUnit(t, "PARAMETER-1")))
	for _, n := range hostileNames {
		if n.what == "65 characters" {
			continue // a thing's name has up to 128
		}
		csr := newUnit(t, "").csr
		params := rawJSON(t, map[string]any{}, "Name", n.text)
		params = append([]byte("{"), params[2:]...) // without the leading comma
		body := append(append([]byte(fmt.Sprintf(`{"csr":%s,"parameters":`, toJSON(t, csr))), params...), '}')
		if v := a.must(wire{door: "device", method: "POST", path: "/bootstrap/v1/register", media: "application/json", body: body}); v.status != http.StatusBadRequest {
			t.Errorf("%s: %s %.300s", n.what, v, v.body)
		}
	}
}

// TestA10_ACSRDecidesNothingButItsKey asks over the wire for powers and names.
func TestA10_ACSRDecidesNothingButItsKey(t *testing.T) {
	o := anyName(100)
	o.CnIsUnit = true
	s := newSite(t, "software", "", o)
	a := newAssault(t, s)
	send := func(csr []byte, unit string) verdict {
		return a.must(wire{door: "factory", method: "POST", path: "/factory/v1/orders/" + siteOrder + "/issue", body: csr, unit: unit})
	}
	ext := func(oid asn1.ObjectIdentifier, v any) []pkix.Extension {
		b, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return []pkix.Extension{{Id: oid, Value: b, Critical: true}}
	}
	type constraints struct {
		IsCA bool `asn1:"optional"`
	}
	for what, e := range map[string][]pkix.Extension{
		"CA:TRUE":     ext(asn1.ObjectIdentifier{2, 5, 29, 19}, constraints{true}),
		"keyCertSign": ext(asn1.ObjectIdentifier{2, 5, 29, 15}, asn1.BitString{Bytes: []byte{0x04}, BitLength: 6}),
		"cRLSign":     ext(asn1.ObjectIdentifier{2, 5, 29, 15}, asn1.BitString{Bytes: []byte{0x02}, BitLength: 7}),
		"OCSPSigning": ext(asn1.ObjectIdentifier{2, 5, 29, 37}, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 9}}),
	} {
		if v := send(asRequest(t, x509.CertificateRequest{Subject: named("SMUGGLE-1"), ExtraExtensions: e}), ""); v.status != http.StatusBadRequest || v.code != "csr-authority" {
			t.Errorf("%s: %s", what, v)
		}
	}

	// Names and usages that are only claims are left out.
	v := send(asRequest(t, x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "SMUGGLE-2", Organization: []string{"Another"}, OrganizationalUnit: []string{"Admin"}, SerialNumber: "OTHER-9", Country: []string{"DE"}},
		DNSNames: []string{"*.example.com", "another.example"}, EmailAddresses: []string{"root@example.com"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "x", Path: "/admin"}},
		ExtraExtensions: ext(asn1.ObjectIdentifier{2, 5, 29, 37}, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 1}, {1, 3, 6, 1, 5, 5, 7, 3, 3}}),
	}), "")
	if v.status != http.StatusOK {
		t.Fatalf("a CSR with names: %s %s", v, v.body)
	}
	c, err := x509.ParseCertificate(v.body)
	if err != nil {
		t.Fatal(err)
	}
	if c.Subject.CommonName != "SMUGGLE-2" || len(c.Subject.Organization) != 1 || c.Subject.Organization[0] != "Example" || c.Subject.OrganizationalUnit != nil || c.Subject.Country != nil || c.Subject.SerialNumber != "SMUGGLE-2" {
		t.Errorf("the subject has smuggled parts: %s", c.Subject)
	}
	if c.IsCA || c.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 || len(c.EmailAddresses)+len(c.URIs) != 0 || len(c.UnknownExtKeyUsage) != 0 {
		t.Errorf("the certificate has smuggled powers: %+v", c)
	}
	for _, n := range c.DNSNames {
		if strings.Contains(n, "example.com") || strings.Contains(n, "another") {
			t.Errorf("the certificate has the name %s", n)
		}
	}
	for _, u := range c.ExtKeyUsage {
		if u != x509.ExtKeyUsageClientAuth {
			t.Errorf("the certificate has the usage %v", u)
		}
	}
	// The record names the unit; a CSR that names another one is a mistake of the line.
	if v := send(asRequest(t, x509.CertificateRequest{Subject: named("SMUGGLE-3")}), "SMUGGLE-4"); v.status != http.StatusBadRequest || v.code != "unit-mismatch" {
		t.Errorf("another common name: %s", v)
	}
	if v := send(asRequest(t, x509.CertificateRequest{RawSubject: twoNames("SMUGGLE-5", "SMUGGLE-6")}), ""); v.status != http.StatusBadRequest || v.code != "csr-subject" { // A54
		t.Errorf("two common names: %s", v)
	}

	// A11: a request that is not one.
	good := asRequest(t, x509.CertificateRequest{Subject: named("SMUGGLE-7")})
	broken := bytes.Clone(good)
	broken[len(broken)-1] ^= 1
	rsa := bigRSA(t, 2048, 65537)
	for what, csr := range map[string][]byte{
		"broken signature": broken,
		"trailing bytes":   append(bytes.Clone(good), 0, 0),
		"cut off":          good[:len(good)-3],
		"version 1":        bytes.Replace(good, []byte{0x02, 0x01, 0x00}, []byte{0x02, 0x01, 0x01}, 1),
		"MD5":              rsa.request(t, "SMUGGLE-7", "1.2.840.113549.1.1.4", "md5"),
		"SHA-1":            rsa.request(t, "SMUGGLE-7", "1.2.840.113549.1.1.5", "sha1"),
		"DSA":              dsaRequest("SMUGGLE-7"),
		"nothing":          {},
	} {
		v := send(csr, "SMUGGLE-7")
		if v.status != http.StatusBadRequest || !strings.HasPrefix(v.code, "csr-") && what != "DSA" || what == "DSA" && !strings.HasPrefix(v.code, "csr-") && !strings.HasPrefix(v.code, "key-") {
			t.Errorf("%s: %s", what, v)
		}
	}
	s.halt()
	s.clean()
}

// TestA16_WeakKeysAreRefusedOverTheWire gives the service the keys of A16, A18, A19
// and A20, each in a request with a true signature where there is such a thing.
func TestA16_WeakKeysAreRefusedOverTheWire(t *testing.T) {
	s := newSite(t, "software", "", anyName(100))
	a := newAssault(t, s)
	p := prime(t, 1024)
	near := new(big.Int).Add(p, big.NewInt(2))
	for !near.ProbablyPrime(10) {
		near.Add(near, big.NewInt(2))
	}
	var nine []*big.Int // small enough to be found fast
	for range 9 {
		nine = append(nine, prime(t, 457))
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr224, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, p224)
	if err != nil {
		t.Fatal(err)
	}
	point := func(b ...byte) []byte { return ecRequest("1.2.840.10045.3.1.7", b) }
	off := append([]byte{4}, make([]byte, 64)...)
	off[10], off[50] = 7, 9
	for what, csr := range map[string][]byte{
		"RSA 1024":         bigRSA(t, 1024, 65537).request(t, "", oidSHA256RSA, "sha256"),
		"RSA 2047":         bigRSA(t, 2047, 65537).request(t, "", oidSHA256RSA, "sha256"),
		"RSA above 4096":   newRSA(65537, nine...).request(t, "", oidSHA256RSA, "sha256"),
		"e = 1":            bigRSA(t, 2048, 1).request(t, "", oidSHA256RSA, "sha256"),
		"e = 3":            bigRSA(t, 2048, 3).request(t, "", oidSHA256RSA, "sha256"),
		"even e":           bigRSA(t, 2048, 65536).request(t, "", oidSHA256RSA, "sha256"),
		"even modulus":     newRSA(65537, big.NewInt(2), prime(t, 1023), prime(t, 1024)).request(t, "", oidSHA256RSA, "sha256"),
		"close primes":     newRSA(65537, p, near).request(t, "", oidSHA256RSA, "sha256"),
		"flawed chip":      roca(t).request(t, "", oidSHA256RSA, "sha256"),
		"P-224":            csr224,
		"secp256k1":        ecRequest("1.3.132.0.10", off),
		"off the curve":    point(off...),
		"infinity":         point(0),
		"too short":        point(4, 1, 2),
		"hybrid form":      point(append([]byte{6}, off[1:]...)...),
		"small RSA factor": newRSA(65537, big.NewInt(101), prime(t, 1018), prime(t, 1024)).request(t, "", oidSHA256RSA, "sha256"),
	} {
		v := a.must(wire{door: "factory", method: "POST", path: "/factory/v1/orders/" + siteOrder + "/issue", body: csr, unit: "WEAK-1"})
		if v.status != http.StatusBadRequest || !strings.HasPrefix(v.code, "key-") {
			t.Errorf("%s: %s %.200s", what, v, v.body)
		}
	}
	s.commits(t, newUnit(t, "WEAK-1"))
	s.halt()
	s.clean()
}

const oidSHA256RSA = "1.2.840.113549.1.1.11"

// rsaParts is an RSA key that crypto/rsa would not make, of any primes.
type rsaParts struct {
	primes []*big.Int
	n      *big.Int
	e      int64
}

func newRSA(e int64, primes ...*big.Int) *rsaParts {
	k := &rsaParts{primes: primes, n: big.NewInt(1), e: e}
	for _, p := range primes {
		k.n.Mul(k.n, p)
	}
	return k
}

func prime(t testing.TB, bits int) *big.Int {
	t.Helper()
	p, err := rand.Prime(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func bigRSA(t testing.TB, bits int, e int64) *rsaParts {
	t.Helper()
	for {
		k := newRSA(e, prime(t, (bits+1)/2), prime(t, bits/2))
		if k.n.BitLen() == bits && (e%2 == 0 || k.d() != nil) {
			return k
		}
	}
}

// d is the private exponent; nil where there is none.
func (k *rsaParts) d() *big.Int {
	one, phi := big.NewInt(1), big.NewInt(1)
	for _, p := range k.primes {
		phi.Mul(phi, new(big.Int).Sub(p, one))
	}
	return new(big.Int).ModInverse(big.NewInt(k.e), phi)
}

// request signs a CSR by hand (RFC 8017, Section 8.2.1).
func (k *rsaParts) request(t testing.TB, cn, algorithm, hashName string) []byte {
	t.Helper()
	spki := der.Sequence(nil, func(b []byte) []byte {
		b = der.Sequence(b, func(b []byte) []byte { return append(der.MustOID("1.2.840.113549.1.1.1").Append(b), 5, 0) })
		inner, err := asn1.Marshal(struct {
			N *big.Int
			E int64
		}{k.n, k.e})
		if err != nil {
			t.Fatal(err)
		}
		return der.AppendBitString(b, inner)
	})
	return assemble(cn, spki, func(b []byte) []byte { return append(der.MustOID(algorithm).Append(b), 5, 0) }, func(info []byte) []byte {
		size := (k.n.BitLen() + 7) / 8
		d := k.d()
		if d == nil {
			return make([]byte, size)
		}
		h, prefix := map[string]func() (hash.Hash, string){
			"md5": func() (hash.Hash, string) {
				return md5.New(), "\x30\x20\x30\x0c\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x05\x05\x00\x04\x10"
			},
			"sha1": func() (hash.Hash, string) {
				return sha1.New(), "\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14"
			},
			"sha256": func() (hash.Hash, string) {
				return sha256.New(), "\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"
			},
			"sha512": func() (hash.Hash, string) { return sha512.New(), "" },
		}[hashName]()
		h.Write(info)
		tail := append(append([]byte{0}, prefix...), h.Sum(nil)...)
		em := append([]byte{0, 1}, bytes.Repeat([]byte{0xff}, size-2-len(tail))...)
		sig := new(big.Int).Exp(new(big.Int).SetBytes(append(em, tail...)), d, k.n)
		return sig.FillBytes(make([]byte, size))
	})
}

// assemble makes a CSR of its parts (RFC 2986, Section 4).
func assemble(cn string, spki []byte, algorithm func([]byte) []byte, sign func([]byte) []byte) []byte {
	info := der.Sequence(nil, func(b []byte) []byte {
		b = der.AppendInt(b, 0)
		if cn == "" {
			b = append(b, 0x30, 0)
		} else {
			b = append(b, rawName(cn)...)
		}
		return append(append(b, spki...), 0xa0, 0)
	})
	return der.Sequence(nil, func(b []byte) []byte {
		b = der.Sequence(append(b, info...), algorithm)
		return der.AppendBitString(b, sign(info))
	})
}

// ecRequest has any point on any curve; nobody can sign for it.
func ecRequest(curve string, point []byte) []byte {
	spki := der.Sequence(nil, func(b []byte) []byte {
		b = der.Sequence(b, func(b []byte) []byte { return der.MustOID(curve).Append(der.MustOID("1.2.840.10045.2.1").Append(b)) })
		return der.AppendBitString(b, point)
	})
	return assemble("", spki, func(b []byte) []byte { return der.MustOID("1.2.840.10045.4.3.2").Append(b) }, func([]byte) []byte { return []byte{0x30, 6, 2, 1, 1, 2, 1, 1} })
}

func dsaRequest(cn string) []byte {
	spki := der.Sequence(nil, func(b []byte) []byte {
		b = der.Sequence(b, func(b []byte) []byte {
			b = der.MustOID("1.2.840.10040.4.1").Append(b)
			return der.Sequence(b, func(b []byte) []byte { return der.AppendInt(der.AppendInt(der.AppendInt(b, 23), 11), 4) })
		})
		return der.AppendBitString(b, []byte{2, 1, 9})
	})
	return assemble(cn, spki, func(b []byte) []byte { return der.MustOID("2.16.840.1.101.3.4.3.2").Append(b) }, func([]byte) []byte { return []byte{0x30, 6, 2, 1, 1, 2, 1, 1} })
}

func twoNames(a, b string) []byte {
	one, two := rawName(a)[2:], rawName(b)[2:]
	return append([]byte{0x30, byte(len(one) + len(two))}, append(bytes.Clone(one), two...)...)
}

// roca makes a key as the flawed chips did (CVE-2017-15361): each prime is
// k·M + 65537^a mod M, where M is the product of the first 126 primes.
func roca(t testing.TB) *rsaParts {
	t.Helper()
	m, found := big.NewInt(1), 0
	for i := int64(2); found < 126; i++ {
		if big.NewInt(i).ProbablyPrime(5) {
			m.Mul(m, big.NewInt(i))
			found++
		}
	}
	below := func(n *big.Int) *big.Int {
		x, err := rand.Int(rand.Reader, n)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	factor := func() *big.Int {
		g := new(big.Int).Exp(big.NewInt(65537), below(m), m)
		for {
			k := below(big.NewInt(1 << 52))
			p := new(big.Int).Add(new(big.Int).Mul(k.SetBit(k, 52, 1), m), g)
			if p.BitLen() == 1024 && p.ProbablyPrime(1) {
				return p
			}
		}
	}
	for {
		if k := newRSA(65537, factor(), factor()); k.n.BitLen() == 2048 {
			return k
		}
	}
}
