package console_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/web"
	"hallmark/web/webtest"
)

// Campaigns of the fleet of these tests.
const (
	march    = "march"  // runs
	broken   = "broken" // stopped itself
	asks     = "april"  // waits for a second person, asked for by wei
	begin    = "20261122-201500-00c0ffee"
	planHash = "abababababababababababababababababababababababababababababababab"
)

func (f *fleet) Campaigns(_ context.Context, s access.Scope, state string, p web.Page) ([]adminapi.Campaign, string, error) {
	return part(s, only(f.campaigns, func(c *adminapi.Campaign) bool { return state == "" || c.State == state }), p)
}
func (f *fleet) Campaign(_ context.Context, s access.Scope, id string) (adminapi.Campaign, error) {
	return one(s, f.campaigns, func(c *adminapi.Campaign) bool { return c.Id == id })
}
func (f *fleet) CampaignMembers(ctx context.Context, s access.Scope, id, state string, p web.Page) ([]adminapi.CampaignMember, string, error) {
	if _, err := f.Campaign(ctx, s, id); err != nil || id == asks {
		return nil, "", err
	}
	return part(s, only(f.changed, func(m *adminapi.CampaignMember) bool { return state == "" || m.State == state }), p)
}
func (f *fleet) RotationDue(_ context.Context, s access.Scope, window time.Duration, p web.Page) ([]adminapi.RotationDue, string, error) {
	return part(s, only(f.due, func(d *adminapi.RotationDue) bool {
		return d.NotAfter.Sub(f.now()) < max(window, 30*24*time.Hour)
	}), p)
}
func (f *fleet) ThingTimeline(ctx context.Context, s access.Scope, thing string, limit int) ([]adminapi.ThingEvent, error) {
	if _, err := f.Thing(ctx, s, thing); err != nil {
		return nil, err
	}
	if thing != lamp {
		return f.happened[:1], nil
	}
	return f.happened[max(0, len(f.happened)-limit):], nil
}
func (f *fleet) ApprovalRequest(ctx context.Context, by access.Actor, id string) (adminapi.ApprovalRequest, error) {
	if id != begin || by.Tenant != webtest.Tenant {
		return f.Fake.ApprovalRequest(ctx, by, id)
	}
	return adminapi.ApprovalRequest{Id: begin, State: "open", Hash: planHash, AskedBy: f.askedBy, AskedAt: f.now().Add(-time.Hour), ExpiresAt: f.now().Add(6 * 24 * time.Hour), Plan: adminapi.Plan{Hash: planHash},
		Documents: []adminapi.ApprovalDocument{{Kind: "CampaignStart", Name: asks}}}, nil
}
func (f *fleet) Approve(ctx context.Context, by access.Actor, id string, d adminapi.ApprovalDecision) (adminapi.ApprovalRequest, error) {
	f.Calls = append(f.Calls, "approve "+id+" "+d.Plan+" by "+by.Name)
	return f.ApprovalRequest(ctx, by, id)
}
func (f *fleet) Reject(ctx context.Context, by access.Actor, id string, d adminapi.ApprovalRejection) (adminapi.ApprovalRequest, error) {
	f.Calls = append(f.Calls, "reject "+id+" "+d.Note)
	return f.ApprovalRequest(ctx, by, id)
}
func (f *fleet) PauseCampaign(ctx context.Context, by access.Actor, id string, n adminapi.CampaignNote) (adminapi.Campaign, error) {
	return f.moved(by, "pause", id, n)
}
func (f *fleet) ResumeCampaign(ctx context.Context, by access.Actor, id string, n adminapi.CampaignNote) (adminapi.Campaign, error) {
	return f.moved(by, "resume", id, n)
}
func (f *fleet) CancelCampaign(ctx context.Context, by access.Actor, id string, n adminapi.CampaignNote) (adminapi.Campaign, error) {
	return f.moved(by, "cancel", id, n)
}
func (f *fleet) RollbackCampaign(ctx context.Context, by access.Actor, id string, n adminapi.CampaignNote) (adminapi.Campaign, error) {
	return f.moved(by, "rollback", id, n)
}
func (f *fleet) AskCampaign(ctx context.Context, by access.Actor, id string, n adminapi.CampaignNote) (adminapi.Campaign, error) {
	return f.moved(by, "ask", id, n)
}
func (f *fleet) moved(by access.Actor, verb, id string, n adminapi.CampaignNote) (adminapi.Campaign, error) {
	f.Calls = append(f.Calls, strings.TrimSpace(verb+" "+id+" by "+by.Name+" "+n.Comment))
	return f.Campaign(context.Background(), by.Scope(), id)
}

