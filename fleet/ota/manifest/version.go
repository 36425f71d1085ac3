package manifest

import (
	"cmp"
	"strconv"
	"strings"
)

// Version is a version of firmware: one to four numbers, such as 1.4.0. It is
// compared number by number; what is missing is 0.
type Version string

const (
	maxParts  = 4
	maxDigits = 9
)

// ParseVersion checks the form. There is one way to write a number.
func ParseVersion(s string) (Version, error) {
	parts := strings.Split(s, ".")
	if len(parts) > maxParts {
		return "", ErrVersion.New("%.60q.", s)
	}
	for _, p := range parts {
		if p == "" || len(p) > maxDigits || len(p) > 1 && p[0] == '0' || strings.Trim(p, "0123456789") != "" {
			return "", ErrVersion.New("%.60q.", s)
		}
	}
	return Version(s), nil
}

// Compare is negative if v is older than o. "" is older than any.
func (v Version) Compare(o Version) int {
	if v == "" || o == "" {
		return cmp.Compare(len(v), len(o))
	}
	a, b := strings.Split(string(v), "."), strings.Split(string(o), ".")
	for i := range maxParts {
		if c := cmp.Compare(number(a, i), number(b, i)); c != 0 {
			return c
		}
	}
	return 0
}

func number(parts []string, i int) int {
	if i >= len(parts) {
		return 0
	}
	n, _ := strconv.Atoi(parts[i]) // ParseVersion saw to it
	return n
}
