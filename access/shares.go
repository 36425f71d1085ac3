package access

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"hallmark/internal/fault"
)

const (
	keyPrefix   = "hallmark-break-glass-key:"
	sharePrefix = "hallmark-break-glass-share"
)

// BreakGlassKey is the public half of a break-glass key, as the configuration has it.
type BreakGlassKey struct{ public ed25519.PublicKey }

// IsZero tells whether there is none.
func (k BreakGlassKey) IsZero() bool { return len(k.public) == 0 }

// ID names the key.
func (k BreakGlassKey) ID() string {
	sum := sha256.Sum256(append([]byte("hallmark break-glass key\x00"), k.public...))
	return hex.EncodeToString(sum[:8])
}

// String is the form for the configuration.
func (k BreakGlassKey) String() string {
	if k.IsZero() {
		return ""
	}
	return keyPrefix + base64.RawURLEncoding.EncodeToString(k.public)
}

// ParseBreakGlassKey reads that form; "" is no key.
func ParseBreakGlassKey(text string) (BreakGlassKey, error) {
	if text == "" {
		return BreakGlassKey{}, nil
	}
	body, ok := strings.CutPrefix(text, keyPrefix)
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if !ok || err != nil || len(b) != ed25519.PublicKeySize {
		return BreakGlassKey{}, errors.New("it is not a key that hallmark breakglass create printed")
	}
	return BreakGlassKey{ed25519.PublicKey(b)}, nil
}

// Share is one of the two halves of a break-glass key. One alone says nothing about
// the key: it is the key's seed, laid over the other half. It never prints; see
// [Share.Reveal].
type Share struct {
	Letter string // a or b
	KeyID  string
	secret [ed25519.SeedSize]byte
}

// NewBreakGlassKey makes a key in two shares. The key itself is nowhere.
func NewBreakGlassKey() (key BreakGlassKey, a, b Share) {
	seed := randomOctets(ed25519.SeedSize)
	key = BreakGlassKey{ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)}
	a, b = Share{Letter: "a", KeyID: key.ID()}, Share{Letter: "b", KeyID: key.ID()}
	rand.Read(a.secret[:])
	for i := range seed {
		b.secret[i] = seed[i] ^ a.secret[i]
		seed[i] = 0
	}
	return key, a, b
}

func (s Share) check() string {
	sum := sha256.Sum256([]byte(sharePrefix + s.Letter + s.KeyID + hex.EncodeToString(s.secret[:])))
	return hex.EncodeToString(sum[:4])
}

// Reveal is the share in clear, to be written down: letter, key, secret, and a check
// against mistakes of the hand.
func (s Share) Reveal() string {
	return strings.Join([]string{sharePrefix, s.Letter, s.KeyID, hex.EncodeToString(s.secret[:]), s.check()}, ":")
}

// ParseShare reads what [Share.Reveal] wrote; blanks and line ends around and in it do
// not count.
func ParseShare(text string) (s Share, err error) {
	parts := strings.Split(strings.ToLower(strings.Join(strings.Fields(text), "")), ":")
	if len(parts) != 5 || parts[0] != sharePrefix {
		return s, ErrShare.New("It does not have five parts.")
	}
	s.Letter, s.KeyID = parts[1], parts[2]
	b, err := hex.DecodeString(parts[3])
	if err != nil || len(b) != len(s.secret) || len(s.KeyID) != 16 || s.Letter != "a" && s.Letter != "b" {
		return Share{}, ErrShare.New("A part of it does not have its length.")
	}
	copy(s.secret[:], b)
	if s.check() != parts[4] {
		return Share{}, ErrShare.New("Share %s has a mistake: its check does not fit.", s.Letter)
	}
	return s, nil
}

// CombineShares makes the key of its two shares. A share of another key, or the same
// one twice, is refused.
func CombineShares(shares ...Share) (ed25519.PrivateKey, error) {
	if len(shares) != 2 || shares[0].Letter == shares[1].Letter {
		return nil, ErrShares.New("It takes share a and share b, and no other.")
	}
	a, b := shares[0], shares[1]
	if a.KeyID != b.KeyID {
		return nil, ErrShares.New("One is of the key %.16s, the other of %.16s.", a.KeyID, b.KeyID)
	}
	seed := make([]byte, ed25519.SeedSize)
	for i := range seed {
		seed[i] = a.secret[i] ^ b.secret[i]
	}
	key := ed25519.NewKeyFromSeed(seed)
	clear(seed)
	if (BreakGlassKey{key.Public().(ed25519.PublicKey)}).ID() != a.KeyID {
		return nil, ErrShares.New("Together they are not the key %.16s.", a.KeyID)
	}
	return key, nil
}

const redactedShare = "(redacted share)"

// Format prints a placeholder for every verb.
func (s Share) Format(f fmt.State, _ rune) { io.WriteString(f, redactedShare) }

// String is a placeholder.
func (s Share) String() string { return redactedShare }

// LogValue is a placeholder.
func (s Share) LogValue() slog.Value { return slog.StringValue(redactedShare) }

// MarshalJSON is a placeholder.
func (s Share) MarshalJSON() ([]byte, error) { return []byte(`"` + redactedShare + `"`), nil }

func randomOctets(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func codeOf(err error) string { return fault.From(err).Code }

// cutText bounds what a stranger wrote.
func cutText(s string, n int) string { return s[:min(len(s), n)] }
