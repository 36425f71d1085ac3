package policy

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"hallmark/internal/fault"
)

// dice makes choices from a byte string, so that the fuzzer changes one choice
// by changing one byte. Without bytes left it always chooses the first.
type dice struct{ data []byte }

func (d *dice) n(limit int) int {
	if len(d.data) == 0 {
		return 0
	}
	b := d.data[0]
	d.data = d.data[1:]
	return int(b) % limit
}

func (d *dice) of(list ...string) string { return list[d.n(len(list))] }

// some joins up to limit pieces.
func (d *dice) some(limit int, pieces ...string) string {
	var b strings.Builder
	for range d.n(limit + 1) {
		b.WriteString(d.of(pieces...))
	}
	return b.String()
}

// one is a value or a list of them.
func (d *dice) one(limit int, make func() any) any {
	n := d.n(limit + 1)
	if n == 0 {
		return make()
	}
	out := []any{}
	for range n {
		out = append(out, make())
	}
	return out
}

var (
	fuzzVariables = []string{
		"iot:ClientId", "iot:Connection.Thing.ThingName", "iot:Connection.Thing.ThingTypeName", "iot:Connection.Thing.Attributes[a]",
		"iot:Connection.Thing.IsAttached", "iot:CertificateId", "iot:Certificate.SerialNumber", "aws:SourceIp", "iot:DomainName",
		"iot:Certificate.Subject.CommonName", "iot:Certificate.Subject.Organization", "iot:Certificate.Subject.Organization.1",
		"iot:Certificate.Subject.Organization.4", "iot:Certificate.Subject.Organization.5", "iot:Certificate.Issuer.CommonName",
		"iot:Certificate.Subject.AlternativeName.DNSName",
	}
	fuzzLists  = []string{"iot:ConnectAttributes", "iot:Certificate.Subject.Organization.List", "iot:Certificate.AvailableKeys"}
	fuzzValues = []string{
		"a", "b", "", "ab", "A", "a/b", "é", "*", "a+", "b?", "x#", "$", "true", "false", "True", "5", "5.0", "-3", "10.0.0.1", "2001:db8::1",
		"2020-01-01", "2020-01-02T03:04:05Z", "1577836800", "arn:aws:iot:r:1:topic/a", "a:b", "topic", "PersistentConnect",
	}
	fuzzTexts   = []string{"a", "b", "/", "*", "?", "+", "#", "${*}", "${?}", "${$}", "$aws", "é", "ab", "a/", "*a*", "?b"}
	fuzzTopics  = []string{"a", "b", "/", "+", "#", "*", "?", "$", "$aws", "é", "ab", "a/", "true", "A"}
	fuzzTypes   = []string{"topic/", "topicfilter/", "client/", "thing/", "/topic/", "t*", "*/", "top?c/", "*", "", "rolealias/", "topic", "?*", "*i", "t*t*/"}
	fuzzActions = []string{
		"iot:Publish", "*", "iot:*", "iot:Connect", "iot:Subscribe", "iot:Receive", "iot:*Publish", "iot:Get*", "iotjobsdata:*",
		"iot:DescribeJobExecution", "iotjobsdata:UpdateJobExecution", "iot:?ublish", "iot:ListRetainedMessages", "iot:GetThingShadow",
	}
)

func (d *dice) hole() string { return "${" + d.of(fuzzVariables...) + "}" }

func (d *dice) resource() any {
	if d.n(8) == 7 {
		return "*"
	}
	arn := d.of("arn:aws:iot:us-east-1:123:", "arn:aws:iot:*:*:", "arn:aws:iot:r:1:", "arn:aws:iot:?:1*:", "")
	text := d.some(4, fuzzTexts...)
	if d.n(3) == 1 {
		text += d.hole() + d.some(2, fuzzTexts...)
	}
	return arn + d.of(fuzzTypes...) + text
}

