package device

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/api/deviceapi"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/device/mosquittotest"
	"hallmark/device/mqtt"
	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
)

// registered makes the directory of a device that booted before.
func registered(t *testing.T, b *mosquittotest.Broker, thing string) RunConfig {
	t.Helper()
	dir := filepath.Join(t.TempDir(), thing)
	slot := filepath.Join(dir, "slots", "A")
	if err := os.MkdirAll(slot, 0o700); err != nil {
		t.Fatal(err)
	}
	cert := b.PKI.Device(thing)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := json.Marshal(deviceapi.Registration{Certificate: cert.Certificate[0], Thing: thing, Status: "ACTIVE", Chain: [][]byte{}, TrustBundle: [][]byte{}, Policies: []string{}, Configuration: map[string]string{}})
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{
		filepath.Join(slot, certFile):   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
		filepath.Join(slot, keyFile):    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		filepath.Join(slot, answerFile): answer, filepath.Join(dir, "slots", "active"): []byte("A\n"),
	} {
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return RunConfig{Config: Config{Dir: dir, Roots: b.PKI.Pool(), Timeout: 10 * time.Second}, Endpoint: b.Addr, ServerName: "localhost", Backoff: Backoff{Min: 10 * time.Millisecond, Max: 100 * time.Millisecond}}
}

// life is a running agent.
type life struct {
	t      *testing.T
	stop   context.CancelFunc
	ended  chan error
	mu     sync.Mutex
	events []Event
	change chan struct{}
}

func begin(t *testing.T, cfg RunConfig) *life {
	t.Helper()
	l := &life{t: t, ended: make(chan error, 1), change: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	cfg.Event = func(e Event) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.events = append(l.events, e)
		close(l.change)
		l.change = make(chan struct{})
	}
	go func() { l.ended <- Run(ctx, cfg) }()
	t.Cleanup(l.end)
	return l
}

// end stops the agent and checks that it stopped well.
func (l *life) end() {
	l.t.Helper()
	l.stop()
	select {
	case err := <-l.ended:
		if err != nil {
			l.t.Errorf("the agent ended: %v", err)
		}
		l.ended <- nil
	case <-time.After(30 * time.Second):
		l.t.Fatal("the agent does not stop")
	}
}

// event waits for the nth event of a kind, from 1.
func (l *life) event(kind string, n int) Event {
	l.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		l.mu.Lock()
		seen := 0
		for _, e := range l.events {
			if e.Event == kind {
				if seen++; seen == n {
					l.mu.Unlock()
					return e
				}
			}
		}
		change := l.change
		l.mu.Unlock()
		select {
		case <-change:
		case <-timeout:
			l.mu.Lock()
			defer l.mu.Unlock()
			l.t.Fatalf("no %s %d in %+v", kind, n, l.events)
		}
	}
}

// The message that tells of a job can be lost.
func TestRun_AsksForJobsThatItWasNotToldOf(t *testing.T) {
	b := mosquittotest.Start(t)
	c := newCloud(t, b, "lamp-1")
	cfg := registered(t, b, "lamp-1")
	cfg.Poll = 200 * time.Millisecond
	l := begin(t, cfg)
	l.event(EventConnected, 1)
	for i, id := range []string{"one", "two"} {
		c.until("it asks by itself", func() bool { return c.polls > 3*(i+1) }) // once when it connected
		if status, details := c.ended(c.queue(id, `{"operation":"echo","message":"hello"}`)); status != succeeded {
			t.Errorf("%s is %s %v", id, status, details)
		}
	}
	if d := (&RunConfig{}).pollWait(); d < 15*time.Minute || d > 30*time.Minute {
		t.Errorf("it asks every %s", d)
	}
}

