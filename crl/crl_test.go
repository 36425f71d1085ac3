package crl_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/store"
	"hallmark/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

var officer = access.Actor{Tenant: access.DefaultTenant, Kind: access.KindPrincipal, Name: "ann"}

// clock is a time that a test moves.
type clock struct {
	mu sync.Mutex
	d  time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.d)
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	c.d += d
	c.mu.Unlock()
}

// bench is everything that takes trust away, on a real database.
type bench struct {
	*catest.Fixture
	t     *testing.T
	clock *clock
	file  string
	dir   string
	svc   *crl.Service
	set   *crl.Set
	pub   *crl.Publisher
}

func newBench(t *testing.T) *bench { return newBenchOn(t, "") }

// both runs a test on either engine.
func both(t *testing.T, f func(t *testing.T, b *bench)) {
	t.Run("sqlite", func(t *testing.T) { f(t, newBench(t)) })
	t.Run("postgres", func(t *testing.T) { f(t, newBenchOn(t, storetest.Postgres(t))) })
}

func newBenchOn(t *testing.T, url string) *bench {
	// An hour behind, since two lists of one second differ in thisUpdate and
	// external tools know only the real time.
	b := &bench{t: t, clock: &clock{d: -time.Hour}, file: url, dir: t.TempDir()}
	if url == "" {
		b.file = filepath.Join(t.TempDir(), "h.db")
	}
	b.Fixture = catest.Open(t, catest.Config{URL: b.file, Now: b.clock.now})
	b.svc = crl.New(crl.Config{Store: b.DB, Now: b.clock.now})
	b.restart()
	return b
}

// restart makes a new set and publisher on the same database and directory.
func (b *bench) restart() {
	b.t.Helper()
	b.set = crl.NewSet(crl.SetConfig{Feed: b.DB, Now: b.clock.now})
	if err := b.set.Load(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	b.pub = b.publisher(b.set, b.dir)
	if err := b.pub.Start(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) publisher(set *crl.Set, dir string) *crl.Publisher {
	return crl.NewPublisher(crl.PublisherConfig{Store: b.DB, CA: b.CA, Set: set, Dir: dir, Now: b.clock.now, Log: slog.New(slog.NewTextHandler(b.t.Output(), nil))})
}

// settle follows the log and publishes, as the loops do.
func (b *bench) settle() {
	b.t.Helper()
	if err := b.set.Follow(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	if !b.pub.Flush(b.t.Context()) {
		b.t.Fatal("not published")
	}
}

func (b *bench) device(unit string) (*x509.Certificate, ca.Serial) {
	b.t.Helper()
	c, _ := b.IssueIDevID(b.t, unit)
	return c, serialOf(b.t, c)
}

func serialOf(t *testing.T, c *x509.Certificate) ca.Serial {
	t.Helper()
	s, ok := ca.SerialFromInt(c.SerialNumber)
	if !ok {
		t.Fatal("not one of our serial numbers")
	}
	return s
}

func (b *bench) revoke(s ca.Serial, r crl.Reason) {
	b.t.Helper()
	if _, err := b.svc.Revoke(b.t.Context(), officer, crl.Withdrawal{Authority: catest.Device, Serial: s, Reason: r, Note: "test"}); err != nil {
		b.t.Fatal(err)
	}
}

// published is the list as a client gets it.
func (b *bench) published(authority string) *crl.List {
	b.t.Helper()
	w := httptest.NewRecorder()
	b.pub.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/crl/"+authority+"/0.crl", nil))
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/pkix-crl" {
		b.t.Fatalf("%d %v", w.Code, w.Header())
	}
	l, err := crl.ParseList(w.Body.Bytes())
	if err != nil {
		b.t.Fatal(err)
	}
	return l
}

func on(l *crl.List, s ca.Serial) (reason crl.Reason, found bool) {
	l.Each(func(e crl.Entry) error {
		if bytes.Equal(e.Serial, s[:]) {
			reason, found = e.Reason, true
		}
		return nil
	})
	return reason, found
}

// open is a connection beside the service's own.
func (b *bench) open() *sql.DB {
	b.t.Helper()
	driver, url := "sqlite", "file:"+b.file+"?_pragma=busy_timeout(5000)"
	if strings.HasPrefix(b.file, "postgres:") {
		driver, url = "pgx", b.file
	}
	db, err := sql.Open(driver, url)
	if err != nil {
		b.t.Fatal(err)
	}
	return db
}

// tamper changes the database as somebody who got into it would.
func (b *bench) tamper(query string, args ...any) {
	b.t.Helper()
	db := b.open()
	defer db.Close()
	for i := range args {
		query = strings.Replace(query, "?", "$"+strconv.Itoa(i+1), 1)
	}
	r, err := db.Exec(query, args...)
	if err != nil {
		b.t.Fatal(err)
	}
	if n, _ := r.RowsAffected(); n == 0 {
		b.t.Fatal("nothing was changed")
	}
}

func (b *bench) fsck() (out []string) {
	b.t.Helper()
	found, err := crl.Fsck(b.t.Context(), b.DB, b.clock.now())
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range found {
		out = append(out, f.String())
	}
	return out
}

// rootList signs a list with the root's key. It has no issuing distribution
// point: openssl -crl_check_all asks it about the root too, which names none.
func (b *bench) rootList(number int64, this, next time.Time, revoked ...*big.Int) []byte {
	b.t.Helper()
	tmpl := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: this, NextUpdate: next}
	for _, s := range revoked {
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: this, ReasonCode: 1})
	}
	out, err := x509.CreateRevocationList(rand.Reader, tmpl, b.Root, b.RootKey)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *bench) write(name, kind string, der []byte) string {
	b.t.Helper()
	f := filepath.Join(b.t.TempDir(), name)
	if err := os.WriteFile(f, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return f
}

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	return string(out), err
}

