package web_test

import (
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/web/webtest"
)

// revocationExample is [example] for plans to revoke in bulk.
func revocationExample(path, id string) (string, string) {
	path = strings.NewReplacer("{plan}", webtest.RevocationPlan).Replace(path)
	return path, map[string]string{
		"makeRevocationPlan":    `{"station":"` + webtest.Station + `","reason":"superseded"}`,
		"approveRevocationPlan": `{"stage":"revoke","hash":"` + webtest.RevokeHash + `"}`,
		"runRevocationPlan":     `{"stage":"hold"}`,
	}[id]
}

func TestRevocationPlans_WhatARequestHasToSay(t *testing.T) {
	d := newDoor(t)
	const base = "/api/v1/revocation-plans"
	for _, c := range []struct{ path, body string }{
		{base, `{"station":"s"}`},
		{base, `{"station":"s","reason":"superseded","per_second":10001}`},
		{base, `{"station":"s","reason":"superseded","key":"ab"}`},
		{base, `{"station":"s","reason":"superseded","from":"yesterday"}`},
		{base, `{"station":"s","reason":"superseded","everything":true}`},
		{base + "/" + webtest.RevocationPlan + "/approve", `{"stage":"hold","hash":"` + webtest.RevokeHash + `"}`},
		{base + "/" + webtest.RevocationPlan + "/approve", `{"stage":"revoke","hash":"x"}`},
		{base + "/" + webtest.RevocationPlan + "/run", `{"stage":"all"}`},
	} {
		if w := d.ask(t, webtest.Tenant, access.SecurityOfficer, "POST", c.path, c.body); w.Code != 400 {
			t.Errorf("%s %s: %d %s", c.path, c.body, w.Code, w.Body)
		}
	}
	if len(d.Fake.Calls) != 0 {
		t.Errorf("what was refused came to %q", d.Fake.Calls)
	}
	for _, verb := range []string{"pause", "resume", "abort"} {
		if w := d.ask(t, webtest.Tenant, access.SecurityOfficer, "POST", base+"/"+webtest.RevocationPlan+"/"+verb, ""); w.Code != 200 {
			t.Errorf("%s: %d %s", verb, w.Code, w.Body)
		}
	}
	if got := strings.Join(d.Fake.Calls, "\n"); got != "pause "+webtest.RevocationPlan+"\nresume "+webtest.RevocationPlan+"\nabort "+webtest.RevocationPlan {
		t.Errorf("%q", got)
	}
}