func TestRun_TakesSettingsAndReportsThem(t *testing.T) {
	b := mosquittotest.Start(t)
	for name, version := range map[string]byte{"MQTT 3.1.1": mqtt.V311, "MQTT 5": mqtt.V5} {
		t.Run(name, func(t *testing.T) {
			thing := "lamp-" + string('0'+version)
			c := newCloud(t, b, thing)
			c.desire(`{"interval":10,"big":12345678901234567890,"led":{"on":true,"colour":"red"}}`) // while it is off
			cfg := registered(t, b, thing)
			cfg.Version = version
			l := begin(t, cfg)
			l.event(EventConnected, 1)
			c.until("the settings are reported", func() bool { return len(difference(c.desired, c.reported)) == 0 && c.reported[factsMember] != nil })
			c.desire(`{"led":{"colour":"blue"}}`)
			c.until("the change is reported", func() bool { return len(difference(c.desired, c.reported)) == 0 })
			l.event(EventSettings, 2)
			c.desire(`{"device":{"serial":"forged"}}`)
			if e := l.event(EventRefused, 1); e.Code != "agent-settings" {
				t.Errorf("%+v", e)
			}
			c.desire(`{"huge":"` + strings.Repeat("x", maxSettings) + `"}`)
			l.event(EventRefused, 2)
			l.end()
			s, err := loadState(cfg.Dir)
			led, _ := s.Settings["led"].(map[string]any)
			if err != nil || s.Boots != 1 || led["on"] != true || led["colour"] != "blue" || s.Settings["huge"] != nil || s.Settings[factsMember] != nil {
				t.Errorf("%+v %v", s, err)
			}
			if raw, _ := os.ReadFile(filepath.Join(cfg.Dir, stateFile)); !strings.Contains(string(raw), "12345678901234567") {
				t.Errorf("a large number lost its digits: %s", raw)
			}
			if _, forged := c.reported[factsMember].(map[string]any)["serial"]; !forged || c.reported[factsMember].(map[string]any)["serial"] == "forged" {
				t.Errorf("%v", c.reported)
			}
		})
	}
}

func TestRun_DoesWhatJobsMayAsk(t *testing.T) {
	b := mosquittotest.Start(t)
	c := newCloud(t, b, "lamp")
	cfg := registered(t, b, "lamp")
	marker := filepath.Join(t.TempDir(), "marker")
	cfg.Allow = []Command{{Command: []string{"/usr/bin/touch", marker}}, {Command: []string{"/bin/sh", "-c", "echo told; echo why >&2; exit 3"}}, {Command: []string{"/bin/sleep", "60"}, Seconds: 1}, {Command: []string{"/nowhere/program"}}}
	early := c.job("early", `{"operation":"echo","message":"before it came"}`)
	l := begin(t, cfg)
	if status, d := c.ended(early); status != succeeded || d["echo"] != "before it came" {
		t.Errorf("%s %v", status, d)
	}
	for i, j := range []struct{ document, status, detail, want string }{
		{`{"operation":"command","command":["/usr/bin/touch","` + marker + `"]}`, succeeded, "exit_code", "0"},
		{`{"operation":"command","command":["/bin/sh","-c","echo told; echo why >&2; exit 3"],"other":{"member":1}}`, failed, "exit_code", "3"},
		{`{"operation":"command","command":["/bin/sleep","60"]}`, failed, "reason", "it ran longer than 1s"},
		{`{"operation":"command","command":["/nowhere/program"]}`, failed, "exit_code", "-1"},
		{`{"operation":"command","command":["/usr/bin/touch","` + marker + `","and-more"]}`, rejected, "reason", "the command /usr/bin/touch " + marker + " and-more is not allowed on this device"},
		{`{"operation":"command","command":[]}`, rejected, "reason", "the command  is not allowed on this device"},
		{`{"operation":"format-disk"}`, rejected, "reason", "the operation format-disk is not known to this device"},
		{`{"steps":[]}`, rejected, "reason", "the document names no operation"},
	} {
		job := c.job("job-"+string(rune('a'+i)), j.document)
		if status, d := c.ended(job); status != j.status || d[j.detail] != j.want {
			t.Errorf("%s: %s %v", j.document, status, d)
		}
	}
	if _, err := os.Stat(marker); err != nil {
		t.Error(err)
	}
	reboot := c.job("reboot", `{"operation":"reboot-simulated"}`)
	if status, d := c.ended(reboot); status != succeeded || d["phase"] != "rebooted" {
		t.Errorf("%s %v", status, d)
	}
	if e := l.event(EventReboot, 1); e.Boots != 2 {
		t.Errorf("%+v", e)
	}
	l.event(EventJobFinished, 10)
	l.end()
	if _, err := os.Stat(filepath.Join(cfg.Dir, journalFile)); err == nil {
		t.Error("the journal of a reported job is left")
	}
}

