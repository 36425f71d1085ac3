package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/api/factoryapi"
	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/device"
	"hallmark/migrations"
	"hallmark/station/uplink"
)

// writerSite is a site with something in every table, whose service is stopped
// and whose files come back for each case.
type writerSite struct {
	*site
	saved   savedFiles
	revoked *x509.Certificate // of unit W-REVOKED
}

// writerQuota is what was signed; five units are made.
const writerQuota = 6

// otherTemplate brings a policy document along, which the demo's does not.
const otherTemplate = `{"Parameters":{"AWS::IoT::Certificate::SerialNumber":{"Type":"String"},"AWS::IoT::Certificate::Id":{"Type":"String"}},
"Resources":{"thing":{"Type":"AWS::IoT::Thing","Properties":{"ThingName":{"Ref":"AWS::IoT::Certificate::SerialNumber"},"AttributePayload":{"product":"lamp","site":"b"}}},
"certificate":{"Type":"AWS::IoT::Certificate","Properties":{"CertificateId":{"Ref":"AWS::IoT::Certificate::Id"},"Status":"ACTIVE"}},
"policy":{"Type":"AWS::IoT::Policy","Properties":{"PolicyDocument":"{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":[\"iot:Connect\"],\"Resource\":[\"*\"]}]}"}}}}`

