package web_test

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/web"
	"hallmark/web/webtest"
)

// registrationExample is [example] for policies and registration.
func registrationExample(path, id string) (string, string) {
	path = strings.NewReplacer("{policy}", webtest.Policy, "{version}", "2", "{certificate}", webtest.FleetID, "{group}", "lamps", "{ca}", webtest.FleetID).Replace(path)
	if id == "listAttachedPolicies" {
		path += "?certificate=" + webtest.FleetID
	}
	return path, map[string]string{
		"createPolicy":              `{"name":"p-9","document":"{}"}`,
		"createPolicyVersion":       `{"document":"{}","default":true}`,
		"checkPolicy":               `{"thing":"LMP-000001","action":"iot:Publish","resource":"dt/LMP-000001/x"}`,
		"registerFleetCertificate":  `{"certificate":"PEM","without_ca":true,"proof":"AA=="}`,
		"setFleetCertificateStatus": `{"status":"INACTIVE"}`,
		"registerCA":                `{"certificate":"PEM","verification":"PEM","active":true,"auto_registration":true}`,
		"updateRegisteredCA":        `{"status":"INACTIVE","template":""}`,
		"putCABudget":               `{"most":100,"per_minute":10}`,
		"putFleetTemplate":          `{"enabled":true}`,
		"createProvisioningClaim":   `{}`,
		"createClaim":               `{"name":"lamps","template":"lamp-claims","most":1000}`,
		"putClaimBudget":            `{"most":0}`,
		"registerInBulk":            `{"template":"lamp-bulk","lines":["{}"]}`,
	}[id]
}

func TestPolicies_WhatARequestHasToSay(t *testing.T) {
	d := newDoor(t)
	ask := func(role access.Role, method, path, body string) *httptest.ResponseRecorder {
		return d.ask(t, webtest.Tenant, role, method, path, body)
	}
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/api/v1/attached-policies", ""},
		{"GET", "/api/v1/attached-policies?thing=a&group=b", ""},
		{"GET", "/api/v1/attached-policies?thing=a&inherited=yes", ""},
		{"GET", "/api/v1/attached-policies?inherited=yes", ""},
		{"GET", "/api/v1/attached-policies?certificate=ABC", ""},
		{"GET", "/api/v1/policies/lamp-default/versions/0", ""},
		{"GET", "/api/v1/policies/lamp-default/versions/x", ""},
		{"POST", "/api/v1/policies", `{"name":"","document":"{}"}`},
		{"POST", "/api/v1/policies", `{"name":"a"}`},
		{"POST", "/api/v1/policy-check", `{"action":"iot:Publish"}`},
		{"POST", "/api/v1/policy-check", `{"thing":"a","certificate":"` + webtest.FleetID + `","action":"iot:Publish"}`},
		{"POST", "/api/v1/registered-cas", `{"active":true}`},
		{"POST", "/api/v1/registered-cas", `{"certificate":"PEM","authority":"devices-1"}`},
		{"POST", "/api/v1/registered-cas", `{"certificate":"PEM","mode":"OTHER"}`},
		{"POST", "/api/v1/fleet-certificates/" + webtest.FleetID + "/status", `{"status":"PENDING_ACTIVATION"}`},
		{"POST", "/api/v1/claims", `{"name":"a","template":"b","most":0}`},
		{"POST", "/api/v1/claims", `{"name":"` + strings.Repeat("a", 41) + `","template":"b","most":1}`},
		{"POST", "/api/v1/bulk-registrations", `{"template":"a","lines":[]}`},
	} {
		if w := ask(access.SecurityOfficer, c.method, c.path, c.body); w.Code != 400 || problem(t, w) != "request-invalid" {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, w.Code, w.Body)
		}
	}
	if len(d.Fake.Calls) != 0 {
		t.Errorf("what was refused came to %q", d.Fake.Calls)
	}
	// The two kinds of targets are told apart, and only the group needs the greater right.
	if w := ask(access.FleetOperator, "PUT", "/api/v1/policies/"+webtest.Policy+"/certificates/"+webtest.FleetID, ""); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := ask(access.FleetOperator, "PUT", "/api/v1/policies/"+webtest.Policy+"/groups/lamps", ""); w.Code != 403 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := ask(access.Platform, "DELETE", "/api/v1/policies/"+webtest.Policy+"/groups/lamps", ""); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	want := []string{"attach " + web.CertificateTarget + " " + webtest.FleetID + " to policy " + webtest.Policy, "detach " + web.GroupTarget + " lamps from policy " + webtest.Policy}
	if strings.Join(d.Fake.Calls, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q", d.Fake.Calls)
	}
}

// A66 for the lists of registration: pages end, and a cursor is of its list.
func TestRegistration_ListsAreCut(t *testing.T) {
	d := newDoor(t)
	var page struct {
		Items []json.RawMessage
		Next  string
	}
	path := "/api/v1/policies/" + webtest.Policy + "/targets?limit=1"
	if err := json.Unmarshal(d.ask(t, webtest.Tenant, access.Auditor, "GET", path, "").Body.Bytes(), &page); err != nil || len(page.Items) != 1 || page.Next == "" {
		t.Fatalf("%+v %v", page, err)
	}
	for _, p := range []string{"policies", "fleet-certificates", "registered-cas", "claims"} {
		if w := d.ask(t, webtest.Tenant, access.Auditor, "GET", "/api/v1/"+p+"?cursor="+page.Next, ""); w.Code != 400 || problem(t, w) != "cursor-invalid" {
			t.Errorf("%s takes another list's cursor: %d", p, w.Code)
		}
	}
	next := page.Next
	page.Next = ""
	if err := json.Unmarshal(d.ask(t, webtest.Tenant, access.Auditor, "GET", path+"&cursor="+next, "").Body.Bytes(), &page); err != nil || len(page.Items) != 1 || page.Next != "" {
		t.Errorf("%+v %v", page, err)
	}
}
