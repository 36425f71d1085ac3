package crl

import (
	"bytes"
	"crypto/x509"
	"time"

	"hallmark/ca/profile"
	"hallmark/internal/der"
)

const (
	maxSerialOctets = 20 // RFC 5280, Section 5.1.2.6 with 4.1.2.2
	maxListOctets   = 256 << 20
)

// List is a parsed revocation list. Its slices point into DER; the entries are
// not copied.
type List struct {
	DER        []byte
	TBS        []byte
	SigAlg     []byte
	Signature  []byte
	Issuer     []byte
	KeyID      []byte
	Number     int64
	URL        string // of the issuing distribution point, "" without one
	ThisUpdate time.Time
	NextUpdate time.Time
	Entries    []byte // one after another
	Count      int
	Ordered    bool // serial numbers rise strictly
	// Base is the number of the list that a delta list changes; 0 for a full list.
	Base     int64
	Freshest string // where delta lists are (RFC 5280, Section 5.2.6)

	at       int  // where in DER the entries are, or would be
	removals bool // it has entries with removeFromCRL
}

func malformed(err error, what string, args ...any) error {
	if err != nil {
		return ErrListMalformed.Wrap(err, what, args...)
	}
	return ErrListMalformed.New(what, args...)
}

// ParseList reads a list, every octet of it, without allocating for entries. It
// takes version 2 with a number and an authority key identifier, and refuses
// critical extensions but the issuing distribution point.
func ParseList(in []byte) (*List, error) {
	if len(in) > maxListOctets {
		return nil, malformed(nil, "It has %d octets.", len(in))
	}
	outer, err := der.Only(in, der.TagSequence)
	if err != nil {
		return nil, malformed(err, "It is not one DER sequence.")
	}
	l := &List{DER: in, Ordered: true}
	tbs, rest, err := der.Take(outer.Content, der.TagSequence)
	if err != nil {
		return nil, malformed(err, "It has no tBSCertList.")
	}
	l.TBS = tbs.Raw
	inside := len(in) - len(outer.Content) + len(tbs.Raw) // where the content of TBS ends
	alg, rest, err := der.Take(rest, der.TagSequence)
	if err != nil {
		return nil, malformed(err, "It has no signature algorithm.")
	}
	sig, err := der.Only(rest, der.TagBitString)
	if err != nil {
		return nil, malformed(err, "It has no signature.")
	}
	if l.Signature, err = sig.Bits(); err != nil {
		return nil, malformed(err, "Its signature is not a whole number of octets.")
	}
	l.SigAlg = alg.Raw
	if err := l.parseTBS(tbs.Content, inside); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *List) parseTBS(in []byte, end int) error {
	v, in, err := der.Take(in, der.TagInteger)
	if err != nil {
		return malformed(err, "It has no version.")
	}
	if n, err := v.Int(); err != nil || n != 1 {
		return malformed(err, "It is not of version 2.")
	}
	alg, in, err := der.Take(in, der.TagSequence)
	if err != nil || !bytes.Equal(alg.Raw, l.SigAlg) {
		return malformed(err, "The two signature algorithms differ.")
	}
	if err := der.Check(alg.Raw, 4); err != nil {
		return malformed(err, "Its signature algorithm is not DER.")
	}
	issuer, in, err := der.Take(in, der.TagSequence)
	if err != nil {
		return malformed(err, "It has no issuer.")
	}
	if err := der.Check(issuer.Raw, 8); err != nil || len(issuer.Content) == 0 {
		return malformed(err, "Its issuer is not a name.")
	}
	l.Issuer = issuer.Raw
	if l.ThisUpdate, in, err = takeTime(in); err != nil {
		return malformed(err, "It has no thisUpdate.")
	}
	if l.NextUpdate, in, err = takeTime(in); err != nil {
		return malformed(err, "It has no nextUpdate, which RFC 5280, Section 5.1.2.5 requires.")
	}
	if !l.NextUpdate.After(l.ThisUpdate) {
		return malformed(nil, "Its nextUpdate is not after its thisUpdate.")
	}
	l.at = end - len(in)
	if len(in) > 0 && in[0] == der.TagSequence {
		var list der.Element
		if list, in, err = der.Next(in); err != nil {
			return malformed(err, "Its entries do not fit.")
		}
		if len(list.Content) == 0 {
			return malformed(nil, "It has an empty list of entries, which must be absent.")
		}
		l.Entries = list.Content
		l.at = end - len(in) - len(list.Content)
		if err := l.parseEntries(); err != nil {
			return err
		}
	}
	exts, err := der.Only(in, der.ContextConstructed(0))
	if err != nil {
		return malformed(err, "It has no extensions.")
	}
	if err := l.parseExtensions(exts.Content); err != nil {
		return err
	}
	if l.removals && l.Base == 0 { // RFC 5280, Section 5.3.1
		return malformed(nil, "It has removeFromCRL and is not a delta list.")
	}
	return nil
}

