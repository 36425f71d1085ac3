package hsm

import (
	"strconv"
	"strings"

	"hallmark/hsm/token"
)

// CheckCAKey refuses a key that a CA must not use (A22): one that can be read,
// that can decrypt, unwrap or derive (each of which turns a signing key into a
// way to read another), or that was not generated on its token. What a token
// does not tell counts against the key. Development lets every key pass; the
// caller logs that.
func CheckCAKey(a Attributes, development bool) error {
	if development {
		return nil
	}
	if a.Scheme == token.SchemeFile {
		return ErrKeyUnsafe.New("It is a file, which can be copied.")
	}
	if err := CheckFirmware(a, false); err != nil {
		return err
	}
	rules := []struct {
		name string
		got  Tri
		want Tri
	}{
		{"sensitive", a.Sensitive, Yes},
		{"always-sensitive", a.AlwaysSensitive, Yes},
		{"extractable", a.Extractable, No},
		{"never-extractable", a.NeverExtractable, Yes},
		{"local", a.Local, Yes},
		{"private", a.Private, Yes},
		{"sign", a.Sign, Yes},
	}
	if a.Scheme == token.SchemePKCS11 {
		// A PIV slot has no usage flags: its commands cannot wrap or unwrap keys,
		// so the confusion that these three prevent does not exist there.
		rules = append(rules, []struct {
			name string
			got  Tri
			want Tri
		}{
			{"decrypt", a.Decrypt, No},
			{"unwrap", a.Unwrap, No},
			{"derive", a.Derive, No},
		}...)
	}
	var bad []string
	for _, r := range rules {
		if r.got != r.want {
			bad = append(bad, r.name+" is "+r.got.String()+", must be "+r.want.String())
		}
	}
	if len(bad) > 0 {
		return ErrKeyUnsafe.New("%s: %s.", a.URI, strings.Join(bad, "; ")).With("attributes", bad)
	}
	return nil
}

// CheckFirmware refuses an EC key on a PIV card of firmware below 5.7.0, whose
// chip leaks ECDSA keys to somebody who holds the card for some minutes (S7,
// A21). The override is explicit and its use belongs into the record.
func CheckFirmware(a Attributes, override bool) error {
	if override || a.Scheme != token.SchemePIV || a.Algorithm.Curve() == nil {
		return nil
	}
	if !firmwareAtLeast(a.Token.Firmware, 5, 7, 0) {
		return ErrKeyUnsafe.New("%s: firmware %q is below 5.7.0 and leaks EC keys; use RSA or a newer card.", a.URI, a.Token.Firmware)
	}
	return nil
}

func firmwareAtLeast(version string, want ...int) bool {
	parts := strings.Split(version, ".")
	if len(parts) != len(want) {
		return false
	}
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil || n < want[i] {
			return false
		}
		if n > want[i] {
			return true
		}
	}
	return true
}
