package keycheck

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/hex"
	"io"
	"strings"
	"sync"
)

// maxListLine keeps a damaged list from filling memory.
const maxListLine = 1024

// List is a [Blocklist] in memory. Its text form has one key a line: the
// SHA-256 of the DER SubjectPublicKeyInfo as 64 hexadecimal digits, a space, and
// where the key is known from. Empty lines and lines starting with # are skipped.
type List struct{ origins map[[32]byte]string }

// ParseList reads the text form.
func ParseList(r io.Reader) (*List, error) {
	l := &List{origins: map[[32]byte]string{}}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxListLine)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		digits, origin, _ := strings.Cut(text, " ")
		var hash [32]byte
		if raw, err := hex.DecodeString(digits); err != nil || len(raw) != len(hash) {
			return nil, ErrBlocklist.New("Line %d has no SHA-256.", n)
		} else {
			copy(hash[:], raw)
		}
		if origin = strings.TrimSpace(origin); origin == "" {
			return nil, ErrBlocklist.New("Line %d does not say where the key is from.", n)
		}
		l.origins[hash] = origin
	}
	if err := lines.Err(); err != nil {
		return nil, ErrBlocklist.Wrap(err, "")
	}
	return l, nil
}

// Blocked looks a key up.
func (l *List) Blocked(spkiSHA256 [32]byte) (origin string, blocked bool) {
	origin, blocked = l.origins[spkiSHA256]
	return origin, blocked
}

// Len is the number of keys.
func (l *List) Len() int { return len(l.origins) }

//go:embed known.txt
var known []byte

// builtin is the list in the program. A test reads it, so an error here cannot
// reach a release; were it there, an empty list would be the wrong answer.
var builtin = sync.OnceValue(func() *List {
	l, err := ParseList(bytes.NewReader(known))
	if err != nil {
		panic(err)
	}
	return l
})
