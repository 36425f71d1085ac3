package registry

import (
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"hallmark/internal/fault"
)

// Limits of a query in the search language.
const (
	MaxFilterBytes = 1000
	MaxFilterTerms = 7
)

// Filter is a parsed query of the search language. It is immutable.
//
//	field:value          equal; case does not matter in values
//	field:abc*  field:a?c  * is any characters, ? is one
//	field:"a phrase"     * and ? are themselves
//	field:*              the thing has the field
//	field:[1 TO 5]  field:{1 TO 5}  with and without the ends; * is an open end
//	field>5  field>=5  field<5  field<=5  (also after the colon)
//	a b  a AND b  a OR b  NOT a  -a  ( )   AND binds closer than OR
//	*                    every thing
//
// A backslash takes the meaning from the next character. Numbers compare as
// numbers when the value of the query is one, else values compare as text.
type Filter struct {
	Root  *Node
	Terms int
	text  string
}

// String is the query as it was written.
func (f *Filter) String() string { return f.text }

// NodeKind says what a node of a filter joins.
type NodeKind int

// The kinds of nodes.
const (
	NodeAll NodeKind = iota // every thing
	NodeTerm
	NodeAnd
	NodeOr
	NodeNot
)

// Node is a part of a filter.
type Node struct {
	Kind NodeKind
	Kids []*Node
	Term Term
}

// TermKind says how a term compares.
type TermKind int

// The kinds of terms.
const (
	TermEqual TermKind = iota
	TermPattern
	TermRange
	TermExists
)

// Term compares a field.
type Term struct {
	Field string
	Kind  TermKind
	// TermEqual.
	Text    string // folded
	Number  float64
	Numeric bool // the text is a number: numbers are compared
	// TermPattern: literal parts between wildcards.
	Pattern []Wild
	// TermRange: numbers if Numeric, else texts.
	Lo, Hi Bound
}

// Wild is a piece of a pattern: a wildcard, or literal text if Kind is 0.
type Wild struct {
	Kind byte // '*', '?' or 0
	Text string
}

// Bound is an end of a range.
type Bound struct {
	Set    bool
	Closed bool
	Text   string
	Number float64
}

// Prefix is the literal text that a pattern begins with.
func (t *Term) Prefix() string {
	if len(t.Pattern) > 0 && t.Pattern[0].Kind == 0 {
		return t.Pattern[0].Text
	}
	return ""
}

// Row is a value of the index.
type Row struct {
	Field   string
	Text    string // folded, cut to MaxIndexText
	Number  float64
	Numeric bool
}

// Matches tells whether a value of the term's field fits it.
func (t *Term) Matches(r *Row) bool {
	switch t.Kind {
	case TermExists:
		return true
	case TermEqual:
		if t.Numeric {
			return r.Numeric && r.Number == t.Number
		}
		return r.Text == t.Text
	case TermPattern:
		return matchWild(t.Pattern, r.Text)
	}
	if t.Numeric {
		return r.Numeric && t.Lo.below(r.Number, 1) && t.Hi.below(r.Number, -1)
	}
	return (!t.Lo.Set || r.Text > t.Lo.Text || t.Lo.Closed && r.Text == t.Lo.Text) && (!t.Hi.Set || r.Text < t.Hi.Text || t.Hi.Closed && r.Text == t.Hi.Text)
}

func (b *Bound) below(n, sign float64) bool {
	return !b.Set || sign*(n-b.Number) > 0 || b.Closed && n == b.Number
}

// matchWild matches with one way back, to the last star.
func matchWild(p []Wild, s string) bool {
	var back []Wild
	var from string
	for {
		switch {
		case len(p) == 0 && s == "":
			return true
		case len(p) > 0 && p[0].Kind == '*':
			back, from = p, s
			p = p[1:]
			continue
		case len(p) > 0 && p[0].Kind == '?' && s != "":
			_, n := utf8.DecodeRuneInString(s)
			p, s = p[1:], s[n:]
			continue
		case len(p) > 0 && p[0].Kind == 0 && strings.HasPrefix(s, p[0].Text):
			p, s = p[1:], s[len(p[0].Text):]
			continue
		}
		if back == nil || from == "" {
			return false
		}
		_, n := utf8.DecodeRuneInString(from)
		from = from[n:]
		p, s = back[1:], from
	}
}

