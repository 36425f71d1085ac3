package bootstrap

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"time"
)

// A certificate ownership token says that its bearer was given a certificate over
// a connection of a claim certificate: version, end, the certificate's id and an
// HMAC that covers the tenant and the claim certificate too. That it is used once
// is the grant's to say. It has 100 characters, for firmware with small buffers.
//
//	1 version | 8 end, Unix milliseconds | 32 certificate id | 32 HMAC-SHA-256
type tokens struct{ key []byte }

const (
	tokenVersion = 1
	tokenHead    = 1 + 8 + sha256.Size
	tokenSize    = tokenHead + sha256.Size
)

func (t tokens) tag(head []byte, tenant, claim string) []byte {
	h := hmac.New(sha256.New, t.key)
	h.Write([]byte("hallmark certificate ownership v1\x00"))
	var n [8]byte
	for _, s := range []string{tenant, claim} {
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	h.Write(head)
	return h.Sum(nil)
}

// make gives the same token for the same grant, so that a repeat gets the answer
// that was lost.
func (t tokens) make(tenant, claim, certificate string, ends time.Time) string {
	id, err := hex.DecodeString(certificate)
	if err != nil || len(id) != sha256.Size {
		return ""
	}
	b := make([]byte, 1, tokenSize)
	b[0] = tokenVersion
	b = binary.BigEndian.AppendUint64(b, uint64(ends.UnixMilli()))
	b = append(b, id...)
	return base64.RawURLEncoding.EncodeToString(append(b, t.tag(b, tenant, claim)...))
}

// check gives the certificate that a token is for, if it is ours, of this tenant
// and claim certificate, and not too old.
func (t tokens) check(token, tenant, claim string, now time.Time) (certificate string, err error) {
	if token == "" {
		return "", ErrClaimToken.New("Certificate ownership token cannot be empty.")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) != tokenSize || b[0] != tokenVersion {
		return "", ErrClaimToken.New("")
	}
	if !hmac.Equal(b[tokenHead:], t.tag(b[:tokenHead], tenant, claim)) {
		return "", ErrClaimToken.New("")
	}
	if ends := time.UnixMilli(int64(binary.BigEndian.Uint64(b[1:9]))); !now.Before(ends) {
		return "", ErrClaimToken.New("It ended at %s.", ends.UTC().Format(time.RFC3339))
	}
	return hex.EncodeToString(b[9:tokenHead]), nil
}

func newTokens(key []byte) tokens { return tokens{bytes.Clone(key)} }
