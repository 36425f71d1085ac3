package csr

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/ca/keycheck"
	"hallmark/internal/der"
	"hallmark/internal/fault"
)

func ecKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// parts is a request to be built wrong on purpose; nil fields are as they should be.
type parts struct {
	key        *ecdsa.PrivateKey
	version    []byte
	subject    []byte
	spki       []byte
	attributes []byte // the whole [0] element
	algorithm  []byte
	signature  []byte // content
	after      []byte // behind the signature, inside the frame
	signedHash func(info []byte) ([]byte, crypto.Hash)
}

func (p parts) build(t testing.TB) []byte {
	t.Helper()
	or := func(v, fallback []byte) []byte {
		if v == nil {
			return fallback
		}
		return v
	}
	if p.key == nil {
		p.key = ecKey(t, elliptic.P256())
	}
	spki, err := x509.MarshalPKIXPublicKey(p.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	info := der.Sequence(nil, func(b []byte) []byte {
		b = append(b, or(p.version, der.AppendInt(nil, 0))...)
		b = append(b, or(p.subject, name(attr(oidCommonName, der.AppendUTF8String(nil, "unit-1"))))...)
		b = append(b, or(p.spki, spki)...)
		return append(b, or(p.attributes, []byte{0xa0, 0})...)
	})
	var digest []byte
	hash := crypto.SHA256
	if p.signedHash != nil {
		digest, hash = p.signedHash(info)
	} else {
		sum := sha256.Sum256(info)
		digest = sum[:]
	}
	sig, err := p.key.Sign(rand.Reader, digest, hash)
	if err != nil {
		t.Fatal(err)
	}
	return der.Sequence(nil, func(b []byte) []byte {
		b = append(b, info...)
		b = append(b, or(p.algorithm, identifier("1.2.840.10045.4.3.2", false))...)
		b = der.AppendBitString(b, or(p.signature, sig))
		return append(b, p.after...)
	})
}

func attr(id der.OID, value []byte) []byte {
	return der.Sequence(nil, func(b []byte) []byte { return append(id.Append(b), value...) })
}

// name makes a Name with each pair in a set of its own.
func name(pairs ...[]byte) []byte {
	return der.Sequence(nil, func(b []byte) []byte {
		for _, p := range pairs {
			b = der.AppendTLV(b, der.TagSet, p)
		}
		return b
	})
}

func attributes(list ...[]byte) []byte { return der.AppendTLV(nil, 0xa0, list...) }

func attribute(id der.OID, values ...[]byte) []byte {
	return attr(id, der.AppendTLV(nil, der.TagSet, values...))
}

func extension(id der.OID, critical bool, value []byte) []byte {
	return der.Sequence(nil, func(b []byte) []byte {
		b = id.Append(b)
		if critical {
			b = der.AppendBool(b, true)
		}
		return der.AppendOctetString(b, value)
	})
}

func request(extensions ...[]byte) []byte {
	return attributes(attribute(oidExtensionRequest, der.AppendTLV(nil, der.TagSequence, extensions...)))
}

func signers(t testing.TB) map[string]crypto.Signer {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	return map[string]crypto.Signer{
		"P-256": ecKey(t, elliptic.P256()), "P-384": ecKey(t, elliptic.P384()), "P-521": ecKey(t, elliptic.P521()), "RSA-2048": rsaKey, "Ed25519": ed,
	}
}

func TestCreate_IsReadByOthersAndByParse(t *testing.T) {
	for kind, signer := range signers(t) {
		for _, c := range []struct{ cn, challenge string }{
			{"", ""}, {"unit-1", ""}, {"Gerät 7", "c2VydmljZSBub25jZQ=="}, {strings.Repeat("x", 128), strings.Repeat("é", 255)},
		} {
			raw, err := Create(signer, c.cn, c.challenge)
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			r, err := Parse(raw)
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			if r.CommonName != c.cn || r.Challenge != c.challenge || !bytes.Equal(r.Raw, raw) {
				t.Errorf("%s: read as %q, %q", kind, r.CommonName, r.Challenge)
			}
			if !r.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(signer.Public()) {
				t.Errorf("%s: another key", kind)
			}
			if r.SPKIHash != sha256.Sum256(r.SPKI) {
				t.Errorf("%s: the hash is of something else", kind)
			}
			std, err := x509.ParseCertificateRequest(raw)
			if err != nil {
				t.Fatalf("%s: crypto/x509: %v", kind, err)
			}
			if err := std.CheckSignature(); err != nil || std.Subject.CommonName != c.cn {
				t.Errorf("%s: crypto/x509 reads %q: %v", kind, std.Subject.CommonName, err)
			}
		}
	}
	for _, c := range []struct{ cn, challenge string }{{"a\x00b", ""}, {"\xff", ""}, {"", "a\nb"}, {strings.Repeat("x", 129), ""}, {"", strings.Repeat("x", 256)}} {
		if _, err := Create(ecKey(t, elliptic.P256()), c.cn, c.challenge); err == nil {
			t.Errorf("%q, %q: made a request that cannot be read", c.cn, c.challenge)
		}
	}
	if _, err := Create(ecKey(t, elliptic.P224()), "", ""); !errors.Is(err, ErrSigner) {
		t.Errorf("P-224: %v", err)
	}
}

func openssl(t *testing.T, stdin []byte, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("openssl is missing: apt-get install openssl")
		}
		t.Skip("openssl is missing: apt-get install openssl")
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %q: %v\n%s", args, err, stderr.Bytes())
	}
	return append(out, stderr.Bytes()...)
}

