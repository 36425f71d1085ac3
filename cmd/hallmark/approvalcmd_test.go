package main

import (
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/web/webtest"
)

func TestApprovalCommand_ShowsAsksAndDecides(t *testing.T) {
	c := newCLI(t)
	id, end := webtest.Approval, "20260222-080000-00000001"
	for _, x := range []struct {
		role  access.Role
		input string
		args  []string
		code  int
		shows []string
		calls string
	}{
		{access.Auditor, "", []string{"list"}, 0, []string{id, "Hook erp, FleetTemplate lamp-claim", "wei", "rejected"}, ""},
		{access.Auditor, "", []string{"list", "--state", "open", "--json"}, 0, []string{`"state": "open"`}, ""},
		{access.Auditor, "", []string{"list", "--state", "expired"}, 0, []string{"Nothing waits"}, ""},
		{access.Auditor, "", []string{"list", "--state", "lost"}, exitUsage, []string{"superseded"}, ""},
		{access.Operator, "", []string{"list"}, 1, []string{"action-forbidden"}, ""},
		{access.Auditor, "", []string{"show", id}, 0, []string{"~ change    Hook erp\n", `- url: "https://erp.example.com/v1"`, "dangerous: a hook's target", "somebody other than wei: hallmark approval approve " + id}, ""},
		{access.Auditor, "", []string{"show", id, "--documents"}, 0, []string{"kind: Hook\n", "---\n"}, ""},
		{access.Auditor, "", []string{"show", end}, 0, []string{"rejected", "olga"}, ""},
		{access.Auditor, "yes\n", []string{"approve", id}, 1, []string{"action-forbidden"}, ""},
		{access.Platform, "yes\n", []string{"approve", id}, 0, []string{"Approve 2 documents that wei asked for? Type yes: ", "Approved and applied 2 documents.", "Secret of the hook erp, shown this once: c2VjcmV0"}, "approve " + id + " " + webtest.PlanHash},
		{access.Platform, "y\n", []string{"approve", id}, 1, []string{"Type yes"}, ""},
		{access.Platform, "", []string{"approve", id, "--json"}, exitUsage, []string{"--yes"}, ""},
		{access.Platform, "", []string{"approve", id, "--json", "--yes"}, 0, []string{`"decided_by": "a-platform"`}, "approve " + id + " " + webtest.PlanHash},
		{access.Platform, "", []string{"approve", id, "--plan", strings.Repeat("0", 64)}, exitUsage, []string{"--yes"}, ""},
		{access.Platform, "", []string{"approve", id, "--plan", strings.Repeat("0", 64), "--yes"}, 0, []string{"Approved"}, "approve " + id + " " + strings.Repeat("0", 64)},
		{access.Platform, "yes\n", []string{"approve", end}, 1, []string{"approval-decided"}, ""},
		{access.Platform, "", []string{"reject", id, "--note", "not ours"}, 0, []string{"Rejected " + id}, "reject " + id + " not ours"},
	} {
		c.Fake.Calls = nil
		code, out, errOut := c.run(x.role, x.input, append([]string{"approval"}, x.args...)...)
		if code != x.code || strings.Join(c.Fake.Calls, "; ") != x.calls {
			t.Errorf("%q: code %d, calls %q\n%s%s", x.args, code, c.Fake.Calls, out, errOut)
		}
		for _, s := range x.shows {
			if !strings.Contains(out+errOut, s) {
				t.Errorf("%q does not show %q:\n%s%s", x.args, s, out, errOut)
			}
		}
	}
}
