package liar_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
	"hallmark/hsm/pkcs11"
	"hallmark/hsm/token"
	"hallmark/internal/fault"
	"hallmark/provisioner"
)

// liar is a token behind testdata/lying.c.
type liar struct {
	hsmtest.Token
	t         testing.TB
	saw, mode string
}

func newLiar(t testing.TB, label string) *liar {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		hsmtest.Missing(t, "a C compiler is missing: apt-get install gcc libc6-dev")
	}
	l := &liar{Token: hsmtest.SoftHSMLabel(t, label), t: t}
	l.saw, l.mode = filepath.Join(l.Dir, "saw"), filepath.Join(l.Dir, "mode")
	shim := filepath.Join(l.Dir, "lying.so")
	out, err := exec.Command(cc, "-shared", "-fPIC", "-O1", "-Wall", `-DREAL="`+l.Module+`"`, `-DSAW="`+l.saw+`"`, `-DMODE="`+l.mode+`"`, "-o", shim, "testdata/lying.c", "-ldl").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := pkcs11.SetModuleEnv(shim, "SOFTHSM2_CONF", l.Conf); err != nil {
		t.Fatal(err)
	}
	l.Module = shim
	l.tells("n")
	return l
}

// tells sets what the token does from now on, see lying.c.
func (l *liar) tells(mode string) {
	l.t.Helper()
	tmp := l.mode + ".new"
	if err := os.WriteFile(tmp, []byte(mode), 0o644); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Rename(tmp, l.mode); err != nil {
		l.t.Fatal(err)
	}
}

// digests are what the token was asked to sign, without the test signatures.
func (l *liar) digests() (work []string, tests int) {
	l.t.Helper()
	b, err := os.ReadFile(l.saw)
	if err != nil && !os.IsNotExist(err) {
		l.t.Fatal(err)
	}
	probe := hex.EncodeToString([]byte(token.ProbePrefix))
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, probe) {
			tests++
		} else {
			work = append(work, line)
		}
	}
	return work, tests
}

// eventually waits for what happens in the background.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// keysOf gives the device authority on the tokens, and the fixture's others.
type keysOf struct {
	*catest.Keys
	ring *hsm.Keyring
}

func (k keysOf) Key(ctx context.Context, uri string) (ca.Key, error) {
	if strings.HasPrefix(uri, "pkcs11:") {
		return k.ring.CAKey(ctx, uri, true)
	}
	return k.Keys.Key(ctx, uri)
}

