package cmp

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"hash"

	"hallmark/ca/profile"
	"hallmark/internal/der"
	"hallmark/internal/kdf"
)

var (
	oidPBM    = der.MustOID("1.2.840.113533.7.66.13") // RFC 9481, Section 6.1.1
	oidPBMAC1 = der.MustOID("1.2.840.113549.1.5.14")  // RFC 8018, Appendix A.5
	oidPBKDF2 = der.MustOID("1.2.840.113549.1.5.12")
	oidSHA256 = der.MustOID("2.16.840.1.101.3.4.2.1")
)

// digests that make a key of a password.
var digests = map[der.OID]func() hash.Hash{
	oidSHA256:                             sha256.New,
	der.MustOID("2.16.840.1.101.3.4.2.2"): sha512.New384,
	der.MustOID("2.16.840.1.101.3.4.2.3"): sha512.New,
}

// macs that authenticate a message. HMAC with SHA-1 is what a common client sends
// unless told otherwise; nothing is known against it (RFC 9481, Section 6.2.1).
var macs = map[der.OID]func() hash.Hash{
	der.MustOID("1.3.6.1.5.5.8.1.2"):   sha1.New,
	der.MustOID("1.2.840.113549.2.7"):  sha1.New,
	der.MustOID("1.2.840.113549.2.9"):  sha256.New,
	der.MustOID("1.2.840.113549.2.10"): sha512.New384,
	der.MustOID("1.2.840.113549.2.11"): sha512.New,
}

// signatures that protect a message or prove a key.
var signatures = map[der.OID]x509.SignatureAlgorithm{
	der.MustOID("1.2.840.10045.4.3.2"):   x509.ECDSAWithSHA256,
	der.MustOID("1.2.840.10045.4.3.3"):   x509.ECDSAWithSHA384,
	der.MustOID("1.2.840.10045.4.3.4"):   x509.ECDSAWithSHA512,
	der.MustOID("1.3.101.112"):           x509.PureEd25519,
	der.MustOID("1.2.840.113549.1.1.11"): x509.SHA256WithRSA,
	der.MustOID("1.2.840.113549.1.1.12"): x509.SHA384WithRSA,
	der.MustOID("1.2.840.113549.1.1.13"): x509.SHA512WithRSA,
}

// Bounds of what a sender may make us compute before it is known.
const (
	minIterations = 100
	maxIterations = 100_000
	maxSalt       = 128
)

// identifier splits an AlgorithmIdentifier.
func identifier(in []byte) (id der.OID, parameters []byte, err error) {
	e, err := der.Only(in, der.TagSequence)
	if err != nil {
		return "", nil, ErrMessage.Wrap(err, "")
	}
	o, rest, err := der.Next(e.Content)
	if err != nil {
		return "", nil, ErrMessage.Wrap(err, "")
	}
	if id, err = o.OID(); err != nil {
		return "", nil, ErrMessage.Wrap(err, "")
	}
	return id, rest, nil
}

// signatureOf reads the identifier of a signature; parameters are absent or NULL.
func signatureOf(in []byte) (x509.SignatureAlgorithm, error) {
	id, parameters, err := identifier(in)
	if err != nil {
		return 0, err
	}
	a, ok := signatures[id]
	if !ok || len(parameters) != 0 && !bytes.Equal(parameters, []byte{der.TagNull, 0}) {
		return 0, ErrAlgorithm.New("")
	}
	return a, nil
}

// password is how octets are authenticated with a password: the identifier, as it
// stands in a header, and the key.
type password struct {
	algorithm []byte
	mac       func() hash.Hash
	key       []byte
}

func (p *password) sum(part []byte) []byte {
	h := hmac.New(p.mac, p.key)
	h.Write(part)
	return h.Sum(nil)
}

// withPassword tells whether an identifier is one of a password.
func withPassword(algorithm []byte) bool {
	id, _, err := identifier(algorithm)
	return err == nil && (id == oidPBM || id == oidPBMAC1)
}

// passwordOf derives the key that an identifier says.
func passwordOf(algorithm []byte, secret string) (*password, error) {
	id, parameters, err := identifier(algorithm)
	if err != nil {
		return nil, err
	}
	seq, err := der.Only(parameters, der.TagSequence)
	if err != nil {
		return nil, ErrMessage.Wrap(err, "")
	}
	p := &password{algorithm: algorithm}
	if id == oidPBM {
		err = p.pbm(seq.Content, secret)
	} else {
		err = p.pbmac1(seq.Content, secret)
	}
	return p, err
}

