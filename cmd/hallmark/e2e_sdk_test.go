package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/device/mqtt"
	"hallmark/fleet"
	"hallmark/fleet/jobs"
	"hallmark/fleet/registry"
	"hallmark/hsm/hsmtest"
)

// sdkDir holds the device SDK's version and the scripts that drive it.
const sdkDir = "testdata/sdk"

// sdkWays are the SDK's clients: both versions of MQTT, both kinds of service client.
var sdkWays = []struct{ name, thing string }{
	{"MQTT 3.1.1, callback clients", "SDK-3-v1"},
	{"MQTT 3.1.1, request/response clients", "SDK-3-v2"},
	{"MQTT 5, callback clients", "SDK-5-v1"},
	{"MQTT 5, request/response clients", "SDK-5-v2"},
}

// sdkSteps is what each scenario has to say that it did, in this order. A step
// that did not happen is missing from what it says.
func sdkSteps(scenario string) (out []string) {
	each := func(suffix string, steps ...string) (all []string) {
		for i, w := range sdkWays {
			made := "a certificate and the key that the service made"
			if i == 0 || i == 3 {
				made = "a certificate for its own request"
			}
			for _, s := range steps {
				all = append(all, w.name+suffix+strings.ReplaceAll(s, "MADE", made))
			}
		}
		return all
	}
	switch scenario {
	case "provision":
		return each(": ", "connects with the claim certificate", "MADE", "the certificate is what it says", "it does not work before the registration",
			"clear refusals of a registration", "is registered", "a used token is refused", "leaves, and connects as the thing")
	case "shadow":
		steps := []string{"there is none yet", "subscribes to deltas and documents", "an update makes it, with a delta and a document", "the delta is what differs", "get gives all of it",
			"an update of an old version conflicts", "of the right version it is taken, and without a difference there is no delta", "what is no shadow is refused",
			"delete, and get after it", "its version goes on after it was deleted"}
		for _, w := range sdkWays {
			for _, kind := range []string{"classic", "named"} {
				for _, s := range steps {
					out = append(out, w.name+", "+kind+" shadow: "+s)
				}
			}
		}
		return out
	case "jobs":
		return each(": ", "nothing is pending", "a job is announced", "a second one waits behind it", "describe, by name and $next", "start-next", "updates on the way",
			"the job succeeds, and the next one is announced", "the other job is rejected")
	case "policy":
		return []string{"MQTT 5: another client identifier is refused", "MQTT 3.1.1: another client identifier is refused", "MQTT 5: wrong topics are refused with 0x87, and the connection lives",
			"MQTT 3.1.1: a wrong filter gets 0x80, a wrong topic ends the connection", "MQTT 3: the service clients say that another thing is not theirs",
			"MQTT 5: the service clients say that another thing is not theirs", "a claim certificate provisions, and does nothing else"}
	}
	return nil
}

