package token

import (
	"bytes"
	"encoding/hex"
	"path"
	"strconv"
	"strings"

	"hallmark/internal/fault"
)

// Schemes of key URIs. "yubikey:" is read as "piv:".
const (
	SchemePKCS11 = "pkcs11"
	SchemePIV    = "piv"
	SchemeFile   = "file"
)

// maxURI bounds a key URI.
const maxURI = 4096

// URI names a key. Which fields are set depends on the scheme.
type URI struct {
	Scheme string

	// pkcs11: of RFC 7512, Section 2.3. Serial is also used by piv:.
	Token        string
	Manufacturer string
	Model        string
	Serial       string
	Object       string
	ID           []byte
	Type         string // "private", "public", "cert" or empty
	ModulePath   string
	PINValue     Secret // refused in production mode

	// Source of the PIN (pkcs11:, piv:) or passphrase (file:), see [ReadSource].
	PINSource string

	Slot byte   // piv: 0x9a, 0x9c, 0x9d, 0x9e, 0x82-0x95
	Path string // file: absolute and clean
}

// ParseURI reads a key URI strictly: unknown, repeated and empty attributes
// are refused, so that a misspelt one cannot widen the match.
func ParseURI(s string) (URI, error) {
	if len(s) > maxURI {
		return URI{}, ErrURIInvalid.New("It is longer than %d characters.", maxURI)
	}
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		return URI{}, ErrURIInvalid.New("It has no scheme.")
	}
	// RFC 3986, Section 3.1: schemes are case-insensitive.
	switch strings.ToLower(scheme) {
	case SchemePKCS11:
		return parsePKCS11(rest)
	case SchemePIV, "yubikey":
		return parsePIV(rest)
	case SchemeFile:
		return parseFile(rest)
	}
	return URI{}, ErrURIInvalid.New("The scheme is none of pkcs11, piv, file.")
}

func parsePKCS11(s string) (URI, error) {
	u := URI{Scheme: SchemePKCS11}
	pathPart, query, hasQuery := strings.Cut(s, "?")
	err := eachAttribute(pathPart, ";", pathChars, func(name string, v []byte) error {
		switch name {
		case "token":
			u.Token = string(v)
		case "manufacturer":
			u.Manufacturer = string(v)
		case "model":
			u.Model = string(v)
		case "serial":
			u.Serial = string(v)
		case "object":
			u.Object = string(v)
		case "id":
			u.ID = v
		case "type":
			switch string(v) {
			case "private", "public", "cert":
				u.Type = string(v)
			default:
				return ErrURIInvalid.New("The type must be private, public or cert.")
			}
		case "slot-id":
			// Slot numbers change with every start of many modules, so a
			// number can mean another token tomorrow.
			return ErrURIInvalid.New("slot-id is not stable; use token and serial.")
		default:
			return ErrURIInvalid.New("The attribute %q is not known here.", name)
		}
		return nil
	})
	if err != nil {
		return URI{}, err
	}
	if hasQuery {
		err = eachAttribute(query, "&", queryChars, func(name string, v []byte) error {
			switch name {
			case "module-path":
				u.ModulePath = string(v)
				if !path.IsAbs(u.ModulePath) {
					return ErrURIInvalid.New("module-path must be absolute.")
				}
			case "pin-source":
				u.PINSource = string(v)
			case "pin-value":
				u.PINValue = NewSecret(v)
			default:
				return ErrURIInvalid.New("The query attribute %q is not known here.", name)
			}
			return nil
		})
		if err != nil {
			return URI{}, err
		}
	}
	switch {
	case u.Token == "" && u.Serial == "":
		return URI{}, ErrURIInvalid.New("It must name the token by token or serial.")
	case u.PINSource != "" && !u.PINValue.Empty():
		// RFC 7512, Section 2.4: both at once MUST be refused as invalid.
		return URI{}, ErrURIInvalid.New("pin-source and pin-value exclude each other.")
	}
	return u, nil
}

func parsePIV(s string) (URI, error) {
	u := URI{Scheme: SchemePIV}
	pathPart, query, hasQuery := strings.Cut(s, "?")
	err := eachAttribute(pathPart, ";", pathChars, func(name string, v []byte) error {
		switch name {
		case "serial":
			n, err := strconv.ParseUint(string(v), 10, 32)
			if err != nil {
				return ErrURIInvalid.New("The serial of a card is a decimal number.")
			}
			u.Serial = strconv.FormatUint(n, 10)
		case "slot":
			n, err := strconv.ParseUint(string(v), 16, 8)
			if err != nil || !pivSlot(byte(n)) {
				return ErrURIInvalid.New("The slot is one of 9a, 9c, 9d, 9e, 82 to 95.")
			}
			u.Slot = byte(n)
		default:
			return ErrURIInvalid.New("The attribute %q is not known here.", name)
		}
		return nil
	})
	if err != nil {
		return URI{}, err
	}
	if hasQuery {
		err = eachAttribute(query, "&", queryChars, func(name string, v []byte) error {
			if name != "pin-source" {
				return ErrURIInvalid.New("The query attribute %q is not known here.", name)
			}
			u.PINSource = string(v)
			return nil
		})
		if err != nil {
			return URI{}, err
		}
	}
	if u.Serial == "" || u.Slot == 0 {
		return URI{}, ErrURIInvalid.New("It must have serial and slot.")
	}
	return u, nil
}