// Stopped in the middle of a job, the next run does what is right for it.
func TestRun_ResumesAJobAfterARestart(t *testing.T) {
	b := mosquittotest.Start(t)
	for _, restartable := range []bool{false, true} {
		thing := map[bool]string{false: "once", true: "again"}[restartable]
		t.Run(thing, func(t *testing.T) {
			c := newCloud(t, b, thing)
			cfg := registered(t, b, thing)
			count, gate := filepath.Join(t.TempDir(), "count"), filepath.Join(t.TempDir(), "gate")
			script := "echo x >>" + count + "; test -e " + gate + " || sleep 60"
			argv, _ := json.Marshal([]string{"/bin/sh", "-c", script})
			cfg.Allow, cfg.Grace = []Command{{Command: []string{"/bin/sh", "-c", script}, Restartable: restartable}}, 50*time.Millisecond
			l := begin(t, cfg)
			l.event(EventConnected, 1)
			job := c.job("long", `{"operation":"command","command":`+string(argv)+`}`)
			c.until("it runs", func() bool { return job.Details["phase"] == phaseRunning })
			for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				if _, err := os.Stat(count); err == nil {
					break
				}
			}
			l.end()
			if job.Status != inProgress {
				t.Errorf("stopping ended the job: %s %v", job.Status, job.Details)
			}
			if err := os.WriteFile(gate, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			begin(t, cfg)
			status, d := c.ended(job)
			raw, _ := os.ReadFile(count)
			runs := strings.Count(string(raw), "x")
			if restartable && (status != succeeded || runs != 2) || !restartable && (status != failed || d["reason"] != "the device stopped while it ran" || runs != 1) {
				t.Errorf("%s %v after %d runs", status, d, runs)
			}
		})
	}
}

