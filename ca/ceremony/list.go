package ceremony

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"math/big"
	"slices"
	"time"

	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/internal/der"
)

const (
	// defaultListLife is how long a root's list runs: its key comes out once a year.
	defaultListLife = 365 * 24 * time.Hour
	maxListLife     = 3 * 366 * 24 * time.Hour
	maxRevoked      = 1000
)

// Object identifiers of a list's extensions, RFC 5280, Section 5.2 and 5.3.
var (
	oidAuthorityKeyID = der.MustOID("2.5.29.35")
	oidCRLNumber      = der.MustOID("2.5.29.20")
	oidReason         = der.MustOID("2.5.29.21")
	oidIDP            = der.MustOID("2.5.29.28")
)

// reasons are those that fit the certificate of an authority. Hold is not among
// them: a root that sleeps for a year cannot release.
var reasons = map[int]string{
	0: "unspecified", 1: "keyCompromise", 2: "cACompromise", 3: "affiliationChanged",
	4: "superseded", 5: "cessationOfOperation", 9: "privilegeWithdrawn",
}

// Reason is the code of a reason's name (RFC 5280, Section 5.3.1).
func Reason(name string) (int, error) {
	for code, n := range reasons {
		if n == name {
			return code, nil
		}
	}
	return 0, ErrRequest.New("The reason %q is none of unspecified, keyCompromise, cACompromise, affiliationChanged, superseded, cessationOfOperation, privilegeWithdrawn.", name)
}

// Revocation asks to list one certificate that the root signed.
type Revocation struct {
	Serial ca.Serial
	Reason int       // RFC 5280, Section 5.3.1
	At     time.Time // zero means now
}

// ListRequest asks for the root's list.
type ListRequest struct {
	RootCert []byte // DER or PEM
	KeyURI   string
	RootName string // as in the certificates below; "" = from the previous transcript
	BaseURL  string // likewise
	// Previous is the newest list of this root, DER or PEM. Its entries stay
	// and its number is raised (A32, S32).
	Previous []byte
	// First says that there was no list before; without it Previous is needed.
	First bool
	// Number is the list's number; 0 = one more than the previous.
	Number int64
	Revoke []Revocation
	// Life is until the next update; 0 = a year.
	Life time.Duration
}

// PlanRootCRL renders the root's list.
func (c *Ceremony) PlanRootCRL(ctx context.Context, r ListRequest) (*Plan, error) {
	root, err := parseRoot(r.RootCert)
	if err != nil {
		return nil, err
	}
	if err := c.fromPrevious(&r.RootName, &r.BaseURL); err != nil {
		return nil, err
	}
	if r.First == (len(r.Previous) > 0) {
		return nil, ErrRequest.New("Give the newest list of this root, or say that this is the first.")
	}
	if r.Life == 0 {
		r.Life = defaultListLife
	}
	if r.Life < 0 || r.Life > maxListLife {
		return nil, ErrLifetime.New("A list runs for at most %d days.", int(maxListLife.Hours()/24))
	}
	key, t, err := c.beginRoot(ctx, KindList, r.RootName, r.KeyURI, root)
	if err != nil {
		return nil, err
	}
	if err := c.baseURL(&t, r.BaseURL); err != nil {
		return nil, err
	}
	t.Objects = append(t.Objects, object(RoleRoot, false, root.Raw))
	now := c.now().UTC().Truncate(time.Second)
	url := profile.ListURL(issuerOf(root, r.RootName, r.BaseURL).CRLBase, 0)
	l := list{root: root, url: url, number: big.NewInt(max(r.Number, 1)), thisUpdate: now, nextUpdate: now.Add(r.Life)}
	if l.nextUpdate.After(root.NotAfter) {
		l.nextUpdate = root.NotAfter
	}
	known := map[string]bool{}
	if !r.First {
		old, err := parsePrevious(r.Previous, root)
		if err != nil {
			return nil, err
		}
		if err := l.follow(old, r.Number); err != nil {
			return nil, err
		}
		for _, e := range l.entries {
			known[hex.EncodeToString(e.SerialNumber.Bytes())] = true
		}
		t.Objects = append(t.Objects, object(RolePreviousList, false, old.Raw))
	}
	for _, v := range r.Revoke {
		if err := l.revoke(v, root, now); err != nil {
			return nil, err
		}
	}
	// In rising order, which lets readers search.
	slices.SortFunc(l.entries, func(a, b x509.RevocationListEntry) int { return a.SerialNumber.Cmp(b.SerialNumber) })
	tbs, sigAlg, err := l.render()
	if err != nil {
		return nil, err
	}
	whole := profile.Assemble(tbs, sigAlg, []byte{0})
	draft, err := x509.ParseRevocationList(whole)
	if err != nil || !bytes.Equal(draft.RawTBSRevocationList, tbs) {
		return nil, ErrLint.Wrap(err, "The list does not parse.")
	}
	if found := c.linter.List(whole, true); len(found) > 0 {
		return nil, lintFault(found)
	}
	s := &t.Script
	s.Root, s.BaseURL, s.ListURL, s.ListNumber = r.RootName, r.BaseURL, url, l.number.String()
	s.NotBefore, s.NotAfter, s.Revoked = stamp(l.thisUpdate), stamp(l.nextUpdate), revokedOf(draft)
	p := &Plan{tbs: tbs, sigAlg: sigAlg, key: key, root: root, t: t}
	p.text = describeList(p, draft, known)
	return p, nil
}

