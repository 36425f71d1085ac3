package station

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/internal/fault"
	"hallmark/station/adapter"
	"hallmark/station/spool"
	"hallmark/station/stationtest"
	"hallmark/station/uplink"
)

// line is a station with its service, for one test.
type line struct {
	t       *testing.T
	service *stationtest.Service
	client  *uplink.Client
	dir     string
	devices string
	adapter string // spec; "" is the simulated one

	mu     sync.Mutex
	events []Event
}

func newLine(t *testing.T) *line {
	s := stationtest.New(t)
	return &line{t: t, service: s, client: s.Client(t), dir: t.TempDir(), devices: t.TempDir()}
}

func (l *line) config(j Journal) Config {
	spec := l.adapter
	if spec == "" {
		spec = "simulate:" + l.devices
	}
	return Config{Order: "O-1", Uplink: l.client, Journal: j, Roots: []*x509.Certificate{l.service.Root.Cert}, Operator: "ann",
		Adapter: func(n int) (adapter.Adapter, error) { return adapter.Open(spec, adapter.Config{Nest: n}) },
		Event:   func(e Event) { l.mu.Lock(); l.events = append(l.events, e); l.mu.Unlock() },
		pause:   func(context.Context, time.Duration) error { return nil }}
}

// run is one life of the station's process.
func (l *line) run(source Source, change ...func(*Config)) (Summary, error) {
	l.t.Helper()
	j, err := spool.Open(filepath.Join(l.dir, SpoolDir))
	if err != nil {
		l.t.Fatal(err)
	}
	defer j.Close()
	cfg := l.config(j)
	for _, c := range change {
		c(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	return s.Run(context.Background(), source)
}

func serials(names ...string) Source { return Lines(strings.NewReader(strings.Join(names, "\n"))) }

// outcome is the last final event of a unit.
func (l *line) outcome(unit string) Event {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range slices.Backward(l.events) {
		if e.Unit == unit && e.Final() {
			return e
		}
	}
	l.t.Fatalf("unit %s has no outcome", unit)
	return Event{}
}

// proven checks what the service and the devices hold at the end: for each unit
// one certificate was ever made, it is committed, and it is on the device.
func (l *line) proven(want int) {
	l.t.Helper()
	units := l.service.Units()
	if len(units) != want || l.service.Made() != want {
		l.t.Errorf("%d units with %d certificates, want %d", len(units), l.service.Made(), want)
	}
	for name, u := range units {
		if u.Committed == 0 {
			l.t.Errorf("%s is not committed", name)
		}
		held, err := readCertificates(filepath.Join(l.devices, u.Unit, adapter.CertificateFile))
		if err != nil || string(held[0].Raw) != string(u.DER) {
			l.t.Errorf("%s: the device does not hold the certificate: %v", name, err)
		}
	}
	entries, err := os.ReadDir(l.devices)
	if err != nil || len(entries) != want {
		l.t.Errorf("%d devices, %v", len(entries), err)
	}
}

func TestStation_CommitsUnitsInParallelNests(t *testing.T) {
	l := newLine(t)
	var names []string
	for i := range 12 {
		names = append(names, fmt.Sprintf("SN-%03d", i))
	}
	sum, err := l.run(serials(names...), func(c *Config) { c.Nests = 4 })
	if err != nil || sum.Committed != 12 || sum.Andon != "green" {
		t.Fatalf("%+v, %v", sum, err)
	}
	l.proven(12)
	if u := l.service.Units()["sn-003"]; u.Operator != "ann" || u.Committed != 1 {
		t.Errorf("%+v", u)
	}
	e := l.outcome("SN-003")
	if e.State != Passed || e.Serial != l.service.Units()["sn-003"].Serial {
		t.Errorf("%+v", e)
	}
	var states []string
	for _, e := range l.events {
		if e.Unit == "SN-003" {
			states = append(states, e.State)
		}
	}
	if got := strings.Join(states, " "); got != "planned requested issued written verified committed" {
		t.Errorf("it went through %s", got)
	}
}

// dying is a journal whose process dies at the n-th record: before it is
// written, or right after.
type dying struct {
	Journal
	mu    sync.Mutex
	n     int
	after bool
	die   context.CancelFunc
}

var errDead = errors.New("the process is dead")

func (d *dying) Append(r spool.Record) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n--
	if d.n > 0 {
		return d.Journal.Append(r)
	}
	if d.n == 0 && d.after {
		if err := d.Journal.Append(r); err != nil {
			return err
		}
	}
	d.die()
	return errDead
}

// life runs the station until it dies at record n; alive says that it did not.
func (l *line) life(n int, after bool, source Source) (alive bool) {
	l.t.Helper()
	j, err := spool.Open(filepath.Join(l.dir, SpoolDir))
	if err != nil {
		l.t.Fatal(err)
	}
	defer j.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d := &dying{Journal: j, n: n, after: after, die: cancel}
	s, err := New(l.config(d))
	if err != nil {
		l.t.Fatal(err)
	}
	s.Run(ctx, source)
	return d.n > 0
}

func TestStation_KilledAtEveryRecordItFinishesEveryUnitOnce(t *testing.T) { // S8, S12
	for _, mode := range []string{"scanned", "allocated"} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s after=%v", mode, after), func(t *testing.T) {
				for k := 1; ; k++ {
					l := newLine(t)
					source := func() Source {
						if mode == "scanned" {
							return serials("SN-1", "SN-2")
						}
						return Allocate(2)
					}
					alive := l.life(k, after, source())
					begun := 2
					if mode == "allocated" { // what was not begun is not begun by a restart
						o, err := spool.Inspect(filepath.Join(l.dir, SpoolDir))
						if err != nil {
							t.Fatal(err)
						}
						begun = 0
						for _, n := range o.Count {
							begun += n
						}
						if _, err := l.run(nil); err != nil {
							t.Fatalf("killed at record %d: %v", k, err)
						}
					} else if _, err := l.run(source()); err != nil {
						t.Fatalf("killed at record %d: %v", k, err)
					}
					l.proven(begun)
					if t.Failed() {
						t.Fatalf("killed at record %d", k)
					}
					if alive {
						if k != 13 {
							t.Errorf("two units have %d records, not 12", k-1)
						}
						return
					}
				}
			})
		}
	}
}

