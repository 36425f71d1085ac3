package der

import (
	"bytes"
	"encoding/asn1"
	"math/big"
	"math/bits"
	"slices"
	"time"
)

// Identifier octets (X.690, Section 8.1.2), with the constructed bit where DER asks for it.
const (
	TagBoolean         = 0x01
	TagInteger         = 0x02
	TagBitString       = 0x03
	TagOctetString     = 0x04
	TagNull            = 0x05
	TagOID             = 0x06
	TagEnumerated      = 0x0a
	TagUTF8String      = 0x0c
	TagPrintableString = 0x13
	TagTeletexString   = 0x14
	TagIA5String       = 0x16
	TagUTCTime         = 0x17
	TagGeneralizedTime = 0x18
	TagVisibleString   = 0x1a
	TagBMPString       = 0x1e
	TagSequence        = 0x30
	TagSet             = 0x31
)

// Context is the identifier octet of the primitive tag [n]; n is below 31.
func Context(n byte) byte { return 0x80 | n }

// ContextConstructed is the identifier octet of the constructed tag [n].
func ContextConstructed(n byte) byte { return 0xa0 | n }

// AppendHeader appends a tag and the shortest form of the length n.
func AppendHeader(dst []byte, tag byte, n int) []byte {
	dst = append(dst, tag)
	if n < 0x80 {
		return append(dst, byte(n))
	}
	k := (bits.Len(uint(n)) + 7) / 8
	dst = append(dst, 0x80|byte(k))
	for k--; k >= 0; k-- {
		dst = append(dst, byte(n>>(8*k)))
	}
	return dst
}

// AppendTLV appends one element whose content is the parts one after another.
func AppendTLV(dst []byte, tag byte, content ...[]byte) []byte {
	n := 0
	for _, c := range content {
		n += len(c)
	}
	dst = AppendHeader(dst, tag, n)
	for _, c := range content {
		dst = append(dst, c...)
	}
	return dst
}

// Begin opens an element whose length is not known yet and returns where its
// content starts, for [End]. Open elements nest and are closed last to first.
func Begin(dst []byte, tag byte) (_ []byte, mark int) {
	dst = append(dst, tag, 0)
	return dst, len(dst)
}

// End closes the element that [Begin] opened. Content of 128 octets and more is
// moved to make room for the long form of its length.
func End(dst []byte, mark int) []byte {
	n := len(dst) - mark
	if n < 0x80 {
		dst[mark-1] = byte(n)
		return dst
	}
	k := (bits.Len(uint(n)) + 7) / 8
	var room [8]byte
	dst = append(dst, room[:k]...)
	copy(dst[mark+k:], dst[mark:mark+n])
	dst[mark-1] = 0x80 | byte(k)
	for i := range k {
		dst[mark+i] = byte(n >> (8 * (k - 1 - i)))
	}
	return dst
}

// Wrap appends an element whose content build appends.
func Wrap(dst []byte, tag byte, build func([]byte) []byte) []byte {
	dst, mark := Begin(dst, tag)
	return End(build(dst), mark)
}

// Sequence is [Wrap] with SEQUENCE.
func Sequence(dst []byte, build func([]byte) []byte) []byte { return Wrap(dst, TagSequence, build) }

// Set is [Wrap] with SET. The elements stay in the order they are written; for
// a SET OF with several members use [AppendSetOf].
func Set(dst []byte, build func([]byte) []byte) []byte { return Wrap(dst, TagSet, build) }

// AppendSetOf appends a SET OF of whole elements, sorted as DER wants
// (X.690, Section 11.6) under the given tag. It sorts elements in place.
func AppendSetOf(dst []byte, tag byte, elements ...[]byte) []byte {
	slices.SortFunc(elements, bytes.Compare)
	return AppendTLV(dst, tag, elements...)
}

// AppendBool appends a BOOLEAN.
func AppendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, TagBoolean, 1, 0xff)
	}
	return append(dst, TagBoolean, 1, 0)
}

// AppendNull appends a NULL.
func AppendNull(dst []byte) []byte { return append(dst, TagNull, 0) }

// AppendInt appends an INTEGER.
func AppendInt(dst []byte, v int64) []byte { return appendInt(dst, TagInteger, v) }

// AppendEnumerated appends an ENUMERATED.
func AppendEnumerated(dst []byte, v int64) []byte { return appendInt(dst, TagEnumerated, v) }

func appendInt(dst []byte, tag byte, v int64) []byte {
	n := 1
	for i := v; i > 127 || i < -128; i >>= 8 {
		n++
	}
	dst = append(dst, tag, byte(n))
	for n--; n >= 0; n-- {
		dst = append(dst, byte(v>>(8*n)))
	}
	return dst
}

// AppendUint appends an INTEGER that is never negative, given big-endian;
// leading zeros are dropped. Serial numbers are written this way.
func AppendUint(dst, v []byte) []byte {
	for len(v) > 0 && v[0] == 0 {
		v = v[1:]
	}
	if len(v) == 0 {
		return append(dst, TagInteger, 1, 0)
	}
	if v[0]&0x80 != 0 {
		dst = AppendHeader(dst, TagInteger, len(v)+1)
		return append(append(dst, 0), v...)
	}
	return AppendTLV(dst, TagInteger, v)
}

// AppendBigInt appends an INTEGER of any size and sign; nil is an INTEGER
// without content.
func AppendBigInt(dst []byte, v *big.Int) []byte {
	switch {
	case v == nil:
		return append(dst, TagInteger, 0)
	case v.Sign() >= 0:
		return AppendUint(dst, v.Bytes())
	}
	// Two's complement of -m is the complement of m-1.
	b := new(big.Int).Not(v).Bytes()
	for i := range b {
		b[i] = ^b[i]
	}
	if len(b) == 0 || b[0]&0x80 == 0 {
		b = append([]byte{0xff}, b...)
	}
	return AppendTLV(dst, TagInteger, b)
}

