package campaign_test

import (
	"errors"
	"testing"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/campaign"
)

// A thing with two certificates that end soon is on one page twice.
func TestFeed_AThingThatComesTwiceIsOneMember(t *testing.T) {
	s := onSQLite(t, campaign.Config{OnePerson: true})
	s.create("c", campaign.Spec{Continuous: true})
	page := []fleet.ThingName{"t00001", "t00002", "T00001"}
	for _, want := range []int{2, 0} {
		if n, err := s.Feed(t.Context(), "main", "c", page); err != nil || n != want {
			t.Errorf("added %d, not %d, %v", n, want, err)
		}
	}
	if page[2] != "T00001" {
		t.Errorf("the caller's page is %v by now", page)
	}
	s.counts("c", "waiting 2")
}

// More members than are read at once lie between two targets, as most have left the group.
func TestSweep_NobodyWhoStaysIsTakenForOneWhoLeft(t *testing.T) {
	s := onSQLite(t, campaign.Config{OnePerson: true})
	all := things(1500)
	s.group("all", all...)
	s.create("c", campaign.Spec{Continuous: true, Targets: []string{"thinggroup/all"}, Jitter: 300 * 24 * time.Hour})
	s.pass(time.Minute)
	var stay []fleet.ThingName
	for i := 0; i < len(all); i += 6 {
		stay = append(stay, all[i])
	}
	s.group("all", stay...)
	s.pass(11 * time.Minute)
	for _, x := range stay {
		if m := s.member("c", x); m.State == campaign.Skipped {
			t.Fatalf("%s is %s %q and is a target", x, m.State, m.Code)
		}
	}
	if n := s.get("c").Counts.Of(campaign.Skipped); n != int64(len(all)-len(stay)) {
		t.Errorf("%d are skipped", n)
	}
}

// Each sweep is cut in two by a fault, and the next step comes when the pause would be over.
func TestSweep_OneThatTakesLongHoldsUpNoOffer(t *testing.T) {
	s := onSQLite(t, campaign.Config{OnePerson: true})
	all := things(600)
	s.group("all", all...)
	for _, x := range all[1:] {
		s.skip[x] = "not-due"
	}
	s.connect(s.now, true, all[0])
	cut := 0
	s.page = func(after fleet.ThingName) error {
		if after == "" {
			return nil
		}
		if cut++; cut%2 == 1 {
			return errors.New("not now")
		}
		return nil
	}
	s.create("c", campaign.Spec{Targets: []string{"thinggroup/all"}, Continuous: true})
	for range 4 {
		s.now = s.now.Add(11 * time.Minute)
		_ = s.Step(t.Context(), s.now) // every other one fails
	}
	s.counts("c", "offered 1")
	if cut < 3 {
		t.Errorf("%d looks at the second page: no second sweep was cut", cut)
	}
}

// A stage that is for nobody of those who wait stops the campaign, and a person decides.
func TestCanary_AContinuousCampaignWithoutADueCanaryStops(t *testing.T) {
	s := onSQLite(t, campaign.Config{OnePerson: true})
	all := things(5)
	s.group("lab", "x00001")
	s.connect(s.now, true, all...)
	s.create("c", campaign.Spec{Continuous: true, Canary: "lab"})
	s.pass(24 * time.Hour)
	s.is("c", campaign.Running, "") // nobody wants it yet
	_, err := s.Feed(t.Context(), "main", "c", all)
	must(t, err)
	s.pass(time.Second)
	s.is("c", campaign.Stopped, "canary-empty")
	_, err = s.Resume(t.Context(), "main", "c", "ann")
	must(t, err)
	s.pass(time.Second)
	s.pass(time.Second)
	s.counts("c", "offered 5")
}
