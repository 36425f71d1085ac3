package policy

import (
	"encoding/json"
	"math/big"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// The naive evaluator reads documents as maps and interprets them from the
// start for every question, with regular expressions, following section 7 of
// the wire reference and IAM's grammar word by word. It shares no code with the
// package.

// facts are the values of a connection by the names of variables and keys.
type facts map[string][]string

var naiveTypes = map[string]string{
	"iot:Connect": "client/", "iot:Publish": "topic/", "iot:Receive": "topic/", "iot:RetainPublish": "topic/", "iot:GetRetainedMessage": "topic/",
	"iot:Subscribe": "topicfilter/", "iot:GetThingShadow": "thing/", "iot:UpdateThingShadow": "thing/", "iot:DeleteThingShadow": "thing/",
	"iot:ListNamedShadowsForThing": "", "iot:ListRetainedMessages": "", "iot:AssumeRoleWithCertificate": "rolealias/",
	"iotjobsdata:DescribeJobExecution": "thing/", "iotjobsdata:GetPendingJobExecutions": "thing/",
	"iotjobsdata:UpdateJobExecution": "thing/", "iotjobsdata:StartNextPendingJobExecution": "thing/",
}

type naive struct {
	docs            []map[string]any
	facts           facts
	region, account string
}

func (n *naive) decide(action, name string) Result {
	result := ImplicitDeny
	for _, doc := range n.docs {
		for _, s := range listOf(doc["Statement"]) {
			s := s.(map[string]any)
			if !n.applies(s, action, name) {
				continue
			}
			if s["Effect"] == "Deny" {
				return ExplicitDeny
			}
			result = Allowed
		}
	}
	return result
}

func (n *naive) applies(s map[string]any, action, name string) bool {
	// An unknown variable anywhere stops the statement.
	var texts []string
	for _, r := range append(listOf(s["Resource"]), listOf(s["NotResource"])...) {
		texts = append(texts, r.(string))
	}
	conds, _ := s["Condition"].(map[string]any)
	for _, keys := range conds {
		for _, values := range keys.(map[string]any) {
			for _, v := range listOf(values) {
				if v, ok := v.(string); ok {
					texts = append(texts, v)
				}
			}
		}
	}
	for _, t := range texts {
		for _, m := range expr(`\$\{([^}]*)\}`).FindAllStringSubmatch(t, -1) {
			if _, ok := n.variable(m[1]); !ok {
				return false
			}
		}
	}
	// Action.
	names := []string{action}
	if rest, ok := strings.CutPrefix(action, "iotjobsdata:"); ok {
		names = append(names, "iot:"+rest)
	}
	hit := func(list any) bool {
		return slices.ContainsFunc(listOf(list), func(p any) bool {
			re := expr("^" + strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(p.(string))) + "$")
			return slices.ContainsFunc(names, re.MatchString)
		})
	}
	if list, ok := s["Action"]; ok && !hit(list) {
		return false
	}
	if list, ok := s["NotAction"]; ok && hit(list) {
		return false
	}
	// Resource.
	asked := naiveTypes[action] + name
	if naiveTypes[action] == "" {
		asked = "*"
	}
	about := func(list any) bool {
		return slices.ContainsFunc(listOf(list), func(r any) bool { return n.resource(r.(string), asked) })
	}
	if list, ok := s["Resource"]; ok && !about(list) {
		return false
	}
	if list, ok := s["NotResource"]; ok && about(list) {
		return false
	}
	// Condition.
	for op, keys := range conds {
		for key, values := range keys.(map[string]any) {
			if !n.condition(op, key, listOf(values)) {
				return false
			}
		}
	}
	return true
}

func (n *naive) resource(pattern, asked string) bool {
	if pattern == "*" {
		return true
	}
	if strings.HasPrefix(pattern, "arn:") {
		parts := strings.SplitN(pattern, ":", 6)
		if n.region != "" && !n.like(parts[3], n.region) || n.account != "" && !n.like(parts[4], n.account) {
			return false
		}
		pattern = parts[5]
	}
	for _, t := range naiveTypes {
		if t != "" && strings.HasPrefix(pattern, "/"+t) {
			pattern = pattern[1:]
			break
		}
	}
	return n.like(pattern, asked)
}

// variable is the text for ${name}.
func (n *naive) variable(name string) (string, bool) {
	if name == "*" || name == "?" || name == "$" {
		return name, true
	}
	values := n.facts[name]
	if len(values) == 0 || values[0] == "" || strings.ContainsAny(values[0], "*$+?#") || utf8.RuneCountInString(values[0]) > 1024 {
		return "", false
	}
	return values[0], true
}

// like matches a pattern with wildcards and variables against s.
func (n *naive) like(pattern, s string) bool {
	return expr(n.expression(pattern, true)).MatchString(s)
}