// fillCampaigns makes campaigns in the states that look different.
func (f *fleet) fillCampaigns() {
	now := f.now().UTC().Truncate(time.Second)
	f.askedBy = "wei"
	plan := []adminapi.CampaignStage{{Name: "canary", WatchSeconds: 3600}, {Name: "ten", Percent: 10, WatchSeconds: 3600}, {Name: "half", Percent: 50, WatchSeconds: 7200}, {Name: "all", Percent: 100}}
	base := func(id, state string) adminapi.Campaign {
		return adminapi.Campaign{Id: id, Kind: "rotate-certificate", Reason: "expiry", State: state, Targets: []string{"thinggroup/berlin"}, Canary: "lamps", Plan: plan, Hash: strings.Repeat("c4", 32), Enumerated: true,
			Failures: []adminapi.CampaignFailure{}, CreatedBy: "wei", CreatedAt: now.Add(-5 * time.Hour), UpdatedAt: now, Version: 4, SoakSeconds: 86400, TimeoutSeconds: 86400, SilenceSeconds: 7200, JitterSeconds: 90}
	}
	c := base(march, "running")
	c.Active, c.Description, c.ApprovedBy = true, "certificates that end in March "+hostile, "olga"
	c.Stage, c.StageStarted = 2, now.Add(-100*time.Minute)
	c.Rollout, c.OfferedLastMinute = adminapi.JobRollout{MaxPerMinute: 60}, 42
	c.Parameters = `{"expiresWithinSeconds":2592000}`
	count := func(stage int, state string, n int64) {
		c.Members = append(c.Members, adminapi.CampaignCount{Stage: stage, State: state, Members: n})
	}
	count(0, "done", 24)
	count(0, "failed", 1)
	count(1, "soaking", 930)
	count(1, "timed-out", 12)
	count(1, "skipped", 33)
	for state, n := range map[string]int64{"waiting": 2210, "offered": 310, "asleep": 190, "working": 95, "proving": 61, "soaking": 1090, "done": 12, "failed": 21, "rejected": 3, "silent": 8} {
		count(2, state, n)
	}
	count(-1, "waiting", 5000)
	slices.SortFunc(c.Members, func(a, b adminapi.CampaignCount) int { return strings.Compare(a.State, b.State) })
	c.Failures = []adminapi.CampaignFailure{{State: "failed", Code: "b-rejected", Members: 22}, {State: "rejected", Code: "device-rejected", Members: 3}, {State: "silent", Code: "silent", Members: 8}, {State: "skipped", Code: "expires-later", Members: 33}, {State: "timed-out", Code: hostile, Members: 12}}
	c.Abort = []adminapi.CampaignAbort{{Failure: "ALL", Percent: 4, MinExecuted: 50}, {Failure: "SILENT", Percent: 1, MinExecuted: 50}}
	c.Thresholds = []adminapi.CampaignThreshold{{Failure: "ALL", Percent: 4, MinExecuted: 50, Ended: 2101, Failed: 45}, {Failure: "SILENT", Percent: 1, MinExecuted: 50, Ended: 2101, Failed: 8}}
	told, well, bad := []int64{0, 20, 25, 25, 25, 300, 700, 900, 975, 975, 975, 1300, 1700, 2100, 2500, 2757}, []int64{0, 4, 20, 24, 24, 60, 300, 640, 900, 930, 954, 960, 1300, 1600, 1900, 2056}, []int64{0, 0, 1, 1, 1, 1, 4, 9, 12, 13, 13, 13, 20, 28, 40, 45}
	for i := range told {
		c.History = append(c.History, adminapi.CampaignSample{At: now.Add(time.Duration(i-len(told)) * 18 * time.Minute), Told: told[i], Well: well[i], Bad: bad[i]})
	}
	stopped := base(broken, "stopped")
	stopped.Kind, stopped.Reason, stopped.Active = "update-firmware", "firmware", true
	stopped.Code, stopped.Detail = "threshold", "Of 25 devices that ended 9 failed, 0 rejected it, 0 timed out and 1 fell silent: ALL reached 20 %."
	stopped.Stage, stopped.StageStarted = 0, now.Add(-2*time.Hour)
	stopped.Members = []adminapi.CampaignCount{{Stage: 0, State: "soaking", Members: 15}, {Stage: 0, State: "failed", Members: 9}, {Stage: 0, State: "silent", Members: 1}, {Stage: -1, State: "waiting", Members: 230}}
	stopped.Failures = []adminapi.CampaignFailure{{State: "failed", Code: "not-healthy", Members: 9}, {State: "silent", Code: "silent", Members: 1}}
	stopped.Thresholds = []adminapi.CampaignThreshold{{Failure: "ALL", Percent: 20, MinExecuted: 20, Ended: 25, Failed: 10, Reached: true}}
	stopped.History = []adminapi.CampaignSample{{At: now.Add(-2 * time.Hour)}, {At: now.Add(-119 * time.Minute), Told: 25}, {At: now.Add(-100 * time.Minute), Told: 25, Well: 15, Bad: 2}, {At: now.Add(-80 * time.Minute), Told: 25, Well: 15, Bad: 10}}
	waits := base(asks, "awaiting-approval")
	waits.Request, waits.Continuous = begin, true
	over := base("winter", "completed")
	over.FinishedAt, over.Stage, over.StageStarted = now.Add(-24*time.Hour), 3, now.Add(-50*time.Hour)
	over.CreatedAt = now.Add(-80 * time.Hour)
	over.Members = []adminapi.CampaignCount{{Stage: 0, State: "done", Members: 10}, {Stage: 1, State: "done", Members: 90}, {Stage: 2, State: "done", Members: 400}, {Stage: 3, State: "done", Members: 499}, {Stage: 3, State: "rejected", Members: 1}}
	over.History = []adminapi.CampaignSample{{At: now.Add(-80 * time.Hour)}, {At: now.Add(-70 * time.Hour), Told: 100, Well: 100}, {At: now.Add(-50 * time.Hour), Told: 1000, Well: 999, Bad: 1}}
	f.campaigns = []adminapi.Campaign{waits, stopped, c, over}

	for i := range 60 {
		m := adminapi.CampaignMember{Thing: fmt.Sprintf("LMP-%06d", i+1), Stage: i % 3, State: "soaking", Since: now.Add(-time.Duration(i) * time.Minute), Attempt: 1, Before: strings.Repeat("0a", 32), After: strings.Repeat("b1", 32)}
		switch i % 6 {
		case 1:
			m.State, m.After, m.Code, m.Detail = "failed", "", "b-rejected", "The broker did not let it in: "+hostile
		case 2:
			m.State, m.After, m.Stage, m.Attempt, m.NotBefore = "waiting", "", 2, 0, now.Add(time.Hour)
		case 3:
			m.State, m.After, m.Stage = "waiting", "", -1
		}
		f.changed = append(f.changed, m)
		d := adminapi.RotationDue{Thing: m.Thing, Certificate: fmt.Sprintf("d%063d", i), Authority: "devices-1", NotAfter: now.Add(time.Duration(i*11+2) * time.Hour)}
		if i%7 == 3 {
			d.Authority = ""
		}
		if i%5 == 1 {
			d.Group = "berlin"
		}
		f.due = append(f.due, d)
	}
	at := func(h int) time.Time { return now.Add(-time.Duration(h) * time.Hour) }
	f.happened = []adminapi.ThingEvent{
		{At: at(960), Kind: "thing", What: "created", Detail: "devices-1"}, {At: at(960), Kind: "certificate", What: "attached", Certificate: certID, Detail: "It is ACTIVE now."},
		{At: at(900), Kind: "job", What: "QUEUED", Job: rollout}, {At: at(899), Kind: "job", What: "STARTED", Job: rollout}, {At: at(898), Kind: "job", What: "FAILED", Job: rollout, Detail: hostile},
		{At: at(5), Kind: "campaign", What: "waiting", Campaign: march, Reason: "expiry", Before: certID}, {At: at(4), Kind: "campaign", What: "offered", Campaign: march, Reason: "expiry", Before: certID},
		{At: at(4), Kind: "rotation", What: "renewed", Certificate: waitID, Before: certID, Reason: "request", Detail: "mqtt"}, {At: at(3), Kind: "connection", What: "connected", Detail: lamp},
		{At: at(3), Kind: "campaign", What: "soaking", Campaign: march, Reason: "expiry", Before: certID, After: waitID}, {At: at(1), Kind: "rotation", What: "retired", Certificate: certID, Campaign: march, Reason: "expiry"},
		{At: at(1), Kind: "campaign", What: "done", Campaign: march, Reason: "expiry", Before: certID, After: waitID},
	}
}