// A result that could not be reported is reported later, and the job not done again.
func TestRun_KeepsAResultUntilItIsReported(t *testing.T) {
	b := mosquittotest.Start(t)
	c := newCloud(t, b, "lamp")
	cfg := registered(t, b, "lamp")
	job := c.job("j1", `{"operation":"command","command":["/bin/false"]}`)
	if err := (&journal{Job: "j1", Execution: 1, Phase: phaseFinished, Status: succeeded, Details: map[string]string{"exit_code": "0"}}).save(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	l := begin(t, cfg)
	if status, d := c.ended(job); status != succeeded || d["exit_code"] != "0" {
		t.Errorf("%s %v", status, d)
	}
	// One that was cancelled meanwhile is forgotten.
	l.event(EventJobFinished, 1)
	l.end()
	c.mu.Lock()
	c.jobs = nil
	c.mu.Unlock()
	cfg.Allow = []Command{{Command: []string{"/bin/sleep", "0.5"}}}
	l = begin(t, cfg)
	l.event(EventConnected, 1)
	job = c.job("j2", `{"operation":"command","command":["/bin/sleep","0.5"]}`)
	c.until("it runs", func() bool { return job.Details["phase"] == phaseRunning })
	c.mu.Lock()
	job.Status = "CANCELED"
	c.mu.Unlock()
	if e := l.event(EventJobDiscarded, 1); e.Job != "j2" || e.Code != "InvalidStateTransition" {
		t.Errorf("%+v", e)
	}
	l.end()
	if j, err := loadJournal(cfg.Dir); j != nil || err != nil {
		t.Errorf("%+v %v", j, err)
	}
}

func TestRun_ConnectsAgainAfterALoss(t *testing.T) {
	b := mosquittotest.Start(t)
	c := newCloud(t, b, "lamp")
	cfg := registered(t, b, "lamp")
	l := begin(t, cfg)
	l.event(EventConnected, 1)
	b.Stop()
	if e := l.event(EventDisconnected, 1); e.RetryIn == "" || !strings.HasPrefix(e.Code, "lost") {
		t.Errorf("%+v", e)
	}
	if e := l.event(EventFailed, 2); e.Code != "dial-port-closed" {
		t.Errorf("%+v", e)
	}
	b.Again()
	c.connect(b)
	l.event(EventConnected, 2)
	job := c.job("after", `{"operation":"echo","message":"here"}`)
	if status, _ := c.ended(job); status != succeeded {
		t.Error(status)
	}
	l.end()
	// Whoever wants to know gives up.
	b.Stop()
	cfg.Tries = 3
	if err := Run(t.Context(), cfg); mqtt.Reason(err) != "dial-port-closed" {
		t.Errorf("%v", err)
	}
}

func TestRun_OneAgentADirectory(t *testing.T) {
	b := mosquittotest.Start(t)
	newCloud(t, b, "lamp")
	cfg := registered(t, b, "lamp")
	begin(t, cfg).event(EventConnected, 1)
	if err := Run(t.Context(), cfg); !errors.Is(err, ErrBusy) {
		t.Errorf("%v", err)
	}
	cfg.Endpoint = ""
	if err := Run(t.Context(), cfg); !errors.Is(err, ErrEndpoint) {
		t.Errorf("%v", err)
	}
}

// From the factory to the broker in one go, with the keys in files and in a token.
func TestRun_RegistersBeforeItConnects(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	b := mosquittotest.Start(t, d.Root, d.Device)
	for _, where := range []string{"files", "token"} {
		t.Run(where, func(t *testing.T) {
			first, _ := install(t, d, "SN-"+where)
			first.Roots.AddCert(b.PKI.CA)
			if where == "token" {
				ring := hsm.Open(hsm.Config{})
				t.Cleanup(func() { ring.Close() })
				first.Keys, first.KeyURI = ring, hsmtest.SoftHSM(t).URI("ldevid")
			}
			thing := "thing-SN-" + where
			newCloud(t, b, thing)
			cfg := RunConfig{Config: first, Endpoint: b.Addr, ServerName: "localhost"}
			l := begin(t, cfg)
			if e := l.event(EventRegistered, 1); e.Thing != thing || e.Slot != "A" {
				t.Errorf("%+v", e)
			}
			l.event(EventConnected, 1)
			l.end()
			raw, err := os.ReadFile(filepath.Join(first.Dir, "slots", "A", keyFile))
			if err != nil || strings.HasPrefix(string(raw), scheme) != (where == "token") {
				t.Errorf("%s %v", raw, err)
			}
			// The second life asks nobody for a certificate; a renewal takes the other slot.
			l = begin(t, cfg)
			l.event(EventConnected, 1)
			l.end()
			if n := len(issued(t, d, "SN-"+where)); n != 1 {
				t.Errorf("%d certificates", n)
			}
			first.Renew = true
			if out, err := FirstBoot(t.Context(), first); err != nil || out.Slot != "B" {
				t.Errorf("%+v %v", out, err)
			}
			l = begin(t, cfg)
			if e := l.event(EventConnected, 1); e.Slot != "B" {
				t.Errorf("%+v", e)
			}
			l.end()
		})
	}
}
