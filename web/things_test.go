package web_test

import (
	"encoding/json"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/web/webtest"
)

// thingsExample is [example] for things, their types and groups.
func thingsExample(path, id string) (string, string) {
	group := webtest.Group
	if strings.Contains(path, "/billing-groups/") {
		group = webtest.BillingGroup
	}
	if strings.Contains(path, "-groups/") {
		path = strings.ReplaceAll(path, "{group}", group)
	}
	if strings.Contains(path, "/principals/") {
		path = strings.ReplaceAll(path, "{certificate}", webtest.FleetID)
	}
	return strings.ReplaceAll(path, "{type}", webtest.ThingType), map[string]string{
		"createThing":          `{"name":"LMP-9","type":"lamp","attributes":{"model":"E27"}}`,
		"updateThing":          `{"attributes":{"model":""},"merge":true,"type":"","expected_version":1}`,
		"attachThingPrincipal": `{"kind":"EXCLUSIVE_THING"}`,
		"createThingType":      `{"name":"lamp-2","attributes":["model"],"tags":{"a":"b"}}`,
		"deprecateThingType":   `{"undo":true}`,
		"createThingGroup":     `{"name":"red","query":"attributes.color:red"}`,
		"updateThingGroup":     `{"description":"","attributes":{},"tags":{"a":"b"}}`,
		"createBillingGroup":   `{"name":"paris","tags":{"cost":"7"}}`,
		"updateBillingGroup":   `{"description":"x","expected_version":1}`,
	}[id]
}

func TestThings_WhatARequestHasToSay(t *testing.T) {
	d := newDoor(t)
	id := webtest.FleetID
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/api/v1/things?query=a:b&attribute=model", ""},
		{"GET", "/api/v1/things?query=a:b&silent=5", ""},
		{"GET", "/api/v1/things?silent=5&attribute=model", ""},
		{"GET", "/api/v1/things?silent=0", ""},
		{"GET", "/api/v1/things?silent=24h", ""},
		{"GET", "/api/v1/things?query=" + strings.Repeat("a", 1001), ""},
		{"POST", "/api/v1/things", `{}`},
		{"POST", "/api/v1/things", `{"name":"a/b"}`},
		{"POST", "/api/v1/things", `{"name":"a","holder":"b"}`},
		{"POST", "/api/v1/things", `{"name":"a","attributes":{"k":1}}`},
		{"POST", "/api/v1/things", `{"name":"a","attributes":{"k":"` + strings.Repeat("v", 801) + `"}}`},
		{"PATCH", "/api/v1/things/" + webtest.Unit, `{"name":"b"}`},
		{"PATCH", "/api/v1/things/" + webtest.Unit, `{"expected_version":-1}`},
		{"PATCH", "/api/v1/things/" + webtest.Unit, ``},
		{"DELETE", "/api/v1/things/" + webtest.Unit + "?version=0", ""},
		{"DELETE", "/api/v1/things/" + webtest.Unit + "?force=true", ""},
		{"PUT", "/api/v1/things/" + webtest.Unit + "/principals/" + id, `{"kind":"MINE"}`},
		{"PUT", "/api/v1/things/" + webtest.Unit + "/principals/" + strings.ToUpper(id), `{}`},
		{"DELETE", "/api/v1/things/" + webtest.Unit + "/principals/" + id[1:], ""},
		{"POST", "/api/v1/thing-types", `{"name":"a","attributes":["a","b","c","d"]}`},
		{"POST", "/api/v1/thing-groups", `{"query":"*"}`},
		{"POST", "/api/v1/billing-groups", `{"name":"a","query":"*"}`},
		{"PATCH", "/api/v1/billing-groups/" + webtest.BillingGroup, `{"attributes":{}}`},
		{"GET", "/api/v1/billing-groups?parent=a", ""},
		{"GET", "/api/v1/thing-groups/" + webtest.Group + "/things?nested=1", ""},
	} {
		w := d.ask(t, webtest.Tenant, access.FleetOperator, c.method, c.path, c.body)
		if w.Code != 400 || len(d.Fake.Calls) != 0 {
			t.Errorf("%s %.80s %.80s gives %d: %s", c.method, c.path, c.body, w.Code, w.Body)
			continue
		}
		problem(t, w)
	}
}

func TestThings_AreFoundInFourWays(t *testing.T) {
	d := newDoor(t)
	for path, want := range map[string]int{
		"?attribute=model&value=LMP": 1, "?attribute=model&value=x": 0, "": 1,
		"?query=thingName:" + webtest.Unit: 1, "?query=thingName:other": 0, "?silent=60": 1, "?silent=86400": 0,
	} {
		w := d.ask(t, webtest.Tenant, access.Auditor, "GET", "/api/v1/things"+path, "")
		var page struct{ Items []map[string]any }
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != 200 || len(page.Items) != want {
			t.Errorf("%s gives %d: %s", path, w.Code, w.Body)
		}
	}
}

// S22, S36: taking a thing from a device that is alive is the security officer's,
// whatever else the person may do.
func TestS22_TakeOverNeedsItsOwnRight(t *testing.T) {
	d := newDoor(t)
	ask := func(role access.Role, body string) *httptest.ResponseRecorder {
		return d.ask(t, webtest.Tenant, role, "PUT", "/api/v1/things/"+webtest.Unit+"/principals/"+webtest.FleetID, body)
	}
	for _, role := range []access.Role{access.FleetOperator, access.Platform} {
		if w := ask(role, `{"take_over":true}`); w.Code != 403 || problem(t, w) != "action-forbidden" || len(d.Fake.Calls) != 0 {
			t.Errorf("%s takes over: %d %v", role, w.Code, d.Fake.Calls)
		}
		if w := ask(role, `{"take_over":false}`); w.Code != 200 {
			t.Errorf("%s attaches: %d", role, w.Code)
		}
		d.Fake.Calls = nil
	}
	if w := ask(access.SecurityOfficer, `{"take_over":true}`); w.Code != 200 || !slices.Contains(d.Fake.Calls, "take over by "+webtest.FleetID+" "+webtest.Unit) {
		t.Errorf("the officer takes over: %d %v", w.Code, d.Fake.Calls)
	}
}

// A cursor of one kind of groups does not lead into the other, nor to other filters.
func TestGroups_CursorsStayInTheirList(t *testing.T) {
	d := newDoor(t)
	get := func(path string) *httptest.ResponseRecorder {
		return d.ask(t, webtest.Tenant, access.FleetOperator, "GET", path, "")
	}
	var page struct {
		Items []map[string]any
		Next  string
	}
	if err := json.Unmarshal(get("/api/v1/thing-groups?limit=1").Body.Bytes(), &page); err != nil || len(page.Items) != 1 || page.Next == "" {
		t.Fatalf("%+v %v", page, err)
	}
	for path, want := range map[string]int{"/api/v1/thing-groups?limit=1&cursor=": 200, "/api/v1/billing-groups?cursor=": 400, "/api/v1/thing-groups?prefix=l&cursor=": 400} {
		if w := get(path + page.Next); w.Code != want {
			t.Errorf("%s gives %d", path, w.Code)
		}
	}
}