func TestConsole_CampaignsAreSteered(t *testing.T) {
	s := serve(t, true)
	s.signIn(t, access.FleetOperator)
	_, body := s.get(t, "/console/campaigns/"+march)
	token := formToken(t, body)
	me := "a-" + string(access.FleetOperator)
	for verb, want := range map[string]string{"pause": "pause march by " + me, "rollback": "rollback march by " + me + " too hot", "cancel": "cancel march by " + me + " too hot", "resume": "resume march by " + me, "ask": "ask march by " + me} {
		form := url.Values{"form": {token}}
		if strings.HasSuffix(want, "too hot") {
			form.Set("comment", "too hot")
		}
		r, page := s.post(t, "/console/campaigns/"+march+"/"+verb, form, nil)
		if r.StatusCode != 200 || r.Request.URL.Path != "/console/campaigns/"+march || !strings.Contains(page, "<h1>march</h1>") {
			t.Errorf("%s: %d at %s", verb, r.StatusCode, r.Request.URL)
		}
		if !slices.Contains(s.Fake.Calls, want) {
			t.Errorf("nobody was asked to %q but to %q", want, s.Fake.Calls)
		}
	}
	if r, _ := s.post(t, "/console/campaigns/"+march+"/cancel", url.Values{"form": {token}, "comment": {strings.Repeat("x", 513)}}, nil); r.StatusCode != 400 {
		t.Errorf("a comment of 513 octets: %d", r.StatusCode)
	}
	// The console leaves the same trail as the API (A75).
	rows, _, err := s.Fake.Trail(t.Context(), access.Scope{Tenant: webtest.Tenant}, web.TrailQuery{Action: "campaign.control"}, web.Page{Limit: 50})
	if err != nil || len(rows) < 5 {
		t.Errorf("the trail has %d entries of campaign.control: %v", len(rows), err)
	}
}