func want(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("got %v, want %v", err, target)
	}
}

func TestRevoke_IsSeenByOpenSSLOnTheLists(t *testing.T) { both(t, revokeIsSeenByOpenSSLOnTheLists) }

func revokeIsSeenByOpenSSLOnTheLists(t *testing.T, b *bench) {
	now := b.clock.now()
	if _, err := b.pub.InstallRootList(t.Context(), catest.Root, b.rootList(1, now.Add(-time.Hour), now.AddDate(0, 6, 0))); err != nil {
		t.Fatal(err)
	}
	good, _ := b.device("SN-1")
	bad, serial := b.device("SN-2")
	verify := func(c *x509.Certificate) (string, error) {
		root := b.write("root.pem", "CERTIFICATE", b.Root.Raw)
		inter := b.write("ca.pem", "CERTIFICATE", b.Device.Raw)
		leaf := b.write("leaf.pem", "CERTIFICATE", c.Raw)
		lists := b.write("lists.pem", "X509 CRL", b.published(catest.Root).DER)
		f, _ := os.OpenFile(lists, os.O_APPEND|os.O_WRONLY, 0)
		pem.Encode(f, &pem.Block{Type: "X509 CRL", Bytes: b.published(catest.Device).DER})
		f.Close()
		return run(t, "openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-crl_check_all", "-extended_crl", "-CAfile", root, "-untrusted", inter, "-CRLfile", lists, leaf)
	}
	for _, c := range []*x509.Certificate{good, bad} {
		if out, err := verify(c); err != nil {
			t.Fatalf("before: %v\n%s", err, out)
		}
	}
	b.revoke(serial, crl.KeyCompromise)
	b.settle()
	if out, err := verify(good); err != nil {
		t.Errorf("the good one: %v\n%s", err, out)
	}
	if out, err := verify(bad); err == nil || !strings.Contains(out, "certificate revoked") {
		t.Errorf("the revoked one: %v\n%s", err, out)
	}
	list := b.write("l.pem", "X509 CRL", b.published(catest.Device).DER)
	out, err := run(t, "openssl", "crl", "-in", list, "-noout", "-text", "-CAfile", b.write("ca.pem", "CERTIFICATE", b.Device.Raw))
	for _, s := range []string{"verify OK", "Issuing Distribution Point: critical", "URI:" + good.CRLDistributionPoints[0], "Key Compromise", "X509v3 Authority Key Identifier", "X509v3 CRL Number"} {
		if !strings.Contains(out, s) {
			t.Errorf("openssl crl does not say %q: %v\n%s", s, err, out)
		}
	}
	if tool(t, "certtool") {
		der := filepath.Join(t.TempDir(), "l.der")
		os.WriteFile(der, b.published(catest.Device).DER, 0o600)
		issuer := filepath.Join(t.TempDir(), "ca.der")
		os.WriteFile(issuer, b.Device.Raw, 0o600)
		if out, err := run(t, "certtool", "--verify-crl", "--load-ca-certificate", issuer, "--inder", "--infile", der); err != nil || !strings.Contains(out, "Verified") {
			t.Errorf("certtool: %v\n%s", err, out)
		}
	}
	if found := b.fsck(); len(found) > 0 {
		t.Errorf("fsck: %v", found)
	}
}

func TestRevoke_IsPublishedAndKnownWithinASecond_A29(t *testing.T) {
	b := newBench(t)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { b.set.Run(ctx) })
	wg.Go(func() { b.pub.Run(ctx) })
	defer wg.Wait()
	defer stop()
	changes := make(chan crl.Change, 16)
	b.set.OnChange(func(c crl.Change) { changes <- c })
	_, serial := b.device("SN-1")
	begin := time.Now()
	b.revoke(serial, crl.Superseded)
	c := <-changes
	known := time.Since(begin)
	if c.Serial != serial || !c.Revoked || c.Holder != "sn-1" || c.Reason != crl.Superseded {
		t.Errorf("told %+v", c)
	}
	for {
		if _, ok := on(b.published(catest.Device), serial); ok {
			break
		}
		if time.Since(begin) > 20*time.Second {
			t.Fatal("not on the list after 5 s")
		}
		time.Sleep(2 * time.Millisecond)
	}
	t.Logf("known after %v, published after %v", known, time.Since(begin))
	if known > 5*time.Second || time.Since(begin) > 20*time.Second {
		t.Errorf("too slow")
	}
}

func TestRevoke_ObeysTheReasons_A33(t *testing.T) { both(t, revokeObeysTheReasons) }

