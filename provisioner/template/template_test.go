package template

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"hallmark/internal/fault"
)

const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

var service = map[string]string{CertificateID: id}

// The shape of the template that FreeRTOS's provisioning demo installs.
const freertos = `{
  "Parameters": {"SerialNumber": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}},
  "Resources": {
    "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "Active"}},
    "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "fleet_policy"}},
    "thing": {
      "Type": "AWS::IoT::Thing",
      "OverrideSettings": {"AttributePayload": "MERGE", "ThingGroups": "DO_NOTHING", "ThingTypeName": "REPLACE"},
      "Properties": {"AttributePayload": {}, "ThingGroups": [], "ThingName": {"Fn::Join": ["", ["fp_demo_", {"Ref": "SerialNumber"}]]}}
    }
  },
  "DeviceConfiguration": {"Foo": "Bar"}
}`

func mustParse(t testing.TB, body string, kind Kind) *Template {
	t.Helper()
	tmpl, err := Parse([]byte(body), kind)
	if err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	return tmpl
}

func TestTemplate_FreeRTOSDemo(t *testing.T) {
	tmpl := mustParse(t, freertos, Fleet)
	got, err := tmpl.Evaluate(Input{Service: service, Device: map[string]string{"SerialNumber": "SN1"}})
	if err != nil {
		t.Fatal(err)
	}
	want := &Result{
		Thing:               Thing{Name: "fp_demo_SN1", Attributes: map[string]string{}, Overrides: ThingOverrides{Attributes: Merge, Type: Replace, Groups: DoNothing}},
		Certificate:         Certificate{ID: id, Active: true, Overrides: CertificateOverrides{Status: Fail}},
		Policies:            []Policy{{Name: "fleet_policy"}},
		DeviceConfiguration: map[string]string{"Foo": "Bar"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	params := []Parameter{{Name: CertificateID, Required: true, Service: true}, {Name: "SerialNumber", Required: true}}
	if got := tmpl.Parameters(); !reflect.DeepEqual(got, params) {
		t.Errorf("parameters %+v", got)
	}
}

// fleet builds a fleet template around one DeviceConfiguration value.
func fleet(expr string) string {
	return `{"Parameters":{"P":{"Type":"String"},"D":{"Type":"String","Default":"dflt"},"Q":{"Type":"String","Default":{"Fn::Join":["-",[{"Ref":"P"},{"Ref":"D"}]]}}},
	"Mappings":{"M":{"eu":{"host":"eu.example","port":"1"},"us":{"host":"us.example"}}},
	"Resources":{"c":{"Type":"AWS::IoT::Certificate","Properties":{"CertificateId":{"Ref":"AWS::IoT::Certificate::Id"}}}},
	"DeviceConfiguration":{"x":` + expr + `}}`
}

func TestFunctions(t *testing.T) {
	for name, c := range map[string]struct {
		expr, p, want string
	}{
		"literal":                    {`"a"`, "v", "a"},
		"literal with dollar":        {`"${P}"`, "v", "${P}"},
		"Ref":                        {`{"Ref":"P"}`, "v", "v"},
		"Ref default":                {`{"Ref":"D"}`, "v", "dflt"},
		"Ref default with functions": {`{"Ref":"Q"}`, "v", "v-dflt"},
		"Ref of the service's":       {`{"Ref":"AWS::IoT::Certificate::Id"}`, "v", id},
		"Join":                       {`{"Fn::Join":["-",["a",{"Ref":"P"},"b"]]}`, "v", "a-v-b"},
		"Join of nothing":            {`{"Fn::Join":["-",[]]}`, "v", ""},
		"Join of Split":              {`{"Fn::Join":["+",{"Fn::Split":[",",{"Ref":"P"}]}]}`, "a,b,,c", "a+b++c"},
		"Join by Ref":                {`{"Fn::Join":[{"Ref":"P"},["a","b"]]}`, ":", "a:b"},
		"Select number":              {`{"Fn::Select":[1,["a","b"]]}`, "v", "b"},
		"Select string":              {`{"Fn::Select":["0",["a",null]]}`, "v", "a"},
		"Select by Ref from Split":   {`{"Fn::Select":[{"Ref":"P"},{"Fn::Split":["|","a|b|c"]}]}`, "2", "c"},
		"FindInMap":                  {`{"Fn::FindInMap":["M","eu","host"]}`, "v", "eu.example"},
		"FindInMap by Ref":           {`{"Fn::FindInMap":["M",{"Ref":"P"},"host"]}`, "us", "us.example"},
		"Sub":                        {`{"Fn::Sub":"a${P}b${D}${P}"}`, "v", "avbdfltv"},
		"Sub without names":          {`{"Fn::Sub":"a$b{c}$"}`, "v", "a$b{c}$"},
		"Sub keeps policy variables": {`{"Fn::Sub":"${iot:ClientId}/${P}/${aws:SourceIp}/${iot:Connection.Thing.Attributes[a]}"}`, "v", "${iot:ClientId}/v/${aws:SourceIp}/${iot:Connection.Thing.Attributes[a]}"},
		"Sub escape":                 {`{"Fn::Sub":"${!P}${P}"}`, "v", "${P}v"},
		"Sub with variables":         {`{"Fn::Sub":["${x}.${P}.${y}",{"x":{"Fn::FindInMap":["M",{"Ref":"P"},"host"]},"y":"z"}]}`, "eu", "eu.example.eu.z"},
		"Sub variable hides":         {`{"Fn::Sub":["${P}",{"P":"mine"}]}`, "v", "mine"},
		"Sub in Sub":                 {`{"Fn::Sub":["${a}-${b}",{"a":{"Fn::Sub":["${a}",{"a":"inner"}]},"b":{"Fn::Sub":"${P}"}}]}`, "v", "inner-v"},
		"Sub does not look again":    {`{"Fn::Sub":["${P}${x}",{"x":{"Ref":"P"}}]}`, "${D}${x}", "${D}${x}${D}${x}"},
		"deep nest": {`{"Fn::Select":[1,{"Fn::Split":[{"Fn::Select":[0,[{"Fn::Join":["",["/"]]}]]},{"Fn::Sub":["${a}/${b}",{"a":"x","b":{"Fn::Join":["",[{"Ref":"P"},{"Fn::FindInMap":["M","eu","port"]}]]}}]}]}]}`,
			"v", "v1"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := mustParse(t, fleet(c.expr), Fleet).Evaluate(Input{Service: service, Device: map[string]string{"P": c.p}})
			if err != nil {
				t.Fatal(err)
			}
			if got.DeviceConfiguration["x"] != c.want {
				t.Errorf("got %q, want %q", got.DeviceConfiguration["x"], c.want)
			}
		})
	}
}

func TestFunctions_FailWithPlaceAndReason(t *testing.T) {
	for name, c := range map[string]struct {
		expr, p string
		code    *fault.Definition
		detail  string
	}{
		"Select beyond the end":    {`{"Fn::Select":[2,["a","b"]]}`, "v", ErrFunctionFailed, `DeviceConfiguration.x["Fn::Select"]: index 2 of a list of 2.`},
		"Select beyond a Split":    {`{"Fn::Select":["1",{"Fn::Split":[",",{"Ref":"P"}]}]}`, "v", ErrFunctionFailed, `DeviceConfiguration.x["Fn::Select"]: index 1 of a list of 1.`},
		"Select of null":           {`{"Fn::Select":[0,[null]]}`, "v", ErrFunctionFailed, `DeviceConfiguration.x["Fn::Select"]: element 0 is null.`},
		"Select by word":           {`{"Fn::Select":[{"Ref":"P"},["a"]]}`, "-0", ErrFunctionFailed, `DeviceConfiguration.x["Fn::Select"]: "-0" is no index.`},
		"Select by padded number":  {`{"Fn::Select":[{"Ref":"P"},["a","b"]]}`, "01", ErrFunctionFailed, `DeviceConfiguration.x["Fn::Select"]: "01" is no index.`},
		"FindInMap no key":         {`{"Fn::FindInMap":["M",{"Ref":"P"},"host"]}`, "mars", ErrFunctionFailed, `DeviceConfiguration.x["Fn::FindInMap"]: there is no "host" in "mars" of mapping "M".`},
		"FindInMap no field":       {`{"Fn::FindInMap":["M","us","port"]}`, "v", ErrFunctionFailed, `DeviceConfiguration.x["Fn::FindInMap"]: there is no "port" in "us" of mapping "M".`},
		"Split by nothing":         {`{"Fn::Join":["",{"Fn::Split":[{"Ref":"P"},"abc"]}]}`, "", ErrFunctionFailed, `DeviceConfiguration.x["Fn::Join"][1]["Fn::Split"]: the delimiter is empty.`},
		"Split into very many":     {`{"Fn::Select":[0,{"Fn::Split":[",",{"Ref":"P"}]}]}`, strings.Repeat(",", 2000), ErrLimit, `DeviceConfiguration.x["Fn::Select"][1]["Fn::Split"]: a list has 2001 elements, 1024 are allowed.`},
		"configuration too large":  {`{"Fn::Sub":"${P}${P}"}`, strings.Repeat("a", 10000), ErrLimit, `DeviceConfiguration: it has more than 16384 bytes.`},
		"Sub grows":                {`{"Fn::Sub":["${a}${a}${a}${a}",{"a":{"Fn::Sub":"${P}${P}${P}"}}]}`, strings.Repeat("a", 10000), ErrLimit, `DeviceConfiguration.x["Fn::Sub"]: a value has more than 32768 bytes.`},
		"Join grows":               {`{"Fn::Join":[{"Ref":"P"},["","","","","",""]]}`, strings.Repeat("a", 10000), ErrLimit, `DeviceConfiguration.x["Fn::Join"]: a value has more than 32768 bytes.`},
		"all together grow":        {`{"Fn::Select":[0,{"Fn::Split":["x",{"Fn::Join":["",[` + strings.Repeat(`{"Fn::Select":[0,{"Fn::Split":["b",{"Ref":"P"}]}]},`, 15) + `""]]}]}]}`, "b" + strings.Repeat("a", 16000), ErrLimit, `DeviceConfiguration.x["Fn::Select"][1]["Fn::Split"][1]["Fn::Join"][1][8]["Fn::Select"][1]["Fn::Split"][1].Ref: the values have more than 262144 bytes together.`},
		"parameter's value":        {`"a"`, "a\x1b[2J", ErrParameterInvalid, `The value of "P" has control characters or is not UTF-8.`},
		"parameter's encoding":     {`"a"`, "\xff", ErrParameterInvalid, `The value of "P" has control characters or is not UTF-8.`},
		"parameter's size":         {`"a"`, strings.Repeat("a", 16385), ErrParameterInvalid, `The value of "P" has 16385 bytes, 16384 are allowed.`},
		"parameter with NUL":       {`"a"`, "a\x00", ErrParameterInvalid, `The value of "P" has control characters or is not UTF-8.`},
		"C1 control in the middle": {`"a"`, "a\u0085b", ErrParameterInvalid, `The value of "P" has control characters or is not UTF-8.`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := mustParse(t, fleet(c.expr), Fleet).Evaluate(Input{Service: service, Device: map[string]string{"P": c.p}})
			check(t, err, c.code, c.detail)
		})
	}
}

