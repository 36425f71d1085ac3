package strictjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"hallmark/internal/fault"
)

// scanner walks one document once. With build it also makes the value.
type scanner struct {
	data      []byte
	pos       int
	values    int
	limits    Limits
	unknownOK bool
	build     bool
	utf8      bool   // the whole document is
	place     []step // where in the document we are, made into a Path only for an error
}

type step struct {
	key   string
	index int
	array bool
}

func (s *scanner) path() Path {
	var p Path
	for _, step := range s.place {
		if step.array {
			p = p.Index(step.index)
		} else {
			p = p.Key(step.key)
		}
	}
	return p
}

func (s *scanner) enter(step step) { s.place = append(s.place, step) }
func (s *scanner) leave()          { s.place = s.place[:len(s.place)-1] }

func newScanner(data []byte, opts []Option) *scanner {
	s := &scanner{data: data, limits: Limits{}.orDefault()}
	for _, o := range opts {
		o(s)
	}
	return s
}

// at is a fault at the current position.
func (s *scanner) at(d *fault.Definition, format string, args ...any) *fault.Fault {
	return s.in(d, s.path(), fmt.Sprintf(format, args...))
}

// in is a fault at the current position about the value at path. Line and
// column are only counted here, because most documents are good.
func (s *scanner) in(d *fault.Definition, path Path, detail string) *fault.Fault {
	before := s.data[:min(s.pos, len(s.data))]
	line := 1 + bytes.Count(before, []byte{'\n'})
	column := 1 + len(before) - (bytes.LastIndexByte(before, '\n') + 1)
	if column <= maxColumn {
		column = 1 + utf8.RuneCount(before[len(before)-column+1:])
	}
	f := d.New("Line %d, column %d, in %s: %s.", line, column, path, detail)
	return f.With("line", line).With("column", column).With("path", string(path))
}

func (s *scanner) document(t reflect.Type) (any, error) {
	if len(s.data) > s.limits.Size {
		return nil, ErrTooLarge.New("It has %d bytes, %d are allowed.", len(s.data), s.limits.Size)
	}
	if bytes.HasPrefix(s.data, []byte("\xef\xbb\xbf")) {
		return nil, s.at(ErrMalformed, "a byte order mark is not allowed")
	}
	s.utf8 = utf8.Valid(s.data)
	v, err := s.value(t, 0)
	if err != nil {
		return nil, err
	}
	if s.space(); s.pos < len(s.data) {
		return nil, s.at(ErrMalformed, "bytes follow the value")
	}
	return v, nil
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return
		}
	}
}

