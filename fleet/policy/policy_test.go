package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

// parse is a document that has to be good.
func parse(t testing.TB, text string) *Document {
	t.Helper()
	d, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return d
}

// document wraps statements.
func document(statements ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
}

// allow and deny make a statement of one action; resources are written without
// the ARN's first five parts.
func allow(action string, resources ...string) string { return effect("Allow", action, resources) }
func deny(action string, resources ...string) string  { return effect("Deny", action, resources) }

func effect(effect, action string, resources []string) string {
	var list []string
	for _, r := range resources {
		if r != "*" {
			r = "arn:aws:iot:us-east-1:123456789012:" + r
		}
		list = append(list, fmt.Sprintf("%q", r))
	}
	return fmt.Sprintf(`{"Effect":%q,"Action":%q,"Resource":[%s]}`, effect, action, strings.Join(list, ","))
}

// when adds a condition to a statement.
func when(statement, condition string) string {
	return strings.TrimSuffix(statement, "}") + `,"Condition":` + condition + "}"
}

// question is asked of a set; want is its answer, no for nothing said, - for an
// explicit refusal.
type question struct {
	action Action
	name   string
	want   string // yes, no or deny
}

func ask(t *testing.T, ctx Context, doc string, questions ...question) {
	t.Helper()
	set := Compile(parse(t, doc))
	bound := set.Bind(ctx)
	for _, q := range questions {
		want := map[string]Result{"yes": Allowed, "no": ImplicitDeny, "deny": ExplicitDeny}[q.want]
		if got := set.Explain(&ctx, q.action, q.name).Result; got != want {
			t.Errorf("%s %q: %s, want %s\n%s", q.action, q.name, got, want, doc)
		}
		if bound.Allows(q.action, q.name) != (want == Allowed) || set.Allows(&ctx, q.action, q.name) != (want == Allowed) {
			t.Errorf("%s %q: Allows and Explain differ", q.action, q.name)
		}
	}
}

var press = Context{
	ClientID: "press-7", SourceIP: netip.MustParseAddr("10.1.2.3"),
	Thing: Thing{Name: "press-7", Type: "press", Attributes: map[string]string{"hall": "3", "built": "2024-05-01"}, Attached: true},
	Certificate: Certificate{ID: strings.Repeat("ab", 32), SerialNumber: "40aa", Values: map[string][]string{
		"Subject.Organization": {"Example Corp", "AnyCompany"}, "Subject.CommonName": {"press-7"}, "Issuer.CommonName": {"Devices 1"},
	}},
}

func TestPolicy_DeniesByDefaultAndADenyWins(t *testing.T) {
	ask(t, press, document(), question{Publish, "a", "no"}) // "Default deny"
	// "explicit Deny wins", whichever comes first, also over another policy.
	for _, doc := range []string{
		document(allow("iot:Publish", "topic/*"), deny("iot:Publish", "topic/secret")),
		document(deny("iot:Publish", "topic/secret"), allow("iot:Publish", "topic/*")),
	} {
		ask(t, press, doc, question{Publish, "a", "yes"}, question{Publish, "secret", "deny"}, question{Receive, "a", "no"})
	}
	// "union of all attached policies"
	a, b := parse(t, document(allow("iot:Publish", "topic/a"))), parse(t, document(deny("iot:*", "topic/b"), allow("iot:Publish", "topic/c")))
	for _, set := range []*Set{Compile(a, b), Compile(b, nil, a)} {
		bound := set.Bind(press)
		for topic, want := range map[string]bool{"a": true, "b": false, "c": true, "d": false} {
			if bound.Allows(Publish, topic) != want {
				t.Errorf("topic %s: want %t", topic, want)
			}
		}
	}
	var none *Set
	if none.Allows(&press, Publish, "a") || none.Bind(press).Allows(Publish, "a") || (*Bound)(nil).Allows(Publish, "a") {
		t.Error("nothing allows something")
	}
	everything := Compile(parse(t, document(allow("*", "*"))))
	if everything.Bind(press).Allows(0, "a") || everything.Allows(&press, numActions, "a") || !everything.Allows(nil, Publish, "a") {
		t.Error("an unknown action is allowed, or a context is needed where nothing depends on one")
	}
}

