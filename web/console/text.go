package console

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"strings"
	"unicode"
	"unicode/utf8"
)

// shown is text that somebody outside chose, for a page. It is kept from what is
// around it, so that text written from right to left turns only itself, and
// characters that do not show but turn or hide others are named (A55).
func shown(s string) template.HTML {
	var b strings.Builder
	b.WriteString("<bdi>")
	from := 0
	for i, r := range s {
		if !hides(r) {
			continue
		}
		b.WriteString(template.HTMLEscapeString(s[from:i]))
		fmt.Fprintf(&b, `<span class="odd" title="a character that does not show">U+%04X</span>`, r)
		from = i + utf8.RuneLen(r)
	}
	b.WriteString(template.HTMLEscapeString(s[from:]))
	b.WriteString("</bdi>")
	return template.HTML(b.String())
}

// hides tells whether a character is a control or format character. Line ends
// and tabs are what documents are laid out with.
func hides(r rune) bool {
	return r != '\n' && r != '\t' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// pretty is a JSON document laid out for people; what is no JSON stays as it is.
func pretty(text string) string {
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(text), "", "  "); err != nil {
		return text
	}
	return strings.TrimSpace(b.String())
}

// clip shortens text for a cell of a table.
func clip(n int, s string) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	r := []rune(s)
	return string(r[:n-1]) + "…"
}
