package bootstrap

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"time"
)

// ExporterLabel and ExporterLength make the TLS channel binding (RFC 9266,
// Section 2); there is no context value.
const (
	ExporterLabel  = "EXPORTER-Channel-Binding"
	ExporterLength = 32
)

// Exporter is [tls.ConnectionState.ExportKeyingMaterial] of a connection.
type Exporter func(label string, context []byte, length int) ([]byte, error)

// Challenge is the challengePassword of a CSR for this connection (S15).
func (e Exporter) Challenge() (string, error) {
	b, err := e(ExporterLabel, nil, ExporterLength)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(b), nil
}

// Pseudonyms gives [Config.Pseudonym] by a key: 32 hexadecimal digits that only
// who has the key can tie to a device.
func Pseudonyms(key []byte) func(tenant, holder string) string {
	key = bytes.Clone(key)
	return func(tenant, holder string) string {
		h := hmac.New(sha256.New, key)
		h.Write([]byte("hallmark subject pseudonym v1\x00" + strings.ToLower(tenant) + "\x00" + strings.ToLower(holder)))
		return hex.EncodeToString(h.Sum(nil)[:16])
	}
}

// nonceLife is how long a nonce is good; a slow device makes an RSA key in
// that time.
const nonceLife = 10 * time.Minute

// nonces makes nonces that need no memory: the time, sixteen random octets and
// an HMAC over them and the certificate that asked. A nonce may be used again by the same
// certificate in its life; what it protects can be repeated anyway.
type nonces struct{ key []byte }

const (
	nonceHead = 8 + 16
	nonceTag  = 24
)

func (n nonces) tag(head []byte, certificate []byte) []byte {
	h := hmac.New(sha256.New, n.key)
	h.Write([]byte("hallmark bootstrap nonce v1\x00"))
	h.Write(head)
	fingerprint := sha256.Sum256(certificate)
	h.Write(fingerprint[:])
	return h.Sum(nil)[:nonceTag]
}

func (n nonces) make(certificate []byte, now time.Time) (nonce string, expires time.Time) {
	b := make([]byte, nonceHead, nonceHead+nonceTag)
	binary.BigEndian.PutUint64(b, uint64(now.UnixMilli()))
	rand.Read(b[8:])
	return base64.RawURLEncoding.EncodeToString(append(b, n.tag(b, certificate)...)), now.Add(nonceLife)
}

func (n nonces) check(nonce string, certificate []byte, now time.Time) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(nonce)
	if err != nil || len(b) != nonceHead+nonceTag {
		return false
	}
	made := time.UnixMilli(int64(binary.BigEndian.Uint64(b)))
	return hmac.Equal(b[nonceHead:], n.tag(b[:nonceHead], certificate)) && !now.Before(made) && now.Before(made.Add(nonceLife))
}

// bound tells how a CSR's challenge ties its key to the certificate that asks.
func (n nonces) bound(challenge string, e Exporter, certificate []byte, now time.Time) (proven bool, err error) {
	if challenge == "" {
		return false, nil // the key has to prove itself by a connection
	}
	if e != nil {
		if want, err := e.Challenge(); err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(challenge)) == 1 {
			return true, nil
		}
	}
	if n.check(challenge, certificate, now) {
		return true, nil
	}
	// A wrong binding is worse than none: somebody may relay the request.
	return false, ErrBinding.New("")
}
