package policy

import (
	"net/netip"
	"strings"
	"testing"
)

// holds asks whether a statement with the condition allows a connection.
func holds(t *testing.T, ctx Context, condition string, want bool) {
	t.Helper()
	set := Compile(parse(t, document(when(allow("iot:Connect", "*"), condition))))
	if got := set.Allows(&ctx, Connect, "x"); got != want {
		t.Errorf("%s: %t, want %t", condition, got, want)
	}
}

func TestCondition_Operators(t *testing.T) {
	ctx := Context{ClientID: "Press-7", SourceIP: netip.MustParseAddr("::ffff:203.0.113.9"), Thing: Thing{Name: "Press-7", Type: "42.0", Attributes: map[string]string{
		"date": "2024-05-01T12:00:00Z", "epoch": "1714564800", "arn": "arn:aws:iot:eu-1:12:topic/a:b/c", "flag": "TRUE",
	}}}
	const date, epoch, arn, flag = `"iot:Connection.Thing.Attributes[date]"`, `"iot:Connection.Thing.Attributes[epoch]"`, `"iot:Connection.Thing.Attributes[arn]"`, `"iot:Connection.Thing.Attributes[flag]"`
	for _, row := range []struct {
		op, key, value string
		want           bool
		negated        string
	}{
		{"StringEquals", `"iot:ClientId"`, `"Press-7"`, true, "StringNotEquals"},
		{"StringEquals", `"IOT:clientid"`, `["x","Press-7"]`, true, "StringNotEquals"},
		{"StringEquals", `"iot:ClientId"`, `"press-7"`, false, "StringNotEquals"},
		{"StringEquals", `"iot:ClientId"`, `"Press-*"`, false, "StringNotEquals"},
		{"StringEquals", `"iot:ClientId"`, `"${iot:Connection.Thing.ThingName}"`, true, "StringNotEquals"},
		{"StringEquals", `"iot:ClientId"`, `[]`, false, "StringNotEquals"},
		{"StringEqualsIgnoreCase", `"iot:ClientId"`, `"pRESS-7"`, true, "StringNotEqualsIgnoreCase"},
		{"StringEqualsIgnoreCase", `"iot:ClientId"`, `"press"`, false, "StringNotEqualsIgnoreCase"},
		{"StringLike", `"iot:ClientId"`, `"Press-?"`, true, "StringNotLike"},
		{"StringLike", `"iot:ClientId"`, `"*${iot:Connection.Thing.ThingName}*"`, true, "StringNotLike"},
		{"StringLike", `"iot:ClientId"`, `"Press-${*}"`, false, "StringNotLike"},
		{"NumericEquals", `"iot:Connection.Thing.ThingTypeName"`, `42`, true, "NumericNotEquals"},
		{"NumericEquals", `"iot:Connection.Thing.ThingTypeName"`, `"4.2e1"`, true, "NumericNotEquals"},
		{"NumericEquals", `"iot:ClientId"`, `"7"`, false, "NumericNotEquals"},
		{"NumericLessThan", `"iot:Connection.Thing.ThingTypeName"`, `42`, false, ""},
		{"NumericLessThan", `"iot:Connection.Thing.ThingTypeName"`, `42.5`, true, ""},
		{"NumericLessThanEquals", `"iot:Connection.Thing.ThingTypeName"`, `42`, true, ""},
		{"NumericGreaterThan", `"iot:Connection.Thing.ThingTypeName"`, `-1`, true, ""},
		{"NumericGreaterThan", `"iot:ClientId"`, `-1`, false, ""},
		{"NumericGreaterThanEquals", `"iot:Connection.Thing.ThingTypeName"`, `42.1`, false, ""},
		{"DateEquals", date, `"2024-05-01T14:00:00+02:00"`, true, "DateNotEquals"},
		{"DateEquals", date, `"1714564800"`, true, "DateNotEquals"},
		{"DateEquals", epoch, `"2024-05-01T12:00Z"`, true, "DateNotEquals"},
		{"DateLessThan", date, `"2024-05-02"`, true, ""},
		{"DateLessThan", date, `"2024"`, false, ""},
		{"DateLessThanEquals", date, `"2024-05-01T12:00:00.5Z"`, true, ""},
		{"DateGreaterThan", date, `"2024-05"`, true, ""},
		{"DateGreaterThanEquals", date, `1714564801`, false, ""},
		{"Bool", flag, `"true"`, true, ""},
		{"Bool", flag, `false`, false, ""},
		{"Bool", `"iot:ClientId"`, `false`, false, ""},
		{"Bool", `"iot:Connection.Thing.IsAttached"`, `"false"`, true, ""},
		{"IpAddress", `"aws:SourceIp"`, `"203.0.113.0/24"`, true, "NotIpAddress"},
		{"IpAddress", `"aws:SourceIp"`, `["::/0","203.0.113.9"]`, true, "NotIpAddress"},
		{"IpAddress", `"aws:SourceIp"`, `"::/0"`, false, "NotIpAddress"},
		{"IpAddress", `"aws:SourceIp"`, `"203.0.113.8"`, false, "NotIpAddress"},
		{"IpAddress", `"iot:ClientId"`, `"0.0.0.0/0"`, false, "NotIpAddress"},
		{"ArnLike", arn, `"arn:aws:iot:*:1?:topic/*"`, true, "ArnNotLike"},
		{"ArnEquals", arn, `"arn:*:iot:eu-*:12:topic/a:*"`, true, "ArnNotEquals"},
		{"ArnLike", arn, `"arn:aws:*:topic/a:b:c"`, false, "ArnNotLike"},
		{"ArnLike", arn, `"*"`, true, "ArnNotLike"},
		{"ArnLike", `"iot:ClientId"`, `"*"`, false, "ArnNotLike"},
	} {
		holds(t, ctx, `{"`+row.op+`":{`+row.key+`:`+row.value+`}}`, row.want)
		if row.negated != "" {
			holds(t, ctx, `{"`+row.negated+`":{`+row.key+`:`+row.value+`}}`, !row.want)
		}
	}
	// A wildcard of an ARN stays between colons, where StringLike's does not.
	far := Context{ClientID: "arn:aws:iot:us:99:x:12:topic/a"}
	holds(t, far, `{"StringLike":{"iot:ClientId":"arn:aws:iot:*:12:topic/a"}}`, true)
	holds(t, far, `{"ArnLike":{"iot:ClientId":"arn:aws:iot:*:12:topic/a"}}`, false)
	// All keys and all operators have to hold.
	holds(t, ctx, `{"StringEquals":{"iot:ClientId":"Press-7","iot:Connection.Thing.ThingName":"x"}}`, false)
	holds(t, ctx, `{"StringEquals":{"iot:ClientId":"Press-7"},"Bool":{"iot:Connection.Thing.IsAttached":"true"}}`, false)
}