func formToken(t *testing.T, body string) string {
	t.Helper()
	_, rest, ok := strings.Cut(body, `name="form" value="`)
	if !ok {
		t.Fatalf("no form on the page:\n%s", body)
	}
	token, _, _ := strings.Cut(rest, `"`)
	return token
}

// S36: whoever asked does not approve; somebody else with the right does, and what
// they looked at goes along.
func TestConsole_S36_ASecondPersonApprovesACampaign(t *testing.T) {
	s := serve(t, true)
	s.signIn(t, access.SecurityOfficer)
	_, body := s.get(t, "/console/campaigns/"+asks)
	if !strings.Contains(body, "<h2>A second person decides</h2>") || !strings.Contains(body, "You did not ask for it and may approve it.") || !strings.Contains(body, `value="`+planHash+`"`) {
		t.Fatalf("no way to approve:\n%s", body)
	}
	token := formToken(t, body)
	if r, _ := s.post(t, "/console/campaigns/"+asks+"/approve", url.Values{"form": {token}, "plan": {planHash}}, nil); r.StatusCode != 200 {
		t.Errorf("approve: %d", r.StatusCode)
	}
	if want := "approve " + begin + " " + planHash + " by a-security-officer"; !slices.Contains(s.Fake.Calls, want) {
		t.Errorf("%q is not in %q", want, s.Fake.Calls)
	}
	for _, plan := range []string{"", "zz", planHash[:62]} {
		if r, _ := s.post(t, "/console/campaigns/"+asks+"/approve", url.Values{"form": {token}, "plan": {plan}}, nil); r.StatusCode != 400 {
			t.Errorf("approving %q: %d", plan, r.StatusCode)
		}
	}
	if r, _ := s.post(t, "/console/campaigns/"+march+"/approve", url.Values{"form": {token}, "plan": {planHash}}, nil); r.StatusCode != 400 {
		t.Errorf("approving what waits for nobody: %d", r.StatusCode)
	}
	if r, _ := s.post(t, "/console/campaigns/"+asks+"/reject", url.Values{"form": {token}, "comment": {"not in March"}}, nil); r.StatusCode != 200 || !slices.Contains(s.Fake.Calls, "reject "+begin+" not in March") {
		t.Errorf("reject: %d %q", r.StatusCode, s.Fake.Calls)
	}
	s.fleet.askedBy = "a-security-officer"
	if _, body := s.get(t, "/console/campaigns/"+asks); strings.Contains(body, ">Approve<") || !strings.Contains(body, "You asked for it") {
		t.Error("who asked is offered to approve")
	}
	s.signIn(t, access.Auditor)
	if _, body := s.get(t, "/console/campaigns/"+asks); strings.Contains(body, "<button type=\"submit\" class") || strings.Contains(body, `/cancel"`) {
		t.Error("an auditor is offered to decide")
	}
}