func pivSlot(b byte) bool {
	return b == 0x9a || b == 0x9c || b == 0x9d || b == 0x9e || b >= 0x82 && b <= 0x95
}

func parseFile(s string) (URI, error) {
	u := URI{Scheme: SchemeFile}
	pathPart, query, hasQuery := strings.Cut(s, "?")
	// RFC 8089, Section 2: an empty authority means this machine.
	pathPart = strings.TrimPrefix(pathPart, "//")
	p, ok := unescape(pathPart, fileChars)
	if !ok || len(p) == 0 || p[0] != '/' || bytes.IndexByte(p, 0) >= 0 {
		return URI{}, ErrURIInvalid.New("A file URI needs an absolute path.")
	}
	u.Path = path.Clean(string(p))
	if hasQuery {
		err := eachAttribute(query, "&", queryChars, func(name string, v []byte) error {
			if name != "passphrase-source" {
				return ErrURIInvalid.New("The query attribute %q is not known here.", name)
			}
			u.PINSource = string(v)
			return nil
		})
		if err != nil {
			return URI{}, err
		}
	}
	return u, nil
}

// RFC 7512, Section 2.3: pk11-res-avail, with what path and query add to it.
const (
	resAvail   = ":[]@!$'()*+,="
	pathChars  = resAvail + "&"
	queryChars = resAvail + "/?|"
	fileChars  = resAvail + "/;&"
)

// eachAttribute calls f for every name=value of s. No name may come twice.
func eachAttribute(s, sep, allowed string, f func(name string, value []byte) error) error {
	if s == "" {
		return nil
	}
	seen := make(map[string]bool)
	for part := range strings.SplitSeq(s, sep) {
		name, raw, ok := strings.Cut(part, "=")
		if !ok || name == "" {
			return ErrURIInvalid.New("An attribute is not name=value.")
		}
		for _, c := range []byte(name) {
			if !(c == '-' || c == '_' || isAlnum(c)) {
				return ErrURIInvalid.New("An attribute name has a character that is not allowed.")
			}
		}
		if seen[name] {
			return ErrURIInvalid.New("The attribute %q comes twice.", name)
		}
		seen[name] = true
		v, ok := unescape(raw, allowed)
		if !ok {
			return ErrURIInvalid.New("The value of %q is not well encoded.", name)
		}
		if len(v) == 0 {
			return ErrURIInvalid.New("The value of %q is empty.", name)
		}
		if name != "id" && bytes.IndexByte(v, 0) >= 0 {
			return ErrURIInvalid.New("The value of %q has a zero byte.", name)
		}
		if err := f(name, v); err != nil {
			return err
		}
	}
	return nil
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func plain(c byte, allowed string) bool {
	return isAlnum(c) || strings.IndexByte("-._~", c) >= 0 || strings.IndexByte(allowed, c) >= 0
}

func unescape(s, allowed string) ([]byte, bool) {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if i+2 >= len(s) {
				return nil, false
			}
			b, err := hex.DecodeString(s[i+1 : i+3])
			if err != nil {
				return nil, false
			}
			out = append(out, b[0])
			i += 2
			continue
		}
		if !plain(c, allowed) {
			return nil, false
		}
		out = append(out, c)
	}
	return out, true
}

func escape(b *strings.Builder, v []byte, allowed string, all bool) {
	const digits = "0123456789ABCDEF"
	for _, c := range v {
		if !all && plain(c, allowed) {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
}

// String writes the URI in one canonical form, with the source of the PIN but
// never a PIN itself.
func (u URI) String() string {
	s := u.Key()
	var b strings.Builder
	add := func(name, v string) {
		if v == "" {
			return
		}
		if b.Len() == 0 {
			b.WriteByte('?')
		} else {
			b.WriteByte('&')
		}
		b.WriteString(name)
		b.WriteByte('=')
		escape(&b, []byte(v), queryChars, false)
	}
	add("module-path", u.ModulePath)
	if u.Scheme == SchemeFile {
		add("passphrase-source", u.PINSource)
	} else {
		add("pin-source", u.PINSource)
	}
	return s + b.String()
}

// Key is the canonical URI without its query: it names the key and tells
// nothing about how to open it. This form goes into logs and records.
func (u URI) Key() string {
	var b strings.Builder
	b.WriteString(u.Scheme)
	b.WriteByte(':')
	switch u.Scheme {
	case SchemeFile:
		escape(&b, []byte(u.Path), "/"+resAvail+"&;", false)
		return b.String()
	case SchemePIV:
		b.WriteString("serial=" + u.Serial + ";slot=" + hex.EncodeToString([]byte{u.Slot}))
		return b.String()
	}
	first := true
	add := func(name string, v []byte, all bool) {
		if len(v) == 0 {
			return
		}
		if !first {
			b.WriteByte(';')
		}
		first = false
		b.WriteString(name)
		b.WriteByte('=')
		escape(&b, v, pathChars, all)
	}
	add("token", []byte(u.Token), false)
	add("manufacturer", []byte(u.Manufacturer), false)
	add("model", []byte(u.Model), false)
	add("serial", []byte(u.Serial), false)
	add("object", []byte(u.Object), false)
	add("id", u.ID, true)
	add("type", []byte(u.Type), false)
	return b.String()
}

// Fault is the fault of err, if it is one of this package's definitions.
func Fault(err error, d *fault.Definition) bool {
	f := fault.From(err)
	return f != nil && f.Definition == d
}