func (d *dice) condition() map[string]any {
	type family struct {
		ops    []string
		values func() any
	}
	text := func() any {
		if d.n(4) == 3 {
			return d.of(fuzzValues...) + d.hole()
		}
		return d.of(append(fuzzValues, "a*", "?", "*b", "LastWill", "${*}", "PersistentConnect", "iot:Certificate.SerialNumber")...)
	}
	families := []family{
		{[]string{"StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase"}, text},
		{[]string{"Bool"}, func() any {
			switch d.n(4) {
			case 0:
				return true
			case 1:
				return "${iot:Connection.Thing.IsAttached}"
			}
			return d.of("false", "true", "TRUE")
		}},
		{[]string{"NumericEquals", "NumericNotEquals", "NumericLessThan", "NumericLessThanEquals", "NumericGreaterThan", "NumericGreaterThanEquals"},
			func() any { return d.of("5", "-3", "4.5", "5e0", "2020") }},
		{[]string{"DateEquals", "DateNotEquals", "DateLessThan", "DateLessThanEquals", "DateGreaterThan", "DateGreaterThanEquals"},
			func() any {
				return d.of("2020-01-01", "2020-01-01T00:00:00Z", "1577836800", "2021", "2020-01-02T03:04:05+00:00")
			}},
		{[]string{"IpAddress", "NotIpAddress"}, func() any { return d.of("10.0.0.0/8", "10.0.0.1", "2001:db8::/32", "10.0.0.0/31", "0.0.0.0/0") }},
		{[]string{"ArnLike", "ArnEquals", "ArnNotLike", "ArnNotEquals"}, func() any {
			return d.of("*", "arn:*:iot:*:*:topic/a", "arn:aws:iot:?:1:*", "arn:aws:iot:*:${iot:ClientId}", "arn:aws:iot:r:1:${iot:Connection.Thing.ThingTypeName}/${iot:ClientId}", "a*:b:c:d:e:f")
		}},
		{[]string{"Null"}, func() any { return d.of("true", "false") }},
	}
	out := map[string]any{}
	for range max(d.n(5)-2, 0) {
		f := families[d.n(len(families))]
		op := d.of(f.ops...)
		if op != "Null" {
			op = d.of("", "", "ForAllValues:", "ForAnyValue:") + op + d.of("", "", "IfExists")
		}
		key := d.of(fuzzVariables...)
		if d.n(2) == 1 {
			key = d.of(fuzzLists...)
		}
		var values any = []any{}
		if d.n(6) != 5 {
			values = d.one(2, f.values)
		}
		out[op] = map[string]any{key: values}
	}
	return out
}

func (d *dice) document() map[string]any {
	doc := map[string]any{"Version": "2012-10-17"}
	doc["Statement"] = d.one(3, func() any {
		s := map[string]any{"Effect": d.of("Allow", "Deny")}
		s[d.of("Action", "Action", "Action", "NotAction")] = d.one(2, func() any { return d.of(fuzzActions...) })
		s[d.of("Resource", "Resource", "Resource", "NotResource")] = d.one(2, d.resource)
		if c := d.condition(); len(c) > 0 {
			s["Condition"] = c
		}
		return s
	})
	return doc
}