// A64: what changes something takes the session's own form and its own site, and the
// right that the API asks for.
func TestConsole_A64_FormsAreTheSessionsOwn(t *testing.T) {
	s := serve(t, true)
	s.signIn(t, access.FleetOperator)
	_, body := s.get(t, "/console/campaigns/"+march)
	token := formToken(t, body)
	calls := len(s.Fake.Calls)
	path := "/console/campaigns/" + march + "/pause"
	for name, form := range map[string]url.Values{"none": {}, "empty": {"form": {""}}, "another": {"form": {"A" + token[1:] + "A"}}} {
		if r, body := s.post(t, path, form, nil); r.StatusCode != 403 || !strings.Contains(body, "cross-origin") {
			t.Errorf("a token that is %s: %d", name, r.StatusCode)
		}
	}
	for _, h := range []map[string]string{{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}} {
		if r, _ := s.post(t, path, url.Values{"form": {token}}, h); r.StatusCode != 403 {
			t.Errorf("with %v: %d", h, r.StatusCode)
		}
	}
	if r, _ := s.get(t, path); r.StatusCode != 404 && r.StatusCode != 405 {
		t.Errorf("GET changes something: %d", r.StatusCode)
	}
	s.signIn(t, access.FleetOperator)
	if r, body := s.post(t, path, url.Values{"form": {token}}, nil); r.StatusCode != 403 || !strings.Contains(body, "cross-origin") {
		t.Errorf("the token of an older session: %d", r.StatusCode)
	}
	s.signIn(t, access.Auditor)
	_, body = s.get(t, "/console/campaigns/"+march)
	if strings.Contains(body, `method="post" action="/console/campaigns`) {
		t.Error("an auditor is offered to steer")
	}
	for _, verb := range []string{"pause", "resume", "cancel", "rollback", "ask"} {
		r, body := s.post(t, "/console/campaigns/"+march+"/"+verb, url.Values{"form": {token}}, nil)
		if r.StatusCode != 403 || !strings.Contains(body, "action-forbidden") {
			t.Errorf("%s as auditor: %d", verb, r.StatusCode)
		}
	}
	if len(s.Fake.Calls) != calls {
		t.Errorf("something was done: %q", s.Fake.Calls[calls:])
	}
	s.client.CheckRedirect = nil
	s.post(t, "/console/sign-out", nil, nil)
	if r, _ := s.post(t, path, url.Values{"form": {token}}, nil); r.Request.URL.Path != "/console/sign-in" || len(s.Fake.Calls) != calls {
		t.Errorf("signed out it leads to %s", r.Request.URL)
	}
}

