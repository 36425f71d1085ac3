package station

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
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

// fixture is a simulated adapter that a test can hold things against; it knows a
// device by its label alone where byLabel is set, as a program at a line may.
type fixture struct {
	adapter.Adapter
	byLabel bool
	connect func(d adapter.Device) error
	install func(d adapter.Device) error
}

func (f *fixture) of(d adapter.Device) adapter.Device {
	if f.byLabel {
		d.Unit = ""
	}
	return d
}

func (f *fixture) Connect(ctx context.Context, d adapter.Device) error {
	if f.connect != nil {
		if err := f.connect(d); err != nil {
			return err
		}
	}
	return f.Adapter.Connect(ctx, f.of(d))
}

func (f *fixture) KeyAndCSR(ctx context.Context, d adapter.Device, fresh bool) ([]byte, error) {
	return f.Adapter.KeyAndCSR(ctx, f.of(d), fresh)
}

func (f *fixture) Install(ctx context.Context, d adapter.Device, certificate []byte, chain [][]byte) error {
	if f.install != nil {
		if err := f.install(d); err != nil {
			return err
		}
	}
	return f.Adapter.Install(ctx, f.of(d), certificate, chain)
}

func (f *fixture) ReadBack(ctx context.Context, d adapter.Device) ([]byte, error) {
	return f.Adapter.ReadBack(ctx, f.of(d))
}

func (f *fixture) Challenge(ctx context.Context, d adapter.Device, message []byte) ([]byte, error) {
	return f.Adapter.Challenge(ctx, f.of(d), message)
}

// with puts f between a run and its simulated devices.
func with(f *fixture) func(*Config) {
	return func(c *Config) {
		open := c.Adapter
		c.Adapter = func(n int) (a adapter.Adapter, err error) {
			f.Adapter, err = open(n)
			return f, err
		}
	}
}

// impatient is a client that asks once.
func (l *line) impatient() *uplink.Client {
	l.t.Helper()
	c, err := uplink.NewClient(uplink.Config{Server: stationtest.URL(l.service.Factory), Roots: []*x509.Certificate{l.service.Root.Cert}, Certificate: l.service.Station(l.t), Patience: -1})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(c.Close)
	return c
}

// leave makes units of an order that the station began and could not finish, since the
// service was away when their certificates were asked for.
func (l *line) leave(order string, names ...string) {
	l.t.Helper()
	patient, order0 := l.client, l.service.Order
	l.client, l.service.Order = l.impatient(), order
	l.service.Intercept = func(w http.ResponseWriter, op string, _ int) bool {
		if op == "issue" {
			stationtest.Problem(w, http.StatusServiceUnavailable, "store-unavailable", "Try again.")
		}
		return op == "issue"
	}
	sum, err := l.run(serials(names...), func(c *Config) { c.Order = order })
	if !errors.Is(err, ErrUnits) || sum.Pending < len(names) {
		l.t.Fatalf("%+v, %v", sum, err)
	}
	l.client, l.service.Order, l.service.Intercept = patient, order0, nil
}

func TestStation_ARevokedUnitDoesNotPassAgain(t *testing.T) {
	l := newLine(t)
	if _, err := l.run(serials("SN-1", "SN-2")); err != nil {
		t.Fatal(err)
	}
	l.service.Revoke("SN-1")
	sum, err := l.run(serials("SN-1", "SN-2"))
	if !errors.Is(err, ErrUnits) || sum.Failed != 1 || sum.Committed != 1 || sum.Again != 1 || sum.Andon != "red" {
		t.Errorf("%+v, %v", sum, err)
	}
	if e := l.outcome("SN-1"); e.State != Failure || e.Code != "identity-revoked" || e.Next == "" {
		t.Errorf("%+v", e)
	}
	if l.service.Made() != 2 {
		t.Errorf("%d certificates were made", l.service.Made())
	}
}

