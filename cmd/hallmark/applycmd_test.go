package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/web/webtest"
)

func TestApplyCommand_ShowsAsksAndDoes(t *testing.T) {
	c := newCLI(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"a.yaml": "kind: Policy", "sub/b.yml": "kind: Order", ".hidden/c.yaml": "no", "d.txt": "no", ".e.yaml": "no"} {
		file := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(file), 0o700)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range []struct {
		role  access.Role
		input string
		args  []string
		code  int
		shows []string
		calls string
	}{
		{access.Platform, "", []string{"-f", dir, "--dry-run"}, exitChanges, []string{
			"~ change    Policy lamp-default  (a.yaml:3)\n", "    - document.Statement[0].Effect: \"Allow\"\n    + document.Statement[0].Effect: \"Deny\"\n    + document.Id: \"x\"\n", "note: it is attached to groups",
			"? create    Hook erp", "waits: for a second person with the right hook.put (platform): a hook's target is dangerous", "then: hallmark order approve " + webtest.Draft + " --key URI", "= unchanged 2 documents"}, "plan"},
		{access.Platform, "yes\n", []string{"-f", dir}, 0, []string{"Apply one document and ask for the approval of one document? Type yes: ", "Applied one document.", "hallmark order approve",
			"Asked for the approval of one document: request " + webtest.Approval, "then: somebody other than wei (platform): hallmark approval approve " + webtest.Approval}, "plan apply"},
		{access.Platform, "y\n", []string{"-f", dir}, 1, []string{"cli-not-applied"}, "plan"},
		{access.Platform, "", []string{"-f", dir}, 1, []string{"cli-not-applied"}, "plan"},
		{access.Platform, "", []string{"-f", dir, "--yes", "--json"}, 0, []string{`"applied": true`}, "plan apply"},
		{access.Platform, "kind: Policy", []string{"-f", "-", "--yes"}, 0, []string{"Applied"}, "plan apply"},
		{access.Platform, "kind: Policy", []string{"-f", "-"}, 2, []string{"--yes or --dry-run"}, ""},
		{access.Platform, "", []string{"-f", dir, "--json"}, 2, []string{"--yes or --dry-run"}, ""},
		{access.Platform, "", nil, 2, []string{"required flag"}, ""},
		{access.Platform, "", []string{"-f", filepath.Join(dir, "none")}, 1, []string{"cli-no-documents"}, ""},
		{access.Platform, "", []string{"-f", filepath.Join(dir, ".hidden", "none")}, 1, []string{"cli-no-documents"}, ""},
		{access.Operator, "", []string{"-f", dir, "--yes"}, 1, []string{"action-forbidden"}, ""},
		{access.Auditor, "", []string{"-f", dir, "--yes"}, 1, []string{"action-forbidden"}, "plan"},
	} {
		c.Fake.Calls = nil
		code, out, errOut := c.run(x.role, x.input, append([]string{"apply"}, x.args...)...)
		var calls []string
		for _, call := range c.Fake.Calls {
			calls = append(calls, strings.Fields(call)[0])
		}
		if code != x.code || strings.Join(calls, " ") != x.calls {
			t.Errorf("%s %q: code %d, calls %q\n%s%s", x.args, x.input, code, calls, out, errOut)
		}
		for _, s := range x.shows {
			if !strings.Contains(out+errOut, s) {
				t.Errorf("%s %q does not show %q:\n%s%s", x.args, x.input, s, out, errOut)
			}
		}
		if strings.Contains(out, "\x1b") {
			t.Errorf("colours where nobody sees them: %q", out)
		}
	}
}

func TestExportCommand_WritesAFileForEachDocument(t *testing.T) {
	c := newCLI(t)
	dir := t.TempDir()
	code, out, errOut := c.run(access.Auditor, "", "export", "-o", dir)
	b, err := os.ReadFile(filepath.Join(dir, "policy", webtest.Policy+"-2.yaml"))
	if code != 0 || err != nil || !strings.Contains(string(b), "name: "+webtest.Policy+"-2\n") || !strings.Contains(out, "Wrote 2 documents") {
		t.Errorf("code %d %v\n%s%s%s", code, err, out, errOut, b)
	}
	if code, out, _ = c.run(access.Auditor, "", "export"); code != 0 || strings.Count(out, "apiVersion:") != 2 || strings.Count(out, "\n---\n") != 1 {
		t.Errorf("code %d\n%s", code, out)
	}
	var docs []adminapi.DeclaredDocument
	if code, out, _ = c.run(access.Auditor, "", "export", "--kind", "Policy", "--json"); code != 0 || json.Unmarshal([]byte(out), &docs) != nil || len(docs) != 2 {
		t.Errorf("code %d\n%s", code, out)
	}
	if code, _, errOut = c.run(access.Auditor, "", "export", "--kind", "Crate"); code != exitUsage || !strings.Contains(errOut, "Crate") {
		t.Errorf("code %d %s", code, errOut)
	}
	if code, _, errOut = c.run(access.Operator, "", "export", "--kind", "Policy"); code != exitFault || !strings.Contains(errOut, "action-forbidden") {
		t.Errorf("code %d %s", code, errOut)
	}
	for name, want := range map[string]string{"lamps": "lamps", "A:b": "A%3ab", "..": "%2e.", "a/../b": "a%2f..%2fb", "é": "%c3%a9"} {
		if got := fileName(name); got != want {
			t.Errorf("%q: %q", name, got)
		}
	}
}

// The command knows the kinds of the service.
func TestExportCommand_KnowsEveryKind(t *testing.T) {
	n := newBench(t, nil)
	if got := n.api.Plans.(planAPI).planner.Kinds(); strings.Join(got, " ") != strings.Join(documentKinds, " ") {
		t.Errorf("%q, the command has %q", got, documentKinds)
	}
}
