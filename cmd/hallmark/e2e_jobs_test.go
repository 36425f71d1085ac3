package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/device/mqtt"
	"hallmark/fleet/registry"
)

// outsider is a person of another tenant.
func (s *site) outsider(role access.Role) *adminapi.ClientWithResponses {
	s.t.Helper()
	auth := access.NewAuthenticator(access.Config{Store: s.server.db})
	_, token, err := auth.Create(s.t.Context(), access.Actor{Tenant: "other", Kind: access.KindPrincipal, Name: "maker", Role: access.Platform}, "stranger-"+string(role), role, time.Hour)
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := adminClient("https://"+s.door("people"), token.Reveal(), s.path("state", "ca.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// said runs a command that has to succeed, and reads what it prints.
func said[T any](s *site, args ...string) (v T) {
	s.t.Helper()
	out, errOut, exit := s.cli(args...)
	if exit != exitOK {
		s.t.Fatalf("hallmark %s: exit %d %s", strings.Join(args, " "), exit, errOut)
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		s.t.Fatalf("hallmark %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return v
}

// refusedBy runs a command that has to fail with a code and exit code 1.
func (s *site) refusedBy(code string, args ...string) {
	s.t.Helper()
	out, errOut, exit := s.cli(args...)
	var p struct{ Code string }
	if exit != exitFault || json.Unmarshal([]byte(errOut), &p) != nil || p.Code != code {
		s.t.Errorf("hallmark %s: exit %d, want the code %s: %s%s", strings.Join(args, " "), exit, code, out, errOut)
	}
}

// usage runs a command whose line is wrong.
func (s *site) usage(args ...string) {
	s.t.Helper()
	if out, errOut, exit := s.cli(args...); exit != exitUsage || errOut == "" {
		s.t.Errorf("hallmark %s: exit %d: %s%s", strings.Join(args, " "), exit, out, errOut)
	}
}

// plain runs a command as a person does.
func (s *site) plain(args ...string) string {
	s.t.Helper()
	var out, errOut strings.Builder
	if exit := run(s.t.Context(), append([]string{"--dir", s.dir}, args...), strings.NewReader(""), &out, &errOut); exit != exitOK {
		s.t.Fatalf("hallmark %s: exit %d %s", strings.Join(args, " "), exit, errOut.String())
	}
	return out.String()
}

func TestJobs_FromTheCommandLineToTheDeviceAndBack(t *testing.T) {
	w := newFleetSite(t, "J-1", "J-2", "J-3")
	ctx := t.Context()
	if out := w.plain("job", "list"); !strings.Contains(out, "hallmark job create") {
		t.Errorf("an empty list: %s", out)
	}

	t.Run("a device does what the command says", func(t *testing.T) {
		j := said[adminapi.Job](w, "job", "create", "--id", "hello", "--thing", "J-1", "--document", `{"operation":"echo","message":"${aws:iot:parameter:who}"}`, "--parameter", "who=you",
			"--per-minute", "60", "--timeout-minutes", "5", "--abort", "FAILED:50:10", "--retry", "FAILED:1", "--description", "a greeting", "--tag", "team=x")
		if j.Status != "IN_PROGRESS" || j.Document != `{"operation":"echo","message":"you"}` || j.TimeoutMinutes != 5 || j.Rollout.MaxPerMinute != 60 || len(j.Abort) != 1 || j.Abort[0].Percent != 50 || j.Retry[0].Retries != 1 || j.Tags["team"] != "x" {
			t.Errorf("created %+v", j)
		}
		p := w.spawn("device", "run", w.path("devices", "J-1"), "--endpoint", w.door("mqtt"), "--ca-file", w.path("pki", "root.pem"), "--json")
		eventually(t, "the job", func() bool {
			e := said[[]adminapi.JobExecution](w, "job", "executions", "hello")
			return len(e) == 1 && e[0].Status == "SUCCEEDED" && e[0].Thing == "J-1" && e[0].Details["echo"] == "you" && e[0].Number == 1
		})
		eventually(t, "its end", func() bool {
			j := said[adminapi.Job](w, "job", "show", "hello")
			return j.Status == "COMPLETED" && j.Counts.Succeeded == 1 && !j.CompletedAt.IsZero()
		})
		if err := p.stop(); err != nil {
			t.Errorf("the agent: %v %s", err, p.said.String())
		}
		out := w.plain("job", "show", "hello") + w.plain("job", "list") + w.plain("job", "executions", "--thing", "J-1")
		for _, want := range []string{"1 of 1", "at most 60 a minute", "FAILED of 50 %", "a greeting", "1/1", "echo=you"} {
			if !strings.Contains(out, want) {
				t.Errorf("people do not read %q:\n%s", want, out)
			}
		}
	})

	t.Run("a document from a file, a group, and a schedule", func(t *testing.T) {
		file := w.path("update.json")
		if err := os.WriteFile(file, []byte(`{"operation":"update"}`), 0o644); err != nil {
			t.Fatal(err)
		}
		j := said[adminapi.Job](w, "job", "create", "--id", "later", "--group", "demo", "--continuous", "--document", file, "--from", "2099-01-01", "--until", "2099-02-01", "--end-behavior", "CANCEL",
			"--window", "cron(0 2 ? * * *):120", "--base-per-minute", "5", "--factor", "1.5", "--per-succeeded", "10")
		if j.Status != "SCHEDULED" || !j.Continuous || j.Targets[0] != "thinggroup/demo" || j.Schedule.EndBehavior != "CANCEL" || len(j.Schedule.Windows) != 1 || j.Schedule.Windows[0].Minutes != 120 || j.Rollout.Factor != 1.5 {
			t.Errorf("created %+v", j)
		}
		if j = said[adminapi.Job](w, "job", "extend", "later", "--thing", "J-2"); len(j.Targets) != 2 {
			t.Errorf("extended %+v", j)
		}
		if out := w.plain("job", "show", "later"); !strings.Contains(out, "5 a minute, times 1.5 for every 10 that succeeded") || !strings.Contains(out, "for 120 minutes") {
			t.Errorf("shown: %s", out)
		}
		w.refusedBy("job-state", "job", "delete", "later")
		said[adminapi.Job](w, "job", "delete", "later", "--force")
		w.refusedBy("job-unknown", "job", "show", "later")
	})

	t.Run("a dynamic group is whom its query finds", func(t *testing.T) {
		if _, err := w.server.reged.CreateGroup(ctx, registry.Group{Tenant: access.DefaultTenant, Class: registry.ThingGroup, Name: "lamps", Query: "attributes.product:demo* AND NOT thingName:J-1"}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the members", func() bool {
			m, err := w.server.reged.GroupThings(ctx, access.Scope{Tenant: access.DefaultTenant}, registry.ThingGroup, "lamps", false, "", 10)
			return err == nil && len(m) == 2
		})
		said[adminapi.Job](w, "job", "create", "--id", "dynamic", "--group", "lamps", "--document", `{}`)
		eventually(t, "both are told", func() bool {
			j := said[adminapi.Job](w, "job", "show", "dynamic")
			return j.LookedAtAll && j.Counts.Queued == 2
		})
		e := said[[]adminapi.JobExecution](w, "job", "executions", "dynamic", "--status", "QUEUED")
		if len(e) != 2 || e[0].Thing != "J-2" || e[1].Thing != "J-3" {
			t.Errorf("executions %+v", e)
		}
		said[adminapi.Job](w, "job", "delete", "dynamic", "--force")
	})

	t.Run("cancelling a job and one thing's part of it", func(t *testing.T) {
		said[adminapi.Job](w, "job", "create", "--id", "long", "--thing", "J-2,J-3", "--document", `{}`)
		eventually(t, "both are told", func() bool { return said[adminapi.Job](w, "job", "show", "long").Counts.Queued == 2 })
		if e := said[adminapi.JobExecution](w, "job", "cancel", "long", "--thing", "J-2"); e.Status != "CANCELED" || e.Thing != "J-2" || e.Version != 2 {
			t.Errorf("cancelled %+v", e)
		}
		w.refusedBy("job-execution-state", "job", "cancel", "long", "--thing", "J-2")
		w.refusedBy("job-execution-unknown", "job", "cancel", "long", "--thing", "J-9")
		// What a device began goes on unless it is forced.
		c, err := w.connect("J-3", "J-3", mqtt.V5, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Publish(ctx, mqtt.Message{Topic: "$aws/things/J-3/jobs/start-next", QoS: 1}); err != nil {
			t.Fatal(err)
		}
		w.refusedBy("job-execution-state", "job", "cancel", "long", "--thing", "J-3")
		if j := said[adminapi.Job](w, "job", "cancel", "long", "--comment", "a mistake"); j.Status != "CANCELED" || j.Counts.InProgress != 1 || j.Counts.Canceled != 1 || j.Comment != "a mistake" {
			t.Errorf("cancelled %+v", j)
		}
		w.refusedBy("job-state", "job", "cancel", "long")
		w.refusedBy("job-state", "job", "delete", "long")
		if j := said[adminapi.Job](w, "job", "cancel", "long", "--force", "--reason", "stop"); j.Counts.InProgress != 0 || j.Counts.Canceled != 2 || !j.Forced || j.ReasonCode != "stop" {
			t.Errorf("forced %+v", j)
		}
		if e := said[[]adminapi.JobExecution](w, "job", "executions", "--thing", "J-3", "--status", "canceled"); len(e) != 1 || e[0].Job != "long" || !e[0].Forced {
			t.Errorf("executions %+v", e)
		}
		said[adminapi.Job](w, "job", "delete", "long")
	})

	t.Run("wrong input has a code and changes nothing", func(t *testing.T) {
		w.usage("job", "create", "--id", "x", "--document", `{}`)
		w.usage("job", "create", "--thing", "J-1", "--document", `{}`)
		w.usage("job", "create", "--id", "x", "--thing", "J-1", "--document", "no-such-file.json")
		w.usage("job", "create", "--id", "x", "--thing", "J-1", "--document", `{}`, "--abort", "FAILED:many:2")
		w.usage("job", "create", "--id", "x", "--thing", "J-1", "--document", `{}`, "--window", "cron(0 2 ? * * *)")
		w.usage("job", "executions")
		w.refusedBy("job-target-unknown", "job", "create", "--id", "x", "--thing", "J-99", "--document", `{}`)
		w.refusedBy("job-target-unknown", "job", "create", "--id", "x", "--group", "nobody", "--document", `{}`)
		w.refusedBy("job-document-invalid", "job", "create", "--id", "x", "--thing", "J-1", "--document", `{"a":1,"a":2}`)
		w.refusedBy("job-document-invalid", "job", "create", "--id", "x", "--thing", "J-1", "--document", `{"a":"${aws:iot:parameter:b}"}`)
		w.refusedBy("job-artifacts-unavailable", "job", "create", "--id", "x", "--thing", "J-1", "--document", `{"a":"${aws:iot:s3-presigned-url:https://x.example/y}"}`)
		w.refusedBy("job-invalid", "job", "create", "--id", "x y", "--thing", "J-1", "--document", `{}`)
		w.refusedBy("job-exists", "job", "create", "--id", "hello", "--thing", "J-1", "--document", `{}`)
		w.refusedBy("job-state", "job", "extend", "hello", "--thing", "J-2")
		w.refusedBy("request-invalid", "job", "list", "--status", "bogus")
		if list := said[[]adminapi.Job](w, "job", "list"); len(list) != 1 || list[0].Id != "hello" || list[0].Document != "" {
			t.Errorf("jobs %+v", list)
		}
	})

	t.Run("pages meet every job once", func(t *testing.T) {
		for i := range 5 {
			said[adminapi.Job](w, "job", "create", "--id", fmt.Sprint("page-", i), "--thing", "J-1", "--document", `{}`, "--from", "2099-01-01")
		}
		var seen []string
		cursor, two := "", 2
		for {
			a, err := w.api("bob").ListJobsWithResponse(ctx, &adminapi.ListJobsParams{Cursor: optional(cursor), Limit: &two})
			if err != nil || a.JSON200 == nil {
				t.Fatalf("%v %s", err, a.Body)
			}
			for _, j := range a.JSON200.Items {
				seen = append(seen, j.Id)
			}
			if cursor = a.JSON200.Next; cursor == "" {
				break
			}
		}
		if fmt.Sprint(seen) != "[hello page-0 page-1 page-2 page-3 page-4]" {
			t.Errorf("pages: %v", seen)
		}
	})

	// S24: what is another tenant's is not there.
	t.Run("S24 another tenant's people see and change nothing", func(t *testing.T) {
		o := w.outsider(access.Platform)
		if a, err := o.ListJobsWithResponse(ctx, &adminapi.ListJobsParams{}); err != nil || a.JSON200 == nil || len(a.JSON200.Items) != 0 {
			t.Errorf("jobs: %v %s", err, a.Body)
		}
		statuses := map[string]int{}
		if a, err := o.GetJobWithResponse(ctx, "hello"); err == nil {
			statuses["show"] = a.StatusCode()
		}
		if a, err := o.ListJobExecutionsWithResponse(ctx, "hello", &adminapi.ListJobExecutionsParams{}); err == nil {
			statuses["executions"] = a.StatusCode()
		}
		if a, err := o.ListThingJobsWithResponse(ctx, "J-1", &adminapi.ListThingJobsParams{}); err == nil {
			statuses["thing"] = a.StatusCode()
		}
		if a, err := o.CancelJobWithResponse(ctx, "page-0", adminapi.JobCancelRequest{Force: true}); err == nil {
			statuses["cancel"] = a.StatusCode()
		}
		if a, err := o.DeleteJobWithResponse(ctx, "page-0", &adminapi.DeleteJobParams{Force: optional(true)}); err == nil {
			statuses["delete"] = a.StatusCode()
		}
		if a, err := o.CancelJobExecutionWithResponse(ctx, "hello", "J-1", adminapi.JobExecutionCancelRequest{Force: true}); err == nil {
			statuses["cancel execution"] = a.StatusCode()
		}
		if a, err := o.CreateJobWithResponse(ctx, adminapi.JobRequest{Id: "theirs", Targets: []string{"thing/J-1"}, Document: "{}"}); err == nil {
			statuses["create"] = a.StatusCode()
		}
		if len(statuses) != 7 {
			t.Errorf("only %d answers", len(statuses))
		}
		for what, status := range statuses {
			if status != 404 {
				t.Errorf("%s gives %d", what, status)
			}
		}
		// The same name may be theirs too.
		if j := said[adminapi.Job](w, "job", "show", "page-0"); j.Status != "SCHEDULED" {
			t.Errorf("page-0 is %s", j.Status)
		}
	})
	w.halt()
	w.clean()
}

func TestShadows_ByPeople(t *testing.T) {
	w := newFleetSite(t, "H-1")
	ctx := t.Context()
	if out := w.plain("shadow", "list", "H-1"); !strings.Contains(out, "hallmark shadow update") {
		t.Errorf("an empty list: %s", out)
	}
	w.refusedBy("shadow-unknown", "shadow", "show", "H-1")

	got := make(chan mqtt.Message, 8)
	c, err := w.connect("H-1", "H-1", mqtt.V5, func(m mqtt.Message) { got <- m })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Subscribe(ctx, mqtt.Subscription{Filter: "$aws/things/H-1/shadow/update/delta", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	s := said[adminapi.Shadow](w, "shadow", "update", "H-1", "--desired", `{"lamp":"on","big":12345678901234567890.10}`)
	if s.Version != 1 || s.Thing != "H-1" || !strings.Contains(string(s.State), "12345678901234567890.10") {
		t.Errorf("changed: %+v %s", s, s.State)
	}
	select {
	case m := <-got:
		if !strings.Contains(string(m.Payload), `"lamp":"on"`) {
			t.Errorf("the device hears %s", m.Payload)
		}
	case <-time.After(20 * time.Second):
		t.Error("the device heard nothing")
	}
	if err := c.Publish(ctx, mqtt.Message{Topic: "$aws/things/H-1/shadow/update", Payload: []byte(`{"state":{"reported":{"lamp":"on"}}}`), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	if out := w.plain("shadow", "show", "H-1"); !strings.Contains(out, `"reported"`) || !strings.Contains(out, "version") {
		t.Errorf("shown: %s", out)
	}
	w.refusedBy("shadow-version-conflict", "shadow", "update", "H-1", "--desired", `{"a":1}`, "--version", "1")
	s = said[adminapi.Shadow](w, "shadow", "update", "H-1", "--desired", `{"a":1,"lamp":null}`, "--version", "2")
	if s.Version != 3 || strings.Contains(string(s.State), `"desired":{"lamp"`) {
		t.Errorf("changed: %d %s", s.Version, s.State)
	}
	said[adminapi.Shadow](w, "shadow", "update", "H-1", "--name", "config", "--desired", `{"interval":5}`)
	if l := said[adminapi.ShadowPage](w, "shadow", "list", "H-1"); !l.Classic || len(l.Items) != 1 || l.Items[0] != "config" {
		t.Errorf("list %+v", l)
	}
	if s = said[adminapi.Shadow](w, "shadow", "update", "H-1", "--name", "config", "--desired", `null`); s.Thing != "H-1" || s.Version != 2 || strings.Contains(string(s.State), "interval") {
		t.Errorf("cleared: %+v %s", s, s.State)
	}
	w.usage("shadow", "update", "H-1", "--desired", `{"a":`)
	w.refusedBy("shadow-desired-invalid", "shadow", "update", "H-1", "--desired", `[1]`)
	w.refusedBy("shadow-name-invalid", "shadow", "update", "H-1", "--name", "a b", "--desired", `{}`)
	w.refusedBy("thing-unknown", "shadow", "update", "H-9", "--desired", `{}`)
	w.refusedBy("thing-unknown", "shadow", "list", "H-9")

	o := w.outsider(access.Platform)
	if a, err := o.GetShadowWithResponse(ctx, "H-1", &adminapi.GetShadowParams{}); err != nil || a.StatusCode() != 404 {
		t.Errorf("another tenant's: %v %s", err, a.Body)
	}
	if a, err := o.UpdateShadowWithResponse(ctx, "H-1", &adminapi.UpdateShadowParams{}, adminapi.ShadowRequest{Desired: json.RawMessage(`{"x":1}`)}); err != nil || a.StatusCode() != 404 {
		t.Errorf("another tenant's change: %v %s", err, a.Body)
	}
	if a, err := o.DeleteShadowWithResponse(ctx, "H-1", &adminapi.DeleteShadowParams{}); err != nil || a.StatusCode() != 404 {
		t.Errorf("another tenant's removal: %v %s", err, a.Body)
	}
	if d := said[adminapi.Shadow](w, "shadow", "delete", "H-1"); d.Version != 3 {
		t.Errorf("deleted %+v", d)
	}
	w.refusedBy("shadow-unknown", "shadow", "delete", "H-1")
	if s = said[adminapi.Shadow](w, "shadow", "update", "H-1", "--desired", `{"a":1}`); s.Version != 4 {
		t.Errorf("the version does not go on: %d", s.Version)
	}
	w.halt()
	w.clean()
}