func TestStation_AUnitCommittedBeforeIsPendingWhileTheServiceIsAway(t *testing.T) {
	l := newLine(t)
	if _, err := l.run(serials("SN-1")); err != nil {
		t.Fatal(err)
	}
	l.client = l.impatient()
	l.service.Intercept = func(w http.ResponseWriter, op string, _ int) bool {
		if op == "commit" {
			stationtest.Problem(w, http.StatusServiceUnavailable, "store-unavailable", "Try again.")
		}
		return op == "commit"
	}
	sum, err := l.run(serials("SN-1"))
	if !errors.Is(err, ErrUnits) || sum.Pending != 1 || sum.Committed != 0 || sum.Andon != "red" {
		t.Errorf("%+v, %v", sum, err)
	}
	if e := l.outcome("SN-1"); e.State != Pending || !e.Again || !strings.Contains(e.Next, "can it again") {
		t.Errorf("%+v", e)
	}
	l.service.Intercept = nil
	if sum, err := l.run(serials("SN-1")); err != nil || sum.Committed != 1 || sum.Again != 1 {
		t.Errorf("%+v, %v", sum, err)
	}
	l.proven(1)
}

func TestStation_LeftoversWhoseBoardsAreGoneDoNotStopTheLine(t *testing.T) {
	l := newLine(t)
	var names []string
	for i := range 10 {
		names = append(names, fmt.Sprintf("GONE-%d", i))
	}
	l.leave("O-1", names...)
	gone := &fixture{connect: func(d adapter.Device) error {
		if strings.HasPrefix(d.Unit, "GONE-") {
			return adapter.ErrAbsent.New("")
		}
		return nil
	}}
	sum, err := l.run(serials("SN-1"), with(gone), func(c *Config) { c.StopAfter = 10 })
	if err != nil || sum.Committed != 1 || sum.Pending != 10 || sum.Failed != 0 || sum.Stopped != "" || sum.Andon != "yellow" {
		t.Errorf("%+v, %v", sum, err)
	}
	if e := l.outcome("GONE-7"); e.State != Pending || e.Code != adapter.ErrAbsent.Code || !strings.Contains(e.Next, "station abandon") {
		t.Errorf("%+v", e)
	}
	// One that somebody scans is in the nest, or should be.
	sum, err = l.run(serials("GONE-1"), with(gone), func(c *Config) { c.StopAfter = 1 })
	if !errors.Is(err, ErrStopped) || sum.Andon != "red" {
		t.Errorf("%+v, %v", sum, err)
	}
	// Put back, they are finished.
	if sum, err := l.run(nil); err != nil || sum.Committed != 10 || sum.Resumed != 10 {
		t.Errorf("%+v, %v", sum, err)
	}
	l.proven(11)
}

func TestStation_ALeftoverOfAClosedOrderDoesNotStopAnother(t *testing.T) {
	l := newLine(t)
	l.leave("O-21", "F-1", "F-2", "F-3")
	l.service.Close("O-21")
	sum, err := l.run(serials("SN-1", "SN-2"), func(c *Config) { c.StopAfter = 2 })
	if !errors.Is(err, ErrUnits) || sum.Committed != 2 || sum.Failed != 3 || sum.Codes["account-closed"] != 3 {
		t.Errorf("%+v, %v", sum, err)
	}
	// Of the order that is worked on, such a refusal is the end.
	l.leave("O-1", "SN-3")
	l.service.Close("O-1")
	sum, err = l.run(serials("SN-4"))
	if fault.From(err).Code != "account-closed" || sum.Stopped != "account-closed" || sum.Failed != 1 {
		t.Errorf("%+v, %v", sum, err)
	}
}

// behind is a clock that a test can put back.
type behind struct {
	mu sync.Mutex
	by time.Duration
}

func (b *behind) set(by time.Duration) { b.mu.Lock(); b.by = by; b.mu.Unlock() }
func (b *behind) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Now().Add(-b.by)
}

func (l *line) clocked(b *behind) func(*Config) {
	c, err := uplink.NewClient(uplink.Config{Server: stationtest.URL(l.service.Factory), Roots: []*x509.Certificate{l.service.Root.Cert}, Certificate: l.service.Station(l.t), Now: b.now})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(c.Close)
	return func(cfg *Config) { cfg.Uplink, cfg.Now = c, b.now }
}

