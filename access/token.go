package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

const (
	tokenPrefix = "hmk_" // so that scanners of repositories and logs can find a leaked one
	tokenBytes  = 32
)

// Token is a principal's secret: 256 random bits. It never prints; see [Token.Reveal].
type Token struct{ secret string }

// NewToken draws a token.
func NewToken() Token {
	var b [tokenBytes]byte
	rand.Read(b[:])
	return Token{tokenPrefix + base64.RawURLEncoding.EncodeToString(b[:])}
}

// ParseToken takes a token from outside; false if it does not have the form of one.
func ParseToken(text string) (Token, bool) {
	body, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok || len(body) != base64.RawURLEncoding.EncodedLen(tokenBytes) {
		return Token{}, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	return Token{text}, err == nil && len(b) == tokenBytes
}

// Hash is how a token is stored. A plain hash suffices: there is nothing to
// guess in 256 random bits.
func (t Token) Hash() [32]byte { return sha256.Sum256([]byte(t.secret)) }

// Reveal is the token in clear, to show it once.
func (t Token) Reveal() string { return t.secret }

const redacted = "hmk_(redacted)"

// Format prints a placeholder for every verb.
func (t Token) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// String is a placeholder.
func (t Token) String() string { return redacted }

// LogValue is a placeholder.
func (t Token) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON is a placeholder.
func (t Token) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
