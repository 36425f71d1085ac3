package der

import (
	"time"
	"unicode/utf8"
)

// MaxDepth is enough for every structure of a certificate, request or list;
// nesting beyond it is an attack.
const MaxDepth = 32

// Element is one DER element; its slices point into the input.
type Element struct {
	Tag     byte
	Content []byte
	Raw     []byte // identifier, length and content
}

// Next reads the first element of in and gives back what follows it. Lengths
// are definite, in the shortest form and inside the input; tag numbers are
// below 31.
func Next(in []byte) (e Element, rest []byte, err error) {
	if len(in) < 2 {
		return e, nil, ErrMalformed.New("It ends within an element.")
	}
	tag, n, head := in[0], int(in[1]), 2
	if tag&0x1f == 0x1f || tag == 0 {
		return e, nil, ErrMalformed.New("It has the tag %#02x, which nothing here uses.", tag)
	}
	if n >= 0x80 {
		k := n & 0x7f
		if k == 0 {
			return e, nil, ErrMalformed.New("It has an indefinite length.")
		}
		if k > 4 || len(in) < 2+k {
			return e, nil, ErrMalformed.New("It has a length that goes beyond its end.")
		}
		long := uint64(0)
		for _, b := range in[2 : 2+k] {
			long = long<<8 | uint64(b)
		}
		if long < 0x80 || in[2] == 0 {
			return e, nil, ErrMalformed.New("It has a length that is not in the shortest form.")
		}
		if long > uint64(len(in)) {
			return e, nil, ErrMalformed.New("It has a length that goes beyond its end.")
		}
		n, head = int(long), 2+k
	}
	if n > len(in)-head {
		return e, nil, ErrMalformed.New("It has a length that goes beyond its end.")
	}
	return Element{Tag: tag, Content: in[head : head+n : head+n], Raw: in[: head+n : head+n]}, in[head+n:], nil
}

// Take is [Next] for an element that must have the given tag.
func Take(in []byte, tag byte) (e Element, rest []byte, err error) {
	e, rest, err = Next(in)
	if err == nil && e.Tag != tag {
		err = ErrMalformed.New("It has the tag %#02x where %#02x belongs.", e.Tag, tag)
	}
	return e, rest, err
}

// Only is [Take] for input that is this one element and nothing after it.
func Only(in []byte, tag byte) (Element, error) {
	e, rest, err := Take(in, tag)
	if err == nil && len(rest) != 0 {
		err = ErrMalformed.New("It has %d octets after its end.", len(rest))
	}
	return e, err
}

// Check walks all elements of in and their constructed content and refuses what
// is not DER: lengths as in [Next], constructed strings, BOOLEAN, INTEGER,
// OBJECT IDENTIFIER and BIT STRING in other than their one form, nesting deeper
// than depth. Content under context tags is only walked where it is constructed.
// The order within a SET OF is not checked: common requesters get it wrong.
func Check(in []byte, depth int) error {
	if depth < 0 {
		return ErrMalformed.New("It is nested too deeply.")
	}
	for len(in) > 0 {
		e, rest, err := Next(in)
		if err != nil {
			return err
		}
		if err := e.check(depth); err != nil {
			return err
		}
		in = rest
	}
	return nil
}

func (e Element) check(depth int) error {
	if e.Tag&0xc0 == 0 { // universal
		constructed := e.Tag&0x20 != 0
		if composite := e.Tag&0x1f == 0x10 || e.Tag&0x1f == 0x11; composite != constructed {
			return ErrMalformed.New("It has the tag %#02x: a string in pieces, or a sequence in one piece.", e.Tag)
		}
	}
	c := e.Content
	ok := true
	switch e.Tag {
	case TagBoolean:
		ok = len(c) == 1 && (c[0] == 0 || c[0] == 0xff)
	case TagInteger, TagEnumerated:
		ok = validIntContent(c)
	case TagNull:
		ok = len(c) == 0
	case TagOID:
		ok = validOIDContent(c)
	case TagBitString:
		ok = validBitsContent(c)
	case TagUTF8String:
		ok = utf8.Valid(c)
	case TagPrintableString:
		ok = IsPrintable(string(c))
	case TagIA5String:
		ok = IsIA5(string(c))
	case TagUTCTime, TagGeneralizedTime:
		_, err := e.Time()
		ok = err == nil
	default:
		if e.Tag&0x20 != 0 {
			return Check(c, depth-1)
		}
	}
	if !ok {
		return ErrMalformed.New("It has a value of tag %#02x that is not in its one form.", e.Tag)
	}
	return nil
}