func TestPolicy_EachActionHasItsResource(t *testing.T) {
	// The table of actions of section 7.
	for _, row := range []struct {
		action   Action
		name     string
		resource string
	}{
		{Connect, "iot:Connect", "client/x"},
		{Publish, "iot:Publish", "topic/x"},
		{Receive, "iot:Receive", "topic/x"},
		{RetainPublish, "iot:RetainPublish", "topic/x"},
		{GetRetainedMessage, "iot:GetRetainedMessage", "topic/x"},
		{Subscribe, "iot:Subscribe", "topicfilter/x"},
		{GetThingShadow, "iot:GetThingShadow", "thing/x"},
		{UpdateThingShadow, "iot:UpdateThingShadow", "thing/x"},
		{DeleteThingShadow, "iot:DeleteThingShadow", "thing/x"},
		{ListNamedShadowsForThing, "iot:ListNamedShadowsForThing", "*"},
		{ListRetainedMessages, "iot:ListRetainedMessages", "*"},
		{DescribeJobExecution, "iotjobsdata:DescribeJobExecution", "thing/x"},
		{GetPendingJobExecutions, "iotjobsdata:GetPendingJobExecutions", "thing/x"},
		{UpdateJobExecution, "iotjobsdata:UpdateJobExecution", "thing/x"},
		{StartNextPendingJobExecution, "iotjobsdata:StartNextPendingJobExecution", "thing/x"},
		{AssumeRoleWithCertificate, "iot:AssumeRoleWithCertificate", "rolealias/x"},
	} {
		if a, err := ParseAction(row.name); err != nil || a != row.action || a.String() != row.name {
			t.Errorf("%s: %v %v", row.name, a, err)
		}
		for _, resource := range []string{"client/x", "topic/x", "topicfilter/x", "thing/x", "rolealias/x", "*"} {
			set := Compile(parse(t, document(allow(row.name, resource))))
			for a := Connect; a < numActions; a++ {
				want := a == row.action && (resource == "*" || resource == row.resource)
				if set.Allows(&press, a, "x") != want {
					t.Errorf("%s on %s allows %s: want %t", row.name, resource, a, want)
				}
			}
		}
	}
	// "older iot: prefix"
	for _, list := range []string{`"iot:UpdateJobExecution"`, `["iotjobsdata:Update*"]`, `"iot:*Job*"`} {
		ask(t, press, document(`{"Effect":"Allow","Action":`+list+`,"Resource":"*"}`), question{UpdateJobExecution, "x", "yes"})
	}
	ask(t, press, document(`{"Effect":"Allow","NotAction":["iot:UpdateJobExecution","iot:Publish"],"Resource":"*"}`),
		question{UpdateJobExecution, "x", "no"}, question{Publish, "x", "no"}, question{Receive, "x", "yes"}, question{ListRetainedMessages, "", "yes"})
	ask(t, press, document(allow("iotjobsdata:*", "*")), question{UpdateJobExecution, "x", "yes"}, question{Publish, "x", "no"})
	// "thing/T or thing/T/N"; a shared filter "is matched as sent"
	ask(t, press, document(allow("iot:GetThingShadow", "thing/T", "thing/T/N"), allow("iot:Subscribe", "topicfilter/$share/g/a/#")),
		question{GetThingShadow, "T", "yes"}, question{GetThingShadow, "T/N", "yes"}, question{GetThingShadow, "T/M", "no"},
		question{Subscribe, "$share/g/a/#", "yes"}, question{Subscribe, "a/#", "no"})
}

