package uplink_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"hallmark/api/factoryapi"
	"hallmark/ca/csr"
	"hallmark/internal/fault"
	"hallmark/station/stationtest"
	"hallmark/station/uplink"
)

func request(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := csr.Create(key, "", "")
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func issue(c *uplink.Client, der []byte) (factoryapi.IssueAnswer, error) {
	unit := "SN-1"
	return c.Issue(context.Background(), factoryapi.IssueRequest{Order: "O-1", Unit: &unit, Csr: der})
}

func TestClient_RepeatsWhatMayComeBackAndGetsTheSame(t *testing.T) {
	s := stationtest.New(t)
	// The first answer is lost, the second time the service restarts.
	s.After = func(op string, n int) bool { return op == "issue" && n == 1 }
	s.Intercept = func(w http.ResponseWriter, op string, n int) bool {
		if op == "issue" && n == 2 {
			w.Header().Set("Retry-After", "0")
			stationtest.Problem(w, 503, "ca-signer-unavailable", "Wait.")
			return true
		}
		return false
	}
	a, err := issue(s.Client(t), request(t))
	if err != nil {
		t.Fatal(err)
	}
	if !a.Replayed || s.Made() != 1 || s.Calls("issue") != 3 {
		t.Errorf("replayed %v, %d made, %d calls", a.Replayed, s.Made(), s.Calls("issue"))
	}
}

func TestClient_NeverRepeatsARefusal(t *testing.T) {
	s := stationtest.New(t)
	for _, c := range []struct {
		status int
		code   string
		kind   fault.Kind
	}{
		{400, "unit-invalid", fault.Invalid}, {401, "door-auth", fault.Unauthenticated}, {403, "order-station", fault.Forbidden},
		{404, "order-unknown", fault.NotFound}, {409, "identity-revoked", fault.Conflict}, {429, "quota-exhausted", fault.Exhausted}, {500, "internal", fault.Internal},
	} {
		before := s.Calls("issue")
		s.Intercept = func(w http.ResponseWriter, op string, _ int) bool {
			stationtest.Problem(w, c.status, c.code, "Ask the office.")
			return true
		}
		_, err := issue(s.Client(t), request(t))
		f := fault.From(err)
		if f.Code != c.code || f.Kind != c.kind || f.Next != "Ask the office." || uplink.RequestID(err) != "req-"+c.code {
			t.Errorf("%s: got %v %s %q %q", c.code, f.Kind, f.Code, f.Next, uplink.RequestID(err))
		}
		if n := s.Calls("issue") - before; n != 1 {
			t.Errorf("%s: asked %d times", c.code, n)
		}
	}
}

func TestClient_HonoursRetryAfterUpToItsPatience(t *testing.T) {
	s := stationtest.New(t)
	c, err := uplink.NewClient(uplink.Config{Server: stationtest.URL(s.Factory), Roots: []*x509.Certificate{s.Root.Cert}, Certificate: s.Station(t), Patience: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	after := "1"
	s.Intercept = func(w http.ResponseWriter, op string, n int) bool {
		if n == 1 || after == "3600" {
			w.Header().Set("Retry-After", after)
			stationtest.Problem(w, 429, "rate-exceeded", "Wait.")
			return true
		}
		return false
	}
	begin := time.Now()
	if _, err := issue(c, request(t)); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d < 900*time.Millisecond {
		t.Errorf("it waited %s, not the second that was asked for", d)
	}
	after, begin = "3600", time.Now()
	if _, err := issue(c, request(t)); fault.From(err).RetryAfter != time.Hour || time.Since(begin) > time.Second {
		t.Errorf("an hour is beyond its patience: %v after %s", err, time.Since(begin))
	}
}

func TestClient_KeepsItsConnection(t *testing.T) {
	s := stationtest.New(t)
	c := s.Client(t)
	der := request(t)
	for range 5 {
		if _, err := issue(c, der); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Handshakes(); n != 1 {
		t.Errorf("%d handshakes for 5 requests", n)
	}
}

func TestClient_TrustsPinnedRootsOnly(t *testing.T) {
	s := stationtest.New(t)
	stranger := stationtest.NewAuthority(t, "Another Root", nil)
	c, err := uplink.NewClient(uplink.Config{Server: stationtest.URL(s.Factory), Roots: []*x509.Certificate{stranger.Cert}, Certificate: s.Station(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before := s.Handshakes()
	if _, err := issue(c, request(t)); !errors.Is(err, uplink.ErrUntrusted) {
		t.Errorf("got %v", err)
	}
	if n := s.Handshakes() - before; n > 1 {
		t.Errorf("%d handshakes with a service that is not trusted", n)
	}
	// A clock that is wrong by years is named as such.
	c, err = uplink.NewClient(uplink.Config{Server: stationtest.URL(s.Factory), Roots: []*x509.Certificate{s.Root.Cert}, Certificate: s.Station(t), Now: func() time.Time { return time.Now().AddDate(-10, 0, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := issue(c, request(t)); !errors.Is(err, uplink.ErrUntrusted) || fault.From(err).Detail != "By this station's clock its certificate is expired or not valid yet." {
		t.Errorf("got %v", err)
	}
}

// The service's alert can be lost to the reset that follows it, and then the
// request is repeated; what is said in the end must not depend on it.
func TestClient_RefusedStationIsSaid(t *testing.T) {
	s := stationtest.New(t)
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	foreign := stationtest.NewAuthority(t, "Another Root", nil)
	der := stationtest.Sign(t, foreign, key.Public(), func(c *x509.Certificate) { c.Subject.CommonName = "st-9" })
	c, err := uplink.NewClient(uplink.Config{Server: stationtest.URL(s.Factory), Roots: []*x509.Certificate{s.Root.Cert}, Certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := issue(c, request(t)); !errors.Is(err, uplink.ErrOldStation) {
		t.Errorf("got %v", err)
	}
}

func TestClient_UnreachableServiceIsGivenUpAfterItsPatience(t *testing.T) {
	s := stationtest.New(t)
	url := stationtest.URL(s.Factory)
	cert := s.Station(t)
	s.Factory.Close()
	c, err := uplink.NewClient(uplink.Config{Server: url, Roots: []*x509.Certificate{s.Root.Cert}, Certificate: cert, Patience: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := issue(c, request(t)); !errors.Is(err, uplink.ErrUnreached) || fault.KindOf(err) != fault.Unavailable {
		t.Errorf("got %v", err)
	}
}

func TestEnrol_SendsTheCodeToTheNamedRootOnly(t *testing.T) { // S14
	s := stationtest.New(t)
	text := s.Code()
	e := uplink.Enrolment{Server: stationtest.URL(s.Enrolment), Text: text, Station: "st-1", CSR: request(t)}
	got, err := uplink.Enrol(context.Background(), e)
	if err != nil || got.Station != "st-1" {
		t.Fatalf("%+v %v", got, err)
	}
	if _, err := uplink.Enrol(context.Background(), e); err != nil {
		t.Errorf("the same key may repeat it: %v", err)
	}
	e.CSR = request(t)
	if _, err := uplink.Enrol(context.Background(), e); fault.From(err).Code != "station-code-refused" {
		t.Errorf("another key: %v", err)
	}

	other := stationtest.New(t) // somebody between, with a chain that is good in itself
	calls := other.Calls("enrol")
	e.Server = stationtest.URL(other.Enrolment)
	if _, err := uplink.Enrol(context.Background(), e); !errors.Is(err, uplink.ErrUntrusted) {
		t.Errorf("another root: %v", err)
	}
	s.OmitRoot()
	e.Server = stationtest.URL(s.Enrolment)
	before := s.Calls("enrol")
	if _, err := uplink.Enrol(context.Background(), e); !errors.Is(err, uplink.ErrUntrusted) {
		t.Errorf("a chain without the root: %v", err)
	}
	if other.Calls("enrol") != calls || s.Calls("enrol") != before {
		t.Error("the code was sent before the server was trusted")
	}
}

func TestClient_ASlowAnswerIsNoWrongClock(t *testing.T) {
	s := stationtest.New(t)
	base := time.Now().Truncate(time.Second)
	var mu sync.Mutex
	var now time.Time // at the station
	set := func(at time.Time) { mu.Lock(); now = at; mu.Unlock() }
	c, err := uplink.NewClient(uplink.Config{Server: stationtest.URL(s.Factory), Roots: []*x509.Certificate{s.Root.Cert}, Certificate: s.Station(t), Patience: -1,
		Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, known := c.Skew(); known {
		t.Error("it knows the service's time before it asked")
	}
	for name, e := range map[string]struct {
		took, date, want time.Duration // date: of the answer, after the request was sent
	}{
		"at once":               {},
		"dated at its end":      {took: 8 * time.Second, date: 8 * time.Second},
		"dated at its start":    {took: 8 * time.Second},
		"the station is behind": {took: 8 * time.Second, date: 908 * time.Second, want: 900 * time.Second},
		"the station is ahead":  {took: 8 * time.Second, date: -901 * time.Second, want: -900 * time.Second},
	} {
		set(base)
		s.Intercept = func(w http.ResponseWriter, _ string, _ int) bool {
			w.Header().Set("Date", base.Add(e.date).UTC().Format(http.TimeFormat))
			set(base.Add(e.took))
			return false
		}
		if _, err := c.Order(context.Background(), "O-1"); err != nil {
			t.Fatal(err)
		}
		if skew, known := c.Skew(); skew != e.want || !known {
			t.Errorf("%s: %s, %v", name, skew, known)
		}
	}
}
