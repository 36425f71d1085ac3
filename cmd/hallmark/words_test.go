package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/internal/freeport"
	"hallmark/web/webtest"
)

// A question that nobody answers ends with words that fit every command, not with those
// of an order's approval.
func TestOwnerDecommission_UnansweredSaysThatNothingWasDone(t *testing.T) {
	c := newCLI(t)
	code, _, errOut := c.run(access.SecurityOfficer, "", "owner", "decommission", "scrap-1", "--unit", webtest.Unit)
	if code != exitFault || !strings.Contains(errOut, "cli-not-confirmed") || !strings.Contains(errOut, "Nothing was done") || strings.Contains(errOut, "order") {
		t.Errorf("%d %s", code, errOut)
	}
}

// A file that is not there is not a manifest that is wrong.
func TestOTA_AFileThatIsNotThereIsNamed(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	for _, args := range [][]string{{"ota", "inspect", none, "--trust", none}, {"ota", "publish", none, none}} {
		var out, errOut bytes.Buffer
		if code := run(t.Context(), args, strings.NewReader(""), &out, &errOut); code != exitFault || !strings.Contains(errOut.String(), none) || strings.Contains(errOut.String(), "manifest") {
			t.Errorf("%v: %d %s", args, code, errOut.String())
		}
	}
}

// What people read as the cause is there for programs too.
func TestComplain_TellsTheCauseInJSONToo(t *testing.T) {
	c := newCLI(t)
	port, err := freeport.Take(1)
	if err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("https://127.0.0.1:%d", port)
	t.Setenv("HALLMARK_TOKEN", "x")
	var out, errOut bytes.Buffer
	run(t.Context(), []string{"thing", "list", "--json", "--server", at, "--ca-file", c.args[3]}, strings.NewReader(""), &out, &errOut)
	var said struct{ Code, Cause string }
	if err := json.Unmarshal(errOut.Bytes(), &said); err != nil || said.Code == "" || !strings.Contains(said.Cause, "refused") {
		t.Errorf("%s %v", errOut.String(), err)
	}
}

// cancels ends a context with the first octet that is written.
type cancels struct {
	bytes.Buffer
	end func()
}

func (w *cancels) Write(b []byte) (int, error) {
	defer w.end()
	return w.Buffer.Write(b)
}

func TestCampaignWatch_ASignalEndsItQuietly(t *testing.T) {
	c := newCLI(t)
	t.Setenv("HALLMARK_TOKEN", c.Tokens[webtest.Tenant][access.Auditor])
	ctx, cancel := context.WithCancel(t.Context())
	out := &cancels{end: cancel}
	var errOut bytes.Buffer
	code := run(ctx, append([]string{"campaign", "watch", webtest.Campaign}, c.args...), strings.NewReader(""), out, &errOut)
	if code != exitInterrupted || errOut.Len() > 0 || out.Len() == 0 {
		t.Errorf("%d %q %q", code, out.String(), errOut.String())
	}
}

func TestCampaignPlan_WarnsOfACanaryWithoutDevices(t *testing.T) {
	p := adminapi.CampaignPlan{Things: 3, Wanting: 3, Stages: []adminapi.CampaignPlanStage{{Name: "canary"}, {Name: "all", Things: 3}}}
	say := func(group string) string {
		var b strings.Builder
		warnCanary(&b, group, &p)
		return b.String()
	}
	if got := say("lab"); !strings.Contains(got, "lab") || !strings.Contains(got, "canary-empty") {
		t.Errorf("%q", got)
	}
	if got := say(""); got != "" {
		t.Errorf("without a canary: %q", got)
	}
	p.Stages[0].Things = 1
	if got := say("lab"); got != "" {
		t.Errorf("with a device: %q", got)
	}
}