func TestParse_ReadsRequestsOfOpenSSL(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "req.cnf")
	if err := os.WriteFile(conf, []byte(`[req]
prompt = no
distinguished_name = dn
attributes = at
req_extensions = ext
[dn]
O = Mill
CN = unit-77
[at]
challengePassword = nonce 123/+=
[ext]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
subjectAltName = DNS:a.example, URI:urn:x
`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, alg := range [][]string{{"ec:P-256", "sha256"}, {"ec:P-384", "sha384"}, {"rsa:2048", "sha256"}, {"rsa:2048", "sha512", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:-1"}, {"ed25519", "sha256"}} {
		key := filepath.Join(dir, "key.pem")
		newkey := alg[0]
		gen := []string{"genpkey", "-out", key, "-algorithm"}
		switch kind, arg, _ := strings.Cut(newkey, ":"); kind {
		case "ec":
			gen = append(gen, "EC", "-pkeyopt", "ec_paramgen_curve:"+arg)
		case "rsa":
			gen = append(gen, "RSA", "-pkeyopt", "rsa_keygen_bits:"+arg)
		default:
			gen = append(gen, kind)
		}
		openssl(t, nil, gen...)
		args := append([]string{"req", "-new", "-config", conf, "-key", key, "-" + alg[1]}, alg[2:]...)
		armoured := openssl(t, nil, args...)
		block, _ := pem.Decode(armoured)
		for form, in := range map[string][]byte{"PEM": armoured, "DER": block.Bytes, "PEM with CRLF": bytes.ReplaceAll(armoured, []byte("\n"), []byte("\r\n"))} {
			r, err := Parse(in)
			if err != nil {
				t.Fatalf("%q %s: %v", alg, form, err)
			}
			if r.CommonName != "unit-77" || r.Challenge != "nonce 123/+=" || len(r.Extensions) != 3 || !r.Extensions[1].Critical {
				t.Errorf("%q %s: %+v", alg, form, r)
			}
		}
	}
}

func TestCreate_IsVerifiedByOpenSSL(t *testing.T) {
	for kind, signer := range signers(t) {
		raw, err := Create(signer, "unit-1", "secret nonce")
		if err != nil {
			t.Fatal(err)
		}
		out := openssl(t, raw, "req", "-inform", "DER", "-verify", "-noout", "-text")
		if !bytes.Contains(out, []byte("verify OK")) || !bytes.Contains(out, []byte("secret nonce")) {
			t.Errorf("%s: %s", kind, out)
		}
	}
}

// A11 and the structure of PKCS #10.
func TestParse_RefusesWhatIsNotOneGoodRequest_A11(t *testing.T) {
	good := parts{}.build(t)
	if _, err := Parse(good); err != nil {
		t.Fatalf("the frame of this test is wrong: %v", err)
	}
	cut := func(b []byte, n int) []byte { return b[:len(b)-n] }
	flip := slices.Clone(good)
	flip[len(flip)-1] ^= 1
	challenge := attribute(oidChallenge, der.AppendUTF8String(nil, "x"))
	san := extension(der.MustOID("2.5.29.17"), false, der.AppendTLV(nil, der.TagSequence, der.AppendTLV(nil, 0x82, []byte("a.example"))))
	list := der.AppendTLV(nil, der.TagSequence, san)
	alg := func(oid string, null bool) []byte { return identifier(oid, null) }
	other := parts{key: ecKey(t, elliptic.P256())}
	otherSPKI, _ := x509.MarshalPKIXPublicKey(ecKey(t, elliptic.P256()).Public())
	other.spki = otherSPKI
	p224, _ := x509.MarshalPKIXPublicKey(ecKey(t, elliptic.P224()).Public())
	armoured := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: good})
	cn := func(s string) []byte { return attr(oidCommonName, der.AppendUTF8String(nil, s)) }

	for what, c := range map[string]struct {
		in   []byte
		want *fault.Definition
	}{
		"broken signature":       {flip, ErrSignature},
		"another key's":          {other.build(t), ErrSignature},
		"empty signature":        {parts{signature: []byte{}}.build(t), ErrSignature},
		"trailing octet":         {append(slices.Clone(good), 0), ErrMalformed},
		"two requests":           {append(slices.Clone(good), good...), ErrMalformed},
		"trailing in the frame":  {parts{after: der.AppendNull(nil)}.build(t), ErrMalformed},
		"cut":                    {cut(good, 1), ErrMalformed},
		"empty":                  {nil, ErrMalformed},
		"text":                   {[]byte("hello"), ErrMalformed},
		"version 1":              {parts{version: der.AppendInt(nil, 1)}.build(t), ErrMalformed},
		"version huge":           {parts{version: der.AppendUint(nil, bytes.Repeat([]byte{9}, 100))}.build(t), ErrMalformed},
		"padded version":         {parts{version: []byte{2, 2, 0, 0}}.build(t), ErrMalformed},
		"no attributes":          {parts{attributes: []byte{}}.build(t), ErrMalformed},
		"two challenges":         {parts{attributes: attributes(challenge, challenge)}.build(t), ErrDuplicate},
		"two values":             {parts{attributes: attributes(attribute(oidChallenge, der.AppendUTF8String(nil, "x"), der.AppendUTF8String(nil, "y")))}.build(t), ErrChallenge},
		"no value":               {parts{attributes: attributes(attribute(oidChallenge))}.build(t), ErrChallenge},
		"empty challenge":        {parts{attributes: attributes(attribute(oidChallenge, der.AppendUTF8String(nil, "")))}.build(t), ErrChallenge},
		"NUL in challenge":       {parts{attributes: attributes(attribute(oidChallenge, der.AppendUTF8String(nil, "a\x00b")))}.build(t), ErrChallenge},
		"number as challenge":    {parts{attributes: attributes(attribute(oidChallenge, der.AppendInt(nil, 1)))}.build(t), ErrChallenge},
		"BMP challenge":          {parts{attributes: attributes(attribute(oidChallenge, []byte{der.TagBMPString, 2, 0, 'x'}))}.build(t), ErrChallenge},
		"two extension requests": {parts{attributes: attributes(attribute(oidExtensionRequest, list), attribute(oidExtensionRequest, list))}.build(t), ErrDuplicate},
		"one by each name":       {parts{attributes: attributes(attribute(oidExtensionRequest, list), attribute(oidMicrosoftRequest, list))}.build(t), ErrDuplicate},
		"two values of it":       {parts{attributes: attributes(attribute(oidExtensionRequest, list, list))}.build(t), ErrMalformed},
		"duplicate extension":    {parts{attributes: request(san, san)}.build(t), ErrDuplicate},
		"critical FALSE":         {parts{attributes: request(attr(der.MustOID("2.5.29.17"), slices.Concat(der.AppendBool(nil, false), der.AppendOctetString(nil, nil))))}.build(t), ErrMalformed},
		"two common names":       {parts{subject: name(cn("a"), cn("b"))}.build(t), ErrSubject},
		"two in one set":         {parts{subject: name(slices.Concat(cn("a"), cn("b")))}.build(t), ErrSubject},
		"NUL in the name":        {parts{subject: name(cn("a\x00b"))}.build(t), ErrSubject},
		"right-to-left mark":     {parts{subject: name(cn("a\u202eb"))}.build(t), ErrSubject},
		"long name":              {parts{subject: name(cn(strings.Repeat("x", 129)))}.build(t), ErrSubject},
		"empty part":             {parts{subject: name(nil)}.build(t), ErrMalformed},
		"ECDSA with SHA-1":       {parts{algorithm: alg("1.2.840.10045.4.1", false)}.build(t), ErrAlgorithm},
		"RSA with SHA-1":         {parts{algorithm: alg("1.2.840.113549.1.1.5", true)}.build(t), ErrAlgorithm},
		"RSA with MD5":           {parts{algorithm: alg("1.2.840.113549.1.1.4", true)}.build(t), ErrAlgorithm},
		"DSA with SHA-256":       {parts{algorithm: alg("2.16.840.1.101.3.4.3.2", false)}.build(t), ErrAlgorithm},
		"ECDSA with parameters":  {parts{algorithm: alg("1.2.840.10045.4.3.2", true)}.build(t), ErrAlgorithm},
		"PSS on its own":         {parts{algorithm: alg("1.2.840.113549.1.1.10", true)}.build(t), ErrAlgorithm},
		"RSA over an EC key":     {parts{algorithm: alg("1.2.840.113549.1.1.11", true)}.build(t), ErrSignature},
		"P-224 key":              {parts{spki: p224}.build(t), keycheck.ErrUnsupported},
		"a certificate in PEM":   {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: good}), ErrMalformed},
		"PEM twice":              {append(slices.Clone(armoured), armoured...), ErrMalformed},
		"text after PEM":         {append(slices.Clone(armoured), "x"...), ErrMalformed},
		"PEM headers":            {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: good, Headers: map[string]string{"a": "b"}}), ErrMalformed},
		"damaged PEM":            {cut(armoured, 8), ErrMalformed},
	} {
		if _, err := Parse(c.in); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %s", what, err, c.want.Code)
		} else if k := fault.KindOf(err); k != fault.Invalid {
			t.Errorf("%s: kind %v", what, k)
		}
	}
}