func TestStation_AWrongClockIsFoundBeforeTheFirstUnit(t *testing.T) {
	for name, by := range map[string]time.Duration{"slow": 15 * time.Minute, "fast": -15 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			l := newLine(t)
			b := &behind{by: by}
			sum, err := l.run(Allocate(20), l.clocked(b))
			if fault.From(err).Code != "station-clock-wrong" || sum.Stopped != "station-clock-wrong" || sum.Andon != "red" || l.service.Calls("issue") != 0 {
				t.Fatalf("%+v, %v; %d units used", sum, err, l.service.Calls("issue"))
			}
			if detail := fault.From(err).Detail; !strings.Contains(detail, "14m59") && !strings.Contains(detail, "15m0") || !strings.Contains(detail, map[string]string{"slow": "behind", "fast": "ahead"}[name]) {
				t.Errorf("it says %q", detail)
			}
			b.set(by / 15) // a minute is nothing
			if sum, err := l.run(Allocate(2), l.clocked(b)); err != nil || sum.Committed != 2 {
				t.Errorf("%+v, %v", sum, err)
			}
		})
	}
}

func TestStation_AClockThatFallsBackStopsTheRunAndCostsOneUnit(t *testing.T) {
	for name, source := range map[string]func() Source{"allocated": func() Source { return Allocate(5) }, "scanned": func() Source { return serials("AUTO-0001", "AUTO-0002", "AUTO-0003") }} {
		t.Run(name, func(t *testing.T) {
			l := newLine(t)
			b := &behind{}
			sum, err := l.run(source(), l.clocked(b), func(c *Config) {
				event := c.Event
				c.Event = func(e Event) {
					event(e)
					if e.State == Passed {
						b.set(15 * time.Minute)
					}
				}
			})
			if fault.From(err).Code != "station-clock-wrong" || sum.Committed != 1 || sum.Pending != 1 || sum.Failed != 0 || l.service.Made() != 2 {
				t.Fatalf("%+v, %v; %d units used", sum, err, l.service.Made())
			}
			if e := l.outcome("AUTO-0002"); e.State != Pending || e.Code != "station-clock-wrong" { // by its name, not by that of the work
				t.Errorf("%+v", e)
			}
			b.set(0)
			if sum, err := l.run(nil, l.clocked(b)); err != nil || sum.Committed != 1 || sum.Resumed != 1 {
				t.Errorf("%+v, %v", sum, err)
			}
			l.proven(2)
		})
	}
}

func TestStation_AnAllocatedUnitWhoseCertificateIsWrongIsShownByItsName(t *testing.T) {
	l := newLine(t)
	l.service.Mangle(func(c *x509.Certificate) { c.Subject.CommonName = "SN-9" })
	if sum, err := l.run(Allocate(1)); !errors.Is(err, ErrUnits) || sum.Failed != 1 {
		t.Fatalf("%+v, %v", sum, err)
	}
	if e := l.outcome("AUTO-0001"); e.Code != ErrCertificate.Code || e.Serial == "" {
		t.Errorf("%+v", e)
	}
}