// connection makes the same connection twice: for the package and for the
// naive evaluator.
func (d *dice) connection() (Context, facts) {
	v := func() string {
		if d.n(2) == 0 {
			return d.of("a", "b", "ab", "arn:aws:iot:r:1:topic/a", "arn:aws:s3:r:1:topic/a")
		}
		return d.of(fuzzValues...)
	}
	var orgs []string
	for range d.n(8) {
		orgs = append(orgs, v())
	}
	c := Context{
		ClientID: v(), DomainName: v(), PersistentConnect: d.n(2) == 1, LastWill: d.n(2) == 1,
		Thing: Thing{Name: v(), Type: v(), Attributes: map[string]string{"a": v()}, Attached: d.n(2) == 1},
		Certificate: Certificate{ID: v(), SerialNumber: v(), Values: map[string][]string{
			"Subject.CommonName": {v()}, "Issuer.CommonName": {v(), v()}, "Subject.Organization": orgs,
		}},
	}
	f := facts{
		"iot:ClientId": {c.ClientID}, "iot:DomainName": {c.DomainName}, "iot:Connection.Thing.ThingName": {c.Thing.Name},
		"iot:Connection.Thing.ThingTypeName": {c.Thing.Type}, "iot:Connection.Thing.Attributes[a]": {c.Thing.Attributes["a"]},
		"iot:Connection.Thing.IsAttached": {fmt.Sprint(c.Thing.Attached)}, "iot:CertificateId": {c.Certificate.ID},
		"iot:Certificate.SerialNumber":       {c.Certificate.SerialNumber},
		"iot:Certificate.Subject.CommonName": c.Certificate.Values["Subject.CommonName"],
		"iot:Certificate.Issuer.CommonName":  c.Certificate.Values["Issuer.CommonName"][:1],
	}
	if ip := d.of("", "10.0.0.1", "2001:db8::1", "10.0.0.9"); ip != "" {
		c.SourceIP = netip.MustParseAddr(ip)
		f["aws:SourceIp"] = []string{ip}
	}
	for i, o := range orgs {
		if i == 0 {
			f["iot:Certificate.Subject.Organization"] = []string{o}
		}
		if i < 5 {
			f[fmt.Sprint("iot:Certificate.Subject.Organization.", i)] = []string{o}
			f["iot:Certificate.Subject.Organization.List"] = append(f["iot:Certificate.Subject.Organization.List"], o)
		}
	}
	for _, name := range []string{"SerialNumber", "Subject.CommonName", "Issuer.CommonName", "Subject.Organization"} {
		if len(f["iot:Certificate."+name]) > 0 && f["iot:Certificate."+name][0] != "" {
			f["iot:Certificate.AvailableKeys"] = append(f["iot:Certificate.AvailableKeys"], "iot:Certificate."+name)
		}
	}
	if c.PersistentConnect {
		f["iot:ConnectAttributes"] = append(f["iot:ConnectAttributes"], "PersistentConnect")
	}
	if c.LastWill {
		f["iot:ConnectAttributes"] = append(f["iot:ConnectAttributes"], "LastWill")
	}
	return c, f
}

// round makes policies, a connection and questions, and compares the answers.
// It reports the results it saw.
func round(t *testing.T, data []byte) map[Result]int {
	d := &dice{data}
	ctx, known := d.connection()
	p := Partition{Region: d.of("", "us-east-1", "r"), Account: d.of("", "123", "1")}
	twin := &naive{facts: known, region: p.Region, account: p.Account}
	var docs []*Document
	var texts []string
	for range 1 + d.n(3) {
		m := d.document()
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := Parse(text)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("not a fault: %v", err)
			}
			continue
		}
		doc.Name = fmt.Sprint("p", len(docs))
		docs, twin.docs, texts = append(docs, doc), append(twin.docs, m), append(texts, string(text))
	}
	set := p.Compile(docs...)
	bound := set.Bind(ctx)
	seen := map[Result]int{}
	for range 6 {
		action := Action(1 + d.n(int(numActions)-1))
		if d.n(2) == 0 {
			action = []Action{Publish, Subscribe, Connect, Receive}[d.n(4)]
		}
		name := d.some(5, fuzzTopics...)
		want := twin.decide(action.String(), name)
		got := set.Explain(&ctx, action, name)
		seen[want]++
		if got.Result != want || bound.Allows(action, name) != (want == Allowed) || set.Allows(&ctx, action, name) != (want == Allowed) {
			t.Fatalf("%s %q: naive %s, Explain %s, Bound %t, Set %t\n%s\ncontext %+v\npartition %+v", action, name, want, got.Result,
				bound.Allows(action, name), set.Allows(&ctx, action, name), strings.Join(texts, "\n"), ctx, p)
		}
	}
	for _, doc := range docs {
		for _, f := range Overbroad(doc) { // does not panic, and names what is there
			if st := doc.statements[f.Statement]; f.Resource != "" && !slices.ContainsFunc(st.resources, func(r resource) bool { return r.raw == f.Resource }) {
				t.Fatalf("%+v is about no resource of %s", f, strings.Join(texts, "\n"))
			}
		}
	}
	return seen
}