// A11: signatures over SHA-1 that are arithmetically right are refused too.
func TestParse_RefusesGenuineSHA1_A11(t *testing.T) {
	raw := parts{algorithm: identifier("1.2.840.10045.4.1", false), signedHash: func(info []byte) ([]byte, crypto.Hash) {
		h := crypto.SHA1.New()
		h.Write(info)
		return h.Sum(nil), crypto.SHA1
	}}.build(t)
	std, err := x509.ParseCertificateRequest(raw)
	if err != nil || std.CheckSignature() != nil {
		t.Fatalf("the frame of this test is wrong: %v", err)
	}
	if _, err := Parse(raw); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("got %v", err)
	}
}

// A10: nothing in a request makes an authority.
func TestParse_RefusesAnAuthoritysPowers_A10(t *testing.T) {
	seq := func(parts ...[]byte) []byte { return der.AppendTLV(nil, der.TagSequence, parts...) }
	oid := func(s string) []byte { return der.MustOID(s).Append(nil) }
	yes, no := der.AppendBool(nil, true), der.AppendBool(nil, false)
	for what, c := range map[string]struct {
		ext  []byte
		want *fault.Definition
	}{
		"CA:TRUE":                  {extension(oidBasicConstraints, true, seq(yes)), ErrAuthority},
		"CA:TRUE, pathlen":         {extension(oidBasicConstraints, false, seq(yes, der.AppendInt(nil, 0))), ErrAuthority},
		"pathlen alone":            {extension(oidBasicConstraints, false, seq(der.AppendInt(nil, 0))), ErrAuthority},
		"CA as 01":                 {extension(oidBasicConstraints, false, seq([]byte{1, 1, 1})), ErrMalformed},
		"constraints with a tail":  {extension(oidBasicConstraints, false, append(seq(), 0)), ErrMalformed},
		"CA:FALSE":                 {extension(oidBasicConstraints, true, seq()), nil},
		"CA:FALSE said":            {extension(oidBasicConstraints, true, seq(no)), nil},
		"FALSE and then something": {extension(oidBasicConstraints, true, seq(no, der.AppendInt(nil, 0))), ErrAuthority},
		"keyCertSign":              {extension(oidKeyUsage, true, der.AppendNamedBits(nil, 1<<5)), ErrAuthority},
		"cRLSign":                  {extension(oidKeyUsage, true, der.AppendNamedBits(nil, 1|1<<6)), ErrAuthority},
		"digitalSignature":         {extension(oidKeyUsage, true, der.AppendNamedBits(nil, 1)), nil},
		"usage with a tail":        {extension(oidKeyUsage, true, append(der.AppendNamedBits(nil, 1), 0)), ErrMalformed},
		"OCSPSigning":              {extension(oidExtendedKeyUsage, false, seq(oid("1.3.6.1.5.5.7.3.2"), oid("1.3.6.1.5.5.7.3.9"))), ErrAuthority},
		"any usage":                {extension(oidExtendedKeyUsage, false, seq(oid("2.5.29.37.0"))), ErrAuthority},
		"clientAuth":               {extension(oidExtendedKeyUsage, false, seq(oid("1.3.6.1.5.5.7.3.2"))), nil},
		"usage of numbers":         {extension(oidExtendedKeyUsage, false, seq(der.AppendInt(nil, 1))), ErrMalformed},
		"a SPIFFE URI":             {extension(der.MustOID("2.5.29.17"), false, seq(der.AppendTLV(nil, 0x86, []byte("spiffe://x/y")))), nil},
	} {
		for _, id := range []der.OID{oidExtensionRequest, oidMicrosoftRequest} {
			r, err := Parse(parts{attributes: attributes(attribute(id, seq(c.ext)))}.build(t))
			if c.want == nil && (err != nil || len(r.Extensions) != 1) {
				t.Errorf("%s: %v", what, err)
			}
			if c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%s: got %v, want %s", what, err, c.want.Code)
			}
		}
	}
}