func TestCondition_AMissingKeyMatchesNothing(t *testing.T) {
	for op, want := range map[string]bool{
		"StringEquals": false, "StringNotEquals": true, "StringLike": false, "StringNotLike": true, "NotIpAddress": true, "IpAddress": false,
		"NumericLessThan": false, "NumericNotEquals": true, "Bool": false, "ArnNotLike": true, "DateGreaterThan": false,
		"ForAllValues:StringEquals": true, "ForAllValues:StringNotEquals": true, "ForAnyValue:StringEquals": false, "ForAnyValue:StringNotEquals": false,
	} {
		value := `"x"`
		switch {
		case strings.Contains(op, "Ip"):
			value = `"10.0.0.1"`
		case strings.Contains(op, "Numeric"), strings.Contains(op, "Date"):
			value = `1`
		case op == "Bool":
			value = `true`
		case strings.Contains(op, "Arn"):
			value = `"*"`
		}
		holds(t, Context{}, `{"`+op+`":{"iot:ClientId":`+value+`}}`, want)
		holds(t, Context{}, `{"`+op+`IfExists":{"iot:ClientId":`+value+`}}`, true)
		holds(t, Context{ClientID: "y"}, `{"`+op+`IfExists":{"iot:ClientId":`+value+`}}`, strings.Contains(op, "Not"))
	}
	for value, want := range map[string]bool{`true`: true, `"false"`: false, `["true","false"]`: true, `[]`: false} {
		holds(t, Context{}, `{"Null":{"iot:ClientId":`+value+`}}`, want)
	}
	holds(t, Context{ClientID: "y"}, `{"Null":{"iot:ClientId":false}}`, true)
	holds(t, Context{}, `{"Null":{"iot:ConnectAttributes":true}}`, true) // an empty list is no value
	holds(t, Context{}, `{"Null":{"iot:Connection.Thing.IsAttached":false}}`, true)
}