// TestGlob_AgreesWithRegularExpressions compares patterns alone, whole and
// behind each type, which the questions to whole policies rarely get through
// to.
func TestGlob_AgreesWithRegularExpressions(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	twin := &naive{}
	matched := 0
	for range 6000 {
		d := &dice{randomBytes(r)}
		written := d.some(1, fuzzTypes...) + d.some(6, "a", "b", "*", "?", "€", "/", "${*}", "*??", "??b*")
		name := d.some(6, "a", "b", "€", "/", "*", "ab", "\n")
		parsed, err := parseText(written, true, "")
		if err != nil {
			t.Fatal(err)
		}
		whole := compileGlob(parsed)
		if want := twin.like(written, name); whole.match(name) != want {
			t.Fatalf("%q matches %q: want %t", written, name, want)
		}
		patterns := specialise(parsed, nil)
		for k := kindClient; k < numKinds; k++ {
			want := twin.like(written, kindPrefix[k]+name)
			got := slices.ContainsFunc(patterns, func(p pattern) bool { return p.kind == k && p.glob.match(name) })
			if got != want {
				t.Fatalf("%q matches %q behind %s: want %t", written, name, kindPrefix[k], want)
			}
			if want {
				matched++
			}
		}
	}
	if matched < 600 {
		t.Errorf("only %d matches: the generator makes too few", matched)
	}
}

func FuzzPolicy_AgreesWithTheNaiveEvaluator(f *testing.F) {
	r := rand.New(rand.NewPCG(7, 7))
	for range 64 {
		f.Add(randomBytes(r))
	}
	f.Fuzz(func(t *testing.T, data []byte) { round(t, data) })
}

// TestPolicy_AgreesWithTheNaiveEvaluator is the fuzz test's short form, and
// holds its generator to making all results often.
func TestPolicy_AgreesWithTheNaiveEvaluator(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	seen, total := map[Result]int{}, 0
	rounds := 2000
	if testing.Short() {
		rounds = 500
	}
	for range rounds {
		for result, n := range round(t, randomBytes(r)) {
			seen[result] += n
			total += n
		}
	}
	t.Logf("%v of %d", seen, total)
	for _, result := range []Result{Allowed, ExplicitDeny, ImplicitDeny} {
		if seen[result]*20 < total {
			t.Errorf("%s was the answer to %d of %d questions: the generator makes too few", result, seen[result], total)
		}
	}
}

func randomBytes(r *rand.Rand) []byte {
	data := make([]byte, 60+r.IntN(200))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return data
}

// FuzzParse: no input panics, every refusal is a fault of the caller, and what
// is accepted can be compiled, bound, asked and checked.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"}]}`,
		`{"Version":"2012-10-17","Statement":{"Sid":"a","Effect":"Deny","NotAction":["iot:Connect"],"NotResource":["arn:aws:iot:*:*:topic/${iot:ClientId}/${*}?*"],"Condition":{"ForAllValues:StringLikeIfExists":{"iot:ConnectAttributes":["Last*","${aws:SourceIp}"]},"Bool":{"iot:Connection.Thing.IsAttached":true}}}}`,
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:Subscribe","Resource":["topicfilter/a/*","arn:aws:iot:us-east-1:1:/topic/a"],"Condition":{"NumericLessThan":{"iot:Connection.Thing.Attributes[a]":"1e3"},"DateLessThan":{"iot:ClientId":"2020"},"IpAddress":{"aws:SourceIp":["::/0","10.0.0.1"]},"ArnLike":{"iot:ClientId":"arn:*:${iot:ClientId}:*:*:*"},"Null":{"iot:ClientId":"false"}}}]}`,
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Effect":"Deny"}]}`,
	} {
		f.Add([]byte(s), "a/b")
	}
	ctx := Context{ClientID: "a", SourceIP: netip.MustParseAddr("10.0.0.1"), Thing: Thing{Name: "a"}}
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		doc, err := Parse(data)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("not a fault: %v", err)
			}
			return
		}
		set := Compile(doc)
		bound := set.Bind(ctx)
		for a := Action(0); a <= numActions; a++ {
			want := bound.Allows(a, name)
			if set.Allows(&ctx, a, name) != want || (set.Explain(&ctx, a, name).Result == Allowed) != want {
				t.Fatalf("%s %q has two answers", a, name)
			}
		}
		Overbroad(doc)
	})
}
