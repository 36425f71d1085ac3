package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"time"

	"hallmark/ca/profile"
	"hallmark/internal/der"
	"hallmark/internal/fault"
)

// ListPieces is a tBSCertList (RFC 5280, Section 5.1.2) that is not in one place:
// octet by octet it is Front, the Entries one after another, and Back.
type ListPieces struct {
	Front   []byte // with the headers that count what follows
	Entries [][]byte
	Back    []byte // the extensions
	// Sample is a few of the entries, for the lints; empty where there are none.
	Sample []byte
}

// SignListPieces signs a list where it lies, since nobody holds a long one twice,
// and gives the signature. A closed authority still signs lists (S2); a root's list
// is signed offline. The frame is proven to be a list of this authority with the
// sample between its ends, and linted, and the signature is verified over the same
// hash with the pinned key. The whole list is not linted; every entry was read when
// its piece was made.
func (c *CA) SignListPieces(ctx context.Context, authority string, p *ListPieces) (sig []byte, err error) {
	a, err := c.loaded(authority)
	if err != nil {
		return nil, err
	}
	if a.key == nil {
		return nil, ErrList.New("The list of %s is signed offline, with the root's key.", authority)
	}
	if !c.now().Before(a.cert.NotAfter) {
		return nil, ErrAuthorityClosed.New("%s ended at %s; nobody can verify a list of it any more.", authority, a.cert.NotAfter.Format("2006-01-02"))
	}
	sample, err := p.sample()
	if err != nil {
		return nil, ErrList.Wrap(err, "The list of %s is not DER.", authority)
	}
	l, err := readFrame(sample)
	if err != nil {
		return nil, ErrList.Wrap(err, "The list of %s is not DER.", authority)
	}
	if !bytes.Equal(l.sigAlg, a.sigAlg) || !bytes.Equal(l.issuer, a.cert.RawSubject) {
		return nil, ErrList.New("The list names another issuer or algorithm than %s.", authority)
	}
	if err := listFindings(c.linter.List(profile.Assemble(sample, a.sigAlg, []byte{0}), l.long)); err != nil {
		return nil, err
	}
	if a.hash == 0 { // the algorithm takes the message itself
		return a.signature(ctx, p.join())
	}
	h := a.hash.New()
	h.Write(p.Front)
	for _, e := range p.Entries {
		h.Write(e)
	}
	h.Write(p.Back)
	return a.signDigest(ctx, h.Sum(nil))
}

// signDigest signs a digest and verifies the signature (A25).
func (l *authority) signDigest(ctx context.Context, digest []byte) ([]byte, error) {
	sig, err := l.key.SignContext(ctx, digest, l.hash)
	if err != nil {
		if fault.KindOf(err) != fault.Internal {
			return nil, err
		}
		return nil, ErrSigner.Wrap(err, "Authority %s.", l.Name).After(2 * time.Second)
	}
	ok := false
	switch k := l.cert.PublicKey.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, digest, sig)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(k, l.hash, digest, sig) == nil
	}
	if !ok {
		return nil, ErrSignature.New("Authority %s.", l.Name)
	}
	return sig, nil
}

func (p *ListPieces) join() []byte {
	out := append([]byte(nil), p.Front...)
	for _, e := range p.Entries {
		out = append(out, e...)
	}
	return append(out, p.Back...)
}

// sample is the list with Sample in the place of its entries. The headers of
// Front count all of them, so the parts before are taken out of it.
func (p *ListPieces) sample() ([]byte, error) {
	content, n, err := header(p.Front, der.TagSequence)
	if err != nil {
		return nil, err
	}
	size := 0
	for _, e := range p.Entries {
		size += len(e)
	}
	if n != len(content)+size+len(p.Back) {
		return nil, der.ErrMalformed.New("Its length counts %d octets of %d.", n, len(content)+size+len(p.Back))
	}
	fields := content
	for range 5 { // version, algorithm, issuer, thisUpdate, nextUpdate
		if _, fields, err = der.Next(fields); err != nil {
			return nil, err
		}
	}
	if len(fields) > 0 {
		rest, n, err := header(fields, der.TagSequence)
		if err != nil || len(rest) != 0 || n != size || size == 0 {
			return nil, der.ErrMalformed.New("The header of its entries counts %d octets of %d.", n, size)
		}
		content = content[:len(content)-len(fields)]
	} else if size > 0 {
		return nil, der.ErrMalformed.New("Its entries have no header.")
	}
	return der.Sequence(nil, func(b []byte) []byte {
		b = append(b, content...)
		if len(p.Sample) > 0 {
			b = der.AppendTLV(b, der.TagSequence, p.Sample)
		}
		return append(b, p.Back...)
	}), nil
}

// header reads a tag and a length whose content may not be there.
func header(in []byte, tag byte) (rest []byte, n int, err error) {
	if len(in) < 2 || in[0] != tag {
		return nil, 0, der.ErrMalformed.New("It has no sequence where one belongs.")
	}
	n, rest = int(in[1]), in[2:]
	if n >= 0x80 {
		k := n & 0x7f
		if k == 0 || k > 4 || len(rest) < k {
			return nil, 0, der.ErrMalformed.New("It has a length of no DER form.")
		}
		n = 0
		for _, b := range rest[:k] {
			n = n<<8 | int(b)
		}
		rest = rest[k:]
	}
	if canonical := der.AppendHeader(nil, tag, n); !bytes.Equal(canonical, in[:len(in)-len(rest)]) {
		return nil, 0, der.ErrMalformed.New("It has a length of no DER form.")
	}
	return rest, n, nil
}