func takeTime(in []byte) (time.Time, []byte, error) {
	e, rest, err := der.Next(in)
	if err != nil {
		return time.Time{}, nil, err
	}
	if e.Tag == der.TagUTCTime {
		if t, ok := utcTime(e.Content); ok {
			return t, rest, nil
		}
	}
	t, err := e.Time()
	if err == nil && e.Tag == der.TagGeneralizedTime && t.Year() < 2050 && t.Year() >= 1950 {
		err = der.ErrMalformed.New("It has a GeneralizedTime before 2050.")
	}
	return t, rest, err
}

// utcTime reads a UTCTime without allocating. What it does not take is for the
// general reader to refuse.
func utcTime(c []byte) (time.Time, bool) {
	v, ok := utcDigits(c)
	if !ok {
		return time.Time{}, false
	}
	return time.Date(v[0], time.Month(v[1]), v[2], v[3], v[4], v[5], 0, time.UTC), true
}

// utcDigits gives year, month, day, hour, minute and second of a UTCTime.
func utcDigits(c []byte) (v [6]int, ok bool) {
	if len(c) != 13 || c[12] != 'Z' {
		return v, false
	}
	for i := range v {
		hi, lo := c[2*i]-'0', c[2*i+1]-'0'
		if hi > 9 || lo > 9 {
			return v, false
		}
		v[i] = int(hi)*10 + int(lo)
	}
	v[0] += 1900
	if v[0] < 1950 { // RFC 5280, Section 4.1.2.5.1
		v[0] += 100
	}
	if v[1] < 1 || v[1] > 12 || v[2] < 1 || v[3] > 23 || v[4] > 59 || v[5] > 59 {
		return v, false
	}
	days := int(monthDays[v[1]-1])
	if v[1] == 2 && v[0]%4 == 0 { // 1950 to 2049 has no century without a leap day
		days++
	}
	return v, v[2] <= days
}

var monthDays = [12]uint8{31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}

func (l *List) parseEntries() error {
	var last []byte
	for in := l.Entries; len(in) > 0; l.Count++ {
		if n, _ := ownEntry(in); n > 0 {
			serial := in[4:24]
			if last != nil && compareSerials(last, serial) >= 0 {
				l.Ordered = false
			}
			last, in = serial, in[n:]
			continue
		}
		e, rest, err := readEntry(in)
		if err != nil {
			return err
		}
		if last != nil && compareSerials(last, e.Serial) >= 0 {
			l.Ordered = false
		}
		l.removals = l.removals || e.Reason == removeFromCRL
		last, in = e.Serial, rest
	}
	return nil
}

// compareSerials orders positive INTEGER contents by value.
func compareSerials(a, b []byte) int {
	if len(a) != len(b) {
		if len(a) < len(b) {
			return -1
		}
		return 1
	}
	return bytes.Compare(a, b)
}

// readEntry reads the first entry of in.
func readEntry(in []byte) (e Entry, rest []byte, err error) {
	if n, r := ownEntry(in); n > 0 {
		e.At, _ = utcTime(in[26:39])
		e.Serial, e.Reason, e.Raw = in[4:24:24], r, in[:n:n]
		return e, in[n:], nil
	}
	seq, rest, err := der.Take(in, der.TagSequence)
	if err != nil {
		return e, nil, malformed(err, "It has an entry that is not a sequence.")
	}
	e.Raw = seq.Raw
	serial, body, err := der.Take(seq.Content, der.TagInteger)
	if err != nil {
		return e, nil, malformed(err, "It has an entry without a serial number.")
	}
	c := serial.Content
	if len(c) == 0 || len(c) > maxSerialOctets || c[0]&0x80 != 0 || len(c) > 1 && c[0] == 0 && c[1] < 0x80 {
		return e, nil, malformed(nil, "It has an entry whose serial number is not a positive number of up to %d octets.", maxSerialOctets)
	}
	e.Serial = c
	if e.At, body, err = takeTime(body); err != nil {
		return e, nil, malformed(err, "It has an entry without a time.")
	}
	if len(body) == 0 {
		return e, rest, nil
	}
	// What we write ourselves is recognised as a whole.
	if r := Reason(body[len(body)-1]); r != Unspecified && r.Valid() && bytes.Equal(body, reasonExtensions[r]) {
		e.Reason = r
		return e, rest, nil
	}
	exts, err := der.Only(body, der.TagSequence)
	if err != nil || len(exts.Content) == 0 {
		return e, nil, malformed(err, "It has an entry with something after its time.")
	}
	seen := false
	for in := exts.Content; len(in) > 0; {
		x, more, err := readExtension(in)
		if err != nil {
			return e, nil, err
		}
		in = more
		if x.oid != oidReasonCode {
			if x.critical {
				return e, nil, malformed(nil, "It has an entry with an unknown critical extension.")
			}
			continue
		}
		code, err := der.Only(x.value, der.TagEnumerated)
		if err != nil {
			return e, nil, malformed(err, "It has an entry whose reason is not a code.")
		}
		n, err := code.Int()
		if err != nil || n < 1 || n > 10 || n == 7 || seen {
			return e, nil, malformed(err, "It has an entry with the reason %d.", n)
		}
		e.Reason, seen = Reason(n), true
	}
	return e, rest, nil
}

