package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/api/adminapi"
	"hallmark/api/factoryapi"
	"hallmark/ca/tlog"
	"hallmark/ca/tlog/witness"
	"hallmark/internal/fault"
)

// TestLog_IsWitnessedPublishedAndProvenAndNamesWhatWasChanged covers acceptance 7
// of the log on one site: witnesses, static files, receipts, the audit of an
// order and its report; then every column of every leaf and certificate row is
// changed under the running service; then the database goes back (S34).
func TestLog_IsWitnessedPublishedAndProvenAndNamesWhatWasChanged_S32_S34(t *testing.T) {
	w := &logSite{site: newChangedSite(t, "software", "", anyName(20), func(s *site) {
		if err := os.WriteFile(s.path("elsewhere"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		s.configure("log:\n  publish: published\n  publish_every: 1s\n  checkpoint_files: [elsewhere]\n")
	})}
	for i := range 5 {
		w.serials = append(w.serials, w.issueAnswer(newUnit(t, fmt.Sprintf("SN-%d", i))).Serial)
	}
	w.must("cert", "revoke", w.serials[4], "--reason", "superseded")
	w.settle("published/checkpoint")
	w.proofs(t)
	w.halt()
	old := saveFiles(t, w.path("state"))

	// A witness joins: a contract manufacturer's, with a directory of its own.
	var init struct {
		Key string `json:"verifier_key"`
	}
	w.into(&init, "witness", "init", "--state", w.path("witness"), "--name", "witness.example/line-3")
	w.witness = init.Key
	name, _, key, err := loadWitness(w.path("witness"))
	if err != nil {
		t.Fatal(err)
	}
	look, err := witness.Open(witness.Config{Name: name, Key: key, Dir: w.path("witness"), Logs: []string{w.key}})
	if err != nil {
		t.Fatal(err)
	}
	defer look.Close()
	srv := httptest.NewServer(look.Handler())
	defer srv.Close()
	w.configure(fmt.Sprintf("  witnesses: [{url: %q, key: %q}]\n", srv.URL, w.witness))
	w.reload(t)
	w.again()
	w.issue(newUnit(t, "SN-5"))
	w.settle("published/checkpoint")
	t.Run("witnessed", w.witnessed)
	t.Run("receipts", w.receipts)
	t.Run("changed", w.changed)

	// The database and everything beside it went back; the witness knows better.
	w.halt()
	old.restore(t)
	os.RemoveAll(w.path("published"))
	if err := os.WriteFile(w.path("elsewhere"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	refused := func(what string) {
		t.Helper()
		err := w.serve(t.Context())
		if err == nil {
			t.Errorf("%s: the service runs", what)
			w.halt()
		} else if f := fault.From(err); f.Code != "tlog-behind" || !strings.Contains(f.Next, "close the log") {
			t.Errorf("%s: %v", what, err)
		}
		w.server = nil
	}
	refused("only the witness knows")
	if err := os.WriteFile(w.path("elsewhere"), look.Newest(w.origin).Note, 0o644); err != nil {
		t.Fatal(err)
	}
	srv.Close()
	refused("only the file elsewhere knows")
	os.Remove(w.path("elsewhere"))
	if err := w.serve(t.Context()); err == nil || fault.From(err).Code != "log-checkpoint-file" {
		t.Errorf("without the file elsewhere: %v", err)
	}
	w.server = nil
}

type logSite struct {
	*site
	serials     []string
	key, origin string // of the log
	witness     string // its verifier key
}

func (w *logSite) reload(t *testing.T) {
	t.Helper()
	cfg, err := loadConfig(w.path("hallmark.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	w.cfg = cfg
}

// must runs a command that has to end well.
func (w *logSite) must(args ...string) string {
	w.t.Helper()
	out, errOut, exit := w.cli(args...)
	if exit != exitOK {
		w.t.Fatalf("%s: exit %d: %s%s", strings.Join(args, " "), exit, out, errOut)
	}
	return out
}

func (w *logSite) into(v any, args ...string) {
	w.t.Helper()
	out := w.must(args...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		w.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// settle waits until everything that is recorded is published.
func (w *logSite) settle(file string) {
	w.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		var s adminapi.LogState
		w.into(&s, "log", "show")
		w.key, w.origin = s.VerifierKey, s.Origin
		b, err := os.ReadFile(w.path(file))
		if err == nil && s.Size == s.Head {
			if c, err := tlog.ParseCheckpoint(b, w.key); err == nil && c.Size == s.Size {
				return
			}
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("not published within a minute: %+v, %v", s, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// proofs: receipts, the audit and the report, and their offline checks.
func (w *logSite) proofs(t *testing.T) {
	var rep logReport
	w.into(&rep, "log", "verify", "--log-key", w.key)
	if !rep.Clean || rep.Leaves == 0 || rep.Certificates < 5 || !rep.Database {
		t.Errorf("verify: %+v", rep)
	}
	w.into(&rep, "log", "verify", "--log-key", w.key, "--tiles", w.path("published"), "--checkpoint", w.path("state", "checkpoint"))
	if !rep.Clean || rep.Older != 1 {
		t.Errorf("verify of the published files: %+v", rep)
	}
	receipt := w.path("receipt.json")
	w.must("log", "prove", w.serials[1], "--out", receipt)
	offline := func(args ...string) (string, int) {
		var out, errOut bytes.Buffer
		code := run(context.Background(), append([]string{"--json"}, args...), strings.NewReader(""), &out, &errOut)
		return out.String() + errOut.String(), code
	}
	if out, code := offline("log", "prove", "--receipt", receipt, "--log-key", w.key, "--checkpoint", w.path("published", "checkpoint")); code != exitOK || !strings.Contains(out, `"valid": true`) {
		t.Errorf("offline: %d %s", code, out)
	}
	good := must(os.ReadFile(receipt))
	for _, change := range [][2]string{{`"sn-1"`, `"sn-2"`}, {`"ORDER-1"`, `"ORDER-2"`}, {`"index": `, `"index": 1`}} {
		bad := bytes.Replace(good, []byte(change[0]), []byte(change[1]), 1)
		if bytes.Equal(bad, good) {
			t.Fatalf("%s is not in the receipt: %s", change[0], good)
		}
		if err := os.WriteFile(w.path("bad.json"), bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if out, code := offline("log", "prove", "--receipt", w.path("bad.json"), "--log-key", w.key); code != exitFault || !strings.Contains(out, "tlog-receipt") {
			t.Errorf("%v is taken: %d %s", change, code, out)
		}
	}

	var a orderAudit
	w.into(&a, "log", "audit", "--order", siteOrder, "--log-key", w.key)
	if !a.Clean || a.Units != 5 || a.Used != 5 || a.Revoked != 1 || len(a.Made) != 5 || len(a.Stations) != 1 || len(a.Days) == 0 || a.Made[4].Status != "revoked" {
		t.Errorf("audit: %+v", a)
	}
	report, approver := w.path("report.json"), w.path("approver.pem")
	w.must("order", "report", siteOrder, "--out", report)
	keys := must(w.cfg.approvers())
	der := must(x509.MarshalPKIXPublicKey(keys[0].Key))
	if err := os.WriteFile(approver, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	var checked struct {
		Report orderReport `json:"report"`
		Order  bool        `json:"order_verified"`
	}
	out, code := offline("order", "check-report", report, "--log-key", w.key, "--approver", approver)
	if err := json.Unmarshal([]byte(out), &checked); code != exitOK || err != nil || !checked.Order || checked.Report.Units != 5 || checked.Report.Revoked != 1 || checked.Report.Log.Root != a.Root {
		t.Errorf("report: %d %v %s", code, err, out)
	}
	var env adminapi.Envelope
	if err := json.Unmarshal(must(os.ReadFile(report)), &env); err != nil {
		t.Fatal(err)
	}
	env.Payload = bytes.Replace(env.Payload, []byte(`"units":5`), []byte(`"units":4`), 1)
	if err := os.WriteFile(report, must(json.Marshal(env)), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, code := offline("order", "check-report", report, "--log-key", w.key); code != exitFault || !strings.Contains(out, "order-report-invalid") {
		t.Errorf("a changed report is taken: %d %s", code, out)
	}
}

// witnessed: what is published carries the witness's signature, receipts too,
// and a copy without it is refused.
func (w *logSite) witnessed(t *testing.T) {
	trust := []string{"--log-key", w.key, "--witness", w.witness}
	var rep logReport
	w.into(&rep, append([]string{"log", "verify"}, trust...)...)
	if !rep.Clean || len(rep.Witnesses) != 1 {
		t.Errorf("verify: %+v", rep)
	}
	seen := w.path("seen.txt")
	w.must("witness", "show", "--state", w.path("witness"), "--out", seen)
	w.must(append([]string{"log", "prove", w.serials[0], "--checkpoint", seen}, trust...)...)
	w.must(append([]string{"log", "copy", "--from", w.path("published"), "--to", w.path("copy")}, trust...)...)
	w.must(append([]string{"log", "verify", "--offline", "--tiles", w.path("copy"), "--checkpoint", seen}, trust...)...)
	if out, errOut, exit := w.cli("log", "verify", "--log-key", w.key, "--witness", "other.example+00000000+x"); exit != exitFault || !strings.Contains(errOut, "tlog-cosigner") {
		t.Errorf("a key that is none: %d %s%s", exit, out, errOut)
	}
	if err := os.WriteFile(w.path("copy", "checkpoint"), must(os.ReadFile(w.path("state", "checkpoint"))), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, errOut, exit := w.cli(append([]string{"log", "verify", "--offline", "--tiles", w.path("copy")}, trust...)...); exit != exitFault || !strings.Contains(errOut, "tlog-quorum") {
		t.Errorf("a checkpoint that no witness signed: %d %s%s", exit, out, errOut)
	}
}

// receipts: a station gets those of what it asked for, witnessed, and of nothing
// else.
func (w *logSite) receipts(t *testing.T) {
	cert := w.stationPair()
	ask := func(serials ...string) (int, factoryapi.ReceiptAnswer) {
		t.Helper()
		r, err := call(t.Context(), w.client(&cert, 1), "POST", "https://"+w.door("factory")+"/factory/v1/receipts", factoryapi.ReceiptRequest{Serials: serials})
		if err != nil {
			t.Fatal(err)
		}
		var a factoryapi.ReceiptAnswer
		json.Unmarshal(r.body, &a)
		return r.status, a
	}
	doors := must(x509.ParseCertificate(w.server.tls.Load().cert.Certificate[0])) // the service's own
	status, a := ask(w.serials[0], strings.Repeat("4", 40), w.serials[1], serialOf(doors))
	if status != 200 || a.LogKey != w.key || len(a.Receipts) != 2 || a.Receipts[1].Serial != w.serials[1] {
		t.Fatalf("%d, key %s, %d receipts", status, a.LogKey, len(a.Receipts))
	}
	for _, r := range a.Receipts {
		var v tlog.Receipt
		if err := json.Unmarshal(r.Receipt, &v); err != nil {
			t.Fatal(err)
		}
		if _, err := tlog.VerifyReceipt(&v, w.key); err != nil {
			t.Error(err)
		}
		if _, _, err := (tlog.Policy{Log: w.key, Witnesses: []string{w.witness}, Quorum: 1}).Open([]byte(v.Checkpoint)); err != nil {
			t.Error(err)
		}
	}
	for _, serials := range [][]string{{}, slices.Repeat([]string{w.serials[0]}, 101), {"xyz"}} {
		if status, _ := ask(serials...); status != 400 {
			t.Errorf("%d serial numbers: %d", len(serials), status)
		}
	}
}

// changed deletes, swaps and alters rows while the service runs; `log verify`
// names the row, or fsck where the log has not what a column says.
func (w *logSite) changed(t *testing.T) {
	i := intrude(t, w.path("state", "hallmark.db"))
	i.db.SetMaxOpenConns(1)
	_, columns := i.tables()
	i.execAny(`ATTACH ':memory:' AS safe`)
	byLog, byFsck := 0, 0
	try := func(table, what string, change func(cols []column) []any) {
		t.Helper()
		i.execAny(`CREATE TABLE safe.kept AS SELECT * FROM main.` + table)
		row := change(columns[table])
		out, errOut, exit := w.cli("log", "verify", "--log-key", w.key, "--tiles", w.path("published"))
		var rep logReport
		json.Unmarshal([]byte(out), &rep)
		var found []string
		if rep.AuditReport != nil {
			for _, f := range rep.Findings {
				found = append(found, f.String())
			}
		}
		switch {
		case exit == exitFault && len(found) > 0 && rowNamed(found, table, row):
			byLog++
		case exit == exitFault && len(found) == 0:
			t.Errorf("%s %s: %s%s", table, what, out, errOut)
		default:
			if all := w.findings(); !rowNamed(all, table, row) {
				t.Errorf("%s %s: neither names it: %v; %v", table, what, found, all)
			}
			byFsck++
		}
		i.execAny(`DELETE FROM main.` + table)
		i.execAny(`INSERT INTO main.` + table + ` SELECT * FROM safe.kept`)
		i.execAny(`DROP TABLE safe.kept`)
	}
	for _, table := range []string{"log_leaves", "certificates"} {
		try(table, "delete", func(cols []column) []any {
			r := i.pick(table, cols, 1)[0]
			i.delete(table, cols, r)
			return r
		})
		try(table, "swap", func(cols []column) []any {
			r := i.pick(table, cols, 2)
			i.swap(table, cols, r[0], r[1])
			return append(r[0], r[1]...)
		})
		for at, c := range columns[table] {
			try(table, c.name, func(cols []column) []any {
				r := i.pick(table, cols, 1)[0]
				i.alter(table, cols, r, at)
				return r
			})
		}
	}
	t.Logf("named by log verify: %d, by fsck alone: %d", byLog, byFsck)
	if byLog < byFsck {
		t.Error("log verify names less than half")
	}
	w.must("log", "verify", "--log-key", w.key)
	w.clean()
}

// execAny is exec for statements that may change no row.
func (i *intruder) execAny(query string) {
	i.t.Helper()
	if _, err := i.db.Exec(query); err != nil {
		i.t.Fatalf("%s: %v", query, err)
	}
}
