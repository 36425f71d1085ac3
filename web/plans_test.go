package web_test

import (
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/web/webtest"
)

// plansExample is [example] for documents.
func plansExample(path, id string) (string, string) {
	path = strings.NewReplacer("{kind}", "Policy", "{approval}", webtest.Approval).Replace(path)
	return path, map[string]string{
		"makePlan":  `{"files":[{"name":"a.yaml","text":"kind: Policy"}]}`,
		"applyPlan": `{"files":[{"name":"a.yaml","text":"kind: Policy"}],"plan":"` + webtest.PlanHash + `"}`,

		"approveApproval": `{"plan":"` + webtest.PlanHash + `"}`,
		"rejectApproval":  `{"note":"not ours"}`,
	}[id]
}

func TestPlans_WhatARequestHasToSay(t *testing.T) {
	d := newDoor(t)
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/api/v1/plans", `{}`},
		{"POST", "/api/v1/plans", `{"files":[]}`},
		{"POST", "/api/v1/plans", `{"files":[{"name":"","text":"a"}]}`},
		{"POST", "/api/v1/plans", `{"files":[{"name":"a"}]}`},
		{"POST", "/api/v1/plans", `{"files":[{"name":"a","text":"a"}],"plan":"x"}`},
		{"POST", "/api/v1/plans/apply", `{"files":[{"name":"a","text":"a"}]}`},
		{"POST", "/api/v1/plans/apply", `{"files":[{"name":"a","text":"a"}],"plan":"` + strings.ToUpper(webtest.PlanHash) + `"}`},
		{"GET", "/api/v1/documents/Nothing", ""},
		{"GET", "/api/v1/documents/policy", ""},
	} {
		if w := d.ask(t, webtest.Tenant, access.Platform, c.method, c.path, c.body); w.Code != 400 || problem(t, w) != "request-invalid" {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, w.Code, w.Body)
		}
	}
	if len(d.Fake.Calls) != 0 {
		t.Errorf("what was refused came to %q", d.Fake.Calls)
	}
	// An auditor looks and does nothing; an operator of the line does not even look.
	_, plan := plansExample("", "makePlan")
	_, apply := plansExample("", "applyPlan")
	for _, c := range []struct {
		role       access.Role
		path, body string
		code       int
	}{
		{access.Auditor, "/api/v1/plans", plan, 200}, {access.Auditor, "/api/v1/plans/apply", apply, 403}, {access.CMManager, "/api/v1/plans/apply", apply, 200},
		{access.Operator, "/api/v1/plans", plan, 403}, {access.Operator, "/api/v1/plans/apply", apply, 403},
	} {
		if w := d.ask(t, webtest.Tenant, c.role, "POST", c.path, c.body); w.Code != c.code {
			t.Errorf("%s %s: %d %s", c.role, c.path, w.Code, w.Body)
		}
	}
	if strings.Join(d.Fake.Calls, "\n") != "plan a.yaml\napply "+webtest.PlanHash {
		t.Errorf("%q", d.Fake.Calls)
	}
}
