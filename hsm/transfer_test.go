package hsm_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
)

// S6: a key with a spare is made in one token and wrapped into another, and only
// the record of that lets the copies sign for a CA.
func TestReplicate_TheRecordNamesKeyTokensAndWrappingKey_S6(t *testing.T) {
	a, b := hsmtest.SoftHSMLabel(t, "alpha"), hsmtest.SoftHSMLabel(t, "beta")
	k := open(t, hsm.Config{})
	for i, alg := range []hsm.Algorithm{hsm.P256, hsm.P384, hsm.RSA2048} {
		name := "ca" + string(rune('0'+i))
		r, err := k.Replicate(t.Context(), a.URI(name), b.URI(name), alg, "ann", time.Now())
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		if r.Key.Algorithm != alg || r.From.Label != "alpha" || r.To.Label != "beta" || r.From.Serial == r.To.Serial || r.Wrapping.Algorithm != hsm.RSA3072 || !r.Wrapping.Destroyed {
			t.Errorf("record: %+v", r)
		}
		for _, tok := range []hsmtest.Token{a, b} {
			s, err := k.Signer(t.Context(), tok.URI(name))
			if err != nil {
				t.Fatal(err)
			}
			signs(t, s)
			attrs, err := k.Attributes(t.Context(), tok.URI(name))
			if err != nil {
				t.Fatal(err)
			}
			if attrs.Extractable != hsm.No || attrs.Sensitive != hsm.Yes || attrs.Decrypt != hsm.No || attrs.Unwrap != hsm.No {
				t.Errorf("%s in %s: %+v", alg, tok.Label, attrs)
			}
			// Without the record it is a key that was out of its token; with it, it
			// is what the record says; with another's, it is not.
			is(t, hsm.CheckCAKey(attrs, false), hsm.ErrKeyUnsafe)
			if err := hsm.CheckReplicatedKey(attrs, []*hsm.Transfer{r}, false); err != nil {
				t.Error(err)
			}
			attrs.Token.Serial = "another"
			is(t, hsm.CheckReplicatedKey(attrs, []*hsm.Transfer{r}, false), hsm.ErrTransfer)
		}
		if i > 0 {
			continue
		}
		// The copies serve as one key, in production mode with the record only.
		for _, records := range [][]*hsm.Transfer{nil, {r}} {
			ring := open(t, hsm.Config{Production: true, Groups: []hsm.GroupConfig{{Name: "ca", Keys: []string{a.URI(name), b.URI(name)}, Transfers: records}}})
			s, err := ring.CAKey(t.Context(), a.URI(name), false)
			if records == nil {
				is(t, err, hsm.ErrKeyUnsafe)
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			signs(t, s)
			if h := ring.Groups()[0]; h.Serving != 2 || h.SPKI != r.Key.SHA256 {
				t.Errorf("health: %+v", h)
			}
		}
		// Not a second time, and nothing but the key stays in a token.
		_, err = k.Replicate(t.Context(), a.URI(name), b.URI(name), alg, "ann", time.Now())
		is(t, err, hsm.ErrKeyExists)
		for _, tok := range []hsmtest.Token{a, b} {
			if list := p11tool(t, tok, "--list-objects"); strings.Count(list, "Private Key") != 1 || strings.Contains(list, "Secret Key") {
				t.Errorf("%s holds %s", tok.Label, list)
			}
		}
		everyBit(t, r)
	}
	_, err := k.Replicate(t.Context(), a.URI("ed"), b.URI("ed"), hsm.Ed25519, "ann", time.Now())
	is(t, err, hsm.ErrUnsupported)
	_, err = k.Replicate(t.Context(), a.URI("x"), a.URI("y"), hsm.P256, "ann", time.Now())
	is(t, err, hsm.ErrURIInvalid)
}

// everyBit changes the record everywhere: no change may pass.
func everyBit(t *testing.T, r *hsm.Transfer) {
	t.Helper()
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hsm.ReadTransfer(bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(b); i += 7 {
		if b[i] == ' ' || b[i] == '\n' {
			continue
		}
		c := bytes.Clone(b)
		c[i] ^= 1 << (i % 7)
		if got, err := hsm.ReadTransfer(bytes.NewReader(c)); err == nil {
			// Base64 has spare bits, and names of members are without case.
			if x, _ := json.Marshal(got); !bytes.Equal(x, must(t, r)) {
				t.Errorf("octet %d (%q for %q) may be changed", i, c[i], b[i])
			}
		}
	}
}

func must(t *testing.T, r *hsm.Transfer) []byte {
	t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// No text makes the reader fall over, and what it accepts verifies.
func FuzzReadTransfer(f *testing.F) {
	f.Add([]byte(`{"schema":"hallmark key transfer v1","key":{"object":"ca","id":"0a","algorithm":"P-256","spki":"AA==","spki_sha256":""},"from":{"serial":"1"},"to":{"serial":"2"}}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"schema":"a","schema":"b"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := hsm.ReadTransfer(bytes.NewReader(b)); err == nil {
			if err := r.Verify(); err != nil {
				t.Errorf("accepted, and does not verify: %v", err)
			}
		}
	})
}