func TestPolicy_WildcardsAreThePolicysNotMQTTs(t *testing.T) {
	// "topicfilter/a/* allows subscribing to a/# and a/+/b; a Deny on
	// topicfilter/a/secret/* does not stop a/#: Receive does."
	ask(t, press, document(allow("iot:Subscribe", "topicfilter/a/*"), deny("iot:Subscribe", "topicfilter/a/secret/*"),
		allow("iot:Receive", "topic/a/*"), deny("iot:Receive", "topic/a/secret/*")),
		question{Subscribe, "a/#", "yes"}, question{Subscribe, "a/+/b", "yes"}, question{Subscribe, "a/secret/b", "deny"},
		question{Subscribe, "a", "no"}, question{Subscribe, "a/", "yes"}, question{Receive, "a/secret/b", "deny"}, question{Receive, "a/b/c", "yes"})
	// "+ and # in a policy are literal"
	ask(t, press, document(allow("iot:Subscribe", "topicfilter/a/+/b", "topicfilter/c/#"), allow("iot:Publish", "topic/a/+")),
		question{Subscribe, "a/+/b", "yes"}, question{Subscribe, "a/x/b", "no"}, question{Subscribe, "c/#", "yes"}, question{Subscribe, "c/d", "no"},
		question{Publish, "a/x", "no"}, question{Publish, "a/+", "yes"})
	// "* any characters across levels, ? one character": one code point.
	ask(t, press, document(allow("iot:Publish", "topic/a*z", "topic/?", "topic/x?y")),
		question{Publish, "az", "yes"}, question{Publish, "a/b/z", "yes"}, question{Publish, "a/b/zz", "yes"}, question{Publish, "a/b", "no"},
		question{Publish, "é", "yes"}, question{Publish, "", "no"}, question{Publish, "ab", "no"}, question{Publish, "x/y", "yes"}, question{Publish, "x€y", "yes"}, question{Publish, "xy", "no"})
	// "Literal specials: ${*}, ${?}, ${$}"; a $ alone is itself.
	ask(t, press, document(allow("iot:Publish", "topic/${*}", "topic/q${?}", "topic/${$}{x}", "topic/$aws/x")),
		question{Publish, "*", "yes"}, question{Publish, "a", "no"}, question{Publish, "q?", "yes"}, question{Publish, "qa", "no"},
		question{Publish, "${x}", "yes"}, question{Publish, "$aws/x", "yes"})
	// A wildcard covers types as well as names.
	ask(t, press, document(allow("*", "t*/a")), question{Publish, "a", "yes"}, question{Subscribe, "a", "yes"}, question{GetThingShadow, "a", "yes"},
		question{Publish, "x/a", "yes"}, question{Connect, "a", "no"}, question{ListRetainedMessages, "", "no"})
	ask(t, press, document(allow("*", "*/a")), question{Connect, "a", "yes"}, question{Publish, "b", "no"}, question{Publish, "b/a", "yes"})
}

func TestPolicy_ARNsOfTheCloudMatchHere(t *testing.T) {
	for resource, want := range map[string]string{
		"arn:aws:iot:us-east-1:123456789012:topic/a":  "yes",
		"arn:aws:iot:*:*:topic/a":                     "yes",
		"arn:aws:iot:eu-*:*:topic/*":                  "yes",
		"arn:aws-cn:iot:cn-north-1:1:topic/a":         "yes",
		"arn:*:iot:*:*:*":                             "yes",
		"arn:aws:iot:us-east-1:123456789012:/topic/a": "yes", // "some documents omit the prefix before the first /"
		"topic/a":  "yes",
		"/topic/a": "yes",
		"arn:aws:iot:us-east-1:123456789012:topicfilter/a":   "no",
		"arn:aws:iot:us-east-1:123456789012:topic/us-east:a": "no",
	} {
		ask(t, press, document(fmt.Sprintf(`{"Effect":"Allow","Action":"iot:Publish","Resource":%q}`, resource)), question{Publish, "a", want})
	}
	doc := parse(t, document(`{"Effect":"Allow","Action":"iot:Publish","Resource":["arn:aws:iot:eu-*:1?:topic/a","topic/r"]}`, `{"Effect":"Deny","Action":"iot:Publish","NotResource":"arn:aws:iot:us-*:*:topic/a"}`))
	for _, row := range []struct {
		p    Partition
		want bool
	}{
		{Partition{}, true},
		{Partition{Region: "us-1"}, false},
		{Partition{Region: "eu-1"}, false}, // the Deny excepts nothing of this region
		{Partition{Account: "12"}, true},
		{Partition{Account: "2"}, false},
	} {
		if got := row.p.Compile(doc).Allows(&press, Publish, "a"); got != row.want {
			t.Errorf("%+v: %t", row.p, got)
		}
	}
}

