package main

import (
	"testing"

	"hallmark/api/adminapi"
	"hallmark/device"
)

// TestCampaign_ARevokedDeviceEndsWithoutWaitingForItsTimeout: the running service tells the
// campaign, whoever revokes; the report has the outcome.
func TestCampaign_ARevokedDeviceEndsWithoutWaitingForItsTimeout(t *testing.T) {
	s := newSite(t, "software", "", anyName(2))
	names := []string{"F-1", "F-2"}
	for _, n := range names {
		dir := s.path("devices", n)
		writeDevice(t, dir, s.issue(newUnit(t, n)))
		if _, err := device.FirstBoot(t.Context(), device.Config{Dir: dir, Server: "https://" + s.door("device"), Roots: s.roots}); err != nil {
			t.Fatal(err)
		}
	}
	c := as[adminapi.Campaign](s, "platform", "campaign", "create", "march", "--kind", "rotate-certificate", "--reason", "expiry", "--thing", "F-1", "--thing", "F-2", "--abort", "ALL:1:1")
	members := func(state string) []adminapi.CampaignMember {
		return as[[]adminapi.CampaignMember](s, "platform", "campaign", "members", c.Id, "--state", state)
	}
	s.before("both are offered the change", func() bool { return len(members("offered")) == 2 })
	if code, _, errOut := s.person("bob", "", "device", "revoke", "F-1", "--reason", "privilegeWithdrawn", "--note", "stolen"); code != exitOK {
		t.Fatalf("exit %d %s", code, errOut)
	}
	s.before("the revoked one has ended", func() bool { return len(members("skipped")) == 1 })
	if m := members("skipped")[0]; m.Thing != "F-1" || m.Code != "certificates-revoked" {
		t.Errorf("%+v", m)
	}
	v := as[adminapi.Campaign](s, "platform", "campaign", "show", c.Id)
	if v.State != "running" || len(v.Failures) != 1 || v.Failures[0].Code != "certificates-revoked" || v.Failures[0].Members != 1 || len(members("offered")) != 1 {
		t.Errorf("%+v", v)
	}
}
