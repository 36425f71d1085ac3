package shadow

import (
	"encoding/json"
	"strconv"
	"strings"
)

// sameNumber compares by value: 1, 1.0 and 10e-1 are one number. It compares
// digits, since a float64 would call 2^53 and 2^53+1 equal.
func sameNumber(a, b json.Number) bool { return a == b || decimalOf(string(a)) == decimalOf(string(b)) }

// decimal is a number in its one form: digits without outer zeros, times ten to
// the exponent. Zero has no digits, no sign and no exponent.
type decimal struct {
	negative bool
	digits   string
	exponent int
}

// decimalOf reads a number of JSON (RFC 8259, Section 6).
func decimalOf(s string) (d decimal) {
	s, d.negative = strings.CutPrefix(s, "-")
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		// Three digits at most, or the parser would have refused the number.
		d.exponent, _ = strconv.Atoi(strings.TrimPrefix(s[i+1:], "+"))
		s = s[:i]
	}
	whole, fraction, _ := strings.Cut(s, ".")
	d.exponent -= len(fraction)
	s = whole + fraction
	d.digits = strings.TrimRight(s, "0")
	d.exponent += len(s) - len(d.digits)
	if d.digits = strings.TrimLeft(d.digits, "0"); d.digits == "" {
		return decimal{}
	}
	return d
}