func newWriterSite(t *testing.T) *writerSite {
	t.Helper()
	w := &writerSite{site: newSite(t, quickHSM(), "", anyName(writerQuota))}
	ctx := context.Background()
	platform, err := w.as("platform")
	if err != nil {
		t.Fatal(err)
	}
	must := func(what string, status int, body []byte, err error) {
		t.Helper()
		if err != nil || status >= 300 {
			t.Fatalf("%s: %v, %d %s", what, err, status, body)
		}
	}
	put, err := platform.PutTemplateWithResponse(ctx, "other", adminapi.TemplateRequest{Body: otherTemplate})
	must("template", put.StatusCode(), put.Body, err)
	for _, name := range []string{"hook-a", "hook-b"} {
		h, err := platform.PutHookWithResponse(ctx, name, adminapi.HookRequest{Url: "https://hooks.example.com/" + name, Allow: []string{"192.0.2.0/24"}})
		must("hook", h.StatusCode(), h.Body, err)
	}
	boot := func(name, template string) {
		t.Helper()
		r, err := platform.PutRegistrationWithResponse(ctx, "device-1", adminapi.RegistrationRequest{Template: template, Enabled: true})
		must("registration", r.StatusCode(), r.Body, err)
		dir := w.path("devices", name)
		writeDevice(t, dir, w.issue(newUnit(t, name)))
		if _, err := device.FirstBoot(ctx, device.Config{Dir: dir, Server: "https://" + w.door("device"), Roots: w.roots}); err != nil {
			t.Fatal(err)
		}
	}
	boot("W-BLOCKED", "demo")
	boot("W-REVOKED", "demo")
	boot("W-GOOD", "other")
	boot("W-LAST", "demo")
	w.installed(newUnit(t, "W-HELD"))
	w.revoked = readCert(t, w.path("devices", "W-REVOKED", "idevid.pem"))
	bob, ann := w.api("bob"), w.api("ann")
	blocked, err := bob.RevokeDeviceWithResponse(ctx, "W-BLOCKED", adminapi.DeviceRevokeRequest{Reason: "keyCompromise"})
	must("block", blocked.StatusCode(), blocked.Body, err)
	one, err := bob.RevokeCertificateWithResponse(ctx, serialOf(w.revoked), adminapi.RevokeRequest{Reason: "privilegeWithdrawn"})
	must("revoke", one.StatusCode(), one.Body, err)
	held, err := bob.RevokeDeviceWithResponse(ctx, "W-HELD", adminapi.DeviceRevokeRequest{Reason: "cessationOfOperation"})
	must("block", held.StatusCode(), held.Body, err)
	for _, station := range []string{"station-2", "station-3"} {
		c, err := ann.CreateStationCodeWithResponse(ctx, adminapi.StationCodeRequest{Station: station, Site: "b"})
		must("station code", c.StatusCode(), c.Body, err)
		if station == "station-2" {
			p := w.child(ctx, c.JSON201.Code+"\n", "station", "enrol", "--server", "https://"+w.door("enrol"), "--code", "-", "--station", station, "--dir", w.path("station2"))
			if out, err := p.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	gone, err := bob.RevokeStationWithResponse(ctx, "station-2", adminapi.StationRevokeRequest{Note: "test"})
	must("revoke station", gone.StatusCode(), gone.Body, err)
	draft := anyName(1)
	draft.Id = "ORDER-2"
	o, err := ann.CreateOrderWithResponse(ctx, draft)
	must("draft", o.StatusCode(), o.Body, err)
	if err := w.server.lists.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	w.halt()
	w.clean()
	w.saved = saveFiles(t, w.path("state"))
	return w
}

// installed makes a unit and commits it, as a station does.
func (w *writerSite) installed(u unit) {
	w.t.Helper()
	a := w.issueAnswer(u)
	sig, err := uplink.SignCommit(u.key, uplink.CommitMessage(a.Nonce, u.name, a.Certificate))
	if err != nil {
		w.t.Fatal(err)
	}
	cert := w.stationPair()
	r, err := call(context.Background(), w.client(&cert, 1), "POST", "https://"+w.door("factory")+"/factory/v1/units/commit", factoryapi.CommitRequest{Order: siteOrder, Unit: u.name, Serial: a.Serial, Signature: sig})
	if err != nil || r.status != http.StatusOK {
		w.t.Fatalf("commit %s: %s %v", u.name, r, err)
	}
}

func (w *writerSite) intrude(t *testing.T) *intruder {
	return intrude(t, w.path("state", "hallmark.db"))
}

// filled tells whether the site has to have rows in a table: those of the first
// migration. What came later is tried as soon as the site uses it.
func filled(t *testing.T, table string) bool {
	t.Helper()
	steps, err := migrations.For(migrations.SQLite)
	if err != nil {
		t.Fatal(err)
	}
	return table == "schema_version" || strings.Contains(steps[0].SQL, "CREATE TABLE "+table+" (")
}

// TestS32_DatabaseWriter covers S32, the sixth of the ten ways and, on the same
// site, the tenth.
func TestS32_DatabaseWriter(t *testing.T) {
	w := newWriterSite(t)
	t.Run("is seen", w.seen)
	t.Run("does not win", w.doesNotWin)
	t.Run("another tenant gets nothing", w.anotherTenant)
}

// seen deletes one random row of every table, swaps one with another, and alters
// one column of one (each column with HALLMARK_PROOF=1); fsck ends with 1 and names the row each time.
func (w *writerSite) seen(t *testing.T) {
	i := w.intrude(t)
	names, columns := i.tables()
	i.db.Close()
	check := func(t *testing.T, table, what string, row []any) {
		t.Helper()
		found := w.findings()
		switch {
		case len(found) == 0:
			t.Errorf("fsck does not see it: %s", what)
		case !rowNamed(found, table, row):
			t.Errorf("fsck does not name the row: %s", strings.Join(found, "\n"))
		}
	}
	for _, table := range names {
		cols := columns[table]
		do := func(what string, change func(i *intruder) []any) {
			t.Run(what, func(t *testing.T) {
				w.saved.restore(t)
				i := w.intrude(t)
				row := change(i)
				i.db.Close()
				check(t, table, what, row)
			})
		}
		i := w.intrude(t)
		rows := i.count(table)
		i.db.Close()
		if rows == 0 {
			if filled(t, table) {
				t.Errorf("table %s is empty: the site has to fill it", table)
			}
			continue
		}
		do(table+" delete", func(i *intruder) []any {
			row := i.pick(table, cols, 1)[0]
			i.delete(table, cols, row)
			return row
		})
		if rows > 1 {
			do(table+" swap", func(i *intruder) []any {
				r := i.pick(table, cols, 2)
				for try := 0; sameBesideKey(cols, r[0], r[1]); try++ { // to swap them changes nothing
					if try == 100 {
						t.Skip("all rows say the same")
					}
					r = i.pick(table, cols, 2)
				}
				i.swap(table, cols, r[0], r[1])
				return append(r[0], r[1]...)
			})
		}
		// Each column in the long form, one in the short.
		at := make([]int, len(cols))
		for n := range at {
			at[n] = n
		}
		if !long() {
			b, err := rand.Int(rand.Reader, big.NewInt(int64(len(at))))
			if err != nil {
				t.Fatal(err)
			}
			at = at[b.Int64():][:1]
		}
		for _, at := range at {
			c := cols[at]
			do(table+"."+c.name, func(i *intruder) []any {
				row := i.pick(table, cols, 1)[0]
				i.alter(table, cols, row, at)
				return row
			})
		}
	}
	w.saved.restore(t)
	w.clean()
}

// sameBesideKey tells whether two rows differ in their keys alone.
func sameBesideKey(cols []column, a, b []any) bool {
	for j, c := range cols {
		if !c.key && !reflect.DeepEqual(a[j], b[j]) {
			return false
		}
	}
	return true
}

// doesNotWin changes what would pay, starts the service again, and nothing is gained.
func (w *writerSite) doesNotWin(t *testing.T) {
	cert := w.stationPair()
	issue := func(t *testing.T, name string) reply {
		t.Helper()
		r, err := call(t.Context(), w.client(&cert, 1), "POST", "https://"+w.door("factory")+"/factory/v1/units/issue", newUnit(t, name).request())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	// extra asks for more units than were signed and counts those that are made.
	extra := func(t *testing.T) {
		t.Helper()
		made := 0
		for _, name := range []string{"X-1", "X-2", "X-3"} {
			r := issue(t, name)
			if r.status == http.StatusOK {
				made++
			}
			t.Logf("%s: %s", name, r)
		}
		if left := writerQuota - 5; made > left {
			t.Errorf("%d units were made, %d were left of the signed order", made, left)
		}
	}
	token := access.NewToken()
	tokenHash := token.Hash()
	text, code := uplink.NewCode(nil, [32]byte{1})
	for _, c := range []struct {
		name  string
		do    func(i *intruder)
		names string // what a finding must hold
		after func(t *testing.T)
	}{
		{"the order's body with a larger quantity", func(i *intruder) {
			i.exec(`UPDATE orders SET body = CAST(replace(CAST(body AS TEXT), '"quantity":6', '"quantity":600') AS BLOB) WHERE id = $1`, siteOrder)
		}, siteOrder, extra},
		{"the order's envelope with a larger quantity", func(i *intruder) { w.raise(i, true) }, siteOrder, extra},
		{"the order's body and envelope with a larger quantity", func(i *intruder) {
			w.raise(i, true)
			i.exec(`UPDATE orders SET body = CAST(replace(CAST(body AS TEXT), '"quantity":6', '"quantity":600') AS BLOB) WHERE id = $1`, siteOrder)
		}, siteOrder, extra},
		{"the order's envelope without signatures", func(i *intruder) { w.raise(i, false) }, siteOrder, extra},
		{"the order's counter set back", func(i *intruder) { i.exec(`UPDATE orders SET used = 0 WHERE id = $1`, siteOrder) }, siteOrder, extra},
		{"counter and identities set back", func(i *intruder) {
			i.exec(`UPDATE orders SET used = 0 WHERE id = $1`, siteOrder)
			i.exec(`DELETE FROM identities WHERE account = $1`, siteOrder)
		}, siteOrder, extra},
		{"a draft that is opened", func(i *intruder) { i.exec(`UPDATE orders SET state = 'open' WHERE id = 'ORDER-2'`) }, "ORDER-2", func(t *testing.T) {
			u := newUnit(t, "X-9")
			q := u.request()
			q.Order = "ORDER-2"
			r, err := call(t.Context(), w.client(&cert, 1), "POST", "https://"+w.door("factory")+"/factory/v1/units/issue", q)
			if err != nil || r.String() != "500 store-row-tampered" {
				t.Errorf("an order that nobody signed: %s %v", r, err)
			}
		}},
		{"a revocation deleted", func(i *intruder) {
			serial, _ := ca.SerialFromInt(w.revoked.SerialNumber)
			i.exec(`DELETE FROM revocations WHERE serial = $1`, serial[:])
		}, serialOf(w.revoked), w.stillRevoked},
		{"a revocation called released", func(i *intruder) {
			serial, _ := ca.SerialFromInt(w.revoked.SerialNumber)
			i.exec(`UPDATE revocations SET released_at = revoked_at + 1000 WHERE serial = $1`, serial[:])
		}, serialOf(w.revoked), w.stillRevoked},
		{"a revocation's end set back", func(i *intruder) {
			serial, _ := ca.SerialFromInt(w.revoked.SerialNumber)
			i.exec(`UPDATE revocations SET not_after = 1000 WHERE serial = $1`, serial[:])
		}, serialOf(w.revoked), w.stillRevoked},
		{"a revocation moved behind the log's end", func(i *intruder) {
			serial, _ := ca.SerialFromInt(w.revoked.SerialNumber)
			i.exec(`UPDATE revocations SET leaf = -5 WHERE serial = $1`, serial[:])
		}, serialOf(w.revoked), w.stillRevoked},
		{"a revocation moved to another authority", func(i *intruder) {
			serial, _ := ca.SerialFromInt(w.revoked.SerialNumber)
			i.exec(`UPDATE revocations SET authority = 'infra-1' WHERE serial = $1`, serial[:])
		}, serialOf(w.revoked), w.stillRevoked},
		{"a compromised key called bound", func(i *intruder) {
			i.exec(`UPDATE public_keys SET state = 'bound', holder = 'y-1' WHERE holder = 'w-blocked'`)
		}, "w-blocked", func(t *testing.T) {
			key := loadPair(t, w.path("devices", "W-BLOCKED", "idevid.pem"), w.path("devices", "W-BLOCKED", "idevid.key")).PrivateKey.(*ecdsa.PrivateKey)
			u := unit{name: "Y-1", key: key}
			var err error
			if u.csr, err = csr.Create(key, "Y-1", ""); err != nil {
				t.Fatal(err)
			}
			r, err := call(t.Context(), w.client(&cert, 1), "POST", "https://"+w.door("factory")+"/factory/v1/units/issue", u.request())
			if err != nil || r.status == http.StatusOK {
				t.Errorf("a compromised key is certified again (A14): %s %v", r, err)
			}
		}},
		{"a principal inserted", func(i *intruder) {
			i.exec(`INSERT INTO principals (tenant, name, role, token_hash, created_at, expires_at, disabled_at, mac) SELECT tenant, 'mallory', role, $1, created_at, expires_at, 0, mac FROM principals WHERE name = 'bob'`, tokenHash[:])
		}, "mallory", func(t *testing.T) { w.refused(t, token.Reveal()) }},
		{"a principal's token replaced", func(i *intruder) {
			i.exec(`UPDATE principals SET token_hash = $1 WHERE name = 'platform'`, tokenHash[:])
		}, "platform", func(t *testing.T) { w.refused(t, token.Reveal()) }},
		{"a station code inserted", func(i *intruder) {
			hash := sha256.Sum256(code[:])
			i.exec(`INSERT INTO station_codes (hash, tenant, station, site, created_by, expires_at, mac) SELECT $1, tenant, 'station-9', site, created_by, expires_at + 3600000, mac FROM station_codes LIMIT 1`, hash[:])
		}, "station-9", func(t *testing.T) {
			r, err := call(t.Context(), w.client(nil, 1), "POST", "https://"+w.door("enrol")+"/enrol/v1/station", factoryapi.EnrolRequest{Station: "station-9", Code: text, Csr: newUnit(t, "s").csr})
			if err != nil || r.status < 400 {
				t.Errorf("an inserted code: %s %v", r, err)
			}
		}},
		{"a revoked station called active, its revocations deleted", func(i *intruder) {
			i.exec(`UPDATE stations SET state = 'active' WHERE id = 'station-2'`)
			i.exec(`DELETE FROM revocations WHERE holder = 'station:station-2'`)
		}, "station-2", func(t *testing.T) {
			other := loadPair(t, w.path("station2", "station-a.pem"), w.path("station2", "station-a.key"))
			if got := w.outcome(&other, 1, "POST", "https://"+w.door("factory")+"/factory/v1/units/issue", newUnit(t, "X-7").request()); got != "bad certificate" {
				t.Errorf("the revoked station is told %q", got)
			}
		}},
		{"two certificates swapped", func(i *intruder) {
			serial, _ := ca.SerialFromInt(w.revoked.SerialNumber)
			i.exec(`UPDATE certificates SET der = (SELECT c.der FROM certificates c JOIN reservations r ON r.id = c.reservation WHERE r.serial = $1) WHERE reservation = (SELECT r.id FROM reservations r WHERE r.holder = 'w-good' AND r.profile = 'idevid')`, serial[:])
			i.exec(`UPDATE certificates SET der = $1 WHERE reservation = (SELECT id FROM reservations WHERE serial = $2)`, readCert(t, w.path("devices", "W-GOOD", "idevid.pem")).Raw, serial[:])
		}, "w-good", w.stillRevoked},
		{"a block deleted", func(i *intruder) { i.exec(`DELETE FROM blocks WHERE holder = 'w-blocked'`) }, "w-blocked", func(t *testing.T) {
			if r := issue(t, "W-BLOCKED"); r.status == http.StatusOK {
				t.Errorf("the blocked unit gets a certificate: %s", r)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.saved.restore(t)
			i := w.intrude(t)
			c.do(i)
			i.db.Close()
			found := strings.Join(w.findings(), "\n")
			if !strings.Contains(strings.ToLower(found), strings.ToLower(c.names)) {
				t.Errorf("fsck does not name %s: %q", c.names, found)
			}
			if err := w.serve(context.Background()); err != nil {
				w.halt()
				t.Logf("the service refuses to start: %v", err)
				return
			}
			defer w.halt()
			c.after(t)
		})
	}
}

// raise writes an envelope whose payload has a hundred times the quantity, with
// the old signatures or none.
func (w *writerSite) raise(i *intruder, signatures bool) {
	w.t.Helper()
	var text []byte
	if err := i.db.QueryRow(`SELECT envelope FROM orders WHERE id = $1`, siteOrder).Scan(&text); err != nil {
		w.t.Fatal(err)
	}
	var e map[string]any
	if err := json.Unmarshal(text, &e); err != nil {
		w.t.Fatal(err)
	}
	var typed struct {
		Payload []byte `json:"payload"`
	}
	if err := json.Unmarshal(text, &typed); err != nil {
		w.t.Fatal(err)
	}
	more := bytes.Replace(typed.Payload, []byte(`"quantity":6`), []byte(`"quantity":600`), 1)
	if bytes.Equal(more, typed.Payload) {
		w.t.Fatalf("no quantity in %s", typed.Payload)
	}
	e["payload"] = more
	if !signatures {
		e["signatures"] = []any{}
	}
	out, err := json.Marshal(e)
	if err != nil {
		w.t.Fatal(err)
	}
	i.exec(`UPDATE orders SET envelope = $1 WHERE id = $2`, out, siteOrder)
}

// refused shows a token to the people's door.
func (w *writerSite) refused(t *testing.T, token string) {
	t.Helper()
	c, err := adminClient("https://"+w.door("people"), token, w.path("state", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.ListOrdersWithResponse(t.Context(), &adminapi.ListOrdersParams{})
	if err != nil || a.StatusCode() < 400 {
		t.Errorf("the inserted token: %v, %d %s", err, a.StatusCode(), a.Body)
	}
}

// stillRevoked holds the deleted revocation against every place that tells it.
func (w *writerSite) stillRevoked(t *testing.T) {
	t.Helper()
	birth := loadPair(t, w.path("devices", "W-REVOKED", "idevid.pem"), w.path("devices", "W-REVOKED", "idevid.key"))
	if got := w.outcome(&birth, 1, "GET", "https://"+w.door("device")+"/bootstrap/v1/whoami", nil); got != "403 device-revoked" && got != "403 device-unknown" {
		t.Errorf("the gate says %q", got)
	}
	// A new list is signed, and the serial number is on it.
	before, err := fetch("http://" + w.door("public") + "/crl/device-1/0.crl")
	if err != nil {
		t.Fatal(err)
	}
	a, err := w.api("bob").RevokeCertificateWithResponse(t.Context(), serialOf(readCert(t, w.path("devices", "W-LAST", "ldevid.pem"))), adminapi.RevokeRequest{Reason: "superseded"})
	if err != nil || a.JSON200 == nil {
		t.Fatal(err, string(a.Body))
	}
	old, err := x509.ParseRevocationList(before)
	if err != nil {
		t.Fatal(err)
	}
	var l *x509.RevocationList
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		after, err := fetch("http://" + w.door("public") + "/crl/device-1/0.crl")
		if err != nil {
			t.Fatal(err)
		}
		if l, err = x509.ParseRevocationList(after); err != nil {
			t.Fatal(err)
		}
		if l.Number.Cmp(old.Number) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Log("no new list was signed")
			break
		}
	}
	on := false
	for _, e := range l.RevokedCertificateEntries {
		on = on || e.SerialNumber.Cmp(w.revoked.SerialNumber) == 0
	}
	if !on {
		t.Errorf("list %d dropped the serial number", l.Number)
	}
	out, err := tool(t, nil, "openssl", "ocsp", "-issuer", w.path("pki", "issuing.pem"), "-url", "http://"+w.door("public")+"/ocsp/device-1", "-CAfile", w.path("pki", "root.pem"),
		"-verify_other", w.path("pki", "issuing.pem"), "-serial", "0x"+serialOf(w.revoked))
	if err != nil || strings.Contains(out, ": good") {
		t.Errorf("OCSP: %v %s", err, out)
	}
	serial, _ := ca.SerialFromInt(w.revoked.SerialNumber)
	if _, _, revoked := w.server.set.Revoked("device-1", serial); !revoked {
		t.Error("the set forgot it")
	}
}