func TestStation_ALostAnswerCostsNothing(t *testing.T) {
	for _, op := range []string{"issue", "commit"} {
		l := newLine(t)
		var dropped bool
		l.service.After = func(o string, n int) bool { // done, but the answer is lost and the patience over
			if o == op && !dropped {
				return true
			}
			return false
		}
		impatient, err := uplink.NewClient(uplink.Config{Server: stationtest.URL(l.service.Factory), Roots: []*x509.Certificate{l.service.Root.Cert}, Certificate: l.service.Station(t), Patience: -1})
		if err != nil {
			t.Fatal(err)
		}
		l.client = impatient
		sum, err := l.run(serials("SN-1"))
		if !errors.Is(err, ErrUnits) || sum.Pending != 1 || sum.Committed != 0 || sum.Andon != "red" {
			t.Fatalf("%s: %+v, %v", op, sum, err)
		}
		if e := l.outcome("SN-1"); e.State != Pending || e.Next == "" {
			t.Errorf("%s: a unit whose outcome is unknown is %+v", op, e)
		}
		dropped = true
		if sum, err := l.run(nil); err != nil || sum.Committed != 1 || sum.Resumed != 1 {
			t.Fatalf("%s: %+v, %v", op, sum, err)
		}
		l.proven(1)
		impatient.Close()
	}
}

