package ota_test

import (
	"os"
	"testing"
	"time"

	"hallmark/fleet/campaign"
	"hallmark/fleet/registry"
	"hallmark/fleet/rollout"
)

func spec(things ...*unit) (s campaign.Spec) {
	for _, u := range things {
		s.Targets = append(s.Targets, "thing/"+string(u.thing))
	}
	return s
}

// TestFirmware_ADeviceIsProvenWhenItIsUpConnectedAndWell, over HTTPS and over MQTT, and
// goes back to the safe version when it is told to.
func TestFirmware_ADeviceIsProvenWhenItIsUpConnectedAndWell(t *testing.T) {
	s := newSite(t)
	u := s.unit(1)
	u.start()
	s.released("1.1", "good", nil)
	s.rollout("c1", "1.1", spec(u))
	defer func() {
		if t.Failed() {
			u.says()
		}
	}()
	s.eventually("1.1 is done", func() bool { return s.member("c1", u).State == campaign.Done })
	if m := s.member("c1", u); m.Before != "1.0" || m.After != "1.1" || u.boots() != "1.1" || u.firmware().Floor != "1.0" {
		t.Errorf("%+v boots %s", m, u.boots())
	}
	// No URL is offered: the image comes over the connection.
	s.https = false
	s.released("1.2", "good", nil)
	s.rollout("c2", "1.2", spec(u))
	s.eventually("1.2 is done", func() bool { return s.member("c2", u).State == campaign.Done })
	if u.boots() != "1.2" {
		t.Errorf("boots %s", u.boots())
	}
	// Another campaign goes back, as far as the floor lets it.
	s.rollout("c3", "1.1", spec(u))
	s.eventually("1.1 is back", func() bool { return s.member("c3", u).State == campaign.Done })
	// Who has it is not asked again.
	s.rollout("c4", "1.1", spec(u))
	s.eventually("it is skipped", func() bool { return s.member("c4", u).Code == "already-version" })
}

// TestFirmware_RollBackBringsTheVersionBeforeBack on devices that are done, while the
// campaign still goes on.
func TestFirmware_RollBackBringsTheVersionBeforeBack(t *testing.T) {
	s := newSite(t)
	u, asleep := s.unit(1), s.unit(2)
	u.start()
	s.released("1.1", "good", nil)
	s.rollout("c1", "1.1", spec(u, asleep))
	defer func() {
		if t.Failed() {
			u.says()
		}
	}()
	s.eventually("1.1 is done", func() bool { return s.member("c1", u).State == campaign.Done })
	_, err := s.campaigns.Rollback(t.Context(), scope.Tenant, "c1", "ann", "test")
	must(t, err)
	s.eventually("it is undone", func() bool { return s.member("c1", u).State == campaign.Undone })
	if f := u.firmware(); u.boots() != "1.0" || f.Floor != "1.0" {
		t.Errorf("boots %s, %+v", u.boots(), f)
	}
	s.eventually("the campaign is over", func() bool { return s.campaign("c1").State == campaign.Canceled })
}

// TestIssue6_ABadBuildStopsAtTheCanary: acceptance 3 in the small. 10 % of the devices
// do not bear a build, in the canary as everywhere. The campaign stops at the canary's
// threshold, who did not bear the build is back on the safe version by itself, and
// nobody else was touched; rolled back, all are.
func TestIssue6_ABadBuildStopsAtTheCanary(t *testing.T) {
	s := newSite(t)
	n, canary := 20, 10 // 40 devices in make proof
	if os.Getenv("HALLMARK_PROOF") != "" {
		n = 40
	}
	_, err := s.Registry.CreateGroup(t.Context(), registry.Group{Tenant: scope.Tenant, Class: registry.ThingGroup, Name: "lab"})
	must(t, err)
	var units []*unit
	for i := range n {
		u := s.unit(i)
		u.bad = i%10 == 3
		units = append(units, u)
		if i < canary {
			must(t, s.Registry.AddToGroup(t.Context(), scope, registry.ThingGroup, "lab", u.thing))
		}
		u.start()
	}
	s.released("2.0", "picky", nil)
	sp := spec(units...)
	sp.Canary = "lab"
	sp.Abort = rollout.Abort{Criteria: []rollout.AbortCriterion{{FailureType: "FAILED", Percentage: 5, MinExecuted: int64(canary)}}}
	s.rollout("c1", "2.0", sp)
	s.eventually("it stops", func() bool {
		c := s.campaign("c1")
		return c.State == campaign.Stopped || c.State == campaign.Completed
	})
	if c := s.campaign("c1"); c.State != campaign.Stopped || c.Code != "threshold" || c.Stage != 0 {
		t.Errorf("%s %s %s", c.State, c.Code, c.Detail)
	}
	want := func(when string, version func(i int) string, states func(i int) campaign.MemberState) {
		t.Helper()
		for i, u := range units {
			m := s.member("c1", u)
			for end := time.Now().Add(10 * time.Second); m.State != states(i) && time.Now().Before(end); m = s.member("c1", u) {
				time.Sleep(20 * time.Millisecond)
			}
			if v := u.boots(); v != version(i) || m.State != states(i) {
				t.Errorf("%s: %s boots %s and is %s %s %s", when, u.thing, v, m.State, m.Code, m.Detail)
				u.says()
			}
		}
	}
	want("stopped", func(i int) string {
		if i < canary && !units[i].bad {
			return "2.0"
		}
		return "1.0"
	}, func(i int) campaign.MemberState {
		switch {
		case i >= canary:
			return campaign.Waiting
		case units[i].bad:
			return campaign.Failed
		}
		return campaign.Done
	})
	if m := s.member("c1", units[3]); m.Code != "firmware-not-healthy" || m.Detail != errIll.Error() {
		t.Errorf("%+v", m)
	}
	_, err = s.campaigns.Rollback(t.Context(), scope.Tenant, "c1", "ann", "a bad build")
	must(t, err)
	defer func() {
		if t.Failed() {
			c := s.campaign("c1")
			t.Logf("%s %s %v", c.State, c.Code, c.Counts)
			units[3].says()
			for _, u := range units {
				if m := s.member("c1", u); m.State == campaign.Undoing || m.State == campaign.Returning {
					u.says()
				}
			}
		}
	}()
	s.eventually("it is rolled back", func() bool { return s.campaign("c1").RolledBack })
	want("rolled back", func(int) string { return "1.0" }, func(i int) campaign.MemberState {
		if i >= canary {
			return campaign.Waiting
		}
		return campaign.Undone
	})
}