// Matches tells whether a thing with these values fits the filter.
func (f *Filter) Matches(rows map[string][]Row) bool { return f.Root.matches(rows) }

func (n *Node) matches(rows map[string][]Row) bool {
	switch n.Kind {
	case NodeTerm:
		list := rows[n.Term.Field]
		for i := range list {
			if n.Term.Matches(&list[i]) {
				return true
			}
		}
		return false
	case NodeAnd:
		for _, k := range n.Kids {
			if !k.matches(rows) {
				return false
			}
		}
	case NodeOr:
		for _, k := range n.Kids {
			if k.matches(rows) {
				return true
			}
		}
		return false
	case NodeNot:
		return !n.Kids[0].matches(rows)
	}
	return true
}

// Uses tells whether a change of a field can change whom the filter finds.
func (f *Filter) Uses(field string) bool { return f.Root.uses(field) }

func (n *Node) uses(field string) bool {
	if n.Kind == NodeTerm {
		return n.Term.Field == field
	}
	for _, k := range n.Kids {
		if k.uses(field) {
			return true
		}
	}
	return n.Kind == NodeAll
}

// Fields of things, and the beginnings of those with names of their own.
var (
	filterFields   = []string{"thingName", "thingTypeName", "thingGroupNames", "billingGroupName", "version"}
	filterPrefixes = []string{"attributes.", "shadow.", "connectivity.", "certificate.", "deviceDefender."}
)

