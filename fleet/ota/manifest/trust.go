package manifest

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"time"
)

// Trust is whose signatures count.
type Trust struct {
	need  int
	keys  map[string]crypto.PublicKey // by identifier
	roots []*x509.Certificate
}

// ParseTrust reads PEM with public keys that count by themselves, and with root
// certificates that certify keys for code signing. need is how many different
// signers a manifest must have; 0 means one.
func ParseTrust(text []byte, need int) (*Trust, error) {
	t := &Trust{need: max(need, 1), keys: map[string]crypto.PublicKey{}}
	if need < 0 || need > maxSignatures {
		return nil, ErrTrust.New("A manifest has 1 to %d signers.", maxSignatures)
	}
	rest := text
	for {
		block, more := pem.Decode(rest)
		if block == nil {
			break
		}
		rest = more
		switch block.Type {
		case "PUBLIC KEY":
			pub, err := x509.ParsePKIXPublicKey(block.Bytes)
			if err != nil {
				return nil, ErrTrust.Wrap(err, "")
			}
			if _, err := algorithm(pub); err != nil {
				return nil, err
			}
			id, err := KeyID(pub)
			if err != nil {
				return nil, err
			}
			t.keys[string(id)] = pub
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, ErrTrust.Wrap(err, "")
			}
			if !c.IsCA || !c.BasicConstraintsValid || c.CheckSignatureFrom(c) != nil {
				return nil, ErrTrust.New("%s is no root.", c.Subject)
			}
			t.roots = append(t.roots, c)
		default:
			return nil, ErrTrust.New("A block of the type %.40q.", block.Type)
		}
	}
	if len(t.keys) == 0 && len(t.roots) == 0 {
		return nil, ErrTrust.New("There is none.")
	}
	if len(bytes.TrimSpace(rest)) > 0 && bytes.Contains(rest, []byte("-----BEGIN")) {
		return nil, ErrTrust.New("The end cannot be read.")
	}
	return t, nil
}

// Uses tells whether a key is pinned, or is a pinned root's.
func (t *Trust) Uses(pub crypto.PublicKey) bool {
	id, err := KeyID(pub)
	if err != nil {
		return false
	}
	for _, c := range t.roots {
		if own, err := KeyID(c.PublicKey); err == nil && bytes.Equal(own, id) {
			return true
		}
	}
	return t.keys[string(id)] != nil
}

// Verify reads a signed manifest, and gives it with the identifiers of the keys that
// count, if enough of them signed. A signature that is not right is refused even if
// there are enough without it; one by a stranger does not count.
func (t *Trust) Verify(raw []byte, now time.Time) (*Manifest, []string, error) {
	s, err := Parse(raw)
	if err != nil {
		return nil, nil, err
	}
	seen := map[string]bool{}
	var signers []string
	for i := range s.signatures {
		g := &s.signatures[i]
		h, err := g.header()
		if err != nil {
			return nil, nil, err
		}
		if seen[string(h.KeyID)] {
			return nil, nil, ErrSignature.New("One key has signed twice.")
		}
		seen[string(h.KeyID)] = true
		pub, err := t.key(&h, now)
		if err != nil {
			return nil, nil, err
		}
		if pub == nil {
			continue
		}
		octets, err := s.toSign(g.Protected)
		if err != nil {
			return nil, nil, err
		}
		if !verify(pub, h.Algorithm, octets, g.Signature) {
			return nil, nil, ErrSignature.New("Of the key %x.", h.KeyID[:8])
		}
		signers = append(signers, hex.EncodeToString(h.KeyID))
	}
	if len(signers) < t.need {
		return nil, nil, ErrSigners.New("%d of %d that are needed.", len(signers), t.need)
	}
	m := s.Unverified()
	return &m, signers, nil
}

// key is the key of a signature if it counts, nil if it is a stranger's.
func (t *Trust) key(h *signerHeader, now time.Time) (crypto.PublicKey, error) {
	if pub := t.keys[string(h.KeyID)]; pub != nil {
		return pub, nil
	}
	if len(h.Chain) == 0 || len(t.roots) == 0 {
		return nil, nil
	}
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}
	for _, c := range t.roots {
		opts.Roots.AddCert(c)
	}
	var leaf *x509.Certificate
	for i, der := range h.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, ErrSignature.Wrap(err, "A certificate of the signer.")
		}
		if i == 0 {
			leaf = c
		} else {
			opts.Intermediates.AddCert(c)
		}
	}
	id, err := KeyID(leaf.PublicKey)
	if err != nil || !bytes.Equal(id, h.KeyID) {
		return nil, ErrSignature.Wrap(err, "The certificate is not that of the key.")
	}
	// A certificate without extended key usages would be good for anything.
	if len(leaf.ExtKeyUsage) == 0 || leaf.IsCA {
		return nil, ErrSignature.New("The certificate of the signer does not allow code signing.")
	}
	if _, err := leaf.Verify(opts); err != nil {
		return nil, ErrSignature.Wrap(err, "The certificate of the signer is not trusted now.")
	}
	return leaf.PublicKey, nil
}
