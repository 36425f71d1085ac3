package template

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

func only(s string, limit int, others string) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(others, c) >= 0 {
			continue
		}
		return false
	}
	return true
}

// validName is the rule for things, types, groups and billing groups.
func validName(s string) bool         { return only(s, maxThingName, ":_-") }
func validPolicyName(s string) bool   { return only(s, maxPolicyName, "_+=,.@-") }
func validAttributeKey(s string) bool { return only(s, maxAttributeKey, "_.,@/:#-") }

// validCertificateID is 64 lower-case hexadecimal digits: SHA-256 of the DER.
func validCertificateID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// clean reports whether a parameter's value is text that can be stored and
// shown: UTF-8 without control characters but those of PEM blocks.
func clean(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t'
	})
}

func hasControl(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl)
}

// widens reports whether a value could change what a policy covers. S21 names
// the first five; braces could complete a $ of the template's own text into a
// policy variable.
func widens(s string) bool { return strings.ContainsAny(s, "*$+?#{}") || hasControl(s) }
