package bootstrap

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"hallmark/internal/fault"
)

func TestTokens_AreBoundToEverythingTheySay(t *testing.T) {
	now := time.Now()
	a, b := newTokens(bytes.Repeat([]byte{1}, 32)), newTokens(bytes.Repeat([]byte{2}, 32))
	id := strings.Repeat("ab", 32)
	token := a.make("main", "claim", id, now.Add(time.Hour))
	if got, err := a.check(token, "main", "claim", now); err != nil || got != id || len(token) < 90 {
		t.Fatalf("%q %v", got, err)
	}
	for name, err := range map[string]error{
		"another key":     second(b.check(token, "main", "claim", now)),
		"another tenant":  second(a.check(token, "other", "claim", now)),
		"another claim":   second(a.check(token, "main", "claims", now)),
		"moved boundary":  second(a.check(token, "mainc", "laim", now)),
		"late":            second(a.check(token, "main", "claim", now.Add(time.Hour))),
		"longer":          second(a.check(token+"AA", "main", "claim", now)),
		"shorter":         second(a.check(token[:len(token)-1], "main", "claim", now)),
		"padding":         second(a.check(token+"=", "main", "claim", now)),
		"another version": second(a.check("B"+token[1:], "main", "claim", now)),
		"empty":           second(a.check("", "main", "claim", now)),
	} {
		if fault.From(err).Code != ErrClaimToken.Code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second(_ string, err error) error { return err }

func fuzzDecode(f *testing.F, format Format, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := format.decode(data)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("%x: %v", data, err)
			}
			return
		}
		if _, err := m.text("certificateOwnershipToken"); err != nil && fault.KindOf(err) != fault.Invalid {
			t.Fatal(err)
		}
		p, err := m.texts("parameters")
		if err != nil {
			return
		}
		// What was understood once is understood the same again.
		again, err := format.decode(format.encode(map[string]any{"parameters": p}))
		if err != nil {
			t.Fatalf("%x: %v", data, err)
		}
		q, err := again.texts("parameters")
		if err != nil || len(p) != len(q) {
			t.Fatalf("%x: %v %v %v", data, p, q, err)
		}
		for k, v := range p {
			if q[k] != v {
				t.Fatalf("%x: %q is %q and %q", data, k, v, q[k])
			}
		}
	})
}

func FuzzClaimJSON(f *testing.F) {
	fuzzDecode(f, JSON, "", "{}", "null", "[]", `{"certificateSigningRequest":"x"}`, `{"certificateOwnershipToken":"t","parameters":{"SerialNumber":"1"}}`, `{"parameters":{"a":1}}`, `{"parameters":{"a":"b","a":"c"}}`, strings.Repeat(`{"a":`, 100))
}

func FuzzClaimCBOR(f *testing.F) {
	fuzzDecode(f, CBOR, "", "\xa0", "\xf6", "\x80", "\xa1\x6aparameters\xa1\x61a\x61b", "\xa1\x6aparameters\xa2\x61a\x61b\x61a\x61c", "\xbf\xff", "\xc1\xa0", "\xa1\x61\xff\x01", "\x9b\x7f\xff\xff\xff\xff\xff\xff\xff", "\xa1\xa0\x01", strings.Repeat("\x81", 100))
}
