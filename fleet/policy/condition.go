package policy

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"hallmark/internal/strictjson"
)

// condition is one key of one operator. All of a statement's have to hold.
type condition struct {
	op       operator
	negated  bool // holds where none of the operands matches
	set      quantifier
	ifExists bool // holds where the key is missing
	key      variable
	operands []operand
}

type operator uint8

const (
	opEquals operator = iota
	opEqualsFold
	opLike
	opArn
	opBool
	opNumber
	opDate
	opIP
	opNull
)

// quantifier says how a key with several values is compared.
type quantifier uint8

const (
	plainly quantifier = iota // any value matches; negated: none does
	forAll                    // every value, so also none
	forAny                    // at least one value
)

// relation is how a number or a date has to stand to the operand.
type relation uint8

const (
	equal relation = iota
	less
	lessEqual
	greater
	greaterEqual
)

func (r relation) holds(cmp int) bool {
	switch r {
	case less:
		return cmp < 0
	case lessEqual:
		return cmp <= 0
	case greater:
		return cmp > 0
	case greaterEqual:
		return cmp >= 0
	}
	return cmp == 0
}

type operatorRow struct {
	op      operator
	negated bool
	rel     relation
}

// operators has the operators of IAM but BinaryEquals, for which no key is.
var operators = map[string]operatorRow{
	"StringEquals": {op: opEquals}, "StringNotEquals": {op: opEquals, negated: true},
	"StringEqualsIgnoreCase": {op: opEqualsFold}, "StringNotEqualsIgnoreCase": {op: opEqualsFold, negated: true},
	"StringLike": {op: opLike}, "StringNotLike": {op: opLike, negated: true},
	"ArnEquals": {op: opArn}, "ArnNotEquals": {op: opArn, negated: true},
	"ArnLike": {op: opArn}, "ArnNotLike": {op: opArn, negated: true},
	"NumericEquals": {op: opNumber}, "NumericNotEquals": {op: opNumber, negated: true},
	"NumericLessThan": {op: opNumber, rel: less}, "NumericLessThanEquals": {op: opNumber, rel: lessEqual},
	"NumericGreaterThan": {op: opNumber, rel: greater}, "NumericGreaterThanEquals": {op: opNumber, rel: greaterEqual},
	"DateEquals": {op: opDate}, "DateNotEquals": {op: opDate, negated: true},
	"DateLessThan": {op: opDate, rel: less}, "DateLessThanEquals": {op: opDate, rel: lessEqual},
	"DateGreaterThan": {op: opDate, rel: greater}, "DateGreaterThanEquals": {op: opDate, rel: greaterEqual},
	"Bool":      {op: opBool},
	"IpAddress": {op: opIP}, "NotIpAddress": {op: opIP, negated: true},
	"Null": {op: opNull},
}

// operand is one value of a condition, compiled for its operator.
type operand struct {
	text   text     // opEquals, opEqualsFold, opLike, opBool
	arn    []text   // opArn: six parts
	static bool     // no variables: globs are there
	globs  []glob   // opLike: one, opArn: six
	rel    relation // opNumber, opDate
	number float64
	date   time.Time
	net    netip.Prefix
	null   bool
}

// parseConditions reads {operator: {key: values}}.
func parseConditions(it item) ([]condition, error) {
	ops, ok := it.value.(map[string]any)
	if !ok {
		return nil, at(ErrStructure, it.path, "want an object, not %s", kindOf(it.value))
	}
	var out []condition
	for _, name := range sorted(ops) {
		path := it.path.Key(name)
		c, row, err := parseOperator(name, path)
		if err != nil {
			return nil, err
		}
		keys, ok := ops[name].(map[string]any)
		if !ok {
			return nil, at(ErrStructure, path, "want an object, not %s", kindOf(ops[name]))
		}
		for _, key := range sorted(keys) {
			path := path.Key(key)
			if c.key, err = parseVariable(key, path); err != nil {
				return nil, err
			}
			c.operands = nil
			for _, it := range list(item{keys[key], path}) {
				o, err := parseOperand(row, it)
				if err != nil {
					return nil, err
				}
				c.operands = append(c.operands, o)
			}
			out = append(out, c)
		}
	}
	return out, nil
}

