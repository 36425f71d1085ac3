package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/registry"
	"hallmark/fleet/rotation"
	"hallmark/web"
	"hallmark/web/webtest"
)

// wish is an action that needs no device.
type wish struct{}

func (wish) Check(context.Context, string, *campaign.Spec) error { return nil }

func (wish) Wants(_ context.Context, _ *campaign.Campaign, t fleet.ThingName) (campaign.Want, error) {
	if t == "LMP-3" {
		return campaign.Want{Skip: "already-new", Words: "It has it."}, nil
	}
	return campaign.Want{Before: "1"}, nil
}

func (wish) Document(context.Context, *campaign.Campaign, bool) (string, error) { return "", nil }

func (wish) Judge(context.Context, *campaign.Campaign, *campaign.Member, campaign.Report) (campaign.Verdict, error) {
	return campaign.Proven("2"), nil
}

func (wish) Finish(context.Context, *campaign.Campaign, *campaign.Member) error { return nil }
func (wish) Undo(context.Context, *campaign.Campaign, *campaign.Member) error   { return nil }

type silent struct{}

func (silent) Publish(context.Context, fleet.Message) error { return nil }

func TestCampaigns_S36_WaitForASecondPersonOverTheAPI(t *testing.T) {
	n := newBench(t, func(c *Config) { c.OnePerson = false })
	ctx, pat := t.Context(), n.plat()
	n.backend.jobs = jobs.New(jobs.Config{Store: n.db, Publisher: silent{}})
	n.backend.rotation = rotation.New(rotation.Config{Registry: n.reg, Presence: n.db, Store: n.db})
	n.backend.campaigns = campaign.New(campaign.Config{Store: n.db, Jobs: n.backend.jobs, Presence: n.db, Targets: n.reg, TwoPeopleOver: 2,
		Actions: map[campaign.Kind]campaign.Action{"wish": wish{}}})
	for i := range 6 {
		if _, err := n.reg.CreateThing(ctx, registry.Thing{Tenant: pat.Tenant, Name: fleet.ThingName(fmt.Sprint("LMP-", i)), Attributes: map[string]string{"hall": fmt.Sprint(i % 2)}}); err != nil {
			t.Fatal(err)
		}
	}
	r := adminapi.CampaignRequest{Id: "c1", Kind: "wish", Reason: "algorithm", Query: "attributes.hall:1", Targets: []string{"thing/LMP-0"}, Abort: []adminapi.CampaignAbort{{Failure: "SILENT", Percent: 5, MinExecuted: 2}}, SoakSeconds: 1}
	plan := ok[adminapi.CampaignPlan](t)(n.api.Campaigns.PlanCampaign(ctx, pat, adminapi.CampaignPlanRequest{Campaign: r, Named: 10}))
	if plan.Things != 4 || plan.Wanting != 3 || !plan.TwoPeople || len(plan.Named) != 3 || plan.Skipped[0].Code != "already-new" {
		t.Fatalf("%+v", plan)
	}
	c := ok[adminapi.Campaign](t)(n.api.Campaigns.CreateCampaign(ctx, pat, r))
	if c.State != "awaiting-approval" || c.Request == "" || c.CreatedBy != "pat" || c.Hash == "" {
		t.Fatalf("%+v", c)
	}
	q := ok[adminapi.ApprovalRequest](t)(n.api.Plans.ApprovalRequest(ctx, n.quinn(), c.Request))
	if len(q.Documents) != 1 || !strings.Contains(q.Documents[0].Text, c.Hash) || len(q.Refused) > 0 {
		t.Fatalf("%+v", q)
	}
	if _, err := n.approveRequest(t, pat, c.Request); err == nil {
		t.Fatal("pat approved what pat asked for")
	}
	if _, err := n.approveRequest(t, access.Actor{Tenant: pat.Tenant, Kind: access.KindPrincipal, Name: "al", Role: access.Auditor}, c.Request); err == nil {
		t.Fatal("an auditor approved it")
	}
	ok[adminapi.ApprovalRequest](t)(n.approveRequest(t, n.quinn(), c.Request))
	c = ok[adminapi.Campaign](t)(n.api.Campaigns.Campaign(ctx, n.scope, "c1"))
	if c.State != "running" || c.ApprovedBy != "quinn" {
		t.Fatalf("%+v", c)
	}
	for i := 0; c.State != "completed"; i++ {
		if i == 20 {
			t.Fatalf("%+v", c)
		}
		if err := n.backend.campaigns.Step(ctx, time.Now().Add(time.Duration(i)*10*time.Second)); err != nil {
			t.Fatal(err)
		}
		c = ok[adminapi.Campaign](t)(n.api.Campaigns.Campaign(ctx, n.scope, "c1"))
	}
	if sum := campaignCounts(&c); sum.well != 3 || sum.skipped != 1 || len(c.Failures) != 1 {
		t.Errorf("%+v %+v", sum, c.Failures)
	}
	// What became of one device, in pages.
	var states []string
	for after := ""; ; {
		steps, next, err := n.api.Campaigns.ThingCampaigns(ctx, n.scope, "LMP-5", web.Page{After: after, Limit: 2})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range steps {
			states = append(states, s.State)
		}
		if after = next; next == "" {
			break
		}
	}
	if got := strings.Join(states, " "); got != "waiting proving soaking done" {
		t.Error(got)
	}
	if len(c.Thresholds) != 1 || c.Thresholds[0].Ended != 3 || c.Thresholds[0].Failed != 0 || c.Thresholds[0].Reached || len(c.History) == 0 {
		t.Errorf("%+v %+v", c.Thresholds, c.History)
	}
	// And the device's whole story, in the order of time.
	if err := n.backend.rotation.Renewed(ctx, n.scope.Tenant, "LMP-5", "a1", "b2", "mqtt"); err != nil {
		t.Fatal(err)
	}
	events := ok[[]adminapi.ThingEvent](t)(n.api.Things.ThingTimeline(ctx, n.scope, "LMP-5", 500))
	var story []string
	for i, e := range events {
		story = append(story, e.Kind+":"+e.What)
		if i > 0 && e.At.Before(events[i-1].At) {
			t.Errorf("%v is after %v", e, events[i-1])
		}
	}
	slices.Sort(story) // the steps of this test are ahead of the clock
	if got := strings.Join(story, " "); got != "campaign:done campaign:proving campaign:soaking campaign:waiting rotation:renewed thing:created" {
		t.Error(got)
	}
	if last := ok[[]adminapi.ThingEvent](t)(n.api.Things.ThingTimeline(ctx, n.scope, "LMP-5", 2)); len(last) != 2 || last[1] != events[len(events)-1] || last[1].Reason != "algorithm" {
		t.Errorf("%+v", last)
	}
	for name, s := range map[string]access.Scope{"LMP-99": n.scope, "LMP-5": {Tenant: "other"}} {
		if list, err := n.api.Things.ThingTimeline(ctx, s, name, 500); !errors.Is(err, registry.ErrThingUnknown) || len(list) > 0 {
			t.Errorf("%s of %s: %+v %v", name, s.Tenant, list, err)
		}
	}
	members, _, err := n.api.Campaigns.CampaignMembers(ctx, n.scope, "c1", "done", web.Page{Limit: 10})
	if err != nil || len(members) != 3 || members[0].Before != "1" || members[0].After != "2" {
		t.Errorf("%+v %v", members, err)
	}
	if _, err := n.api.Campaigns.PauseCampaign(ctx, pat, "c1", adminapi.CampaignNote{}); !errors.Is(err, campaign.ErrState) {
		t.Error(err)
	}
	if found, err := n.backend.campaigns.Fsck(ctx); err != nil || len(found) > 0 {
		t.Errorf("%v %v", found, err)
	}
}

