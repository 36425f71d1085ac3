package policy

import (
	"strings"

	"hallmark/internal/strictjson"
)

// text is a string of a document, taken apart once: what is literal, what is a
// wildcard, and where variables go.
type text []token

type token struct {
	kind tokenKind
	lit  string
	v    variable
}

type tokenKind uint8

const (
	literal tokenKind = iota
	star              // any characters, slashes included
	one               // one character: a UTF-8 sequence, not an octet
	hole              // a variable
)

// parseText takes s apart. Without wild, * and ? stand for themselves. ${*},
// ${?} and ${$} always do. A $ that no brace follows is itself, as in $aws.
func parseText(s string, wild bool, path strictjson.Path) (text, error) {
	var t text
	for s != "" {
		switch {
		case strings.HasPrefix(s, "${"):
			name, rest, ok := strings.Cut(s[2:], "}")
			if !ok {
				return nil, at(ErrVariable, path, "${ is not closed")
			}
			s = rest
			if name == "*" || name == "?" || name == "$" {
				t = t.with(name)
				continue
			}
			v, err := parseVariable(name, path)
			if err != nil {
				return nil, err
			}
			if v.list {
				return nil, at(ErrVariable, path, "%s is a list and cannot stand in a text", strictjson.Quote(name))
			}
			t = append(t, token{kind: hole, v: v})
		case wild && s[0] == '*':
			if len(t) == 0 || t[len(t)-1].kind != star {
				t = append(t, token{kind: star})
			}
			s = s[1:]
		case wild && s[0] == '?':
			t, s = append(t, token{kind: one}), s[1:]
		default:
			n := 1
			for n < len(s) && s[n] != '$' && !(wild && (s[n] == '*' || s[n] == '?')) {
				n++
			}
			t, s = t.with(s[:n]), s[n:]
		}
	}
	return t, nil
}

// with appends literal text, into the last token if that is literal too: all
// other code relies on literals not being split.
func (t text) with(lit string) text {
	if lit == "" {
		return t
	}
	if n := len(t); n > 0 && t[n-1].kind == literal {
		t[n-1].lit += lit
		return t
	}
	return append(t, token{kind: literal, lit: lit})
}

// variables appends the variables of t to list, each once.
func (t text) variables(list []variable) []variable {
next:
	for _, tok := range t {
		if tok.kind != hole {
			continue
		}
		for _, v := range list {
			if v == tok.v {
				continue next
			}
		}
		list = append(list, tok.v)
	}
	return list
}

func (t text) static() bool {
	for _, tok := range t {
		if tok.kind == hole {
			return false
		}
	}
	return true
}

// all tells whether t is the wildcard * alone.
func (t text) all() bool { return len(t) == 1 && t[0].kind == star }

// String is a text without wildcards and variables.
func (t text) String() string {
	if len(t) == 0 {
		return ""
	}
	return t[0].lit
}

// source gives variables their values. An empty one is no value.
type source interface{ value(v variable) string }

// fill puts values in place of the variables. Values become literal text: a
// wildcard in one would not act, and none gets here (S21).
func (t text) fill(from source) text {
	if t.static() {
		return t
	}
	out := make(text, 0, len(t))
	var space [8]string
	run := space[:0] // of literals, joined at once
	for _, tok := range t {
		switch tok.kind {
		case literal:
			run = append(run, tok.lit)
		case hole:
			run = append(run, from.value(tok.v))
		default:
			out, run = append(out.with(strings.Join(run, "")), tok), run[:0]
		}
	}
	return out.with(strings.Join(run, ""))
}

// after gives the patterns that match exactly what t matches behind prefix:
// none, one, or a few where a wildcard covers a part of the prefix. A variable
// matches nothing of the prefix.
//
// It walks t as an automaton. A state is a place in t; once a later star was
// reached, earlier places add nothing and are dropped.
func (t text) after(prefix string) []text {
	type place struct{ tok, off int } // off octets of a literal are consumed
	states := []place{{0, 0}}
	for _, r := range prefix {
		var next []place
		add := func(p place) {
			for _, q := range next {
				if q == p {
					return
				}
			}
			if p.tok < len(t) && t[p.tok].kind == star && p.off == 0 {
				kept := next[:0]
				for _, q := range next {
					if q.tok > p.tok {
						kept = append(kept, q)
					}
				}
				next = kept
			}
			next = append(next, p)
		}
		for _, p := range states {
			for ; p.tok < len(t) && t[p.tok].kind == star; p.tok++ {
				add(p) // the star takes r, and may also have ended before it
			}
			if p.tok == len(t) {
				continue
			}
			switch tok := t[p.tok]; tok.kind {
			case one:
				add(place{p.tok + 1, 0})
			case literal:
				rest, ok := strings.CutPrefix(tok.lit[p.off:], string(r))
				switch {
				case !ok:
				case rest == "":
					add(place{p.tok + 1, 0})
				default:
					add(place{p.tok, len(tok.lit) - len(rest)})
				}
			}
		}
		if states = next; len(states) == 0 {
			return nil
		}
	}
	out := make([]text, 0, len(states))
	for _, p := range states {
		rest := t[p.tok:]
		if p.off > 0 {
			rest = append(text{{kind: literal, lit: t[p.tok].lit[p.off:]}}, t[p.tok+1:]...)
		}
		out = append(out, rest)
	}
	return out
}
