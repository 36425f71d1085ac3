package acme

import (
	"bytes"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

// What is read as a message is what was signed: the parts, encoded again, are the
// input of the signature.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"protected":"eyJhbGciOiJFUzI1NiIsIm5vbmNlIjoiQSIsInVybCI6InUiLCJraWQiOiJrIn0","payload":"","signature":"AA"}`))
	f.Add([]byte(`{"protected":"e30","payload":"e30","signature":"AAAA"}`))
	f.Add([]byte(`{"protected":"e30=","payload":"*","signature":""}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := parse(raw)
		if err != nil {
			return
		}
		_, payload, ok := strings.Cut(string(m.input), ".")
		if !ok || payload != encode(m.payload) || len(m.signature) == 0 {
			t.Errorf("%q is read as %q", raw, m.input)
		}
		if m.JWK != nil {
			readKey(m.JWK)
		}
	})
}

// Whatever passes is of a known format, has a chain, and passes again unchanged.
func FuzzScreen(f *testing.F) {
	for _, v := range []any{map[string]any{"fmt": "step", "attStmt": map[string]any{"x5c": [][]byte{{1}}, "sig": []byte{0x41, 1}}}, map[string]any{"fmt": "tpm", "attStmt": map[string]any{"ver": "2.0", "alg": -257}}, 1} {
		b, err := cbor.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("\xa1\x63fmt\x5b\x80\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, object []byte) {
		payload := []byte(`{"attObj":"` + encode(object) + `"}`)
		format, clean, why := screen(payload)
		if why != "" {
			if clean != nil {
				t.Error("refused, and given on")
			}
			return
		}
		again, same, why := screen(clean)
		if why != "" || again != format || !bytes.Equal(same, clean) {
			t.Errorf("%s %q: %s", again, same, why)
		}
	})
}
