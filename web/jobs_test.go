package web_test

import (
	"slices"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/web/webtest"
)

func TestJobs_OverTheAPI(t *testing.T) {
	d := newDoor(t)
	ask := func(method, path, body string) (int, string) {
		t.Helper()
		w := d.ask(t, webtest.Tenant, access.FleetOperator, method, path, body)
		if w.Code >= 400 {
			return w.Code, problem(t, w)
		}
		return w.Code, w.Body.String()
	}
	good := `{"id":"a","targets":["thing/x"],"document":"{}"`
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		says               string
	}{
		"made":                 {"POST", "/api/v1/jobs", good + `}`, 201, `"id":"a"`},
		"a rate in fractions":  {"POST", "/api/v1/jobs", good + `,"rollout":{"base_per_minute":5,"factor":1.5,"per_notified":10}}`, 201, `"id":"a"`},
		"no target":            {"POST", "/api/v1/jobs", `{"id":"a","targets":[],"document":"{}"}`, 400, "request-invalid"},
		"101 targets":          {"POST", "/api/v1/jobs", `{"id":"a","targets":[` + strings.Repeat(`"x",`, 100) + `"x"],"document":"{}"}`, 400, "request-invalid"},
		"a document of 33 KB":  {"POST", "/api/v1/jobs", `{"id":"a","targets":["x"],"document":"` + strings.Repeat("x", 33<<10) + `"}`, 400, "request-invalid"},
		"a factor in words":    {"POST", "/api/v1/jobs", good + `,"rollout":{"factor":"big"}}`, 400, "request-invalid"},
		"a factor too large":   {"POST", "/api/v1/jobs", good + `,"rollout":{"factor":5.01}}`, 400, "request-invalid"},
		"a factor too small":   {"POST", "/api/v1/jobs", good + `,"rollout":{"factor":0.9}}`, 400, "request-invalid"},
		"a failure of no kind": {"POST", "/api/v1/jobs", good + `,"abort":[{"failure":"LATE","percent":1,"min_executed":1}]}`, 400, "request-invalid"},
		"too many parameters":  {"POST", "/api/v1/jobs", good + `,"parameters":{"a":"","b":"","c":"","d":"","e":"","f":"","g":"","h":"","i":"","j":"","k":""}}`, 400, "request-invalid"},
		"a parameter's kind":   {"POST", "/api/v1/jobs", good + `,"parameters":{"a":1}}`, 400, "request-invalid"},
		"an unknown member":    {"POST", "/api/v1/jobs", good + `,"owner":"x"}`, 400, "request-invalid"},
		"a status of none":     {"GET", "/api/v1/jobs?status=DONE", "", 400, "request-invalid"},
		"a status":             {"GET", "/api/v1/jobs?status=COMPLETED", "", 200, `"items":[]`},
		"force in words":       {"DELETE", "/api/v1/jobs/" + webtest.Job + "?force=yes", "", 400, "request-invalid"},
		"removed":              {"DELETE", "/api/v1/jobs/" + webtest.Job, "", 200, `"id":"update-1"`},
		"removed by force":     {"DELETE", "/api/v1/jobs/" + webtest.Job + "?force=true", "", 200, `"id":"update-1"`},
		"removed, unknown":     {"DELETE", "/api/v1/jobs/none", "", 404, "webtest-unknown"},
		"no desired":           {"POST", "/api/v1/things/" + webtest.Unit + "/shadow", `{}`, 400, "request-invalid"},
		"desired null":         {"POST", "/api/v1/things/" + webtest.Unit + "/shadow?name=config", `{"desired":null}`, 200, `"name":"config"`},
		"reported":             {"POST", "/api/v1/things/" + webtest.Unit + "/shadow", `{"desired":{},"reported":{}}`, 400, "request-invalid"},
		"a version of 0":       {"POST", "/api/v1/things/" + webtest.Unit + "/shadow", `{"desired":{},"version":0}`, 400, "request-invalid"},
		"a long name":          {"GET", "/api/v1/things/" + webtest.Unit + "/shadow?name=" + strings.Repeat("a", 65), "", 400, "request-invalid"},
		"a page of 101":        {"GET", "/api/v1/things/" + webtest.Unit + "/shadows?limit=101", "", 400, "request-invalid"},
		"a page of 1":          {"GET", "/api/v1/things/" + webtest.Unit + "/shadows?limit=1", "", 200, `"next":"`},
	} {
		if status, says := ask(c.method, c.path, c.body); status != c.status || !strings.Contains(says, c.says) {
			t.Errorf("%s gives %d %s, want %d %s", name, status, says, c.status, c.says)
		}
	}
	for _, want := range []string{"create job a", "delete job update-1", "delete by force job update-1", "update shadow LMP-000001 config null"} {
		if !slices.Contains(d.Fake.Calls, want) {
			t.Errorf("nobody was asked to %q, but to %q", want, d.Fake.Calls)
		}
	}
}
