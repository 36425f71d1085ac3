package der

import (
	"math/big"
	"strings"
)

// OID is an object identifier as its content octets: comparable, usable as a
// map key, written without work, and with arcs of any size, as the UUID arc
// 2.25 needs (X.667, Section 8).
type OID string

// maxOIDText bounds what [ParseOID] turns into big numbers.
const maxOIDText = 512

// ParseOID reads the dotted form.
func ParseOID(dotted string) (OID, error) {
	if len(dotted) > maxOIDText {
		return "", ErrMalformed.New("An object identifier may have %d characters.", maxOIDText)
	}
	parts := strings.Split(dotted, ".")
	if len(parts) < 2 {
		return "", ErrMalformed.New("%q is not an object identifier.", dotted)
	}
	arcs := make([]*big.Int, len(parts))
	for i, p := range parts {
		if p == "" || len(p) > 1 && p[0] == '0' || strings.Trim(p, "0123456789") != "" {
			return "", ErrMalformed.New("%q is not an object identifier.", dotted)
		}
		arcs[i], _ = new(big.Int).SetString(p, 10)
	}
	root := arcs[0].Int64()
	if !arcs[0].IsInt64() || root > 2 || root < 2 && arcs[1].Cmp(big.NewInt(40)) >= 0 {
		return "", ErrMalformed.New("%q is not an object identifier.", dotted)
	}
	arcs[1].Add(arcs[1], big.NewInt(root*40))
	var out []byte
	for _, arc := range arcs[1:] {
		n := max((arc.BitLen()+6)/7, 1)
		for n--; n >= 0; n-- {
			low := byte(new(big.Int).And(new(big.Int).Rsh(arc, uint(7*n)), big.NewInt(0x7f)).Uint64())
			if n > 0 {
				low |= 0x80
			}
			out = append(out, low)
		}
	}
	return OID(out), nil
}

// MustOID is [ParseOID] for identifiers written in the source; it panics where
// the program text is wrong, never on input.
func MustOID(dotted string) OID {
	o, err := ParseOID(dotted)
	if err != nil {
		panic(err)
	}
	return o
}

// Append appends the OBJECT IDENTIFIER.
func (o OID) Append(dst []byte) []byte { return appendString(dst, TagOID, string(o)) }

// String is the dotted form, or "invalid" where the content is none.
func (o OID) String() string {
	if !validOIDContent([]byte(o)) {
		return "invalid"
	}
	var b strings.Builder
	arc, first := new(big.Int), true
	for i := range len(o) {
		arc.Lsh(arc, 7).Or(arc, big.NewInt(int64(o[i]&0x7f)))
		if o[i]&0x80 != 0 {
			continue
		}
		if first {
			root := min(new(big.Int).Div(arc, big.NewInt(40)).Uint64(), 2)
			if !arc.IsUint64() {
				root = 2
			}
			arc.Sub(arc, new(big.Int).SetUint64(root*40))
			b.WriteByte(byte('0' + root))
			first = false
		}
		b.WriteByte('.')
		b.WriteString(arc.String())
		arc.SetInt64(0)
	}
	return b.String()
}