// A page that refreshes itself is nobody at work: the session ends all the same.
func TestSession_EndsWhileAPageRefreshesItself(t *testing.T) {
	s := serve(t, true)
	s.signIn(t, access.Auditor)
	poll := func() string {
		req, err := http.NewRequest(http.MethodGet, s.url+"/console/campaigns/"+march, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Hallmark-Live", "1")
		r, _ := s.do(t, req)
		return r.Request.URL.Path
	}
	for range 5 {
		if got := poll(); got != "/console/campaigns/"+march {
			t.Fatalf("it leads to %s", got)
		}
		*s.clock = s.clock.Add(7 * time.Minute)
	}
	if got := poll(); got != "/console/sign-in" {
		t.Errorf("after 35 minutes with nobody there it leads to %s", got)
	}
}

func TestConsole_CampaignPagesGoOn(t *testing.T) {
	s := serve(t, true)
	s.signIn(t, access.Auditor)
	for path, next := range map[string]string{"/console/campaigns/" + march: "LMP-000060", "/console/expiring": "LMP-000060"} {
		_, first := s.get(t, path)
		href := nextOf(first)
		if href == "" || strings.Contains(first, next) {
			t.Errorf("%s: no second page", path)
			continue
		}
		if r, body := s.get(t, href); r.StatusCode != 200 || !strings.Contains(body, next) || nextOf(body) != "" {
			t.Errorf("%s: the second page gives %d, or is not the last", path, r.StatusCode)
		}
	}
	_, body := s.get(t, "/console/campaigns/"+march+"?state=failed")
	if !strings.Contains(body, "LMP-000002") || strings.Contains(body, "LMP-000001<") {
		t.Error("the devices are not narrowed to a state")
	}
	for _, path := range []string{"/console/campaigns?state=good", "/console/campaigns/" + march + "?state=good", "/console/expiring?within=2w", "/console/things/" + lamp + "/timeline?kind=x"} {
		if r, _ := s.get(t, path); r.StatusCode != 400 {
			t.Errorf("%s: %d", path, r.StatusCode)
		}
	}
	_, body = s.get(t, "/console/things/"+lamp+"/timeline?kind=rotation")
	if !strings.Contains(body, "Old certificate retired") || strings.Contains(body, "Fell silent") || strings.Contains(body, "Began") {
		t.Errorf("the timeline is not narrowed to a kind:\n%s", body)
	}
	if newest, oldest := strings.Index(body, "Old certificate retired"), strings.Index(body, "Got a new certificate"); newest > oldest {
		t.Error("the newest is not the first")
	}
}

// What is drawn is in the page in words and numbers too.
func TestConsole_ACampaignIsDrawnOnTheServer(t *testing.T) {
	s := serve(t, true)
	s.signIn(t, access.Auditor)
	_, body := s.get(t, "/console/campaigns/"+march)
	for _, want := range []string{`aria-label="Devices over time: 2757 told, 2056 proven, 45 failed by now"`, "it stops at 4 percent failed in any way", `class="limit"`, "Told a minute; now <strong>42</strong>", "the limit is 60",
		`data-live`, "45 of 2\u202f101 failed in any way (2.14 %)", "stops at 4 % of 50 or more"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not have %q", want)
		}
	}
	if strings.Contains(body, "NaN") || strings.Contains(body, "Inf") {
		t.Error("a drawing has no number")
	}
	for _, id := range []string{broken, asks, "winter"} {
		if _, body := s.get(t, "/console/campaigns/"+id); strings.Contains(body, "NaN") || strings.Contains(body, "+Inf") {
			t.Errorf("%s: a drawing has no number", id)
		}
	}
	_, body = s.get(t, "/console/campaigns/winter")
	if strings.Contains(body, "data-live") {
		t.Error("what is over refreshes itself")
	}
}
