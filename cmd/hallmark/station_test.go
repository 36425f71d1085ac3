package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hallmark/hsm/hsmtest"
	"hallmark/internal/fault"
	"hallmark/station"
	"hallmark/station/stationtest"
)

// stationCLI runs hallmark station without the other commands.
func stationCLI(asJSON bool, in io.Reader, args ...string) (out, errOut string, err error) {
	var o, e bytes.Buffer
	g := &globals{JSON: asJSON, Out: &o, Err: &e, In: in, Now: time.Now}
	cmd := newStationCmd(g)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(context.Background())
	return o.String(), e.String(), err
}

func enrolledStation(t *testing.T, s *stationtest.Service) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "st-1")
	out, errOut, err := stationCLI(false, strings.NewReader(s.Code()+"\n"), "enrol", "--server", stationtest.URL(s.Enrolment), "--code", "-", "--station", "st-1", "--dir", dir)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "Station st-1 of site site-1 is enrolled.") || !strings.Contains(errOut, "can be copied") {
		t.Errorf("it says %q and %q", out, errOut)
	}
	return dir
}

func TestStationRun_ShowsALineForEachUnit(t *testing.T) {
	s := stationtest.New(t)
	dir, devices := enrolledStation(t, s), t.TempDir()
	out, _, err := stationCLI(false, strings.NewReader("SN-1\nSN-2\n"), "run", "--dir", dir, "--order", "O-1",
		"--adapter", "simulate:"+devices+"?fail=read-back&only=SN-2", "--serials", "-", "--operator", "ann")
	if fault.From(err).Code != station.ErrUnits.Code {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{"Order O-1 is open, 0 of 100 units used.\n", "ok       SN-1 ", "FAILED   SN-2 ", "next: Check the device's memory", "code: station-readback-differs", "RED: 1 committed, 1 failed, 0 pending"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Error("colours without a terminal")
	}
	if out, _, err := stationCLI(false, nil, "status", "--dir", dir); err != nil || !strings.Contains(out, "1 units committed, 1 failed, 0 not finished") {
		t.Errorf("status: %v\n%s", err, out)
	}
	if _, _, err := stationCLI(false, nil, "renew", "--dir", dir); err != nil {
		t.Errorf("renew: %v", err)
	}
	if out, _, err := stationCLI(false, nil, "run", "--dir", dir, "--order", "O-1", "--adapter", "simulate:"+devices, "--count", "2", "--nests", "2"); err != nil || !strings.Contains(out, "GREEN: 2 committed") {
		t.Errorf("with the renewed certificate: %v\n%s", err, out)
	}
}

func TestStationRun_JSONIsOneEventALine(t *testing.T) {
	s := stationtest.New(t)
	dir := enrolledStation(t, s)
	out, _, err := stationCLI(true, nil, "run", "--dir", dir, "--order", "O-1", "--adapter", "simulate:"+t.TempDir(), "--count", "1")
	if err != nil {
		t.Fatal(err)
	}
	var states []string
	for line := range strings.Lines(out) {
		var e struct {
			State, Unit, Serial string
			Committed           int
			MS                  *int64
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		states = append(states, e.State)
		if e.State == "committed" && (e.Unit != "AUTO-0001" || len(e.Serial) != 40 || e.MS == nil) {
			t.Errorf("%+v", e)
		}
		if e.State == "summary" && e.Committed != 1 {
			t.Errorf("%+v", e)
		}
	}
	if got := strings.Join(states, " "); got != "order planned requested issued written verified committed summary" {
		t.Errorf("got %s", got)
	}
}

// TestStationProcess is the station as a process of its own, for the tests below.
func TestStationProcess(t *testing.T) {
	args := os.Getenv("HALLMARK_TEST_STATION")
	if args == "" {
		return // not started by them
	}
	g := &globals{JSON: true, Out: os.Stdout, Err: os.Stderr, In: os.Stdin, Now: time.Now}
	cmd := newStationCmd(g)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(strings.Split(args, "\x1f"))
	if err := cmd.ExecuteContext(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitFault)
	}
	os.Exit(exitOK)
}

func stationProcess(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestStationProcess$")
	cmd.Env = append(os.Environ(), "HALLMARK_TEST_STATION="+strings.Join(args, "\x1f"))
	cmd.Stderr = os.Stderr
	return cmd
}

func TestStationRun_KilledAgainAndAgainItMakesEachUnitOnce(t *testing.T) {
	s := stationtest.New(t)
	dir, devices := enrolledStation(t, s), t.TempDir()
	var names []string
	for i := range 60 {
		names = append(names, fmt.Sprintf("SN-%03d", i))
	}
	list := filepath.Join(t.TempDir(), "serials")
	args := []string{"run", "--dir", dir, "--order", "O-1", "--adapter", "simulate:" + devices + "?slow=4ms", "--serials", list, "--nests", "4"}
	const lives = 25
	for life := range lives {
		// Each life begins elsewhere in the list, or the first units would be
		// looked at again and again.
		from := life * 60 / lives
		if err := os.WriteFile(list, []byte(strings.Join(append(names[from:len(names):len(names)], names[:from]...), "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := stationProcess(t, args...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Killed after so many lines of its output, which is wherever it is then.
		lines := bufio.NewScanner(out)
		for n := 0; n < 3+life*7%40 && lines.Scan(); n++ {
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
	cmd := stationProcess(t, args...)
	if out, err := cmd.Output(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	units := s.Units()
	if len(units) != 60 || s.Made() != 60 {
		t.Errorf("%d units, %d certificates, want 60 and 60", len(units), s.Made())
	}
	for name, u := range units {
		if u.Committed == 0 {
			t.Errorf("%s is not committed", name)
		}
	}
}

func TestStationRun_SIGTERMFinishesTheUnitsInTheNests(t *testing.T) {
	s := stationtest.New(t)
	dir := enrolledStation(t, s)
	cmd := stationProcess(t, "run", "--dir", dir, "--order", "O-1", "--adapter", "simulate:"+t.TempDir()+"?slow=50ms", "--serials", "-")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(in, "SN-1\nSN-2\n")
	d := json.NewDecoder(out)
	var last struct {
		State     string
		Committed int
	}
	for {
		if err := d.Decode(&last); err != nil {
			break
		}
		if last.State == "requested" {
			cmd.Process.Signal(syscall.SIGTERM)
		}
		if last.State == "summary" {
			break
		}
	}
	io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil || last.State != "summary" || last.Committed != 1 {
		t.Errorf("%+v, %v", last, err)
	}
}

func TestStationEnrol_ATokensKeyNeedsNoModuleInItsURI(t *testing.T) {
	token := hsmtest.SoftHSM(t)
	s := stationtest.New(t)
	for name, flag := range map[string][]string{"environment": nil, "flag": {"--module", token.Module}} {
		if flag == nil {
			t.Setenv("HALLMARK_PKCS11_MODULE", token.Module)
		} else {
			t.Setenv("HALLMARK_PKCS11_MODULE", "")
		}
		dir := filepath.Join(t.TempDir(), "st-1")
		// As docs/station.md has it.
		uri := "pkcs11:token=" + token.Label + ";object=station-" + name + "?pin-source=file:" + token.PINFile
		_, errOut, err := stationCLI(false, strings.NewReader(s.Code()+"\n"), append([]string{"enrol", "--server", stationtest.URL(s.Enrolment), "--code", "-", "--station", "st-1", "--dir", dir, "--key", uri}, flag...)...)
		if err != nil || strings.Contains(errOut, "can be copied") {
			t.Fatalf("%s: enrol: %v\n%s", name, err, errOut)
		}
		if out, _, err := stationCLI(false, nil, append([]string{"run", "--dir", dir, "--order", "O-1", "--adapter", "simulate:" + t.TempDir(), "--count", "1"}, flag...)...); err != nil || !strings.Contains(out, "GREEN: 1 committed") {
			t.Errorf("%s: run: %v\n%s", name, err, out)
		}
		if _, _, err := stationCLI(false, nil, append([]string{"renew", "--dir", dir}, flag...)...); err != nil {
			t.Errorf("%s: renew: %v", name, err)
		}
	}
}

func TestStationAbandon_GivesAScrappedUnitUp(t *testing.T) {
	s := stationtest.New(t)
	dir, devices := enrolledStation(t, s), t.TempDir()
	run := func(unit, options string) (string, error) {
		out, _, err := stationCLI(false, strings.NewReader(unit+"\n"), "run", "--dir", dir, "--order", "O-1", "--adapter", "simulate:"+devices+options, "--serials", "-", "--patience", "1ms")
		return out, err
	}
	// Two units that the service did not answer for; one of their boards is scrapped.
	s.Intercept = func(w http.ResponseWriter, op string, _ int) bool {
		if op == "issue" {
			stationtest.Problem(w, http.StatusServiceUnavailable, "store-unavailable", "Try again.")
		}
		return op == "issue"
	}
	for _, unit := range []string{"SN-1", "SN-2"} {
		if out, err := run(unit, ""); fault.From(err).Code != station.ErrUnits.Code || !strings.Contains(out, "PENDING  "+unit) {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	s.Intercept = nil
	out, err := run("SN-3", "?fail=absent&only=SN-1")
	for _, want := range []string{"PENDING  SN-1", "hallmark station abandon", "ok       SN-2", "ok       SN-3", "YELLOW: 2 committed, 0 failed, 1 pending (1 not in its nest)"} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%q is missing, %v\n%s", want, err, out)
		}
	}
	if out, _, err := stationCLI(false, nil, "status", "--dir", dir); err != nil || !strings.Contains(out, "hallmark station abandon") {
		t.Errorf("status: %v\n%s", err, out)
	}
	if _, _, err := stationCLI(false, nil, "abandon", "SN-2", "--dir", dir); fault.From(err).Code != station.ErrNotOpen.Code {
		t.Errorf("a unit that is finished: %v", err)
	}
	out, _, err = stationCLI(true, nil, "abandon", "sn-1", "--dir", dir, "--operator", "ann", "--note", "cracked in the fixture")
	var v struct{ Unit, Order, Job, State, Operator, Note string }
	if uerr := json.Unmarshal([]byte(out), &v); err != nil || uerr != nil || v.Unit != "SN-1" || v.Order != "O-1" || v.State != "requested" || v.Operator != "ann" || v.Note != "cracked in the fixture" {
		t.Errorf("%v %v %s", err, uerr, out)
	}
	if out, err := run("SN-3", ""); err != nil || !strings.Contains(out, "GREEN: 1 committed (1 were before), 0 failed, 0 pending in") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, ok := s.Units()["sn-1"]; ok {
		t.Error("the service was asked for the unit")
	}
}
