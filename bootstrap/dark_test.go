package bootstrap_test

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet/registry"
)

const quarantineDocument = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:Connect","Resource":"client/${iot:Connection.Thing.ThingName}"},{"Effect":"Allow","Action":"iot:Publish","Resource":"topic/quarantine/hello"}]}`

// sleeper is a device that came up, with its keys.
type sleeper struct {
	birth, cert       *x509.Certificate
	birthKey, certKey *ecdsa.PrivateKey
}

type darkSite struct {
	*bootstraptest.Door
	clock *bootstraptest.Clock
	t     testing.TB
}

func newDarkSite(t *testing.T, url string, lane *bootstrap.DarkLane) *darkSite {
	t.Helper()
	clock := bootstraptest.NewClock()
	s := &darkSite{bootstraptest.New(t, bootstraptest.Options{URL: url, Clock: clock, Dark: lane}), clock, t}
	_, err := s.Registry.CreatePolicy(t.Context(), registry.Policy{Tenant: access.DefaultTenant, Name: "quarantine", Document: quarantineDocument})
	must(t, err)
	return s
}

func (s *darkSite) sleeper(unit string) *sleeper {
	s.t.Helper()
	d := &sleeper{certKey: catest.NewKey(s.t)}
	d.birth, d.birthKey = s.IssueIDevID(s.t, unit)
	d.cert, _ = mustBoot(s.t, s.Door, d.birth, d.birthKey, d.certKey)
	return d
}

// sleep lets time pass without a jump that nobody would believe (A74).
func (s *darkSite) sleep(d time.Duration) {
	s.t.Helper()
	for d > 0 {
		step := min(d, 29*24*time.Hour)
		s.clock.Add(step)
		must(s.t, s.DB.KeepClock(s.t.Context()))
		d -= step
	}
}

func (s *darkSite) knock(d *sleeper) (bootstraptest.Answer, *ecdsa.PrivateKey) {
	s.t.Helper()
	key := catest.NewKey(s.t)
	return s.boot(d.cert, d.certKey, key), key
}

// boot registers over a connection of its own. The door's certificate has ended by
// the clock of these tests, which is not what they are about.
func (s *darkSite) boot(c *x509.Certificate, key, fresh *ecdsa.PrivateKey) bootstraptest.Answer {
	s.t.Helper()
	conn := s.Dial(s.t, c, key, today)
	return conn.Do(s.t, register, request(s.t, fresh, conn.Challenge(s.t)))
}

func today(c *tls.Config) { c.Time = time.Now }

func lane() *bootstrap.DarkLane {
	return &bootstrap.DarkLane{Within: 90 * 24 * time.Hour, PerDay: 2, Policy: "quarantine", Profiles: []profile.Name{profile.LDevID}}
}

const day = 24 * time.Hour