func check(t *testing.T, err error, code *fault.Definition, detail string) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Fatalf("got %v, want %s", err, code.Code)
	}
	if got := fault.From(err).Detail; got != detail {
		t.Errorf("got  %s\nwant %s", got, detail)
	}
}

// cert is the certificate every fleet and JITP template has.
const cert = `"c":{"Type":"AWS::IoT::Certificate","Properties":{"CertificateId":{"Ref":"AWS::IoT::Certificate::Id"}}}`

func TestParse_RefusesWithPlaceAndReason(t *testing.T) {
	conf := func(expr string) string { return fleet(expr) }
	res := func(r string) string { return `{"Parameters":{"P":{"Type":"String"}},"Resources":{` + r + `}}` }
	thing := func(properties string) string {
		return res(cert + `,"t":{"Type":"AWS::IoT::Thing","Properties":{` + properties + `}}`)
	}
	doc := func(d string) string {
		return res(cert + `,"p":{"Type":"AWS::IoT::Policy","Properties":{"PolicyDocument":` + d + `}}`)
	}
	for name, c := range map[string]struct {
		body   string
		kind   Kind
		code   *fault.Definition
		detail string
	}{
		"too large":      {strings.Repeat(" ", 10241), Fleet, ErrTooLarge, `It has 10241 bytes, 10240 are allowed.`},
		"no JSON":        {"{\n\"a\"}", Fleet, ErrMalformed, `Line 2, column 4, in the document: '}' where a colon is expected.`},
		"duplicate key":  {`{"Resources":{},"Resources":{}}`, Fleet, ErrMalformed, `Line 1, column 17, in the document: the member "Resources" stands twice.`},
		"no kind":        {`{}`, 9, ErrKind, `The template: there is no such kind of template.`},
		"list":           {`[]`, Fleet, ErrStructure, `The template: want an object, not a list.`},
		"unknown key":    {`{"Resource":{}}`, Fleet, ErrUnknownKey, `Resource: this key does not belong here, perhaps "Resources" was meant.`},
		"far key":        {`{"Conditions":{}}`, Fleet, ErrUnknownKey, `Conditions: this key does not belong here.`},
		"no resources":   {`{}`, Fleet, ErrStructure, `Resources: the section is missing.`},
		"empty":          {`{"Resources":{}}`, Fleet, ErrStructure, `Resources: there is no resource.`},
		"JITP mappings":  {`{"Mappings":{}}`, JITP, ErrKind, `Mappings: only fleet templates have this section, not JITP templates.`},
		"bulk config":    {`{"DeviceConfiguration":{}}`, Bulk, ErrKind, `DeviceConfiguration: only fleet templates have this section, not bulk templates.`},
		"no certificate": {res(`"t":{"Type":"AWS::IoT::Thing","Properties":{"ThingName":"x"}}`), Fleet, ErrStructure, `Resources: a fleet template needs a resource of type AWS::IoT::Certificate.`},
		// Parameters
		"parameter type":      {`{"Parameters":{"P":{"Type":"Number"}}}`, Fleet, ErrStructure, `Parameters.P.Type: want "String".`},
		"parameter key":       {`{"Parameters":{"P":{"Type":"String","Defualt":"x"}}}`, Fleet, ErrUnknownKey, `Parameters.P.Defualt: this key does not belong here, perhaps "Default" was meant.`},
		"parameter default":   {`{"Parameters":{"P":{"Type":"String","Default":1}}}`, Fleet, ErrStructure, `Parameters.P.Default: want a string or a function, not a number.`},
		"parameter of AWS":    {`{"Parameters":{"AWS::Region":{"Type":"String"}}}`, Fleet, ErrUnknownReference, `Parameters["AWS::Region"]: the service has no such parameter for a fleet template.`},
		"parameter of JITP":   {`{"Parameters":{"AWS::IoT::Certificate::CommonName":{"Type":"String"}}}`, Fleet, ErrUnknownReference, `Parameters["AWS::IoT::Certificate::CommonName"]: the service has no such parameter for a fleet template, perhaps "AWS::IoT::Certificate::Id" was meant.`},
		"parameter near":      {`{"Parameters":{"aws::iot::certificate::country":{"Type":"String"}}}`, JITP, ErrUnknownReference, `Parameters["aws::iot::certificate::country"]: the service has no such parameter for a JITP template, perhaps "AWS::IoT::Certificate::Country" was meant.`},
		"parameter iot":       {`{"Parameters":{"iot:ClientId":{"Type":"String"}}}`, Fleet, ErrStructure, `Parameters["iot:ClientId"]: this is no name for a parameter.`},
		"id with default":     {`{"Parameters":{"AWS::IoT::Certificate::Id":{"Type":"String","Default":"x"}}}`, Fleet, ErrStructure, `Parameters["AWS::IoT::Certificate::Id"].Default: the certificate's id cannot have a default.`},
		"JITP from a device":  {`{"Parameters":{"P":{"Type":"String"}}}`, JITP, ErrKind, `Parameters.P: a JITP template has no device to give this parameter, so it needs a default.`},
		"defaults in a ring":  {`{"Parameters":{"A":{"Type":"String","Default":{"Fn::Sub":"${B}"}},"B":{"Type":"String","Default":{"Fn::Join":["",["x",{"Ref":"A"}]]}}}}`, Fleet, ErrStructure, `Parameters.B.Default["Fn::Join"][1][1].Ref: the default of "A" needs itself.`},
		"default needs self":  {`{"Parameters":{"A":{"Type":"String","Default":{"Ref":"A"}}}}`, Fleet, ErrStructure, `Parameters.A.Default.Ref: the default of "A" needs itself.`},
		"function in Mapping": {`{"Mappings":{"M":{"k":{"f":{"Ref":"P"}}}}}`, Fleet, ErrStructure, `Mappings.M.k.f: want a string, not an object: there are no functions in Mappings.`},
		"flat Mapping":        {`{"Mappings":{"M":{"k":"v"}}}`, Fleet, ErrStructure, `Mappings.M.k: want an object, not a string.`},
		// Functions
		"unknown function":   {conf(`{"Fn::Jion":["",[]]}`), Fleet, ErrUnknownFunction, `DeviceConfiguration.x: there is no function "Fn::Jion", perhaps "Fn::Join" was meant.`},
		"far function":       {conf(`{"Fn::GetAtt":["a","b"]}`), Fleet, ErrUnknownFunction, `DeviceConfiguration.x: there is no function "Fn::GetAtt".`},
		"function and more":  {conf(`{"Ref":"P","x":1}`), Fleet, ErrStructure, `DeviceConfiguration.x: "Ref" must be the only member of its object.`},
		"nested object":      {conf(`{"a":"b"}`), Fleet, ErrStructure, `DeviceConfiguration.x: want a string or a function, not an object.`},
		"number":             {conf(`7`), Fleet, ErrStructure, `DeviceConfiguration.x: want a string or a function, not a number.`},
		"Ref near":           {conf(`{"Ref":"AWS::IoT::Certificate::ID"}`), Fleet, ErrUnknownReference, `DeviceConfiguration.x.Ref: cannot resolve reference value "AWS::IoT::Certificate::ID", perhaps "AWS::IoT::Certificate::Id" was meant.`},
		"Ref AWS::Region":    {conf(`{"Ref":"AWS::Region"}`), Fleet, ErrUnknownReference, `DeviceConfiguration.x.Ref: cannot resolve reference value "AWS::Region".`},
		"Ref number":         {conf(`{"Ref":1}`), Fleet, ErrStructure, `DeviceConfiguration.x.Ref: want a parameter's name, not a number.`},
		"Join form":          {conf(`{"Fn::Join":["a"]}`), Fleet, ErrStructure, `DeviceConfiguration.x["Fn::Join"]: want [delimiter, list].`},
		"Join of a string":   {conf(`{"Fn::Join":["a","b"]}`), Fleet, ErrStructure, `DeviceConfiguration.x["Fn::Join"][1]: want a list or Fn::Split, not a string.`},
		"Join of a Ref":      {conf(`{"Fn::Join":["a",{"Ref":"P"}]}`), Fleet, ErrStructure, `DeviceConfiguration.x["Fn::Join"][1]: Ref gives a string where a list is needed.`},
		"Join of null":       {conf(`{"Fn::Join":["a",[null]]}`), Fleet, ErrStructure, `DeviceConfiguration.x["Fn::Join"][1][0]: want a string or a function, not null.`},
		"Select form":        {conf(`{"Fn::Select":"0"}`), Fleet, ErrStructure, `DeviceConfiguration.x["Fn::Select"]: want [index, list].`},
		"Select index":       {conf(`{"Fn::Select":[-1,["a"]]}`), Fleet, ErrStructure, `DeviceConfiguration.x["Fn::Select"][0]: "-1" is no index.`},
		"Select fraction":    {conf(`{"Fn::Select":[0.0,["a"]]}`), Fleet, ErrStructure, `DeviceConfiguration.x["Fn::Select"][0]: "0.0" is no index.`},
		"Split as a string":  {conf(`{"Fn::Split":[",","a"]}`), Fleet, ErrStructure, `DeviceConfiguration.x: Fn::Split gives a list where a string is needed.`},
		"Split by nothing":   {conf(`{"Fn::Join":["",{"Fn::Split":["","a"]}]}`), Fleet, ErrStructure, `DeviceConfiguration.x["Fn::Join"][1]["Fn::Split"][0]: the delimiter is empty.`},
		"FindInMap form":     {conf(`{"Fn::FindInMap":["M","eu"]}`), Fleet, ErrStructure, `DeviceConfiguration.x["Fn::FindInMap"]: want [table, key, field].`},
		"FindInMap no table": {conf(`{"Fn::FindInMap":["m","eu","host"]}`), Fleet, ErrUnknownReference, `DeviceConfiguration.x["Fn::FindInMap"][0]: there is no mapping "m", perhaps "M" was meant.`},
		"FindInMap no key":   {conf(`{"Fn::FindInMap":["M","eux","host"]}`), Fleet, ErrUnknownReference, `DeviceConfiguration.x["Fn::FindInMap"][1]: mapping "M" has no key "eux", perhaps "eu" was meant.`},
		"Sub unknown":        {conf(`{"Fn::Sub":"${PP}"}`), Fleet, ErrUnknownReference, `DeviceConfiguration.x["Fn::Sub"]: cannot resolve reference value "PP", perhaps "P" was meant.`},
		"Sub spaces":         {conf(`{"Fn::Sub":"${ P }"}`), Fleet, ErrUnknownReference, `DeviceConfiguration.x["Fn::Sub"]: cannot resolve reference value " P ".`},
		"Sub open":           {conf(`{"Fn::Sub":["a${P",{}]}`), Fleet, ErrStructure, `DeviceConfiguration.x["Fn::Sub"][0]: a ${ has no }.`},
		"Sub form":           {conf(`{"Fn::Sub":["a"]}`), Fleet, ErrStructure, `DeviceConfiguration.x["Fn::Sub"]: want a string or [string, object].`},
		"Sub variables":      {conf(`{"Fn::Sub":["a",[]]}`), Fleet, ErrStructure, `DeviceConfiguration.x["Fn::Sub"][1]: want an object of names and values, not a list.`},
		"Sub variable name":  {conf(`{"Fn::Sub":["a",{"iot:x":"y"}]}`), Fleet, ErrStructure, `DeviceConfiguration.x["Fn::Sub"][1]: "iot:x" is no name for a variable.`},
		"Sub text":           {conf(`{"Fn::Sub":[{"Ref":"P"},{}]}`), Fleet, ErrStructure, `DeviceConfiguration.x["Fn::Sub"][0]: want a string, not an object.`},
		// Resources
		"resource type":         {res(`"a":{"Type":"AWS::IoT::Certifcate","Properties":{}}`), Fleet, ErrStructure, `Resources.a.Type: want AWS::IoT::Thing, AWS::IoT::Certificate or AWS::IoT::Policy, perhaps "AWS::IoT::Certificate" was meant.`},
		"resource key":          {res(`"a":{"Type":"AWS::IoT::Thing","Propertys":{}}`), Fleet, ErrUnknownKey, `Resources.a.Propertys: this key does not belong here, perhaps "Properties" was meant.`},
		"no properties":         {res(`"a":{"Type":"AWS::IoT::Thing"}`), Fleet, ErrStructure, `Resources.a.Properties: the section is missing.`},
		"thing property":        {thing(`"ThingNmae":"x"`), Fleet, ErrUnknownKey, `Resources.t.Properties.ThingNmae: this key does not belong here, perhaps "ThingName" was meant.`},
		"no name":               {thing(``), Fleet, ErrStructure, `Resources.t.Properties.ThingName: it is missing.`},
		"attribute name":        {thing(`"ThingName":"x","AttributePayload":{"a b":"c"}`), Fleet, ErrStructure, `Resources.t.Properties.AttributePayload["a b"]: an attribute's name has 1 to 128 of a-z A-Z 0-9 _ . , @ / : # -.`},
		"attribute object":      {thing(`"ThingName":"x","AttributePayload":{"a":{"b":"c"}}`), Fleet, ErrStructure, `Resources.t.Properties.AttributePayload.a: want a string or a function, not an object.`},
		"groups string":         {thing(`"ThingName":"x","ThingGroups":"g"`), Fleet, ErrStructure, `Resources.t.Properties.ThingGroups: want a list or Fn::Split, not a string.`},
		"two things":            {res(cert + `,"a":{"Type":"AWS::IoT::Thing","Properties":{"ThingName":"x"}},"b":{"Type":"AWS::IoT::Thing","Properties":{"ThingName":"x"}}`), Fleet, ErrStructure, `Resources.b: there is a second resource of type AWS::IoT::Thing.`},
		"two certificates":      {res(cert + `,"d":{"Type":"AWS::IoT::Certificate","Properties":{}}`), Fleet, ErrStructure, `Resources.d: there is a second resource of type AWS::IoT::Certificate.`},
		"override value":        {res(`"a":{"Type":"AWS::IoT::Thing","Properties":{"ThingName":"x"},"OverrideSettings":{"ThingTypeName":"MERGE"}}`), Fleet, ErrStructure, `Resources.a.OverrideSettings.ThingTypeName: want DO_NOTHING, REPLACE or FAIL.`},
		"override key":          {res(`"a":{"Type":"AWS::IoT::Thing","Properties":{"ThingName":"x"},"OverrideSettings":{"BillingGroup":"FAIL"}}`), Fleet, ErrUnknownKey, `Resources.a.OverrideSettings.BillingGroup: this key does not belong here.`},
		"override twice":        {res(`"a":{"Type":"AWS::IoT::Thing","Properties":{"ThingName":"x"},"OverrideSettings":{"ThingGroups":"FAIL","THING_GROUPS":"MERGE"}}`), Fleet, ErrStructure, `Resources.a.OverrideSettings.ThingGroups: ThingGroups stands here under two names.`},
		"override null":         {res(`"a":{"Type":"AWS::IoT::Thing","Properties":{"ThingName":"x"},"OverrideSettings":null}`), Fleet, ErrStructure, `Resources.a.OverrideSettings: want an object, not null.`},
		"policy override":       {res(`"a":{"Type":"AWS::IoT::Policy","Properties":{"PolicyName":"x"},"OverrideSettings":{}}`), Fleet, ErrUnknownKey, `Resources.a.OverrideSettings: a policy has no override settings.`},
		"certificate by CSR":    {res(`"a":{"Type":"AWS::IoT::Certificate","Properties":{"CertificateSigningRequest":{"Ref":"P"}}}`), Fleet, ErrKind, `Resources.a.Properties: a fleet template identifies the certificate by "CertificateId": {"Ref": "AWS::IoT::Certificate::Id"} and nothing else.`},
		"certificate by value":  {`{"Resources":{"a":{"Type":"AWS::IoT::Certificate","Properties":{"CertificateId":"` + id + `"}}}}`, JITP, ErrKind, `Resources.a.Properties: a JITP template identifies the certificate by "CertificateId": {"Ref": "AWS::IoT::Certificate::Id"} and nothing else.`},
		"bulk two ways":         {res(`"a":{"Type":"AWS::IoT::Certificate","Properties":{"CertificateSigningRequest":{"Ref":"P"},"CertificateId":{"Ref":"P"}}}`), Bulk, ErrStructure, `Resources.a.Properties: want exactly one of CertificateSigningRequest, CertificateId and CertificatePem.`},
		"bulk CA alone":         {res(`"a":{"Type":"AWS::IoT::Certificate","Properties":{"CertificateId":{"Ref":"P"},"CACertificatePem":"x"}}`), Bulk, ErrStructure, `Resources.a.Properties.CACertificatePem: it belongs to CertificatePem.`},
		"bulk service Ref":      {res(`"a":{"Type":"AWS::IoT::Certificate","Properties":{"CertificateId":{"Ref":"AWS::IoT::Certificate::Id"}}}`), Bulk, ErrUnknownReference, `Resources.a.Properties.CertificateId.Ref: cannot resolve reference value "AWS::IoT::Certificate::Id".`},
		"policy both":           {res(`"a":{"Type":"AWS::IoT::Policy","Properties":{"PolicyName":"x","PolicyDocument":{}}}`), Fleet, ErrStructure, `Resources.a.Properties: want exactly one of PolicyName and PolicyDocument.`},
		"policy neither":        {res(`"a":{"Type":"AWS::IoT::Policy","Properties":{}}`), Fleet, ErrStructure, `Resources.a.Properties: want exactly one of PolicyName and PolicyDocument.`},
		"document list":         {doc(`[]`), Fleet, ErrStructure, `Resources.p.Properties.PolicyDocument: want an object or a string with JSON in it, not a list.`},
		"document by Ref":       {doc(`{"Ref":"P"}`), Fleet, ErrStructure, `Resources.p.Properties.PolicyDocument: a whole document comes from text, Fn::Sub or Fn::Join, not from Ref.`},
		"document no JSON":      {doc(`"{\"a\":}"`), Fleet, ErrStructure, `Resources.p.Properties.PolicyDocument: the text is no strict JSON: Line 1, column 6, in a: '}' where a value is expected.`},
		"document text list":    {doc(`"[]"`), Fleet, ErrStructure, `Resources.p.Properties.PolicyDocument: the text holds a list, not an object.`},
		"document text call":    {doc(`"{\"a\":{\"Ref\":\"P\"}}"`), Fleet, ErrStructure, `Resources.p.Properties.PolicyDocument.a: functions in a document given as text are not evaluated (Ref): give the document as an object.`},
		"hole beside a string":  {doc(`{"Fn::Sub":"{\"a\":${P}}"}`), Fleet, ErrStructure, `Resources.p.Properties.PolicyDocument: the text is no strict JSON: Line 1, column 6, in a: '\ufdd0' where a value is expected.`},
		"hole as a name":        {doc(`{"Fn::Sub":"{\"${P}\":1}"}`), Fleet, ErrStructure, `Resources.p.Properties.PolicyDocument: a value cannot become the name of a member.`},
		"forged hole":           {doc(`{"Fn::Sub":"{\"a\":\"\\ufdd00\\ufdd1\"}"}`), Fleet, ErrStructure, `Resources.p.Properties.PolicyDocument: the document holds a noncharacter.`},
		"function in document":  {doc(`{"Statement":[{"Resource":{"Fn::Sub":"${X}"}}]}`), Fleet, ErrUnknownReference, `Resources.p.Properties.PolicyDocument.Statement[0].Resource["Fn::Sub"]: cannot resolve reference value "X", perhaps "P" was meant.`},
		"function beside in it": {doc(`{"Statement":[{"Ref":"P","Effect":"Allow"}]}`), Fleet, ErrStructure, `Resources.p.Properties.PolicyDocument.Statement[0]: "Ref" must be the only member of its object.`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(c.body), c.kind)
			check(t, err, c.code, c.detail)
		})
	}
}

