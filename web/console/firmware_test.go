package console_test

import (
	"context"
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

func (f *fleet) FirmwareList(_ context.Context, s access.Scope, class string, p web.Page) ([]adminapi.Firmware, string, error) {
	return part(s, only(f.firmware, func(a *adminapi.Firmware) bool { return class == "" || a.Class == class }), p)
}
func (f *fleet) Firmware(_ context.Context, s access.Scope, class, version string) (adminapi.Firmware, error) {
	return one(s, f.firmware, func(a *adminapi.Firmware) bool { return a.Class == class && a.Version == version })
}
func (f *fleet) WithdrawFirmware(ctx context.Context, by access.Actor, class, version string) (adminapi.Firmware, error) {
	f.Calls = append(f.Calls, "withdraw "+class+" "+version+" by "+by.Name)
	return f.Firmware(ctx, by.Scope(), class, version)
}
func (f *fleet) TrustState(_ context.Context, s access.Scope) (adminapi.TrustState, error) {
	if s.Tenant != webtest.Tenant {
		return adminapi.TrustState{}, nil
	}
	return f.roots, nil
}
func (f *fleet) TrustRollovers(_ context.Context, s access.Scope) ([]adminapi.TrustRollover, error) {
	items, _, err := part(s, f.rollovers, web.Page{Limit: 100})
	return items, err
}
func (f *fleet) TrustRollover(_ context.Context, s access.Scope, name string) (adminapi.TrustRollover, error) {
	return one(s, f.rollovers, func(r *adminapi.TrustRollover) bool { return r.Name == name })
}
func (f *fleet) AdvanceTrustRollover(ctx context.Context, by access.Actor, name string, n adminapi.CampaignNote) (adminapi.TrustRollover, error) {
	return f.rolled(by, "advance", name, n)
}
func (f *fleet) RetryTrustRollover(ctx context.Context, by access.Actor, name string, n adminapi.CampaignNote) (adminapi.TrustRollover, error) {
	return f.rolled(by, "again", name, n)
}
func (f *fleet) CancelTrustRollover(ctx context.Context, by access.Actor, name string, n adminapi.CampaignNote) (adminapi.TrustRollover, error) {
	return f.rolled(by, "cancel", name, n)
}
func (f *fleet) rolled(by access.Actor, verb, name string, n adminapi.CampaignNote) (adminapi.TrustRollover, error) {
	f.Calls = append(f.Calls, strings.TrimSpace(verb+" "+name+" by "+by.Name+" "+n.Comment))
	return f.TrustRollover(context.Background(), by.Scope(), name)
}

// Rollovers of the fleet of these tests.
const (
	rolls = "roots-2031" // stands before a closed gate
	opens = "roots-2029" // before an open one
)

// fillFirmware makes firmware and rollovers in the states that look different.
func (f *fleet) fillFirmware() {
	now := f.now().UTC().Truncate(time.Second)
	version := func(class, v, state string) adminapi.Firmware {
		return adminapi.Firmware{Class: class, Version: v, State: state, Digest: strings.Repeat("ab", 32), Hash: strings.Repeat("cd", 32), Size: 7340032, Floor: "1.2", Hardware: []string{"rev-a", "rev-b"}, ExpiresAt: now.AddDate(1, 0, 0), CreatedBy: "wei", CreatedAt: now.Add(-20 * time.Hour), DecidedBy: "olga",
			Signers: []string{strings.Repeat("5e", 32), strings.Repeat("6f", 32)}, Url: "https://devices.example:9443/firmware/v1/" + class + "/" + v}
	}
	waits := version("lamp", "1.5.0", "awaiting-approval")
	waits.DecidedBy, waits.Request = "", begin
	bad := version("lamp", "1.3.9", "withdrawn")
	old := version("sensor", "2.0", "released")
	old.ExpiresAt, old.Problem, old.Signers = now.Add(-time.Hour), "The manifest has ended. "+hostile, nil
	f.firmware = []adminapi.Firmware{bad, version("lamp", "1.4.0", "released"), waits, old}
	for i := range f.campaigns {
		if c := &f.campaigns[i]; c.Id == broken {
			c.Parameters = `{"class":"lamp","version":"1.4.0","healthySeconds":600}`
		}
	}
	f.roots = adminapi.TrustState{Roots: []adminapi.TrustRoot{{Name: "root-1", Id: strings.Repeat("11", 32), Subject: "CN=" + hostile, Active: true, NotAfter: now.AddDate(4, 0, 0)}, {Name: "root-2", Id: strings.Repeat("22", 32), Subject: "CN=Acme Root 2", Active: true, NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}},
		Shown: []adminapi.TrustShown{{What: "the certificate of the doors", Server: true, Roots: []string{"root-1", "root-2"}}, {What: "what device-1 issues", Roots: []string{}}}}
	r := adminapi.TrustRollover{Name: rolls, From: "root-1", To: "root-2", Targets: []string{"thinggroup/all"}, Phase: "adding", Next: "switching", Since: now.Add(-70 * time.Hour), Campaigns: []string{march, "not-made-yet"}, Things: 12040, Without: 40, Confirmed: 10980, Version: 3,
		Gates: adminapi.TrustGates{Added: 95, Left: 98, Removed: 95, Groups: []string{"berlin"}, InGroups: 100, WaitSeconds: 7 * 86400, KeepSeconds: 365 * 86400},
		Needs: []adminapi.TrustNeed{{What: "95 % of the fleet trust root-2", Have: "10980 of 12000 confirmed (91.5 %)"}, {What: "100 % of the group berlin trust root-2", Have: "50 of 50 (100.0 %)", Ok: true}},
		Steps: []adminapi.TrustStep{{At: now.Add(-70 * time.Hour), By: "olga", What: "started"}, {At: now.Add(-60 * time.Hour), By: "wei", What: "gate lowered", Words: "added from 97 to 95 " + hostile}}}
	o := r
	o.Name, o.Phase, o.Next, o.Open, o.Confirmed = opens, "waiting", "removing", true, 11990
	o.Needs = []adminapi.TrustNeed{{What: "the time after the switch is over", Have: "0s to go", Ok: true}}
	o.Steps = []adminapi.TrustStep{{At: now.Add(-700 * time.Hour), By: "olga", What: "started"}, {At: now.Add(-400 * time.Hour), By: "wei", What: "switching"}, {At: now.Add(-200 * time.Hour), By: "wei", What: "waiting", Words: "11800 of 12000 confirmed (98.3 %)"}}
	done := o
	done.Name, done.Phase, done.Next, done.Open, done.Needs = "roots-2020", "done", "", false, []adminapi.TrustNeed{}
	done.Steps = append(slices.Clone(o.Steps), adminapi.TrustStep{At: now, By: "wei", What: "removing"}, adminapi.TrustStep{At: now, By: "wei", What: "sleepers"}, adminapi.TrustStep{At: now, By: "wei", What: "done"})
	f.rollovers = []adminapi.TrustRollover{r, o, done}
}

func TestConsole_FirmwareIsReleasedByTwoAndStoppedByOne_S36_S40(t *testing.T) {
	s := serve(t, true)
	s.signIn(t, access.SecurityOfficer)
	_, body := s.get(t, "/console/firmware/lamp/1.5.0")
	if !strings.Contains(body, "You did not ask for it and may approve it.") || !strings.Contains(body, "No device gets it") && strings.Contains(body, "nobody was asked") {
		t.Fatalf("no way to release:\n%s", body)
	}
	token := formToken(t, body)
	if r, _ := s.post(t, "/console/firmware/lamp/1.5.0/approve", url.Values{"form": {token}, "plan": {planHash}}, nil); r.StatusCode != 200 || r.Request.URL.Path != "/console/firmware/lamp/1.5.0" {
		t.Errorf("approve: %d at %s", r.StatusCode, r.Request.URL)
	}
	if want := "approve " + begin + " " + planHash + " by a-security-officer"; !slices.Contains(s.Fake.Calls, want) {
		t.Errorf("%q is not in %q", want, s.Fake.Calls)
	}
	if r, _ := s.post(t, "/console/firmware/lamp/1.4.0/approve", url.Values{"form": {token}, "plan": {planHash}}, nil); r.StatusCode != 400 {
		t.Errorf("approving what waits for nobody: %d", r.StatusCode)
	}
	if r, _ := s.post(t, "/console/firmware/lamp/1.5.0/reject", url.Values{"form": {token}, "comment": {"untested"}}, nil); r.StatusCode != 200 || !slices.Contains(s.Fake.Calls, "reject "+begin+" untested") {
		t.Errorf("reject: %d %q", r.StatusCode, s.Fake.Calls)
	}
	if r, _ := s.post(t, "/console/firmware/lamp/1.4.0/withdraw", url.Values{"form": {token}}, nil); r.StatusCode != 200 || !slices.Contains(s.Fake.Calls, "withdraw lamp 1.4.0 by a-security-officer") {
		t.Errorf("withdraw: %d %q", r.StatusCode, s.Fake.Calls)
	}
	s.fleet.askedBy = "a-security-officer"
	if _, body := s.get(t, "/console/firmware/lamp/1.5.0"); strings.Contains(body, ">Approve<") || !strings.Contains(body, "You asked for it") {
		t.Error("who asked is offered to approve")
	}
	calls := len(s.Fake.Calls)
	s.signIn(t, access.Auditor)
	_, body = s.get(t, "/console/firmware/lamp/1.4.0")
	if strings.Contains(body, `/withdraw"`) {
		t.Error("an auditor is offered to withdraw")
	}
	_, body = s.get(t, "/console/trust/"+opens)
	if strings.Contains(body, `/advance"`) {
		t.Error("an auditor is offered to pass a gate")
	}
	for _, path := range []string{"/console/firmware/lamp/1.4.0/withdraw", "/console/trust/" + opens + "/advance"} {
		if r, _ := s.post(t, path, url.Values{"form": {token}}, nil); r.StatusCode != 403 {
			t.Errorf("%s by an auditor: %d", path, r.StatusCode)
		}
	}
	if len(s.Fake.Calls) != calls {
		t.Errorf("%q", s.Fake.Calls[calls:])
	}
}

func TestConsole_RootRolloversAreSteered(t *testing.T) {
	s := serve(t, true)
	s.signIn(t, access.SecurityOfficer)
	_, body := s.get(t, "/console/trust/"+rolls)
	if strings.Contains(body, `/advance"`) || !strings.Contains(body, "10,980 of 12,000 devices confirmed (92 %)") && !strings.Contains(body, "devices confirmed (92 %)") || !strings.Contains(body, `aria-current="step"`) {
		t.Errorf("a closed gate:\n%s", body)
	}
	_, body = s.get(t, "/console/trust/"+opens)
	token := formToken(t, body)
	for verb, want := range map[string]string{"advance": "advance " + opens + " by a-security-officer", "again": "again " + opens + " by a-security-officer", "cancel": "cancel " + opens + " by a-security-officer too early"} {
		form := url.Values{"form": {token}}
		if verb == "cancel" {
			form.Set("comment", "too early")
		}
		if r, _ := s.post(t, "/console/trust/"+opens+"/"+verb, form, nil); r.StatusCode != 200 || r.Request.URL.Path != "/console/trust/"+opens || !slices.Contains(s.Fake.Calls, want) {
			t.Errorf("%s: %d %q", verb, r.StatusCode, s.Fake.Calls)
		}
	}
	rows, _, err := s.Fake.Trail(t.Context(), access.Scope{Tenant: webtest.Tenant}, web.TrailQuery{Action: "trust.rollover"}, web.Page{Limit: 50})
	if err != nil || len(rows) != 3 {
		t.Errorf("the trail has %d entries: %v", len(rows), err)
	}
}
