package template

import (
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"hallmark/internal/fault"
)

// Parse never panics, and what it accepts evaluates to the same every time, in
// bounded time, to faults or to values that keep the rules.
func FuzzParse(f *testing.F) {
	f.Add(freertos, uint8(Fleet), "SN1")
	f.Add(fleet(`{"Fn::Sub":["${a}${P}",{"a":{"Fn::Select":[0,{"Fn::Split":[",",{"Ref":"P"}]}]}}]}`), uint8(Fleet), "a,b")
	f.Add(fleet(`{"Fn::FindInMap":["M",{"Ref":"P"},"host"]}`), uint8(Fleet), "eu")
	f.Add(`{"Parameters":{"P":{"Type":"String"}},"Resources":{"t":{"Type":"AWS::IoT::Thing","Properties":{"ThingName":{"Ref":"P"},"ThingGroups":["a"]}},"c":{"Type":"AWS::IoT::Certificate","Properties":{"CertificatePem":{"Ref":"P"},"CACertificatePem":"x","Status":"INACTIVE"}}}}`, uint8(Bulk), "x")
	f.Add(`{"Parameters":{"AWS::IoT::Certificate::CommonName":{"Type":"String","Default":"x"}},"Resources":{`+cert+`,"p":{"Type":"AWS::IoT::Policy","Properties":{"PolicyDocument":{"Fn::Sub":"{\"Resource\":\"${AWS::IoT::Certificate::CommonName}/${iot:ClientId}\"}"}}}}}`, uint8(JITP), "x")
	f.Add(`{"Resources":{`+cert+`,"p":{"Type":"AWS::IoT::Policy","Properties":{"PolicyDocument":{"Fn::Join":["\"",["{","a",":","b","}"]]}}}}}`, uint8(Fleet), "x")
	f.Fuzz(func(t *testing.T, body string, kind uint8, value string) {
		start := time.Now()
		tmpl, err := Parse([]byte(body), Kind(kind%3))
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("not a fault: %v", err)
			}
			return
		}
		in := Input{Service: map[string]string{}, Device: map[string]string{}}
		for _, name := range serviceParameters[tmpl.kind] {
			in.Service[name] = strings.Repeat("0", 64)
		}
		for _, p := range tmpl.Parameters() {
			if !p.Service && tmpl.kind != JITP {
				in.Device[p.Name] = value
			}
		}
		first, err := tmpl.Evaluate(in)
		second, err2 := tmpl.Evaluate(in)
		if !reflect.DeepEqual(first, second) || (err == nil) != (err2 == nil) || err != nil && err.Error() != err2.Error() {
			t.Fatalf("two evaluations differ: %+v %v / %+v %v", first, err, second, err2)
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Fatalf("took %v", d)
		}
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("not a fault: %v", err)
			}
			return
		}
		if tmpl.thing != nil && !validName(first.Thing.Name) {
			t.Fatalf("thing name %q", first.Thing.Name)
		}
		for _, p := range first.Policies {
			if p.Document != "" && !json.Valid([]byte(p.Document)) {
				t.Fatalf("policy document %q", p.Document)
			}
		}
	})
}

var hole = regexp.MustCompile(`(?s)\$\{([^}]*)\}`)

// naiveSub is Fn::Sub as one would write it in a line, for texts where every
// ${ has its }.
func naiveSub(text string, values map[string]string) (string, bool) {
	ok := true
	out := hole.ReplaceAllStringFunc(text, func(m string) string {
		name := hole.FindStringSubmatch(m)[1]
		switch v, known := values[name]; {
		case strings.HasPrefix(name, "iot:"), strings.HasPrefix(name, "aws:") && !strings.HasPrefix(strings.ToUpper(name), "AWS::"):
			return m
		case strings.HasPrefix(name, "!"):
			return "${" + name[1:] + "}"
		case known:
			return v
		}
		ok = false
		return m
	})
	return out, ok && !strings.Contains(hole.ReplaceAllString(text, ""), "${")
}

// Fn::Sub agrees with its naive twin on every text and value.
func FuzzSub(f *testing.F) {
	for _, s := range []string{"", "a${P}b", "${P}${D}", "${iot:ClientId}${P}", "${!P}", "$${P}}", "${P", "$", "${", "${}", "${X}", "${${P}}", "a}b${v}"} {
		f.Add(s, "val${P}")
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		if !clean(value) || !clean(text) || len(text) > 2000 || len(value) > 2000 {
			return
		}
		quoted, err := json.Marshal(text)
		if err != nil {
			return
		}
		values := map[string]string{"P": value, "D": "dflt", "Q": value + "-dflt", "v": value + "!", CertificateID: id}
		want, ok := naiveSub(text, values)
		tmpl, err := Parse([]byte(fleet(`{"Fn::Sub":[`+string(quoted)+`,{"v":{"Fn::Join":["",[{"Ref":"P"},"!"]]}}]}`)), Fleet)
		if (err == nil) != ok {
			t.Fatalf("%q: parsed %v, the twin says %v", text, err, ok)
		}
		if err != nil {
			return
		}
		got, err := tmpl.Evaluate(Input{Service: service, Device: map[string]string{"P": value}})
		if len(want) > maxConfig-1 {
			if err == nil {
				t.Fatal("the limit does not hold")
			}
			return
		}
		if err != nil || got.DeviceConfiguration["x"] != want {
			t.Fatalf("%q: got %v %v, want %q", text, got, err, want)
		}
	})
}
