package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"hallmark/api/adminapi"
)

func picturedCampaign() *adminapi.Campaign {
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	return &adminapi.Campaign{Id: "march", Kind: "rotate-certificate", Reason: "expiry", State: "stopped", Active: true, Code: "threshold", Detail: "Of 2101 devices that ended 45 failed: ALL reached 2 %.\x1b[2J",
		Plan: []adminapi.CampaignStage{{Name: "canary"}, {Name: strings.Repeat("a long name of a stage ", 3)}, {Name: "all", Percent: 100}}, Stage: 1, StageStarted: now, OfferedLastMinute: 42, Rollout: adminapi.JobRollout{MaxPerMinute: 60},
		Members:    []adminapi.CampaignCount{{Stage: 0, State: "done", Members: 2000}, {Stage: 0, State: "failed", Members: 1}, {Stage: 1, State: "offered", Members: 100}, {Stage: 1, State: "silent", Members: 44}, {Stage: -1, State: "waiting", Members: 10_000_000}},
		Thresholds: []adminapi.CampaignThreshold{{Failure: "ALL", Percent: 2, MinExecuted: 50, Ended: 2101, Failed: 45, Reached: true}},
		Failures:   []adminapi.CampaignFailure{{State: "failed", Code: "b-rejected", Members: 1}, {State: "silent", Code: "silent", Members: 44}}}
}

func TestCampaignPicture_FitsTheTerminal(t *testing.T) {
	c := picturedCampaign()
	for _, size := range [][2]int{{200, 50}, {120, 40}, {79, 23}, {60, 23}, {40, 12}, {20, 5}} {
		lines := campaignPicture(c, time.Now(), size[0], size[1], false)
		if len(lines) > size[1] {
			t.Errorf("%v: %d lines", size, len(lines))
		}
		for _, l := range lines {
			if n := len([]rune(l)); n > size[0] {
				t.Errorf("%v: %d wide: %q", size, n, l)
			}
			if strings.ContainsRune(l, 0x1b) {
				t.Errorf("%v: a colour without colours, or what a device wrote drives the terminal: %q", size, l)
			}
		}
		all := strings.Join(lines, "\n")
		if !strings.Contains(all, "stopped") || size[0] >= 60 && size[1] >= 23 && (!strings.Contains(all, "####!") || !strings.Contains(all, "b-rejected") || !strings.Contains(all, "now 2.14 %")) {
			t.Errorf("%v:\n%s", size, all)
		}
	}
	coloured := strings.Join(campaignPicture(c, time.Now(), 120, 40, true), "\n")
	if !strings.Contains(coloured, inRed+"stopped") || strings.Contains(coloured, "\x1b[2J") {
		t.Errorf("%q", coloured)
	}
}

// Not on a terminal each change is a line, and nothing else is written.
func TestCampaignWatch_WritesALineForEachChange(t *testing.T) {
	for _, inJSON := range []bool{false, true} {
		var out bytes.Buffer
		w := campaignWatch{g: &globals{Out: &out, JSON: inJSON}}
		c := picturedCampaign()
		for range 3 {
			if err := w.show(c); err != nil {
				t.Fatal(err)
			}
		}
		c.Members[0].Members++
		if err := w.show(c); err != nil {
			t.Fatal(err)
		}
		w.lost()
		w.lost()
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if want := map[bool]int{false: 3, true: 2}[inJSON]; len(lines) != want || strings.ContainsRune(out.String(), 0x1b) || inJSON != strings.HasPrefix(lines[0], "{") {
			t.Errorf("json %v: %d lines\n%s", inJSON, len(lines), out.String())
		}
	}
}
