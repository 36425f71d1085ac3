package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/api/adminapi"
	"hallmark/api/factoryapi"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/ceremony"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/hsm"
	"hallmark/store/storetest"
)

// made is a certificate that a unit got during a rollover.
type made struct {
	unit   string
	leaf   *x509.Certificate
	issuer string // CN
	status int    // of its list, asked for at the moment it came
	err    error
}

// factory is a station's line that makes units until it is told to stop.
type factory struct {
	s    *site
	n    atomic.Int64
	stop chan struct{}
	wg   sync.WaitGroup

	mu  sync.Mutex
	all []made
}

// factoryLine starts a line that makes some units at once, and one every so often.
func (s *site) factoryLine(workers int, every time.Duration) *factory {
	f := &factory{s: s, stop: make(chan struct{})}
	pace := time.NewTicker(every)
	s.t.Cleanup(pace.Stop)
	cert := s.stationPair()
	client := s.client(&cert, workers)
	plain := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	url := "https://" + s.door("factory") + "/factory/v1/units/issue"
	for range workers {
		f.wg.Go(func() {
			for {
				select {
				case <-f.stop:
					return
				case <-pace.C:
				}
				n := f.n.Add(1)
				m := f.one(client, plain, url, newUnit(s.t, fmt.Sprintf("RO-%d", n)))
				f.mu.Lock()
				f.all = append(f.all, m)
				f.mu.Unlock()
			}
		})
	}
	return f
}

// one makes a unit, and asks for its list as the first verifier would.
func (f *factory) one(client, plain *http.Client, url string, u unit) (m made) {
	m.unit = u.name
	r, err := call(context.Background(), client, "POST", url, u.request())
	if err == nil && r.status != http.StatusOK {
		err = fmt.Errorf("%s", r)
	}
	var a factoryapi.IssueAnswer
	if err == nil {
		err = json.Unmarshal(r.body, &a)
	}
	if err == nil {
		m.leaf, err = x509.ParseCertificate(a.Certificate)
	}
	if m.err = err; err != nil {
		return m
	}
	m.issuer = m.leaf.Issuer.CommonName
	l, err := plain.Get(m.leaf.CRLDistributionPoints[0])
	if err != nil {
		m.err = err
		return m
	}
	io.Copy(io.Discard, l.Body)
	l.Body.Close()
	m.status = l.StatusCode
	return m
}

// by counts what an authority made so far.
func (f *factory) by(cn string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.all {
		if m.issuer == cn {
			n++
		}
	}
	return n
}