func TestStation_AWrongDeviceOrCertificateNeverPasses(t *testing.T) { // S12
	stranger := stationtest.NewAuthority(t, "Stranger", nil)
	for name, c := range map[string]struct {
		options string
		service func(*stationtest.Service)
		code    string
	}{
		"read-back":          {options: "fail=read-back", code: ErrReadBack.Code},
		"signature":          {options: "fail=signature", code: ErrChallenge.Code},
		"another key":        {options: "fail=other-key", code: ErrChallenge.Code},
		"install refused":    {options: "fail=install", code: adapter.ErrDevice.Code},
		"no device":          {options: "fail=absent", code: adapter.ErrAbsent.Code},
		"key never":          {options: "fail=key-dead", code: adapter.ErrKeyFault.Code},
		"too slow":           {options: "slow=1h", code: adapter.ErrSlow.Code},
		"wrong chain":        {service: func(s *stationtest.Service) { s.IssueFrom(stranger) }, code: ErrCertificate.Code},
		"wrong name":         {service: mangle(func(c *x509.Certificate) { c.Subject.CommonName = "SN-9" }), code: ErrCertificate.Code},
		"wrong serialNumber": {service: mangle(func(c *x509.Certificate) { c.Subject.SerialNumber = "SN-9" }), code: ErrCertificate.Code},
		"expired":            {service: mangle(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), code: ErrCertificate.Code},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLine(t)
			l.adapter = "simulate:" + l.devices + "?" + c.options
			if c.service != nil {
				c.service(l.service)
			}
			sum, err := l.run(serials("SN-1"), func(c *Config) { c.StepTimeout = 500 * time.Millisecond })
			if !errors.Is(err, ErrUnits) || sum.Failed != 1 || sum.Committed != 0 {
				t.Fatalf("%+v, %v", sum, err)
			}
			if e := l.outcome("SN-1"); e.Code != c.code || e.Next == "" || e.What == "" {
				t.Errorf("%+v", e)
			}
			if l.service.Calls("commit") != 0 {
				t.Error("it was committed")
			}
			// Repaired and scanned again, it passes with the certificate it has.
			l.adapter = ""
			if c.service != nil {
				return
			}
			if sum, err := l.run(serials("SN-1")); err != nil || sum.Committed != 1 {
				t.Fatalf("scanned again: %+v, %v", sum, err)
			}
			l.proven(1)
		})
	}
}

func mangle(f func(*x509.Certificate)) func(*stationtest.Service) {
	return func(s *stationtest.Service) { s.Mangle(f) }
}

func TestStation_KeyFaultsAreTriedAgain(t *testing.T) {
	l := newLine(t)
	l.adapter = "simulate:" + l.devices + "?fail=key-fault"
	var pauses []time.Duration
	sum, err := l.run(serials("SN-1"), func(c *Config) {
		c.pause = func(_ context.Context, d time.Duration) error { pauses = append(pauses, d); return nil }
	})
	if err != nil || sum.Committed != 1 || len(pauses) != 1 || pauses[0] < keyPause/2 || pauses[0] > keyPause {
		t.Errorf("%+v, %v, pauses %v", sum, err, pauses)
	}
}