func (n *naive) expression(pattern string, wild bool) string {
	re := expr(`(?s)\$\{[^}]*\}|.`).ReplaceAllStringFunc(pattern, func(part string) string {
		switch {
		case len(part) > 2 && strings.HasPrefix(part, "${"):
			value, _ := n.variable(part[2 : len(part)-1])
			return regexp.QuoteMeta(value)
		case part == "*" && wild:
			return "(?s:.*)"
		case part == "?" && wild:
			return "(?s:.)"
		}
		return regexp.QuoteMeta(part)
	})
	return "^" + re + "$"
}

func (n *naive) condition(op, key string, want []any) bool {
	have := slices.DeleteFunc(slices.Clone(n.facts[key]), func(s string) bool { return s == "" })
	every, some := strings.HasPrefix(op, "ForAllValues:"), strings.HasPrefix(op, "ForAnyValue:")
	op = strings.TrimPrefix(strings.TrimPrefix(op, "ForAllValues:"), "ForAnyValue:")
	ifExists := strings.HasSuffix(op, "IfExists")
	op = strings.TrimSuffix(op, "IfExists")
	if op == "Null" {
		return slices.ContainsFunc(want, func(w any) bool { return (textOf(w) == "true") == (len(have) == 0) })
	}
	not := strings.Contains(op, "Not")
	if len(have) == 0 {
		switch {
		case ifExists:
			return true
		case every:
			return true
		case some:
			return false
		}
		return not
	}
	positive := strings.Replace(op, "Not", "", 1)
	hits := func(v string) bool {
		return slices.ContainsFunc(want, func(w any) bool { return n.compare(positive, v, textOf(w)) })
	}
	switch {
	case every:
		return !slices.ContainsFunc(have, func(v string) bool { return hits(v) == not })
	case some:
		return slices.ContainsFunc(have, func(v string) bool { return hits(v) != not })
	}
	return slices.ContainsFunc(have, hits) != not
}

func (n *naive) compare(op, have, want string) bool {
	sign := 2
	switch {
	case strings.HasPrefix(op, "Numeric"):
		a, ok := new(big.Rat).SetString(have)
		b, ok2 := new(big.Rat).SetString(want)
		if !ok || !ok2 {
			return false
		}
		sign = a.Cmp(b)
	case strings.HasPrefix(op, "Date"):
		a, ok := naiveDate(have)
		b, ok2 := naiveDate(want)
		if !ok || !ok2 {
			return false
		}
		sign = a.Compare(b)
	}
	switch strings.TrimPrefix(strings.TrimPrefix(op, "Numeric"), "Date") {
	case "Equals":
		return sign == 0
	case "LessThan":
		return sign < 0
	case "LessThanEquals":
		return sign <= 0
	case "GreaterThan":
		return sign > 0
	case "GreaterThanEquals":
		return sign >= 0
	}
	switch op {
	case "StringEquals":
		return expr(n.expression(want, false)).MatchString(have)
	case "StringEqualsIgnoreCase":
		return expr("(?i:" + n.expression(want, false) + ")").MatchString(have)
	case "StringLike":
		return n.like(want, have)
	case "Bool":
		return expr("(?i:"+n.expression(want, false)+")").MatchString(have) && expr("(?i)^(true|false)$").MatchString(have)
	case "IpAddress":
		if !strings.Contains(want, "/") {
			return net.ParseIP(have) != nil && net.ParseIP(have).Equal(net.ParseIP(want))
		}
		_, block, err := net.ParseCIDR(want)
		return err == nil && net.ParseIP(have) != nil && block.Contains(net.ParseIP(have))
	case "ArnEquals", "ArnLike":
		if want == "*" {
			return strings.Count(have, ":") >= 5
		}
		ps, vs := naiveSplit(want), strings.SplitN(have, ":", 6)
		if len(vs) != 6 {
			return false
		}
		for i := range ps {
			if !n.like(ps[i], vs[i]) {
				return false
			}
		}
		return true
	}
	panic(op)
}

// naiveSplit splits at colons, but not in variables.
func naiveSplit(s string) []string {
	hidden := expr(`\$\{[^}]*\}`).ReplaceAllStringFunc(s, func(v string) string { return strings.ReplaceAll(v, ":", "\x00") })
	parts := strings.SplitN(hidden, ":", 6)
	for i := range parts {
		parts[i] = strings.ReplaceAll(parts[i], "\x00", ":")
	}
	return parts
}

func naiveDate(s string) (time.Time, bool) {
	if expr(`^\d{1,12}$`).MatchString(s) && len(s) != 4 {
		d, err := time.ParseDuration(s + "s")
		return time.Unix(0, 0).Add(d), err == nil
	}
	for _, f := range []string{time.DateOnly, time.RFC3339, "2006"} {
		if t, err := time.Parse(f, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// expr compiles an expression once: that is most of the evaluator's time.
func expr(s string) *regexp.Regexp {
	if re, ok := exprs.Load(s); ok {
		return re.(*regexp.Regexp)
	}
	re := regexp.MustCompile(s)
	if exprCount.Add(1) < 50_000 {
		exprs.Store(s, re)
	}
	return re
}

var (
	exprs     sync.Map
	exprCount atomic.Int64
)

func listOf(v any) []any {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		return v
	}
	return []any{v}
}

func textOf(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, _ := json.Marshal(v)
	return string(b)
}