// TestDarkLane_ADeviceThatSleptComesBackIntoQuarantine_S33 covers the lane at the
// HTTPS door, on both engines: the new certificate has the quarantine's policy and
// no other, renews nothing until somebody lets it out, and the permanent table is
// what is asked about revocations that lists forgot.
func TestDarkLane_ADeviceThatSleptComesBackIntoQuarantine_S33(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newDarkSite(t, url, lane())
		good, revoked, second, third := s.sleeper("SLEEPS-1"), s.sleeper("SLEEPS-2"), s.sleeper("SLEEPS-3"), s.sleeper("SLEEPS-4")
		s.Revoke(t, revoked.cert, crl.Superseded)
		s.sleep(2*365*day + 10*day)
		must(t, s.Set.Follow(t.Context())) // which forgets what expired
		if a := s.Dial(t, good.cert, good.certKey, today).Do(t, whoami, nil); a.Status != 403 || a.Code != "device-expired" {
			t.Errorf("an expired certificate is let in elsewhere: %d %s", a.Status, a.Code)
		}
		if a, _ := s.knock(revoked); a.Status != 403 || a.Code != "device-revoked" {
			t.Errorf("revoked: %d %s", a.Status, a.Code)
		}
		// Unbound requests are for those who are in force.
		if a := s.Dial(t, good.cert, good.certKey, today).Do(t, register, request(t, catest.NewKey(t), "")); a.Status != 403 || a.Code != "register-binding" {
			t.Errorf("unbound: %d %s", a.Status, a.Code)
		}
		a, key := s.knock(good)
		if a.Status != 200 || a.Registration.Status != "ACTIVE" {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		c, err := x509.ParseCertificate(a.Registration.Certificate)
		must(t, err)
		id := registry.CertificateID(c.Raw)
		policies, err := s.Registry.EffectivePolicies(t.Context(), scope, id)
		if err != nil || len(policies) != 1 || policies[0].Name != "quarantine" {
			t.Errorf("in quarantine it has %+v, %v", policies, err)
		}
		if a := s.Dial(t, c, key, today).Do(t, whoami, nil); a.Status != 200 {
			t.Errorf("the new certificate: %d %s", a.Status, a.Code)
		}
		if a := s.boot(c, key, catest.NewKey(t)); a.Status != 403 || a.Code != "dark-lane-quarantine" {
			t.Errorf("it renews itself out of quarantine: %d %s", a.Status, a.Code)
		}
		rec, err := s.DB.RecordBySerial(t.Context(), scope.Tenant, catest.Device, serial(c))
		if err != nil || rec.Tool != "dark-lane" {
			t.Errorf("the record says %q, %v", rec.Tool, err)
		}
		// A lost answer is asked for again with the same key, and costs nothing.
		if a := s.boot(good.cert, good.certKey, key); a.Status != 200 || string(a.Registration.Certificate) != string(c.Raw) {
			t.Errorf("again: %d %s", a.Status, a.Code)
		}
		// The budget of the day.
		if a, _ := s.knock(second); a.Status != 200 {
			t.Errorf("the second: %d %s", a.Status, a.Code)
		}
		if a, _ := s.knock(third); a.Status != 429 || a.Code != "dark-lane-spent" {
			t.Errorf("the third of two: %d %s", a.Status, a.Code)
		}
		s.sleep(day)
		if a, _ := s.knock(third); a.Status != 200 {
			t.Errorf("on the next day: %d %s", a.Status, a.Code)
		}
		// Somebody lets the first one out: it is a device as before.
		must(t, s.Registry.DetachPolicy(t.Context(), scope, registry.CertificateTarget(id), "quarantine"))
		if a = s.boot(c, key, catest.NewKey(t)); a.Status != 200 {
			t.Fatalf("let out: %d %s", a.Status, a.Body)
		}
		out, err := x509.ParseCertificate(a.Registration.Certificate)
		must(t, err)
		got, err := s.Registry.Certificate(t.Context(), scope, registry.CertificateID(out.Raw))
		if err != nil || got.How != registry.HowRenewal {
			t.Errorf("let out: %+v, %v", got, err)
		}
		entries, err := s.DB.DarkEntries(t.Context(), scope, "SLEEPS-1")
		if err != nil || len(entries) != 1 || entries[0].Policy != "quarantine" {
			t.Errorf("entries: %+v, %v", entries, err)
		}
		clean(t, s.Door)
	})
}

func TestDarkLane_HasBounds_S33(t *testing.T) {
	s := newDarkSite(t, "", lane())
	old, newer, blocked, held := s.sleeper("OLD-1"), s.sleeper("OLD-2"), s.sleeper("OLD-3"), s.sleeper("OLD-4")
	s.sleep(365 * day)
	// This one renewed in time; whoever comes with its former key found it.
	fresh := catest.NewKey(t)
	if a := s.boot(newer.cert, newer.certKey, fresh); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	s.Block(t, "OLD-3")
	s.Revoke(t, held.cert, crl.CertificateHold)
	s.sleep(365*day + 89*day)
	for name, c := range map[string]struct {
		d    *sleeper
		code string
	}{"renewed": {newer, "dark-lane-newer"}, "blocked": {blocked, "device-revoked"}, "held": {held, "device-on-hold"}} {
		if a, _ := s.knock(c.d); a.Status != 403 || a.Code != c.code {
			t.Errorf("%s: %d %s", name, a.Status, a.Code)
		}
	}
	s.sleep(2 * day)
	if a, _ := s.knock(old); a.Status != 403 || a.Code != "dark-lane-bounds" {
		t.Errorf("too long ago: %d %s", a.Status, a.Code)
	}
	// A thing outside of the groups that may.
	l := lane()
	l.Within, l.Groups = 1000*day, []string{"meters"}
	other := newDarkSite(t, "", l)
	d := other.sleeper("G-1")
	other.sleep(2*365*day + day)
	if a, _ := other.knock(d); a.Status != 403 || a.Code != "dark-lane-bounds" {
		t.Errorf("of another group: %d %s", a.Status, a.Code)
	}
	l.Groups = []string{"meters", "ALL"}
	if a, _ := other.knock(d); a.Status != 200 {
		t.Errorf("of the group: %d %s", a.Status, a.Body)
	}
	// Without the lane nothing has changed.
	off := newDarkSite(t, "", nil)
	d = off.sleeper("OFF-1")
	off.sleep(2*365*day + day)
	if a, _ := off.knock(d); a.Status != 403 || a.Code != "device-expired" {
		t.Errorf("off: %d %s", a.Status, a.Code)
	}
	if slices.Contains(lane().Profiles, profile.IDevID) {
		t.Error("birth certificates may have expired by default")
	}
}
