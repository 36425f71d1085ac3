package hook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The headers of a signed request and its reply.
const (
	HeaderKeyID          = "Hallmark-Hook-Key-Id"
	HeaderTime           = "Hallmark-Hook-Time"
	HeaderRequestID      = "Hallmark-Hook-Request-Id"
	HeaderSignature      = "Hallmark-Hook-Signature"
	HeaderReplySignature = "Hallmark-Hook-Reply-Signature"
)

// Window is how far the clocks of service and hook may be apart.
const Window = 5 * time.Minute

const minKey = 32 // bytes; RFC 2104, Section 3 discourages keys shorter than the hash

// Key is the secret half of a [Secret]. It is shown nowhere.
type Key []byte

const redacted = "[redacted]"

// String hides the key.
func (Key) String() string { return redacted }

// GoString hides the key.
func (Key) GoString() string { return redacted }

// Format hides the key from every verb, %x included.
func (Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue hides the key.
func (Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON hides the key.
func (Key) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText hides the key.
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Secret is one shared secret of a hook and its name.
type Secret struct {
	KeyID string // 1 to 64 of a-z A-Z 0-9 . _ -
	Key   Key    // at least 32 bytes
}

func (s Secret) check() error {
	switch {
	case !word(s.KeyID):
		return ErrConfig.New("A key id has 1 to 64 of a-z A-Z 0-9 . _ -.")
	case len(s.Key) < minKey:
		return ErrConfig.New("The key %s has fewer than %d bytes.", s.KeyID, minKey)
	}
	return nil
}

func word(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("._-", rune(c)) {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// mac is the HMAC over lines. No line can hold a line feed: key ids, times
// and request ids are checked, a parsed URL has none, the body is hashed.
func (s Secret) mac(lines ...string) string {
	h := hmac.New(sha256.New, s.Key)
	h.Write([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(h.Sum(nil))
}

func digest(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

func (s Secret) requestMAC(at, id, url string, body []byte) string {
	return s.mac("hallmark-hook-request-v1", s.KeyID, at, id, url, digest(body))
}

func (s Secret) replyMAC(id string, body []byte) string {
	return s.mac("hallmark-hook-reply-v1", id, digest(body))
}

// sign puts the four headers of a request.
func (s Secret) sign(h http.Header, id, url string, body []byte, now time.Time) {
	at := strconv.FormatInt(now.Unix(), 10)
	h.Set(HeaderKeyID, s.KeyID)
	h.Set(HeaderTime, at)
	h.Set(HeaderRequestID, id)
	h.Set(HeaderSignature, s.requestMAC(at, id, url, body))
}

// Verify is for those who write hooks: it checks a request that came to url
// and gives its request id. The URL is the one the service was configured
// with, not one taken from the request. Refuse the request when it fails.
func Verify(header http.Header, url string, body []byte, secrets []Secret, now time.Time) (requestID string, err error) {
	var values [4]string
	for i, name := range []string{HeaderKeyID, HeaderTime, HeaderRequestID, HeaderSignature} {
		if len(header.Values(name)) != 1 {
			return "", ErrRequest.New("The header %s must stand there once.", name)
		}
		values[i] = header.Get(name)
	}
	keyID, at, id, signature := values[0], values[1], values[2], values[3]
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil || strconv.FormatInt(seconds, 10) != at {
		return "", ErrRequest.New("The time is no number of seconds.")
	}
	if skew := now.Sub(time.Unix(seconds, 0)); skew > Window || skew < -Window {
		return "", ErrRequest.New("The request is from another time.")
	}
	if !word(id) || strings.ContainsAny(url, "\r\n") {
		return "", ErrRequest.New("The request id or the URL is not acceptable.")
	}
	for _, s := range secrets {
		if s.check() == nil && s.KeyID == keyID && hmac.Equal([]byte(s.requestMAC(at, id, url, body)), []byte(signature)) {
			return id, nil
		}
	}
	return "", ErrRequest.New("No secret of ours made the signature.")
}

// SignReply is for those who write hooks: it puts the reply's header. The
// body must go out as it is given here, byte for byte.
func SignReply(header http.Header, requestID string, body []byte, secret Secret) {
	header.Set(HeaderReplySignature, secret.replyMAC(requestID, body))
}