// eventuallyIs waits for a condition.
func eventuallyIs(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// successor makes and installs an issuing authority, as people and the root do.
func (s *site) successor(name, cn string) {
	s.t.Helper()
	ctx := s.t.Context()
	api := s.token("platform")
	pending, err := api.CreateAuthorityWithResponse(ctx, adminapi.AuthorityRequest{Name: name, Duty: "device", CommonName: cn, KeyUri: s.keyURI(name)})
	if err != nil || pending.JSON201 == nil {
		s.t.Fatalf("%v %s", err, pending.Body)
	}
	ring := hsm.Open(hsm.Config{})
	defer ring.Close()
	step, err := ceremony.New(ceremony.Config{Keys: ring, Previous: s.newestTranscript(), Development: true})
	if err != nil {
		s.t.Fatal(err)
	}
	root, _ := pem.Decode(s.rootPEM)
	signed, err := step.SignIntermediate(ctx, ceremony.SignRequest{RootCert: root.Bytes, KeyURI: s.keyURI("root"), CSR: []byte(pending.JSON201.Csr), Name: name, Duty: profile.DutyDevice,
		Subject: profile.Subject{Organization: "Hallmark Demo", CommonName: cn}, RootName: "root-1", BaseURL: s.cfg.BaseURL})
	if err != nil {
		s.t.Fatal(err)
	}
	in, err := api.InstallAuthorityWithResponse(ctx, name, adminapi.InstallRequest{Certificate: string(signed.CertificatePEM), Root: "root-1"})
	if err != nil || in.JSON200 == nil {
		s.t.Fatalf("%v %s", err, in.Body)
	}
}

func (s *site) newestTranscript() []byte {
	s.t.Helper()
	files, err := filepath.Glob(s.path("root", "*.transcript.json"))
	if err != nil || len(files) == 0 {
		s.t.Fatalf("no transcript: %v", err)
	}
	b, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// decided runs a command of one person that asks, and has bob approve it.
func (s *site) decided(args ...string) {
	s.t.Helper()
	code, out, errOut := s.person("platform", "", append(args, "--yes", "--json")...)
	var plan adminapi.Plan
	if err := json.Unmarshal([]byte(out), &plan); code != exitOK || err != nil || len(plan.Requests) != 1 {
		s.t.Fatalf("%s: exit %d, %v\n%s%s", strings.Join(args, " "), code, err, out, errOut)
	}
	id := plan.Requests[0].Id
	if code, _, _ := s.person("platform", "", "approval", "approve", id, "--yes", "--json"); code == exitOK {
		s.t.Errorf("%s: who asked approved it (S36)", strings.Join(args, " "))
	}
	if code, out, errOut := s.person("bob", "", "approval", "approve", id, "--yes", "--json"); code != exitOK {
		s.t.Fatalf("approval of %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errOut)
	}
}

// TestRollover_UnderLoad_S2: an issuing authority is replaced while a line makes
// units. No request fails, every certificate verifies against the published chains
// and lists, which are there before the first certificate, and OpenSSL, GnuTLS and
// NSS agree. S36
func TestRollover_UnderLoad_S2(t *testing.T) {
	each, every := 20, 30*time.Millisecond
	if long() {
		each, every = 340, 5*time.Millisecond
	}
	s := newSite(t, quickHSM(), "", anyName(100_000))
	const old, new = "Hallmark Demo Device CA 1", "Example Device CA 2"
	early := s.issue(newUnit(t, "RO-EARLY"))
	line := s.factoryLine(4, every)
	eventuallyIs(t, "the line runs", func() bool { return line.by(old) >= each })

	// 1. The plan says what is missing, and that nothing was done.
	code, out, errOut := s.person("platform", "", "ca", "rollover", "plan", "device-1", "device-2")
	if code != int(exitChanges) || !strings.Contains(out, "hallmark ca csr --name device-2") || !strings.Contains(out, "device-2 has no certificate yet") {
		t.Errorf("plan without a successor: exit %d\n%s%s", code, out, errOut)
	}
	if code, _, errOut := s.person("platform", "", "ca", "rollover", "start", "device-1", "device-2", "--yes"); code != exitFault || !strings.Contains(errOut, "ca-rollover-not-ready") {
		t.Errorf("start without a successor: exit %d %s", code, errOut)
	}
	if code, _, errOut := s.person("platform", "", "ca", "retire", "device-1", "--yes"); code != exitFault || !strings.Contains(errOut, "ca-last-issuer") {
		t.Errorf("retiring the last issuer: exit %d %s", code, errOut)
	}
	// 2. Key, ceremony, installation: it publishes its lists, and issues nothing.
	s.successor("device-2", new)
	code, out, errOut = s.person("platform", "", "ca", "rollover", "plan", "device-1", "device-2", "--json")
	var plan adminapi.Rollover
	if err := json.Unmarshal([]byte(out), &plan); code != exitOK || err != nil || !plan.Ready {
		t.Fatalf("plan: exit %d, %v\n%s%s", code, err, out, errOut)
	}
	before := line.n.Load()
	eventuallyIs(t, "the line goes on", func() bool { return line.n.Load() > before+8 })
	if n := line.by(new); n != 0 {
		t.Fatalf("%d certificates were made by an authority that is installed and not declared", n)
	}
	// 3. The switch.
	s.decided("ca", "rollover", "start", "device-1", "device-2")
	eventuallyIs(t, "the successor issues", func() bool { return line.by(new) >= each })
	// 4. The end of the overlap.
	s.decided("ca", "rollover", "finish", "device-1")
	closed := line.n.Load()
	eventuallyIs(t, "the successor alone issues", func() bool { return line.n.Load() >= closed+int64(each) })
	close(line.stop)
	line.wg.Wait()

	_, out, _ = s.person("platform", "", "ca", "rollover", "status", "device-1", "--json")
	var status adminapi.Rollover
	if err := json.Unmarshal([]byte(out), &status); err != nil || status.State != string(ca.StateClosed) || status.Stage != string(ca.EndClosed) || status.Waits == "" {
		t.Errorf("status: %v\n%s", err, out)
	}
	if _, err := s.server.ca.Issue(t.Context(), ca.Request{Identity: ca.Identity{Tenant: "main", Holder: "SN-X", Profile: string(profile.IDevID)}, Authority: "device-1", SPKI: []byte{1}, Key: catest.NewKey(t).Public(), Origin: profile.OriginClaimed}); !errors.Is(err, ca.ErrNoAuthority) && !errors.Is(err, ca.ErrAuthorityClosed) {
		t.Errorf("a closed authority issues: %v", err)
	}

	// What was made, as whoever verifies has it.
	dir := t.TempDir()
	fromOld, fromNew, last := 0, 0, time.Time{}
	for _, m := range line.all {
		if m.err != nil || m.status != http.StatusOK {
			t.Errorf("unit %s: %v; its list: %d", m.unit, m.err, m.status)
			continue
		}
		switch m.issuer {
		case old:
			fromOld++
		case new:
			fromNew++
		}
		if m.leaf.NotBefore.After(last) {
			last = m.leaf.NotBefore
		}
		putPEM(t, filepath.Join(dir, "leaf-"+m.unit+".pem"), "CERTIFICATE", m.leaf.Raw)
	}
	if fromOld < each || fromNew < each || fromOld+fromNew != len(line.all) {
		t.Errorf("%d by %s, %d by %s, of %d", fromOld, old, fromNew, new, len(line.all))
	}
	// The closed authority still lists what is revoked.
	var revoked []string
	for _, cn := range []string{old, new} {
		for _, m := range line.all {
			if m.issuer != cn {
				continue
			}
			serial, _ := ca.SerialFromInt(m.leaf.SerialNumber)
			a, err := s.api("bob").RevokeCertificateWithResponse(t.Context(), serial.String(), adminapi.RevokeRequest{Reason: crl.Superseded.String()})
			if err != nil || a.JSON200 == nil {
				t.Fatalf("%v %s", err, a.Body)
			}
			revoked = append(revoked, "leaf-"+m.unit+".pem")
			break
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "revoked.txt"), []byte(strings.Join(revoked, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.published(t, dir, len(revoked))
	t.Logf("%d certificates: %d by the former authority, %d by its successor", len(line.all), fromOld, fromNew)
	if !long() { // the three take their time: OpenSSL sees all, all three the ones around the switch
		verifyWithOpenSSL(t, dir, len(line.all), revoked)
		thin(t, dir, 12, revoked)
	}
	verifyWithThree(t, dir)

	// The root's list names the former authority, and nobody says so here: the doors
	// refuse what it issued, and nothing else.
	late := s.issue(newUnit(t, "RO-LATE"))
	s.rootRevokes("device-1")
	eventuallyIs(t, "the door refuses what a revoked authority issued", func() bool { return s.deviceDoor(&early) == "403 device-revoked" })
	if got := s.deviceDoor(&late); got != "200" {
		t.Errorf("a certificate of its successor: %s", got)
	}
	eventuallyIs(t, "the service follows the root's list", func() bool {
		_, out, _ := s.person("platform", "", "ca", "rollover", "status", "device-1", "--json")
		var status adminapi.Rollover
		return json.Unmarshal([]byte(out), &status) == nil && status.State == string(ca.StateRevoked) && status.Stage == string(ca.EndRevoked)
	})
	s.clean()
}

// deviceDoor asks for a nonce as a device.
func (s *site) deviceDoor(cert *tls.Certificate) string {
	s.t.Helper()
	r, err := call(s.t.Context(), s.client(cert, 1), "POST", "https://"+s.door("device")+"/bootstrap/v1/nonce", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return r.String()
}

// rootRevokes has the root sign a list that names an authority, and publishes it.
func (s *site) rootRevokes(name string) {
	s.t.Helper()
	gone, err := s.server.ca.Authority(name)
	if err != nil {
		s.t.Fatal(err)
	}
	var before bytes.Buffer
	if err := s.server.lists.WriteList(&before, "root-1", 0, false); err != nil {
		s.t.Fatal(err)
	}
	ring := hsm.Open(hsm.Config{})
	defer ring.Close()
	step, err := ceremony.New(ceremony.Config{Keys: ring, Previous: s.newestTranscript(), Development: true})
	if err != nil {
		s.t.Fatal(err)
	}
	serial, _ := ca.SerialFromInt(gone.Cert.SerialNumber)
	list, err := step.SignRootCRL(s.t.Context(), ceremony.ListRequest{RootCert: s.rootPEM, KeyURI: s.keyURI("root"), RootName: "root-1", BaseURL: s.cfg.BaseURL, Previous: before.Bytes(),
		Revoke: []ceremony.Revocation{{Serial: serial, Reason: 2 /* cACompromise */}}})
	if err != nil {
		s.t.Fatal(err)
	}
	a, err := s.token("platform").PutRootListWithResponse(s.t.Context(), "root-1", adminapi.RootListRequest{List: string(list.ListPEM)})
	if err != nil || a.JSON200 == nil {
		s.t.Fatalf("%v %s", err, a.Body)
	}
}

// TestRollover_TwoServicesAndAKillBetweenTheSteps_S2: whoever decided is killed with
// kill -9 right after each step. The other service follows within the promised half
// a second, the killed one goes on where it was, and nothing is issued by an
// authority that ended.
func TestRollover_TwoServicesAndAKillBetweenTheSteps_S2(t *testing.T) {
	if !long() {
		t.Skip("make proof runs it: it starts the service six times")
	}
	s := newSite(t, quickHSM(), storetest.Postgres(t), anyName(1000))
	const old, new = "Hallmark Demo Device CA 1", "Example Device CA 2"
	s.successor("device-2", new)
	s.halt()
	p := &parallel{site: s, t: t, states: []string{"state"}}
	p.secondNode()
	here := p.service("hallmark.yaml", "state")
	p.service("second.yaml", "second")
	cert := s.stationPair()
	client, n := s.client(&cert, 2), 0
	issuer := func(state string) string {
		t.Helper()
		n++
		r, err := call(t.Context(), client, "POST", "https://"+p.endpoints(state).Doors["factory"]+"/factory/v1/units/issue", newUnit(t, fmt.Sprintf("TWO-%d", n)).request())
		var a factoryapi.IssueAnswer
		if err == nil && r.status == http.StatusOK {
			err = json.Unmarshal(r.body, &a)
		}
		if err != nil || r.status != http.StatusOK {
			t.Fatalf("issue at %s: %v %s", state, err, r)
		}
		leaf, err := x509.ParseCertificate(a.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		return leaf.Issuer.CommonName
	}
	// in force at the second service, as it decides by now
	there := func() []string {
		t.Helper()
		token, err := os.ReadFile(s.path("state", "admin.token"))
		if err != nil {
			t.Fatal(err)
		}
		c, err := adminClient("https://"+p.endpoints("second").Doors["people"], strings.TrimSpace(string(token)), s.path("second", "ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		a, err := c.ListServingsWithResponse(t.Context())
		if err != nil || a.JSON200 == nil {
			t.Fatalf("%v %s", err, a.Body)
		}
		for _, d := range a.JSON200.Items {
			if d.Serves == "device" {
				return d.Authorities
			}
		}
		return nil
	}
	step := func(names []string, args ...string) {
		t.Helper()
		s.decided(args...)
		here.kill()
		from := time.Now()
		eventuallyIs(t, "the other service follows", func() bool { return slices.Equal(there(), names) })
		took := time.Since(from)
		t.Logf("%s: followed within %s", args[2], took.Round(time.Millisecond))
		if took > 20*time.Second {
			t.Errorf("%s: followed after %s", args[2], took)
		}
		here = p.service("hallmark.yaml", "state")
		for _, state := range p.states {
			for range 3 {
				if got := issuer(state); got != new {
					t.Errorf("after %s, at %s: issued by %s", args[2], state, got)
				}
			}
		}
	}
	for _, state := range p.states {
		if got := issuer(state); got != old {
			t.Errorf("at %s, before: issued by %s", state, got)
		}
	}
	step([]string{"device-2", "device-1"}, "ca", "rollover", "start", "device-1", "device-2")
	step([]string{"device-2"}, "ca", "rollover", "finish", "device-1")
	_, out, _ := s.person("platform", "", "ca", "rollover", "status", "device-1", "--json")
	var status adminapi.Rollover
	if err := json.Unmarshal([]byte(out), &status); err != nil || status.State != string(ca.StateClosed) || status.Certificates < 2 {
		t.Errorf("status: %v\n%s", err, out)
	}
	s.clean()
}

func putPEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// published fetches chains and lists from where the service publishes them, once
// all that was revoked is on a list.
func (s *site) published(t *testing.T, dir string, revoked int) {
	t.Helper()
	get := func(path string) []byte {
		t.Helper()
		a, err := http.Get(s.cfg.BaseURL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		b, err := io.ReadAll(a.Body)
		if err != nil || a.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d, %v", path, a.StatusCode, err)
		}
		return b
	}
	var chain []byte
	for _, name := range []string{"device-1", "device-2", "root-1"} {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: get("/ca/" + name + ".cer")})...)
	}
	if err := os.WriteFile(filepath.Join(dir, "chain.pem"), chain, 0o600); err != nil {
		t.Fatal(err)
	}
	eventuallyIs(t, "what was revoked is listed", func() bool {
		listed := 0
		for _, name := range []string{"device-1", "device-2", "root-1"} {
			info, err := s.server.ca.Authority(name)
			if err != nil {
				t.Fatal(err)
			}
			for shard := range max(info.Shards, 1) {
				b := get(fmt.Sprintf("/crl/%s/%d.crl", name, shard))
				l, err := x509.ParseRevocationList(b)
				if err != nil {
					t.Fatal(err)
				}
				listed += len(l.RevokedCertificateEntries)
				putPEM(t, filepath.Join(dir, fmt.Sprintf("%s-%d.crl", name, shard)), "X509 CRL", b)
			}
		}
		return listed >= revoked
	})
}

// verifyWithOpenSSL wants every certificate to verify against chains and lists, but
// for the revoked ones.
func verifyWithOpenSSL(t *testing.T, dir string, n int, revoked []string) {
	t.Helper()
	leaves, err := filepath.Glob(filepath.Join(dir, "leaf-*.pem"))
	if err != nil || len(leaves) != n {
		t.Fatalf("%d of %d certificates: %v", len(leaves), n, err)
	}
	w := newWorkbench(t, dir, leaves, filepath.Join(dir, "chain.pem"))
	for file, verdict := range w.openssl(leaves) {
		want := ""
		if strings.Contains(strings.Join(revoked, " ")+" ", filepath.Base(file)+" ") {
			want = "revoked"
		}
		if verdict != want {
			t.Errorf("OpenSSL says of %s %q, want %q", filepath.Base(file), verdict, want)
		}
		n--
	}
	if n != 0 {
		t.Errorf("OpenSSL said nothing of %d", n)
	}
}

// thin leaves about n of the certificates, and the revoked ones.
func thin(t *testing.T, dir string, n int, revoked []string) {
	t.Helper()
	leaves, _ := filepath.Glob(filepath.Join(dir, "leaf-*.pem"))
	for i, file := range leaves {
		if i%max(len(leaves)/n, 1) != 0 && !bytes.Contains([]byte(strings.Join(revoked, " ")+" "), []byte(filepath.Base(file)+" ")) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
	}
}