func TestStation_OneNestsFailureSpoilsNoOther(t *testing.T) {
	l := newLine(t)
	l.adapter = "simulate:" + l.devices + "?fail=install&only=SN-2"
	sum, err := l.run(serials("SN-1", "SN-2", "SN-3", "SN-4"), func(c *Config) { c.Nests = 4 })
	if !errors.Is(err, ErrUnits) || sum.Committed != 3 || sum.Failed != 1 || sum.Codes[adapter.ErrDevice.Code] != 1 {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestStation_ARefusalComesWithItsNextStep(t *testing.T) {
	l := newLine(t)
	l.service.Intercept = func(w http.ResponseWriter, op string, n int) bool {
		if op == "issue" && n == 1 {
			stationtest.Problem(w, 400, "unit-invalid", "Check the scanned label against the order's serial rule.")
			return true
		}
		return false
	}
	sum, err := l.run(serials("SN-1", "SN-2"))
	if !errors.Is(err, ErrUnits) || sum.Failed != 1 || sum.Committed != 1 {
		t.Fatalf("%+v, %v", sum, err)
	}
	if e := l.outcome("SN-1"); e.Code != "unit-invalid" || !strings.Contains(e.Next, "label") || e.RequestID != "req-unit-invalid" {
		t.Errorf("%+v", e)
	}
}

func TestStation_TheOrdersEndStopsTheRun(t *testing.T) {
	l := newLine(t)
	l.service.Quantity = 3
	sum, err := l.run(Allocate(10))
	if fault.From(err).Code != "quota-exhausted" || sum.Committed != 3 || sum.Failed != 1 || sum.Stopped != "quota-exhausted" {
		t.Errorf("%+v, %v", sum, err)
	}
	if n := l.service.Calls("issue"); n != 4 {
		t.Errorf("asked %d times; nothing is asked of an order that is full", n)
	}
}

func TestStation_StopsAfterFailuresInARow(t *testing.T) {
	l := newLine(t)
	l.adapter = "simulate:" + l.devices + "?fail=install"
	sum, err := l.run(serials("SN-1", "SN-2", "SN-3", "SN-4", "SN-5"), func(c *Config) { c.StopAfter = 3 })
	if !errors.Is(err, ErrStopped) || sum.Failed != 3 {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestStation_AClosedOrderBeginsNothingButFinishes(t *testing.T) {
	l := newLine(t)
	l.life(4, true, serials("SN-1")) // dies with the certificate on the device
	l.service.State = "closed"
	sum, err := l.run(serials("SN-2"))
	if !errors.Is(err, ErrUnits) || sum.Committed != 1 || sum.Failed != 1 || sum.Codes[ErrOrder.Code] != 1 {
		t.Errorf("%+v, %v", sum, err)
	}
	if _, err := l.run(Allocate(3)); !errors.Is(err, ErrOrder) {
		t.Errorf("units to be allocated: %v", err)
	}
	l.proven(1)
	if boards, err := os.ReadDir(l.devices); err != nil || len(boards) != 1 {
		t.Errorf("%d boards were touched: %v", len(boards), err)
	}
}

func TestStation_AClosedOrderFinishesAUnitThatFailed(t *testing.T) {
	l := newLine(t)
	was := l.adapter
	l.adapter = "simulate:" + l.devices + "?fail=install"
	if sum, err := l.run(serials("SN-1")); !errors.Is(err, ErrUnits) || sum.Failed != 1 {
		t.Fatalf("%+v, %v", sum, err)
	}
	l.adapter, l.service.State = was, "closed"
	sum, err := l.run(serials("SN-2", "SN-1"))
	if !errors.Is(err, ErrUnits) || sum.Committed != 1 || sum.Failed != 1 {
		t.Errorf("%+v, %v", sum, err)
	}
	if e := l.outcome("SN-2"); e.State != Failure || e.Code != ErrOrder.Code {
		t.Errorf("%+v", e)
	}
	if e := l.outcome("SN-1"); e.State != Passed || l.service.Made() != 1 {
		t.Errorf("%+v, %d certificates", e, l.service.Made())
	}
}

func TestStation_ASecondBoardWithTheSameLabelDoesNotPass(t *testing.T) {
	l := newLine(t)
	if _, err := l.run(serials("SN-1")); err != nil {
		t.Fatal(err)
	}
	sum, err := l.run(serials("sn-1", "SN-1")) // scanned again, the same board
	if err != nil || sum.Again != 2 || l.service.Calls("issue") != 1 {
		t.Fatalf("%+v, %v", sum, err)
	}
	l.devices = t.TempDir() // another board
	if _, err := l.run(serials("SN-1")); !errors.Is(err, ErrUnits) {
		t.Fatal(err)
	}
	if e := l.outcome("SN-1"); e.State != Failure || e.Code != ErrOther.Code {
		t.Errorf("%+v", e)
	}
	if l.service.Made() != 1 {
		t.Error("the other board got a certificate")
	}
}

func TestStation_ARestartDoesNotWriteToAnotherBoard(t *testing.T) {
	l := newLine(t)
	l.life(3, true, serials("SN-1")) // dies with the certificate in the journal
	boards := l.devices
	l.devices = t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, _ := x509.MarshalPKCS8PrivateKey(key)
	other := filepath.Join(l.devices, "SN-1")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, adapter.KeyFile), pemKey(der), 0o600); err != nil {
		t.Fatal(err)
	}
	if sum, err := l.run(nil); err != nil || sum.Pending != 1 || sum.Away != 1 { // its own board is away
		t.Fatalf("%+v, %v", sum, err)
	}
	if _, err := os.Stat(filepath.Join(other, adapter.CertificateFile)); err == nil {
		t.Error("the certificate was written to the other board")
	}
	l.devices = boards // the right one is put back
	if sum, err := l.run(nil); err != nil || sum.Committed != 1 {
		t.Fatalf("%+v, %v", sum, err)
	}
	l.proven(1)
}

func TestStation_RefusesLabelsBeforeAsking(t *testing.T) {
	l := newLine(t)
	sum, err := l.run(serials("SN 1", "../x", strings.Repeat("A", 65), "Ünit"))
	if !errors.Is(err, ErrUnits) || sum.Failed != 4 || sum.Codes[ErrSerial.Code] != 4 || l.service.Calls("issue") != 0 {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestStation_OneSerialInTwoNestsAtOnce(t *testing.T) {
	l := newLine(t)
	hold := make(chan struct{})
	l.service.Intercept = func(_ http.ResponseWriter, op string, _ int) bool {
		if op == "issue" {
			<-hold
		}
		return false
	}
	sum, err := l.run(serials("SN-1", "sn-1"), func(c *Config) {
		c.Nests = 2
		event := c.Event
		c.Event = func(e Event) {
			event(e)
			if e.Code == ErrTwice.Code {
				close(hold)
			}
		}
	})
	if !errors.Is(err, ErrUnits) || sum.Committed != 1 || sum.Codes[ErrTwice.Code] != 1 {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestStation_StopFinishesTheUnitsInTheNests(t *testing.T) {
	l := newLine(t)
	j, err := spool.Open(filepath.Join(l.dir, SpoolDir))
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	var s *Station
	cfg := l.config(j)
	cfg.Event = func(e Event) {
		if e.State == string(spool.Requested) {
			s.Stop()
		}
	}
	if s, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	waiting, scanner := io.Pipe() // an operator who scans one unit and waits
	go io.WriteString(scanner, "SN-1\n")
	sum, err := s.Run(context.Background(), Lines(waiting))
	if err != nil || sum.Committed != 1 || len(j.Unfinished()) != 0 {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestStation_AFullDiskStopsItAndLosesNothing(t *testing.T) {
	l := newLine(t)
	j, err := spool.Open(filepath.Join(l.dir, SpoolDir))
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(l.config(&full{Journal: j, left: 4}))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := s.Run(context.Background(), serials("SN-1", "SN-2"))
	if !errors.Is(err, spool.ErrFull) || sum.Pending != 1 || sum.Failed != 0 || l.service.Calls("commit") != 0 {
		t.Errorf("%+v, %v", sum, err)
	}
	j.Close()
	if sum, err := l.run(serials("SN-1", "SN-2")); err != nil || sum.Committed != 2 || sum.Resumed != 1 || sum.Again != 1 { // SN-1 is resumed, then scanned
		t.Errorf("%+v, %v", sum, err)
	}
	l.proven(2)
}

type full struct {
	Journal
	left int
}

func (f *full) Append(r spool.Record) error {
	if f.left--; f.left < 0 {
		return spool.ErrFull.New("")
	}
	return f.Journal.Append(r)
}

func TestStation_WorksThroughACommandAdapterProcess(t *testing.T) {
	manual, err := os.ReadFile(filepath.Join("..", "docs", "station.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(manual), "```python\n")
	code, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("the manual has no example")
	}
	python := need(t, "python3")
	need(t, "openssl")
	l := newLine(t)
	script := filepath.Join(t.TempDir(), "reach.py")
	if err := os.WriteFile(script, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	l.adapter = "command:" + python + " " + script + " " + l.devices
	sum, err := l.run(serials("SN-1", "SN-2", "SN-3"), func(c *Config) { c.Nests = 2 })
	if err != nil || sum.Committed != 3 {
		t.Fatalf("%+v, %v", sum, err)
	}
	if sum, err := l.run(Allocate(1)); err != nil || sum.Committed != 1 {
		t.Fatalf("allocated: %+v, %v", sum, err)
	}
}
