package registry

import "unicode/utf8"

// Limits of the wire.
const (
	MaxAttributes     = 50 // of a thing that has a type
	MaxFreeAttributes = 3  // of a thing without a type, and searchable ones of a type
	MaxGroupDepth     = 7
	MaxThingGroups    = 10 // static groups of one thing
)

// MaxDynamicGroups bounds what a change of one thing has to look at.
const MaxDynamicGroups = 100

const (
	maxName           = 128
	maxAttributeValue = 800
	maxTags           = 50
	maxTagValue       = 256
	maxDescription    = 2028
	maxTries          = 4 // against others who change the same row
)

// printable tells whether a text is UTF-8 without control characters.
func printable(s string) bool {
	for _, c := range s {
		if c < ' ' || c == 0x7f {
			return false
		}
	}
	return utf8.ValidString(s)
}

func attributeName(s string) bool {
	ok := s != "" && len(s) <= maxName
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == ',' || c == '@' || c == '/' || c == ':' || c == '#' || c == '-'
	}
	return ok
}

func checkAttributes(m map[string]string, limit int) error {
	if len(m) > limit {
		return ErrAttributes.New("There are %d, %d are allowed.", len(m), limit)
	}
	for k, v := range m {
		if !attributeName(k) {
			return ErrAttributes.New("The name %.40q.", k)
		}
		if utf8.RuneCountInString(v) > maxAttributeValue || !printable(v) {
			return ErrAttributes.New("The value of %.40q.", k)
		}
	}
	return nil
}