// peek is the next byte after white space, 0 at the end. A NUL in the text is
// no token either, so the two need not be told apart.
func (s *scanner) peek() byte {
	s.space()
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

func (s *scanner) value(t reflect.Type, depth int) (any, error) {
	c := s.peek()
	if s.values++; s.values > s.limits.Values {
		return nil, s.at(ErrLimit, "more than %d values", s.limits.Values)
	}
	switch {
	case c == '{' || c == '[':
		if depth++; depth > s.limits.Depth {
			return nil, s.at(ErrLimit, "nested deeper than %d", s.limits.Depth)
		}
		if c == '{' {
			return s.object(shape(t), depth)
		}
		return s.array(shape(t), depth)
	case c == '"':
		text, err := s.str()
		if err != nil || !s.build {
			return nil, err
		}
		return text.String(), nil
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	case c == 't':
		return true, s.word("true")
	case c == 'f':
		return false, s.word("false")
	case c == 'n':
		return nil, s.word("null")
	}
	return nil, s.unexpected("a value")
}

func (s *scanner) unexpected(want string) error {
	if s.pos >= len(s.data) {
		return s.at(ErrMalformed, "the text ends where %s is expected", want)
	}
	r, size := utf8.DecodeRune(s.data[s.pos:])
	if r == utf8.RuneError && size == 1 {
		return s.at(ErrMalformed, "invalid UTF-8 where %s is expected", want)
	}
	return s.at(ErrMalformed, "%s where %s is expected", strconv.QuoteRuneToASCII(r), want)
}

func (s *scanner) word(w string) error {
	if !bytes.HasPrefix(s.data[s.pos:], []byte(w)) {
		return s.at(ErrMalformed, "want %s", w)
	}
	s.pos += len(w)
	return nil
}

func (s *scanner) object(t reflect.Type, depth int) (any, error) {
	s.pos++
	var (
		made  map[string]any
		seen  map[string]struct{}
		taken fields
		elem  reflect.Type
	)
	if s.build {
		made = map[string]any{}
	} else {
		seen = map[string]struct{}{}
	}
	if t != nil {
		switch t.Kind() {
		case reflect.Struct:
			taken = fieldsOf(t)
		case reflect.Map:
			elem = t.Elem()
		}
	}
	if s.peek() == '}' {
		s.pos++
		return made, nil
	}
	for {
		if s.peek() != '"' {
			return nil, s.unexpected("a member name")
		}
		start := s.pos
		text, err := s.str()
		if err != nil {
			return nil, err
		}
		if len(text.raw) > maxName {
			s.pos = start
			return nil, s.at(ErrLimit, "a member name has more than %d bytes", maxName)
		}
		key := text.String()
		twice := false
		if s.build {
			_, twice = made[key]
		} else {
			_, twice = seen[key]
			seen[key] = struct{}{}
		}
		if twice {
			s.pos = start
			return nil, s.at(ErrDuplicateKey, "the member %s stands twice", Quote(key))
		}
		next := elem
		if taken != nil {
			var ok bool
			if next, ok = taken[key]; !ok && !s.unknownOK {
				s.pos = start
				if near := Nearest(key, taken.names()); near != "" {
					return nil, s.at(ErrUnknownField, "the member %s is not known, perhaps %q was meant", Quote(key), near)
				}
				return nil, s.at(ErrUnknownField, "the member %s is not known", Quote(key))
			} else if !ok && taken.otherCase(key) {
				// encoding/json would fill the field from it.
				s.pos = start
				return nil, s.at(ErrUnknownField, "the member %s differs from a known one by case only", Quote(key))
			}
		}
		if s.peek() != ':' {
			return nil, s.unexpected("a colon")
		}
		s.pos++
		s.enter(step{key: key})
		v, err := s.value(next, depth)
		if err != nil {
			return nil, err
		}
		s.leave()
		if s.build {
			made[key] = v
		}
		switch s.peek() {
		case ',':
			s.pos++
		case '}':
			s.pos++
			return made, nil
		default:
			return nil, s.unexpected("a comma or a closing brace")
		}
	}
}

func (s *scanner) array(t reflect.Type, depth int) (any, error) {
	s.pos++
	var elem reflect.Type
	if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		elem = t.Elem()
	}
	made := []any{}
	if s.peek() == ']' {
		s.pos++
		return made, nil
	}
	for i := 0; ; i++ {
		s.enter(step{index: i, array: true})
		v, err := s.value(elem, depth)
		if err != nil {
			return nil, err
		}
		s.leave()
		if s.build {
			made = append(made, v)
		}
		switch s.peek() {
		case ',':
			s.pos++
		case ']':
			s.pos++
			return made, nil
		default:
			return nil, s.unexpected("a comma or a closing bracket")
		}
	}
}

// number checks the grammar of RFC 8259, Section 6.
func (s *scanner) number() (any, error) {
	start := s.pos
	if s.data[s.pos] == '-' {
		s.pos++
	}
	whole := s.digits()
	if whole == 0 {
		return nil, s.unexpected("a digit")
	}
	if whole > 1 && s.data[s.pos-whole] == '0' {
		s.pos -= whole
		return nil, s.at(ErrMalformed, "a number starts with 0")
	}
	if s.pos < len(s.data) && s.data[s.pos] == '.' {
		s.pos++
		if s.digits() == 0 {
			return nil, s.unexpected("a digit")
		}
	}
	if s.pos < len(s.data) && s.data[s.pos]|0x20 == 'e' {
		s.pos++
		if s.pos < len(s.data) && (s.data[s.pos] == '+' || s.data[s.pos] == '-') {
			s.pos++
		}
		switch n := s.digits(); {
		case n == 0:
			return nil, s.unexpected("a digit")
		case n > maxExponent:
			return nil, s.at(ErrLimit, "a number has an exponent of more than %d digits", maxExponent)
		}
	}
	if s.pos-start > s.limits.Number {
		s.pos = start
		return nil, s.at(ErrLimit, "a number has more than %d characters", s.limits.Number)
	}
	if !s.build {
		return nil, nil
	}
	return json.Number(s.data[start:s.pos]), nil
}

