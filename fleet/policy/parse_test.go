package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
)

func TestParse_RefusesWithACodeAndThePath(t *testing.T) {
	statement := func(members string) string {
		return document(`{"Effect":"Allow","Action":"iot:Publish","Resource":"*",` + members + `}`)
	}
	resource := func(r string) string {
		return document(fmt.Sprintf(`{"Effect":"Allow","Action":"iot:Publish","Resource":["*",%q]}`, r))
	}
	condition := func(c string) string { return statement(`"Condition":` + c) }
	for _, row := range []struct {
		name, doc string
		want      error
		path      string
	}{
		{"no JSON", `{`, strictjson.ErrMalformed, ""},
		{"a member twice", `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Effect":"Allow","Action":"*","Resource":"*"}]}`, strictjson.ErrDuplicateKey, "Statement[0]"},
		{"too deep", `{"Version":"2012-10-17","Statement":[[[[[[[[[]]]]]]]]]}`, strictjson.ErrLimit, ""},
		{"too long", document(statementOf(2049)), ErrTooLong, ""},
		{"too long with white space", document(allow("*", "*")) + strings.Repeat(" ", 64<<10), ErrTooLong, ""},
		{"a list", `[]`, ErrStructure, ""},
		{"no version", `{"Statement":[]}`, ErrStructure, ""},
		{"another version", `{"Version":"2008-10-17","Statement":[]}`, ErrVersion, "Version"},
		{"version no string", `{"Version":2012,"Statement":[]}`, ErrStructure, "Version"},
		{"no statement", `{"Version":"2012-10-17"}`, ErrStructure, ""},
		{"unknown member", `{"Version":"2012-10-17","Statement":[],"statement":[]}`, ErrStructure, ""},
		{"statement no object", `{"Version":"2012-10-17","Statement":["x"]}`, ErrStructure, "Statement[0]"},
		{"statement null", `{"Version":"2012-10-17","Statement":null}`, ErrStructure, "Statement"},
		{"principal", statement(`"Principal":"*"`), ErrStructure, "Statement[0]"},
		{"sid no string", statement(`"Sid":1`), ErrStructure, "Statement[0].Sid"},
		{"sid with a line break", statement(`"Sid":"a\nb"`), ErrStructure, "Statement[0].Sid"},
		{"sid twice", document(`{"Sid":"a","Effect":"Allow","Action":"*","Resource":"*"}`, `{"Sid":"a","Effect":"Allow","Action":"*","Resource":"*"}`), ErrStructure, "Statement[1].Sid"},
		{"no effect", document(`{"Action":"*","Resource":"*"}`), ErrStructure, "Statement[0]"},
		{"other effect", document(`{"Effect":"allow","Action":"*","Resource":"*"}`), ErrStructure, "Statement[0].Effect"},
		{"no action", document(`{"Effect":"Allow","Resource":"*"}`), ErrStructure, "Statement[0]"},
		{"both actions", statement(`"NotAction":"*"`), ErrStructure, "Statement[0]"},
		{"both resources", statement(`"NotResource":"*"`), ErrStructure, "Statement[0]"},
		{"empty actions", document(`{"Effect":"Allow","Action":[],"Resource":"*"}`), ErrStructure, "Statement[0].Action"},
		{"action no string", document(`{"Effect":"Allow","Action":["iot:Publish",7],"Resource":"*"}`), ErrStructure, "Statement[0].Action[1]"},
		{"unknown action", document(`{"Effect":"Allow","Action":["iot:Publish","iot:Pubish"],"Resource":"*"}`), ErrAction, "Statement[0].Action[1]"},
		{"action in another case", document(`{"Effect":"Deny","Action":"iot:publish","Resource":"*"}`), ErrAction, "Statement[0].Action"},
		{"wildcard without an action", document(`{"Effect":"Deny","Action":"s3:*","Resource":"*"}`), ErrAction, "Statement[0].Action"},
		{"variable in an action", document(`{"Effect":"Deny","Action":"${iot:ClientId}","Resource":"*"}`), ErrAction, "Statement[0].Action"},
		{"no resource", document(`{"Effect":"Allow","Action":"*"}`), ErrStructure, "Statement[0]"},
		{"empty resources", document(`{"Effect":"Allow","Action":"*","NotResource":[]}`), ErrStructure, "Statement[0].NotResource"},
		{"resource no string", document(`{"Effect":"Allow","Action":"*","Resource":[{}]}`), ErrStructure, "Statement[0].Resource[0]"},
		{"no ARN", resource("a/b"), ErrResource, "Statement[0].Resource[1]"},
		{"empty resource", resource(""), ErrResource, "Statement[0].Resource[1]"},
		{"short ARN", resource("arn:aws:iot:topic/a"), ErrResource, "Statement[0].Resource[1]"},
		{"another service", resource("arn:aws:s3:r:1:topic/a"), ErrResource, "Statement[0].Resource[1]"},
		{"another partition", resource("arn:corp:iot:r:1:topic/a"), ErrResource, "Statement[0].Resource[1]"},
		{"another type", resource("arn:aws:iot:r:1:topics/a"), ErrResource, "Statement[0].Resource[1]"},
		{"type in another case", resource("arn:aws:iot:r:1:Topic/a"), ErrResource, "Statement[0].Resource[1]"},
		{"nothing behind the account", resource("arn:aws:iot:r:1:"), ErrResource, "Statement[0].Resource[1]"},
		{"variable in the account", resource("arn:aws:iot:r:${iot:ClientId}:topic/a"), ErrResource, "Statement[0].Resource[1]"},
		{"variable that is open", resource("arn:aws:iot:r:1:topic/${iot:ClientId"), ErrVariable, "Statement[0].Resource[1]"},
		{"empty variable", resource("topic/${}"), ErrVariable, "Statement[0].Resource[1]"},
		{"unknown variable", resource("topic/${iot:ClientID2}"), ErrVariable, "Statement[0].Resource[1]"},
		{"unknown subject attribute", resource("topic/${iot:Certificate.Subject.Locality}"), ErrVariable, "Statement[0].Resource[1]"},
		{"bad index", resource("topic/${iot:Certificate.Subject.CommonName.x}"), ErrVariable, "Statement[0].Resource[1]"},
		{"bad attribute", resource("topic/${iot:Connection.Thing.Attributes[a b]}"), ErrVariable, "Statement[0].Resource[1]"},
		{"empty attribute", resource("topic/${iot:Connection.Thing.Attributes[]}"), ErrVariable, "Statement[0].Resource[1]"},
		{"nested variable", resource("topic/${iot:${iot:ClientId}}"), ErrVariable, "Statement[0].Resource[1]"},
		{"list in a text", resource("topic/${iot:Certificate.Subject.CommonName.List}"), ErrVariable, "Statement[0].Resource[1]"},
		{"condition no object", condition(`[]`), ErrStructure, "Statement[0].Condition"},
		{"operator no object", condition(`{"Bool":"true"}`), ErrStructure, "Statement[0].Condition.Bool"},
		{"unknown operator", condition(`{"StringEqual":{}}`), ErrCondition, "Statement[0].Condition.StringEqual"},
		{"operator in another case", condition(`{"stringEquals":{}}`), ErrCondition, "Statement[0].Condition.stringEquals"},
		{"unknown quantifier", condition(`{"ForSomeValues:StringEquals":{}}`), ErrCondition, `Statement[0].Condition["ForSomeValues:StringEquals"]`},
		{"Null with an addition", condition(`{"NullIfExists":{}}`), ErrCondition, "Statement[0].Condition.NullIfExists"},
		{"unknown key", condition(`{"Bool":{"iot:Connection.Thing.IsAtached":"true"}}`), ErrVariable, `Statement[0].Condition.Bool["iot:Connection.Thing.IsAtached"]`},
		{"value null", condition(`{"Bool":{"iot:ClientId":null}}`), ErrStructure, `Statement[0].Condition.Bool["iot:ClientId"]`},
		{"value an object", condition(`{"Bool":{"iot:ClientId":[true,{}]}}`), ErrStructure, `Statement[0].Condition.Bool["iot:ClientId"][1]`},
		{"no boolean", condition(`{"Bool":{"iot:ClientId":"yes"}}`), ErrCondition, `Statement[0].Condition.Bool["iot:ClientId"]`},
		{"no number", condition(`{"NumericEquals":{"iot:ClientId":"0x10"}}`), ErrCondition, `Statement[0].Condition.NumericEquals["iot:ClientId"]`},
		{"infinite", condition(`{"NumericEquals":{"iot:ClientId":"Inf"}}`), ErrCondition, `Statement[0].Condition.NumericEquals["iot:ClientId"]`},
		{"no date", condition(`{"DateEquals":{"iot:ClientId":"5 May"}}`), ErrCondition, `Statement[0].Condition.DateEquals["iot:ClientId"]`},
		{"no address", condition(`{"IpAddress":{"aws:SourceIp":"10.0.0.0/33"}}`), ErrCondition, `Statement[0].Condition.IpAddress["aws:SourceIp"]`},
		{"mapped range", condition(`{"IpAddress":{"aws:SourceIp":"::ffff:10.0.0.0/104"}}`), ErrCondition, `Statement[0].Condition.IpAddress["aws:SourceIp"]`},
		{"no ARN in a condition", condition(`{"ArnLike":{"iot:ClientId":"arn:aws:*"}}`), ErrCondition, `Statement[0].Condition.ArnLike["iot:ClientId"]`},
		{"variable in a number", condition(`{"NumericEquals":{"iot:ClientId":"${iot:ClientId}"}}`), ErrCondition, `Statement[0].Condition.NumericEquals["iot:ClientId"]`},
		{"unknown variable in a value", condition(`{"StringLike":{"iot:ClientId":"${x}"}}`), ErrVariable, `Statement[0].Condition.StringLike["iot:ClientId"]`},
	} {
		_, err := Parse([]byte(row.doc))
		if !errors.Is(err, row.want) {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if got, ok := fault.From(err).Members["path"]; row.path != "" && (!ok || got != row.path) {
			t.Errorf("%s: path %v, want %s", row.name, got, row.path)
		}
	}
}

// statementOf makes a statement so long that its document has n characters.
func statementOf(n int) string {
	empty := len(document(allow("*", "topic/")))
	return allow("*", "topic/"+strings.Repeat("é", n-empty))
}

func TestParse_TakesTheGrammar(t *testing.T) {
	for _, doc := range []string{
		document(),
		document(statementOf(2048)),
		strings.ReplaceAll(document(statementOf(2048)), ",", ",\n\t  "), // "2048 characters without white space"
		`{"Version":"2012-10-17","Id":"x","Statement":{"Sid":"","Effect":"Deny","NotAction":["iot:*"],"NotResource":"*","Condition":{}}}`,
		document(`{"Sid":"Allow-own topics","Effect":"Allow","Action":["iot:Publish","iot:*Shadow","*"],"Resource":["arn:aws:iot:*:*:*","arn:aws-us-gov:iot:us-gov-west-1:1:thing/*"]}`),
		document(when(allow("*", "*"), `{"ForAllValues:StringEquals":{"iot:ConnectAttributes":[]},"NumericLessThanIfExists":{"iot:Connection.Thing.Attributes[a.b@c/d:e#f-_,]":[1,"2",3.5e1]},"Bool":{"iot:Connection.Thing.IsAttached":true}}`)),
	} {
		parse(t, doc)
	}
}

func TestParse_SuggestsTheNameThatWasMeant(t *testing.T) {
	for doc, want := range map[string]string{
		document(allow("iot:Subscibe", "*")):                                           `"iot:Subscribe"`,
		document(allow("*", "topic/${iot:Connection.Thing.Thingname1}")):               `"iot:Connection.Thing.ThingName"`,
		document(when(allow("*", "*"), `{"StringEqualIfExists":{"iot:ClientId":""}}`)): `"StringEquals"`,
		document(`{"Effect":"Allow","Actions":"*","Resource":"*"}`):                    `"Action"`,
	} {
		if _, err := Parse([]byte(doc)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %s in %v", want, err)
		}
	}
}