func TestThing_EveryPropertyAndOverride(t *testing.T) {
	tmpl := mustParse(t, `{"Parameters":{"P":{"Type":"String"},"O":{"Type":"String","Default":"REPLACE"}},"Resources":{`+cert+`,"t":{"Type":"AWS::IoT::Thing",
	 "Properties":{"ThingName":{"Ref":"P"},"AttributePayload":{"a":"1","b":{"Ref":"P"},"c":{"Fn::Sub":"${P}!"},"d":""},"ThingTypeName":{"Fn::Join":["",["type_",{"Ref":"P"}]]},"ThingGroups":{"Fn::Split":[",","z,y"]},"BillingGroup":{"Fn::Sub":"bill-${P}"}},
	 "OverrideSettings":{"ATTRIBUTE_PAYLOAD":"MERGE","THING_TYPE_NAME":{"Ref":"O"},"THING_GROUPS":"FAIL"}}}}`, Fleet)
	got, err := tmpl.Evaluate(Input{Service: service, Device: map[string]string{"P": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	want := Thing{Name: "x", Attributes: map[string]string{"a": "1", "b": "x", "c": "x!", "d": ""}, Type: "type_x", Groups: []string{"z", "y"}, BillingGroup: "bill-x",
		Overrides: ThingOverrides{Attributes: Merge, Type: Replace, Groups: Fail}}
	if !reflect.DeepEqual(got.Thing, want) {
		t.Errorf("got  %+v\nwant %+v", got.Thing, want)
	}
	_, err = tmpl.Evaluate(Input{Service: service, Device: map[string]string{"P": "x", "O": "MERGE"}})
	check(t, err, ErrValueInvalid, `Resources.t.OverrideSettings.ThingTypeName: want DO_NOTHING, REPLACE or FAIL.`)
}

func TestThing_RefusesBadValues(t *testing.T) {
	thing := func(properties string) string {
		return `{"Parameters":{"P":{"Type":"String"}},"Resources":{` + cert + `,"t":{"Type":"AWS::IoT::Thing","Properties":{` + properties + `}}}}`
	}
	name := func(s string) string {
		return `Resources.t.Properties.ThingName: ` + s + ` is no name: it has 1 to 128 of a-z A-Z 0-9 : _ -.`
	}
	byP := thing(`"ThingName":{"Ref":"P"}`)
	for title, c := range map[string]struct{ body, p, detail string }{
		"empty name":     {byP, "", name(`""`)},
		"long name":      {byP, strings.Repeat("a", 129), name(`"` + strings.Repeat("a", 64) + `"...`)},
		"space":          {byP, "a b", name(`"a b"`)},
		"slash (A52)":    {byP, "a/b", name(`"a/b"`)},
		"wildcard (A52)": {byP, "a+#", name(`"a+#"`)},
		"dot":            {byP, "a.b", name(`"a.b"`)},
		"percent (A52)":  {byP, "%2e", name(`"%2e"`)},
		"line (A51)":     {byP, "a\r\nb", name(`"a\r\nb"`)},
		"bidi (A51)":     {byP, "a\u202eb", name(`"a\u202eb"`)},
		"zero (A51)":     {byP, "a\u200bb", name(`"a\u200bb"`)},
		"wide (A51)":     {byP, "\uff21", name(`"\uff21"`)},
		"Cyrillic (A51)": {byP, "\u0430", name(`"\u0430"`)},
		"type":           {thing(`"ThingName":"x","ThingTypeName":{"Ref":"P"}`), "a b", `Resources.t.Properties.ThingTypeName: "a b" is no name: it has 1 to 128 of a-z A-Z 0-9 : _ -.`},
		"billing":        {thing(`"ThingName":"x","BillingGroup":{"Ref":"P"}`), "", `Resources.t.Properties.BillingGroup: "" is no name: it has 1 to 128 of a-z A-Z 0-9 : _ -.`},
		"group":          {thing(`"ThingName":"x","ThingGroups":["a",{"Ref":"P"}]`), "$x", `Resources.t.Properties.ThingGroups[1]: "$x" is no name: it has 1 to 128 of a-z A-Z 0-9 : _ -.`},
		"group twice":    {thing(`"ThingName":"x","ThingGroups":["a",{"Ref":"P"}]`), "a", `Resources.t.Properties.ThingGroups[1]: the group "a" stands twice.`},
		"many groups":    {thing(`"ThingName":"x","ThingGroups":{"Fn::Split":[":",{"Ref":"P"}]}`), "a:b:c:d:e:f:g:h:i:j:k", `Resources.t.Properties.ThingGroups: there are 11 groups, 10 are allowed.`},
		"long value":     {thing(`"ThingName":"x","AttributePayload":{"a":{"Ref":"P"}}`), strings.Repeat("é", 801), `Resources.t.Properties.AttributePayload.a: the value has more than 800 characters.`},
		"control":        {thing(`"ThingName":"x","AttributePayload":{"a":{"Ref":"P"}}`), "a\nb", `Resources.t.Properties.AttributePayload.a: the value has control characters.`},
		"untyped":        {thing(`"ThingName":"x","AttributePayload":{"a":"","b":"","c":"","d":""}`), "", `Resources.t.Properties.AttributePayload: there are 4 attributes, a thing without a type has at most 3.`},
	} {
		t.Run(title, func(t *testing.T) {
			_, err := mustParse(t, c.body, Fleet).Evaluate(Input{Service: service, Device: map[string]string{"P": c.p}})
			check(t, err, ErrValueInvalid, c.detail)
		})
	}
}

func TestCertificate_BulkForms(t *testing.T) {
	bulk := func(properties string) *Template {
		return mustParse(t, `{"Parameters":{"P":{"Type":"String"},"S":{"Type":"String","Default":"active"}},"Resources":{"c":{"Type":"AWS::IoT::Certificate","Properties":{`+properties+`},"OverrideSettings":{"Status":"REPLACE"}}}}`, Bulk)
	}
	pem := "-----BEGIN X-----\r\nAA==\n-----END X-----\n"
	for name, c := range map[string]struct {
		properties string
		in         map[string]string
		want       Certificate
	}{
		"request":     {`"CertificateSigningRequest":{"Ref":"P"}`, map[string]string{"P": pem}, Certificate{CSR: pem, Active: true}},
		"id":          {`"CertificateId":{"Ref":"P"},"Status":{"Ref":"S"}`, map[string]string{"P": id, "S": "Inactive"}, Certificate{ID: id}},
		"certificate": {`"CertificatePem":{"Ref":"P"},"CACertificatePem":"ca","Status":{"Ref":"S"}`, map[string]string{"P": pem}, Certificate{PEM: pem, CAPEM: "ca", Active: true}},
	} {
		t.Run(name, func(t *testing.T) {
			c.want.Overrides.Status = Replace
			got, err := bulk(c.properties).Evaluate(Input{Device: c.in})
			if err != nil || got.Certificate != c.want {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	_, err := bulk(`"CertificateId":{"Ref":"P"}`).Evaluate(Input{Device: map[string]string{"P": strings.ToUpper(id)}})
	check(t, err, ErrValueInvalid, `Resources.c.Properties.CertificateId: "0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF" is no certificate id: it has 64 of 0-9 a-f.`)
	_, err = bulk(`"CertificateId":{"Ref":"P"},"Status":{"Ref":"S"}`).Evaluate(Input{Device: map[string]string{"P": id, "S": "PENDING_ACTIVATION"}})
	check(t, err, ErrValueInvalid, `Resources.c.Properties.Status: "PENDING_ACTIVATION" is neither ACTIVE nor INACTIVE.`)
	_, err = bulk(`"CertificatePem":{"Ref":"P"}`).Evaluate(Input{Device: map[string]string{"P": ""}})
	check(t, err, ErrValueInvalid, `Resources.c.Properties.CertificatePem: it is empty.`)
	_, err = bulk(`"CertificateSigningRequest":{"Ref":"P"}`).Evaluate(Input{Device: map[string]string{"P": ""}})
	check(t, err, ErrValueInvalid, `Resources.c.Properties.CertificateSigningRequest: it is empty.`)
}

func TestJITP_TakesTheSubjectOnly(t *testing.T) {
	tmpl := mustParse(t, `{"Parameters":{"AWS::IoT::Certificate::CommonName":{"Type":"String"},"AWS::IoT::Certificate::SerialNumber":{"Type":"String"},"AWS::IoT::Certificate::Country":{"Type":"String","Default":"XX"},"AWS::IoT::Certificate::Id":{"Type":"String"}},
	 "Resources":{`+cert+`,"t":{"Type":"AWS::IoT::Thing","Properties":{"ThingName":{"Ref":"AWS::IoT::Certificate::CommonName"},"AttributePayload":{"serial":{"Ref":"AWS::IoT::Certificate::SerialNumber"},"country":{"Ref":"AWS::IoT::Certificate::Country"}}}},
	 "p":{"Type":"AWS::IoT::Policy","Properties":{"PolicyDocument":"{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":\"iot:*\",\"Resource\":\"*\"}]}"}}}}`, JITP)
	in := map[string]string{CertificateID: id, "AWS::IoT::Certificate::CommonName": "dev-1", "AWS::IoT::Certificate::SerialNumber": "S7"}
	got, err := tmpl.Evaluate(Input{Service: in})
	if err != nil {
		t.Fatal(err)
	}
	if got.Thing.Name != "dev-1" || got.Thing.Attributes["serial"] != "S7" || got.Thing.Attributes["country"] != "XX" || got.Certificate.ID != id || !got.Certificate.Active {
		t.Errorf("got %+v", got)
	}
	if want := `{"Statement":[{"Action":"iot:*","Effect":"Allow","Resource":"*"}],"Version":"2012-10-17"}`; got.Policies[0].Document != want {
		t.Errorf("got %s", got.Policies[0].Document)
	}
	// A48: the subject lacks what the template demands.
	delete(in, "AWS::IoT::Certificate::SerialNumber")
	_, err = tmpl.Evaluate(Input{Service: in})
	check(t, err, ErrParameterMissing, `Parameters["AWS::IoT::Certificate::SerialNumber"]: the parameter "AWS::IoT::Certificate::SerialNumber" is missing.`)
	_, err = tmpl.Evaluate(Input{Service: in, Device: map[string]string{"x": "y"}})
	check(t, err, ErrParameterRefused, `In just-in-time provisioning there are no parameters of the device.`)
	_, err = tmpl.Evaluate(Input{Service: map[string]string{"AWS::Region": "x"}})
	check(t, err, ErrParameterRefused, `The service gives no "AWS::Region" to a JITP template.`)
}

// S21: names that begin with AWS:: come from the service only.
func TestS21_ServiceParametersCannotBeForged(t *testing.T) {
	tmpl := mustParse(t, freertos, Fleet)
	other := strings.Repeat("f", 64)
	for _, name := range []string{CertificateID, "AWS::IoT::Certificate::CommonName", "AWS::x", "AWS::", "aws::IoT::Certificate::Id", "Aws::x"} {
		_, err := tmpl.Evaluate(Input{Service: service, Device: map[string]string{"SerialNumber": "1", name: other}})
		check(t, err, ErrParameterRefused, `The parameter "`+name+`" came from the device.`)
		_, err = tmpl.Evaluate(Input{Service: service, Device: map[string]string{"SerialNumber": "1"}, Overrides: map[string]string{name: other}})
		check(t, err, ErrParameterRefused, `The parameter "`+name+`" came from the hook.`)
	}
	_, err := tmpl.Evaluate(Input{Service: map[string]string{CertificateID: id, "SerialNumber": "1"}})
	check(t, err, ErrParameterRefused, `The service gives no "SerialNumber" to a fleet template.`)
	_, err = tmpl.Evaluate(Input{Device: map[string]string{"SerialNumber": "1"}})
	check(t, err, ErrParameterMissing, `Parameters["AWS::IoT::Certificate::Id"]: the parameter "AWS::IoT::Certificate::Id" is missing.`)
	// Referred to without being declared, it is asked for where it is used.
	_, err = mustParse(t, `{"Resources":{`+cert+`}}`, Fleet).Evaluate(Input{})
	check(t, err, ErrParameterMissing, `Resources.c.Properties.CertificateId.Ref: the parameter "AWS::IoT::Certificate::Id" is missing.`)
}

func TestEvaluate_ParametersAndOverrides(t *testing.T) {
	tmpl := mustParse(t, freertos, Fleet)
	_, err := tmpl.Evaluate(Input{Service: service})
	check(t, err, ErrParameterMissing, `Parameters.SerialNumber: the parameter "SerialNumber" is missing.`)
	got, err := tmpl.Evaluate(Input{Service: service, Device: map[string]string{"SerialNumber": "1", "undeclared": "ignored"}, Overrides: map[string]string{"SerialNumber": "2", "more": "x"}})
	if err != nil || got.Thing.Name != "fp_demo_2" {
		t.Errorf("the hook does not win: %+v %v", got, err)
	}
	many := map[string]string{}
	for i := range 129 {
		many[strings.Repeat("a", i+1)] = ""
	}
	_, err = tmpl.Evaluate(Input{Service: service, Device: many})
	check(t, err, ErrParameterInvalid, `Of the device came 129 parameters, 128 are allowed.`)
	_, err = tmpl.Evaluate(Input{Service: service, Device: map[string]string{"a\nb": ""}})
	check(t, err, ErrParameterInvalid, `The name "a\nb" is not acceptable.`)
}

// A53: what looks like JSON stays a value, in every way a value can go.
func TestA53_ValuesNeverBecomeSyntax(t *testing.T) {
	const evil = `","isCA":true,"x":"`
	tmpl := mustParse(t, `{"Parameters":{"P":{"Type":"String"}},"Resources":{`+cert+`,
	 "t":{"Type":"AWS::IoT::Thing","Properties":{"ThingName":"x","AttributePayload":{"ref":{"Ref":"P"},"sub":{"Fn::Sub":"a${P}"},"join":{"Fn::Join":["",["{\"a\":\"",{"Ref":"P"},"\"}"]]}}}},
	 "p1":{"Type":"AWS::IoT::Policy","Properties":{"PolicyDocument":{"Statement":[{"Resource":{"Ref":"P"}}]}}},
	 "p2":{"Type":"AWS::IoT::Policy","Properties":{"PolicyDocument":{"Fn::Sub":"{\"Statement\":[{\"Resource\":[\"a/${P}/${iot:ClientId}\"]}]}"}}},
	 "p3":{"Type":"AWS::IoT::Policy","Properties":{"PolicyDocument":{"Fn::Join":["",["{\"Statement\":[{\"Resource\":\"b/",{"Fn::Sub":["${v}",{"v":{"Ref":"P"}}]},"\"}]}"]]}}}},
	 "DeviceConfiguration":{"k":{"Ref":"P"}}}`, Fleet)
	got, err := tmpl.Evaluate(Input{Service: service, Device: map[string]string{"P": evil}})
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"ref": evil, "sub": "a" + evil, "join": `{"a":"` + evil + `"}`}; !reflect.DeepEqual(got.Thing.Attributes, want) {
		t.Errorf("attributes %q", got.Thing.Attributes)
	}
	if got.DeviceConfiguration["k"] != evil {
		t.Errorf("configuration %q", got.DeviceConfiguration)
	}
	for i, want := range []any{evil, []any{"a/" + evil + "/${iot:ClientId}"}, "b/" + evil} {
		var doc map[string]any
		if err := json.Unmarshal([]byte(got.Policies[i].Document), &doc); err != nil {
			t.Fatal(err)
		}
		if w := map[string]any{"Statement": []any{map[string]any{"Resource": want}}}; !reflect.DeepEqual(doc, w) {
			t.Errorf("policy %d: %s", i, got.Policies[i].Document)
		}
	}
}

// S21, A52: a parameter with a wildcard does not get into a policy, however it
// is cut up, while the template's own wildcards and variables stay.
func TestS21_ParametersDoNotWidenPolicies(t *testing.T) {
	body := func(resource string) string {
		return `{"Parameters":{"P":{"Type":"String"},"W":{"Type":"String","Default":{"Fn::Sub":"x${P}"}}},"Mappings":{"M":{"k":{"f":"author/*"}}},"Resources":{` + cert + `,"p":{"Type":"AWS::IoT::Policy","Properties":{"PolicyDocument":` + resource + `}}}}`
	}
	in := func(r string) string { return body(`{"Statement":[{"Resource":[` + r + `]}]}`) }
	const where = `Resources.p.Properties.PolicyDocument.Statement[0].Resource[0]`
	for name, c := range map[string]struct{ body, path string }{
		"Ref":           {in(`{"Ref":"P"}`), where + `.Ref`},
		"Sub":           {in(`{"Fn::Sub":"a/${P}"}`), where + `["Fn::Sub"]`},
		"Join":          {in(`{"Fn::Join":["",["a/",{"Ref":"P"}]]}`), where + `["Fn::Join"][1][1].Ref`},
		"cut up":        {in(`{"Fn::Select":[0,{"Fn::Split":["/",{"Ref":"P"}]}]}`), where + `["Fn::Select"][1]["Fn::Split"][1].Ref`},
		"spread":        {in(`{"Fn::Split":["/",{"Ref":"P"}]}`), where + `["Fn::Split"][1].Ref`},
		"variable":      {in(`{"Fn::Sub":["${v}",{"v":{"Ref":"P"}}]}`), where + `["Fn::Sub"][1].v.Ref`},
		"through W":     {in(`{"Ref":"W"}`), `Parameters.W.Default["Fn::Sub"]`},
		"text document": {body(`{"Fn::Sub":"{\"Statement\":[{\"Resource\":\"a/${P}\"}]}"}`), `Resources.p.Properties.PolicyDocument["Fn::Sub"]`},
	} {
		t.Run(name, func(t *testing.T) {
			tmpl := mustParse(t, c.body, Fleet)
			for _, bad := range []string{"*", "a*", "a+", "#", "$aws", "?", "${iot:ClientId}", "{iot:ClientId}", "a/*/b", "a\nb"} {
				_, err := tmpl.Evaluate(Input{Service: service, Device: map[string]string{"P": bad}})
				check(t, err, ErrPolicyValue, c.path+`: the parameter "P" holds a character that widens a policy.`)
			}
			if _, err := tmpl.Evaluate(Input{Service: service, Device: map[string]string{"P": "dev/1-a_b:c.d"}}); err != nil {
				t.Errorf("an ordinary value is refused: %v", err)
			}
		})
	}
	tmpl := mustParse(t, in(`{"Fn::Sub":"topic/${P}/${iot:Connection.Thing.ThingName}/*"},{"Fn::FindInMap":["M","k","f"]},"$aws/#"`), Fleet)
	got, err := tmpl.Evaluate(Input{Service: service, Device: map[string]string{"P": "d1"}})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"Statement":[{"Resource":["topic/d1/${iot:Connection.Thing.ThingName}/*","author/*","$aws/#"]}]}`; got.Policies[0].Document != want {
		t.Errorf("got %s", got.Policies[0].Document)
	}
	// Outside a policy such a value is only a value.
	other := mustParse(t, fleet(`{"Ref":"P"}`), Fleet)
	if got, err := other.Evaluate(Input{Service: service, Device: map[string]string{"P": "*"}}); err != nil || got.DeviceConfiguration["x"] != "*" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestPolicy_NamesAndSharing(t *testing.T) {
	body := func(properties string) string {
		return `{"Parameters":{"P":{"Type":"String"}},"Resources":{` + cert + `,` + properties + `}}`
	}
	p := func(n, inner string) string {
		return `"` + n + `":{"Type":"AWS::IoT::Policy","Properties":{` + inner + `}}`
	}
	tmpl := mustParse(t, body(p("p1", `"PolicyDocument":{"b":1.50,"a":[null,true,"<&>"]}`)+`,`+p("p2", `"PolicyDocument":"{\"a\": [null, true, \"\\u003c&>\"], \"b\": 1.50}"`)+`,`+p("p3", `"PolicyName":{"Fn::Sub":"pol-${P}"}`)), Fleet)
	got, err := tmpl.Evaluate(Input{Service: service, Device: map[string]string{"P": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	const doc = `{"a":[null,true,"<&>"],"b":1.50}`
	// printf '%s' '{"a":[null,true,"<&>"],"b":1.50}' | sha256sum
	want := []Policy{{Name: "bc1e83a20e1f858c79666397599b7254ef6d4c0a22e07d264243619c076e92c7", Document: doc}, {Name: "pol-1"}}
	if !reflect.DeepEqual(got.Policies, want) {
		t.Errorf("got %+v", got.Policies)
	}
	_, err = tmpl.Evaluate(Input{Service: service, Device: map[string]string{"P": "/"}})
	check(t, err, ErrValueInvalid, `Resources.p3.Properties.PolicyName: "pol-/" is no policy name: it has 1 to 128 of a-z A-Z 0-9 _ + = , . @ -.`)
	many := ""
	for i := range 11 {
		many += `,` + p("p"+string(rune('a'+i)), `"PolicyName":"x"`)
	}
	_, err = Parse([]byte(body(many[1:])), Fleet)
	check(t, err, ErrStructure, `Resources.pk: there are more than 10 policies.`)
}

// A53: a template cannot be made to work for long.
func TestA53_NestedTextIsBounded(t *testing.T) {
	text := `{\"a\":\"x\"}`
	inner := `{"Fn::Sub":""}`
	for range 7 {
		inner = `{"Fn::Sub":["` + strings.Repeat("${a}", 100) + `",{"a":` + inner + `}]}`
	}
	doc := `{"Fn::Join":["",["` + text + `",` + inner + `]]}`
	_, err := Parse([]byte(`{"Resources":{`+cert+`,"p":{"Type":"AWS::IoT::Policy","Properties":{"PolicyDocument":`+doc+`}}}}`), Fleet)
	check(t, err, ErrStructure, `Resources.p.Properties.PolicyDocument: the document is made of more than 4096 pieces.`)
	_, err = Parse([]byte(strings.Repeat(`{"a":`, 1000)), Fleet)
	if !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}