// pbm is PBMParameter { salt, owf, iterationCount, mac } (RFC 9810, Section 5.1.3.1).
func (p *password) pbm(in []byte, secret string) error {
	salt, in, err := der.Take(in, der.TagOctetString)
	if err != nil {
		return ErrMessage.Wrap(err, "")
	}
	owf, in, err := der.Take(in, der.TagSequence)
	if err != nil {
		return ErrMessage.Wrap(err, "")
	}
	count, in, err := der.Take(in, der.TagInteger)
	if err != nil {
		return ErrMessage.Wrap(err, "")
	}
	n, err := iterations(count)
	if err != nil {
		return err
	}
	digest, _, err := identifier(owf.Raw)
	if err != nil {
		return err
	}
	mac, _, err := identifier(in)
	if err != nil {
		return err
	}
	if digests[digest] == nil || macs[mac] == nil || len(salt.Content) > maxSalt {
		return ErrAlgorithm.New("")
	}
	h := digests[digest]()
	h.Write([]byte(secret))
	h.Write(salt.Content)
	p.key, p.mac = h.Sum(nil), macs[mac]
	for range n - 1 {
		h.Reset()
		h.Write(p.key)
		p.key = h.Sum(p.key[:0])
	}
	return nil
}

// pbmac1 is PBMAC1-params { keyDerivationFunc, messageAuthScheme } with PBKDF2.
func (p *password) pbmac1(in []byte, secret string) error {
	derivation, in, err := der.Take(in, der.TagSequence)
	if err != nil {
		return ErrMessage.Wrap(err, "")
	}
	scheme, _, err := identifier(in)
	if err != nil {
		return err
	}
	function, parameters, err := identifier(derivation.Raw)
	if err != nil {
		return err
	}
	if function != oidPBKDF2 || macs[scheme] == nil {
		return ErrAlgorithm.New("")
	}
	seq, err := der.Only(parameters, der.TagSequence)
	if err != nil {
		return ErrMessage.Wrap(err, "")
	}
	salt, rest, err := der.Take(seq.Content, der.TagOctetString)
	if err != nil || len(salt.Content) > maxSalt {
		return ErrAlgorithm.New("")
	}
	count, rest, err := der.Take(rest, der.TagInteger)
	if err != nil {
		return ErrMessage.Wrap(err, "")
	}
	n, err := iterations(count)
	if err != nil {
		return err
	}
	p.mac = macs[scheme]
	length := int64(p.mac().Size())
	if e, tail, err := der.Take(rest, der.TagInteger); err == nil {
		if length, err = e.Int(); err != nil || length < 16 || length > 64 {
			return ErrAlgorithm.New("")
		}
		rest = tail
	}
	prf := sha1.New // the default of PBKDF2-params
	if len(rest) > 0 {
		id, _, err := identifier(rest)
		if err != nil {
			return err
		}
		if prf = macs[id]; prf == nil {
			return ErrAlgorithm.New("")
		}
	}
	p.key, err = kdf.PBKDF2(prf, secret, salt.Content, n, int(length))
	if err != nil {
		return ErrAlgorithm.Wrap(err, "")
	}
	return nil
}

func iterations(e der.Element) (int, error) {
	n, err := e.Int()
	if err != nil || n < minIterations || n > maxIterations {
		return 0, ErrAlgorithm.New("The number of iterations is not %d to %d.", minIterations, maxIterations)
	}
	return int(n), nil
}

// protector protects an answer.
type protector struct {
	password *password
	// or a signature
	signer crypto.Signer
	chain  []*x509.Certificate
	hash   crypto.Hash
	alg    []byte
}

// withSecret protects as the sender did; the salt may be the same, since the octets
// are not.
func withSecret(p *password) *protector { return &protector{password: p} }

func withKey(signer crypto.Signer, chain []*x509.Certificate) (*protector, error) {
	alg, hash, err := profile.SignatureAlgorithm(signer.Public())
	if err != nil {
		return nil, err
	}
	return &protector{signer: signer, chain: chain, hash: hash, alg: alg}, nil
}

func (p *protector) algorithm() []byte {
	if p.password != nil {
		return p.password.algorithm
	}
	return p.alg
}

func (p *protector) protect(part []byte) ([]byte, error) {
	if p.password != nil {
		return p.password.sum(part), nil
	}
	digest := part
	if p.hash != 0 {
		h := p.hash.New()
		h.Write(part)
		digest = h.Sum(nil)
	}
	return p.signer.Sign(rand.Reader, digest, p.hash)
}