func TestCondition_ConnectAttributesGuardSessionsAndWills(t *testing.T) {
	none, persistent, will, both := Context{}, Context{PersistentConnect: true}, Context{LastWill: true}, Context{PersistentConnect: true, LastWill: true}
	statement := func(effect, condition string) string {
		s := `{"Effect":"` + effect + `","Action":"iot:Connect","Resource":"*"}`
		if condition != "" {
			s = when(s, `{`+condition+`}`)
		}
		return s
	}
	for _, row := range []struct {
		about                          string
		doc                            string
		none, persistent, will, either bool
	}{
		{"an unconditional Allow", document(statement("Allow", "")), true, true, true, true},
		{"persistent sessions only", document(statement("Allow", `"ForAllValues:StringEquals":{"iot:ConnectAttributes":["PersistentConnect"]}`)), true, true, false, false},
		{"both", document(statement("Allow", `"ForAllValues:StringEquals":{"iot:ConnectAttributes":["PersistentConnect","LastWill"]}`)), true, true, true, true},
		{"nothing but defaults", document(statement("Allow", `"ForAllValues:StringEquals":{"iot:ConnectAttributes":[]}`)), true, false, false, false},
		{"no persistent session", document(statement("Allow", `"ForAllValues:StringNotEquals":{"iot:ConnectAttributes":["PersistentConnect"]}`)), true, false, true, false},
		{"no persistent session, by Deny", document(statement("Allow", ""), statement("Deny", `"ForAnyValue:StringEquals":{"iot:ConnectAttributes":["PersistentConnect"]}`)), true, false, true, false},
		{"persistent or not at all", document(statement("Allow", `"ForAnyValue:StringEquals":{"iot:ConnectAttributes":"PersistentConnect"}`)), false, true, false, true},
	} {
		set := Compile(parse(t, row.doc))
		for _, c := range []struct {
			ctx  Context
			want bool
		}{{none, row.none}, {persistent, row.persistent}, {will, row.will}, {both, row.either}} {
			if got := set.Bind(c.ctx).Allows(Connect, "x"); got != c.want {
				t.Errorf("%s: persistent %t, will %t: %t", row.about, c.ctx.PersistentConnect, c.ctx.LastWill, got)
			}
		}
	}
}

func TestCondition_ListsOfACertificate(t *testing.T) {
	org := func(list ...string) Context {
		return Context{Certificate: Certificate{SerialNumber: "1", Values: map[string][]string{"Subject.Organization": list}}}
	}
	const list = `"iot:Certificate.Subject.Organization.List"`
	all := `{"ForAllValues:StringEquals":{` + list + `:["Example Corp","AnyCompany"]}}`
	holds(t, org("Example Corp", "AnyCompany"), all, true)
	holds(t, org("Example Corp", "Other"), all, false)
	holds(t, org(), all, true) // "ForAllValues is true for an empty set"
	some := `{"ForAnyValue:StringLike":{` + list + `:"Any*"}}`
	holds(t, org("Example Corp", "AnyCompany"), some, true)
	holds(t, org("Example Corp"), some, false)
	holds(t, org(), some, false)
	holds(t, org("a", "b"), `{"StringEquals":{`+list+`:"b"}}`, true)
	holds(t, org("a", "b"), `{"StringNotEquals":{`+list+`:"b"}}`, false)
	// "lists stop at 5"
	holds(t, org("1", "2", "3", "4", "5", "6"), `{"ForAnyValue:StringEquals":{`+list+`:"5"}}`, true)
	holds(t, org("1", "2", "3", "4", "5", "6"), `{"ForAnyValue:StringEquals":{`+list+`:"6"}}`, false)
	holds(t, org("1", "2", "3", "4", "5", "6"), `{"Null":{"iot:Certificate.Subject.Organization.5":true}}`, true)
	holds(t, org("1", "2"), `{"StringEquals":{"iot:Certificate.Subject.Organization":"2"}}`, false)
	// AvailableKeys has the names of what is there.
	holds(t, org("1"), `{"ForAllValues:StringEquals":{"iot:Certificate.AvailableKeys":["iot:Certificate.SerialNumber","iot:Certificate.Subject.Organization"]}}`, true)
	holds(t, org("1"), `{"ForAnyValue:StringEquals":{"iot:Certificate.AvailableKeys":"iot:Certificate.Subject.CommonName"}}`, false)
}
