package uplink

import (
	"crypto/rand"
	"crypto/sha256"
	"io"
	"log/slog"
	"strconv"
	"strings"
)

// Code is the secret of an enrolment string. It shows itself to nobody.
type Code [16]byte

// String, LogValue and MarshalJSON keep the code out of logs and answers.
func (Code) String() string { return "[code]" }

// LogValue is String.
func (c Code) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalJSON is String.
func (c Code) MarshalJSON() ([]byte, error) { return []byte(`"[code]"`), nil }

const (
	codePrefix  = "HMK1"
	codeGroup   = 5
	codeChars   = 80 // 16 of code, 32 of root hash, 2 of check: 400 bits
	codePayload = 16 + 32
	codeCheck   = 2

	// Crockford's alphabet: no I, L, O or U, so that what is read aloud or
	// from paper has one spelling.
	codeAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
)

// NewCode draws the one-time code of a station (S14) and writes it, with the
// hash of the root's SubjectPublicKeyInfo, as the string for the station's
// installer. random is nil for crypto/rand; a source that fails is the end of
// the program, as with crypto/rand.
func NewCode(random io.Reader, rootSPKIHash [32]byte) (text string, code Code) {
	if random == nil {
		random = rand.Reader
	}
	if _, err := io.ReadFull(random, code[:]); err != nil {
		panic("uplink: no randomness: " + err.Error())
	}
	return formatCode(code, rootSPKIHash), code
}

func formatCode(code Code, rootSPKIHash [32]byte) string {
	payload := append(append(make([]byte, 0, codePayload+codeCheck), code[:]...), rootSPKIHash[:]...)
	payload = append(payload, checkOctets(payload)...)
	var b strings.Builder
	b.WriteString(codePrefix)
	for i := range codeChars {
		if i%codeGroup == 0 {
			b.WriteByte('-')
		}
		b.WriteByte(codeAlphabet[fiveBits(payload, i)])
	}
	return b.String()
}

// fiveBits is the i-th group of five bits of b.
func fiveBits(b []byte, i int) byte {
	at := i * 5
	v := uint16(b[at/8]) << 8
	if at/8+1 < len(b) {
		v |= uint16(b[at/8+1])
	}
	return byte(v>>(11-at%8)) & 31
}

func checkOctets(payload []byte) []byte {
	h := sha256.New()
	h.Write([]byte(codePrefix))
	h.Write(payload)
	return h.Sum(nil)[:codeCheck]
}

// ParseCode reads an enrolment string as people type it: either case, with or
// without hyphens and spaces, O for 0 and I or L for 1. Its fault says where
// the mistake is and never repeats the code.
func ParseCode(text string) (code Code, rootSPKIHash [32]byte, err error) {
	if len(text) > 1024 {
		return code, rootSPKIHash, ErrCode.New("It is far too long.")
	}
	clean := strings.ToUpper(strings.Map(func(r rune) rune {
		switch r {
		case '-', ' ', '\t', '\r', '\n', '\u2010', '\u2011', '\u2013', '\u00a0': // hyphens and spaces of word processors
			return -1
		}
		return r
	}, text))
	rest, ok := strings.CutPrefix(clean, codePrefix)
	if !ok {
		return code, rootSPKIHash, ErrCode.New("It does not begin with %s.", codePrefix)
	}
	var values [codeChars]byte
	n := 0
	for _, r := range rest {
		switch r {
		case 'O':
			r = '0'
		case 'I', 'L':
			r = '1'
		}
		v := -1
		if r < 128 {
			v = strings.IndexByte(codeAlphabet, byte(r))
		}
		if v < 0 {
			return code, rootSPKIHash, ErrCode.New("Character %d of group %d is none that occurs in it.", n%codeGroup+1, n/codeGroup+1)
		}
		if n < codeChars {
			values[n] = byte(v)
		}
		n++
	}
	if n != codeChars {
		return code, rootSPKIHash, ErrCode.New("It has %d characters after %s, not %d.", n, codePrefix, codeChars)
	}
	payload, ok := decodeCode(&values)
	if !ok {
		return code, rootSPKIHash, ErrCode.New("%s", whereWrong(values))
	}
	copy(code[:], payload[:16])
	copy(rootSPKIHash[:], payload[16:])
	return code, rootSPKIHash, nil
}

func decodeCode(values *[codeChars]byte) (payload [codePayload]byte, ok bool) {
	var b [codePayload + codeCheck]byte
	for i, v := range values {
		at := i * 5
		w := uint16(v) << (11 - at%8)
		b[at/8] |= byte(w >> 8)
		if at/8+1 < len(b) {
			b[at/8+1] |= byte(w)
		}
	}
	copy(payload[:], b[:])
	check := checkOctets(payload[:])
	return payload, check[0] == b[codePayload] && check[1] == b[codePayload+1]
}

// whereWrong looks for the one wrong or two swapped characters that would make
// the check right. The check has 16 bits, so one attempt in twenty-five also
// finds a place that is innocent; then it names both, or the wrong one.
func whereWrong(values [codeChars]byte) string {
	groups := map[int]bool{}
	try := func(v [codeChars]byte, at int) {
		if _, ok := decodeCode(&v); ok {
			groups[at/codeGroup+1] = true
		}
	}
	for i := range values {
		for d := byte(1); d < 32; d++ {
			v := values
			v[i] ^= d
			try(v, i)
		}
		if i > 0 && values[i] != values[i-1] {
			v := values
			v[i], v[i-1] = v[i-1], v[i]
			try(v, i)
		}
	}
	switch {
	case len(groups) == 0:
		return "Its check characters are wrong; more than one character differs."
	case len(groups) > 2:
		return "Its check characters are wrong."
	}
	s := "Its check characters are wrong; look at group"
	for g := 1; g <= codeChars/codeGroup; g++ {
		if groups[g] {
			s += " " + strconv.Itoa(g)
		}
	}
	return s + "."
}