func revokeObeysTheReasons(t *testing.T, b *bench) {
	ctx := t.Context()
	_, s := b.device("SN-1")
	w := func(r crl.Reason) error {
		_, err := b.svc.Revoke(ctx, officer, crl.Withdrawal{Authority: catest.Device, Serial: s, Reason: r})
		return err
	}
	want(t, w(7), crl.ErrReason)
	want(t, w(11), crl.ErrReason)
	want(t, b.svc.Release(ctx, officer, catest.Device, s, ""), crl.ErrNotHeld)
	want(t, w(crl.CertificateHold), nil)
	b.settle()
	if r, ok := on(b.published(catest.Device), s); !ok || r != crl.CertificateHold {
		t.Errorf("held: on the list %t for %v", ok, r)
	}
	if _, _, ok := b.set.Revoked(catest.Device, s); !ok {
		t.Error("held, and not in the set")
	}
	want(t, b.svc.Release(ctx, officer, catest.Device, s, "found again"), nil)
	b.settle()
	if _, ok := on(b.published(catest.Device), s); ok {
		t.Error("released, and still on the list")
	}
	if _, _, ok := b.set.Revoked(catest.Device, s); ok {
		t.Error("released, and still in the set")
	}
	want(t, w(crl.CertificateHold), nil)
	want(t, w(crl.PrivilegeWithdrawn), nil)
	want(t, b.svc.Release(ctx, officer, catest.Device, s, ""), crl.ErrNotHeld)
	want(t, w(crl.Superseded), crl.ErrRevoked)
	want(t, w(crl.KeyCompromise), nil)
	want(t, w(crl.KeyCompromise), nil)
	want(t, w(crl.Superseded), crl.ErrWeaken)
	want(t, w(crl.CertificateHold), crl.ErrWeaken)
	b.settle()
	if r, ok := on(b.published(catest.Device), s); !ok || r != crl.KeyCompromise {
		t.Errorf("on the list %t for %v", ok, r)
	}
	if _, err := b.svc.Revoke(ctx, access.Actor{Tenant: "other", Kind: access.KindPrincipal, Name: "eve"}, crl.Withdrawal{Authority: catest.Device, Serial: s}); !errors.Is(err, crl.ErrSerialUnknown) {
		t.Errorf("another tenant: %v", err)
	}
	if _, err := b.svc.Revoke(ctx, access.Actor{Tenant: access.DefaultTenant, Kind: access.KindDevice, Name: "SN-2"}, crl.Withdrawal{Authority: catest.Device, Serial: s}); !errors.Is(err, crl.ErrRight) {
		t.Errorf("another device (A34): %v", err)
	}
	if found := b.fsck(); len(found) > 0 {
		t.Errorf("fsck: %v", found)
	}
}

func (b *bench) request(unit string, key *ecdsa.PrivateKey) ca.Request {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		b.t.Fatal(err)
	}
	return ca.Request{
		Identity: ca.Identity{Tenant: access.DefaultTenant, Holder: unit, Profile: string(profile.IDevID)},
		Subject:  profile.Subject{Organization: "Example", CommonName: unit}, SPKI: spki, Key: key.Public(), Origin: profile.OriginClaimed,
		Requester: ca.Requester{Actor: "service:test"},
	}
}

func TestRevoke_KeyCompromiseBlocksKeyAndHolder_A14_S16(t *testing.T) {
	both(t, revokeKeyCompromiseBlocksKeyAndHolder)
}

func revokeKeyCompromiseBlocksKeyAndHolder(t *testing.T, b *bench) {
	ctx := t.Context()
	c, key := b.IssueIDevID(t, "SN-1")
	res, err := b.svc.Revoke(ctx, officer, crl.Withdrawal{Authority: catest.Device, Serial: serialOf(t, c), Reason: crl.KeyCompromise})
	if err != nil || !res.Changed || !res.Blocked {
		t.Fatalf("%+v, %v", res, err)
	}
	_, err = b.CA.Issue(ctx, b.request("SN-1", catest.NewKey(t)))
	want(t, err, ca.ErrHolderBlocked)
	_, err = b.CA.Issue(ctx, b.request("SN-9", key))
	want(t, err, ca.ErrKeyCompromised)

	// cert revoke for another reason leaves the holder free, unless it says so.
	d, _ := b.IssueIDevID(t, "SN-2")
	if res, err = b.svc.Revoke(ctx, officer, crl.Withdrawal{Authority: catest.Device, Serial: serialOf(t, d), Reason: crl.Superseded}); err != nil || res.Blocked {
		t.Fatalf("%+v, %v", res, err)
	}
	again, err := b.CA.Issue(ctx, b.request("SN-2", catest.NewKey(t)))
	if err != nil {
		t.Fatalf("the holder should enrol again: %v", err)
	}
	if res, err = b.svc.Revoke(ctx, officer, crl.Withdrawal{Authority: catest.Device, Serial: again.Serial, Reason: crl.Superseded, Reenrol: crl.ReenrolRefused}); err != nil || !res.Blocked {
		t.Fatalf("%+v, %v", res, err)
	}
	_, err = b.CA.Issue(ctx, b.request("SN-2", catest.NewKey(t)))
	want(t, err, ca.ErrHolderBlocked)
}