// TestLyingToken_EverySignatureItSawIsOnRecord is the last sentence of the tenth
// acceptance (A25): a token that signs and hangs, answers after the fail-over,
// reports an error after it signed, and swaps keys, under eight clients that
// retry, first beside an honest token and then with no honest one at all.
func TestLyingToken_EverySignatureItSawIsOnRecord_A25(t *testing.T) {
	const clients, order, tenant, name = 8, "o", access.DefaultTenant, "device-hsm"
	units := 24
	if os.Getenv("HALLMARK_PROOF") == "1" {
		units = 400
	}
	a, b := newLiar(t, "alpha"), newLiar(t, "beta")
	pub := hsmtest.Import(t, "ca", a.Token, b.Token)
	ring := hsm.Open(hsm.Config{SignTimeout: time.Second, Sessions: 4, Groups: []hsm.GroupConfig{{
		Name: name, Keys: []string{a.URI("ca"), b.URI("ca")}, Patience: 200 * time.Millisecond, Deadline: 2 * time.Second,
	}}})
	t.Cleanup(func() { ring.Close() })
	for _, l := range []*liar{a, b} {
		if _, err := ring.Generate(t.Context(), strings.Replace(l.URI("other"), ";object=other", ";object=other;id=%0B", 1), hsm.Spec{Algorithm: hsm.P256}); err != nil {
			t.Fatal(err)
		}
	}

	// The authority, the order and the responder, on a real store.
	f := catest.New(t)
	cert := f.Certify(t, profile.DutyDevice, name, pub)
	if err := f.DB.CreateAuthority(t.Context(), ca.Authority{Name: name, Tenant: tenant, Duty: profile.DutyDevice, State: ca.StateActive, KeyURI: a.URI("ca"), BaseURL: catest.BaseURL, Shards: 1, CreatedAt: time.Now(), Certificate: cert.Raw}); err != nil {
		t.Fatal(err)
	}
	issuer, err := ca.New(t.Context(), ca.Config{Ledger: f.DB.Ledger(), Keys: keysOf{f.Keys, ring}, Store: f.DB})
	if err != nil {
		t.Fatal(err)
	}
	body := provisioner.Body{ID: order, Tenant: tenant, Product: "p", Quantity: int64(units), Serials: provisioner.SerialRule{Pattern: ".*"}, KeyOrigin: profile.OriginClaimed, CreatedBy: "ann"}
	text, err := body.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.DB.CreateOrder(t.Context(), provisioner.Order{Body: body, State: provisioner.OrderDraft, Canonical: text, CreatedAt: time.Now(), ChangedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := f.DB.SetOrder(t.Context(), access.Scope{Tenant: tenant}, order, []provisioner.OrderState{provisioner.OrderDraft}, provisioner.OrderOpen, []byte("{}"), time.Now()); err != nil {
		t.Fatal(err)
	}
	answers := responder(t, f, issuer, name)

	requests := make([]ca.Request, units+1) // the last is one too many
	for i := range requests {
		key := catest.NewKey(t)
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		unit := "SN-" + hex.EncodeToString([]byte{byte(i >> 8), byte(i)})
		requests[i] = ca.Request{
			Identity: ca.Identity{Tenant: tenant, Holder: unit, Profile: string(profile.IDevID)}, Account: order, Quota: int64(units), Authority: name,
			Subject: profile.Subject{Organization: "Example", CommonName: unit, SerialNumber: unit}, SPKI: spki, Key: key.Public(),
			Requester: ca.Requester{Actor: "service:test"}, Origin: profile.OriginClaimed,
		}
	}

	var mu sync.Mutex
	shown := map[string][]byte{} // the certificate that clients were given
	var failed, asked atomic.Int64
	run := func(from, to int) {
		t.Helper()
		var wg sync.WaitGroup
		limit := time.Now().Add(4 * time.Minute)
		for c := range clients {
			wg.Go(func() {
				for n := from; n < to; n++ {
					r := requests[from+(n-from+c*3)%(to-from)] // each client in another order
					for {
						// Some do not wait for the answer and ask again.
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(100+mathrand.IntN(3000))*time.Millisecond)
						asked.Add(1)
						out, err := issuer.Issue(ctx, r)
						cancel()
						if err == nil {
							mu.Lock()
							if have := shown[r.Holder]; have != nil && !bytes.Equal(have, out.DER) {
								t.Errorf("%s was given two certificates", r.Holder)
							}
							shown[r.Holder] = out.DER
							mu.Unlock()
							break
						}
						failed.Add(1)
						switch k := fault.KindOf(err); {
						case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), k == fault.Unavailable, k == fault.Exhausted, k == fault.Internal && fault.From(err).Code != "internal":
						default:
							t.Errorf("%s: %v", r.Holder, err)
							return
						}
						if time.Now().After(limit) {
							t.Errorf("%s never got its certificate: %v", r.Holder, err)
							return
						}
						time.Sleep(20 * time.Millisecond) // no faster than the slowest clients
					}
				}
			})
		}
		wg.Wait()
	}

	// One liar beside an honest token, two liars, and at last a primary that signs
	// everything with another key.
	phases := []struct{ a, b string }{{"l", "n"}, {"e", "n"}, {"f", "n"}, {"r", "n"}, {"r", "r"}, {"s", "n"}}
	for i, p := range phases {
		eventually(t, "the primary serves again", func() bool { return ring.Groups()[0].Tokens[0].Serving })
		a.tells(p.a)
		b.tells(p.b)
		run(i*units/len(phases), (i+1)*units/len(phases))
		a.tells("n")
	}
	h := ring.Groups()[0]
	t.Logf("%d requests for %d units, %d failed; %d fail-overs, %d late answers, %d wrong signatures, %d signatures destroyed", asked.Load(), units, failed.Load(), h.Failovers, h.Late, h.Wrong, issuer.Late.Load())
	if h.Wrong == 0 || h.Failovers == 0 || h.Late == 0 {
		t.Error("a kind of lie was not met")
	}

	// A unit that is abandoned while its token hangs: a number that was reserved,
	// and perhaps signed, and of which nobody ever got a certificate. The order is
	// used up, so it is of none.
	a.tells("h")
	b.tells("h")
	orphan := requests[units]
	if _, err := issuer.Issue(t.Context(), orphan); fault.KindOf(err) != fault.Exhausted {
		t.Errorf("a unit beyond the quota: %v", err)
	}
	orphan.Account, orphan.Quota = "", 0
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := issuer.Issue(ctx, orphan); err == nil {
		t.Error("a token that hangs made a certificate")
	}
	a.tells("n")
	b.tells("n")

	// One reservation and one TBS per serial number, one live certificate per unit.
	onRecord, numbers := map[string]bool{}, map[ca.Serial]bool{}
	all, err := f.DB.Records(t.Context(), ca.RecordQuery{Tenant: tenant, Authority: name, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range all { // the responder's too
		sum := sha256.Sum256(x.TBS)
		onRecord[hex.EncodeToString(sum[:])] = true
	}
	for i, r := range requests {
		rs, err := f.DB.Records(t.Context(), ca.RecordQuery{Tenant: tenant, Holder: r.Holder})
		if err != nil {
			t.Fatal(err)
		}
		live := 0
		for _, x := range rs {
			if numbers[x.Serial] {
				t.Errorf("serial number %s is there twice", x.Serial)
			}
			numbers[x.Serial] = true
			if x.DER == nil {
				if s := answers(x.Serial); s == ocsp.Good {
					t.Errorf("%s has no certificate, and its number is good", r.Holder)
				}
				continue
			}
			c, err := x509.ParseCertificate(x.DER)
			if err != nil || c.CheckSignatureFrom(cert) != nil || !bytes.Equal(c.RawTBSCertificate, x.TBS) {
				t.Errorf("%s: what is on record is not the reserved certificate: %v", r.Holder, err)
			}
			if !x.Revoked() {
				live++
				if s := answers(x.Serial); s != ocsp.Good {
					t.Errorf("%s: its certificate is %d", r.Holder, s)
				}
			}
			if i < units && !bytes.Equal(x.DER, shown[r.Holder]) {
				t.Errorf("%s was shown another certificate than the one on record", r.Holder)
			}
		}
		if want := 1; i < units && (live != want || len(rs) != want) {
			t.Errorf("%s has %d live certificates of %d reservations", r.Holder, live, len(rs))
		} else if i == units && (live != 0 || len(rs) != 1) {
			t.Errorf("the abandoned unit has %d live certificates of %d reservations", live, len(rs))
		}
	}
	o, err := f.DB.Order(t.Context(), access.Scope{Tenant: tenant}, order)
	if err != nil || o.Used != int64(units) {
		t.Errorf("the order counts %d of %d units, %v", o.Used, units, err)
	}
	unissued, err := ca.NewSerial(time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if s := answers(unissued); s == ocsp.Good {
		t.Error("a number that nobody drew is good")
	}

	// Every digest that a token ever saw is that of a TBS on record, or a test.
	for _, l := range []*liar{a, b} {
		work, tests := l.digests()
		t.Logf("%s saw %d digests and %d tests", l.Label, len(work), tests)
		for _, d := range slices.Compact(slices.Sorted(slices.Values(work))) {
			if !onRecord[d] {
				t.Errorf("%s signed %s, which is on no record", l.Label, d)
			}
		}
		if len(work) == 0 {
			t.Errorf("%s was asked nothing", l.Label)
		}
	}
}

// responder is a live OCSP responder for the authority; the answer is a status
// of package ocsp.
func responder(t *testing.T, f *catest.Fixture, issuer *ca.CA, authority string) func(ca.Serial) int {
	t.Helper()
	key := catest.NewKey(t)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	out, err := issuer.Issue(t.Context(), ca.Request{
		Identity: ca.Identity{Tenant: access.DefaultTenant, Holder: "ocsp-" + authority, Profile: string(profile.OCSPResponder), Slot: "A"},
		Subject:  profile.Subject{Organization: "Example", CommonName: "ocsp"}, SPKI: spki, Key: key.Public(), Authority: authority,
	})
	if err != nil {
		t.Fatal(err)
	}
	own, err := x509.ParseCertificate(out.DER)
	if err != nil {
		t.Fatal(err)
	}
	info, err := issuer.Authority(authority)
	if err != nil {
		t.Fatal(err)
	}
	set := crl.NewSet(crl.SetConfig{Feed: f.DB})
	if err := set.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(crl.NewOCSP(crl.OCSPConfig{Store: f.DB, CA: issuer, Set: set, Responder: func(context.Context, string) (crypto.Signer, *x509.Certificate, error) { return key, own, nil }}))
	t.Cleanup(srv.Close)
	return func(s ca.Serial) int {
		t.Helper()
		req, err := ocsp.CreateRequest(&x509.Certificate{SerialNumber: s.Int()}, info.Cert, &ocsp.RequestOptions{Hash: crypto.SHA1})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.Post(srv.URL+"/ocsp/"+authority, "application/ocsp-request", bytes.NewReader(req))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		der, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		r, err := ocsp.ParseResponse(der, info.Cert)
		if err != nil {
			t.Fatalf("OCSP: %v: %x", err, der)
		}
		return r.Status
	}
}