// The entries that we write ourselves have one of two lengths.
const (
	shortEntry = 39 // serial number of 20 octets and UTCTime
	longEntry  = 53 // with a reason
)

// ownEntry recognises an entry of the form that [appendEntry] writes by its fixed
// octets, for a long list has a million of them, and gives its length; 0 leaves it
// to the general reader.
func ownEntry(in []byte) (n int, r Reason) {
	if len(in) < shortEntry || in[0] != der.TagSequence || in[2] != der.TagInteger || in[3] != maxSerialOctets || in[4]&0xc0 != 0x40 || in[24] != der.TagUTCTime || in[25] != 13 {
		return 0, 0
	}
	switch n = int(in[1]) + 2; {
	case n == shortEntry:
	case n == longEntry && len(in) >= longEntry:
		r = Reason(in[longEntry-1])
		if r == Unspecified || int(r) >= len(reasonExtensions) || !r.Valid() || string(in[shortEntry:longEntry]) != string(reasonExtensions[r]) {
			return 0, 0
		}
	default:
		return 0, 0
	}
	if _, ok := utcDigits(in[26:39]); !ok {
		return 0, 0
	}
	return n, r
}

// nextEntry is readEntry for entries that were read before: only the serial
// number and the octets.
func nextEntry(in []byte) (e Entry, rest []byte, err error) {
	if len(in) >= shortEntry && in[0] == der.TagSequence && in[2] == der.TagInteger && in[3] == maxSerialOctets && (in[1] == shortEntry-2 || in[1] == longEntry-2 && len(in) >= longEntry) {
		n := int(in[1]) + 2
		return Entry{Serial: in[4:24:24], Raw: in[:n:n]}, in[n:], nil
	}
	seq, rest, err := der.Take(in, der.TagSequence)
	if err != nil {
		return e, nil, err
	}
	serial, _, err := der.Take(seq.Content, der.TagInteger)
	e.Serial, e.Raw = serial.Content, seq.Raw
	return e, rest, err
}

type extension struct {
	oid      der.OID
	critical bool
	value    []byte
}

func readExtension(in []byte) (x extension, rest []byte, err error) {
	seq, rest, err := der.Take(in, der.TagSequence)
	if err != nil {
		return x, nil, malformed(err, "It has an extension that is not a sequence.")
	}
	id, body, err := der.Take(seq.Content, der.TagOID)
	if err != nil {
		return x, nil, malformed(err, "It has an extension without an identifier.")
	}
	if x.oid, err = id.OID(); err != nil {
		return x, nil, malformed(err, "It has an extension without an identifier.")
	}
	if len(body) > 0 && body[0] == der.TagBoolean {
		var b der.Element
		if b, body, err = der.Next(body); err != nil {
			return x, nil, malformed(err, "It has an extension that ends early.")
		}
		if x.critical, err = b.Bool(); err != nil || !x.critical {
			return x, nil, malformed(err, "It has an extension with the default written out.")
		}
	}
	v, err := der.Only(body, der.TagOctetString)
	if err != nil {
		return x, nil, malformed(err, "It has an extension without a value.")
	}
	x.value = v.Content
	return x, rest, nil
}