func TestBlockDevice_TakesTheWholeIdentity_S16(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	i, is := b.device("SN-1")
	l1, _ := b.Issue(t, profile.LDevID, "SN-1", "A", profile.Names{})
	l2, _ := b.Issue(t, profile.LDevID, "SN-1", "B", profile.Names{})
	other, _ := b.device("SN-10")
	reserved := b.reserve("SN-1", "station-made")
	b.tamper(`INSERT INTO things (tenant, name, folded, holder, type, groups, billing_group, policy, configuration, registered_by, created_at, updated_at, mac) VALUES ('main','T1','t1','sn-1','','[]','','[]','{}',?,1,1,x'00')`, catest.Device)
	b.tamper(`INSERT INTO device_certificates (tenant, id, der, ca, authority, serial, status, how, holder, common_name, not_before, not_after, transfer_to, registered_at, updated_at, version, mac) VALUES ('main','c1',x'','',?,?,'ACTIVE','first-boot','sn-1','',1,1,'',1,1,1,x'00')`, catest.Device, is[:])
	b.tamper(`INSERT INTO thing_principals (tenant, thing, certificate, kind, attached_at, mac) VALUES ('main','t1','c1','EXCLUSIVE_THING',1,x'00')`)
	var told []crl.Change
	b.set.OnChange(func(c crl.Change) { told = append(told, c) })

	_, err := b.svc.BlockDevice(ctx, officer, "nobody", crl.Superseded, "")
	want(t, err, crl.ErrHolderUnknown)
	_, err = b.svc.BlockDevice(ctx, officer, "SN-1", crl.CertificateHold, "")
	want(t, err, crl.ErrReason)
	res, err := b.svc.BlockDevice(ctx, officer, "SN-1", crl.CessationOfOperation, "stolen\nlevel=error")
	if err != nil || len(res.Revoked) != 4 || !res.Changed {
		t.Fatalf("%+v, %v", res, err)
	}
	if res, err = b.svc.BlockDevice(ctx, officer, "sn-1", crl.CessationOfOperation, ""); err != nil || res.Changed {
		t.Errorf("twice: %+v, %v", res, err)
	}
	b.settle()
	list := b.published(catest.Device)
	for _, c := range []*x509.Certificate{i, l1, l2} {
		if _, ok := on(list, serialOf(t, c)); !ok {
			t.Errorf("%s is not on the list", c.Subject)
		}
	}
	if _, ok := on(list, reserved); !ok {
		t.Error("the reserved number is not on the list")
	}
	if _, ok := on(list, serialOf(t, other)); ok {
		t.Error("another device was revoked")
	}
	blocked := false
	for _, c := range told {
		blocked = blocked || c.Blocked && c.Holder == "sn-1"
	}
	if !blocked || len(told) != 5 {
		t.Errorf("told %+v", told)
	}
	db := b.open()
	defer db.Close()
	var status, note string
	if err := db.QueryRow(`SELECT status FROM device_certificates`).Scan(&status); err != nil || status != "REVOKED" {
		t.Errorf("thing is %s: %v", status, err)
	}
	if err := db.QueryRow(`SELECT note FROM blocks`).Scan(&note); err != nil || strings.Contains(note, "\n") {
		t.Errorf("note %q: %v", note, err)
	}
	if _, err := b.CA.Issue(ctx, b.request("SN-1", catest.NewKey(t))); !errors.Is(err, ca.ErrHolderBlocked) {
		t.Errorf("issued to a blocked identity: %v", err)
	}
	if found := b.fsck(); len(found) > 0 {
		t.Errorf("fsck: %v", found)
	}
}