// AppendBitString appends a BIT STRING of whole octets, as signatures and public keys are.
func AppendBitString(dst []byte, content ...[]byte) []byte {
	n := 1
	for _, c := range content {
		n += len(c)
	}
	dst = append(AppendHeader(dst, TagBitString, n), 0)
	for _, c := range content {
		dst = append(dst, c...)
	}
	return dst
}

// AppendNamedBits appends a BIT STRING with named bits, such as keyUsage: bit i
// of set is named bit i. Trailing zero bits are left out (X.690, Section 11.2.2).
func AppendNamedBits(dst []byte, set uint32) []byte {
	n := bits.Len32(set) // bits in use
	octets := (n + 7) / 8
	dst = append(dst, TagBitString, byte(octets+1), byte(octets*8-n))
	for i := range octets {
		dst = append(dst, bits.Reverse8(byte(set>>(8*i))))
	}
	return dst
}

// AppendOctetString appends an OCTET STRING.
func AppendOctetString(dst []byte, content ...[]byte) []byte {
	return AppendTLV(dst, TagOctetString, content...)
}

// AppendUTF8String appends a UTF8String; the caller knows that s is UTF-8.
func AppendUTF8String(dst []byte, s string) []byte { return appendString(dst, TagUTF8String, s) }

// AppendPrintableString appends a PrintableString; ask [IsPrintable] first.
func AppendPrintableString(dst []byte, s string) []byte {
	return appendString(dst, TagPrintableString, s)
}

// AppendIA5String appends an IA5String; ask [IsIA5] first.
func AppendIA5String(dst []byte, s string) []byte { return appendString(dst, TagIA5String, s) }

// AppendDirectoryString appends s as PrintableString where it fits and as
// UTF8String else, the two forms RFC 5280, Section 4.1.2.4 asks for.
func AppendDirectoryString(dst []byte, s string) []byte {
	if IsPrintable(s) {
		return AppendPrintableString(dst, s)
	}
	return AppendUTF8String(dst, s)
}

func appendString(dst []byte, tag byte, s string) []byte {
	return append(AppendHeader(dst, tag, len(s)), s...)
}

// IsPrintable says whether s has only characters of PrintableString (X.680, Section 41.4).
func IsPrintable(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == ' ', c == '\'', c == '(', c == ')', c == '+', c == ',', c == '-', c == '.', c == '/', c == ':', c == '=', c == '?':
		default:
			return false
		}
	}
	return true
}

// IsIA5 says whether s has only characters of IA5String.
func IsIA5(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// NoExpiry is the notAfter of a certificate with no well-defined end
// (RFC 5280, Section 4.1.2.5).
var NoExpiry = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// AppendUTCOrGeneralizedTime appends t in UTC, cut to seconds: as UTCTime from
// 1950 through 2049, as GeneralizedTime else (RFC 5280, Section 4.1.2.5).
func AppendUTCOrGeneralizedTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	y := t.Year()
	if y < 1950 || y >= 2050 {
		return AppendGeneralizedTime(dst, t)
	}
	dst = append(dst, TagUTCTime, 13)
	return appendClock(appendTwo(dst, y%100), t)
}

// AppendGeneralizedTime appends t as GeneralizedTime in UTC, cut to seconds, as
// OCSP asks for in any year (RFC 6960, Section 4.2.2.1 with RFC 5280, Section 4.1.2.5.2).
func AppendGeneralizedTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	y := t.Year()
	if y < 0 || y > 9999 {
		return append(dst, TagGeneralizedTime, 0)
	}
	dst = append(dst, TagGeneralizedTime, 15)
	return appendClock(appendTwo(appendTwo(dst, y/100), y%100), t)
}

func appendClock(dst []byte, t time.Time) []byte {
	_, month, day := t.Date()
	hour, minute, second := t.Clock()
	dst = appendTwo(appendTwo(dst, int(month)), day)
	dst = appendTwo(appendTwo(appendTwo(dst, hour), minute), second)
	return append(dst, 'Z')
}

func appendTwo(dst []byte, v int) []byte { return append(dst, byte('0'+v/10), byte('0'+v%10)) }

// AppendOID appends an OBJECT IDENTIFIER. For arcs beyond an int (2.25.UUID) and
// for identifiers written often, use [OID].
func AppendOID(dst []byte, oid asn1.ObjectIdentifier) []byte {
	dst, mark := Begin(dst, TagOID)
	if ValidOID(oid) {
		dst = appendArc(dst, uint(oid[0])*40+uint(oid[1]))
		for _, arc := range oid[2:] {
			dst = appendArc(dst, uint(arc))
		}
	}
	return End(dst, mark)
}

// ValidOID says whether oid has a DER form.
func ValidOID(oid asn1.ObjectIdentifier) bool {
	if len(oid) < 2 || oid[0] < 0 || oid[0] > 2 || oid[0] < 2 && oid[1] >= 40 {
		return false
	}
	for _, arc := range oid {
		if arc < 0 {
			return false
		}
	}
	return true
}

func appendArc(dst []byte, arc uint) []byte {
	n := max((bits.Len(arc)+6)/7, 1)
	for n--; n > 0; n-- {
		dst = append(dst, 0x80|byte(arc>>(7*n)))
	}
	return append(dst, byte(arc)&0x7f)
}