func TestStation_AnAllocatedUnitThatFailedGoesOnWhenItIsScanned(t *testing.T) {
	l := newLine(t)
	refuse := true
	f := &fixture{byLabel: true, install: func(adapter.Device) error {
		if refuse {
			return adapter.ErrDevice.New("It refuses the certificate.")
		}
		return nil
	}}
	if sum, err := l.run(Allocate(1), with(f)); !errors.Is(err, ErrUnits) || sum.Failed != 1 {
		t.Fatalf("%+v, %v", sum, err)
	}
	before := l.service.Units()["auto-0001"]
	refuse = false
	if sum, err := l.run(serials("auto-0001"), with(f)); err != nil || sum.Committed != 1 {
		t.Fatalf("%+v, %v", sum, err)
	}
	if after := l.service.Units()["auto-0001"]; l.service.Made() != 1 || after.Serial != before.Serial || after.Committed != 1 {
		t.Errorf("%d certificates; %s became %s", l.service.Made(), before.Serial, after.Serial)
	}
	// And once more, as any unit that was committed.
	if sum, err := l.run(serials("AUTO-0001"), with(f)); err != nil || sum.Again != 1 || l.service.Made() != 1 {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestStation_TheLastVerdictOfAUnitCounts(t *testing.T) {
	l := newLine(t)
	tries := map[string]int{}
	f := &fixture{install: func(d adapter.Device) error {
		if tries[d.Unit]++; d.Unit == "SN-1" && tries[d.Unit] == 1 {
			return adapter.ErrDevice.New("A contact is dirty.")
		}
		return nil
	}}
	sum, err := l.run(serials("SN-1", "SN-2", "SN-1"), with(f))
	if err != nil || sum.Committed != 2 || sum.Failed != 0 || sum.Andon != "green" || sum.Codes[adapter.ErrDevice.Code] != 1 {
		t.Errorf("%+v, %v", sum, err)
	}
	// The other way round it failed.
	inside := func(w http.ResponseWriter, op string, n int) bool {
		if op == "commit" && n == 4 {
			l.service.Revoke("SN-2")
		}
		return false
	}
	l.service.Intercept = inside
	sum, err = l.run(serials("SN-2", "SN-2"))
	if !errors.Is(err, ErrUnits) || sum.Committed != 0 || sum.Failed != 1 {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestAbandon_EndsAScrappedUnitInTheJournal(t *testing.T) {
	l := newLine(t)
	l.leave("O-1", "SN-1", "SN-2")
	l.leave("O-2", "SN-2")
	j, err := spool.Open(filepath.Join(l.dir, SpoolDir))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Abandon(j, "", "sn-2", "ann", "cracked"); !errors.Is(err, ErrConfig) || !strings.Contains(fault.From(err).Detail, "O-1, O-2") {
		t.Errorf("in two orders: %v", err)
	}
	if _, err := Abandon(j, "", "SN-9", "ann", "cracked"); !errors.Is(err, ErrNotOpen) {
		t.Errorf("unknown: %v", err)
	}
	u, err := Abandon(j, "O-1", "sn-2", "ann", "cracked")
	if err != nil || u.Unit != "SN-2" || u.Order != "O-1" || u.State != spool.Requested {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := Abandon(j, "O-1", "SN-2", "ann", "cracked"); !errors.Is(err, ErrNotOpen) {
		t.Errorf("twice: %v", err)
	}
	if u, err := Abandon(j, "", "SN-2", "ann", "cracked"); err != nil || u.Order != "O-2" {
		t.Errorf("%+v, %v", u, err)
	}
	open := j.Unfinished()
	if len(open) != 1 || open[0].Unit != "SN-1" {
		t.Errorf("%+v", open)
	}
	j.Close()
	var last spool.Record
	if err := spool.Records(filepath.Join(l.dir, SpoolDir), func(r spool.Record) { last = r }); err != nil {
		t.Fatal(err)
	}
	if last.State != spool.Failed || last.Code != Abandoned || last.Operator != "ann" || last.Detail != "cracked" || last.At.IsZero() {
		t.Errorf("the journal says %+v", last)
	}
	// It is not finished by a start, and another board may get the label.
	if sum, err := l.run(serials("SN-2")); err != nil || sum.Committed != 2 {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestAbandon_KeepsAUnitThatOnlyLacksItsCommit(t *testing.T) {
	l := newLine(t)
	l.life(5, true, serials("SN-1")) // dies with the device's proof on disk
	j, err := spool.Open(filepath.Join(l.dir, SpoolDir))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Abandon(j, "", "SN-1", "", ""); !errors.Is(err, ErrVerified) {
		t.Errorf("got %v", err)
	}
	j.Close()
	if sum, err := l.run(nil); err != nil || sum.Committed != 1 {
		t.Errorf("%+v, %v", sum, err)
	}
}
