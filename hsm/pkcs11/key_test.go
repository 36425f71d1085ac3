//go:build cgo

package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"encoding/asn1"
	"math/big"
	"testing"

	p11 "github.com/miekg/pkcs11"
)

// The naive twin is encoding/asn1.
func FuzzDERSignature(f *testing.F) {
	f.Add(make([]byte, 64))
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	f.Add(bytes.Repeat([]byte{0xff}, 132))
	f.Add(append(make([]byte, 31), bytes.Repeat([]byte{0x80}, 65)...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		n := min(len(raw)/2, 66)
		if n == 0 {
			return
		}
		r, s := raw[:n], raw[n:2*n]
		want, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)})
		if err != nil {
			t.Fatal(err)
		}
		if got := derSignature(r, s); !bytes.Equal(got, want) {
			t.Fatalf("got %x, want %x", got, want)
		}
	})
}

func TestDigestInfo_IsTheOneOfRFC8017(t *testing.T) {
	// RFC 8017, Section 9.2, note 1.
	for h, want := range map[crypto.Hash]string{
		crypto.SHA256: "\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20",
		crypto.SHA384: "\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30",
		crypto.SHA512: "\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40",
	} {
		if got := string(digestInfos[h]); got != want {
			t.Errorf("%v: %x", h, got)
		}
	}
}

func TestParsePoint_AcceptsBareAndWrappedPoints(t *testing.T) {
	params, _ := asn1.Marshal(oidP256)
	c := elliptic.P256().Params()
	bare := append([]byte{4}, append(c.Gx.FillBytes(make([]byte, 32)), c.Gy.FillBytes(make([]byte, 32))...)...)
	wrapped, _ := asn1.Marshal(bare)
	for _, p := range [][]byte{bare, wrapped} {
		pub, err := parsePoint(params, p)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := pub.Bytes(); err != nil || !bytes.Equal(got, bare) {
			t.Errorf("%x, %v", got, err)
		}
	}
	bad := bytes.Clone(bare)
	bad[64]++
	for _, p := range [][]byte{bad, nil, {4}, bare[:64]} {
		if _, err := parsePoint(params, p); err == nil {
			t.Errorf("%x was accepted", p)
		}
	}
}

func TestClassify_KnowsWhatEachCodeMeans(t *testing.T) {
	for code, want := range map[uint]class{
		p11.CKR_DATA_LEN_RANGE: classCaller, p11.CKR_MECHANISM_INVALID: classCaller,
		p11.CKR_SESSION_HANDLE_INVALID: classSession, p11.CKR_OPERATION_ACTIVE: classSession,
		p11.CKR_USER_NOT_LOGGED_IN: classLogin, p11.CKR_OBJECT_HANDLE_INVALID: classLogin,
		p11.CKR_DEVICE_ERROR: classToken, p11.CKR_TOKEN_NOT_PRESENT: classToken,
		p11.CKR_GENERAL_ERROR: classDoubtful, p11.CKR_FUNCTION_FAILED: classDoubtful,
		p11.CKR_PIN_INCORRECT: classPIN, p11.CKR_PIN_LOCKED: classPIN,
	} {
		if got := classify(lostError{p11.Error(code)}); got != want {
			t.Errorf("%s: %d, want %d", codeName(p11.Error(code)), got, want)
		}
	}
}