// A56: bombs are refused within 100 ms and 20 MB.
func TestParse_RefusesBombsQuickly_A56(t *testing.T) {
	deep := []byte{}
	for range 100 {
		deep = der.AppendTLV(nil, der.TagSequence, deep)
	}
	veryDeep := bytes.Repeat([]byte{0x30, 0x80}, 8000)
	sans := []byte{}
	for range 10_000 {
		sans = der.AppendTLV(sans, 0x82, []byte("device.example"))
	}
	key := ecKey(t, elliptic.P256())
	many := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: der.AppendTLV(nil, der.TagSequence, sans)}
	huge, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{ExtraExtensions: []pkix.Extension{many}}, key)
	if err != nil {
		t.Fatal(err)
	}
	// An RSA key whose single verification would take seconds.
	n := bytes.Repeat([]byte{0xff}, 14_000)
	rsaBomb := der.Sequence(nil, func(b []byte) []byte {
		b = append(b, identifier("1.2.840.113549.1.1.1", true)...)
		return der.AppendBitString(b, der.Sequence(nil, func(b []byte) []byte { return der.AppendInt(der.AppendUint(b, n), 1<<31-1) }))
	})
	longOID := append(append([]byte{}, bytes.Repeat([]byte{0xff}, 12_000)...), 1)
	for what, in := range map[string][]byte{
		"1 MB":             append(parts{}.build(t), make([]byte, 1<<20)...),
		"10,000 names":     huge,
		"100 deep":         deep,
		"100 deep inside":  parts{attributes: attributes(attribute(der.MustOID("1.2.3"), deep))}.build(t),
		"indefinite":       veryDeep,
		"10 MB of dashes":  bytes.Repeat([]byte("-"), 10<<20),
		"16 KiB of dashes": bytes.Repeat([]byte("-"), MaxSize),
		"BEGIN repeated":   bytes.Repeat([]byte("-----BEGIN "), 1400),
		"length 2^31":      {0x30, 0x84, 0x80, 0, 0, 0},
		"RSA bomb":         parts{spki: rsaBomb}.build(t),
		"long identifier":  parts{attributes: attributes(attribute(der.OID(longOID), der.AppendNull(nil)), attribute(der.OID(longOID), der.AppendNull(nil)))}.build(t),
	} {
		start := time.Now()
		before := allocated()
		_, err := Parse(in)
		used := allocated() - before
		if err == nil {
			t.Errorf("%s: taken", what)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("%s: refused after %v", what, d)
		}
		if used > 20<<20 {
			t.Errorf("%s: took %d octets", what, used)
		}
	}
}

