package policy_test

import (
	"testing"

	"hallmark/fleet/policy"
)

// What is given by name is what a document's variables and conditions see.
func TestContext_SetGivesEveryVariable(t *testing.T) {
	for _, c := range []struct{ name, value, text string }{
		{"iot:ClientId", "lamp-1", "${iot:ClientId}"},
		{"IOT:CLIENTID", "lamp-1", "${iot:ClientId}"},
		{"aws:SourceIp", "192.0.2.7", "${aws:SourceIp}"},
		{"iot:DomainName", "a.example", "${iot:DomainName}"},
		{"iot:Connection.Thing.ThingName", "lamp-1", "${iot:Connection.Thing.ThingName}"},
		{"iot:Connection.Thing.ThingTypeName", "lamp", "${iot:Connection.Thing.ThingTypeName}"},
		{"iot:Connection.Thing.Attributes[site]", "north", "${iot:Connection.Thing.Attributes[site]}"},
		{"iot:Connection.Thing.IsAttached", "true", "${iot:Connection.Thing.IsAttached}"},
		{"iot:CertificateId", "ab12", "${iot:CertificateId}"},
		{"iot:Certificate.SerialNumber", "0a", "${iot:Certificate.SerialNumber}"},
		{"iot:Certificate.Subject.CommonName", "lamp-1", "${iot:Certificate.Subject.CommonName}"},
		{"iot:Certificate.Issuer.Organization", "Example", "${iot:Certificate.Issuer.Organization}"},
	} {
		var at policy.Context
		if err := at.Set(c.name, c.value); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		d, err := policy.Parse([]byte(`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"iot:Publish","Resource":"topic/` + c.text + `"}}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := policy.Compile(d).Explain(&at, policy.Publish, c.value); got.Result != policy.Allowed {
			t.Errorf("%s: %+v", c.name, got)
		}
		if got := policy.Compile(d).Explain(&policy.Context{}, policy.Publish, c.value); got.Result == policy.Allowed && c.name != "iot:Connection.Thing.IsAttached" {
			t.Errorf("%s acts without a value", c.name)
		}
	}
	var at policy.Context
	for _, value := range []string{"LastWill", "PersistentConnect"} {
		if err := at.Set("iot:ConnectAttributes", value); err != nil {
			t.Error(err)
		}
	}
	if !at.LastWill || !at.PersistentConnect {
		t.Errorf("%+v", at)
	}
	for name, value := range map[string]string{"iot:Nothing": "x", "aws:SourceIp": "here", "iot:ConnectAttributes": "Other", "iot:Connection.Thing.IsAttached": "perhaps", "iot:Certificate.AvailableKeys": "x"} {
		if err := at.Set(name, value); err == nil {
			t.Errorf("%s takes %s", name, value)
		}
	}
}
