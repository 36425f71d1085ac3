package strictjson

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Path names a place in a document, as Resources.thing.Properties["a b"][3].
// The empty path is the document itself.
type Path string

// Key is the path of a member of the object at p. A key that is not a plain
// word is quoted and cut short, so that a path is safe to show anywhere.
func (p Path) Key(key string) Path {
	if !plainWord(key) {
		return p + Path("["+Quote(key)+"]")
	}
	if p == "" {
		return Path(key)
	}
	return p + "." + Path(key)
}

// Index is the path of an element of the array at p.
func (p Path) Index(i int) Path { return p + Path("["+strconv.Itoa(i)+"]") }

// String is the path, or "the document" where it is empty.
func (p Path) String() string {
	if p == "" {
		return "the document"
	}
	return string(p)
}

const shown = 64 // bytes of foreign text that an error quotes

// Quote is s in double quotes and ASCII, cut after 64 bytes: the form in which
// foreign text may stand in an error or a log.
func Quote(s string) string {
	if len(s) <= shown {
		return strconv.QuoteToASCII(s)
	}
	cut := shown
	for cut > shown-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.QuoteToASCII(s[:cut]) + "..."
}

func plainWord(s string) bool {
	if s == "" || len(s) > shown {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-' {
			continue
		}
		return false
	}
	return true
}

// Nearest is the candidate that name was most likely meant to be, or "" when
// none is near. Case counts little, other changes one each.
func Nearest(name string, candidates []string) string {
	if len(name) > shown {
		return ""
	}
	best, bestAt := "", max(1, len(name)/3)+1
	for _, c := range candidates {
		if len(c) > shown {
			continue
		}
		if d := distance(strings.ToLower(name), strings.ToLower(c)); d < bestAt || d == bestAt && best != "" && c < best {
			best, bestAt = c, d
		}
	}
	return best
}

// distance is the number of single-byte insertions, removals, changes and
// swaps of neighbours that make b out of a.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