// SignRootCRL plans and signs the root's list without asking anybody.
func (c *Ceremony) SignRootCRL(ctx context.Context, r ListRequest) (*Result, error) {
	p, err := c.PlanRootCRL(ctx, r)
	if err != nil {
		return nil, err
	}
	return c.Execute(ctx, p, unasked)
}

func parsePrevious(data []byte, root *x509.Certificate) (*x509.RevocationList, error) {
	raw, err := ReadObject(data, "X509 CRL")
	if err != nil {
		return nil, err
	}
	old, err := x509.ParseRevocationList(raw)
	if err != nil {
		return nil, ErrInput.Wrap(err, "The previous list does not parse.")
	}
	if err := old.CheckSignatureFrom(root); err != nil || old.Number == nil {
		return nil, ErrInput.Wrap(err, "The previous list is not one of this root.")
	}
	return old, nil
}

// list is a list before it is rendered.
type list struct {
	root                   *x509.Certificate
	url                    string
	number                 *big.Int
	thisUpdate, nextUpdate time.Time
	entries                []x509.RevocationListEntry
}

// follow takes over the entries of the list before. The number only rises.
func (l *list) follow(old *x509.RevocationList, number int64) error {
	next := new(big.Int).Add(old.Number, big.NewInt(1))
	switch {
	case number == 0:
		l.number = next
	case l.number.Cmp(next) < 0:
		return ErrList.New("The number %d is not above %s, that of the previous list.", number, old.Number)
	}
	if l.thisUpdate.Before(old.ThisUpdate) {
		return ErrClock.New("The previous list is of %s, this clock says %s.", stamp(old.ThisUpdate), stamp(l.thisUpdate))
	}
	l.entries = slices.Clone(old.RevokedCertificateEntries)
	return nil
}

