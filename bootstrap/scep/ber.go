package scep

import "hallmark/internal/der"

const (
	// maxMessage bounds a message: a request of the largest size, encrypted, and
	// the certificate that signed it.
	maxMessage = 48 << 10
	maxDepth   = 24 // CMS in an octet string counts anew
)

// definite rewrites BER as DER as far as CMS needs it: common clients send
// indefinite lengths, and octet strings in pieces (X.690, Sections 8.1.3.6 and
// 8.7.3). What was DER comes out as it went in. Everything after this is read
// strictly.
func definite(in []byte) ([]byte, error) {
	if len(in) > maxMessage {
		return nil, ErrMessage.New("It has more than %d octets.", maxMessage)
	}
	out, rest, err := element(make([]byte, 0, len(in)+16), in, maxDepth)
	if err == nil && len(rest) > 0 {
		err = ErrMessage.New("It has %d octets after its end.", len(rest))
	}
	return out, err
}

// element appends the first element of in.
func element(dst, in []byte, depth int) (_, rest []byte, err error) {
	tag, content, rest, indefinite, err := header(in)
	if err != nil {
		return nil, nil, err
	}
	if depth == 0 {
		return nil, nil, ErrMessage.New("It is nested too deeply.")
	}
	if tag&0x20 == 0 {
		return der.AppendTLV(dst, tag, content), rest, nil
	}
	if tag == der.TagOctetString|0x20 {
		tag = der.TagOctetString
	}
	dst, mark := der.Begin(dst, tag)
	for {
		if indefinite && len(content) >= 2 && content[0] == 0 && content[1] == 0 {
			rest = content[2:]
			break
		}
		if !indefinite && len(content) == 0 {
			break
		}
		if tag == der.TagOctetString {
			dst, content, err = piece(dst, content, depth-1)
		} else {
			dst, content, err = element(dst, content, depth-1)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return der.End(dst, mark), rest, nil
}

// piece appends the octets of a piece of an octet string.
func piece(dst, in []byte, depth int) (_, rest []byte, err error) {
	if len(in) == 0 || in[0]&^0x20 != der.TagOctetString {
		return nil, nil, ErrMessage.New("An octet string has a piece that is none.")
	}
	whole, rest, err := element(nil, in, depth)
	if err != nil {
		return nil, nil, err
	}
	e, err := der.Only(whole, der.TagOctetString)
	if err != nil {
		return nil, nil, ErrMessage.Wrap(err, "")
	}
	return append(dst, e.Content...), rest, nil
}

// header reads tag and length. With an indefinite length content is all that
// follows, and there is no rest.
func header(in []byte) (tag byte, content, rest []byte, indefinite bool, err error) {
	broken := func() (byte, []byte, []byte, bool, error) {
		return 0, nil, nil, false, ErrMessage.New("It ends within an element, or is not ASN.1.")
	}
	if len(in) < 2 || in[0] == 0 || in[0]&0x1f == 0x1f {
		return broken()
	}
	tag, in = in[0], in[1:]
	n := int(in[0])
	in = in[1:]
	switch {
	case n == 0x80 && tag&0x20 != 0:
		return tag, in, nil, true, nil
	case n >= 0x80:
		k := n & 0x7f
		if k == 0 || k > 4 || len(in) < k {
			return broken()
		}
		long := uint64(0)
		for _, b := range in[:k] {
			long = long<<8 | uint64(b)
		}
		if in = in[k:]; long > uint64(len(in)) {
			return broken()
		}
		n = int(long)
	}
	if n > len(in) {
		return broken()
	}
	return tag, in[:n], in[n:], false, nil
}