func TestPolicy_NotResourceIsEverythingElse(t *testing.T) {
	ask(t, press, document(`{"Effect":"Allow","Action":"iot:*","NotResource":["topic/a*","client/${iot:ClientId}"]}`),
		question{Publish, "a", "no"}, question{Publish, "b", "yes"}, question{Connect, "press-7", "no"}, question{Connect, "x", "yes"}, question{ListRetainedMessages, "", "yes"})
	ask(t, press, document(`{"Effect":"Allow","Action":"iot:*","NotResource":"*"}`), question{Publish, "a", "no"}, question{ListRetainedMessages, "", "no"})
	ask(t, Context{}, document(`{"Effect":"Allow","Action":"iot:*","NotResource":["topic/a","client/${iot:ClientId}"]}`), question{Publish, "b", "no"})
}

func TestPolicy_VariablesAreTheConnections(t *testing.T) {
	for name, value := range map[string]string{
		"iot:ClientId": "press-7", "aws:SourceIp": "10.1.2.3", "aws:sourceIP": "10.1.2.3",
		"iot:Connection.Thing.ThingName": "press-7", "iot:Connection.Thing.ThingTypeName": "press",
		"iot:Connection.Thing.Attributes[hall]": "3", "iot:Connection.Thing.IsAttached": "true",
		"iot:CertificateId": press.Certificate.ID, "iot:Certificate.SerialNumber": "40aa",
		"iot:Certificate.Subject.Organization": "Example Corp", "iot:Certificate.Subject.Organization.0": "Example Corp",
		"iot:Certificate.Subject.Organization.1": "AnyCompany", // ".1 = the second"
		"iot:Certificate.Issuer.CommonName":      "Devices 1",
	} {
		ask(t, press, document(allow("iot:Publish", "topic/a/${"+name+"}/b", "topic/q/${"+name+"}/*")),
			question{Publish, "a/" + value + "/b", "yes"}, question{Publish, "a/x/b", "no"}, question{Publish, "q/" + value + "/c/d", "yes"})
	}
	// "unresolved ⇒ statement does not match"; a Deny included.
	for _, name := range []string{"iot:Connection.Thing.Attributes[Hall]", "iot:Certificate.Subject.Organization.2", "iot:Certificate.Subject.Title", "iot:DomainName"} {
		ask(t, press, document(allow("iot:Publish", "topic/*"), deny("iot:Publish", "topic/a", "topic/${"+name+"}")), question{Publish, "a", "yes"})
		ask(t, press, document(allow("iot:Publish", "topic/a", "topic/${"+name+"}")), question{Publish, "a", "no"}, question{Publish, "", "no"}, question{Publish, "${" + name + "}", "no"})
		ask(t, press, document(when(allow("iot:Publish", "topic/a"), `{"StringNotEquals":{"iot:ClientId":["x","${`+name+`}"]}}`)), question{Publish, "a", "no"})
	}
	ask(t, Context{Thing: Thing{Name: "x"}}, document(allow("iot:Publish", "topic/${iot:Connection.Thing.IsAttached}")), question{Publish, "false", "yes"})
}

// S21: "A value containing * $ + ? # or longer than 1024 is not substituted".
func TestS21_AValueNeverWidensAPolicy(t *testing.T) {
	bad := []string{"*", "a*", "+", "#", "?", "$aws", "${iot:CertificateId}", strings.Repeat("x", 1025), "a\xff"}
	for _, value := range bad {
		ctx := Context{ClientID: value, Thing: Thing{Attributes: map[string]string{"a": value}}}
		for _, v := range []string{"iot:ClientId", "iot:Connection.Thing.Attributes[a]"} {
			ask(t, ctx, document(allow("iot:Publish", "topic/${"+v+"}", "topic/a")), question{Publish, value, "no"}, question{Publish, "a", "no"})
		}
		if err := CheckValue(value); !errors.Is(err, ErrValue) {
			t.Errorf("%q is taken: %v", value, err)
		}
		// As the key of a condition it is compared as it is.
		if value != "a\xff" && !strings.Contains(value, "$") {
			ask(t, ctx, document(when(allow("iot:Publish", "*"), fmt.Sprintf(`{"StringEquals":{"iot:ClientId":%q}}`, value))), question{Publish, "x", "yes"})
		}
	}
	for _, value := range []string{"a", "a/b", "é", "{}", strings.Repeat("é", 1024)} {
		if err := CheckValue(value); err != nil {
			t.Errorf("%q: %v", value, err)
		}
		ask(t, Context{ClientID: value}, document(allow("iot:Publish", "topic/${iot:ClientId}")), question{Publish, value, "yes"})
	}
	// A value is text, also where the document has a wildcard around it.
	ask(t, Context{ClientID: "a"}, document(allow("iot:Publish", "topic/?${iot:ClientId}*")), question{Publish, "xab", "yes"}, question{Publish, "xb", "no"})
}