func validIntContent(c []byte) bool {
	return len(c) == 1 || len(c) > 1 && !(c[0] == 0 && c[1] < 0x80) && !(c[0] == 0xff && c[1] >= 0x80)
}

func validBitsContent(c []byte) bool {
	if len(c) == 0 || c[0] > 7 || len(c) == 1 && c[0] != 0 {
		return false
	}
	return c[len(c)-1]&(1<<c[0]-1) == 0 || len(c) == 1
}

func validOIDContent(c []byte) bool {
	if len(c) == 0 || c[len(c)-1]&0x80 != 0 {
		return false
	}
	start := true // of an arc, where a leading 0x80 would be padding
	for _, b := range c {
		if start && b == 0x80 {
			return false
		}
		start = b&0x80 == 0
	}
	return true
}

// Int is the value of an INTEGER or ENUMERATED that fits 64 bits.
func (e Element) Int() (int64, error) {
	if e.Tag != TagInteger && e.Tag != TagEnumerated || !validIntContent(e.Content) || len(e.Content) > 8 {
		return 0, ErrMalformed.New("It has no small integer where one belongs.")
	}
	v := int64(int8(e.Content[0]))
	for _, b := range e.Content[1:] {
		v = v<<8 | int64(b)
	}
	return v, nil
}

// Bool is the value of a BOOLEAN.
func (e Element) Bool() (bool, error) {
	if e.Tag != TagBoolean || len(e.Content) != 1 || e.Content[0] != 0 && e.Content[0] != 0xff {
		return false, ErrMalformed.New("It has no boolean where one belongs.")
	}
	return e.Content[0] == 0xff, nil
}

// Bits is the content of a BIT STRING of whole octets.
func (e Element) Bits() ([]byte, error) {
	if e.Tag != TagBitString || len(e.Content) == 0 || e.Content[0] != 0 {
		return nil, ErrMalformed.New("It has no bit string of whole octets where one belongs.")
	}
	return e.Content[1:], nil
}

// NamedBits is the reverse of [AppendNamedBits]; bits beyond the 32nd are refused.
func (e Element) NamedBits() (uint32, error) {
	if e.Tag != TagBitString || !validBitsContent(e.Content) || len(e.Content) > 5 {
		return 0, ErrMalformed.New("It has no bit string where one belongs.")
	}
	set := uint32(0)
	for i, b := range e.Content[1:] {
		for j := range 8 {
			if b&(0x80>>j) != 0 {
				set |= 1 << (8*i + j)
			}
		}
	}
	if want := AppendNamedBits(nil, set); string(want[2:]) != string(e.Content) {
		return 0, ErrMalformed.New("It has named bits with zeros at their end.")
	}
	return set, nil
}

// OID is the value of an OBJECT IDENTIFIER.
func (e Element) OID() (OID, error) {
	if e.Tag != TagOID || !validOIDContent(e.Content) {
		return "", ErrMalformed.New("It has no object identifier where one belongs.")
	}
	return OID(e.Content), nil
}

// Time is the value of a UTCTime or GeneralizedTime in the form of RFC 5280:
// seconds present, no fraction, Z (Section 4.1.2.5).
func (e Element) Time() (time.Time, error) {
	form := ""
	switch {
	case e.Tag == TagUTCTime && len(e.Content) == 13:
		form = "060102150405Z"
	case e.Tag == TagGeneralizedTime && len(e.Content) == 15:
		form = "20060102150405Z"
	default:
		return time.Time{}, ErrMalformed.New("It has no time in the form of RFC 5280 where one belongs.")
	}
	t, err := time.Parse(form, string(e.Content))
	if err != nil || t.Format(form) != string(e.Content) {
		return time.Time{}, ErrMalformed.New("It has no time in the form of RFC 5280 where one belongs.")
	}
	if e.Tag == TagUTCTime && t.Year() >= 2050 {
		t = t.AddDate(-100, 0, 0)
	}
	return t, nil
}