func fieldKnown(s string) bool {
	for _, f := range filterFields {
		if s == f {
			return true
		}
	}
	for _, p := range filterPrefixes {
		if len(s) > len(p) && strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// ParseFilter reads a query. Its fault names the position, counted in octets
// from 1.
func ParseFilter(s string) (*Filter, error) {
	p := &filterParser{s: s}
	if len(s) > MaxFilterBytes {
		return nil, p.wrong(MaxFilterBytes, "the query has %d octets, %d are allowed", len(s), MaxFilterBytes)
	}
	for i, c := range s {
		if c == utf8.RuneError || c < ' ' && c != '\t' && c != '\n' && c != '\r' || c == 0x7f {
			return nil, p.wrong(i, "this character does not belong there")
		}
	}
	root, err := p.or(0)
	if err != nil {
		return nil, err
	}
	if p.space(); p.i < len(s) {
		return nil, p.wrong(p.i, "nothing is open that this could close")
	}
	return &Filter{Root: root, Terms: p.terms, text: s}, nil
}

type filterParser struct {
	s     string
	i     int
	terms int
}

func (p *filterParser) wrong(at int, format string, args ...any) *fault.Fault {
	f := ErrFilter.New("At "+strconv.Itoa(at+1)+": "+format+".", args...)
	return f.With("position", at+1)
}

func (p *filterParser) space() {
	for p.i < len(p.s) && strings.IndexByte(" \t\r\n", p.s[p.i]) >= 0 {
		p.i++
	}
}

// keyword takes a word that joins terms.
func (p *filterParser) keyword(w string) bool {
	p.space()
	rest := p.s[p.i:]
	if !strings.HasPrefix(rest, w) || len(rest) > len(w) && strings.IndexByte(" \t\r\n()", rest[len(w)]) < 0 {
		return false
	}
	p.i += len(w)
	return true
}

func (p *filterParser) or(depth int) (*Node, error) {
	first, err := p.and(depth)
	if err != nil {
		return nil, err
	}
	kids := []*Node{first}
	for p.keyword("OR") {
		k, err := p.and(depth)
		if err != nil {
			return nil, err
		}
		kids = append(kids, k)
	}
	return join(NodeOr, kids), nil
}

func (p *filterParser) and(depth int) (*Node, error) {
	var kids []*Node
	for {
		k, err := p.unary(depth)
		if err != nil {
			return nil, err
		}
		kids = append(kids, k)
		if p.keyword("AND") {
			continue
		}
		p.space()
		if p.i >= len(p.s) || p.s[p.i] == ')' {
			break
		}
		if at := p.i; p.keyword("OR") {
			p.i = at
			break
		}
	}
	return join(NodeAnd, kids), nil
}

func join(k NodeKind, kids []*Node) *Node {
	if len(kids) == 1 {
		return kids[0]
	}
	return &Node{Kind: k, Kids: kids}
}

// maxFilterDepth bounds brackets and negations, which cost no term.
const maxFilterDepth = 32

func (p *filterParser) unary(depth int) (*Node, error) {
	p.space()
	if depth > maxFilterDepth {
		return nil, p.wrong(p.i, "it is nested too deeply")
	}
	if p.i >= len(p.s) {
		return nil, p.wrong(p.i, "a term is missing")
	}
	at := p.i
	not := p.keyword("NOT")
	if !not && p.s[p.i] == '-' {
		p.i++
		not = true
		if p.i >= len(p.s) || strings.IndexByte(" \t\r\n", p.s[p.i]) >= 0 {
			return nil, p.wrong(at, "what shall not be follows the - at once")
		}
	}
	if not {
		k, err := p.unary(depth + 1)
		if err != nil {
			return nil, err
		}
		return &Node{Kind: NodeNot, Kids: []*Node{k}}, nil
	}
	switch c := p.s[p.i]; {
	case c == '(':
		p.i++
		n, err := p.or(depth + 1)
		if err != nil {
			return nil, err
		}
		if p.space(); p.i >= len(p.s) || p.s[p.i] != ')' {
			return nil, p.wrong(at, "this bracket is not closed")
		}
		p.i++
		return n, nil
	case c == ')':
		return nil, p.wrong(p.i, "a term is missing before the bracket")
	case p.keyword("*"):
		if err := p.count(at); err != nil {
			return nil, err
		}
		return &Node{Kind: NodeAll}, nil
	case p.keyword("AND") || p.keyword("OR"):
		return nil, p.wrong(at, "a term is missing before this word")
	}
	return p.term()
}

func (p *filterParser) count(at int) error {
	if p.terms++; p.terms > MaxFilterTerms {
		return p.wrong(at, "there are more than %d terms", MaxFilterTerms)
	}
	return nil
}

// field reads the name before a comparison.
func (p *filterParser) field() string {
	var b strings.Builder
	for p.i < len(p.s) {
		c := p.s[p.i]
		if c == '\\' && p.i+1 < len(p.s) {
			b.WriteByte(p.s[p.i+1])
			p.i += 2
			continue
		}
		if strings.IndexByte(" \t\r\n:<>()[]{}\"", c) >= 0 {
			break
		}
		b.WriteByte(c)
		p.i++
	}
	return b.String()
}

func (p *filterParser) term() (*Node, error) {
	at := p.i
	name := p.field()
	p.space()
	switch {
	case p.i >= len(p.s) || strings.IndexByte(":<>", p.s[p.i]) < 0:
		return nil, p.wrong(at, "a term is a field and a value, as in thingName:abc")
	case !fieldKnown(name):
		return nil, p.wrong(at, "there is no field %.64q", name)
	}
	if err := p.count(at); err != nil {
		return nil, err
	}
	if p.s[p.i] == ':' {
		p.i++
		p.space()
	}
	if p.i >= len(p.s) {
		return nil, p.wrong(p.i, "a value is missing")
	}
	t := Term{Field: name}
	var err error
	switch c := p.s[p.i]; c {
	case '<', '>':
		err = p.comparison(&t)
	case '[', '{':
		err = p.rangeOf(&t)
	default:
		err = p.equal(&t)
	}
	if err != nil {
		return nil, err
	}
	return &Node{Kind: NodeTerm, Term: t}, nil
}

// value reads a value: a phrase, or characters up to a space or a stop. Wildcards
// that count are given as pieces.
func (p *filterParser) value(stops string) (pieces []Wild, quoted bool, err error) {
	at := p.i
	var b strings.Builder
	flush := func() {
		if b.Len() > 0 {
			pieces = append(pieces, Wild{Text: strings.ToLower(b.String())})
			b.Reset()
		}
	}
	if p.i < len(p.s) && p.s[p.i] == '"' {
		for p.i++; p.i < len(p.s) && p.s[p.i] != '"'; p.i++ {
			if p.s[p.i] == '\\' && p.i+1 < len(p.s) {
				p.i++
			}
			b.WriteByte(p.s[p.i])
		}
		if p.i >= len(p.s) {
			return nil, true, p.wrong(at, "this phrase has no end")
		}
		p.i++
		flush()
		return pieces, true, nil
	}
	for p.i < len(p.s) {
		c := p.s[p.i]
		if strings.IndexByte(" \t\r\n", c) >= 0 || strings.IndexByte(stops, c) >= 0 {
			break
		}
		switch {
		case c == '\\' && p.i+1 < len(p.s):
			p.i++
			b.WriteByte(p.s[p.i])
		case c == '*' || c == '?':
			flush()
			if c != '*' || len(pieces) == 0 || pieces[len(pieces)-1].Kind != '*' {
				pieces = append(pieces, Wild{Kind: c})
			}
		default:
			b.WriteByte(c)
		}
		p.i++
	}
	flush()
	if len(pieces) == 0 {
		return nil, false, p.wrong(at, "a value is missing")
	}
	return pieces, false, nil
}

func (p *filterParser) equal(t *Term) error {
	at := p.i
	pieces, quoted, err := p.value("()\"")
	if err != nil {
		return err
	}
	switch {
	case quoted && len(pieces) == 0:
		t.Kind = TermEqual
		return nil
	case len(pieces) == 1 && pieces[0].Kind == 0:
		t.Kind, t.Text = TermEqual, cut(pieces[0].Text)
		t.Number, t.Numeric = number(pieces[0].Text)
		return nil
	case len(pieces) == 1 && pieces[0].Kind == '*':
		t.Kind = TermExists
		return nil
	case pieces[0].Kind == '*':
		return p.wrong(at, "a value does not begin with *")
	}
	t.Kind, t.Pattern = TermPattern, pieces
	return nil
}

func (p *filterParser) comparison(t *Term) error {
	c := p.s[p.i]
	p.i++
	closed := p.i < len(p.s) && p.s[p.i] == '='
	if closed {
		p.i++
	}
	p.space()
	at := p.i
	b, numeric, err := p.bound("()<>=\"")
	if err != nil {
		return err
	}
	if !b.Set {
		return p.wrong(at, "a comparison needs a value")
	}
	b.Closed = closed
	t.Kind, t.Numeric = TermRange, numeric
	if c == '>' {
		t.Lo = b
	} else {
		t.Hi = b
	}
	return nil
}

// bound reads an end of a range; * leaves it open.
func (p *filterParser) bound(stops string) (b Bound, numeric bool, err error) {
	at := p.i
	pieces, quoted, err := p.value(stops)
	switch {
	case err != nil:
		return b, false, err
	case len(pieces) == 1 && pieces[0].Kind == '*':
		return b, false, nil
	case len(pieces) == 0 && quoted:
		return Bound{Set: true}, false, nil
	case len(pieces) != 1 || pieces[0].Kind != 0:
		return b, false, p.wrong(at, "a range has no wildcards")
	}
	n, numeric := number(pieces[0].Text)
	return Bound{Set: true, Text: cut(pieces[0].Text), Number: n}, numeric, nil
}

func (p *filterParser) rangeOf(t *Term) (err error) {
	at := p.i
	t.Kind = TermRange
	lo := p.s[p.i] == '['
	p.i++
	p.space()
	var one, two bool
	if t.Lo, one, err = p.bound("[]{}()\""); err != nil {
		return err
	}
	if !p.keyword("TO") {
		return p.wrong(p.i, "TO is missing between the ends of the range")
	}
	p.space()
	if t.Hi, two, err = p.bound("[]{}()\""); err != nil {
		return err
	}
	p.space()
	if p.i >= len(p.s) || p.s[p.i] != ']' && p.s[p.i] != '}' {
		return p.wrong(at, "this range is not closed")
	}
	t.Lo.Closed, t.Hi.Closed = lo, p.s[p.i] == ']'
	p.i++
	switch {
	case !t.Lo.Set && !t.Hi.Set:
		t.Kind = TermExists
	case (one || !t.Lo.Set) && (two || !t.Hi.Set):
		t.Numeric = true
	}
	return nil
}

// number tells whether a text is a decimal number.
func number(s string) (float64, bool) {
	if s == "" || len(s) > 64 || strings.IndexFunc(s, func(c rune) bool { return !unicode.IsDigit(c) && !strings.ContainsRune("+-.eE", c) }) >= 0 {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		return 0, false
	}
	if f == 0 {
		f = 0 // not -0
	}
	return f, true
}