func (l *list) revoke(v Revocation, root *x509.Certificate, now time.Time) error {
	if _, ok := reasons[v.Reason]; !ok {
		return ErrRequest.New("The reason code %d is not one for the certificate of an authority.", v.Reason)
	}
	if v.At.IsZero() {
		v.At = now
	}
	n := v.Serial.Int()
	switch {
	case v.At.After(now) || v.At.Before(root.NotBefore):
		return ErrRequest.New("The revocation of %s is dated %s, outside the life of the root until now.", v.Serial, stamp(v.At))
	case n.Cmp(root.SerialNumber) == 0:
		return ErrRequest.New("A root cannot revoke itself: nobody would have to believe that list. Remove it from the trust stores.")
	case n.Sign() == 0:
		return ErrRequest.New("The serial number is zero.")
	case slices.ContainsFunc(l.entries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(n) == 0 }):
		return ErrList.New("The certificate %s is on the list already; an entry is never changed.", v.Serial)
	case len(l.entries) >= maxRevoked:
		return ErrRequest.New("A root's list has at most %d entries.", maxRevoked)
	}
	l.entries = append(l.entries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: v.At.UTC().Truncate(time.Second), ReasonCode: v.Reason})
	return nil
}

// render writes the TBSCertList (RFC 5280, Section 5.1.2). The critical issuing
// distribution point has the very octets of the distribution point in the
// certificates (Section 5.2.5), so that a list of another scope cannot be put
// in its place.
func (l *list) render() (tbs, sigAlg []byte, err error) {
	sigAlg, _, err = profile.SignatureAlgorithm(l.root.PublicKey)
	if err != nil {
		return nil, nil, ErrKey.Wrap(err, "This kind of key does not sign lists here.")
	}
	tbs = der.Sequence(nil, func(b []byte) []byte {
		b = der.AppendInt(b, 1) // v2
		b = append(b, sigAlg...)
		b = append(b, l.root.RawSubject...)
		b = der.AppendUTCOrGeneralizedTime(b, l.thisUpdate)
		b = der.AppendUTCOrGeneralizedTime(b, l.nextUpdate)
		// revokedCertificates is absent, not empty, when there are none.
		if len(l.entries) > 0 {
			b = der.Sequence(b, func(b []byte) []byte {
				for _, e := range l.entries {
					b = appendEntry(b, e)
				}
				return b
			})
		}
		return der.Wrap(b, der.ContextConstructed(0), func(b []byte) []byte {
			return der.Sequence(b, func(b []byte) []byte {
				b = appendExtension(b, oidAuthorityKeyID, false, der.Sequence(nil, func(b []byte) []byte {
					return der.AppendTLV(b, der.Context(0), l.root.SubjectKeyId)
				}))
				b = appendExtension(b, oidCRLNumber, false, der.AppendBigInt(nil, l.number))
				return appendExtension(b, oidIDP, true, idp(l.url))
			})
		})
	})
	return tbs, sigAlg, nil
}

func idp(url string) []byte {
	return der.Sequence(nil, func(b []byte) []byte { return profile.AppendDistributionPointName(b, url) })
}

func appendEntry(b []byte, e x509.RevocationListEntry) []byte {
	return der.Sequence(b, func(b []byte) []byte {
		b = der.AppendBigInt(b, e.SerialNumber)
		b = der.AppendUTCOrGeneralizedTime(b, e.RevocationTime)
		// Unspecified is said by leaving the reason out (RFC 5280, Section 5.3.1).
		if e.ReasonCode == 0 {
			return b
		}
		return der.Sequence(b, func(b []byte) []byte {
			return appendExtension(b, oidReason, false, der.AppendEnumerated(nil, int64(e.ReasonCode)))
		})
	})
}

func appendExtension(b []byte, oid der.OID, critical bool, value []byte) []byte {
	return der.Sequence(b, func(b []byte) []byte {
		b = oid.Append(b)
		if critical {
			b = der.AppendBool(b, true)
		}
		return der.AppendOctetString(b, value)
	})
}

func revokedOf(l *x509.RevocationList) []Revoked {
	out := []Revoked{}
	for _, e := range l.RevokedCertificateEntries {
		out = append(out, Revoked{SerialNumber: hex.EncodeToString(e.SerialNumber.Bytes()), Reason: e.ReasonCode, RevokedAt: stamp(e.RevocationTime)})
	}
	return out
}
