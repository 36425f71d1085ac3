package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/provisioner"
	"hallmark/provisioner/declare"
	"hallmark/store/storetest"
)

// person runs a command as one of the people, with what they type.
func (s *site) person(name, input string, args ...string) (code int, out, errOut string) {
	s.t.Helper()
	file := s.path("people", name+".token")
	if name == "platform" {
		file = s.path("state", "admin.token")
	}
	token, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.(*testing.T).Setenv("HALLMARK_TOKEN", strings.TrimSpace(string(token)))
	var o, e bytes.Buffer
	code = run(s.t.Context(), append([]string{"--dir", s.dir}, args...), strings.NewReader(input), &o, &e)
	return code, o.String(), e.String()
}

// TestApply_FilesBecomeTheServiceAndBack works with files as people do: against a
// real service, with two people, a mistake, somebody faster, and a kill -9 between
// what was shown and what is done. S36
func TestApply_FilesBecomeTheServiceAndBack(t *testing.T) {
	for _, engine := range []string{"SQLite", "PostgreSQL"} {
		if engine == "SQLite" && !long() { // the store's own tests are on both
			continue
		}
		t.Run(engine, func(t *testing.T) {
			database := ""
			if engine == "PostgreSQL" {
				database = storetest.Postgres(t)
			}
			applyStory(t, database)
		})
	}
}