func TestCampaignCommand_SaysWhatIsAsked(t *testing.T) {
	c := newCLI(t)
	id := webtest.Campaign
	for _, x := range []struct {
		role  access.Role
		args  []string
		code  int
		shows []string
		calls string
	}{
		{access.Auditor, []string{"list"}, 0, []string{id, "rotate-certificate", "running"}, ""},
		{access.Auditor, []string{"show", id}, 0, []string{"thing/" + webtest.Unit, "UNDER WAY"}, ""},
		{access.Auditor, []string{"members", id}, 0, []string{webtest.Unit, "offered"}, ""},
		{access.Auditor, []string{"timeline", webtest.Unit}, 0, []string{id, "offered"}, ""},
		{access.Auditor, []string{"pause", id}, 1, []string{"action-forbidden"}, ""},
		{access.FleetOperator, []string{"pause", id}, 0, []string{"running"}, "pause campaign " + id},
		{access.FleetOperator, []string{"rollback", id, "--comment", "bad"}, 0, nil, "roll back campaign " + id},
		{access.FleetOperator, []string{"create", "n", "--kind", "rotate-certificate", "--group", "eu", "--stage", "ten:10:1h", "--abort", "SILENT:5:10", "--window", "cron(0 2 ? * * *):60", "--soak", "24h"}, 0, []string{"thinggroup/eu", "hallmark campaign watch n"}, "create campaign n"},
		{access.FleetOperator, []string{"create", "n", "--kind", "x", "--stage", "ten"}, exitUsage, []string{"ten:10:1h"}, ""},
		{access.FleetOperator, []string{"create", "n"}, exitUsage, []string{"kind"}, ""},
		{access.FleetOperator, []string{"plan", "n", "--kind", "x", "--group", "eu"}, 0, []string{"would get it", "1"}, ""},
	} {
		c.Fake.Calls = nil
		code, out, errOut := c.run(x.role, "", append([]string{"campaign"}, x.args...)...)
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