// TestSDK_UnmodifiedFirmwareWorks is the promise of the fleet's runtime, judged
// with the device SDK itself against the service as a process of its own:
// provisioning by claim, shadows, jobs, and what policies refuse.
func TestSDK_UnmodifiedFirmwareWorks(t *testing.T) {
	if _, err := os.Stat(filepath.Join(sdkDir, "node_modules", "aws-iot-device-sdk-v2")); err != nil {
		hsmtest.Missing(t, "the device SDK is missing: scripts/setup.sh installs it")
	}
	w := newFleetSite(t, "M-1")
	if err := w.registerFleet(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.halt()
	p := w.service("hallmark.yaml", "state")
	config := w.sdkConfig(t, "M-1")
	for _, scenario := range []string{"provision", "shadow", "jobs", "policy"} {
		if !t.Run(scenario, func(t *testing.T) { w.sdk(t, config, scenario) }) && scenario == "provision" {
			t.FailNow() // the others use its devices
		}
	}
	t.Run("the victim of a claim for its name is unaffected", func(t *testing.T) {
		c, err := w.connect("M-1", "M-1", mqtt.V311, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	})
	if err := p.stop(); err != nil {
		t.Errorf("the service: %v", err)
	}
	w.again()
	t.Run("what the service remembers", w.sdkLeft)
	w.halt()
	w.clean()
}

// sdkLeft looks at what the SDK's devices left.
func (s *site) sdkLeft(t *testing.T) {
	main, f := access.Scope{Tenant: access.DefaultTenant}, s.server.fleet
	for _, way := range sdkWays {
		got := map[string]jobs.Status{}
		all, err := f.jobs.ExecutionsOfThing(t.Context(), main.Tenant, fleet.ThingName(way.thing), "", "", 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			got[e.Job] = e.Status
		}
		if got["good-"+way.thing] != jobs.Succeeded || got["bad-"+way.thing] != jobs.Rejected || len(got) != 2 {
			t.Errorf("%s: %v", way.thing, got)
		}
	}
	things, err := f.registry.GroupThings(t.Context(), main, registry.ThingGroup, demoGroup, false, "", 100)
	if err != nil || len(things) != len(sdkWays)+1 {
		t.Errorf("things of the group: %v, %v", things, err)
	}
}

// sdkConfig writes what the scripts have to know.
func (s *site) sdkConfig(t *testing.T, victim string) string {
	host, port, err := net.SplitHostPort(s.door("mqtt"))
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]any{
		"host": host, "port": number, "ca": s.path("pki", "root.pem"), "claimCert": s.path("fleet", "claim.pem"), "claimKey": s.path("fleet", "claim.key"), "template": demoFleet,
		"dir": t.TempDir(), "victim": victim, "victimCertificate": registry.CertificateID(readCert(t, s.path("devices", victim, "ldevid.pem")).Raw),
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sdk.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// sdkLine is what a script says.
type sdkLine struct {
	Step, Failed, Error string
	Answer              json.RawMessage
	Want                *struct {
		Job, Thing string
		Document   json.RawMessage
	}
	End bool
}

// sdk runs a scenario and does what it asks for.
func (s *site) sdk(t *testing.T, config, scenario string) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "node", "main.js", config, scenario)
	c.Dir = sdkDir
	var said strings.Builder
	c.Stderr = &said
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		hsmtest.Missing(t, err.Error()+": scripts/setup.sh installs it")
	}
	var steps []string
	ended := false
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l sdkLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Logf("it says: %s", lines.Bytes())
			continue
		}
		switch {
		case l.Failed != "":
			t.Errorf("%s: %s %s", l.Failed, l.Error, l.Answer)
		case l.Want != nil:
			if _, e, exit := s.cli("job", "create", "--id", l.Want.Job, "--thing", l.Want.Thing, "--document", string(l.Want.Document)); exit != exitOK {
				t.Errorf("job create: %s", e)
			}
			fmt.Fprintln(in, "done")
		case l.End:
			ended = true
		default:
			steps = append(steps, l.Step)
		}
	}
	if err := c.Wait(); err != nil {
		t.Errorf("%v: %s", err, said.String())
	}
	want := sdkSteps(scenario)
	// The ways run at once; each one's steps are in order.
	way := func(step string) int {
		name, _, _ := strings.Cut(step, ": ")
		return slices.IndexFunc(want, func(w string) bool { return strings.HasPrefix(w, name+": ") })
	}
	if scenario != "policy" {
		slices.SortStableFunc(steps, func(a, b string) int { return cmp.Compare(way(a), way(b)) })
	}
	if !ended || !slices.Equal(steps, want) {
		at := 0
		for at < len(steps) && at < len(want) && steps[at] == want[at] {
			at++
		}
		t.Errorf("%d of %d steps are right, ended: %v; the next of %q", at, len(want), ended, append(want, "(none)")[at])
	}
	t.Logf("%d steps in %s", len(steps), time.Since(began).Round(time.Millisecond))
}