func applyStory(t *testing.T, database string) {
	s := newSite(t, quickHSM(), database, anyName(1))
	s.halt()
	p := s.service("hallmark.yaml", "state")
	dir := filepath.Join(t.TempDir(), "fleet")
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	does := func(person, input string, want int, shows string, args ...string) string {
		t.Helper()
		code, out, errOut := s.person(person, input, args...)
		if code != want || !strings.Contains(out+errOut, shows) {
			t.Fatalf("%s: hallmark %s: exit %d, want %d with %q\n%s%s", person, strings.Join(args, " "), code, want, shows, out, errOut)
		}
		return out + errOut
	}
	plan := func(person string) (p adminapi.Plan) {
		t.Helper()
		_, out, errOut := s.person(person, "", "apply", "-f", dir, "--dry-run", "--json")
		if err := json.Unmarshal([]byte(out), &p); err != nil {
			t.Fatalf("%v: %s%s", err, out, errOut)
		}
		return p
	}

	// The example of the manual, without the authority that this site has otherwise
	// and with the order in a file of its own.
	text, order, _ := strings.Cut(manual(t, "devices-1"), "---\napiVersion: hallmark/v1\nkind: Registration")
	_, order, _ = strings.Cut(order, "---\n")
	write("fleet.yaml", text)
	write("orders.yaml", order)

	// One bad document: nothing of any file is applied.
	write("bad.yaml", declaredDoc("ThingType", "good", "{}")+"---\n"+declaredDoc("ThingGroup", "bad", "\n  parent: nowhere\n  colour: red"))
	out := does("platform", "yes\n", exitFault, "bad.yaml:13: ThingGroup bad:", "apply", "-f", dir)
	if !strings.Contains(out, "declare-field") || !strings.Contains(out, "declare-refused") {
		t.Errorf("%s", out)
	}
	write("bad.yaml", declaredDoc("ThingType", "good", "{}")+"---\n"+declaredDoc("ThingGroup", "bad", "{parent: nowhere}"))
	does("platform", "yes\n", exitFault, "thing-group-unknown", "apply", "-f", dir)
	if code, out, _ := s.person("platform", "", "thing-type", "list", "--json"); code != 0 || strings.Contains(out, "good") || strings.Contains(out, "lamp") {
		t.Errorf("a part was applied: %s", out)
	}
	os.Remove(filepath.Join(dir, "bad.yaml"))

	// What was shown, and then the service dies: nothing is half done, and the plan
	// still is one.
	before := plan("platform")
	p.kill()
	p = s.service("hallmark.yaml", "state")
	if after := plan("platform"); after.Hash != before.Hash || before.Todo == 0 {
		t.Errorf("before %+v, after %+v", before, after)
	}
	does("platform", "", exitChanges, "+ create    Hook erp", "apply", "-f", dir, "--dry-run")
	does("platform", "no\n", exitFault, "cli-not-applied", "apply", "-f", dir)

	// Two plan the same; the second to apply is told that the world is another one.
	platform := s.token("platform")
	files, err := (&globals{}).documentFiles([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	out = does("platform", "yes\n", exitOK, "Asked for the approval of 2 documents: request ", "apply", "-f", dir)
	a, err := platform.ApplyPlanWithResponse(t.Context(), adminapi.PlanApplyRequest{Files: files, Plan: before.Hash})
	refusedWith(t, "the plan of before", declare.ErrStale.Code, a.Body, err)
	p.kill() // what was answered is there
	p = s.service("hallmark.yaml", "state")

	// S36: the hook takes a second person, whom who asked cannot be. Asking again is
	// the same request; what was approved comes with the hook's secret.
	_, id, _ := strings.Cut(out, "hallmark approval approve ")
	id, _, _ = strings.Cut(id, "\n")
	s.second("pia")
	does("platform", "yes\n", exitOK, "was asked for already, by platform: request "+id, "apply", "-f", dir)
	does("ann", "", exitOK, id, "approval", "list", "--state", "open")
	does("platform", "yes\n", exitFault, "approval-self", "approval", "approve", id)
	does("bob", "yes\n", exitFault, "action-forbidden", "approval", "approve", id)
	does("pia", "", exitOK, "+ create    Hook erp\n", "approval", "show", id)
	does("pia", "no\n", exitFault, "Type yes", "approval", "approve", id)
	does("platform", "", exitOK, "[]", "export", "--kind", "Hook", "--json")
	does("pia", "yes\n", exitOK, "Secret of the hook erp, shown this once: ", "approval", "approve", id)
	does("pia", "yes\n", exitFault, "approval-decided", "approval", "approve", id)
	does("platform", "", exitOK, "approved", "approval", "show", id)

	// The order is not for platform. The manager drafts it, cannot approve it,
	// and the officer does.
	if v := plan("platform"); v.Todo != 0 || v.Waiting != 1 || v.Items[len(v.Items)-1].Waits != "order.create" {
		t.Errorf("%+v", v)
	}
	does("ann", "yes\n", exitOK, "then: hallmark order approve PO-7 --key URI", "apply", "-f", filepath.Join(dir, "orders.yaml"))
	if o := s.order("PO-7"); o.State != string(provisioner.OrderDraft) || o.CreatedBy != "ann" {
		t.Fatalf("%+v", o)
	}
	key := s.approverURI()
	does("ann", "yes\n", exitFault, "approval-self", "order", "approve", "PO-7", "--key", key)
	does("bob", "yes\n", exitOK, "PO-7", "order", "approve", "PO-7", "--key", key)
	if o := s.order("PO-7"); o.State != string(provisioner.OrderApproved) {
		t.Errorf("%+v", o)
	}
	does("bob", "", exitOK, "Nothing to do", "apply", "-f", filepath.Join(dir, "orders.yaml"))

	// What was applied is exported, found unchanged, and says all of it.
	back := filepath.Join(t.TempDir(), "back")
	does("bob", "", exitOK, "Wrote", "export", "-o", back)
	does("bob", "", exitOK, "Nothing to do.", "apply", "-f", back, "--dry-run")
	does("bob", "", exitOK, "Nothing to do.", "apply", "-f", dir, "--dry-run")
	first, err := os.ReadFile(filepath.Join(back, "thinggroup", "lamps.yaml"))
	if err != nil || !strings.Contains(string(first), "parent: building") {
		t.Errorf("%s %v", first, err)
	}

	// Elsewhere the files make the same files.
	other := newSite(t, "software", "", anyName(1)) // a process has one SoftHSM
	files, err = (&globals{}).documentFiles([]string{back})
	if err != nil {
		t.Fatal(err)
	}
	files = slices.DeleteFunc(files, func(f adminapi.DocumentFile) bool { // what every site has of its own
		return strings.Contains(f.Name, siteOrder) || strings.Contains(f.Name, "/registration/") || strings.Contains(f.Name, "/registeredca/")
	})
	pia := other.second("pia")
	for _, person := range []string{"platform", "bob"} {
		api := other.token(person)
		v := got(t, func() *adminapi.Plan {
			a, err := api.MakePlanWithResponse(t.Context(), adminapi.PlanRequest{Files: files})
			if err != nil || a.JSON200 == nil {
				t.Fatalf("%v %s", err, a.Body)
			}
			return a.JSON200
		}(), 200, nil, nil)
		b, err := api.ApplyPlanWithResponse(t.Context(), adminapi.PlanApplyRequest{Files: files, Plan: v.Hash})
		if err != nil || b.JSON200 == nil {
			t.Fatalf("%v %s", err, b.Body)
		}
		for _, r := range b.JSON200.Requests {
			if seen, err := pia.GetApprovalWithResponse(t.Context(), r.Id); err != nil || seen.JSON200 == nil {
				t.Fatalf("%v %s", err, seen.Body)
			} else if done, err := pia.ApproveApprovalWithResponse(t.Context(), r.Id, adminapi.ApprovalDecision{Plan: seen.JSON200.Plan.Hash}); person == "platform" && r.Documents == 2 && (err != nil || done.JSON200 == nil) {
				t.Fatalf("%v %s", err, done.Body)
			}
		}
	}
	there := filepath.Join(t.TempDir(), "there")
	if code, out, errOut := other.person("bob", "", "export", "-o", there); code != exitOK {
		t.Fatalf("%s%s", out, errOut)
	}
	for _, f := range files {
		name, _ := filepath.Rel(back, filepath.FromSlash(f.Name))
		b, err := os.ReadFile(filepath.Join(there, name))
		if err != nil || string(b) != f.Text {
			t.Errorf("%s: %v\n%s\nand not\n%s", name, err, b, f.Text)
		}
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	s.clean()
}

// second makes another person of the platform.
func (s *site) second(name string) *adminapi.ClientWithResponses {
	s.t.Helper()
	a, err := s.token("platform").CreatePrincipalWithResponse(s.t.Context(), adminapi.PrincipalRequest{Name: name, Role: string(access.Platform)})
	if err != nil || a.JSON201 == nil {
		s.t.Fatalf("%v %s", err, a.Body)
	}
	if err := os.WriteFile(s.path("people", name+".token"), []byte(a.JSON201.Token), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return s.api(name)
}

// token is the API of whichever service runs, as one of the people.
func (s *site) token(person string) *adminapi.ClientWithResponses {
	s.t.Helper()
	if person != "platform" {
		return s.api(person)
	}
	token, err := os.ReadFile(s.path("state", "admin.token"))
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := adminClient("https://"+s.door("people"), strings.TrimSpace(string(token)), s.path("state", "ca.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}