// digits skips digits and counts them, no further than one above the limit.
func (s *scanner) digits() int {
	n := 0
	for s.pos < len(s.data) && s.data[s.pos] >= '0' && s.data[s.pos] <= '9' && n <= s.limits.Number {
		s.pos++
		n++
	}
	return n
}

// text is a string as it stood in the document, between its quotes.
type text struct {
	raw     []byte
	escaped bool
}

// str checks one string and moves behind it.
func (s *scanner) str() (text, error) {
	s.pos++
	start, escaped := s.pos, false
	for {
		s.skipPlain()
		if s.pos >= len(s.data) {
			return text{}, s.at(ErrMalformed, "a string does not end")
		}
		switch c := s.data[s.pos]; {
		case c == '"':
			raw := s.data[start:s.pos]
			s.pos++
			return text{raw, escaped}, nil
		case c == '\\':
			escaped = true
			if err := s.escape(); err != nil {
				return text{}, err
			}
		case c < 0x20:
			return text{}, s.at(ErrMalformed, "a control character stands in a string")
		default:
			r, size := utf8.DecodeRune(s.data[s.pos:])
			if r == utf8.RuneError && size == 1 {
				return text{}, s.at(ErrMalformed, "invalid UTF-8 in a string")
			}
			s.pos += size
		}
	}
}

// skipPlain moves to the next byte of a string that needs thought. Where the
// whole document is known to be UTF-8, bytes above ASCII need none.
func (s *scanner) skipPlain() {
	rest := s.data[s.pos:]
	for i, c := range rest {
		if c == '"' || c == '\\' || c < 0x20 || c >= utf8.RuneSelf && !s.utf8 {
			s.pos += i
			return
		}
	}
	s.pos = len(s.data)
}

func (s *scanner) escape() error {
	if s.pos+1 >= len(s.data) {
		return s.at(ErrMalformed, "a string does not end")
	}
	switch s.data[s.pos+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.pos += 2
		return nil
	case 'u':
		r, ok := unit(s.data[s.pos:])
		if !ok {
			return s.at(ErrMalformed, "an escape needs four hexadecimal digits")
		}
		if !utf16.IsSurrogate(r) {
			s.pos += 6
			return nil
		}
		low, ok := unit(s.data[s.pos+6:])
		if !ok || utf16.DecodeRune(r, low) == utf8.RuneError {
			return s.at(ErrMalformed, "a surrogate stands alone")
		}
		s.pos += 12
		return nil
	}
	return s.at(ErrMalformed, "an escape is not known")
}

// unit reads one UTF-16 code unit in the form \uXXXX.
func unit(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// String is the string that t stands for. It was checked by str.
func (t text) String() string {
	if !t.escaped {
		return string(t.raw)
	}
	out := make([]byte, 0, len(t.raw))
	for i := 0; i < len(t.raw); i++ {
		if t.raw[i] != '\\' {
			out = append(out, t.raw[i])
			continue
		}
		i++
		switch c := t.raw[i]; c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, _ := unit(t.raw[i-1:])
			i += 4
			if utf16.IsSurrogate(r) {
				low, _ := unit(t.raw[i+1:])
				r = utf16.DecodeRune(r, low)
				i += 6
			}
			out = utf8.AppendRune(out, r)
		default:
			out = append(out, c)
		}
	}
	return string(out)
}
