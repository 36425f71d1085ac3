package policy

import (
	"cmp"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// holds evaluates the condition. All variables of its operands are known by
// then.
func (c *condition) holds(ctx *Context) bool {
	var buf [maxList]string
	values := ctx.values(c.key, buf[:0])
	if c.op == opNull {
		for i := range c.operands {
			if c.operands[i].null == (len(values) == 0) {
				return true
			}
		}
		return false
	}
	if len(values) == 0 {
		// IAM: a missing key matches nothing, so the negated operators hold; of
		// the set operators, ForAllValues holds for an empty set, ForAnyValue not.
		return c.ifExists || c.set == forAll || c.set == plainly && c.negated
	}
	every := c.set == forAll || c.set == plainly && c.negated
	for _, v := range values {
		if c.fits(v, ctx) != every {
			return !every
		}
	}
	return every
}

// fits tells whether a value matches one of the operands, or none if the
// operator is negated.
func (c *condition) fits(v string, ctx *Context) bool {
	for i := range c.operands {
		if c.operands[i].match(c.op, v, ctx) {
			return !c.negated
		}
	}
	return c.negated
}

// match compares a value of the connection with the operand. A value that is
// not of the operator's type matches nothing.
func (o *operand) match(op operator, v string, ctx *Context) bool {
	switch op {
	case opEquals:
		return v == o.text.fill(ctx).String()
	case opEqualsFold:
		return strings.EqualFold(v, o.text.fill(ctx).String())
	case opLike:
		if o.static {
			return o.globs[0].match(v)
		}
		g := compileGlob(o.text.fill(ctx))
		return g.match(v)
	case opArn:
		return o.matchARN(v, ctx)
	case opBool:
		have, ok := boolean(v)
		want, ok2 := boolean(o.text.fill(ctx).String())
		return ok && ok2 && have == want
	case opNumber:
		n, ok := number(v)
		return ok && o.rel.holds(cmp.Compare(n, o.number))
	case opDate:
		d, ok := date(v)
		return ok && o.rel.holds(d.Compare(o.date))
	case opIP:
		ip, err := netip.ParseAddr(v)
		return err == nil && o.net.Contains(ip.Unmap().WithZone(""))
	}
	return false
}

// matchARN compares part by part, so that a wildcard does not reach across a
// colon, the last part excepted.
func (o *operand) matchARN(v string, ctx *Context) bool {
	globs := o.globs
	if !o.static {
		filled := make([]text, len(o.arn))
		for i, t := range o.arn {
			filled[i] = t.fill(ctx)
		}
		globs = compileGlobs(filled)
	}
	for i := range globs {
		part := v
		if i < len(globs)-1 {
			var ok bool
			if part, v, ok = strings.Cut(v, ":"); !ok {
				return false
			}
		}
		if !globs[i].match(part) {
			return false
		}
	}
	return true
}

func boolean(s string) (value, ok bool) {
	switch {
	case strings.EqualFold(s, "true"):
		return true, true
	case strings.EqualFold(s, "false"):
		return false, true
	}
	return false, false
}

// number reads a decimal number. strconv alone would also take Inf, NaN and
// hexadecimal ones.
func number(s string) (float64, bool) {
	if s == "" || len(s) > maxNum || strings.Trim(s, "0123456789+-.eE") != "" {
		return 0, false
	}
	n, err := strconv.ParseFloat(s, 64)
	return n, err == nil
}

// dateForms are those of the W3C's profile of ISO 8601.
var dateForms = []string{"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04Z07:00", "2006-01-02", "2006-01", "2006"}

// date reads a date, or seconds since 1970. Four digits are a year. Seconds may
// have a fraction in every form that has seconds.
func date(s string) (time.Time, bool) {
	if len(s) > maxNum {
		return time.Time{}, false
	}
	for _, form := range dateForms {
		if t, err := time.Parse(form, s); err == nil {
			return t, true
		}
	}
	if len(s) <= 12 && s != "" && strings.Trim(s, "0123456789") == "" {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return time.Unix(n, 0), true
		}
	}
	return time.Time{}, false
}

// network reads an address or a range in CIDR form.
func network(s string) (netip.Prefix, bool) {
	if !strings.Contains(s, "/") {
		ip, err := netip.ParseAddr(s)
		if err != nil || ip.Zone() != "" {
			return netip.Prefix{}, false
		}
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() { // a range of mapped addresses would contain no address, as those are compared as IPv4
		return netip.Prefix{}, false
	}
	return p.Masked(), true
}