// reserve makes a reservation that is never signed.
func (b *bench) reserve(unit, slot string) ca.Serial {
	b.t.Helper()
	s, err := ca.NewSerial(b.clock.now(), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	_, _, err = b.DB.Ledger().Reserve(b.t.Context(), ca.Claim{
		Identity: ca.Identity{Tenant: access.DefaultTenant, Holder: unit, Profile: "reserved", Slot: slot}, SPKI: [32]byte(append(make([]byte, 12), s[:]...)),
		Authority: catest.Device, Version: 1, Serial: s, TBS: []byte{0x30, 0}, NotBefore: b.clock.now(), NotAfter: b.clock.now().AddDate(1, 0, 0), Now: b.clock.now(),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func TestSet_RefusesEverythingBeforeItIsLoaded_A28(t *testing.T) {
	b := newBench(t)
	_, s := b.device("SN-1")
	set := crl.NewSet(crl.SetConfig{Feed: b.DB, Now: b.clock.now})
	if _, _, revoked := set.Revoked(catest.Device, s); !revoked {
		t.Error("an empty set lets a device in")
	}
	dead, cancel := context.WithCancel(t.Context())
	cancel()
	if err := set.Load(dead); err == nil || set.Loaded() {
		t.Error("the store cannot be read and the set is loaded")
	}
	if _, _, revoked := set.Revoked(catest.Device, s); !revoked {
		t.Error("a failed load lets a device in")
	}
	want(t, set.Load(t.Context()), nil)
	if _, _, revoked := set.Revoked(catest.Device, s); revoked {
		t.Error("a good device is refused")
	}
}

func TestSet_SkipsARowThatCannotBeRead_A3(t *testing.T) {
	b := newBench(t)
	var serials []ca.Serial
	for i := range 3 {
		_, s := b.device("SN-" + strconv.Itoa(i))
		b.revoke(s, crl.Superseded)
		serials = append(serials, s)
	}
	b.tamper(`UPDATE revocations SET reason = 'garbage' WHERE serial = ?`, serials[0][:])
	set := crl.NewSet(crl.SetConfig{Feed: b.DB, Now: b.clock.now})
	want(t, set.Load(t.Context()), nil)
	for i, s := range serials {
		if _, _, ok := set.Revoked(catest.Device, s); !ok {
			t.Errorf("%d is not revoked", i)
		}
	}
	if set.Stats.Garbage.Load() == 0 {
		t.Error("no alarm")
	}
	b.settle()
	for i, s := range serials {
		if _, ok := on(b.published(catest.Device), s); !ok {
			t.Errorf("%d is not on the list", i)
		}
	}
}

// Whoever deletes a revocation's row brings no device back: it stays on the
// list, and in the set after a restart.
func TestPublisher_KeepsWhatTheTableLost_S32(t *testing.T) { both(t, publisherKeepsWhatTheTableLost) }

func publisherKeepsWhatTheTableLost(t *testing.T, b *bench) {
	_, kept := b.device("SN-1")
	_, freed := b.device("SN-2")
	_, lost := b.device("SN-3")
	b.revoke(kept, crl.Superseded)
	b.revoke(freed, crl.CertificateHold)
	b.revoke(lost, crl.KeyCompromise)
	b.settle()
	b.tamper(`DELETE FROM revocations WHERE serial = ?`, lost[:])
	b.tamper(`UPDATE revocations SET released_at = 1 WHERE serial = ?`, freed[:]) // without a leaf
	b.restart()
	l := b.published(catest.Device)
	for i, s := range []ca.Serial{kept, freed, lost} {
		if _, ok := on(l, s); !ok {
			t.Errorf("%d left the list", i)
		}
		if _, _, ok := b.set.Revoked(catest.Device, s); !ok {
			t.Errorf("%d left the set", i)
		}
	}
	if b.pub.Stats.Carried.Load() != 2 {
		t.Errorf("%d alarms, want 2", b.pub.Stats.Carried.Load())
	}
	if found := strings.Join(b.fsck(), "\n"); !strings.Contains(found, "crl-listed-revoked") || !strings.Contains(found, "crl-leaf-revocation") || !strings.Contains(found, "crl-revocation-reads") {
		t.Errorf("fsck says only: %s", found)
	}
}

func TestPublisher_DropsAnExpiredCertificateOneListLater_A27(t *testing.T) {
	both(t, publisherDropsAnExpiredCertificateOneListLater)
}

func publisherDropsAnExpiredCertificateOneListLater(t *testing.T, b *bench) {
	_, long := b.device("SN-1")
	short := b.reserve("SN-2", "") // ends in a year
	b.revoke(long, crl.Superseded)
	b.revoke(short, crl.Superseded)
	b.settle()
	first := b.published(catest.Device)
	b.clock.move(366 * 24 * time.Hour)
	want(t, b.pub.Sweep(t.Context()), nil)
	second := b.published(catest.Device)
	if _, ok := on(second, short); !ok || second.Number <= first.Number {
		t.Errorf("number %d: the expired one left before it was on one more list", second.Number)
	}
	b.clock.move(5 * 24 * time.Hour)
	want(t, b.pub.Sweep(t.Context()), nil)
	third := b.published(catest.Device)
	if _, ok := on(third, short); ok || third.Number <= second.Number {
		t.Errorf("number %d: the expired one is still there", third.Number)
	}
	if _, ok := on(third, long); !ok {
		t.Error("an unexpired one left")
	}
	want(t, b.pub.Sweep(t.Context()), nil)
	if n := b.published(catest.Device).Number; n != third.Number {
		t.Errorf("a fresh list was made anew: %d", n)
	}
	if b.pub.Stats.Carried.Load() != 0 {
		t.Error("expiry raised an alarm")
	}
}

// Two nodes publish at once; after that the table falls behind the directory, as
// after a restore, and the clock falls.
func TestPublisher_NumbersOnlyRise_A32(t *testing.T) { both(t, publisherNumbersOnlyRise) }

func publisherNumbersOnlyRise(t *testing.T, b *bench) {
	ctx := t.Context()
	other := crl.NewSet(crl.SetConfig{Feed: b.DB, Now: b.clock.now})
	want(t, other.Load(ctx), nil)
	second := b.publisher(other, t.TempDir())
	want(t, second.Start(ctx), nil)
	seen := map[int64][]byte{}
	for i := range 8 {
		_, s := b.device("SN-" + strconv.Itoa(i))
		b.revoke(s, crl.Superseded)
		want(t, b.set.Follow(ctx), nil)
		want(t, other.Follow(ctx), nil)
		var wg sync.WaitGroup
		wg.Go(func() { b.pub.Flush(ctx) })
		wg.Go(func() { second.Flush(ctx) })
		wg.Wait()
		for _, p := range []*crl.Publisher{b.pub, second} {
			w := httptest.NewRecorder()
			p.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/crl/"+catest.Device+"/0.crl", nil))
			l, err := crl.ParseList(w.Body.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			if have, ok := seen[l.Number]; ok && !bytes.Equal(have, l.DER) {
				t.Fatalf("two lists of number %d", l.Number)
			}
			seen[l.Number] = bytes.Clone(l.DER)
			if _, ok := on(l, s); !ok {
				t.Fatalf("revocation %d is not on a node's list", i)
			}
		}
	}
	before := b.published(catest.Device)
	if before.Count != 8 {
		t.Fatalf("%d entries", before.Count)
	}
	b.tamper(`DELETE FROM crls WHERE authority = ?`, catest.Device)
	b.clock.move(-48 * time.Hour)
	b.restart()
	after := b.published(catest.Device)
	if after.Number <= before.Number || !after.ThisUpdate.After(before.ThisUpdate) || after.Count != 8 {
		t.Errorf("after the restore: number %d of %s, before %d of %s", after.Number, after.ThisUpdate, before.Number, before.ThisUpdate)
	}
	if b.pub.Stats.Rollback.Load() == 0 {
		t.Error("no alarm")
	}
	// A row that is not what was signed: the number goes on, nothing is served from it.
	b.tamper(`UPDATE crls SET der = ?, number = number + 5 WHERE authority = ?`, []byte("junk"), catest.Device)
	b.clock.move(48 * time.Hour)
	b.restart()
	if l := b.published(catest.Device); l.Number <= after.Number+5 || l.Count != 8 {
		t.Errorf("after tampering: number %d, %d entries", l.Number, l.Count)
	}
}

func TestPublisher_KeepsShardsApart(t *testing.T) { both(t, publisherKeepsShardsApart) }

func publisherKeepsShardsApart(t *testing.T, b *bench) {
	ctx := t.Context()
	key := catest.NewKey(t)
	b.Keys.Add("test:many", key)
	c := b.Certify(t, profile.DutyDevice, "many", key.Public())
	want(t, b.DB.CreateAuthority(ctx, ca.Authority{Name: "many", Tenant: access.DefaultTenant, Duty: profile.DutyDevice, State: ca.StateActive, KeyURI: "test:many", Certificate: c.Raw, BaseURL: catest.BaseURL, Shards: 4, CreatedAt: b.clock.now()}), nil)
	want(t, b.CA.Reload(ctx), nil)
	want(t, b.pub.Sweep(ctx), nil)
	shards := map[string]int{}
	for i := range 12 {
		r := b.request("M-"+strconv.Itoa(i), catest.NewKey(t))
		r.Authority = "many"
		out, err := b.CA.Issue(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.svc.Revoke(ctx, officer, crl.Withdrawal{Authority: "many", Serial: out.Serial, Reason: crl.Superseded})
		want(t, err, nil)
		b.settle()
		leaf, _ := x509.ParseCertificate(out.DER)
		url := strings.TrimPrefix(leaf.CRLDistributionPoints[0], catest.BaseURL)
		w := httptest.NewRecorder()
		b.pub.Handler().ServeHTTP(w, httptest.NewRequest("GET", url, nil))
		l, err := crl.ParseList(w.Body.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if l.URL != leaf.CRLDistributionPoints[0] || l.Verify(c) != nil {
			t.Errorf("the list at %s is for %s", url, l.URL)
		}
		if _, ok := on(l, out.Serial); !ok {
			t.Errorf("%s is not at %s", out.Serial, url)
		}
		file, err := os.ReadFile(filepath.Join(b.dir, url))
		if err != nil || !bytes.Equal(file, l.DER) {
			t.Errorf("file %s: %v", url, err)
		}
		shards[url]++
	}
	if len(shards) < 2 {
		t.Errorf("all in %v", shards)
	}
	// S2: a closed authority issues no more and still signs its lists.
	want(t, b.DB.SetAuthorityState(ctx, "many", ca.StateClosed), nil)
	want(t, b.CA.Reload(ctx), nil)
	b.clock.move(5 * 24 * time.Hour)
	n := b.pub.Stats.Built.Load()
	want(t, b.pub.Sweep(ctx), nil)
	if b.pub.Stats.Built.Load() < n+4 {
		t.Error("a closed authority's lists were not refreshed")
	}
	if found := b.fsck(); len(found) > 0 {
		t.Errorf("fsck: %v", found)
	}
}

func TestSignListPieces_RefusesWhatIsNotItsList(t *testing.T) {
	b := newBench(t)
	l := b.published(catest.Device) // without entries
	at := bytes.LastIndexByte(l.TBS[:bytes.Index(l.TBS, []byte{0x55, 0x1d, 0x23})-6], 0xa0)
	sign := func(authority string, tbs []byte) ([]byte, error) {
		return b.CA.SignListPieces(t.Context(), authority, &ca.ListPieces{Front: tbs[:min(at, len(tbs))], Back: tbs[min(at, len(tbs)):]})
	}
	if _, err := sign(catest.Device, l.TBS); err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{catest.Infra, catest.Root} {
		_, err := sign(other, l.TBS)
		want(t, err, ca.ErrList)
	}
	for n := range l.TBS {
		if _, err := sign(catest.Device, l.TBS[:n]); err == nil {
			t.Fatalf("signed the first %d octets", n)
		}
	}
	bad := bytes.Clone(l.TBS)
	i := bytes.Index(bad, []byte{0x55, 0x1d, 0x1c}) // no issuing distribution point, an unknown critical extension
	bad[i+2] = 0x63
	if sig, err := sign(catest.Device, bad); err == nil {
		alg, _, err := b.CA.ListAlgorithm(catest.Device)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := crl.ParseList(profile.Assemble(bad, alg, sig)); err == nil {
			t.Error("a list with an unknown critical extension would be published")
		}
	}
}

func TestHandler_AnswersCaches(t *testing.T) {
	b := newBench(t)
	srv := httptest.NewServer(b.pub.Handler())
	defer srv.Close()
	get := func(method, path string, header ...string) *http.Response {
		t.Helper()
		r, _ := http.NewRequest(method, srv.URL+path, nil)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	const path = "/crl/" + catest.Device + "/0.crl"
	r := get("GET", path)
	body, _ := io.ReadAll(r.Body)
	tag, mod := r.Header.Get("ETag"), r.Header.Get("Last-Modified")
	if r.StatusCode != 200 || tag == "" || mod == "" || !strings.Contains(r.Header.Get("Cache-Control"), "max-age=300") {
		t.Errorf("%d %v", r.StatusCode, r.Header)
	}
	if r := get("HEAD", path); r.StatusCode != 200 || r.ContentLength != int64(len(body)) {
		t.Errorf("HEAD: %d, %d octets", r.StatusCode, r.ContentLength)
	}
	if r := get("GET", path, "If-None-Match", tag); r.StatusCode != 304 {
		t.Errorf("If-None-Match: %d", r.StatusCode)
	}
	if r := get("GET", path, "If-Modified-Since", mod); r.StatusCode != 304 {
		t.Errorf("If-Modified-Since: %d", r.StatusCode)
	}
	_, s := b.device("SN-1")
	b.revoke(s, crl.Superseded)
	b.settle()
	if r := get("GET", path, "If-Modified-Since", mod); r.StatusCode != 200 {
		t.Errorf("a newer list is hidden from a cache: %d", r.StatusCode)
	}
	for _, p := range []string{"/crl/" + catest.Device + "/1.crl", "/crl/" + catest.Device + "/00.crl", "/crl/none/0.crl", "/crl/" + catest.Device + "/0.pem", "/crl/../0.crl", "/ca/none.cer", "/"} {
		if r := get("GET", p); r.StatusCode != 404 {
			t.Errorf("%s: %d", p, r.StatusCode)
		}
	}
	if r := get("POST", path); r.StatusCode != 405 {
		t.Errorf("POST: %d", r.StatusCode)
	}
	if r := get("GET", "/crl/"+catest.Root+"/0.crl"); r.StatusCode != 503 || r.Header.Get("Retry-After") == "" {
		t.Errorf("a root without a list: %d", r.StatusCode)
	}
	r = get("GET", "/ca/"+catest.Device+".cer")
	body, _ = io.ReadAll(r.Body)
	if r.Header.Get("Content-Type") != "application/pkix-cert" || !bytes.Equal(body, b.Device.Raw) {
		t.Errorf("%d %v", r.StatusCode, r.Header)
	}
}

func TestInstallRootList_AdvancesAndDistrusts(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	now := b.clock.now().Truncate(time.Second)
	install := func(in []byte) error { _, err := b.pub.InstallRootList(ctx, catest.Root, in); return err }
	want(t, install([]byte("junk")), crl.ErrListMalformed)
	want(t, install(b.published(catest.Device).DER), crl.ErrListUntrusted)
	_, err := b.pub.InstallRootList(ctx, catest.Device, b.published(catest.Device).DER)
	want(t, err, crl.ErrListUntrusted)
	want(t, install(b.rootList(5, now.Add(-48*time.Hour), now.Add(-time.Hour))), crl.ErrListOld)
	want(t, install(b.rootList(5, now.Add(time.Hour), now.Add(48*time.Hour))), crl.ErrListOld)
	first := b.rootList(5, now.Add(-time.Hour), now.AddDate(0, 3, 0), b.Infra.SerialNumber)
	want(t, install(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: first})), nil)
	want(t, install(first), nil)
	want(t, install(b.rootList(5, now, now.AddDate(0, 3, 0), b.Infra.SerialNumber)), crl.ErrListOld)
	want(t, install(b.rootList(6, now.Add(-2*time.Hour), now.AddDate(0, 3, 0), b.Infra.SerialNumber)), crl.ErrListOld)
	want(t, install(b.rootList(6, now, now.AddDate(0, 3, 0))), crl.ErrListDrops)
	if !bytes.Equal(b.published(catest.Root).DER, first) {
		t.Error("another list is served")
	}
	st, _ := b.Issue(t, profile.Station, "st-1", "A", profile.Names{})
	for range 2 { // also after a restart
		if _, _, ok := b.set.Revoked(catest.Infra, serialOf(t, st)); !ok {
			t.Error("a certificate of a revoked CA is trusted")
		}
		b.restart()
	}
	d, _ := b.device("SN-1")
	if _, _, ok := b.set.Revoked(catest.Device, serialOf(t, d)); ok {
		t.Error("the other CA is distrusted too")
	}
	if !bytes.Equal(b.published(catest.Root).DER, first) {
		t.Error("another list is served after the restart")
	}
	want(t, install(b.rootList(6, now, now.AddDate(0, 3, 0), b.Infra.SerialNumber)), nil)
}

// A revocation that is on its way to its list is no damage; one that never came there is.
func TestFsck_WaitsForAListThatIsBeingMade(t *testing.T) {
	b := newBench(t)
	_, s := b.device("SN-1")
	_, err := b.svc.Revoke(t.Context(), officer, crl.Withdrawal{Authority: catest.Device, Serial: s, Reason: crl.Superseded})
	want(t, err, nil)
	if found := strings.Join(b.fsck(), "\n"); strings.Contains(found, "crl-revoked-listed") {
		t.Errorf("at once: %s", found)
	}
	b.clock.move(time.Minute)
	if found := strings.Join(b.fsck(), "\n"); !strings.Contains(found, "crl-revoked-listed") {
		t.Errorf("a minute later: %q", found)
	}
}

// Clarifications, shortcut 6: what somebody changes, fsck names.
func TestFsck_NamesEachKindOfDamage(t *testing.T) {
	for _, c := range []struct{ check, query string }{
		{"crl-revocation-leaf", `UPDATE revocations SET leaf = leaf - 1 WHERE holder = 'sn-1'`},
		{"crl-revocation-reads", `UPDATE revocations SET released_at = 5 WHERE holder = 'sn-1'`},
		{"crl-revocation-reads", `UPDATE revocations SET note = 'x' WHERE holder = 'sn-1'`},
		{"crl-revoked-listed", `UPDATE revocations SET shard = 9 WHERE holder = 'sn-1'`},
		{"crl-revoked-listed", `UPDATE revocations SET reason = 3 WHERE holder = 'sn-1'`},
		{"crl-leaf-revocation", `DELETE FROM revocations WHERE holder = 'sn-1'`},
		{"crl-revocation-reads", `UPDATE revocations SET reason = 99 WHERE holder = 'sn-1'`},
		{"crl-leaf-entry", `UPDATE log_leaves SET holder = 'sn-2' WHERE type = 'revoke'`},
		{"crl-revocation-leaf", `DELETE FROM log_leaves WHERE type = 'revoke'`},
		{"crl-leaf-entry", `UPDATE log_leaves SET at = at + 1 WHERE type = 'block'`},
		{"crl-leaf-subject", `UPDATE log_leaves SET serial = x'00' WHERE type = 'revoke'`},
		{"crl-leaf-block", `DELETE FROM blocks`},
		{"crl-leaf-block", `UPDATE blocks SET leaf = 0`},
		{"crl-block-leaf", `DELETE FROM log_leaves WHERE type = 'block'`},
		{"crl-list-there", `DELETE FROM crls WHERE authority = 'device-1'`},
		{"crl-list-verifies", `UPDATE crls SET der = x'3000' WHERE authority = 'device-1'`},
		{"crl-list-verifies", `UPDATE crls SET der = (SELECT der FROM crls WHERE authority = 'infra-1') WHERE authority = 'device-1'`},
		{"crl-list-number", `UPDATE crls SET number = number + 1 WHERE authority = 'device-1'`},
		{"crl-list-times", `UPDATE crls SET next_update = next_update + 1000 WHERE authority = 'device-1'`},
	} {
		b := newBench(t)
		_, s := b.device("SN-1")
		_, err := b.svc.Revoke(t.Context(), officer, crl.Withdrawal{Authority: catest.Device, Serial: s, Reason: crl.Superseded, Reenrol: crl.ReenrolRefused})
		want(t, err, nil)
		b.settle()
		if found := b.fsck(); len(found) > 0 {
			t.Fatalf("before: %v", found)
		}
		b.tamper(c.query)
		if found := strings.Join(b.fsck(), "\n"); !strings.Contains(found, c.check) {
			t.Errorf("%s: want %s, got %q", c.query, c.check, found)
		}
		b.DB.Close()
	}
	b := newBench(t)
	b.clock.move(8 * 24 * time.Hour)
	if found := strings.Join(b.fsck(), "\n"); !strings.Contains(found, "crl-list-current") {
		t.Errorf("a list that ended: %q", found)
	}
}

var _ crl.Store = (*store.DB)(nil)
var _ crypto.Signer = (*ecdsa.PrivateKey)(nil)

// What lists forget when a certificate expired, the table does not: the key
// stays refused, the status stays revoked, the device stays out (S33, A14).
func TestRevocation_OutlivesTheListsThatNamedIt_S33_A14(t *testing.T) {
	both(t, revocationOutlivesTheLists)
}

func revocationOutlivesTheLists(t *testing.T, b *bench) {
	ctx := t.Context()
	c, key := b.Issue(t, profile.LDevID, "SN-1", "A", profile.Names{})
	serial := serialOf(t, c)
	if _, err := b.svc.Revoke(ctx, officer, crl.Withdrawal{Authority: catest.Device, Serial: serial, Reason: crl.KeyCompromise, Reenrol: crl.ReenrolAllowed}); err != nil {
		t.Fatal(err)
	}
	b.settle()
	if _, ok := on(b.published(catest.Device), serial); !ok {
		t.Fatal("it never was on a list")
	}
	b.clock.move(time.Until(c.NotAfter) + 2*time.Hour)
	want(t, b.pub.Sweep(ctx), nil) // one more list names it
	b.clock.move(8 * 24 * time.Hour)
	want(t, b.pub.Sweep(ctx), nil)
	if _, ok := on(b.published(catest.Device), serial); ok {
		t.Fatal("an expired certificate is still on the list: this proves nothing")
	}
	b.restart() // and it is not the memory of a process
	if st, err := b.DB.Status(ctx, catest.Device, serial); err != nil || !st.Revoked {
		t.Errorf("status %+v, %v", st, err)
	}
	for _, unit := range []string{"SN-1", "SN-2"} {
		_, err := b.CA.Issue(ctx, b.request(unit, key))
		want(t, err, ca.ErrKeyCompromised)
	}
	if _, err := b.CA.Issue(ctx, b.request("SN-1", catest.NewKey(t))); err != nil {
		t.Errorf("with a new key it may enrol again: %v", err)
	}
}