func TestParse_DoesNotKeepItsInput(t *testing.T) {
	raw, err := Create(ecKey(t, elliptic.P256()), "unit-1", "x")
	if err != nil {
		t.Fatal(err)
	}
	in := slices.Clone(raw)
	r, err := Parse(in)
	if err != nil {
		t.Fatal(err)
	}
	clear(in)
	if !bytes.Equal(r.Raw, raw) || r.SPKIHash != sha256.Sum256(r.SPKI) {
		t.Error("the request changed with the buffer it came in")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range signers(f) {
		raw, err := Create(s, "unit-1", "challenge")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: raw}))
	}
	f.Add(parts{attributes: request(extension(oidKeyUsage, true, der.AppendNamedBits(nil, 1)))}.build(f))
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := Parse(in)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("not the requester's fault: %v", err)
			}
			return
		}
		// What is accepted, others accept with the same meaning.
		std, err := x509.ParseCertificateRequest(r.Raw)
		if err != nil {
			return // it reads more of the extensions and may refuse those
		}
		if err := std.CheckSignature(); err != nil {
			t.Fatalf("crypto/x509 refuses the signature: %v", err)
		}
		if !bytes.Equal(std.RawSubjectPublicKeyInfo, r.SPKI) {
			t.Fatal("two readers see two keys")
		}
		if std.Subject.CommonName != r.CommonName {
			t.Fatalf("two readers see two names: %q and %q", std.Subject.CommonName, r.CommonName)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	raw, err := Create(ecKey(b, elliptic.P256()), "unit-1", "c2VydmljZSBub25jZQ==")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}