// parseOperator reads [ForAllValues:|ForAnyValue:]Operator[IfExists].
func parseOperator(name string, path strictjson.Path) (condition, operatorRow, error) {
	var c condition
	base := name
	if rest, ok := strings.CutPrefix(base, "ForAllValues:"); ok {
		base, c.set = rest, forAll
	} else if rest, ok := strings.CutPrefix(base, "ForAnyValue:"); ok {
		base, c.set = rest, forAny
	}
	base, c.ifExists = strings.CutSuffix(base, "IfExists")
	row, ok := operators[base]
	if !ok {
		return c, row, at(ErrCondition, path, "there is no operator %s%s", strictjson.Quote(base), perhaps(base, operatorNames()))
	}
	if row.op == opNull && (c.ifExists || c.set != plainly) {
		return c, row, at(ErrCondition, path, "Null asks itself whether a key exists and takes no addition")
	}
	c.op, c.negated = row.op, row.negated
	return c, row, nil
}

func operatorNames() []string {
	names := make([]string, 0, len(operators))
	for name := range operators {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// parseOperand reads one value. Numbers and booleans may stand without quotes.
func parseOperand(row operatorRow, it item) (operand, error) {
	o := operand{rel: row.rel}
	var s string
	switch v := it.value.(type) {
	case string:
		s = v
	case bool:
		s = strconv.FormatBool(v)
	case json.Number:
		s = v.String()
	default:
		return o, at(ErrStructure, it.path, "want a string, a number, or true or false, not %s", kindOf(it.value))
	}
	switch row.op {
	case opNumber, opDate, opIP, opNull:
		if strings.Contains(s, "${") {
			return o, at(ErrCondition, it.path, "this operator takes no variables")
		}
	}
	var err error
	ok := true
	switch row.op {
	case opEquals, opEqualsFold:
		o.text, err = parseText(s, false, it.path)
		o.static = o.text.static()
	case opLike:
		o.text, err = parseText(s, true, it.path)
		if o.static = o.text.static(); o.static {
			o.globs = []glob{compileGlob(o.text)}
		}
	case opArn:
		var t text
		if t, err = parseText(s, true, it.path); err == nil {
			if o.arn, ok = splitARN(t); ok && t.static() {
				o.static, o.globs = true, compileGlobs(o.arn)
			}
		}
	case opBool:
		if o.text, err = parseText(s, false, it.path); err == nil && o.text.static() {
			_, ok = boolean(o.text.String())
			o.static = true
		}
	case opNumber:
		o.number, ok = number(s)
	case opDate:
		o.date, ok = date(s)
	case opIP:
		o.net, ok = network(s)
	case opNull:
		o.null, ok = boolean(s)
	}
	if err == nil && !ok {
		err = at(ErrCondition, it.path, "%s is no value for this operator", strictjson.Quote(s))
	}
	return o, err
}

// splitARN takes a pattern apart at the first five colons of its own text: a
// colon in a variable's value stays in its part. * alone is every ARN.
func splitARN(t text) ([]text, bool) {
	if t.all() {
		return []text{t, t, t, t, t, t}, true
	}
	parts := make([]text, 1, 6)
	for _, tok := range t {
		for tok.kind == literal && len(parts) < 6 {
			before, after, ok := strings.Cut(tok.lit, ":")
			if !ok {
				break
			}
			last := len(parts) - 1
			parts[last] = parts[last].with(before)
			parts, tok.lit = append(parts, nil), after
		}
		last := len(parts) - 1
		if tok.kind == literal {
			parts[last] = parts[last].with(tok.lit)
		} else {
			parts[last] = append(parts[last], tok)
		}
	}
	return parts, len(parts) == 6
}

func compileGlobs(list []text) []glob {
	out := make([]glob, len(list))
	for i, t := range list {
		out[i] = compileGlob(t)
	}
	return out
}