func TestBound_KeepsItsConnectionAndMayBeShared(t *testing.T) {
	set := Compile(parse(t, document(allow("iot:Publish", "topic/${iot:ClientId}/*", "topic/all"))))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			me, other := fmt.Sprint("c", i), fmt.Sprint("c", i+1)
			ctx := Context{ClientID: me}
			b := set.Bind(ctx)
			ctx.ClientID = other
			for range 1000 {
				if !b.Allows(Publish, me+"/x") || b.Allows(Publish, other+"/x") || !b.Allows(Publish, "all") {
					t.Error("a connection has another's rights")
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestExplain_NamesTheStatementAndWhatIsMissing(t *testing.T) {
	a := parse(t, document(`{"Sid":"own","Effect":"Allow","Action":"iot:Publish","Resource":"topic/a"}`, deny("iot:Publish", "topic/b"),
		when(allow("iot:Publish", "topic/${iot:Connection.Thing.ThingTypeName}"), `{"StringEquals":{"iot:DomainName":"x"},"StringEqualsIfExists":{"iot:Certificate.Subject.Title":"x"},"Null":{"iot:Certificate.Subject.Surname":"true"}}`)))
	b := parse(t, document(allow("iot:*", "topic/*"), allow("iot:Connect", "client/${iot:Certificate.Subject.Title}")))
	a.Name, b.Name = "A", "B"
	ctx := Context{ClientID: "*"}
	d := Compile(a, b).Explain(&ctx, Publish, "a")
	if d.Result != Allowed || d.Policy != "A" || d.Statement != 0 || d.Sid != "own" || len(d.Matches) != 2 || d.Matches[1].Policy != "B" {
		t.Errorf("%+v", d)
	}
	if got := strings.Join(d.Missing, " "); got != "iot:Connection.Thing.ThingTypeName iot:DomainName" {
		t.Errorf("missing %s", got)
	}
	if d = Compile(b, a).Explain(&ctx, Publish, "b"); d.Result != ExplicitDeny || d.Policy != "A" || d.Statement != 1 || !d.Deny {
		t.Errorf("%+v", d)
	}
	if d = Compile(a, b).Explain(&ctx, Connect, "x"); d.Result != ImplicitDeny || d.Statement != -1 || d.Policy != "" || len(d.Matches) != 0 || len(d.Missing) != 1 {
		t.Errorf("%+v", d)
	}
}

func TestNameOf_TakesARNs(t *testing.T) {
	for _, row := range []struct {
		action         Action
		resource, want string
	}{
		{Publish, "arn:aws:iot:r:1:topic/a:b/c", "a:b/c"}, {Publish, "topic/a", "a"}, {Publish, "arn:aws:iot:r:1:/topic/a", "a"},
		{Subscribe, "topicfilter/a/#", "a/#"}, {ListRetainedMessages, "*", "*"},
	} {
		if got, err := NameOf(row.action, row.resource); err != nil || got != row.want {
			t.Errorf("%s %s: %q %v", row.action, row.resource, got, err)
		}
	}
	for _, resource := range []string{"a", "topicfilter/a", "arn:aws:iot:topic/a", ""} {
		if _, err := NameOf(Publish, resource); !errors.Is(err, ErrResource) {
			t.Errorf("%q is taken: %v", resource, err)
		}
	}
	if _, err := NameOf(0, "topic/a"); !errors.Is(err, ErrAction) {
		t.Error(err)
	}
}