func (l *List) parseExtensions(in []byte) error {
	seq, err := der.Only(in, der.TagSequence)
	if err != nil {
		return malformed(err, "Its extensions are not a sequence.")
	}
	seen := map[der.OID]bool{}
	for in := seq.Content; len(in) > 0; {
		x, rest, err := readExtension(in)
		if err != nil {
			return err
		}
		in = rest
		if seen[x.oid] {
			return malformed(nil, "It has the extension %s twice.", x.oid)
		}
		seen[x.oid] = true
		switch x.oid {
		case oidCRLNumber:
			n, err := der.Only(x.value, der.TagInteger)
			if err != nil {
				return malformed(err, "Its number is not a number.")
			}
			if l.Number, err = n.Int(); err != nil || l.Number < 0 {
				return malformed(err, "Its number is negative or beyond 63 bits.")
			}
		case oidAKI:
			if err := l.parseAKI(x.value); err != nil {
				return err
			}
		case oidIDP:
			if !x.critical {
				return malformed(nil, "Its issuing distribution point is not critical.")
			}
			if err := l.parseIDP(x.value); err != nil {
				return err
			}
		case oidDelta:
			n, err := der.Only(x.value, der.TagInteger)
			if err != nil || !x.critical {
				return malformed(err, "Its delta indicator is not a critical number.")
			}
			if l.Base, err = n.Int(); err != nil || l.Base < 1 {
				return malformed(err, "Its base is not a positive number.")
			}
		case oidFreshest:
			if l.Freshest, err = freshest(x.value); err != nil {
				return err
			}
		default:
			if x.critical {
				return malformed(nil, "It has the unknown critical extension %s.", x.oid)
			}
		}
	}
	if !seen[oidCRLNumber] || len(l.KeyID) == 0 {
		return malformed(nil, "It lacks a CRL number or an authority key identifier.")
	}
	return nil
}

func (l *List) parseAKI(in []byte) error {
	seq, err := der.Only(in, der.TagSequence)
	if err != nil {
		return malformed(err, "Its authority key identifier is malformed.")
	}
	for in := seq.Content; len(in) > 0; {
		e, rest, err := der.Next(in)
		if err != nil {
			return malformed(err, "Its authority key identifier is malformed.")
		}
		if e.Tag == der.Context(0) {
			l.KeyID = e.Content
		}
		in = rest
	}
	return nil
}

// parseIDP takes a distribution point with one URI and no narrowing by reason or
// kind of certificate, which none of our lists has.
func (l *List) parseIDP(in []byte) error {
	seq, err := der.Only(in, der.TagSequence)
	if err != nil {
		return malformed(err, "Its issuing distribution point is malformed.")
	}
	e := seq
	content := seq.Content
	for _, tag := range [...]byte{der.ContextConstructed(0), der.ContextConstructed(0), der.Context(6)} {
		if e, err = der.Only(content, tag); err != nil {
			return malformed(err, "Its issuing distribution point is not one URL.")
		}
		content = e.Content
	}
	if l.URL = string(content); l.URL == "" || !der.IsIA5(l.URL) {
		return malformed(nil, "Its issuing distribution point is not one URL.")
	}
	return nil
}

// Each calls f for every entry in order.
func (l *List) Each(f func(Entry) error) error {
	for in := l.Entries; len(in) > 0; {
		e, rest, err := readEntry(in)
		if err != nil {
			return err
		}
		if err := f(e); err != nil {
			return err
		}
		in = rest
	}
	return nil
}

var signatureAlgorithms = map[der.OID]x509.SignatureAlgorithm{
	der.MustOID("1.2.840.113549.1.1.11"): x509.SHA256WithRSA,
	der.MustOID("1.2.840.113549.1.1.12"): x509.SHA384WithRSA,
	der.MustOID("1.2.840.113549.1.1.13"): x509.SHA512WithRSA,
	der.MustOID("1.2.840.10045.4.3.2"):   x509.ECDSAWithSHA256,
	der.MustOID("1.2.840.10045.4.3.3"):   x509.ECDSAWithSHA384,
	der.MustOID("1.2.840.10045.4.3.4"):   x509.ECDSAWithSHA512,
	der.MustOID("1.3.101.112"):           x509.PureEd25519,
}

// Verify proves that an authority signed the list.
func (l *List) Verify(issuer *x509.Certificate) error {
	if !bytes.Equal(l.Issuer, issuer.RawSubject) {
		return ErrListUntrusted.New("It names another issuer.")
	}
	if !bytes.Equal(l.KeyID, issuer.SubjectKeyId) {
		return ErrListUntrusted.New("It names another key of the issuer.")
	}
	if issuer.KeyUsage&x509.KeyUsageCRLSign == 0 {
		return ErrListUntrusted.New("The authority's certificate is not for signing lists.")
	}
	seq, err := der.Only(l.SigAlg, der.TagSequence)
	if err != nil {
		return malformed(err, "Its signature algorithm is malformed.")
	}
	id, _, err := der.Take(seq.Content, der.TagOID)
	if err != nil {
		return malformed(err, "Its signature algorithm is malformed.")
	}
	oid, err := id.OID()
	if err != nil {
		return malformed(err, "Its signature algorithm is malformed.")
	}
	alg, ok := signatureAlgorithms[oid]
	if !ok {
		return ErrListUntrusted.New("The signature algorithm %s is not taken.", oid)
	}
	if err := issuer.CheckSignature(alg, l.TBS, l.Signature); err != nil {
		return ErrListUntrusted.Wrap(err, "")
	}
	return nil
}

// listURL is where an authority's shard is published.
func listURL(base string, shard int) string { return profile.ListURL(base, shard) }
