package policy

import (
	"strings"
	"unicode/utf8"
)

// glob is a text without variables, compiled for matching: the part before the
// first star, those between stars, the part behind the last. Matching is
// greedy from both ends, needs no memory and no backtracking: a part found as
// early as possible leaves the most for the next one.
type glob struct {
	head, tail part
	mid        []part
	star       bool // without one, head is everything
}

// part is text between stars. A wildcard ? in it is the octet 0xff, which is in
// no UTF-8 text and so in no document and no value.
type part struct {
	text string
	any  bool // it has wildcards
}

const anyRune = 0xff

// compileGlob compiles t, which has no variables.
func compileGlob(t text) glob {
	if len(t) == 0 {
		return glob{}
	}
	// The two common forms need no copy: a plain name, and one with a * behind.
	if t[0].kind == literal && (len(t) == 1 || len(t) == 2 && t[1].kind == star) {
		return glob{head: part{text: t[0].lit}, star: len(t) == 2}
	}
	var g glob
	var b strings.Builder
	any := false
	flush := func() part {
		p := part{text: b.String(), any: any}
		b, any = strings.Builder{}, false
		return p
	}
	for _, tok := range t {
		switch tok.kind {
		case literal:
			b.WriteString(tok.lit)
		case one:
			b.WriteByte(anyRune)
			any = true
		case star:
			switch p := flush(); {
			case !g.star:
				g.head, g.star = p, true
			case p.text != "":
				g.mid = append(g.mid, p)
			}
		}
	}
	if g.star {
		g.tail = flush()
	} else {
		g.head = flush()
	}
	return g
}

func (g *glob) match(s string) bool {
	n := g.head.prefix(s)
	if n < 0 {
		return false
	}
	if s = s[n:]; !g.star {
		return s == ""
	}
	if n = g.tail.suffix(s); n < 0 {
		return false
	}
	s = s[:n]
	for i := range g.mid {
		if n = g.mid[i].find(s); n < 0 {
			return false
		}
		s = s[n:]
	}
	return true
}

// prefix is how many octets of s the part matches from its start, or -1.
func (p *part) prefix(s string) int {
	if !p.any {
		if strings.HasPrefix(s, p.text) {
			return len(p.text)
		}
		return -1
	}
	at := 0
	for i := 0; i < len(p.text); i++ {
		if at == len(s) {
			return -1
		}
		if p.text[i] == anyRune {
			_, size := utf8.DecodeRuneInString(s[at:])
			at += size
			continue
		}
		if s[at] != p.text[i] {
			return -1
		}
		at++
	}
	return at
}

// suffix is how many octets of s stay before the part at its end, or -1.
func (p *part) suffix(s string) int {
	if !p.any {
		if strings.HasSuffix(s, p.text) {
			return len(s) - len(p.text)
		}
		return -1
	}
	for i := len(p.text) - 1; i >= 0; i-- {
		if s == "" {
			return -1
		}
		size := 1
		if p.text[i] == anyRune {
			_, size = utf8.DecodeLastRuneInString(s)
		} else if s[len(s)-1] != p.text[i] {
			return -1
		}
		s = s[:len(s)-size]
	}
	return len(s)
}

// find is where in s the first occurrence of the part ends, or -1.
func (p *part) find(s string) int {
	if !p.any {
		if i := strings.Index(s, p.text); i >= 0 {
			return i + len(p.text)
		}
		return -1
	}
	for i := 0; i < len(s); {
		if n := p.prefix(s[i:]); n >= 0 {
			return i + n
		}
		_, size := utf8.DecodeRuneInString(s[i:]) // a wildcard must not begin inside a character
		i += size
	}
	return -1
}
